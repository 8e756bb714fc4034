"""DNS lists in front of a real Postfix: the client hears of its listing at RCPT, and nobody gets in by a dead list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import SmtpClient, queue_id
from tests.rigs.dns_rig import BlockList, NameServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.gate import Gate

ZONES = {
    "bl.example": ":127.0.0.2:Spam source, see https://bl.example/$\n127.0.0.1\n192.0.2.1\n"
    "192.0.2.4 :127.0.0.4:Dynamic\n",
    "v6.example:ip6trie": ":127.0.0.2:Spam of the sixth kind\n2001:db8:bad::/48\n",
    "dbl.example:dnset": ":127.0.1.2:Domain of a spammer\n.spam.example\n",
}


@pytest.fixture(scope="module")
def lists() -> Iterator[BlockList]:
    with BlockList(ZONES) as running:
        yield running


def use(gate: Gate, server: BlockList | NameServer, plugins: str) -> None:
    """Run with these `[[plugin]]` tables and this name server."""
    gate.use(f'[dns]\nnameservers = ["{server.address}"]\n{plugins}')


def client_from(gate: Gate, address: str) -> SmtpClient:
    client = gate.client()
    assert client.command(f"XCLIENT NAME=[UNAVAILABLE] ADDR={address}".encode()).startswith(b"220")
    client.command(b"EHLO client.example.com")
    return client


def test_a_listed_client_is_refused_at_rcpt_and_others_are_not(gate: Gate, lists: BlockList) -> None:
    use(gate, lists, '[[plugin]]\nname = "dnsbl"\nzones = ["bl.example", "v6.example"]\n')
    with gate.client() as loopback:
        (reply,) = loopback.transaction(b"rcpt@example.org")
    assert reply == (
        b"554 5.7.1 Service unavailable; client [127.0.0.1] blocked using bl.example; "
        b"Spam source, see https://bl.example/127.0.0.1\r\n"
    )
    with client_from(gate, "IPV6:2001:db8:bad::1") as sixth:
        (reply,) = sixth.transaction(b"rcpt@example.org")
    assert reply.endswith(b"client [2001:db8:bad::1] blocked using v6.example; Spam of the sixth kind\r\n")
    assert gate.queue() == []
    with client_from(gate, "192.0.2.3") as stranger:
        queue_id(stranger.message())


def test_tables_of_zones_say_which_answers_mean_what(gate: Gate, lists: BlockList) -> None:
    use(
        gate,
        lists,
        """
        [[plugin]]
        name = "dnsbl"

        [[plugin.zones]]
        zone = "bl.example"
        codes = ["127.0.0.0&4"]
        action = "defer"

        [[plugin.zones]]
        zone = "bl.example"
        codes = ["127.0.0.2"]
        action = "deny_disconnect"
        """,
    )
    with client_from(gate, "192.0.2.4") as dynamic:
        (reply,) = dynamic.transaction(b"rcpt@example.org")
        assert reply == b"450 4.7.1 Service unavailable; client [192.0.2.4] blocked using bl.example; Dynamic\r\n"
    with client_from(gate, "192.0.2.1") as spammer:
        (reply,) = spammer.transaction(b"rcpt@example.org")
        assert reply.startswith(b"521 5.7.1 Service unavailable; client [192.0.2.1]")
        assert spammer.hung_up()


def test_a_list_that_has_died_is_an_answer_for_now(gate: Gate) -> None:
    with BlockList(ZONES) as dying:
        use(gate, dying, '[[plugin]]\nname = "dnsbl"\nzones = ["bl.example"]\n')
        with client_from(gate, "192.0.2.3") as stranger:
            queue_id(stranger.message())
    with client_from(gate, "192.0.2.5") as stranger:
        (reply,) = stranger.transaction(b"rcpt@example.org")
    assert reply.startswith(b"451 4.3.0 ")


def test_sender_domains_are_looked_up(gate: Gate, lists: BlockList) -> None:
    use(gate, lists, '[[plugin]]\nname = "rhsbl"\nzones = ["dbl.example"]\n')
    with gate.client() as client:
        (reply,) = client.transaction(b"rcpt@example.org", sender=b"a@mail.spam.example")
        assert reply.startswith(b"554 5.7.1 Service unavailable; sender domain [mail.spam.example] blocked using dbl")
        client.command(b"RSET")
        queue_id(client.message())


def test_sender_domains_that_cannot_get_mail_are_refused(gate: Gate) -> None:
    zone = "example.com IN MX 10 mail.example.com.\nmail.example.com IN A 192.0.2.25\nnull.example.com IN MX 0 .\n"
    with NameServer({".": zone}) as server:
        use(gate, server, '[[plugin]]\nname = "resolvable_fromhost"\n')
        with gate.client() as client:
            queue_id(client.message())
            for sender, start in (
                (b"a@nowhere.example.com", b"450 4.1.8 sender domain nowhere.example.com does not exist"),
                (b"a@null.example.com", b"550 5.7.27 sender domain null.example.com does not accept mail"),
            ):
                (reply,) = client.transaction(b"rcpt@example.org", sender=sender)
                assert reply.startswith(start)
                client.command(b"RSET")
            queue_id(client.message(sender=b""))


def test_a_wrong_code_is_told_with_its_line(gate: Gate) -> None:
    gate.daemon.configure('[[plugin]]\nname = "dnsbl"\nzones = [{ zone = "bl.example", codes = ["10.0.0.2"] }]\n')
    line = gate.daemon.config_file.read_text().split("\n").index('name = "dnsbl"') + 2
    told = gate.daemon.run("check", "--config", str(gate.daemon.config_file))
    assert told.returncode == 78
    assert f"gatepost.toml:{line}: dnsbl.zones.0.codes.0: '10.0.0.2' is no return code" in told.stderr + told.stdout
