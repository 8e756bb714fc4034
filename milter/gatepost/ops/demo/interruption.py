"""Ctrl-C and SIGTERM end the demo in order: at a moment when nothing is half started, and never during clean-up."""

from __future__ import annotations

import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, NoReturn, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """A signal asked for the end. Of this kind because asyncio and the loader let no other pass everywhere."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    @property
    def status(self) -> int:
        """The exit status that a shell expects: 128 and the signal's number."""
        return 128 + self.number


class Interruption:
    """While it is entered, the signals raise `Interrupted` in the main thread, except under `held`."""

    def __init__(self) -> None:
        self._held = 0
        self._pending: int | None = None
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        """Take the signals over."""
        for number in _SIGNALS:
            # Under nohup(1), a hang-up is to be ignored.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        """Give them back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let a signal wait for the end of this block."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
            if self._pending is not None and not self._held:
                self._end(self._pending)

    def _came(self, number: int, _: FrameType | None) -> None:
        if self._held:
            self._pending = number
        else:
            self._end(number)

    def _end(self, number: int) -> NoReturn:
        # One is enough: a second, impatient Ctrl-C must not interrupt the clean-up.
        self._held += 1
        raise Interrupted(number)
