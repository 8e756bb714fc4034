"""RFC 2047 encoded words: header text that is not ASCII, both ways.

Decoding takes what mailers really send (characters cut between two words, missing padding) and never raises. Encoding
always uses UTF-8 and touches only the words that need it.
"""

from __future__ import annotations

import binascii
import codecs
import re

_WORD = re.compile(r"=\?([^?\s*]+)(?:\*[^?\s]*)?\?([BbQq])\?([^?]*)\?=")
_WORD_LIMIT = 75
"""Characters, RFC 2047 section 2; of these 12 are `=?utf-8?q?` and `?=`."""

_SLOW = frozenset({"punycode", "idna"})
"""No charsets, but codecs of Python that take time by the square of the length: a field of 100 KB a second."""

_PAYLOAD_LIMIT = _WORD_LIMIT - 12
_BARE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")
"""What stays as it is in Q encoding, everywhere in a header (RFC 2047 section 5, rule 3)."""

_ADDRESS_FIELDS = frozenset(
    {"from", "sender", "reply-to", "to", "cc", "bcc"}
    | {"resent-from", "resent-sender", "resent-reply-to", "resent-to", "resent-cc", "resent-bcc"}
)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')


def decode_words(text: str) -> str:
    """Return `text` with its encoded words decoded; one that cannot be read stays as it is.

    White space between two encoded words vanishes (section 6.2), and bytes of neighbours in one charset are joined
    first, because mailers cut characters in two.
    """
    parts: list[str] = []
    pending, charset, place = b"", "", 0
    for match in _WORD.finditer(text):
        payload = _payload(match[2], match[3])
        if payload is None:
            continue
        between = text[place : match.start()]
        if between.strip() or place == 0 or match[1].lower() != charset:
            parts.append(_decode(pending, charset))
            pending = b""
            if between.strip() or place == 0:
                parts.append(between)
        pending += payload
        charset, place = match[1].lower(), match.end()
    return "".join([*parts, _decode(pending, charset), text[place:]])


def encode_words(name: str, text: str) -> str:
    """Return `text`, a value of the field `name`, with every run of words that are not ASCII as encoded words.

    In an address field a quoted display name is encoded without its quotes; ValueError for an address that is not ASCII
    or a word that touches one, since an encoded word may not stand there.
    """
    is_address = name.lower() in _ADDRESS_FIELDS
    if is_address:
        text = _QUOTED.sub(_encode_quoted, text)
    pieces = re.split(r"([ \t]+)", text)
    encoded: list[str] = []
    i = 0
    while i < len(pieces):
        last = i
        if not pieces[i].isascii():
            while last + 2 < len(pieces) and not pieces[last + 2].isascii():
                last += 2
            run = "".join(pieces[i : last + 1])
            if is_address and re.search(r'[@<>,;:"]', run):
                raise ValueError(f"{name}: {run!r} is not ASCII: quote display names, and write addresses in ASCII")
            encoded.append(_encode(run))
        else:
            encoded.append(pieces[i])
        i = last + 1
    return "".join(encoded)


def _payload(encoding: str, text: str) -> bytes | None:
    data = text.encode("utf-8", "replace")
    if encoding in "qQ":
        return binascii.a2b_qp(data.replace(b"_", b"=20"))
    data = re.sub(rb"[^A-Za-z0-9+/]", b"", data)
    try:
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4))
    except binascii.Error:
        return None


def _decode(data: bytes, charset: str) -> str:
    if not data:
        return ""
    try:
        if codecs.lookup(charset).name in _SLOW:
            return data.decode("ascii", "replace")
        return data.decode(charset, "replace")
    except (LookupError, ValueError):
        # No such charset, or a codec that takes no error handler (idna, undefined).
        return data.decode("ascii", "replace")


def _encode_quoted(match: re.Match[str]) -> str:
    return match[0] if match[0].isascii() else _encode(re.sub(r"\\(.)", r"\1", match[1]))


def _encode(text: str) -> str:
    """Encode as Q, which people can half read, or as B where most is not ASCII; cut between characters only."""
    is_base64 = 2 * sum(map(str.isascii, text)) < len(text)
    words: list[str] = []
    word = ""
    for character in text:
        if word and _length(word + character, is_base64=is_base64) > _PAYLOAD_LIMIT:
            words.append(word)
            word = ""
        word += character
    return " ".join(
        f"=?utf-8?b?{binascii.b2a_base64(word.encode(), newline=False).decode()}?="
        if is_base64
        else f"=?utf-8?q?{_q(word)}?="
        for word in [*words, word]
    )


def _length(word: str, *, is_base64: bool) -> int:
    return (len(word.encode()) + 2) // 3 * 4 if is_base64 else len(_q(word))


def _q(word: str) -> str:
    return "".join(chr(byte) if byte in _BARE else "_" if byte == 0x20 else f"={byte:02X}" for byte in word.encode())
