"""The SQLite file under the store: how it is opened, its one table, and transactions of many calls at once.

Everything here blocks and belongs to one thread; `sqlite_store` brings the calls to it. Keys and values arrive encoded.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Generic, TypeVar

from gatepost.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

T = TypeVar("T")

_APPLICATION_ID = 0x67617465  # "gate", in the file's header: tells our files from another program's
_SCHEMA_VERSION = 1
_SCHEMA = (
    "CREATE TABLE entry (key BLOB PRIMARY KEY, value TEXT NOT NULL, expires_at REAL) WITHOUT ROWID",
    "CREATE INDEX entry_expiry ON entry (expires_at) WHERE expires_at IS NOT NULL",
    f"PRAGMA application_id = {_APPLICATION_ID}",
    f"PRAGMA user_version = {_SCHEMA_VERSION}",
)

# After a burst the write-ahead log would keep its greatest size for ever.
_WAL_LIMIT_BYTES = 8 << 20

_LIVE = "(expires_at IS NULL OR expires_at > ?)"
_SELECT = f"SELECT value, expires_at FROM entry WHERE key = ? AND {_LIVE}"
_UPSERT = (
    "INSERT INTO entry VALUES (?, ?, ?) "
    "ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at"
)
_DELETE = "DELETE FROM entry WHERE key = ? RETURNING expires_at"
_PAGE = f"SELECT key, value, expires_at FROM entry WHERE key >= ? AND key < ? AND {_LIVE} ORDER BY key LIMIT ?"
_DELETE_RANGE = (
    "DELETE FROM entry WHERE key IN (SELECT key FROM entry WHERE key >= ? AND key < ? LIMIT ?) RETURNING expires_at"
)
_PURGE = "DELETE FROM entry WHERE key IN (SELECT key FROM entry WHERE expires_at <= ? LIMIT ?)"

Row = tuple[bytes, str, float | None]


class Call(Generic[T]):
    """One thing to do inside a transaction; afterwards it holds `result` or `error`.

    `work` writes with at most one statement, as its last step: so a call that raises has changed nothing.
    """

    __slots__ = ("error", "result", "work", "writes")

    def __init__(self, work: Callable[[SqliteFile, float], T], *, writes: bool) -> None:
        self.work = work
        self.writes = writes
        self.result: T | None = None
        self.error: BaseException | None = None

    def run(self, file: SqliteFile, now: float) -> None:
        """Do the work; its own mistakes stay with it, the database's stop the whole transaction."""
        try:
            self.result = self.work(file, now)
        except sqlite3.Error:
            raise
        except StopIteration as error:
            # A future cannot carry it.
            self.error = RuntimeError(f"StopIteration in a function given to the store: {error}")
        except BaseException as error:  # noqa: BLE001 - a plugin's function failed: its caller gets it, the others go on
            self.error = error


class SqliteFile:
    """An open store file, or one in memory if `path` is None; ConfigError if it cannot be used."""

    def __init__(self, path: Path | None, *, busy_timeout_s: float, create: bool) -> None:
        self._path = path
        if path is not None:
            _prepare_file(path, create)
        try:
            # Made here, used by the one thread of the store: SQLite itself does not mind.
            self._connection = sqlite3.connect(
                path or ":memory:", timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as error:
            raise ConfigError(f"[store] url: {path} cannot be opened: {error}") from error
        try:
            self._set_up(busy_timeout_s)
        except sqlite3.Error as error:
            self._connection.close()
            raise ConfigError(f"[store] url: {self._explain(error)}") from error
        except ConfigError:
            self._connection.close()
            raise

    def _set_up(self, busy_timeout_s: float) -> None:
        execute = self._connection.execute
        (application,) = execute("PRAGMA application_id").fetchone()
        if application != _APPLICATION_ID:
            self._create_schema()
        (version,) = execute("PRAGMA user_version").fetchone()
        if version != _SCHEMA_VERSION:
            raise ConfigError(
                f"[store] url: {self._path} was written by a newer gatepost; install that, or another file"
            )
        journal = self._enter_wal(busy_timeout_s)
        if self._path is not None and journal != "wal":
            raise ConfigError(f"[store] url: {self._path} must be on a local file system, SQLite cannot use WAL there")
        # With WAL, NORMAL survives a killed process; only a power cut may take the last moments, never consistency.
        execute("PRAGMA synchronous = NORMAL")
        execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")

    def _enter_wal(self, busy_timeout_s: float) -> str:
        """Return the journal mode. Here SQLite itself does not wait for another process that opens a new file, too."""
        end = time.monotonic() + busy_timeout_s
        while True:
            try:
                (journal,) = self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
                time.sleep(0.005)
            else:
                return str(journal)

    def _create_schema(self) -> None:
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        (application,) = execute("PRAGMA application_id").fetchone()
        if application == _APPLICATION_ID:  # another process was quicker
            execute("ROLLBACK")
            return
        (tables,) = execute("SELECT count(*) FROM sqlite_schema").fetchone()
        if application or tables:
            raise ConfigError(f"[store] url: {self._path} is another program's database; name a file of its own")
        for statement in _SCHEMA:
            execute(statement)
        execute("COMMIT")

    def _explain(self, error: sqlite3.Error) -> str:
        match getattr(error, "sqlite_errorname", "").split("_")[1:2]:
            case ["BUSY"] | ["LOCKED"]:
                return f"{self._path} is locked by another process"
            case ["FULL"]:
                return f"the disk of {self._path} is full"
            case ["NOTADB"]:
                return f"{self._path} is not an SQLite database; name another file, or move this one away"
            case ["CORRUPT"]:
                return f"{self._path} is damaged ({error}); stop gatepost and move it away, a new one is made"
            case _:
                return f"{self._path}: {error}"

    def transact(self, calls: Sequence[Call[object]], now: float) -> None:
        """Run every call in one transaction and commit; if the database fails, each call gets its Unavailable."""
        try:
            self._connection.execute("BEGIN IMMEDIATE" if any(call.writes for call in calls) else "BEGIN")
            for call in calls:
                call.run(self, now)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            for call in calls:
                call.error = Unavailable("store", self._explain(error))
        finally:
            if self._connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Close the file; the last process to do so folds the write-ahead log into it."""
        self._connection.close()

    def select(self, now: float, key: bytes) -> tuple[str, float | None] | None:
        """Return value and expiry of a live entry."""
        row: tuple[str, float | None] | None = self._connection.execute(_SELECT, (key, now)).fetchone()
        return row

    def upsert(self, key: bytes, value: str, expires_at: float | None) -> None:
        """Write an entry over whatever was there."""
        self._connection.execute(_UPSERT, (key, value, expires_at))

    def delete(self, now: float, key: bytes) -> bool:
        """Delete one entry; True if it was live."""
        return _live(self._connection.execute(_DELETE, (key,)).fetchall(), now) == 1

    def page(self, now: float, start: bytes, end: bytes, limit: int) -> list[Row]:
        """Return live entries from `start` up to but not including `end`, in order."""
        return self._connection.execute(_PAGE, (start, end, now, limit)).fetchall()

    def delete_range(self, now: float, start: bytes, end: bytes, limit: int) -> tuple[int, int]:
        """Delete up to `limit` entries; return how many were live and how many went in all."""
        rows = self._connection.execute(_DELETE_RANGE, (start, end, limit)).fetchall()
        return _live(rows, now), len(rows)

    def purge(self, now: float, limit: int) -> int:
        """Delete up to `limit` expired entries; return how many."""
        return self._connection.execute(_PURGE, (now, limit)).rowcount


def _live(rows: Sequence[tuple[float | None]], now: float) -> int:
    return sum(expires_at is None or expires_at > now for (expires_at,) in rows)


def _prepare_file(path: Path, create: bool) -> None:
    """Refuse in plain words what SQLite would call "unable to open database file", and make a missing file."""
    directory = path.parent
    if not directory.is_dir():
        raise ConfigError(f"[store] url: the directory {directory} does not exist; create it or name another")
    # SQLite puts its write-ahead log beside the file.
    _demand_access(directory, os.R_OK | os.W_OK | os.X_OK)
    if path.is_dir():
        raise ConfigError(f"[store] url: {path} is a directory; name a file in it")
    if not create and not path.exists():
        raise ConfigError(f"[store] url: {path} does not exist yet; gatepost makes it when it first runs")
    if path.exists():
        _demand_access(path, os.R_OK | os.W_OK)
    try:
        # The senders and recipients of everyone's mail: not for other users of the machine.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))
    except OSError as error:
        raise ConfigError(f"[store] url: {path} cannot be opened: {error.strerror}") from error


def _demand_access(place: Path, mode: int) -> None:
    if not os.access(place, mode):
        raise ConfigError(
            f"[store] url: {place} cannot be written by user id {os.geteuid()}; it must belong to gatepost's user"
        )
