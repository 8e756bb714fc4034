"""Lists of `tag=value;` as DKIM signatures, ARC fields and key records are (RFC 6376 section 3.2).

What comes from a stranger is bounded here, before anything looks at it for longer than once.
"""

from __future__ import annotations

import re

FIELD_LIMIT_BYTES = 16_384
"""Of a signature: honest ones have 500 to 2,000; those that copy the header (z=) several thousand."""

# Without the hyphen in RFC 6376; other verifiers take it, and what it names is ignored in any case.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_SPACE = re.compile(r"[ \t\r\n]+")


class Unverifiable(Exception):  # noqa: N818 - what RFC 8601 calls the result, not an error of ours
    """A signature that is not even tried, or a key that cannot be used: the `result` of RFC 8601, and why."""

    def __init__(self, result: str, reason: str) -> None:
        super().__init__(reason)
        self.result = result
        self.reason = reason


def read_tags(raw: bytes) -> dict[str, str]:
    """Return the values by tag, without the white space around them; Unverifiable for what is no such list."""
    if len(raw) > FIELD_LIMIT_BYTES:
        raise Unverifiable("neutral", "the signature is too long")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise Unverifiable("neutral", "the signature is not UTF-8") from None
    if not _SPACE.sub("", text).isprintable():
        raise Unverifiable("neutral", "the signature holds a control character")
    tags: dict[str, str] = {}
    specs = text.split(";")
    if not specs[-1].strip():
        specs.pop()
    for spec in specs:
        name, equals, value = spec.partition("=")
        name = name.strip()
        if not equals or not _NAME.fullmatch(name):
            raise Unverifiable("neutral", "the signature is no list of tags")
        if name in tags:
            raise Unverifiable("neutral", f"the tag {name[:20]}= stands there twice")
        tags[name] = value.strip()
    return tags


def without_space(value: str) -> str:
    """Return a value in which folding means nothing, such as base64, without it."""
    return _SPACE.sub("", value)


def words(value: str) -> tuple[str, ...]:
    """Return the words of a list with colons, in lower case."""
    return tuple(_SPACE.sub("", word).lower() for word in value.split(":"))


def without_signature(raw: bytes) -> bytes:
    """Return a signature as it is signed: with the value of b= taken out (RFC 6376 section 3.7)."""
    specs = raw.split(b";")
    for place, spec in enumerate(specs):
        name, equals, _ = spec.partition(b"=")
        if equals and name.strip() == b"b":
            specs[place] = name + equals
    return b";".join(specs)
