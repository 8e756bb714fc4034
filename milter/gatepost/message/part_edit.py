"""Replacing the content of one MIME part: all bytes of the message outside that part's content stay as they are.

The part keeps its transfer encoding where it can. Its header changes only where the new content demands it: another
charset, or quoted-printable where a 7bit part is no longer ASCII.
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass

from gatepost.message.header import Header
from gatepost.message.mime import IDENTITY, Part

_CHARSET = re.compile(rb'(;\s*charset\s*=\s*)("(?:[^"\\]|\\.)*"|[^\s;"]*)', re.IGNORECASE)
_BASE64_LINE_BYTES = 57
"""Gives lines of 76 characters, the most that RFC 2045 section 6.8 allows."""

_STRAY_LINE_END = re.compile(rb"\r(?!\n)|(?<!\r)\n")


@dataclass(frozen=True, slots=True)
class PartEdit:
    """What becomes of a part: its new encoded content, and the fields of its header that change or are new."""

    raw: bytes
    fields: tuple[Header, ...]

    def spliced(self, data: bytes, part: Part) -> bytes:
        """Return the body `data` with the edit in place; the root's fields are the message's, not the body's."""
        if not part.path:
            return self.raw
        header = data[part.start : part.header_end]
        gap = data[part.header_end : part.content_start]
        for field in self.fields:
            header = _with_field(header, field)
        if not gap and (header or part.start == part.end):
            # A header that nothing followed, one that is new, or a part of nothing at all.
            gap = b"\r\n" if header.endswith(b"\r\n") or not header else b"\r\n\r\n"
        rest = data[part.end :]
        # Two delimiters may stand right below each other: the line end between them belongs to the first.
        joint = b"\r\n" if rest and not rest.startswith(b"\r\n") else b""
        return b"".join((data[: part.start], header, gap, self.raw, joint, rest))


def edit_part(part: Part, content: bytes, charset: str | None = None) -> PartEdit:
    """Return the edit that gives `part` the decoded `content`, labelled `charset` if that is not None.

    ValueError for a multipart and for a part in a transfer encoding that is not one of RFC 2045's.
    """
    if part.children or part.content_type.startswith("multipart/"):
        raise ValueError(f"part {part.path} is {part.content_type}: only its own parts have content to replace")
    encoding = part.encoding
    changes_encoding = False
    if encoding == "7bit" and not content.isascii() and part.raw.isascii():
        encoding, changes_encoding = "quoted-printable", True
    if encoding in IDENTITY:
        raw = _STRAY_LINE_END.sub(b"\r\n", content)
    elif encoding == "quoted-printable":
        raw = b"\r\n".join(map(_quoted, content.split(b"\r\n")))
    elif encoding == "base64":
        raw = _base64(content)
        if not part.path or part.raw.endswith(b"\r\n"):
            raw += b"\r\n"
    else:
        raise ValueError(f"part {part.path} has the transfer encoding {encoding!r}, which cannot be written")
    fields = []
    if charset is not None:
        fields.append(_field(part, "Content-Type", _with_charset(part, charset.encode("ascii"))))
    if changes_encoding:
        fields.append(_field(part, "Content-Transfer-Encoding", b" " + encoding.encode()))
    return PartEdit(raw, tuple(fields))


def _field(part: Part, name: str, raw: bytes) -> Header:
    """Return a field, spelled as the part has it."""
    given = part.headers.fields(name)
    return Header(given[0].name if given else name, raw)


def _with_charset(part: Part, charset: bytes) -> bytes:
    given = part.headers.fields("Content-Type")
    if not given:
        return b" " + part.content_type.encode() + b"; charset=" + charset
    raw, found = _CHARSET.subn(lambda match: match[1] + charset, given[0].raw, count=1)
    return raw if found else given[0].raw.rstrip(b"; \t") + b"; charset=" + charset


def _with_field(header: bytes, field: Header) -> bytes:
    """Replace the first field of that name in a part's header, or append it."""
    pattern = rb"(?im)^" + re.escape(field.name.encode()) + rb"[ \t]*:(?s:.*?)(?:\r\n(?![ \t])|\Z)"
    header, found = re.subn(pattern, lambda _: bytes(field), header, count=1)
    if found:
        return header
    return header + (b"" if header.endswith(b"\r\n") or not header else b"\r\n") + bytes(field)


def _quoted(line: bytes) -> bytes:
    return binascii.b2a_qp(line, istext=False).replace(b"=\n", b"=\r\n")


def _base64(content: bytes) -> bytes:
    lines = (content[i : i + _BASE64_LINE_BYTES] for i in range(0, len(content), _BASE64_LINE_BYTES))
    return b"\r\n".join(binascii.b2a_base64(line, newline=False) for line in lines)
