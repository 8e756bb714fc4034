"""The store: the only state that outlives a client session, shared by every plugin and every gatepost process.

A plugin namespaces its keys (`greylist:192.0.2.1:...`) and keeps small plain data under them; each entry may expire.
This module owns the interface and the choice of an implementation by URL; `sqlite_store` keeps the entries in a file.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from gatepost.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

R = TypeVar("R")

Value: TypeAlias = "bool | int | float | str | Sequence[Value] | Mapping[str, Value] | None"
"""Plain data as JSON has it; comes back as dict, list, str, int, float, bool or None, a copy of the reader's own."""

Clock: TypeAlias = Callable[[], float]
"""Returns Unix time in seconds."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One key with its value; `expires_at` is Unix time in seconds, None for never."""

    key: str
    value: Value
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class Put(Generic[R]):
    """Decision of an update: keep `value` until `expires_at` (Unix time; None: for ever), answer `result`."""

    value: Value
    expires_at: float | None
    result: R


@dataclass(frozen=True, slots=True)
class Keep(Generic[R]):
    """Decision of an update: leave the entry, or its absence, as it is and answer `result`."""

    result: R


@dataclass(frozen=True, slots=True)
class Remove(Generic[R]):
    """Decision of an update: delete the entry and answer `result`."""

    result: R


Decision: TypeAlias = Put[R] | Keep[R] | Remove[R]

Decide: TypeAlias = Callable[[Entry | None, float], Decision[R]]
"""From the entry (None if absent or expired) and the store's time now to a decision.

Plain `def`, quick, and without side effects: it runs in the store's thread, and another implementation may call it
again after a conflict.
"""


class Store(ABC):
    """Keys to plain data with expiry; every method is atomic, and an expired entry is as good as absent.

    Every method raises `Unavailable("store", reason)` if the store cannot answer, and then changed nothing.
    A key is `NAMESPACE:REST`, the namespace usually a plugin's name; anything else is a ValueError.
    A value that JSON cannot hold is a TypeError or a ValueError.
    """

    @abstractmethod
    async def get(self, key: str) -> Value:
        """Return the value, None if there is no such entry."""

    @abstractmethod
    async def put(self, key: str, value: Value, expires_in_s: float | None) -> None:
        """Write an entry, whatever was there; `expires_in_s` None keeps it for ever."""

    @abstractmethod
    async def update(self, key: str, decide: Decide[R]) -> R:
        """Read, decide and write with nobody between; return the result in the decision.

        What `decide` raises is raised here, and nothing is written.
        """

    @abstractmethod
    async def delete(self, key: str) -> bool:
        """Delete one entry; True if it was there."""

    @abstractmethod
    async def delete_prefix(self, prefix: str) -> int:
        """Delete every entry whose key begins with `prefix` ("" means all), not in one atom; return how many."""

    @abstractmethod
    def list(self, prefix: str = "", limit: int | None = None) -> AsyncIterator[Entry]:
        """Yield entries in the order of their keys, at most `limit`; entries written meanwhile may be missed."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what was asked for, then let go; any later call is Unavailable. Closing twice is harmless."""

    async def increment(self, key: str, amount: int = 1, expires_in_s: float | None = None) -> int:
        """Add to a counter, made at 0 if absent, and return its new value.

        The expiry is set when the counter is made and kept afterwards, so that the count covers a fixed window.
        TypeError if the entry holds something else than an integer.
        """

        def add(entry: Entry | None, now: float) -> Put[int]:
            if entry is None:
                return Put(amount, None if expires_in_s is None else now + expires_in_s, amount)
            if not isinstance(entry.value, int) or isinstance(entry.value, bool):
                raise TypeError(f"{key} holds a {type(entry.value).__name__}, not a counter")
            return Put(entry.value + amount, entry.expires_at, entry.value + amount)

        return await self.update(key, add)


def open_store(url: str, clock: Clock = time.time, *, create: bool = True) -> Store:
    """Open `sqlite:/absolute/path`, or `sqlite::memory:` for a store that ends with the process.

    Blocks for some milliseconds: call it before the daemon serves. `create` False insists on a file that is there.
    ConfigError for another URL, a missing directory, a file that cannot be written or is no gatepost store.
    """
    # Each implementation imports this module for the interface, and costs its library only if it is the one chosen.
    from gatepost.services.store.sqlite_store import SqliteStore

    scheme, _, rest = url.partition(":")
    match scheme:
        case "sqlite" if rest == ":memory:":
            return SqliteStore(None, clock)
        case "sqlite" if rest.startswith("/"):
            return SqliteStore(Path("/", rest.lstrip("/")), clock, create=create)
        case "redis" | "rediss":
            raise ConfigError(
                "[store] url: Redis, for several mail servers with one store, comes in a later version; "
                'use "sqlite:/var/lib/gatepost/gatepost.db" on each until then'
            )
        case _:
            raise ConfigError(
                f'[store] url: {url!r} is not understood; write "sqlite:/path/to/file" with an absolute path, '
                'or "sqlite::memory:" to forget everything at each restart'
            )
