"""XFORWARD: what the front says of its client, and saying the same to the inner smtpd.

After Postfix's XFORWARD_README: values are xtext, `[UNAVAILABLE]` where the front does not know one, `IPv6:` before an
IPv6 address. A value that is read here and written again is the same value to the inner smtpd.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

VALUE_LIMIT_BYTES = 255
"""A longer value makes the inner smtpd refuse the whole command with 501, the other attributes too (`xforward_cmd`)."""

LINE_LIMIT_BYTES = 512
"""RFC 5321 section 4.5.3.1.4: a command line with its CRLF; the front keeps to it too (`smtpd_proxy_xforward_send`)."""

_UNAVAILABLE = "[UNAVAILABLE]"
# The second is of XCLIENT; Postfix does not send it here, others may.
_UNKNOWN = frozenset({_UNAVAILABLE, "[TEMPUNAVAIL]"})
_IPV6 = "IPv6:"
_WORD = re.compile(r"(?:\A|(?<=\s))([^\s=]+)=(\S+)", re.ASCII)
# xtext (RFC 3461 section 4) as Postfix's xtext_quote writes it: `+` and all but printable ASCII is escaped. Read with
# more patience: a `+` that begins no escape stands for itself.
_ESCAPED = re.compile(rb"\+([0-9A-Fa-f]{2})")
_PLAIN = re.compile(r"[!-*,-~]{1,255}")
_TO_ESCAPE = re.compile(rb"[^!-*,-~]")


class Xforward(NamedTuple):
    """The client as the front knows it; None for what it does not know.

    Text is decoded, bytes that are not UTF-8 as surrogate escapes. `addr` is without the `IPv6:` prefix; `ident` is the
    front's own queue id; `proto` is SMTP or ESMTP; `source` is REMOTE or LOCAL.
    """

    name: str | None = None
    addr: str | None = None
    port: int | None = None
    proto: str | None = None
    helo: str | None = None
    ident: str | None = None
    source: str | None = None

    def updated(self, argument: bytes) -> Xforward:
        """Return this with what one more XFORWARD command says; the front sends as many as it needs."""
        changes: dict[str, Any] = {name.lower(): value for name, value in parse(argument).items()}
        if (port := changes.get("port")) is not None:
            changes["port"] = int(port) if port.isascii() and port.isdecimal() else None
        return self._replace(**changes)


ATTRIBUTES = tuple(field.upper() for field in Xforward._fields)
"""The attributes that Postfix knows, in the order in which its smtpd lists them."""


def parse(argument: bytes) -> dict[str, str | None]:
    """Return the attributes of one XFORWARD command, names in upper case, values decoded, None for unavailable.

    What is no known attribute or has no value is left out: a refused XFORWARD would cost the client its message
    ("queue file write error", `smtpd_proxy_connect`).
    """
    attributes: dict[str, str | None] = {}
    for word, value in _WORD.findall(argument.decode("utf-8", "surrogateescape")):
        name = word.upper()
        if name not in ATTRIBUTES:
            continue
        if value[0] == "[" and value.upper() in _UNKNOWN:
            attributes[name] = None
            continue
        text = _unescaped(value) if "+" in value else value
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
    words = [
        f" {name}={_xtext(name, value)}" for name, value in zip(ATTRIBUTES, xforward, strict=True) if name in offered
    ]
    commands: list[str] = []
    command = ""
    for word in words:
        if command and len(command) + len(word) + 2 <= LINE_LIMIT_BYTES:
            command += word
        else:
            commands.append(command)
            command = f"XFORWARD{word}"
    return "".join([f"{line}\r\n" for line in (*commands[1:], command) if line]).encode("ascii")


def _xtext(name: str, value: str | int | None) -> str:
    """Return a value as it goes on the wire."""
    if value is None:
        return "REMOTE" if name == "SOURCE" else _UNAVAILABLE
    text = str(value)
    if name == "ADDR" and ":" in text:
        text = _IPV6 + text
    if _PLAIN.fullmatch(text):
        return text
    escaped = _TO_ESCAPE.sub(_escape, text.encode("utf-8", "surrogateescape")).decode("ascii")
    return escaped if 0 < len(escaped) <= VALUE_LIMIT_BYTES else _UNAVAILABLE


def _escape(match: re.Match[bytes]) -> bytes:
    return b"+%02X" % match[0][0]


def _unescaped(value: str) -> str:
    wire = _ESCAPED.sub(lambda match: bytes.fromhex(match[1].decode()), value.encode("utf-8", "surrogateescape"))
    return wire.decode("utf-8", "surrogateescape")
