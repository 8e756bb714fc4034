"""XFORWARD: what the front says of its client, and saying the same to the inner smtpd.

After Postfix's XFORWARD_README: values are xtext, `[UNAVAILABLE]` where the front does not know one, `IPv6:` before an
IPv6 address. A value that is read here and written again is the same value to the inner smtpd.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

ATTRIBUTES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")
"""The attributes that Postfix knows, in the order in which its smtpd lists them."""

VALUE_LIMIT_BYTES = 255
"""A longer value makes the inner smtpd refuse the whole command with 501, the other attributes too (`xforward_cmd`)."""

LINE_LIMIT_BYTES = 512
"""RFC 5321 section 4.5.3.1.4: a command line with its CRLF; the front keeps to it too (`smtpd_proxy_xforward_send`)."""

_UNAVAILABLE = b"[UNAVAILABLE]"
# The second is of XCLIENT; Postfix does not send it here, others may.
_UNKNOWN = frozenset({_UNAVAILABLE, b"[TEMPUNAVAIL]"})
_IPV6 = "IPv6:"
# xtext (RFC 3461 section 4) as Postfix's xtext_quote writes it: `+` and all but printable ASCII is escaped.
_ESCAPED = re.compile(rb"\+([0-9A-Fa-f]{2})")
_NAMES = {name.encode(): name for name in ATTRIBUTES}
_FIELDS = {name: name.lower() for name in ATTRIBUTES}
_TO_ESCAPE = re.compile(rb"[^!-*,-~]")


@dataclass(frozen=True, slots=True)
class Xforward:
    """The client as the front knows it; None for what it does not know.

    Text is decoded, bytes that are not UTF-8 as surrogate escapes. `addr` is without the `IPv6:` prefix; `ident` is the
    front's own queue id; `proto` is SMTP or ESMTP; `source` is REMOTE or LOCAL.
    """

    name: str | None = None
    addr: str | None = None
    port: int | None = None
    helo: str | None = None
    ident: str | None = None
    proto: str | None = None
    source: str | None = None

    def updated(self, argument: bytes) -> Xforward:
        """Return this with what one more XFORWARD command says; the front sends as many as it needs."""
        changes: dict[str, Any] = {_FIELDS[name]: value for name, value in parse(argument).items()}
        if (port := changes.get("port")) is not None:
            changes["port"] = int(port) if port.isascii() and port.isdecimal() else None
        return replace(self, **changes)


def parse(argument: bytes) -> dict[str, str | None]:
    """Return the attributes of one XFORWARD command, names in upper case, values decoded, None for unavailable.

    What is no known attribute or has no value is left out: a refused XFORWARD would cost the client its message
    ("queue file write error", `smtpd_proxy_connect`).
    """
    attributes: dict[str, str | None] = {}
    for word in argument.split():
        name_bytes, _, value = word.partition(b"=")
        name = _NAMES.get(name_bytes.upper())
        if name is None or not value:
            continue
        if value.startswith(b"[") and value.upper() in _UNKNOWN:
            attributes[name] = None
            continue
        text = _decode(value)
        if name == "ADDR" and text[: len(_IPV6)].lower() == _IPV6.lower():
            text = text[len(_IPV6) :]
        attributes[name] = text
    return attributes


@lru_cache(maxsize=1024)
def encode(xforward: Xforward, offered: frozenset[str] = frozenset(ATTRIBUTES)) -> bytes:
    """Return the XFORWARD commands for the inner smtpd, to send in one write; one reply comes for each CRLF in them.

    `offered` are the attributes that the inner's EHLO lists: it refuses others with 501. Each of them is sent, as
    `[UNAVAILABLE]` if it is None or too long, so that nothing is left from before; an unknown SOURCE is sent as REMOTE,
    for a LOCAL message gets its header rewritten.
    """
    commands: list[bytes] = []
    command = b"XFORWARD"
    for name in ATTRIBUTES:
        if name not in offered:
            continue
        word = b" %b=%b" % (name.encode(), _value(xforward, name))
        if len(command) + len(word) + 2 > LINE_LIMIT_BYTES:
            commands.append(command)
            command = b"XFORWARD"
        command += word
    if command != b"XFORWARD":
        commands.append(command)
    return b"".join([line + b"\r\n" for line in commands])


def _value(xforward: Xforward, name: str) -> bytes:
    value = getattr(xforward, _FIELDS[name])
    if value is None:
        return b"REMOTE" if name == "SOURCE" else _UNAVAILABLE
    text = str(value)
    if name == "ADDR" and ":" in text:
        text = _IPV6 + text
    wire = _encode(text)
    return wire if 0 < len(wire) <= VALUE_LIMIT_BYTES else _UNAVAILABLE


def _decode(wire: bytes) -> str:
    """Decode xtext; a `+` that begins no escape stands for itself."""
    if b"+" in wire:
        wire = _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), wire)
    return wire.decode("utf-8", "surrogateescape")


def _encode(text: str) -> bytes:
    wire = text.encode("utf-8", "surrogateescape")
    return _TO_ESCAPE.sub(lambda match: b"+%02X" % match[0][0], wire)
