"""Rates as administrators write them (`"100/hour"`), and counting against them in the store.

The notation and the strategy are those of the library `limits`: a sliding window, made of two counters. This module
gives it the store to count in, so that counts survive a restart and are shared by all that share the store. Each rate
of each subject is one entry, `[window, count, count of the window before]`, and each count is one atomic update: no
number of clients at once gets more through than the rate says.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias, TypeVar

import limits
from limits.aio.storage.base import SlidingWindowCounterSupport, Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from pydantic import BeforeValidator, InstanceOf

from gatepost.errors import Unavailable
from gatepost.services.store.store import Keep, Put

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gatepost.services.store.store import Entry, Store

_R = TypeVar("_R")

Rate: TypeAlias = limits.RateLimitItem
"""So many in so long; `str()` gives `100 per 1 hour`, which can be parsed again."""


WINDOW_LIMIT_S = 10 * 366 * 86400
"""No rate is meant to look back longer; and times beyond all bounds are no numbers for a store."""


def parse_rates(value: object) -> tuple[Rate, ...]:
    """Return the rates in `"100/hour"`, `"10 per 5 minutes"`, `"20/minute, 500/day"` or a list of such texts.

    None, an empty text and `"none"` are no rate at all; `"0/hour"` lets nothing through. ValueError otherwise.
    """
    match value:
        case None:
            return ()
        case limits.RateLimitItem():
            if value.get_expiry() > WINDOW_LIMIT_S:
                raise ValueError(f"'{value}' looks back too far: the longest is ten years")
            return (value,)
        case list() | tuple():
            # Twice the same would count everything twice.
            return tuple(dict.fromkeys(rate for one in value for rate in parse_rates(one)))
        case str() if value.strip().lower() in {"", "none"}:
            return ()
        case str():
            try:
                rates = limits.parse_many(value.strip())
            except ValueError:
                pass
            else:
                return parse_rates(rates)
    raise ValueError(
        f'{value!r} is not a rate: write for example "100/hour", "10 per 5 minutes", or "20/minute, 500/day" for both; '
        'the words are second, minute, hour, day, month and year, and "none" is no limit'
    )


Rates = Annotated[tuple[InstanceOf[Rate], ...], BeforeValidator(parse_rates)]
"""Any number of rates, all of which hold, as an option of a plugin; its default is usually `()`, no limit."""


@dataclass(frozen=True, slots=True)
class Charge:
    """One thing to be counted: against `rate`, for the subject `who` (`192.0.2.1`) among those of `kind` (`client`).

    Another rate of the same subject has a count of its own.
    """

    rate: Rate
    kind: str
    who: str


class RateLimiter:
    """Counts in the store, under keys that begin with `namespace`, usually the plugin's name.

    Its methods raise `Unavailable` when the store does not answer.
    """

    def __init__(self, store: Store, namespace: str) -> None:
        self._storage = StoreStorage(store, namespace)
        self._strategy = SlidingWindowCounterRateLimiter(self._storage)

    async def take(self, charges: Iterable[Charge]) -> Charge | None:
        """Count every charge, and return None; or, where one is over its rate, count none and return the first such.

        All are counted in one turn of the store. Where that was too much for one of them, the others are given back
        in a second turn; between the two somebody else may be told that a rate is reached which then is not.
        """
        wanted = list(charges)
        fits = await asyncio.gather(*(self._strategy.hit(one.rate, one.kind, _plain(one.who)) for one in wanted))
        over = next((one for one, fit in zip(wanted, fits, strict=True) if not fit), None)
        if over is not None:
            await self.give_back(one for one, fit in zip(wanted, fits, strict=True) if fit)
        return over

    async def give_back(self, charges: Iterable[Charge]) -> None:
        """Uncount what `take` has counted."""
        await asyncio.gather(
            *(
                self._storage.give_back(one.rate.key_for(one.kind, _plain(one.who)), one.rate.get_expiry())
                for one in charges
            )
        )


def _plain(who: str) -> str:
    # Bytes that are not UTF-8 are legal to Postfix, but not to every store.
    return who.encode(errors="backslashreplace").decode()


class StoreStorage(Storage, SlidingWindowCounterSupport):
    """Where the strategies of `limits` count: our store."""

    STORAGE_SCHEME = None  # not to be had by a URL

    def __init__(self, store: Store, namespace: str) -> None:
        super().__init__()
        self._store = store
        self._namespace = namespace

    @property
    def base_exceptions(self) -> type[Exception]:
        """What a storage that does not answer raises; not wrapped, the plugin's policy wants it as it is."""
        return Unavailable

    async def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count `amount` if the weighted count stays within `limit`."""

        def decide(entry: Entry | None, now: float) -> Put[bool] | Keep[bool]:
            window = _Window.read(entry, now, expiry)
            if math.floor(window.weighted(now)) + amount > limit:
                return Keep(False)
            return window.put(amount, True)

        return await self._store.update(self._key(key), decide)

    async def give_back(self, key: str, expiry: int, amount: int = 1) -> None:
        """Uncount `amount`, as far as it is still counted."""

        def decide(entry: Entry | None, now: float) -> Put[None] | Keep[None]:
            return Keep(None) if entry is None else _Window.read(entry, now, expiry).put(-amount, None)

        await self._store.update(self._key(key), decide)

    async def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return the count of the window before and for how long it still has weight, and the same of this window."""

        def decide(entry: Entry | None, now: float) -> Keep[tuple[int, float, int, float]]:
            window = _Window.read(entry, now, expiry)
            left_s = expiry - now % expiry
            return Keep((window.before, left_s if window.before else 0.0, window.count, left_s + expiry))

        return await self._store.update(self._key(key), decide)

    async def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Forget both windows."""
        await self.clear(key)

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count in a fixed window, which begins with its first count."""
        return await self._store.increment(self._key(key), amount, expiry)

    async def get(self, key: str) -> int:
        """Return the count of a fixed window."""
        value = await self._store.get(self._key(key))
        return value if isinstance(value, int) else 0

    async def get_expiry(self, key: str) -> float:
        """Return the Unix time at which the entry ends; now if there is none."""

        def decide(entry: Entry | None, now: float) -> Keep[float]:
            return Keep(now if entry is None or entry.expires_at is None else entry.expires_at)

        return await self._store.update(self._key(key), decide)

    async def check(self) -> bool:
        """Tell whether the store answers."""
        try:
            await self._store.get(self._key(""))
        except Unavailable:
            return False
        return True

    async def reset(self) -> int:
        """Forget every count of this namespace; return how many there were."""
        return await self._store.delete_prefix(self._key(""))

    async def clear(self, key: str) -> None:
        """Forget one count."""
        await self._store.delete(self._key(key))

    def _key(self, key: str) -> str:
        # The library's own namespace is the same for all.
        return f"{self._namespace}:{key.removeprefix('LIMITER/')}"


@dataclass(frozen=True, slots=True)
class _Window:
    """The counts as they are in the window now: windows follow each other from the epoch on, `length_s` each."""

    number: int
    length_s: int
    count: int = 0
    before: int = 0

    @classmethod
    def read(cls, entry: Entry | None, now: float, length_s: int) -> _Window:
        number = int(now // length_s)
        match entry.value if entry else None:
            case [int() as at, int() as count, int() as before] if at == number:
                return cls(number, length_s, count, before)
            case [int() as at, int() as count, int()] if at == number - 1:
                return cls(number, length_s, 0, count)
            case _:
                # Long ago; or the clock was set back by a window, and then what is known means nothing.
                return cls(number, length_s)

    def weighted(self, now: float) -> float:
        """Return the count of the last `length_s` seconds, if the window before was filled evenly."""
        return self.before * (1 - now % self.length_s / self.length_s) + self.count

    def put(self, amount: int, result: _R) -> Put[_R]:
        """Return the decision to count `amount`.

        What is given back is taken from this window first: nearly always it was counted in it.
        """
        count = self.count + amount
        before = max(0, self.before + min(0, count))
        return Put([self.number, max(0, count), before], (self.number + 2) * self.length_s, result)
