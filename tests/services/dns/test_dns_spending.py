"""How much DNS one hook call and one message may ask: what counts, what is free, and what happens then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from gatepost import Message, Plugin, PluginOptions, Recipient, Session, Transaction, Verdict
from gatepost.services.dns.resolver import Resolver
from gatepost.testing import gate
from gatepost.testing.dns_table import TableSource

if TYPE_CHECKING:
    from gatepost.testing import Client

TABLE = {f"{number}.zone.example": {"A": ["127.0.0.2"]} for number in range(30)}


def resolver(*, per_hook: int = 100, per_message: int = 100) -> Resolver:
    return Resolver(TableSource(TABLE), max_queries_per_hook=per_hook, max_queries_per_message=per_message)


class Options(PluginOptions):
    count: int = 3
    """Names asked for by each call."""
    same: bool = False
    """Always the same names."""


class Asking(Plugin[Options]):
    """Asks for names that nobody has asked for yet."""

    _asked: ClassVar[int] = 0

    async def connect(self, session: Session) -> Verdict | None:
        return await self._ask()

    async def rcpt(self, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        return await self._ask()

    async def _ask(self) -> Verdict | None:
        for name in self._names():
            await self.dns.a(name)
        return None

    def _names(self) -> list[str]:
        options = self.options()
        start = 0 if options.same else type(self)._asked
        type(self)._asked += options.count
        return [f"{number}.zone.example" for number in range(start, start + options.count)]


class AtRcpt(Asking):
    async def connect(self, session: Session) -> Verdict | None:
        return None


class InTasks(AtRcpt):
    async def _ask(self) -> Verdict | None:
        await asyncio.gather(*map(self.dns.a, self._names()))
        return None


class InThread(AtRcpt):
    blocking = True

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> Verdict | None:  # type: ignore[override]
        for name in self._names():
            self.dns.blocking.a(name)
        return None


@pytest.fixture(autouse=True)
def _from_the_beginning() -> None:
    for kind in (Asking, AtRcpt, InTasks, InThread, Content):
        kind._asked = 0


async def rcpt(client: Client) -> int:
    return (await client.rcpt("a@example.org")).code


def problem(client: Client) -> str | None:
    return client.transaction.records[-1].detail


@pytest.mark.parametrize(("kind", "name"), [(AtRcpt, "at_rcpt"), (InTasks, "in_tasks"), (InThread, "in_thread")])
async def test_a_hook_that_asks_more_than_its_limit_is_unavailable(kind: type[Asking], name: str) -> None:
    for count, expected in ((5, 250), (6, 451)):
        options: dict[str, Any] = {name: {"count": count}}
        async with gate(kind, dns=resolver(per_hook=5), **options) as made:
            client = made.client()
            await client.mail()
            assert await rcpt(client) == expected


async def test_the_limit_is_told_with_its_key() -> None:
    async with gate(InThread, dns=resolver(per_hook=2)) as made:
        client = made.client()
        await client.mail()
        assert await rcpt(client) == 451
    assert problem(client) == "dns: 2.zone.example A not asked: max_queries_per_hook (2) is reached"
    assert client.transaction.records[-1].reason == "unavailable"


async def test_each_call_of_a_hook_begins_anew() -> None:
    async with gate(Asking, dns=resolver(per_hook=3)) as made:
        client = made.client()
        await client.mail()
        assert [await rcpt(client) for _ in range(4)] == [250] * 4


async def test_what_the_cache_answers_is_free() -> None:
    async with gate(Asking, dns=resolver(per_message=3), asking={"same": True}) as made:
        client = made.client()
        await client.mail()
        assert [await rcpt(client) for _ in range(9)] == [250] * 9
    assert client.transaction.spending.dns_queries == 0


async def test_all_hooks_of_a_message_have_one_limit_together() -> None:
    async with gate(Asking, InTasks, dns=resolver(per_message=6), in_tasks={"count": 0}) as made:
        client = made.client()
        await client.mail()
        assert [await rcpt(client) for _ in range(3)] == [250, 250, 451]
        assert problem(client) == "dns: 9.zone.example A not asked: max_queries_per_message (6) is reached"
        await client.mail()
        assert await rcpt(client) == 250, "the next message has its own"


async def test_what_is_asked_at_connect_is_on_no_messages_account() -> None:
    async with gate(Asking, dns=resolver(per_message=3)) as made:
        client = made.client()
        await client.mail()
        assert client.transaction.spending.dns_queries == 0
        assert await rcpt(client) == 250
        assert client.transaction.spending.dns_queries == 3


class Content(Asking):
    async def data_post(self, transaction: Transaction, message: Message) -> Verdict | None:
        return await self._ask()


class Late(Plugin[Options]):
    """Makes recipients disagree."""

    def data_post(self, transaction: Transaction, message: Message) -> Verdict | None:
        return None


async def test_the_runs_of_recipients_who_disagree_share_the_limit() -> None:
    lenient = {"disagree": "lenient"}
    async with gate(Content, Late, dns=resolver(), content=lenient) as made:
        client = made.client()
        await client.mail()
        for count in (1, 2):
            await client.rcpt(f"{count}@example.org")
            client.transaction.recipients[-1].override(
                made.plugin("late").parse_overrides(f"late.count={count}", "test")
            )
        assert (await client.data()).code == 250
    assert client.transaction.spending.dns_queries == 4 * 3


async def test_work_outside_of_hooks_has_no_limit() -> None:
    dns = resolver(per_hook=1, per_message=1)
    for number in range(5):
        assert await dns.a(f"{number}.zone.example")


async def test_a_limit_reached_is_not_kept() -> None:
    dns = resolver(per_hook=2)
    async with gate(InThread, dns=dns) as made:
        client = made.client()
        await client.mail()
        assert await rcpt(client) == 451
    assert await dns.a("2.zone.example")
