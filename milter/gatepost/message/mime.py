"""The MIME structure of a message, found without changing a byte: where each part begins and ends in the body.

Not a second email package: it answers what a part is and gives its content as bytes, so that one part can be replaced
while all others stay as they are (`gatepost.message.part_edit`). Anything malformed is a plain part, never an error.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from gatepost.message.header import Headers, scan_fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEPTH_LIMIT = 30
"""Real mail is nested five deep; what lies deeper is one plain part. Each level costs a pass over the body."""

PART_LIMIT = 1000
"""Parts in one message; a multipart beyond that is taken as one plain part. Eight MiB could hold a million."""

IDENTITY = frozenset({"7bit", "8bit", "binary"})
"""The transfer encodings that encode nothing."""

_TYPE = re.compile(r"\s*([!-.0-~]+/[!-.0-:<-~]+)")
_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))', re.DOTALL)
_DISPOSITION = re.compile(r"\s*([!-:<-~]+)")


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """One part of a message, as it was when `Message.structure` was asked for.

    The root is the message itself, with the message's own header. Offsets are into the body.
    """

    path: tuple[int, ...]
    """Its place in the tree: () for the root, (1, 0) for the first part of the root's second."""
    headers: Headers
    content_type: str
    """Like `text/plain`, in lower case; the default of RFC 2045 where nothing usable is said."""
    parameters: Mapping[str, str]
    """Of Content-Type, names in lower case; `charset`, `boundary`, `format` and so on."""
    children: tuple[Part, ...]
    """The parts of a multipart; empty for every other, message/rfc822 included, and for a multipart without any."""
    start: int
    header_end: int
    content_start: int
    end: int
    _data: bytes = field(repr=False)

    @property
    def charset(self) -> str:
        """What Content-Type says, in lower case, whether Python knows it or not; `us-ascii` if it says nothing."""
        return self.parameters.get("charset", "").strip().lower() or "us-ascii"

    @property
    def encoding(self) -> str:
        """The Content-Transfer-Encoding in lower case; `7bit` if there is none."""
        return (self.headers.get("Content-Transfer-Encoding") or "7bit").partition(";")[0].strip().lower()

    @property
    def is_attachment(self) -> bool:
        """True for what is meant as a file: disposed so, or with a file name."""
        disposition = self.headers.get("Content-Disposition") or ""
        match = _DISPOSITION.match(disposition)
        names = _parameters(disposition) if match else {}
        if "name" in self.parameters or any(name.startswith("filename") for name in names):
            return True
        return match is not None and match[1].lower() == "attachment"

    @property
    def raw(self) -> bytes:
        """The content as it stands in the body, still encoded."""
        return self._data[self.content_start : self.end]

    def content(self) -> bytes | None:
        """Return the content with its transfer encoding undone; None if that is unknown or broken."""
        match self.encoding:
            case "7bit" | "8bit" | "binary":
                return self.raw
            case "quoted-printable":
                return binascii.a2b_qp(self.raw)
            case "base64":
                try:
                    return binascii.a2b_base64(self.raw)
                except binascii.Error:
                    return None
            case _:
                return None

    def walk(self) -> Iterator[Part]:
        """Go through this part and all below, each before its own parts."""
        yield self
        for child in self.children:
            yield from child.walk()


def parse_structure(headers: Headers, data: bytes) -> Part:
    """Return the tree of a message with that header and body."""
    return _Scan(data).part((), headers, (0, 0, 0, len(data)), "text/plain")


def parse_content_type(value: str | None, default: str = "text/plain") -> tuple[str, Mapping[str, str]]:
    """Return type and parameters of a Content-Type; of those given twice the first. `default` if it is no type."""
    match = _TYPE.match(value or "")
    if match is None or value is None:
        return default, MappingProxyType({})
    return match[1].lower(), MappingProxyType(_parameters(value))


def _parameters(value: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for match in _PARAMETER.finditer(value):
        quoted = match[2]
        found.setdefault(match[1].lower(), match[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
    return found


class _Scan:
    """One pass over a body; counts the parts."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = PART_LIMIT

    def part(self, path: tuple[int, ...], headers: Headers, place: tuple[int, int, int, int], default: str) -> Part:
        content_type, parameters = parse_content_type(headers.get("Content-Type"), default)
        start, header_end, content_start, end = place
        children: tuple[Part, ...] = ()
        boundary = parameters.get("boundary", "").rstrip()
        if content_type.startswith("multipart/") and boundary and len(path) < DEPTH_LIMIT:
            children = self._children(path, boundary, content_start, end, content_type == "multipart/digest")
        return Part(
            path, headers, content_type, parameters, children, start, header_end, content_start, end, self._data
        )

    def _children(
        self, path: tuple[int, ...], boundary: str, start: int, end: int, is_digest: bool
    ) -> tuple[Part, ...]:
        places = list(self._places(boundary.encode("utf-8", "replace"), start, end, self._left + 1))
        if len(places) > self._left:
            return ()
        self._left -= len(places)
        children = []
        for number, (part_start, part_end) in enumerate(places):
            fields, header_end, content_start = scan_fields(self._data, part_start, part_end)
            place = (part_start, header_end, min(content_start, part_end), part_end)
            default = "message/rfc822" if is_digest else "text/plain"
            children.append(self.part((*path, number), Headers(fields), place, default))
        return tuple(children)

    def _places(self, boundary: bytes, start: int, end: int, limit: int) -> Iterator[tuple[int, int]]:
        """Yield start and end of each part (RFC 2046 section 5.1.1); the CRLF before a delimiter belongs to that."""
        delimiter = re.compile(rb"--" + re.escape(boundary) + rb"(--)?[ \t]*(?:\r\n|\Z)")
        opened: int | None = None
        place = start
        while limit and place < end:
            if match := delimiter.match(self._data, place, end):
                if opened is not None:
                    yield opened, max(opened, place - 2)
                    limit -= 1
                opened = None if match[1] else match.end()
                if match[1]:
                    return
            # Only a line that begins with two hyphens is looked at.
            found = self._data.find(b"\r\n--", match.end() - 2 if match else place, end)
            if found < 0:
                break
            place = found + 2
        if opened is not None and limit:
            yield opened, end
