"""Time that tests have in hand."""

from __future__ import annotations


class HandClock:
    """A clock that stands still until a test moves it; seconds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
