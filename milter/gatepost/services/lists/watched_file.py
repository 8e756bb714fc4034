"""Files that plugins read: parsed at the start, parsed again when they change, never half.

A change is noticed when the value is asked for (one stat, a microsecond), so the command after the save already uses
the new version, on any file system. A small file is parsed on the spot. One so large that parsing it would hold up the
event loop is parsed in a thread, and the old version serves until that is done.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Generic, TypeVar

import structlog

from gatepost.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

INLINE_LIMIT_BYTES = 128 * 1024
"""About 3,000 lines, ten milliseconds of parsing: the most that may hold up the event loop."""

_log = structlog.get_logger("gatepost.files")

_Stamp = tuple[int, int, int]


class WatchedFile(Generic[T]):
    """A text file and what `parse` made of its newest good version.

    Construction raises ConfigError when the file is missing, unreadable, not UTF-8, or refused by `parse`; after that
    such a version is only logged, once, and the value stays.
    """

    def __init__(self, path: Path, parse: Callable[[str, Path], T]) -> None:
        self.path = path
        self._name = str(path)
        self._parse = parse
        self._lock = threading.Lock()
        try:
            self._stamp = self._stat()
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}", path) from error
        self._value = self._load()

    @property
    def value(self) -> T:
        """The newest good version. Cheap; call it for every use instead of keeping the result."""
        try:
            stamp = self._stat()
        except OSError as error:
            stamp = (0, 0, error.errno or 0)
        if stamp != self._stamp and self._lock.acquire(blocking=False):
            self._stamp = stamp
            if stamp[1] > INLINE_LIMIT_BYTES:
                threading.Thread(target=self._reload, name=f"parse {self.path.name}", daemon=True).start()
            else:
                self._reload()
        return self._value

    def _stat(self) -> _Stamp:
        status = os.stat(self._name)  # noqa: PTH116 - for every message: a Path would cost more than the call
        return (status.st_mtime_ns, status.st_size, status.st_ino)

    def _load(self) -> T:
        try:
            text = self.path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"cannot read {self.path}: {error.strerror}", self.path) from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise ConfigError("not UTF-8 text: save the file as UTF-8", self.path, line) from error
        return self._parse(text, self.path)

    def _reload(self) -> None:
        try:
            self._value = self._load()
        except ConfigError as error:
            _log.error("file not taken over, the old version stays in force", file=str(self.path), problem=str(error))
        except Exception as error:  # noqa: BLE001 - `parse` is a plugin's, and a bug in it no reason to refuse mail
            problem = f"{type(error).__name__}: {error}"
            _log.error("file not taken over, the old version stays in force", file=str(self.path), problem=problem)
        else:
            _log.info("file taken over", file=str(self.path))
        finally:
            self._lock.release()
