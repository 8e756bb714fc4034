"""Messages worth points to `tests.spamd_rig`, and how the tests of spamassassin send them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.rigs.spamd_rig import GTUBE, Spamd

from gatepost.testing import gate

if TYPE_CHECKING:
    from gatepost.testing import Client, Gate

SPAM = b"Subject: offer\r\n\r\n" + GTUBE + b"\r\n"
HAM = b"Subject: minutes\r\n\r\nas discussed\r\n"
FOUR = b"Subject: minutes\r\n\r\nfour points please\r\n"
SIX = b"Subject: minutes\r\n\r\nsix points please\r\n"
REFUSED = "554 5.7.1 This message looks like spam"


async def send(postfix: Gate, content: bytes = HAM, *recipients: str, **facts: Any) -> tuple[str, Client]:
    """Send a message; return the reply, `250` shortened, and the client."""
    client = postfix.client("192.0.2.77", **facts)
    reply = await client.send("alice@sender.example", *(recipients or ("bob@example.org",)), content=content)
    return ("250" if reply.code == 250 else reply.encode().decode().strip()), client


async def sent(spamd: Spamd, content: bytes, **options: Any) -> tuple[str, Client]:
    """Send one message past a spamassassin with these options."""
    async with gate(spamassassin={"server": spamd.server} | options) as postfix:
        return await send(postfix, content)


def header(client: Client) -> dict[str, str]:
    assert client.message is not None
    return {field.name: field.value for field in client.message.headers}
