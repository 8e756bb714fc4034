"""The moment by which something awaited must be over."""

from __future__ import annotations

from contextvars import ContextVar
from time import monotonic
from typing import NamedTuple


class Deadline(NamedTuple):
    """A moment on the monotonic clock, in seconds; the same in every thread."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        """Return the moment that many seconds from now."""
        return cls(monotonic() + seconds)

    def remaining(self) -> float:
        """Return the seconds left; never negative."""
        return max(0.0, self.at - monotonic())


of_hook: ContextVar[Deadline | None] = ContextVar("gatepost_deadline", default=None)
"""When the pipeline gives up on the hook call that is running; None outside of any. It follows the call into tasks and
threads."""


def check_time() -> None:
    """Raise TimeoutError once the time of the hook is over that asked for the work going on here.

    For long work in a thread, which nobody can stop from outside.
    """
    deadline = of_hook.get()
    if deadline is not None and not deadline.remaining():
        raise TimeoutError("the hook's time is over")
