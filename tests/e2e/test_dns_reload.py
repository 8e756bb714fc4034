"""[dns] in the running daemon: plugins ask its name servers, and a reload brings others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.rigs.dns_rig import NameServer

from gatepost.ops.private_postfix import free_loopback_port

if TYPE_CHECKING:
    from tests.e2e.gate import Gate

HOOKS = {
    "listed": """
    class Listed(Plugin):
        async def rcpt(self, transaction, recipient):
            found = await self.dns.txt(f"{recipient.address.local}.zone.example")
            if found:
                return Deny(found[0].decode())
    """
}


def settings(nameserver: str) -> str:
    return f'[dns]\nnameservers = ["{nameserver}"]\n[[plugin]]\nname = "listed"\n'


def test_a_reload_brings_other_name_servers_to_clients_that_are_there(gate: Gate) -> None:
    with NameServer({"zone.example": 'a IN TXT "first"'}) as first, NameServer({"zone.example": ""}) as second:
        gate.use(settings(first.address), hooks=HOOKS)
        with gate.client() as client:
            assert client.transaction(b"a@example.org")[-1].startswith(b"550 5.7.1 first")
            client.command(b"RSET")
            gate.use(settings(second.address), hooks=HOOKS)
            assert client.transaction(b"a@example.org")[-1].startswith(b"250")


def test_dead_name_servers_are_a_deferral(gate: Gate) -> None:
    address = f"127.0.0.1:{free_loopback_port()}"
    gate.use(settings(address), hooks=HOOKS)
    with gate.client() as client:
        assert client.transaction(b"a@example.org")[-1].startswith(b"451 4.3.0")
    assert f'reason=unavailable problem="dns: a.zone.example TXT: {address} gave no answer: Connection refused"' in (
        gate.daemon.log()
    )
