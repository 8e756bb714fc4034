"""The session table: which connections of the front belong to one client session, and when that ends."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gatepost import Plugin, Session
from gatepost.doors.session_table import Entry, SessionTable
from gatepost.smtp.xforward import Xforward
from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gatepost.pipeline.pipeline import Pipeline

CLIENT = Xforward(name="mx.example.net", addr="192.0.2.7", port=40000, helo="mx.example.net", proto="ESMTP")
IDLE_S = 60.0


class Goodbye(Plugin):
    """Notes who left; waits before that if it is told to."""

    _left: list[str]
    _hold: asyncio.Event | None = None

    def init(self) -> None:
        self._left = []

    async def disconnect(self, session: Session) -> None:
        if self._hold is not None:
            await self._hold.wait()
        self._left.append(session.id)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Rig:
    def __init__(self, pipeline: Pipeline, goodbye: Goodbye, idle_s: float) -> None:
        self.pipeline = pipeline
        self.goodbye = goodbye
        self.clock = Clock()
        self.table = SessionTable(idle_s, self.clock, lambda: self.pipeline)

    @property
    def left(self) -> list[str]:
        return self.goodbye._left

    def join(self, xforward: Xforward = CLIENT, peer: str = "127.0.0.1") -> Entry:
        """Join as a connection does that has run the connect hook."""
        entry = self.table.join(xforward, peer)
        entry.pipeline = self.pipeline
        return entry

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@asynccontextmanager
async def rig(idle_s: float = IDLE_S) -> AsyncIterator[Rig]:
    async with gate(Goodbye) as made:
        goodbye = made.plugin("goodbye")
        assert isinstance(goodbye, Goodbye)
        yield Rig(made.pipeline, goodbye, idle_s)


async def poll(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)


async def test_connections_with_the_same_address_and_port_are_one_session() -> None:
    async with rig() as one:
        first = one.join()
        one.table.leave(first)
        second = one.join()
        third = one.join()

        assert first is second is third
        assert (first.connections, len(one.table)) == (2, 1)


async def test_a_session_tells_what_xforward_told() -> None:
    async with rig() as one:
        session = one.join().session
        plain = one.join(Xforward(addr="2001:db8::1", port=1, proto="smtp")).session

    assert (session.address, session.port, session.name, session.helo, session.esmtp) == (
        "192.0.2.7",
        40000,
        "mx.example.net",
        "mx.example.net",
        True,
    )
    assert (plain.address, plain.name, plain.helo, plain.esmtp) == ("2001:db8::1", None, None, False)


@pytest.mark.parametrize(
    "changes",
    [{"helo": "other.example"}, {"name": None}, {"proto": "SMTP"}, {"port": 40001}, {"addr": "192.0.2.8"}],
)
async def test_another_helo_name_protocol_address_or_port_is_another_session(changes: dict[str, Any]) -> None:
    async with rig() as one:
        first = one.join()
        second = one.join(CLIENT._replace(**changes))

        assert first.session is not second.session
        assert first.session.id != second.session.id


@pytest.mark.parametrize("changes", [{"ident": "ABCDEF"}, {"source": "LOCAL"}, {"proto": "esmtp"}])
async def test_what_differs_from_message_to_message_does_not_make_another_session(changes: dict[str, Any]) -> None:
    async with rig() as one:
        assert one.join() is one.join(CLIENT._replace(**changes))


@pytest.mark.parametrize("xforward", [Xforward(), Xforward(addr="192.0.2.7"), Xforward(port=40000)])
async def test_without_address_and_port_every_connection_is_a_session_that_ends_with_it(xforward: Xforward) -> None:
    async with rig() as one:
        first, second = one.join(xforward, "198.51.100.1"), one.join(xforward, "198.51.100.1")
        assert first is not second
        assert first.session.address == (xforward.addr or "198.51.100.1")
        assert len(one.table) == 0
        one.table.leave(first)
        await one.settle()

        assert one.left == [first.session.id]


async def test_a_new_greeting_ends_the_idle_session_before_it() -> None:
    async with rig() as one:
        first = one.join()
        one.table.leave(first)
        one.join(CLIENT._replace(helo="other.example"))
        await one.settle()

        assert one.left == [first.session.id]
        assert len(one.table) == 1


async def test_a_session_in_use_ends_with_its_last_connection_once_another_took_its_place() -> None:
    async with rig() as one:
        first = one.join()
        one.join()
        second = one.join(CLIENT._replace(helo="other.example"))
        one.table.leave(first)
        await one.settle()
        assert one.left == []
        one.table.leave(first)
        await one.settle()
        assert one.left == [first.session.id]
        one.table.leave(second)
        await one.settle()

        assert one.left == [first.session.id]
        assert one.join(CLIENT._replace(helo="other.example")) is second


async def test_an_idle_session_ends_once_nothing_was_heard_of_it_for_the_whole_time() -> None:
    async with rig(idle_s=0.01) as one:
        entry = one.join()
        busy = one.join(Xforward(addr="192.0.2.9", port=1))
        one.table.leave(entry)
        expiring = asyncio.ensure_future(one.table.expire())
        await asyncio.sleep(0.12)
        assert (len(one.table), one.left) == (2, [])
        one.clock.now += 0.02
        await poll(lambda: len(one.table) == 1)
        await one.settle()
        expiring.cancel()

        assert one.left == [entry.session.id]
        assert one.join(Xforward(addr="192.0.2.9", port=1)) is busy


async def test_a_session_that_comes_back_in_time_goes_on() -> None:
    async with rig(idle_s=0.01) as one:
        entry = one.join()
        one.table.leave(entry)
        one.clock.now += 100
        assert one.join() is entry
        expiring = asyncio.ensure_future(one.table.expire())
        await asyncio.sleep(0.12)
        expiring.cancel()

        assert (len(one.table), one.left) == (1, [])


async def test_a_session_that_was_never_greeted_is_not_said_goodbye() -> None:
    async with rig() as one:
        entry = one.table.join(Xforward(), "127.0.0.1")
        one.table.leave(entry)
        await one.settle()

        assert one.left == []


async def test_at_the_end_every_session_is_said_goodbye_and_that_is_waited_for() -> None:
    async with rig() as one:
        one.goodbye._hold = asyncio.Event()
        entries = [one.join(Xforward(addr="192.0.2.9", port=port)) for port in (1, 2, 3)]
        closing = asyncio.ensure_future(one.table.close())
        await one.settle()
        assert not closing.done()
        one.goodbye._hold.set()
        await closing

        assert sorted(one.left) == sorted(entry.session.id for entry in entries)
        assert len(one.table) == 0
