"""The cache of answers: how long, how many, and that large ones cannot fill the memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
from tests.services.store.hand_clock import HandClock

from gatepost.services.dns.answer import Answer
from gatepost.services.dns.cache import AnswerCache, Failed

if TYPE_CHECKING:
    import dns.rdata

DAY_S = 86_400


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


def positive(ttl: int = 300, wire_bytes: int = 100) -> Answer:
    return Answer(cast("tuple[dns.rdata.Rdata, ...]", ("a record",)), ttl=ttl, wire_bytes=wire_bytes)


def negative(ttl: int = 300) -> Answer:
    return Answer(exists=False, ttl=ttl)


@pytest.mark.parametrize(
    ("result", "lifetime_s"),
    [
        (positive(300), 300),
        (positive(1), 1),
        (positive(10 * DAY_S), DAY_S),
        (negative(300), 300),
        (negative(DAY_S), 3 * 3600),
        (Failed("SERVFAIL"), 5),
    ],
)
def test_a_result_is_kept_as_long_as_it_may_be(result: Answer | Failed, lifetime_s: int, clock: HandClock) -> None:
    cache = AnswerCache(10, clock)
    cache.put(("a", "A"), result)
    clock.now += lifetime_s - 0.01
    assert cache.get(("a", "A")) is result
    clock.now += 0.02
    assert cache.get(("a", "A")) is None
    assert len(cache) == 0


def test_a_ttl_of_0_is_not_kept_and_ends_what_was(clock: HandClock) -> None:
    cache = AnswerCache(10, clock)
    cache.put(("a", "A"), positive())
    cache.put(("a", "A"), positive(0))
    assert cache.get(("a", "A")) is None


def test_the_least_recently_used_leaves_first(clock: HandClock) -> None:
    cache = AnswerCache(3, clock)
    for name in "abc":
        cache.put((name, "A"), positive())
    cache.get(("a", "A"))
    cache.put(("d", "A"), positive())
    assert {name for name in "abcd" if cache.get((name, "A"))} == {"a", "c", "d"}


def test_a_large_answer_counts_as_several(clock: HandClock) -> None:
    cache = AnswerCache(10, clock)
    for number in range(100):
        cache.put((f"{number}.example", "TXT"), positive(wire_bytes=2000))
    assert len(cache) == 2


def test_an_answer_larger_than_the_cache_drives_nothing_out(clock: HandClock) -> None:
    cache = AnswerCache(10, clock)
    cache.put(("a", "A"), positive())
    cache.put(("b", "TXT"), positive(wire_bytes=65_535))
    assert cache.get(("a", "A")) is not None
    assert cache.get(("b", "TXT")) is None


def test_an_answer_that_is_replaced_counts_once(clock: HandClock) -> None:
    cache = AnswerCache(2, clock)
    for _ in range(5):
        cache.put(("a", "A"), positive())
    cache.put(("b", "A"), positive())
    assert len(cache) == 2
