"""The plugins that need the edge door, with a real Postfix: what the client hears, and when."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.dns_rig import BlockList
from tests.e2e.gate import Gate
from tests.e2e.postfix_rig import SmtpClient, queue_id, wait_until
from tests.e2e.sasl_rig import auth_plain

from gatepost.ops.private_daemon import PrivateDaemon

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


def visit(edge: Gate, address: str = "", helo: bytes = b"client.example.com") -> SmtpClient:
    """Connect and greet, as a client with that address if one is given."""
    client = SmtpClient(edge.postfix.front_port, helo=None)
    if address:
        client.greeting = client.command(f"XCLIENT NAME=[UNAVAILABLE] ADDR={address}".encode())
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


def test_a_greeting_that_lies_is_refused_at_mail_and_a_better_one_is_not(edge: Gate) -> None:
    edge.use('[[plugin]]\nname = "helo"\n', milter=EDGE)
    with visit(edge, "192.0.2.1", b"localhost") as client:
        said = b"550 5.7.1 HELO name localhost refused: you are not localhost\r\n"
        assert client.command(b"MAIL FROM:<a@example.com>") == said
        client.command(b"EHLO client.example.com")
        queue_id(client.message())
    with visit(edge, "192.0.2.1", b"[127.0.0.1]") as client:
        # The address that the client came to, which only this server may say.
        assert client.command(b"MAIL FROM:<a@example.com>").endswith(b"refused: that is this server\r\n")


@pytest.mark.parametrize("at", ["helo", "rcpt"])
def test_who_logs_in_may_greet_as_mail_programs_do(edge: Gate, at: str) -> None:
    edge.use(f'[[plugin]]\nname = "helo"\nat = "{at}"\nskip_networks = []\n', milter=EDGE)
    with visit(edge, helo=b"[192.168.1.2]") as client:
        assert client.command(auth_plain("ada", "secret")).startswith(b"235 ")
        queue_id(client.message())
    with visit(edge, helo=b"[192.168.1.2]") as client:
        assert client.transaction(b"rcpt@example.org")[0][:1] == b"5"


def test_recipients_that_postfix_refused_are_strikes_and_the_client_is_kept_away(edge: Gate) -> None:
    edge.use('[[plugin]]\nname = "karma"\nat = "connect"\n', milter=EDGE)
    with visit(edge, "192.0.2.1") as client:
        refused = client.transaction(*[b"x@nowhere.invalid"] * 3)
        assert [reply[:1] for reply in refused] == [b"5"] * 3, refused
        client.command(b"QUIT")

    def greeting() -> bytes:
        with visit(edge, "192.0.2.1") as client:
            return client.greeting

    wait_until(lambda: greeting().startswith(b"421 "))
    assert greeting() == TRY_LATER
    with visit(edge, "192.0.2.2") as client:
        queue_id(client.message())


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
