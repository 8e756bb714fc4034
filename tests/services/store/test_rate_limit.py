"""Rates: how they are written, that counting is exact under concurrency, and that the window slides."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from limits import parse
from limits.aio.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter

from gatepost import Charge, PluginOptions, RateLimiter, Rates, Unavailable
from gatepost.services.store.rate_limit import StoreStorage, parse_rates
from gatepost.services.store.store import Store, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

HOUR = 3600
START = 472_222 * HOUR
"""The beginning of an hour: windows are counted from the epoch on."""


class HandClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = float(START)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def store(tmp_path: Path, clock: HandClock) -> AsyncIterator[Store]:
    store = open_store(f"sqlite:{tmp_path / 'gatepost.db'}", clock)
    yield store
    await store.close()


def charge(rate: str = "10/hour", who: str = "192.0.2.1", kind: str = "client") -> Charge:
    return Charge(parse(rate), kind, who)


async def taken(limiter: RateLimiter, *charges: Charge, tries: int) -> int:
    """Count how many of so many tries, all at once, are within their rates."""
    results = await asyncio.gather(*(limiter.take(charges) for _ in range(tries)))
    return results.count(None)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("100/hour", ["100 per 1 hour"]),
        (" 10 per 5 minutes ", ["10 per 5 minute"]),
        ("20/minute, 500/day", ["20 per 1 minute", "500 per 1 day"]),
        (["20/minute", "500/day"], ["20 per 1 minute", "500 per 1 day"]),
        ("5/Hour;5/hour", ["5 per 1 hour"]),
        ("0/second", ["0 per 1 second"]),
        ("none", []),
        ("", []),
        (None, []),
        ([], []),
    ],
)
def test_a_rate_is_written_as_people_say_it(written: object, meant: list[str]) -> None:
    assert [str(rate) for rate in parse_rates(written)] == meant


@pytest.mark.parametrize("wrong", ["5/week", "5", "hour", "-1/hour", "1.5/hour", "5/hour x", 5, True, ["5/hour", "x"]])
def test_what_is_no_rate_is_refused_with_an_example(wrong: object) -> None:
    with pytest.raises(ValueError, match=r'is not a rate: write for example "100/hour"'):
        parse_rates(wrong)


@pytest.mark.parametrize("rate", ["5/11 years", "5 per 9999999999999999999999 days", f"1/{'9' * 400} second"])
def test_a_window_without_bounds_is_refused(rate: str) -> None:
    with pytest.raises(ValueError, match="looks back too far"):
        parse_rates(rate)
    assert len(parse_rates(f"{'9' * 400}/10 years")) == 1


@given(st.text(max_size=30) | st.from_regex(r"[0-9]{1,40} ?(/|per) ?[0-9]{0,9} ?[a-zA-Z]{1,7}", fullmatch=True))
def test_any_text_is_a_rate_or_a_value_error(text: str) -> None:
    try:
        rates = parse_rates(text)
    except ValueError:
        return
    assert parse_rates([str(rate) for rate in rates]) == rates


def test_rates_as_an_option_may_be_validated_again() -> None:
    class Options(PluginOptions):
        rates: Rates = ()

    options: Any = Options.model_validate({"rates": "5/hour"})

    assert Options.model_validate(options.model_dump(exclude_unset=True)) == options


async def test_clients_at_once_get_exactly_the_rate(store: Store) -> None:
    limiter = RateLimiter(store, "test")

    assert await taken(limiter, charge("50/hour"), tries=300) == 50
    assert await limiter.take([charge("50/hour")]) == charge("50/hour")


async def test_two_daemons_on_one_store_get_the_rate_together(store: Store, tmp_path: Path, clock: HandClock) -> None:
    other = open_store(f"sqlite:{tmp_path / 'gatepost.db'}", clock)

    counts = await asyncio.gather(
        taken(RateLimiter(store, "test"), charge("50/hour"), tries=60),
        taken(RateLimiter(other, "test"), charge("50/hour"), tries=60),
    )

    await other.close()
    assert sum(counts) == 50


async def test_counts_survive_a_restart(store: Store, tmp_path: Path, clock: HandClock) -> None:
    await taken(RateLimiter(store, "test"), charge(), tries=10)
    await store.close()

    again = open_store(f"sqlite:{tmp_path / 'gatepost.db'}", clock)
    over = await RateLimiter(again, "test").take([charge()])
    await again.close()

    assert over == charge()


async def test_one_rate_that_is_over_leaves_the_others_uncounted(store: Store) -> None:
    limiter = RateLimiter(store, "test")
    narrow, wide = charge("3/hour", "a"), charge("10/hour", "b")

    assert await taken(limiter, narrow, tries=3) == 3
    for _ in range(30):
        assert await limiter.take([wide, narrow]) == narrow
    assert await taken(limiter, wide, tries=20) == 10


async def test_the_first_that_is_over_is_named(store: Store) -> None:
    limiter = RateLimiter(store, "test")

    assert await limiter.take([charge("5/hour"), charge("0/day"), charge("0/year")]) == charge("0/day")


async def test_subjects_kinds_rates_and_namespaces_are_counted_apart(store: Store) -> None:
    limiter = RateLimiter(store, "test")
    assert await taken(limiter, charge("5/hour"), tries=9) == 5

    for other in (charge("5/hour", "192.0.2.2"), charge("5/hour", kind="sender"), charge("6/hour")):
        assert await limiter.take([other]) is None
    assert await RateLimiter(store, "other").take([charge("5/hour")]) is None
    assert await limiter.take([charge("5/hour")]) is not None


async def test_room_comes_back_bit_by_bit(store: Store, clock: HandClock) -> None:
    limiter = RateLimiter(store, "test")
    assert await taken(limiter, charge("100/hour"), tries=200) == 100

    clock.now = START + HOUR
    assert await taken(limiter, charge("100/hour"), tries=200) == 0
    clock.now = START + 1.25 * HOUR
    assert await taken(limiter, charge("100/hour"), tries=200) == 25
    clock.now = START + 3 * HOUR
    assert await taken(limiter, charge("100/hour"), tries=200) == 100


async def test_a_count_ends_with_the_window_after_its_own(store: Store, clock: HandClock) -> None:
    await RateLimiter(store, "test").take([charge()])
    clock.now = START + 2 * HOUR - 1
    assert [entry.key async for entry in store.list()] == ["test:client/192.0.2.1/10/1/hour"]

    clock.now = START + 2 * HOUR
    assert [entry.key async for entry in store.list()] == []


async def test_what_is_given_back_can_be_taken_again(store: Store, clock: HandClock) -> None:
    limiter = RateLimiter(store, "test")
    assert await taken(limiter, charge(), tries=10) == 10

    await limiter.give_back([charge(), charge()])
    assert await taken(limiter, charge(), tries=10) == 2

    clock.now = START + HOUR
    assert await taken(limiter, charge(), tries=10) == 0
    await limiter.give_back([charge()] * 4)
    assert await taken(limiter, charge(), tries=10) == 4


async def test_no_more_is_given_back_than_was_taken(store: Store) -> None:
    limiter = RateLimiter(store, "test")
    await limiter.take([charge()])

    await limiter.give_back([charge()] * 5)
    await limiter.give_back([charge(who="nobody")])

    assert await taken(limiter, charge(), tries=20) == 10
    assert [entry.key async for entry in store.list()] == ["test:client/192.0.2.1/10/1/hour"]


@pytest.mark.parametrize("value", ["garbage", [1], [1, 2, "x"], {"a": 1}, 7, None])
async def test_an_entry_that_is_no_count_is_written_anew(store: Store, value: Any) -> None:
    await store.put("test:client/192.0.2.1/10/1/hour", value, None)

    assert await taken(RateLimiter(store, "test"), charge(), tries=20) == 10


async def test_a_clock_set_back_refuses_nobody_for_long(store: Store, clock: HandClock) -> None:
    limiter = RateLimiter(store, "test")
    await taken(limiter, charge(), tries=10)

    clock.now = START - 30 * HOUR

    assert await limiter.take([charge()]) is None


async def test_a_store_that_does_not_answer_is_unavailable(store: Store) -> None:
    limiter = RateLimiter(store, "test")
    await store.close()

    with pytest.raises(Unavailable):
        await limiter.take([charge()])
    with pytest.raises(Unavailable):
        await limiter.give_back([charge()])
    assert not await StoreStorage(store, "test").check()


async def test_any_subject_has_a_count(store: Store) -> None:
    limiter = RateLimiter(store, "test")
    for who in ("a\udcff@x", "ä@x", "a/b/10/1/hour", "", "x" * 9000, "\0\n"):
        assert await taken(limiter, charge("3/hour", who), tries=9) == 3


async def test_the_librarys_other_questions_are_answered_too(store: Store, clock: HandClock) -> None:
    storage, rate = StoreStorage(store, "test"), parse("4/hour")
    sliding, fixed = SlidingWindowCounterRateLimiter(storage), FixedWindowRateLimiter(storage)
    assert await storage.check()

    assert [await sliding.hit(rate, "s", cost=3), await sliding.hit(rate, "s", cost=3)] == [True, False]
    assert [await sliding.test(rate, "s", cost=1), await sliding.test(rate, "s", cost=2)] == [True, False]
    clock.now = START + 1.5 * HOUR
    assert await storage.get_sliding_window(rate.key_for("s"), HOUR) == (3, HOUR / 2, 0, 1.5 * HOUR)
    await sliding.clear(rate, "s")
    assert await storage.get_sliding_window(rate.key_for("s"), HOUR) == (0, 0.0, 0, 1.5 * HOUR)

    assert [await fixed.hit(rate, "f", cost=3), await fixed.test(rate, "f", cost=2)] == [True, False]
    assert await fixed.get_window_stats(rate, "f") == (START + 2.5 * HOUR, 1)
    assert await storage.reset() == 1
    assert await fixed.get_window_stats(rate, "f") == (START + 1.5 * HOUR, 4)


def test_the_library_is_not_imported_before_a_plugin_asks_for_it() -> None:
    code = (
        "import gatepost, sys; assert 'limits' not in sys.modules; gatepost.RateLimiter; assert 'limits' in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
