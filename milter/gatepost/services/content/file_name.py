"""The names under which the parts of a message would be stored: all that are given, however they are encoded.

Programs disagree which of several names counts (RFC 2231 or not, `name` or `filename`, the first or the last), so all
of them are found. A name is then read as a file system and a hurried reader would: what a program does with it hangs on
the last extension, and people are shown something else by blanks, by characters that turn the direction of writing, or
by dots that Windows drops.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from gatepost.message.encoded_word import decode_words
from gatepost.services.content.part_tree import text_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.message.mime import Part

NAME_LIMIT = 1024
"""Characters of a name that are kept; file systems take 255."""

FIELD_LIMIT = 16_384
"""Characters of a field that are read."""

PIECES_LIMIT = 100
"""Pieces of one parameter (RFC 2231 section 3)."""

_PARAMETER = re.compile(
    r"(?:^|;)[\s;]*+([!-:<>-~]{1,80}?)\s*+=\s*+(?:\"((?>(?:[^\"\\]|\\.)*))(?:\"|\Z)|([^;\"]*+))", re.DOTALL
)
_PIECE = re.compile(r"(name|filename)(?:\*(\d{1,3}))?(\*)?", re.IGNORECASE)
_TURNS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_OVERRIDES = re.compile("[\u202d\u202e]")
"""What makes `gpj.exe` of `exe.jpg`. The marks that Hebrew and Arabic names have are none of these."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f\u0080-\u009f\u200b-\u200d\u2060\ufeff\u00ad]")
_CLSID = re.compile(r"\{[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\}?\s*\Z", re.IGNORECASE)
_GAP = re.compile(r"[\s\u00a0\u2000-\u200a\u2800\u3000\u3164]{8,}+\.?\w{1,12}\s*\Z|[\u2800\u3164]")
_DROPPED = " .\t\u00a0\"'"
_DOTS = str.maketrans({"\uff0e": ".", "\u2024": ".", "\ufe52": "."})


def parameters(value: str) -> Iterator[tuple[str, str]]:
    """Yield the parameters of a Content-Type or Content-Disposition, all that are there, names in lower case."""
    start = value.find(";", 0, FIELD_LIMIT)
    if start < 0:
        return
    for match in _PARAMETER.finditer(value[start:FIELD_LIMIT]):
        quoted, bare = match[2], match[3]
        text = bare.strip() if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
        yield match[1].lower(), text


def names_of(part: Part) -> list[str]:
    """Return every name that the part's header gives it, decoded; without duplicates."""
    found: dict[str, None] = {}
    for field in ("Content-Disposition", "Content-Type"):
        for header in part.headers.fields(field):
            text = header.raw[:FIELD_LIMIT].replace(b"\r\n", b"").decode("utf-8", "replace")
            found |= dict.fromkeys(_names_in(text))
    return [name for name in found if name]


def _names_in(field: str) -> Iterator[str]:
    pieces: dict[str, list[tuple[int, bool, str]]] = {}
    for parameter, value in parameters(field):
        match = _PIECE.fullmatch(parameter)
        if match is None:
            continue
        if match[2] is None and not match[3]:
            yield decode_words(value)[:NAME_LIMIT]
            if "=?" in value:
                # Some programs show what was inside of quotes as it stands; others join before they decode.
                yield decode_words(re.sub(r"\?=\s+=\?", "?==?", value))[:NAME_LIMIT]
            elif "%" in value:
                yield unquote_to_bytes(value).decode("utf-8", "replace")[:NAME_LIMIT]
        elif len(pieces.setdefault(match[1].lower(), [])) < PIECES_LIMIT:
            pieces[match[1].lower()].append((int(match[2] or 0), bool(match[3]), value))
    for several in pieces.values():
        yield _joined(sorted(several, key=lambda piece: piece[0]))[:NAME_LIMIT]


def _joined(pieces: list[tuple[int, bool, str]]) -> str:
    """Return what the pieces of a name come to (RFC 2231 sections 3 and 4)."""
    charset = "utf-8"
    data = b""
    for place, (_, is_encoded, value) in enumerate(pieces):
        text = value
        if is_encoded and place == 0 and text.count("'") >= 2:
            charset, _, text = text.split("'", 2)
        data += unquote_to_bytes(text) if is_encoded else text.encode("utf-8", "surrogateescape")
    return text_of(data, charset or "utf-8")


def plain_name(name: str) -> str:
    """Return the name as a file system would have it: the last step of a path, without what is dropped at its end."""
    name = _CONTROL.sub("", _TURNS.sub("", name)).translate(_DOTS)
    return re.split(r"[/\\]", name.rstrip(_DROPPED + "/\\"))[-1].lstrip(" \t\"'").rstrip(_DROPPED).lower()


def extensions(name: str) -> set[str]:
    """Return what may count as the name's extension, in lower case: the last one, and what stands before a colon.

    name.exe::$DATA is name.exe to Windows, and name:x.exe is stored as name_x.exe.
    """
    whole = plain_name(name)
    spellings = {whole, whole.partition(":")[0].rstrip(_DROPPED)} if ":" in whole else {whole}
    return {one.rpartition(".")[2].strip() for one in spellings if "." in one}


def deception(name: str) -> str | None:
    """Return in what way the name hides what it is; None if it does not."""
    if _OVERRIDES.search(name):
        return "characters that turn the direction of writing"
    if "\0" in name:
        return "a NUL"
    if _CLSID.search(name):
        return "a class identifier for an extension"
    if _GAP.search(name[-300:]):
        return "a gap before the extension"
    if len(name) >= NAME_LIMIT:
        return "an endless name"
    return None
