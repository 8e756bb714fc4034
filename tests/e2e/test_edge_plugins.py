"""The plugins that need the edge door, with a real Postfix: what the client hears, and when."""

from __future__ import annotations

import subprocess
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.gate import Gate
from tests.e2e.postfix_rig import SmtpClient, queue_id, wait_until
from tests.e2e.sasl_rig import auth_plain
from tests.rigs.dns_rig import BlockList, NameServer

from gatepost.ops.private_daemon import PrivateDaemon
from gatepost.ops.private_postfix import free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import StartPostfix
    from tests.e2e.sasl_rig import Accounts

EDGE = {"edge": True}

TRY_LATER = b"421 mx.gatepost.test Service unavailable - try again later\r\n"
"""In place of the banner Postfix has words of its own (`smtpd_proto`); ours are in the log."""


@pytest.fixture(scope="module")
def edge(start_postfix: StartPostfix, postfix_directory: Path, accounts: Accounts) -> Iterator[Gate]:
    accounts.add("ada", "secret")
    postfix = start_postfix()
    directory = Path(tempfile.mkdtemp(prefix="gp-", dir=postfix_directory))
    directory.chmod(0o755)
    daemon = PrivateDaemon(directory)
    daemon.configure(more={"proxy": {"front_timeout": "20s"}, "milter": EDGE})
    daemon.apply(postfix.config_dir, postfix.front_service)
    accounts.enable(postfix)
    postfix.reload()
    with daemon:
        yield Gate(postfix, daemon, 0)
    assert "bug in" not in daemon.log(), daemon.log()


def visit(
    edge: Gate, address: str = "", helo: bytes = b"client.example.com", *, called: str = "127.0.0.1"
) -> SmtpClient:
    """Connect and greet, as a client with that address if one is given, that has come to the address `called`."""
    client = SmtpClient(edge.postfix.front_port, helo=None, timeout_s=60)
    if address:
        facts = f"NAME=[UNAVAILABLE] ADDR={address} DESTADDR={called} DESTPORT=25"
        client.greeting = client.command(f"XCLIENT {facts}".encode())
    if client.greeting.startswith(b"220 "):
        client.command(b"EHLO " + helo)
    return client


def test_a_client_that_talks_nonsense_is_hung_up_on(edge: Gate) -> None:
    edge.use('[[plugin]]\nname = "unrecognized"\nlimit = 2\n', milter=EDGE)
    with visit(edge) as client:
        assert [client.command(verb)[:3] for verb in (b"BLAH", b"HALB x y")] == [b"500", b"500"]
        assert client.command(b"GRMPF").startswith(b"521 5.5.2 too many unrecognized commands")
        assert client.hung_up()
    with visit(edge) as client:
        assert client.command(b"BLAH").startswith(b"500 ")
        queue_id(client.message())


def test_a_client_that_guesses_recipients_is_hung_up_on_after_the_fifth(edge: Gate) -> None:
    edge.use('[[plugin]]\nname = "count_denies"\n', milter=EDGE)
    with visit(edge, "192.0.2.1") as client:
        for number in range(5):
            assert client.command(b"MAIL FROM:<a@example.com>").startswith(b"250 "), number
            assert client.command(b"RCPT TO:<x@nowhere.invalid>").startswith(b"554 5.7.1 "), number
            client.command(b"RSET")
        assert client.command(b"MAIL FROM:<a@example.com>") == b"421 4.7.1 too many refused commands\r\n"
        assert client.hung_up()


def test_in_one_message_the_next_recipient_that_is_known_hangs_up(edge: Gate) -> None:
    edge.use('[[plugin]]\nname = "count_denies"\n', milter=EDGE)
    with visit(edge, "192.0.2.1") as client:
        replies = client.transaction(*[b"x@nowhere.invalid"] * 10, b"rcpt@example.org")
        assert [reply[:3] for reply in replies] == [b"554"] * 10 + [b"421"]
        assert client.hung_up()


def test_a_list_server_with_subscribers_who_have_left_loses_nobody_else(
    edge: Gate, start_postfix: StartPostfix
) -> None:
    edge.use('[[plugin]]\nname = "count_denies"\n', milter=EDGE)
    to_us = f"smtp:[127.0.0.1]:{edge.postfix.front_port}"
    lists = start_postfix(
        main={
            "relay_domains": "example.org, absent.invalid",
            # What bounces stays: nothing listens on port 1.
            "transport_maps": "inline:{"
            f"{{example.org={to_us}}}, {{absent.invalid={to_us}}}, {{example.com=smtp:[127.0.0.1]:1}}}}",
            "minimal_backoff_time": "1s",
            "queue_run_delay": "1s",
        }
    )
    with SmtpClient(lists.front_port) as client:
        # qmgr(8) sorts recipients by domain: these come first.
        gone = [f"gone{number}@absent.invalid".encode() for number in range(6)]
        client.transaction(*gone, b"stays@example.org", sender=b"list@example.com")
        queue_id(client.content(b"Subject: list\r\n\r\nx\r\n.\r\n"))

    def has_come() -> bool:
        subprocess.run(["/usr/sbin/postqueue", "-c", str(lists.config_dir), "-f"], check=True, timeout=30)
        return any("stays@example.org" in entry.recipients for entry in edge.postfix.queue())

    wait_until(has_come, 60)
    lists.wait_for_log("421 4.7.1 too many refused commands")


def test_a_client_has_so_many_connections_and_no_more(edge: Gate) -> None:
    edge.use(
        '[[plugin]]\nname = "hosts_allow"\nfile = "hosts"\nmax_connections = 2\n', files={"hosts": ""}, milter=EDGE
    )
    with visit(edge), visit(edge) as second:
        with visit(edge) as third:
            assert third.greeting == TRY_LATER
            assert third.hung_up()
        queue_id(second.message())

    def is_let_in() -> bool:
        with visit(edge) as client:
            return client.greeting.startswith(b"220 ")

    # Who has left makes room as soon as Postfix has told us.
    wait_until(is_let_in)


def test_of_clients_that_come_all_at_once_each_has_its_number(edge: Gate) -> None:
    # Before XCLIENT all of them come from 127.0.0.1.
    edge.use(
        '[[plugin]]\nname = "client_options"\nfile = "clients"\n'
        '[[plugin]]\nname = "hosts_allow"\nfile = "hosts"\nmax_connections = 5\n',
        files={"hosts": "", "clients": "127.0.0.1: hosts_allow.max_connections=0\n"},
        milter=EDGE,
    )
    addresses = [f"192.0.2.{number}" for number in (1, 2, 3)] + ["IPV6:2001:db8::1"]

    def come(number: int) -> tuple[int, SmtpClient]:
        return number % 4, visit(edge, addresses[number % 4])

    with ThreadPoolExecutor(48) as threads:
        clients = list(threads.map(come, range(48)))
    let_in = Counter(number for number, client in clients if client.greeting.startswith(b"220 "))
    for _, client in clients:
        client.close()
    assert let_in == {0: 5, 1: 5, 2: 5, 3: 5}


def test_a_greeting_that_lies_is_refused_at_mail_and_a_better_one_is_not(edge: Gate) -> None:
    edge.use('[[plugin]]\nname = "helo"\n', milter=EDGE)
    with visit(edge, "192.0.2.1", b"localhost") as client:
        said = b"550 5.7.1 HELO name localhost refused: you are not localhost\r\n"
        assert client.command(b"MAIL FROM:<a@example.com>") == said
        client.command(b"EHLO client.example.com")
        queue_id(client.message())
    with visit(edge, "192.0.2.1", b"[203.0.113.25]", called="203.0.113.25") as client:
        # The address that the client came to, which only this server may say.
        assert client.command(b"MAIL FROM:<a@example.com>").endswith(b"refused: that is this server\r\n")
    with visit(edge, "192.0.2.1", b"[192.168.1.2]") as client:
        # It may stand behind NAT.
        queue_id(client.message())


@pytest.mark.parametrize("at", ["helo", "rcpt"])
def test_who_logs_in_may_greet_as_mail_programs_do(edge: Gate, at: str) -> None:
    edge.use(f'[[plugin]]\nname = "helo"\nat = "{at}"\nskip_networks = []\n', milter=EDGE)
    with visit(edge, helo=b"[127.0.0.1]") as client:
        assert client.command(auth_plain("ada", "secret")).startswith(b"235 ")
        queue_id(client.message())
    with visit(edge, helo=b"[127.0.0.1]") as client:
        assert client.transaction(b"rcpt@example.org")[0][:1] == b"5"


def test_greetings_of_who_logs_in_then_are_no_refusals(edge: Gate) -> None:
    edge.use(
        '[[plugin]]\nname = "helo"\nskip_networks = []\n[[plugin]]\nname = "count_denies"\nlimit = 1\n'
        '[[plugin]]\nname = "unrecognized"\nlimit = 0\naction = "deny"\n',
        milter=EDGE,
    )
    with visit(edge, helo=b"[127.0.0.1]") as client:
        # As after STARTTLS.
        client.command(b"EHLO [127.0.0.1]")
        assert client.command(auth_plain("ada", "secret")).startswith(b"235 ")
        queue_id(client.message())
        assert client.command(b"BLAH").startswith(b"500 5.5.2 too many unrecognized commands")


@pytest.mark.parametrize(("address", "visits"), [("192.0.2.1", 1), ("192.0.2.101", 3)])
def test_recipients_that_postfix_refused_are_strikes_and_the_client_is_kept_away(
    edge: Gate, address: str, visits: int
) -> None:
    edge.use('[[plugin]]\nname = "karma"\nat = "connect"\n', milter=EDGE)
    for _ in range(visits):
        with visit(edge, address) as client:
            refused = client.transaction(*[b"x@nowhere.invalid"] * (3 // visits))
            assert {reply[:1] for reply in refused} == {b"5"}, refused
            client.command(b"QUIT")

    def greeting() -> bytes:
        with visit(edge, address) as client:
            return client.greeting

    wait_until(lambda: greeting().startswith(b"421 "))
    assert greeting() == TRY_LATER
    with visit(edge, "192.0.2.2") as client:
        queue_id(client.message())


def test_a_client_of_this_host_is_never_kept_away(edge: Gate) -> None:
    edge.use('[[plugin]]\nname = "karma"\nat = "connect"\nstrikes = 1\n', milter=EDGE)
    for _ in range(3):
        with visit(edge) as client:
            assert client.transaction(*[b"x@nowhere.invalid"] * 3)[0].startswith(b"5")
    with visit(edge, "192.0.2.3") as client:
        client.transaction(b"x@nowhere.invalid")

    def is_counted() -> bool:
        with visit(edge, "192.0.2.3") as client:
            return client.greeting == TRY_LATER

    wait_until(is_counted)
    with visit(edge) as client:
        queue_id(client.message())


def test_a_client_without_a_name_is_refused_at_connect(edge: Gate) -> None:
    reverse = (
        "1 IN PTR mail.zone.example.\n2 IN PTR other.zone.example.\n3 IN CNAME 3.sub\n3.sub IN PTR mail.zone.example.\n"
    )
    zones = {"zone.example": "mail IN A 192.0.2.1\nmail IN A 192.0.2.3\n", "2.0.192.in-addr.arpa": reverse}
    plugin = '[[plugin]]\nname = "fcrdns"\nat = "connect"\nmissing = "deny"\n'
    with NameServer(zones) as server:
        edge.use(f'[dns]\nnameservers = ["{server.address}"]\n{plugin}', milter=EDGE)
        for address in ("192.0.2.1", "192.0.2.3"):
            with visit(edge, address) as client:
                queue_id(client.message())
        with visit(edge, "192.0.2.2") as client:
            assert client.command(b"MAIL FROM:<a@example.com>") == (
                b"450 4.7.25 none of the names of your address 192.0.2.2 leads back to it\r\n"
            )
        with visit(edge, "192.0.2.9") as client:
            assert client.greeting == b"554 mx.gatepost.test ESMTP not accepting connections\r\n"


@pytest.mark.parametrize(("policy", "code"), [("defer", b"451 4.3.0"), ("pass", b"250 ")])
def test_while_dns_is_down_the_policy_decides_at_connect(edge: Gate, policy: str, code: bytes) -> None:
    edge.use(
        f'[dns]\nnameservers = ["127.0.0.1:{free_loopback_port()}"]\ntimeout = "1s"\n'
        f'[[plugin]]\nname = "fcrdns"\nat = "connect"\non_unavailable = "{policy}"\n',
        milter=EDGE,
    )
    with visit(edge, "192.0.2.1") as client:
        assert client.command(b"MAIL FROM:<a@example.com>").startswith(code)


def test_a_listed_client_is_refused_before_it_has_said_anything(edge: Gate) -> None:
    with BlockList({"bl.example": ":127.0.0.2:Spam source\n192.0.2.1\n"}) as lists:
        dns = f'[dns]\nnameservers = ["{lists.address}"]\n'
        edge.use(dns + '[[plugin]]\nname = "dnsbl"\nzones = ["bl.example"]\nat = "connect"\n', milter=EDGE)
        with visit(edge, "192.0.2.1") as client:
            assert client.greeting == b"554 mx.gatepost.test ESMTP not accepting connections\r\n"
            client.command(b"EHLO client.example.com")
            assert client.command(b"MAIL FROM:<a@example.com>") == (
                b"554 5.7.1 Service unavailable; client [192.0.2.1] blocked using bl.example; Spam source\r\n"
            )
        with visit(edge, "192.0.2.2") as client:
            queue_id(client.message())
