"""A directory of whole messages, the oldest of which make room for the newest; and a file to which lines are appended.

For one thread at a time. Failures are OSError; neither leaves half of anything behind.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from gatepost.message.body import CHUNK_BYTES

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

SUFFIX = ".eml"

_WRITTEN_S = 3600.0
"""After so long nobody writes a part any more: its process was killed."""

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


class MessageArchive:
    """Keeps messages in `directory`, at most `limit_bytes` together; what was there before counts.

    Nobody but this process may write there. Names sort by age.
    """

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self.directory = directory
        self._limit = limit_bytes
        self._kept: deque[tuple[str, int]] = deque()
        for part in directory.glob(f"*{SUFFIX}.part"):
            # A young one is being written: before a reload, or by the daemon beside which this is only a check.
            with suppress(FileNotFoundError):
                if part.stat().st_mtime < time.time() - _WRITTEN_S:
                    part.unlink()
        for path in sorted(directory.glob(f"*{SUFFIX}")):
            with suppress(FileNotFoundError):
                self._kept.append((path.name, path.stat().st_size))
        self._total = sum(size for _, size in self._kept)

    def keep(self, name: str, message: BinaryIO, size: int) -> str:
        """Store a message under `name`, which is made fit for a file; return the file's name, empty if it is too large.

        Mode 0600. Copied in constant memory.
        """
        if size > self._limit:
            return ""
        self._make_room(size)
        file = _UNSAFE.sub("_", name)[:100].lstrip(".") + SUFFIX
        part = self.directory / f"{file}.part"
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "wb") as target:  # noqa: PTH123 - a descriptor
                while chunk := message.read(CHUNK_BYTES):
                    target.write(chunk)
            part.rename(self.directory / file)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        self._kept.append((file, size))
        self._total += size
        return file

    def _make_room(self, size: int) -> None:
        while self._kept and self._total + size > self._limit:
            name, freed = self._kept.popleft()
            self._total -= freed
            # An administrator may have removed it.
            (self.directory / name).unlink(missing_ok=True)


def append_line(path: Path, line: bytes) -> None:
    """Append a line to the file, whole or not at all; made with mode 0640 if it is not there.

    Opened anew each time: whoever rotates it has nobody to tell. A pipe that nobody reads is an error, too.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o640)
    try:
        before = os.fstat(descriptor).st_size
        if os.write(descriptor, line) < len(line):
            os.ftruncate(descriptor, before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(descriptor)
