"""Connections to the inner smtpd: opened, kept, lent out, never trusted when they have been idle.

A connection goes back to the pool only after a message that the inner smtpd accepted: any error may be sticky there (a
milter's is for the whole SMTP session). It retires by age because a busy smtpd process keeps the settings that it was
started with (POSTFIX.md).
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, cast

import structlog

from gatepost.deadline import Deadline
from gatepost.errors import Unavailable
from gatepost.smtp.error import RemoteError
from gatepost.smtp.inner import QUIT, InnerMachine, Unsolicited, ehlo
from gatepost.smtp.reply import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from gatepost.doors.lease import Key
    from gatepost.endpoint import Endpoint

MAX_MESSAGES = 100
"""Messages per connection; Postfix's own smtpd processes serve `max_use` (100) connections before they retire."""

MAX_AGE_S = 60.0
"""A change of Postfix's configuration reaches every message after this time at the latest."""

GREETING_TIMEOUT_S = 10.0
"""For connection, banner and EHLO. With its process limit full, the kernel accepts and no banner comes (POSTFIX.md)."""

WATCH_INTERVAL_S = 0.25
"""How often late replies are looked for. One task does it for all, instead of a timer for each command."""

_log = structlog.get_logger("gatepost.inner")


class InnerUnavailable(Unavailable):
    """The inner smtpd cannot be reached, or went away in the middle."""

    def __init__(self, reason: str) -> None:
        super().__init__("inner smtpd", reason)


class InnerConnection(asyncio.Protocol):
    """One connection: commands out, replies in, in order; content with flow control."""

    def __init__(self, generation: int) -> None:
        self.machine = InnerMachine()
        self.generation = generation
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.key: Key = ("", 0)
        self.opened_at = monotonic()
        self.messages = 0
        self.failure: str | None = None
        """Why the connection is of no more use; None while it is good."""
        self.on_lost: Callable[[InnerConnection], None] | None = None
        self.on_writable: Callable[[bool], None] | None = None
        """Told False when the connection takes no more for now, True when it does again or has failed."""
        self._replies: list[Reply] = []
        self._waiter: asyncio.Future[None] | None = None
        self._due = 0.0
        self._loop = asyncio.get_running_loop()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember our end of the connection, which is what the milter session will be known by."""
        self.transport = cast("asyncio.Transport", transport)
        address, port = self.transport.get_extra_info("sockname")[:2]
        self.key = (address, port)

    def data_received(self, data: bytes) -> None:
        """Take replies; one that nobody asked for (a 421 for idleness) makes the connection useless."""
        for event in self.machine.receive(data):
            match event:
                case Reply():
                    self._replies.append(event)
                    if event.code == 421:
                        self._fail(f"is closing: {event.text}")
                case Unsolicited(reply=reply):
                    self._fail(f"said {reply.code} unasked: {reply.text}")
                case RemoteError(detail=detail):
                    self._fail(detail)
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever waits gets an InnerUnavailable."""
        if self.on_lost is not None:
            self.on_lost(self)
        self._fail(f"connection lost: {exc}" if exc else "connection closed")

    def pause_writing(self) -> None:
        """Hand the kernel's back pressure on to whoever streams content."""
        if self.on_writable is not None:
            self.on_writable(False)

    def resume_writing(self) -> None:
        """Hand it on that there is room again."""
        if self.on_writable is not None:
            self.on_writable(True)

    @property
    def is_good(self) -> bool:
        """False once anything has gone wrong."""
        return self.failure is None

    async def command(self, data: bytes, replies: int, deadline: Deadline) -> list[Reply]:
        """Write one or several commands in one go, none for the banner, and return that many replies.

        InnerUnavailable when they do not all come in time; the connection is closed then.
        """
        if self.failure is not None:
            raise InnerUnavailable(self.failure)
        self.machine.expect(replies)
        self.transport.write(data)
        while len(self._replies) < replies:
            if self.failure is not None:
                raise InnerUnavailable(self.failure)
            self._waiter = self._loop.create_future()
            self._due = deadline.at
            try:
                await self._waiter
            except asyncio.CancelledError:
                self.close("given up")
                raise
            finally:
                self._waiter = None
        received, self._replies = self._replies, []
        return received

    def close_if_late(self, now: float) -> None:
        """Close if the replies that are waited for have not come by their deadline."""
        if self._waiter is not None and now >= self._due:
            self.close("no reply in time")

    def close(self, reason: str) -> None:
        """Close at once. Before the dot is sent this takes the whole message back: nothing is queued (POSTFIX.md)."""
        self._fail(reason)

    def _fail(self, reason: str) -> None:
        if self.failure is None:
            self.failure = reason
            if self.transport is not None:
                self.transport.abort()
        self._wake()
        if self.on_writable is not None:
            self.on_writable(True)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class InnerPool:
    """Keeps idle connections and opens new ones."""

    def __init__(self, endpoint: Endpoint, hostname: str) -> None:
        # Configuration allows nothing but TCP here.
        assert endpoint.host is not None
        assert endpoint.port is not None
        self._endpoint = endpoint
        self._address = (endpoint.host, endpoint.port)
        self._hostname = hostname
        self._idle: list[InnerConnection] = []
        self._open: set[InnerConnection] = set()
        self._generation = 0
        self._warned = False

    def pooled(self) -> InnerConnection | None:
        """Return an idle connection that is good as far as one can tell, or None."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_good and not self._is_old(connection):
                return connection
            _retire(connection)
        return None

    async def open(self, deadline: Deadline) -> InnerConnection:
        """Open a connection and say EHLO; InnerUnavailable when that fails."""
        loop = asyncio.get_running_loop()
        deadline = Deadline.after(min(GREETING_TIMEOUT_S, deadline.remaining()))
        connection = InnerConnection(self._generation)
        connection.on_lost = self._open.discard
        try:
            async with asyncio.timeout(deadline.remaining()):
                await loop.create_connection(lambda: connection, *self._address)
            self._open.add(connection)
            (banner,) = await connection.command(b"", 1, deadline)
            if not banner.is_positive:
                raise InnerUnavailable(f"does not greet: {banner.code} {banner.text}")
            (hello,) = await connection.command(ehlo(self._hostname), 1, deadline)
        except TimeoutError as error:
            raise InnerUnavailable(f"cannot connect to {self._endpoint} in time") from error
        except OSError as error:
            raise InnerUnavailable(f"cannot connect to {self._endpoint}: {error.strerror or error}") from error
        except InnerUnavailable as error:
            connection.close("not greeted")
            hint = " (is its process limit in master.cf reached?)" if error.reason == "no reply in time" else ""
            raise InnerUnavailable(f"{error.reason}{hint}") from error
        connection.machine.greeted(hello)
        if "XFORWARD" not in (connection.machine.offered or {}):
            self._warn_about_xforward()
        return connection

    def _warn_about_xforward(self) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "the inner smtpd takes no XFORWARD from us, so its log names localhost as every client",
                remedy="set smtpd_authorized_xforward_hosts=127.0.0.0/8 on it: gatepost postfix apply",
            )

    def give_back(self, connection: InnerConnection) -> None:
        """Keep a connection whose message was accepted; anything else is to be closed instead."""
        connection.messages += 1
        connection.on_writable = None
        if connection.is_good and connection.messages < MAX_MESSAGES and not self._is_old(connection):
            self._idle.append(connection)
        else:
            _retire(connection)

    def retire_all(self) -> None:
        """Close every idle connection, and let none that is lent out come back."""
        self._generation += 1
        while self._idle:
            _retire(self._idle.pop())

    async def watch(self) -> None:
        """Close connections whose replies are late, for ever; to be run as a task."""
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            now = monotonic()
            for connection in tuple(self._open):
                connection.close_if_late(now)

    async def tend(self) -> None:
        """Close idle connections as they get old, for ever; to be run as a task."""
        while True:
            await asyncio.sleep(MAX_AGE_S / 4)
            keep = [connection for connection in self._idle if connection.is_good and not self._is_old(connection)]
            for connection in set(self._idle) - set(keep):
                _retire(connection)
            self._idle = keep

    def _is_old(self, connection: InnerConnection) -> bool:
        return connection.generation != self._generation or monotonic() - connection.opened_at >= MAX_AGE_S


def _retire(connection: InnerConnection) -> None:
    """Say goodbye without waiting for the answer."""
    if connection.is_good:
        connection.machine.expect(1)
        connection.transport.write(QUIT)
        connection.transport.close()
        connection.failure = "retired"
