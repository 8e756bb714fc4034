"""The names in a zip archive, and in those within it, without unpacking more than a bounded part of it.

A zip has each name twice, in front of the file and in the directory at its end, and programs disagree which one counts.
Both are found by their marks, wherever they stand: a damaged directory, an archive behind other data or two archives in
one file hide nothing.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES_LIMIT = 10_000
"""Entries that are read, nested archives together; each takes two microseconds."""

MARKS_LIMIT = 5 * NAMES_LIMIT
"""Marks of entries that are looked at: each name has two, and a stranger may write nothing but marks."""

UNPACKED_LIMIT = 16 << 20
"""Bytes that are unpacked of one attachment, to look into archives within it."""

DEPTH_LIMIT = 4

_LOCAL, _CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
_ARCHIVES = (".zip", ".jar", ".docx", ".docm", ".xlsx", ".xlsm", ".pptx", ".pptm", ".apk", ".xpi", ".odt", ".ods")


@dataclass(slots=True)
class ZipNames:
    """What stands in an archive."""

    names: dict[str, None] = field(default_factory=dict)
    """In order; those of nested archives as `outer.zip/inner.exe` would be too long: as they stand there."""
    is_encrypted: bool = False
    """An entry cannot be read without a password; its name can."""
    is_whole: bool = True
    """False if there is more than was looked at: too many names, too deep, or too large."""
    marks: int = 0
    """Entries seen, with all repetitions."""


def zip_names(content: bytes) -> ZipNames:
    """Return the names of all files in the archive; none for what is no archive. Never raises."""
    found = ZipNames()
    _collect(content, found, DEPTH_LIMIT, [UNPACKED_LIMIT])
    return found


def _collect(content: bytes, found: ZipNames, depth: int, budget: list[int]) -> None:
    inner = []
    for mark, flags_at, name_at in ((_LOCAL, 6, 26), (_CENTRAL, 8, 28)):
        for start, flags, name, end in _entries(content, mark, flags_at, name_at):
            found.marks += 1
            if len(found.names) >= NAMES_LIMIT or found.marks > MARKS_LIMIT:
                found.is_whole = False
                return
            if name and not name.endswith(("/", "\\")):
                found.names[name] = None
            found.is_encrypted |= bool(flags & 1)
            if mark == _LOCAL and not flags & 1 and content[start + 8] == 8 and name.lower().endswith(_ARCHIVES):
                inner.append(end)
    for place in inner:
        if not depth or budget[0] <= 0:
            found.is_whole = False
            return
        data = _inflate(content, place, budget[0])
        budget[0] -= len(data)
        if budget[0] <= 0:
            found.is_whole = False
        _collect(data, found, depth - 1, budget)


def _entries(content: bytes, mark: bytes, flags_at: int, name_at: int) -> Iterator[tuple[int, int, str, int]]:
    """Yield for each mark: where it stands, the entry's flags, its name, and where its data begins (if it is local)."""
    size = name_at + (4 if mark == _LOCAL else 18)
    start = content.find(mark)
    while start >= 0:
        if start + size > len(content):
            return
        flags = int.from_bytes(content[start + flags_at : start + flags_at + 2], "little")
        length = int.from_bytes(content[start + name_at : start + name_at + 2], "little")
        extra = int.from_bytes(content[start + name_at + 2 : start + name_at + 4], "little")
        raw = content[start + size : start + size + min(length, 1024)]
        yield start, flags, raw.decode("utf-8" if flags & 0x800 else "cp437", "replace"), start + size + length + extra
        start = content.find(mark, start + 4)


def _inflate(content: bytes, place: int, limit: int) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(memoryview(content)[place:], limit)
    except zlib.error:
        return b""
