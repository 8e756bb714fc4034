"""Finds the session that a proxy connection belongs to.

The front opens one connection per message, each with the client's ADDR and PORT in XFORWARD: one client session makes
many. The edge door's milter session has the same address and port, so that both doors share the session.

Without the edge door nobody tells when a client greets again or leaves: a client that says another HELO, or whose name
or protocol is another, is a new session behind the same port, and a session ends when nothing was heard of it for long.
With it, a session is one connection, whatever the client says, and ends when the client has left and its last message
is done. A proxy connection that finds no session of the edge (gatepost was restarted, or Postfix could not reach the
milter) is treated as without the edge: it runs what was not run. Where there are several, because clients behind one
address came from the same port to different services, it is whose client has just said MAIL with that sender.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import re
import secrets
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from gatepost.deadline import Deadline
from gatepost.pipeline.arrival import connect, helo
from gatepost.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable

    from gatepost.address import Address
    from gatepost.pipeline.flow import Flow
    from gatepost.pipeline.pipeline import Pipeline
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
    """The one that the session is on; None until the connect hook has run."""
    helo_is_new: bool = False
    """True while the helo hook has not run for `session.helo`."""
    at_edge: bool = False
    """True for a session that the edge door began: its milter session is one of the `connections`."""
    waiting: Flow | None = None
    """The transaction that the client began at the edge, until a proxy connection takes it over."""
    connections: int = 0
    transactions: int = 0
    idle_since: float = 0.0
    ended: bool = False

    async def greet(self, pipeline: Pipeline, deadline: Deadline) -> None:
        """Run the connect and helo hooks, as far as they have not, however many connections the session has.

        A session that is on another pipeline moves over to this one.
        """
        async with self.greeting:
            if self.pipeline is None:
                await connect(pipeline, self.session, deadline)
            else:
                self.move_to(pipeline)
            if self.helo_is_new:
                await helo(pipeline, self.session, deadline)
            self.pipeline, self.helo_is_new = pipeline, False

    def is_on(self, pipeline: Pipeline) -> bool:
        """Tell whether `greet` with this pipeline has nothing to do."""
        return self.pipeline is pipeline and not self.helo_is_new

    def move_to(self, pipeline: Pipeline) -> None:
        """Go on with the pipeline of a new configuration: of the client's options those stay that it still takes."""
        if self.pipeline is not pipeline:
            self.session.overrides = pipeline.still_good(self.session.overrides)
            self.pipeline = pipeline

    def take(self, sender: Address) -> Flow | None:
        """Return the transaction that the client began at the edge, for the proxy to end; None if none waits."""
        if not self.waits_for(sender):
            return None
        flow, self.waiting = self.waiting, None
        return flow

    def waits_for(self, sender: Address | None) -> bool:
        """Tell whether the client has begun a transaction with this sender at the edge."""
        return self.waiting is not None and self.waiting.transaction.sender == sender


class SessionTable:
    """The live sessions, by the client's address and port."""

    def __init__(self, idle_s: float, clock: Callable[[], float], pipeline: Callable[[], Pipeline]) -> None:
        self.idle_s = idle_s
        """Seconds; a change counts for the sessions that live now, too."""
        self._clock = clock
        self._pipeline = pipeline
        self._entries: dict[Key, Entry] = {}
        """Those without the edge."""
        self._visitors: dict[Key, list[Entry]] = {}
        """Those that the edge door began, the latest last."""
        # Session ids are unique across restarts, too: three bytes at random, then a number.
        self._run = secrets.token_hex(3)
        self._numbers = itertools.count(0x100)
        self._ended: dict[asyncio.Task[None], Pipeline] = {}
        """The disconnect hooks under way."""

    def join(self, xforward: Xforward, address: str, sender: Address | None = None) -> Entry:
        """Return the session that the attributes name, new if need be; `leave` must follow. `sender` is of its MAIL.

        Without an address or port in XFORWARD every connection is a session of its own; it has this `address` then.
        """
        key = (_normal(xforward.addr), xforward.port) if xforward.addr and xforward.port else None
        if visitors := self._visitors.get(key) if key else None:
            entry = _likeliest(visitors, xforward, sender)
            _learn(entry, xforward)
        else:
            entry = self._without_edge(key, xforward, address)
        entry.connections += 1
        return entry

    def _without_edge(self, key: Key | None, xforward: Xforward, address: str) -> Entry:
        entry = self._entries.get(key) if key else None
        if entry is not None:
            if not _is_another(entry.session, xforward):
                return entry
            if entry.connections == 0:
                self._end(entry)
        session = Session(
            id=self._new_id(),
            address=xforward.addr or address,
            port=xforward.port,
            name=xforward.name,
            helo=xforward.helo,
            esmtp=_is_esmtp(xforward),
        )
        entry = Entry(session, key, asyncio.Lock(), helo_is_new=session.helo is not None)
        if key is not None:
            self._entries[key] = entry
        return entry

    def open(self, address: str, port: int, name: str | None) -> Entry:
        """Return a new session that the edge door begins; `leave` must follow when the client has left."""
        key = (_normal(address), port)
        old = self._entries.get(key)
        if old is not None and old.connections == 0:
            del self._entries[key]
            self._end(old)
        entry = Entry(Session(self._new_id(), address, port, name), key, asyncio.Lock(), at_edge=True, connections=1)
        self._visitors.setdefault(key, []).append(entry)
        return entry

    def uses(self, pipeline: Pipeline) -> bool:
        """Tell whether a disconnect hook of this pipeline runs."""
        return pipeline in self._ended.values()

    def _new_id(self) -> str:
        return f"{self._run}{next(self._numbers):x}"

    def leave(self, entry: Entry) -> None:
        """Take note that a connection of the session has ended; without the edge the session goes on for a while."""
        entry.connections -= 1
        entry.idle_since = self._clock()
        if entry.connections:
            return
        if entry.at_edge:
            self._forget(entry)
        if entry.at_edge or entry.key is None or self._entries.get(entry.key) is not entry:
            self._end(entry)

    def _forget(self, visitor: Entry) -> None:
        assert visitor.key is not None
        others = [entry for entry in self._visitors.get(visitor.key, ()) if entry is not visitor]
        if others:
            self._visitors[visitor.key] = others
        else:
            self._visitors.pop(visitor.key, None)

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
        entries = [*self._entries.values(), *itertools.chain.from_iterable(self._visitors.values())]
        self._entries.clear()
        self._visitors.clear()
        for entry in entries:
            self._end(entry)
        if self._ended:
            await asyncio.wait(self._ended, timeout=DISCONNECT_BUDGET_S)

    def __len__(self) -> int:
        """Return how many sessions live."""
        return len(self._entries) + sum(map(len, self._visitors.values()))

    def _end(self, entry: Entry) -> None:
        pipeline = self._pipeline()
        ended, entry.ended = entry.ended, True
        if ended or entry.pipeline is None or not pipeline.calls["disconnect"]:
            return
        entry.move_to(pipeline)
        task = asyncio.ensure_future(self._disconnect(entry.session, pipeline))
        self._ended[task] = pipeline
        task.add_done_callback(self._ended.pop)

    @staticmethod
    async def _disconnect(session: Session, pipeline: Pipeline) -> None:
        await pipeline.ask("disconnect", session, session, deadline=Deadline.after(DISCONNECT_BUDGET_S))


def _is_another(session: Session, xforward: Xforward) -> bool:
    known = (session.helo, session.name, session.esmtp)
    return known != (xforward.helo, xforward.name, _is_esmtp(xforward))


def _is_esmtp(xforward: Xforward) -> bool:
    return (xforward.proto or "ESMTP").upper() != "SMTP"


def _likeliest(visitors: list[Entry], xforward: Xforward, sender: Address | None) -> Entry:
    """Return which of these sessions the connection is for; the latest, if that cannot be told."""

    def likeness(entry: Entry) -> tuple[bool, bool]:
        return entry.waits_for(sender), _as_forwarded(entry.session.helo) == _as_forwarded(xforward.helo)

    return max(reversed(visitors), key=likeness)


def _learn(entry: Entry, xforward: Xforward) -> None:
    """Add what the edge was not told: whether it was EHLO, and a HELO that is not UTF-8 (see `edge`)."""
    session = entry.session
    session.esmtp = _is_esmtp(xforward)
    if xforward.helo is not None and _as_forwarded(session.helo) != _as_forwarded(xforward.helo):
        session.helo = xforward.helo
        entry.helo_is_new = True


_ODD = re.compile(rb"""[^!-~]|[<>()\\";@]""")
"""What is not printable, and Postfix's NEUTER_CHARACTERS (smtpd/smtpd.h), which an address in a header could hold."""


def _as_forwarded(name: str | None) -> bytes | None:
    """Return a HELO name with every odd byte as `?`: Postfix may forward it so, but shows it to milters as it is."""
    return None if name is None else _ODD.sub(b"?", name.encode("utf-8", "surrogateescape"))


@lru_cache(maxsize=4096)
def _normal(address: str) -> str:
    """Return an IP address in the one form that both doors' spellings come to."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(getattr(ip, "ipv4_mapped", None) or ip)
