"""The names of the files in a winmail.dat, as Outlook and Exchange pack attachments ([MS-OXTNEF] section 2.1).

They unpack it for their users; to everybody else it is one file, in which names are hidden.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from gatepost.services.content.part_tree import text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNATURE = b"\x78\x9f\x3e\x22"

NAME_LIMIT_BYTES = 2048

_ATTRIBUTES = len(SIGNATURE) + 2
"""Where they begin, behind a key."""

_HEAD = struct.Struct("<BII")
"""Level, identifier and length of an attribute; its data follow, and a checksum of two bytes."""

_TITLE, _PROPERTIES = 0x18010, 0x69005
"""attAttachTitle, which is often shortened; attAttachment, in which the long name is a property."""

_LONG_NAMES = {b"\x1e\x00\x07\x37": "latin-1", b"\x1f\x00\x07\x37": "utf-16-le"}
"""PidTagAttachLongFilename as PtypString8 and as PtypString; number of values and length follow, four bytes each."""


def tnef_names(content: bytes) -> Iterator[str]:
    """Yield the names, those of one file in both spellings; ends at what is damaged. Never raises."""
    place = _ATTRIBUTES
    while place + _HEAD.size <= len(content):
        _, identifier, length = _HEAD.unpack_from(content, place)
        place += _HEAD.size
        if identifier == _TITLE:
            yield _name(content[place : place + min(length, NAME_LIMIT_BYTES)], "latin-1")
        elif identifier == _PROPERTIES:
            yield from _long_names(content, place, min(place + length, len(content)))
        place += length + 2


def _long_names(content: bytes, place: int, end: int) -> Iterator[str]:
    for tag, charset in _LONG_NAMES.items():
        found = content.find(tag, place, end)
        while found >= 0:
            start = found + len(tag) + 8
            length = int.from_bytes(content[start - 4 : start], "little")
            yield _name(content[start : min(start + min(length, NAME_LIMIT_BYTES), end)], charset)
            found = content.find(tag, start, end)


def _name(data: bytes, charset: str) -> str:
    return text_of(data, charset).partition("\0")[0]
