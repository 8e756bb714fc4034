"""A gate with karma and a plugin that refuses by the name of the recipient; what clients do and what is remembered."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeAlias

from gatepost import Deny, DenySoft, Plugin
from gatepost.testing import Client, Gate, gate

if TYPE_CHECKING:
    from tests.hooks.conftest import HandClock

    from gatepost import Message, Recipient, Transaction, Verdict

MakeGate: TypeAlias = Callable[..., AbstractAsyncContextManager[Gate]]

DAY = 86400
PENALTY = "421 4.7.1 too much of your mail was refused lately; try again in 24 h"


class Judge(Plugin):
    """Refuses and holds by the recipient's name, as any plugin may."""

    def data_post(self, transaction: Transaction, message: Message) -> None:
        if transaction.accepted[0].address.local == "held":
            message.quarantine("doubtful")

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        match recipient.address.local:
            case "bad":
                return Deny("no")
            case "later":
                return DenySoft("later")
            case _:
                return None


def gates(clock: HandClock) -> MakeGate:
    """Return what makes a gate with karma, with these options, and the judge."""

    def make(**options: Any) -> AbstractAsyncContextManager[Gate]:
        return gate(Judge, clock=clock, karma=options, refuse={"unknown@example.org": "550 5.1.1 unknown"})

    return make


async def session(
    postfix: Gate, *names: str, address: str = "192.0.2.1", sender: str = "a@sender.example", **facts: Any
) -> Client:
    """Send one message for each name in a session, and leave."""
    client = postfix.client(address, **facts)
    for name in names:
        await client.send(sender, f"{name}@example.org")
    await client.quit()
    return client


async def reply(postfix: Gate, address: str = "192.0.2.1", sender: str = "a@sender.example", **facts: Any) -> str:
    """Return what a new client hears at its first recipient."""
    client = postfix.client(address, **facts)
    said = await client.mail(sender)
    if said.code == 250:
        said = await client.rcpt("good@example.org")
    await client.abandon()
    return "250" if said.code == 250 else said.encode().decode().strip()


async def entries(postfix: Gate) -> dict[str, Any]:
    return {entry.key: entry.value async for entry in postfix.store.list("karma:")}


BAD = ("bad", "bad", "bad")
