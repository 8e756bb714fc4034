"""The store in an SQLite file: calls from the event loop, a thread that does them, many in one transaction.

Theory of operation: a call joins a queue. While the thread is busy the queue grows; when it comes back, all that has
queued up goes to it in one hop and one commit, so the price of both is shared and throughput rises with load. A caller
hears its result only after the commit: what was answered survives a killed process. A cancelled caller leaves its call
to be done or not done, never half done. Expired entries are never seen, and deleted little by little on a timer.
"""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar, assert_never, cast

from gatepost.errors import Unavailable
from gatepost.services.store.sqlite_file import Call, SqliteFile
from gatepost.services.store.store import Entry, Keep, Put, Remove, Store

if TYPE_CHECKING:
    from collections import abc
    from pathlib import Path

    from gatepost.services.store.store import Clock, Decide, Value

R = TypeVar("R")

# Bounds one transaction to some 20 ms, and so how long another process, or the next caller, waits for it.
_BATCH_CALLS = 512
_PAGE_ENTRIES = 256

# An entry is a few facts about a client; this keeps a plugin from storing messages and stalling everyone.
_VALUE_LIMIT_BYTES = 1 << 20

_Batch = list[tuple[Call[Any], "asyncio.Future[Any]"]]


class SqliteStore(Store):
    """A Store in the file `path` (None: in memory); several processes may have it open. ConfigError if unusable.

    `busy_timeout_s` is how long another process may hold the file before a call is Unavailable.
    Used from one event loop, the one running at the first call.
    """

    def __init__(
        self,
        path: Path | None,
        clock: Clock,
        *,
        create: bool = True,
        busy_timeout_s: float = 2.0,
        purge_interval_s: float = 60.0,
    ) -> None:
        self._file = SqliteFile(path, busy_timeout_s=busy_timeout_s, create=create)
        self._clock = clock
        # A thread and a queue of our own: an executor's futures cost more than the work.
        self._thread: threading.Thread | None = None
        self._batches: SimpleQueue[tuple[asyncio.AbstractEventLoop, _Batch] | None] = SimpleQueue()
        self._purge_interval_s = purge_interval_s
        self._purge_timer: asyncio.TimerHandle | None = None
        self._queue: _Batch = []
        self._busy = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False

    async def get(self, key: str) -> Value:
        """See Store."""
        encoded = _encode_key(key)
        row = await self._ask(lambda file, now: file.select(now, encoded), writes=False)
        return None if row is None else _decode_value(row[0])

    async def put(self, key: str, value: Value, expires_in_s: float | None) -> None:
        """See Store."""
        encoded, text = _encode_key(key), _encode_value(value)
        await self._ask(
            lambda file, now: file.upsert(encoded, text, None if expires_in_s is None else now + expires_in_s),
            writes=True,
        )

    async def update(self, key: str, decide: Decide[R]) -> R:
        """See Store."""
        return await self._ask(partial(_update, key, _encode_key(key), decide), writes=True)

    async def delete(self, key: str) -> bool:
        """See Store."""
        encoded = _encode_key(key)
        return await self._ask(lambda file, now: file.delete(now, encoded), writes=True)

    async def delete_prefix(self, prefix: str) -> int:
        """See Store; in small bites, so that nobody waits long."""
        start, end = _key_range(prefix)
        total, taken = 0, _PAGE_ENTRIES
        while taken == _PAGE_ENTRIES:
            live, taken = await self._ask(
                lambda file, now: file.delete_range(now, start, end, _PAGE_ENTRIES), writes=True
            )
            total += live
        return total

    async def list(self, prefix: str = "", limit: int | None = None) -> abc.AsyncIterator[Entry]:
        """See Store; read page by page, so that no long read keeps the write-ahead log from being folded in."""
        start, end = _key_range(prefix)
        left = limit
        while left is None or left > 0:
            size = _PAGE_ENTRIES if left is None else min(left, _PAGE_ENTRIES)
            rows = await self._ask(partial(SqliteFile.page, start=start, end=end, limit=size), writes=False)
            for key, text, expires_at in rows:
                yield Entry(_decode_key(key), _decode_value(text), expires_at)
            if len(rows) < size:
                return
            start = rows[-1][0] + b"\0"
            left = None if left is None else left - size

    async def close(self) -> None:
        """See Store."""
        if self._closed:
            return
        self._closed = True
        if self._purge_timer is not None:
            self._purge_timer.cancel()
        await self._idle.wait()
        if self._thread is not None:
            self._batches.put(None)
            await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._file.close)

    def _ask(self, work: abc.Callable[[SqliteFile, float], R], *, writes: bool) -> asyncio.Future[R]:
        """Queue one piece of work and return the future of its result."""
        if self._closed:
            raise Unavailable("store", "gatepost is stopping")
        loop = asyncio.get_running_loop()
        if self._purge_timer is None:
            self._purge_timer = loop.call_later(self._purge_interval_s, self._purge)
        future: asyncio.Future[R] = loop.create_future()
        self._queue.append((Call(work, writes=writes), future))
        if not self._busy:
            self._busy = True
            self._idle.clear()
            # At the end of this turn of the loop, so that calls made in the same turn share the hop.
            loop.call_soon(self._send_batch)
        return future

    def _send_batch(self) -> None:
        """Hand what has queued up to the thread, leaving out the calls whose callers have gone."""
        batch = [pending for pending in self._queue[:_BATCH_CALLS] if not pending[1].done()]
        del self._queue[:_BATCH_CALLS]
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="store", daemon=True)
            self._thread.start()
        self._batches.put((asyncio.get_running_loop(), batch))

    def _work(self) -> None:
        """Be the thread: do one batch after the other, until None comes."""
        while (job := self._batches.get()) is not None:
            loop, batch = job
            self._file.transact([call for call, _ in batch], self._clock())
            # Closed with the daemon's end: nobody is left to hear it.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._deliver, batch)

    def _deliver(self, batch: _Batch) -> None:
        """Wake the callers of a batch, then send the next one if there is any."""
        for call, future in batch:
            if future.done():
                continue
            if call.error is not None:
                future.set_exception(call.error)
            else:
                future.set_result(call.result)
        if self._queue:
            self._send_batch()
        else:
            self._busy = False
            self._idle.set()

    def _purge(self) -> None:
        if not self._closed:
            self._ask(partial(SqliteFile.purge, limit=_PAGE_ENTRIES), writes=True).add_done_callback(self._purged)

    def _purged(self, done: asyncio.Future[int]) -> None:
        """Go on at once while there is more to delete; a failure is not told here, the next caller meets it too."""
        more = done.exception() is None and done.result() == _PAGE_ENTRIES
        if not self._closed:
            self._purge_timer = done.get_loop().call_later(0 if more else self._purge_interval_s, self._purge)


def _update(key: str, encoded: bytes, decide: Decide[R], file: SqliteFile, now: float) -> R:
    row = file.select(now, encoded)
    decision = decide(None if row is None else Entry(key, _decode_value(row[0]), row[1]), now)
    match decision:
        case Put(value, expires_at, result):
            file.upsert(encoded, _encode_value(value), expires_at)
        case Remove(result):
            file.delete(now, encoded)
        case Keep(result):
            pass
        case _:
            assert_never(decision)
    return result


def _encode_key(key: str) -> bytes:
    if not key.partition(":")[1]:
        raise ValueError(f"the store's key {key!r} has no namespace: write for example 'greylist:{key}'")
    # An address as SMTP had it may hold surrogates in place of bytes that are not UTF-8; they must come back the same.
    return key.encode("utf-8", "surrogatepass")


def _decode_key(key: bytes) -> str:
    return key.decode("utf-8", "surrogatepass")


def _key_range(prefix: str) -> tuple[bytes, bytes]:
    """Return the first key with this prefix and the first one after them all; no byte of UTF-8 is 0xff."""
    start = prefix.encode("utf-8", "surrogatepass")
    return start, start[:-1] + bytes([start[-1] + 1]) if start else b"\xff"


def _encode_value(value: Value) -> str:
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    if len(text) > _VALUE_LIMIT_BYTES:
        raise ValueError(f"a value of {len(text)} bytes is too large for the store; the limit is {_VALUE_LIMIT_BYTES}")
    return text


def _decode_value(text: str) -> Value:
    return cast("Value", json.loads(text))
