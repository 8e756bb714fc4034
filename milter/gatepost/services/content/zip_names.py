"""The names in a zip archive, and in those within it, without unpacking more than a bounded part of it.

A zip has each name twice, in front of the file and in the directory at its end, and programs disagree which one counts.
Both are found by their marks, wherever they stand: a damaged directory, an archive behind other data or two archives in
one file hide nothing.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES_LIMIT = 10_000
"""Entries that are read, of all archives of a message together; each takes two microseconds."""

MARKS_LIMIT = 5 * NAMES_LIMIT
"""Marks of entries that are looked at: each name has two, and a stranger may write nothing but marks."""

UNPACKED_LIMIT = 16 << 20
"""Bytes that are unpacked of one message, to look into archives within its archives."""

DEPTH_LIMIT = 4

_PIECE = 65_536
"""Bytes that are unpacked at a time; what is broken costs one more at most."""

_LEAST_COST = 4096
"""Bytes that one attempt to unpack counts for: thousands of entries may share the same few bytes."""

_LOCAL, _CENTRAL = b"PK\x03\x04", b"PK\x01\x02"
_STORED, _DEFLATED = 0, 8
_ARCHIVES = (".zip", ".jar", ".docx", ".docm", ".xlsx", ".xlsm", ".pptx", ".pptm", ".apk", ".xpi", ".odt", ".ods")


@dataclass(slots=True)
class ZipBudget:
    """What is left to be spent on the archives of one message: a stranger could attach hundreds of bombs."""

    names: int = NAMES_LIMIT
    marks: int = MARKS_LIMIT
    unpacked: int = UNPACKED_LIMIT


@dataclass(slots=True)
class ZipNames:
    """What stands in an archive."""

    names: dict[str, None] = field(default_factory=dict)
    """In order; those of nested archives as `outer.zip/inner.exe` would be too long: as they stand there."""
    is_encrypted: bool = False
    """An entry cannot be read without a password; its name can."""
    is_whole: bool = True
    """False if there is more than was looked at: too many names, too deep, too large, or packed in another way."""


def zip_names(content: bytes, budget: ZipBudget) -> ZipNames:
    """Return the names of all files in the archive; none for what is no archive. Never raises."""
    found = ZipNames()
    _collect(content, found, DEPTH_LIMIT, budget)
    return found


def _collect(content: bytes, found: ZipNames, depth: int, budget: ZipBudget) -> None:
    inner = []
    for mark, flags_at, name_at in ((_LOCAL, 6, 26), (_CENTRAL, 8, 28)):
        for start, flags, name, end in _entries(content, mark, flags_at, name_at):
            budget.marks -= 1
            if budget.names <= 0 or budget.marks < 0:
                found.is_whole = False
                return
            if name and not name.endswith(("/", "\\")) and name not in found.names:
                found.names[name] = None
                budget.names -= 1
            found.is_encrypted |= bool(flags & 1)
            if mark == _LOCAL and not flags & 1 and name.lower().endswith(_ARCHIVES):
                method = content[start + 8]
                # What is only stored is found by its marks in any case.
                if method == _DEFLATED:
                    inner.append(end)
                elif method != _STORED:
                    found.is_whole = False
    for place in inner:
        if not depth or budget.unpacked <= 0:
            found.is_whole = False
            return
        data = _inflate(content, place, budget.unpacked)
        budget.unpacked -= max(len(data), _LEAST_COST)
        if budget.unpacked <= 0:
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
    """Return what can be unpacked of the data that begins there, up to where it is broken."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    unpacked: list[bytes] = []
    with suppress(zlib.error):
        while limit > 0 and not inflater.eof:
            packed = inflater.unconsumed_tail
            if not packed:
                packed = content[place : place + _PIECE]
                place += len(packed)
            data = inflater.decompress(packed, min(limit, _PIECE))
            if not data and not packed:
                break
            unpacked.append(data)
            limit -= len(data)
    return b"".join(unpacked)
