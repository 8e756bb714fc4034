"""SPF in front of a real Postfix, with a real name server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import SmtpClient, queue_id
from tests.rigs.dns_rig import NameServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.gate import Gate

ZONE = """
good.example IN TXT "v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 -all"
bad.example  IN TXT "v=spf1 -all exp=why.bad.example"
why.bad.example IN TXT "100%% see https://bad.example/%{i}"
"""


@pytest.fixture(scope="module")
def server() -> Iterator[NameServer]:
    with NameServer({".": ZONE}) as running:
        yield running


def use(gate: Gate, server: NameServer, options: str = "") -> None:
    gate.use(f'[dns]\nnameservers = ["{server.address}"]\n[[plugin]]\nname = "spf"\n{options}')


def client_from(gate: Gate, address: str) -> SmtpClient:
    client = gate.client()
    assert client.command(f"XCLIENT NAME=[UNAVAILABLE] ADDR={address}".encode()).startswith(b"220")
    client.command(b"EHLO client.example.com")
    return client


def test_a_client_that_the_domain_does_not_permit_is_refused_in_its_words(gate: Gate, server: NameServer) -> None:
    use(gate, server)
    with client_from(gate, "192.0.2.1") as client:
        (reply,) = client.transaction(b"rcpt@example.org", sender=b"a@bad.example")
        assert reply == (
            b"550-5.7.23 SPF check of MAIL FROM: fail: bad.example does not permit 192.0.2.1 to send its mail\r\n"
            b"550-5.7.23 The domain bad.example explains:\r\n"
            b"550 5.7.23 100% see https://bad.example/192.0.2.1\r\n"
        )
        client.command(b"RSET")
        queue_id(client.message(sender=b"a@good.example"))
    with client_from(gate, "IPV6:2001:db8::1") as sixth:
        queue_id(sixth.message(sender=b"a@good.example"))
    with client_from(gate, "198.51.100.1") as other:
        (reply,) = other.transaction(b"rcpt@example.org", sender=b"a@good.example")
        assert reply.startswith(b"550 5.7.23 SPF check of MAIL FROM: fail: good.example does not permit 198.51.100.1")


def test_the_null_sender_is_judged_by_helo(gate: Gate, server: NameServer) -> None:
    use(gate, server)
    with client_from(gate, "192.0.2.1") as client:
        queue_id(client.message(sender=b""))
    with client_from(gate, "192.0.2.1") as client:
        client.command(b"EHLO bad.example")
        (reply,) = client.transaction(b"rcpt@example.org", sender=b"")
        assert reply.startswith(b"550-5.7.23 SPF check of MAIL FROM: fail: bad.example")


def test_a_name_server_that_has_died_is_an_answer_for_now(gate: Gate) -> None:
    with NameServer({".": ZONE}) as dying:
        use(gate, dying)
        with client_from(gate, "192.0.2.1") as client:
            queue_id(client.message(sender=b"a@good.example"))
    with client_from(gate, "192.0.2.1") as client:
        (reply,) = client.transaction(b"rcpt@example.org", sender=b"a@bad.example")
    assert reply.startswith(b"451 4.7.24 SPF check of MAIL FROM: temperror: ")
