"""Finds the session that a proxy connection belongs to.

The front opens one connection per message, each with the client's ADDR and PORT in XFORWARD: one client session makes
many. A client that says another HELO, or whose name or protocol is another, is a new session behind the same port.
Without the edge door nobody tells when a client leaves, so a session ends when nothing was heard of it for a while.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from gatepost.deadline import Deadline
from gatepost.flow import greet
from gatepost.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from gatepost.pipeline import Pipeline
    from gatepost.smtp.xforward import Xforward

Key: TypeAlias = tuple[str, int]

EXPIRY_STEPS = 10
"""The idle time is checked this many times within its length: a session lives a tenth longer at most."""

DISCONNECT_BUDGET_S = 30.0
"""How long the disconnect hooks of one session may take; nobody waits for them."""


@dataclass(slots=True)
class Entry:
    """A session with what the table must know of it."""

    session: Session
    key: Key | None
    """None for a session that only its own connection knows."""
    greeting: asyncio.Lock
    """Held while the connect and helo hooks run, so that a second connection waits for their verdict."""
    pipeline: Pipeline | None = None
    """The one that the session is on; None until the connect and helo hooks have run."""
    connections: int = 0
    transactions: int = 0
    idle_since: float = 0.0

    async def greet(self, pipeline: Pipeline, deadline: Deadline) -> None:
        """Run the connect and helo hooks, once for a session, however many connections it has; or else move it over."""
        async with self.greeting:
            if self.pipeline is None:
                await greet(pipeline, self.session, deadline)
                self.pipeline = pipeline
            else:
                self.move_to(pipeline)

    def move_to(self, pipeline: Pipeline) -> None:
        """Go on with the pipeline of a new configuration: of the client's options those stay that it still takes."""
        if self.pipeline is not pipeline:
            self.session.overrides = pipeline.still_good(self.session.overrides)
            self.pipeline = pipeline


class SessionTable:
    """The live sessions, by the client's address and port."""

    def __init__(self, idle_s: float, clock: Callable[[], float], pipeline: Callable[[], Pipeline]) -> None:
        self.idle_s = idle_s
        """Seconds; a change counts for the sessions that live now, too."""
        self._clock = clock
        self._pipeline = pipeline
        self._entries: dict[Key, Entry] = {}
        # Session ids are unique across restarts, too: three bytes at random, then a number.
        self._run = secrets.token_hex(3)
        self._numbers = itertools.count(0x100)
        self._ended: set[asyncio.Task[None]] = set()

    def join(self, xforward: Xforward, address: str) -> Entry:
        """Return the session that the attributes name, new if need be; `leave` must follow.

        Without an address or port in XFORWARD every connection is a session of its own; it has this `address` then.
        """
        key = (xforward.addr, xforward.port) if xforward.addr and xforward.port else None
        entry = self._entries.get(key) if key else None
        if entry is not None and _is_another(entry.session, xforward):
            if entry.connections == 0:
                self._end(entry)
            entry = None
        if entry is None:
            session = Session(
                id=f"{self._run}{next(self._numbers):x}",
                address=xforward.addr or address,
                port=xforward.port,
                name=xforward.name,
                helo=xforward.helo,
                esmtp=(xforward.proto or "ESMTP").upper() != "SMTP",
            )
            entry = Entry(session, key, asyncio.Lock())
            if key is not None:
                self._entries[key] = entry
        entry.connections += 1
        return entry

    def leave(self, entry: Entry) -> None:
        """Take note that a connection of the session has ended; the session goes on for a while."""
        entry.connections -= 1
        entry.idle_since = self._clock()
        if entry.connections == 0 and (entry.key is None or self._entries.get(entry.key) is not entry):
            self._end(entry)

    async def expire(self) -> None:
        """End sessions as they become idle, for ever; to be run as a task."""
        while True:
            await asyncio.sleep(max(0.05, self.idle_s / EXPIRY_STEPS))
            now = self._clock()
            idle = [
                (key, entry)
                for key, entry in self._entries.items()
                if entry.connections == 0 and now - entry.idle_since >= self.idle_s
            ]
            for key, entry in idle:
                del self._entries[key]
                self._end(entry)

    async def close(self) -> None:
        """End every session and wait for their disconnect hooks."""
        entries = list(self._entries.values())
        self._entries.clear()
        for entry in entries:
            self._end(entry)
        if self._ended:
            await asyncio.wait(self._ended, timeout=DISCONNECT_BUDGET_S)

    def __len__(self) -> int:
        """Return how many sessions live."""
        return len(self._entries)

    def _end(self, entry: Entry) -> None:
        pipeline = self._pipeline()
        if entry.pipeline is None or not pipeline.calls["disconnect"]:
            return
        entry.move_to(pipeline)
        task = asyncio.ensure_future(self._disconnect(entry.session, pipeline))
        self._ended.add(task)
        task.add_done_callback(self._ended.discard)

    @staticmethod
    async def _disconnect(session: Session, pipeline: Pipeline) -> None:
        await pipeline.ask("disconnect", session, session, deadline=Deadline.after(DISCONNECT_BUDGET_S))


def _is_another(session: Session, xforward: Xforward) -> bool:
    esmtp = (xforward.proto or "ESMTP").upper() != "SMTP"
    return (session.helo, session.name, session.esmtp) != (xforward.helo, xforward.name, esmtp)
