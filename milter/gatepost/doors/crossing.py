"""From one of libmilter's threads to the event loop and back: where a milter callback needs a verdict."""

from __future__ import annotations

from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

    from gatepost.deadline import Deadline

LATE_ANSWER_S = 5.0
"""How much longer than the reply's deadline the milter's thread waits for the event loop, before it answers 451."""

Result = TypeVar("Result")


class LateError(Exception):
    """The event loop has not answered in time, or the daemon ends: whoever waits gets a 451."""


class Crossing:
    """The way from libmilter's threads to one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

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
