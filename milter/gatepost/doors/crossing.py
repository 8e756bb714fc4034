"""From one of libmilter's threads to the event loop and back: where a milter callback needs a verdict."""

from __future__ import annotations

from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import structlog

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from gatepost.deadline import Deadline

LATE_ANSWER_S = 5.0
"""How much longer than the reply's deadline the milter's thread waits for the event loop, before it answers 451."""

_log = structlog.get_logger("gatepost.milter")
Result = TypeVar("Result")


class LateError(Exception):
    """The event loop has not answered in time, or the daemon ends: whoever waits gets a 451."""


class Crossing:
    """The way from libmilter's threads to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._started: set[asyncio.Task[None]] = set()

    def run(self, work: Callable[[], Coroutine[None, None, Result]], deadline: Deadline) -> Result:
        """Run what `work` makes on the event loop and return its result; raises what it raises, or LateError.

        To be called from a thread that is not the event loop's, once for each callback: what
        asyncio.run_coroutine_threadsafe does, with fewer calls and locks.
        """
        tasks: list[asyncio.Task[Result]] = []
        ended: SimpleQueue[asyncio.Future[Result]] = SimpleQueue()

        def begin() -> None:
            task = self._loop.create_task(work())
            task.add_done_callback(ended.put)
            tasks.append(task)

        try:
            self._loop.call_soon_threadsafe(begin)
        except RuntimeError as error:
            raise LateError("the event loop has ended") from error
        try:
            done = ended.get(timeout=deadline.remaining() + LATE_ANSWER_S)
        except Empty:
            for task in tasks:
                self._loop.call_soon_threadsafe(task.cancel)
            raise LateError("no answer from the event loop") from None
        if done.cancelled():
            raise LateError("given up by the event loop")
        return done.result()

    def start(self, work: Callable[[], Coroutine[None, None, None]]) -> None:
        """Do as `run` does for what nobody waits for, so that it can take as long as it has to.

        It begins before whatever the same thread runs or starts after it. Once the loop has ended nothing happens.
        """

        def begin() -> None:
            task = self._loop.create_task(work())
            self._started.add(task)
            task.add_done_callback(self._done)

        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(begin)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._started.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("bug in the milter", exc_info=error)
