"""The store's promises: plain data comes back as it was, updates are atomic, expired entries are gone by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import math
import sqlite3
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost.errors import Unavailable
from gatepost.services.store.sqlite_store import SqliteStore
from gatepost.services.store.store import Decision, Entry, Keep, Put, Remove, Store, Value, open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

START = 1_700_000_000.0


class HandClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gatepost.db"


@pytest.fixture
async def store(path: Path, clock: HandClock) -> AsyncIterator[Store]:
    store = open_store(f"sqlite:{path}", clock)
    yield store
    await store.close()


async def keys(store: Store, prefix: str = "", limit: int | None = None) -> list[str]:
    return [entry.key async for entry in store.list(prefix, limit)]


def raw_count(path: Path) -> int:
    """Count the rows that are in the file, expired ones too, with a connection of our own."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        count: int = connection.execute("SELECT count(*) FROM entry").fetchone()[0]
    return count


async def until(condition: Callable[[], bool], deadline_s: float = 60) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "this did not happen in time"
        await asyncio.sleep(0.01)


# --- values and keys


@pytest.mark.parametrize(
    "value", [None, True, 0, -7, 2**70, 1.5, "", "päivää", "\udcff raw byte", [1, [2]], {"a": {"b": [None]}}]
)
async def test_a_value_comes_back_as_it_was_put(store: Store, value: Value) -> None:
    await store.put("test:k", value, None)
    assert await store.get("test:k") == value


@given(left=st.text(max_size=8), right=st.text(max_size=8))
@settings(max_examples=60)
def test_any_two_keys_are_kept_apart_and_come_back_exactly(left: str, right: str) -> None:
    async def scenario() -> None:
        store = open_store("sqlite::memory:")
        await store.put(f"test:{left}", "left", None)
        await store.put(f"test:{right}", "right", None)
        expected = {f"test:{left}": "left"} | {f"test:{right}": "right"}
        assert {entry.key: entry.value async for entry in store.list()} == expected
        assert set(await keys(store, f"test:{left}")) == {key for key in expected if key.startswith(f"test:{left}")}
        await store.close()

    asyncio.run(scenario())


async def test_an_absent_key_is_none(store: Store) -> None:
    assert await store.get("test:nobody") is None


async def test_a_value_read_is_a_copy(store: Store) -> None:
    await store.put("test:k", {"count": 1}, None)
    value = await store.get("test:k")
    assert isinstance(value, dict)
    value["count"] = 2
    assert await store.get("test:k") == {"count": 1}


async def test_a_key_without_a_namespace_is_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="no namespace"):
        await store.put("bare", 1, None)


@pytest.mark.parametrize(("value", "error"), [(b"bytes", TypeError), (math.nan, ValueError), ("x" * 2**20, ValueError)])
async def test_what_json_cannot_hold_and_what_is_too_large_is_refused(
    store: Store, value: Value, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await store.put("test:k", value, None)
    with pytest.raises(error):
        await store.update("test:k", lambda _entry, _now: Put(value, None, None))
    assert await keys(store) == []


# --- listing and deleting


async def test_list_goes_by_prefix_in_order_and_stops_at_the_limit(store: Store) -> None:
    await asyncio.gather(*(store.put(f"many:{number:04}", number, None) for number in range(600)))
    await store.put("manz:", 0, None)
    await store.put("man:", 0, None)
    everything = [f"many:{number:04}" for number in range(600)]
    assert await keys(store, "many:") == everything
    assert await keys(store, "many:", 257) == everything[:257]
    assert await keys(store, "many:", 0) == []
    assert await keys(store) == ["man:", *everything, "manz:"]


async def test_list_tells_value_and_expiry(store: Store) -> None:
    await store.put("test:a", [1], 60)
    await store.put("test:b", "x", None)
    assert [entry async for entry in store.list()] == [
        Entry("test:a", [1], START + 60),
        Entry("test:b", "x", None),
    ]


async def test_delete_says_whether_there_was_an_entry(store: Store) -> None:
    await store.put("test:k", 1, None)
    assert await store.delete("test:k") is True
    assert await store.delete("test:k") is False
    assert await store.get("test:k") is None


async def test_delete_prefix_counts_and_spares_the_neighbours(store: Store) -> None:
    await asyncio.gather(*(store.put(f"many:{number}", number, None) for number in range(600)))
    await store.put("manz:", 0, None)
    assert await store.delete_prefix("many:") == 600
    assert await keys(store) == ["manz:"]
    assert await store.delete_prefix("") == 1


# --- expiry


async def test_an_entry_is_gone_at_its_expiry_and_not_before(store: Store, clock: HandClock) -> None:
    await store.put("test:k", "here", 60)
    clock.now += 59.9
    assert await store.get("test:k") == "here"
    clock.now = START + 60
    assert await store.get("test:k") is None
    assert await keys(store) == []
    assert await store.delete("test:k") is False


async def test_expired_entries_do_not_count_as_deleted(store: Store, clock: HandClock) -> None:
    await store.put("test:old", 1, 60)
    await store.put("test:new", 1, 120)
    clock.now += 60
    assert await store.delete_prefix("test:") == 1


async def test_an_expired_entry_is_absent_for_an_update(store: Store, clock: HandClock) -> None:
    await store.put("test:k", "old", 60)
    clock.now += 60
    seen: list[Entry | None] = []

    def look(entry: Entry | None, now: float) -> Keep[float]:
        seen.append(entry)
        return Keep(now)

    assert await store.update("test:k", look) == START + 60
    assert seen == [None]


async def test_expired_entries_leave_the_file_by_themselves_and_live_ones_stay(path: Path, clock: HandClock) -> None:
    store = SqliteStore(path, clock, purge_interval_s=0.02)
    await asyncio.gather(*(store.put(f"test:{number}", number, 60) for number in range(1000)))
    await store.put("test:live", 1, 120)
    await store.put("test:eternal", 1, None)
    assert raw_count(path) == 1002
    clock.now += 60
    await until(lambda: raw_count(path) == 2)
    assert await keys(store) == ["test:eternal", "test:live"]
    await store.close()


# --- counters and updates


async def test_a_counter_keeps_the_expiry_it_was_made_with(store: Store, clock: HandClock) -> None:
    assert await store.increment("test:n", expires_in_s=60) == 1
    clock.now += 40
    assert await store.increment("test:n", 4, expires_in_s=60) == 5
    assert [entry.expires_at async for entry in store.list()] == [START + 60]
    clock.now += 20
    assert await store.increment("test:n", expires_in_s=60) == 1


@pytest.mark.parametrize("value", ["5", True, 1.0, {"n": 1}])
async def test_only_an_integer_can_be_counted(store: Store, value: Value) -> None:
    await store.put("test:n", value, None)
    with pytest.raises(TypeError, match="test:n holds"):
        await store.increment("test:n")
    assert await store.get("test:n") == value


async def test_concurrent_increments_each_get_a_number_of_their_own(store: Store) -> None:
    assert sorted(await asyncio.gather(*(store.increment("test:n") for _ in range(2000)))) == list(range(1, 2001))


async def test_an_update_decides_once_about_what_is_there(store: Store) -> None:
    """Greylisting in small: the whole decision in one atom, with an answer for the caller."""

    def greylist(entry: Entry | None, now: float) -> Decision[str]:
        if entry is None:
            return Put({"first": now}, now + 3600, "first seen")
        return Keep("known")

    first, second = await asyncio.gather(store.update("grey:k", greylist), store.update("grey:k", greylist))
    assert (first, second) == ("first seen", "known")
    assert [entry async for entry in store.list()] == [Entry("grey:k", {"first": START}, START + 3600)]
    assert await store.update("grey:k", lambda entry, _now: Remove(entry)) == Entry(
        "grey:k", {"first": START}, START + 3600
    )
    assert await store.get("grey:k") is None


async def test_a_failing_update_harms_no_other_call_of_its_batch(store: Store) -> None:
    def fail(_entry: Entry | None, _now: float) -> Put[None]:
        raise ZeroDivisionError("the plugin's own mistake")

    await store.put("test:b", "before", None)
    results = await asyncio.gather(
        store.put("test:a", 1, None), store.update("test:b", fail), store.increment("test:c"), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), ZeroDivisionError, int]
    assert [await store.get(f"test:{name}") for name in "abc"] == [1, "before", 1]


async def test_calls_made_together_share_commits(store: Store, path: Path) -> None:
    """`data_version` of another connection moves when a commit of the store has touched the file."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        commits = 0
        tasks = [asyncio.create_task(store.increment("test:n")) for _ in range(400)]
        seen = connection.execute("PRAGMA data_version").fetchone()
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            version = connection.execute("PRAGMA data_version").fetchone()
            commits += version != seen
            seen = version
    assert await store.get("test:n") == 400
    assert commits < 100


async def test_a_cancelled_caller_corrupts_nothing(store: Store) -> None:
    tasks = [asyncio.create_task(store.increment("test:n")) for _ in range(300)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    answered = [result for result in results if isinstance(result, int)]
    assert len(answered) == 150
    count = await store.get("test:n")
    assert isinstance(count, int)
    assert max(answered) <= count <= 300
    assert len(set(answered)) == 150


# --- closing and reopening


async def test_what_was_asked_before_close_is_done_and_what_comes_after_is_unavailable(
    path: Path, clock: HandClock
) -> None:
    store = open_store(f"sqlite:{path}", clock)
    tasks = [asyncio.create_task(store.increment("test:n")) for _ in range(1000)]
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    assert sorted(await asyncio.gather(*tasks)) == list(range(1, 1001))
    with pytest.raises(Unavailable, match="store"):
        await store.get("test:n")
    again = open_store(f"sqlite:{path}", clock)
    assert await again.get("test:n") == 1000
    await again.close()


async def test_the_file_is_not_for_other_users(store: Store, path: Path) -> None:
    await store.put("test:k", 1, None)
    assert [file.name for file in path.parent.iterdir() if file.stat().st_mode & 0o007] == []
