"""Ambiguities of MIME: what two parsers read differently, so that a scanner sees another message than the reader.

Each has a name, by which administrators choose. `SERIOUS_FAULTS` are those that no mail program makes by itself and
that have been used to get past scanners; the others come from careless programs as well.
"""

from __future__ import annotations

import binascii
import re
from typing import TYPE_CHECKING, Literal, get_args

from gatepost.message.mime import DEPTH_LIMIT, IDENTITY
from gatepost.services.content.file_name import extensions, names_of, parameters
from gatepost.services.content.part_tree import (
    ATTACHED,
    LEAF_LIMIT,
    MESSAGE_DEPTH,
    is_base64,
    is_known_encoding,
    message_leaves,
    messages,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.message.header import Header
    from gatepost.message.mime import Part

MimeFault = Literal[
    "repeated_field",
    "repeated_parameter",
    "type_syntax",
    "boundary_syntax",
    "missing_boundary",
    "repeated_boundary",
    "boundary_prefix",
    "late_parts",
    "encoded_multipart",
    "broken_header",
    "nul_in_header",
    "unknown_encoding",
    "too_deep",
    "too_many_parts",
    "partial",
    "names_differ",
    "broken_base64",
    "not_closed",
    "external_body",
]

MIME_FAULTS: tuple[MimeFault, ...] = get_args(MimeFault)

SERIOUS_FAULTS: tuple[MimeFault, ...] = MIME_FAULTS[:15]

_ONCE = ("Content-Type", "Content-Transfer-Encoding", "Content-Disposition")
_ONCE_PARAMETERS = frozenset({"boundary", "name", "filename", "charset"})
_PLAIN_TYPE = re.compile(r"\s*+[^\s()<>@,;:\\\"/\[\]?=]++/[^\s()<>@,;:\\\"/\[\]?=]++\s*+(?:;|\Z)")
_MAY_HOLD_PARTS = re.compile(r"multipart|message\s*+/|boundary\s*+=", re.IGNORECASE)
_BOUNDARY = re.compile(r"[;\s]boundary\s*+=\s*+", re.IGNORECASE)
_GOOD_VALUE = re.compile(r"\"[^\"\\\r\n]{1,200}\"\s*+(?:;|\Z)|[^\s\"\\();,]{1,200}+\s*+(?:;|\Z)")
_LATE_FIELD = re.compile(rb"\r\nContent-(?:Type|Transfer-Encoding|Disposition)[ \t]*+:", re.IGNORECASE)


def mime_faults(root: Part) -> Iterator[tuple[MimeFault, str]]:
    """Yield what is ambiguous, with a few words about it, in no order; the same fault may come many times."""
    leaves = 0
    for tree, level in messages(root):
        for part in tree.walk():
            leaves += not part.children
            if part.content_type in ATTACHED and level == MESSAGE_DEPTH:
                yield "too_deep", f"messages within messages, {MESSAGE_DEPTH + 1} deep"
            yield from _header_faults(part)
            if part.content_type.startswith("multipart/"):
                yield from _multipart_faults(part, is_attached=level > 0)
        yield from _boundary_faults(tree, ())
    if leaves > LEAF_LIMIT:
        yield "too_many_parts", "more parts than are looked at"
    for part, _, _ in message_leaves(root):
        yield from _leaf_faults(part)


def _header_faults(part: Part) -> Iterator[tuple[MimeFault, str]]:
    for name in _ONCE:
        fields = part.headers.fields(name)
        if len({_said(name, field) for field in fields} - {None}) > 1:
            yield "repeated_field", f"different {name} fields"
        for field in fields:
            if b"\0" in field.raw:
                yield "nul_in_header", f"a NUL in {name}"
            value = field.raw.replace(b"\r\n", b"").decode("utf-8", "replace")
            if name == "Content-Type" and _MAY_HOLD_PARTS.search(value) and not _PLAIN_TYPE.match(value):
                yield "type_syntax", "a Content-Type that cannot be read in one way only"
            yield from _parameter_faults(name, value)
    # A line that is no field has ended the header, and fields come after it: some parsers go on.
    if part.path and part.content_start == part.header_end:
        head = part._data[part.header_end - 2 : min(part.end, part.header_end + 4096)]
        if _LATE_FIELD.search(head.partition(b"\r\n\r\n")[0]):
            yield "broken_header", "a line in the header of a part that is no field"


def _said(name: str, field: Header) -> bytes | None:
    """Return what may not be said in two ways; None for what changes nothing."""
    value = b"".join(field.raw.lower().split())
    # Some programs say "inline" in one Content-Disposition, and the name in another.
    if name == "Content-Disposition" and b";" not in value:
        return None
    # 8bit and 7bit are read alike.
    is_identity = name == "Content-Transfer-Encoding" and value.decode("latin-1") in IDENTITY
    return b"8bit" if is_identity else value


def _parameter_faults(name: str, value: str) -> Iterator[tuple[MimeFault, str]]:
    seen: dict[str, str] = {}
    for parameter, text in parameters(value):
        plain = parameter.partition("*")[0] if parameter.startswith("boundary") else parameter
        said = text.lower() if plain == "charset" else text
        if plain in _ONCE_PARAMETERS and seen.setdefault(plain, said) != said:
            yield "repeated_parameter", f"{plain} given twice in {name}"


def _multipart_faults(part: Part, *, is_attached: bool) -> Iterator[tuple[MimeFault, str]]:
    value = "".join(field.raw.replace(b"\r\n", b"").decode("utf-8", "replace") for field in _types(part)[:1])
    found = _BOUNDARY.search(value)
    if found is None and part.path and part.content_type == "multipart/signed" and part.is_attachment:
        # A whole signed message as a file, smime.p7m: Exchange gives it this type ([MS-OXOSMIME] section 2.1.3.1). It
        # hides no more than a file of the type application/pkcs7-mime does.
        return
    if found and not _GOOD_VALUE.match(value, found.end()):
        yield "boundary_syntax", "a boundary that cannot be read in one way only"
    if found is None:
        if part.raw.strip():
            yield "missing_boundary", "a multipart without a boundary"
    elif not part.children:
        yield from _why_childless(part, is_attached=is_attached)
    yield from _line_faults(part)
    if part.encoding == "base64" or (part.encoding == "quoted-printable" and _hides_parts(part)):
        yield "encoded_multipart", f"a multipart in {part.encoding}"
    if part.children and not _is_closed(part) and not is_attached:
        yield "not_closed", "a multipart without its last boundary"


def _why_childless(part: Part, *, is_attached: bool) -> Iterator[tuple[MimeFault, str]]:
    delimiter = _delimiter(part)
    if part.raw.startswith(delimiter) or b"\r\n" + delimiter in part.raw:
        if len(part.path) >= DEPTH_LIMIT:
            yield "too_deep", f"parts within parts, {DEPTH_LIMIT} deep"
        elif part.raw.count(b"\r\n" + delimiter) > 1:
            yield "too_many_parts", "more parts than are looked at"
    elif not is_attached and part.raw.strip():
        # Bounces cut the messages that they bring back.
        yield "missing_boundary", "a multipart in which its boundary does not stand"


def _line_faults(part: Part) -> Iterator[tuple[MimeFault, str]]:
    """Look for delimiters where, or as, `mime` does not take them for such, but others do."""
    if not part.parameters.get("boundary", "").rstrip():
        return
    data, delimiter = b"\r\n" + part.raw, re.escape(b"\r\n" + _delimiter(part))
    # RFC 2046 section 5.1.1: it is sufficient that the boundary appears in its entirety following the CRLF.
    if re.search(delimiter + rb"(?!--)(?![ \t]*+(?:\r\n|\Z))", data):
        yield "boundary_prefix", "a line that begins as a boundary and goes on"
    last = re.search(delimiter + b"--", data)
    if last and re.compile(delimiter + rb"[ \t]*+\r\n").search(data, last.end()):
        yield "late_parts", "parts behind the last boundary"


def _hides_parts(part: Part) -> bool:
    delimiter = b"\n" + _delimiter(part)
    # Each part by itself: base64 that ends with "=" would else be joined with the delimiter behind it.
    return any(delimiter in binascii.a2b_qp(piece) for piece in (b"\n" + part.raw).split(delimiter))


def _boundary_faults(part: Part, outer: tuple[bytes, ...]) -> Iterator[tuple[MimeFault, str]]:
    own = _delimiter(part)
    if own == b"--" or not part.content_type.startswith("multipart/"):
        return
    # Also of one without parts: the boundary around it has taken them.
    for other in outer:
        if own == other:
            yield "repeated_boundary", "a boundary within itself"
        elif own.startswith(other) or other.startswith(own):
            yield "boundary_prefix", "a boundary that begins as one around it does"
    for child in part.children:
        yield from _boundary_faults(child, (*outer, own))


def _leaf_faults(part: Part) -> Iterator[tuple[MimeFault, str]]:
    if part.content_type.startswith("multipart/"):
        return
    if part.content_type == "message/partial":
        yield "partial", "a piece of a message, which only its reader puts together"
    if part.content_type == "message/external-body":
        yield "external_body", "a content that is somewhere else"
    if not is_known_encoding(part) and not part.content_type.startswith("text/"):
        yield "unknown_encoding", "an unknown transfer encoding"
    if part.encoding == "base64" and not is_base64(part.raw):
        yield "broken_base64", "what is no base64"
    if len({frozenset(extensions(name)) for name in names_of(part)}) > 1:
        yield "names_differ", "names with different extensions"


def _types(part: Part) -> list[Header]:
    return part.headers.fields("Content-Type")


def _delimiter(part: Part) -> bytes:
    return b"--" + part.parameters.get("boundary", "").rstrip().encode("utf-8", "replace")


def _is_closed(part: Part) -> bool:
    last = _delimiter(part) + b"--"
    return b"\r\n" + last in part.raw or part.raw.startswith(last)
