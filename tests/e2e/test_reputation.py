"""helo, fcrdns and karma behind a real Postfix's proxy filter alone: what a client hears, and what is remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import SmtpClient, queue_id, wait_until
from tests.rigs.dns_rig import BlockList, NameServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.gate import Gate

ZONE = """
mail        IN A 192.0.2.1
other       IN A 198.51.100.1
"""
REVERSE = """
1           IN PTR mail.zone.example.
2           IN PTR other.zone.example.
"""


@pytest.fixture(scope="module")
def server() -> Iterator[NameServer]:
    with NameServer({"zone.example": ZONE, "2.0.192.in-addr.arpa": REVERSE}) as running:
        yield running


def client_from(gate: Gate, address: str, helo: bytes = b"client.example.com") -> SmtpClient:
    client = gate.client()
    assert client.command(f"XCLIENT NAME=[UNAVAILABLE] ADDR={address}".encode()).startswith(b"220")
    client.command(b"EHLO " + helo)
    return client


def rcpt(gate: Gate, address: str, helo: bytes = b"client.example.com") -> bytes:
    with client_from(gate, address, helo) as client:
        (reply,) = client.transaction(b"rcpt@example.org")
    return reply


@pytest.mark.parametrize("at", ["rcpt", "helo"])
def test_a_helo_name_that_lies_is_refused_at_the_recipient(gate: Gate, at: str) -> None:
    gate.use(f'[[plugin]]\nname = "helo"\nat = "{at}"\nown_names = ["mx.example.org"]\n')
    assert rcpt(gate, "192.0.2.1", b"localhost") == (
        b"550 5.7.1 HELO name localhost refused: you are not localhost\r\n"
    )
    said = b"550 5.7.1 HELO name [198.51.100.9] refused: not your address\r\n"
    assert rcpt(gate, "192.0.2.1", b"[198.51.100.9]") == said
    assert rcpt(gate, "192.0.2.1", b"MX.example.org").startswith(b"550 5.7.1 ")
    assert rcpt(gate, "IPV6:2001:db8::1", b"[IPv6:2001:db8::1]").startswith(b"250 ")
    with client_from(gate, "192.0.2.1", b"localhost") as client:
        assert client.transaction(b"rcpt@example.org")[0].startswith(b"550 ")
        client.command(b"EHLO mail.example.com")
        queue_id(client.message())
    with client_from(gate, "127.0.0.1", b"localhost") as client:
        queue_id(client.message())


def test_a_helo_name_of_any_bytes_is_survived(gate: Gate, server: NameServer) -> None:
    gate.use(f'[dns]\nnameservers = ["{server.address}"]\n[[plugin]]\nname = "helo"\npolicy = "strict"\n')
    for helo in ("bücher.example".encode(), b"%s%n", b"[" + b"x" * 400, b"a" * 300, b"\x01"):
        assert rcpt(gate, "192.0.2.1", helo).startswith(b"550 5.7.1 HELO name "), helo
    # With smtputf8_enable, its default, Postfix refuses this greeting itself (smtpd_proto), and then knows none.
    assert rcpt(gate, "192.0.2.1", b"\xff\xfe").startswith(b"250 ")


def test_a_client_without_a_name_of_its_own_is_deferred(gate: Gate, server: NameServer) -> None:
    gate.use(f'[dns]\nnameservers = ["{server.address}"]\n[[plugin]]\nname = "fcrdns"\n')
    assert rcpt(gate, "192.0.2.1").startswith(b"250 ")
    assert rcpt(gate, "192.0.2.2") == (b"450 4.7.25 none of the names of your address 192.0.2.2 leads back to it\r\n")
    assert rcpt(gate, "192.0.2.3") == b"450 4.7.25 your address 192.0.2.3 has no name\r\n"
    assert rcpt(gate, "10.1.2.3").startswith(b"250 ")


def test_at_connect_without_the_edge_each_recipient_is_refused(gate: Gate, server: NameServer) -> None:
    gate.use(f'[dns]\nnameservers = ["{server.address}"]\n[[plugin]]\nname = "fcrdns"\nat = "connect"\n')
    with client_from(gate, "192.0.2.3") as client:
        assert (
            client.transaction(b"a@example.org", b"b@example.org")
            == [b"450 4.7.25 your address 192.0.2.3 has no name\r\n"] * 2
        )
    with BlockList({"bl.example": ":127.0.0.2:Spam source\n192.0.2.1\n"}) as lists:
        gate.use(
            f'[dns]\nnameservers = ["{lists.address}"]\n[[plugin]]\nname = "whitelist"\nfile = "listed"\n'
            '[[plugin]]\nname = "dnsbl"\nzones = ["bl.example"]\nat = "connect"\n',
            files={"listed": "host 192.0.2.9\nhelo friend.example.com\n"},
        )
        said = b"554 5.7.1 Service unavailable; client [192.0.2.1] blocked using bl.example; Spam source\r\n"
        # The list is asked before HELO is looked at: what is whitelisted later takes nothing back.
        assert rcpt(gate, "192.0.2.1", b"friend.example.com") == said
        assert rcpt(gate, "192.0.2.2").startswith(b"250 ")
        gate.use(
            f'[dns]\nnameservers = ["{lists.address}"]\n[[plugin]]\nname = "whitelist"\nfile = "listed"\n'
            '[[plugin]]\nname = "dnsbl"\nzones = ["bl.example"]\nat = "connect"\n',
            files={"listed": "192.0.2.0/28\n"},
        )
        assert rcpt(gate, "192.0.2.1").startswith(b"250 ")


def test_a_client_that_brings_what_is_refused_is_kept_away(gate: Gate) -> None:
    gate.use(
        '[[plugin]]\nname = "karma"\n[[plugin]]\nname = "badrcptto"\nfile = "bad"\n',
        files={"bad": "bad@example.org\n"},
        proxy={"session_idle": "1s"},
    )
    with client_from(gate, "192.0.2.1") as client:
        assert [reply[:3] for reply in client.transaction(*[b"bad@example.org"] * 3)] == [b"550"] * 3
    with client_from(gate, "192.0.2.2") as client:
        queue_id(client.message())
    seen: list[bytes] = []

    def is_penalised() -> bool:
        seen.append(rcpt(gate, "192.0.2.1"))
        return seen[-1].startswith(b"421 ")

    # Without the edge, the session ends when nothing was heard of it for a second.
    wait_until(is_penalised)
    assert seen[-1] == b"421 4.7.1 too much of your mail was refused lately; try again in 24 h\r\n"
    assert rcpt(gate, "192.0.2.2").startswith(b"250 ")
