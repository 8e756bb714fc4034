"""Flow control: whether the front is read, and when an inner smtpd that takes nothing is given up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal, TypeAlias

import structlog

if TYPE_CHECKING:
    from gatepost.doors.inner import InnerConnection

Reason: TypeAlias = Literal["behind", "inner full"]

READ_AHEAD_BYTES = 256 * 1024
"""What may lie unread by us before we read no more: one read of the event loop. uvloop reads 32 times in a row before
any task runs, which would be 8 MiB for each connection."""

_log = structlog.get_logger("gatepost.proxy")


class Throttle:
    """Pauses and resumes one transport for several reasons at once; no error once the transport is closed."""

    __slots__ = ("_reasons", "_transport", "is_holding")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._reasons: set[Reason] = set()
        self.is_holding = False
        """True while nothing is read."""

    def hold(self, reason: Reason) -> None:
        """Read no more until the reason is gone; while nothing is read, the peer's end goes unnoticed."""
        if not self.is_holding and not self._transport.is_closing():
            self._transport.pause_reading()
        self._reasons.add(reason)
        self.is_holding = True

    def release(self, reason: Reason) -> None:
        """Take the reason away, and read on if it was the last; no error if it was none."""
        if self.is_holding:
            self._reasons.discard(reason)
            self.is_holding = bool(self._reasons)
            if not self.is_holding and not self._transport.is_closing():
                self._transport.resume_reading()


class Backpressure:
    """Lets the front send no faster than the inner smtpd takes content, so that memory does not grow with a message.

    An inner smtpd that takes no byte for `stall_s` seconds is closed: the rest of the content is then read and
    discarded to the dot, and the client gets an answer instead of a timeout.
    """

    __slots__ = ("_inner", "_stall_s", "_throttle", "_timer")

    def __init__(self, throttle: Throttle, stall_s: float) -> None:
        self._throttle = throttle
        self._stall_s = stall_s
        self._inner: InnerConnection | None = None
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, inner: InnerConnection) -> None:
        """Begin: content is about to be written to this connection."""
        self._inner = inner
        inner.on_writable = self._writable

    def stop(self) -> None:
        """End, and let the front be read; no error if nothing is watched."""
        self._cancel_timer()
        self._throttle.release("inner full")
        if self._inner is not None:
            self._inner.on_writable = None
            self._inner = None

    def _writable(self, writable: bool) -> None:
        if writable:
            self._cancel_timer()
            self._throttle.release("inner full")
        else:
            self._throttle.hold("inner full")
            self._start_timer()

    def _start_timer(self) -> None:
        if self._timer is None and self._inner is not None:
            left = self._inner.transport.get_write_buffer_size()
            self._timer = asyncio.get_running_loop().call_later(self._stall_s, self._stalled, left)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stalled(self, left_before: int) -> None:
        self._timer = None
        if self._inner is None:
            return
        if self._inner.transport.get_write_buffer_size() < left_before:
            self._start_timer()
        else:
            _log.error("the inner smtpd takes no content, given up", seconds=self._stall_s)
            self._inner.close("takes no content")
