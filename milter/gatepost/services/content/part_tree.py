"""Every part of a message that has content, those of attached messages too, decoded as a forgiving reader would.

`Message.structure` takes an attached message as one plain part and gives up on content that is not encoded by the
book. Whoever looks for what is hidden must see what the most forgiving mail program shows: here nothing is given up,
but nothing raises either, and all of it is limited.
"""

from __future__ import annotations

import binascii
import codecs
import re
from itertools import chain, pairwise
from typing import TYPE_CHECKING, NamedTuple

from gatepost.message.header import Headers, scan_fields
from gatepost.message.mime import IDENTITY, Part, parse_structure

if TYPE_CHECKING:
    from collections.abc import Iterator

MESSAGE_DEPTH = 8
"""Messages attached to attached ones: each is held in memory while its parts are looked at."""

LEAF_LIMIT = 2000
"""Parts with content, all attached messages together."""

RUN_LIMIT = 1000
"""Pieces of base64 with padding between them: nobody has two, but a stranger could send a million."""

ATTACHED = frozenset({"message/rfc822", "message/global", "message/news"})

UU_ENCODINGS = frozenset({"x-uuencode", "uuencode", "x-uue"})
"""Older than MIME's own, and still sent."""

MISSPELT_ENCODINGS = frozenset({"7-bit", "8-bit", "utf-8"})
"""What careless programs write for 7bit and 8bit: nobody decodes that."""

_NO_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="))
_STRAY_LINE_END = re.compile(rb"\r(?!\n)|(?<!\r)\n")
_UU_BEGIN = re.compile(rb"^begin [0-7]{3,4} ([^\r\n]{1,255})\r?\n([!-M])([ -`]{0,62}+)\r?$", re.MULTILINE)
_CODEC = re.compile(r"[A-Za-z0-9][\w.:-]{0,40}")
_NO_CHARSET = frozenset({"punycode", "idna", "unicode_escape", "raw_unicode_escape", "undefined", "mbcs", "oem"})
"""Codecs of Python that no mail program has; punycode takes time by the square of the length."""


class Leaf(NamedTuple):
    """A part that is no multipart, or a multipart in which no parts can be told apart."""

    part: Part
    content: bytes
    level: int
    """How many attached messages it stands in."""


def message_leaves(root: Part) -> Iterator[Leaf]:
    """Go through the parts in their order; an attached message comes first as a leaf, then its parts."""
    left = LEAF_LIMIT
    for leaf in _leaves(root, 0):
        if not left:
            return
        left -= 1
        yield leaf


def messages(root: Part) -> Iterator[tuple[Part, int]]:
    """Go through the trees: the message's own, then that of each attached message; with the level of each."""
    yield root, 0
    for leaf in message_leaves(root):
        if (attached := attached_message(leaf)) is not None:
            yield attached, leaf.level + 1


def attached_message(leaf: Leaf) -> Part | None:
    """Return the tree of the message that the leaf is; None if it is none, or stands too deep."""
    if leaf.part.content_type not in ATTACHED or leaf.level >= MESSAGE_DEPTH:
        return None
    data = leaf.content
    if not data.count(b"\r\n") == data.count(b"\n") == data.count(b"\r"):
        data = _STRAY_LINE_END.sub(b"\r\n", data)
    fields, _, start = scan_fields(data, 0, len(data))
    return parse_structure(Headers(fields), data[start:])


def _leaves(tree: Part, level: int) -> Iterator[Leaf]:
    for part in tree.walk():
        if part.children:
            continue
        leaf = Leaf(part, forgiving_content(part), level)
        yield leaf
        if (attached := attached_message(leaf)) is not None:
            yield from _leaves(attached, level + 1)


def forgiving_content(part: Part) -> bytes:
    """Return the content with its transfer encoding undone as far as that goes; as it stands if that is unknown."""
    match part.encoding:
        case "quoted-printable":
            return binascii.a2b_qp(part.raw)
        case "base64":
            return decode_base64(part.raw)
        case encoding if encoding in UU_ENCODINGS:
            return _decode_uu(part.raw)
        case _:
            return part.raw


def decode_base64(data: bytes) -> bytes:
    """Decode whatever of it is base64: foreign characters and padding in the middle are passed over."""
    clean = data.translate(None, _NO_BASE64)
    pieces = clean.split(b"=", RUN_LIMIT) if b"=" in clean else [clean]
    decoded = []
    for piece in pieces:
        run = piece.replace(b"=", b"")
        run = run[:-1] if len(run) % 4 == 1 else run
        if run:
            decoded.append(binascii.a2b_base64(run + b"=" * (-len(run) % 4)))
    return b"".join(decoded)


def is_base64(data: bytes) -> bool:
    """Return True if that is base64 by the book: line ends are its only foreign characters, padding stands last."""
    clean = data.translate(None, b"\r\n\t ")
    return not clean.translate(None, bytes(set(range(256)) - set(_NO_BASE64))) and b"=" not in clean.rstrip(b"=")


def is_known_encoding(part: Part) -> bool:
    """Return True if mail programs know how to decode the part."""
    return part.encoding in IDENTITY | MISSPELT_ENCODINGS | UU_ENCODINGS | {"quoted-printable", "base64"}


def uuencoded_files(text: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the files in a text that mail programs show as attachments, without any MIME."""
    begins = (match for match in _UU_BEGIN.finditer(text) if _is_uu_line(match[2], match[3]))
    for begin, following in pairwise(chain(begins, (None,))):
        assert begin is not None
        limit = following.start() if following else len(text)
        end = text.find(b"\nend", begin.end(), limit)
        yield begin[1].decode("utf-8", "replace").strip(), _decode_uu(text[begin.start(2) : limit if end < 0 else end])


def _is_uu_line(first: bytes, rest: bytes) -> bool:
    """Return True for a line as long as its first character says; blanks at its end may be lost, or one too many."""
    needed = (first[0] - 0x20 + 2) // 3 * 4
    return needed - 4 <= len(rest) <= needed + 1


def _decode_uu(data: bytes) -> bytes:
    decoded = []
    for line in data.splitlines():
        if line.startswith((b"begin ", b"end")) or not line:
            continue
        try:
            decoded.append(binascii.a2b_uu(line))
        except binascii.Error:
            continue
    return b"".join(decoded)


def text_of(content: bytes, charset: str) -> str:
    """Return content as text; what is not in its charset is replaced, and an unknown charset is taken as Latin 1."""
    if _CODEC.fullmatch(charset):
        try:
            if codecs.lookup(charset).name not in _NO_CHARSET:
                return content.decode(charset, "replace")
        except (LookupError, ValueError):
            pass
    return content.decode("latin-1")
