"""Header fields, byte for byte as they came, and the text they stand for.

Reading never raises, whatever a stranger sent; making a field checks everything, because a line break that slips into
a value would let one plugin's text become another header field, or the body.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from gatepost.message.encoded_word import decode_words, encode_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

VALUE_LIMIT_BYTES = 60_000
"""Of an edit: Postfix cuts a field at header_size_limit (102,400), and libmilter's packets hold 65,535."""

FIELDS_LIMIT = 10_000
"""Of a header: mail has a few hundred at most, but ten megabytes could hold three million, each of which costs."""

SIZE_LIMIT_BYTES = 1 << 20
"""Of a header, as Exim's header_maxsize: it is held in memory, where the body is not."""

_LINE_LIMIT = 78
"""Columns (RFC 5322 section 2.1.1): longer lines are folded where there is white space."""

_NAME = re.compile(r"[!-9;-~]+")
_FOLD = re.compile(rb"\r?\n(?=[ \t])")
_STRAY = re.compile(rb"\x00|\r(?!\n[ \t])|(?<!\r)\n")
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_FIELD_END = re.compile(rb"\r\n(?![ \t])")
_CONTROL = str.maketrans(dict.fromkeys("\r\n\0", " "))


@dataclass(frozen=True, slots=True)
class Header:
    r"""One header field.

    `name` keeps its case, comparisons ignore it. `raw` is exactly what stands after the colon: white space at its start
    and folding (CRLF, then white space) included, the last CRLF not. `bytes()` gives the whole field with that CRLF.
    """

    name: str
    raw: bytes

    @classmethod
    def make(cls, name: str, value: str | bytes) -> Header:
        r"""Return a field with `value`, checked; ValueError says what is wrong with it.

        Text: words that are not ASCII become RFC 2047 encoded words, and long lines are folded at white space. Bytes
        stay as they are (for a signature, say) and must be UTF-8, the only thing that pymilter passes on. Neither may
        hold NUL, nor CR or LF but as folding. A space is put in front where `value` does not begin with one.
        """
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no header field name: printable ASCII without blank or colon")
        if isinstance(value, str):
            try:
                raw = value.strip(" \t").encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"{name}: the value holds a lone surrogate, which has no UTF-8 form") from error
        else:
            raw = value
        raw = _FOLD.sub(b"\r\n", raw)
        if stray := _STRAY.search(raw):
            raise ValueError(f"{name}: the value holds {stray[0]!r} (only a line break before white space is allowed)")
        if len(raw) > VALUE_LIMIT_BYTES:
            raise ValueError(f"{name}: {len(raw)} bytes are too long for a header field (limit {VALUE_LIMIT_BYTES})")
        text = _decode_strict(name, raw)
        if isinstance(value, str):
            text = text if text.isascii() else encode_words(name, text.replace("\r\n", ""))
            raw = _fold(name, text).encode()
        return cls(name, raw if raw[:1] in {b" ", b"\t"} else b" " + raw)

    @property
    def value(self) -> str:
        """The text: unfolded, RFC 2047 decoded, without white space at its ends; what cannot be decoded is U+FFFD.

        Holds no CR, LF or NUL, also where encoded words do.
        """
        text = self.raw.replace(b"\r\n", b"").decode("utf-8", "replace")
        return decode_words(text).translate(_CONTROL).strip()

    @property
    def size(self) -> int:
        """Bytes of the whole field."""
        return len(self.name) + len(self.raw) + 3

    def is_named(self, name: str) -> bool:
        """Tell whether this is a `name` field, whatever the case."""
        return self.name.lower() == name.lower()

    def __bytes__(self) -> bytes:
        """Return the field as it goes on the wire, with its last CRLF."""
        return self.name.encode("utf-8", "surrogateescape") + b":" + self.raw + b"\r\n"


class Headers:
    """A header: its fields in order, like a sequence of `Header`. Read only; a message is edited through `Message`.

    Not derived from Sequence: mypy would then refuse `"Subject" in headers`.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Iterable[Header] = ()) -> None:
        self._fields = tuple(fields)

    @classmethod
    def parse(cls, data: bytes) -> Headers:
        """Read fields up to the empty line, the end, or a line that is no field."""
        return cls(scan_fields(data, 0, len(data))[0])

    @property
    def is_too_large(self) -> bool:
        """True for a header that nobody sends in earnest: beyond FIELDS_LIMIT or SIZE_LIMIT_BYTES."""
        return len(self) > FIELDS_LIMIT or sum(field.size for field in self._fields) > SIZE_LIMIT_BYTES

    def get(self, name: str) -> str | None:
        """Return the text of the first `name` field; None if there is none."""
        return next((field.value for field in self._fields if field.is_named(name)), None)

    def get_all(self, name: str) -> list[str]:
        """Return the text of every `name` field, from the top."""
        return [field.value for field in self.fields(name)]

    def fields(self, name: str) -> list[Header]:
        """Return every `name` field, from the top."""
        return [field for field in self._fields if field.is_named(name)]

    @overload
    def __getitem__(self, index: int) -> Header: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Header, ...]: ...
    def __getitem__(self, index: int | slice) -> Header | tuple[Header, ...]:
        """Return the field at that place."""
        return self._fields[index]

    def __len__(self) -> int:
        """Return the number of fields."""
        return len(self._fields)

    def __iter__(self) -> Iterator[Header]:
        """Go through the fields from the top."""
        return iter(self._fields)

    def __contains__(self, item: object) -> bool:
        """Tell whether there is a field of that name, or that very field."""
        if isinstance(item, str):
            return any(field.is_named(item) for field in self._fields)
        return item in self._fields

    def __eq__(self, other: object) -> bool:
        """Tell whether both have the same fields, byte for byte."""
        return self._fields == other._fields if isinstance(other, Headers) else NotImplemented

    def __hash__(self) -> int:
        """Return the same for equal ones."""
        return hash(self._fields)

    def __bytes__(self) -> bytes:
        """Return all fields as they go on the wire, without the empty line."""
        return b"".join(map(bytes, self._fields))

    def __repr__(self) -> str:
        """Return the fields, for people."""
        return f"Headers({list(self._fields)!r})"


def scan_fields(data: bytes, start: int, end: int) -> tuple[list[Header], int, int]:
    """Return the fields of a header in `data`, where it ends, and where the content begins.

    As in Postfix (`is_header_buf`) a line that is no field ends the header and is the content's first; white space
    before a colon is not kept.
    """
    fields = []
    place = start
    while place < end and (match := _FIELD.match(data, place, end)):
        stop = _FIELD_END.search(data, match.end(), end)
        fields.append(Header(match[1].decode("ascii"), data[match.end() : stop.start() if stop else end]))
        place = stop.end() if stop else end
    return fields, place, place + 2 if data.startswith(b"\r\n", place, end) else place


def _decode_strict(name: str, raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: the value is not UTF-8 (byte {raw[error.start]:#04x})") from error


def _fold(name: str, text: str) -> str:
    """Fold lines that are too long before white space, which unfolding gives back exactly."""
    lines = []
    line = f"{name}:" if text[:1] in {" ", "\t"} else f"{name}: "
    empty = True
    for given in text.split("\r\n"):
        for word in re.findall(r"[ \t]*[^ \t]+|[ \t]+\Z", given):
            if not empty and len(line) + len(word) > _LINE_LIMIT and word[0] in " \t" and word.strip(" \t"):
                lines.append(line)
                line = ""
            line += word
            empty = False
        lines.append(line)
        line = ""
    return "\r\n".join(lines).removeprefix(f"{name}:")
