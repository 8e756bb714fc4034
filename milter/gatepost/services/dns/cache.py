"""Answers that are still good: each for as long as its TTL says, the least recently used leaving first."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gatepost.services.dns.answer import Answer

if TYPE_CHECKING:
    from collections.abc import Callable

Question = tuple[str, str]
"""A name, in lower case and without its final dot, and a record type."""

_POSITIVE_S = 86_400
"""The longest that an answer is kept, as most resolvers do: a TTL of years is a mistake."""
_NEGATIVE_S = 3 * 3600
"""RFC 2308 section 5: one to three hours have been found to work well; longer is a problem."""
_FAILURE_S = 5.0
"""RFC 9520 section 3.2: at least a second, at most five minutes. So little that a client which comes back after its
451 is never refused from here; enough that the recipients of one message do not each wait for the same dead server."""
_UNIT_BYTES = 512
"""A larger answer counts as several: who sends from a domain of his own decides how large its TXT records are."""


@dataclass(frozen=True, slots=True)
class Failed:
    """No answer: what was asked, and why nobody answered, for the log."""

    reason: str


@dataclass(frozen=True, slots=True)
class _Entry:
    result: Answer | Failed
    expires_at: float
    units: int


class AnswerCache:
    """At most `size` answers of common size; `clock` returns seconds and never goes back."""

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self._size = size
        self._clock = clock
        self._entries: OrderedDict[Question, _Entry] = OrderedDict()
        self._units = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, question: Question) -> Answer | Failed | None:
        """Return what is known and still good; None if nothing is."""
        entry = self._entries.get(question)
        if entry is None:
            return None
        if entry.expires_at <= self._clock():
            self._remove(question)
            return None
        self._entries.move_to_end(question)
        return entry.result

    def put(self, question: Question, result: Answer | Failed) -> None:
        """Keep a result for as long as it may be; a TTL of 0 means not at all."""
        lifetime = _lifetime_s(result)
        units = 1 + (result.wire_bytes if isinstance(result, Answer) else 0) // _UNIT_BYTES
        if question in self._entries:
            self._remove(question)
        if lifetime <= 0 or units > self._size:
            return
        self._entries[question] = _Entry(result, self._clock() + lifetime, units)
        self._units += units
        while self._units > self._size:
            self._remove(next(iter(self._entries)))

    def _remove(self, question: Question) -> None:
        self._units -= self._entries.pop(question).units


def _lifetime_s(result: Answer | Failed) -> float:
    if isinstance(result, Failed):
        return _FAILURE_S
    return min(result.ttl, _POSITIVE_S if result.records else _NEGATIVE_S)
