"""Envelope addresses: what stands between the angle brackets of MAIL and RCPT.

Text is UTF-8 (RFC 6531); bytes that are not UTF-8 survive as surrogate escapes. Display names and header addresses are
not handled here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_DOT_ATOM = re.compile(r"[^\s\x00-\x20()<>\[\]:;@\\,\"\x7f]+\Z")
_SOURCE_ROUTE = re.compile(r"@[^:,@\"]+(?:,@[^:,@\"]+)*:")


@dataclass(frozen=True, slots=True)
class Address:
    """A mailbox: `local` without quotes, `domain` in lower case.

    The null sender has both empty; a bare local part (`<postmaster>`) has an empty domain. Two addresses are equal
    when local parts are the same to the letter and domains the same but for case (RFC 5321 section 2.4).
    """

    local: str
    domain: str = ""

    def __post_init__(self) -> None:
        """Make addresses that differ in the case of their domains alone equal, however they were made."""
        if self.domain != (lowered := self.domain.lower()):
            object.__setattr__(self, "domain", lowered)

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse `local@domain`, `<local@domain>`, a quoted local part, a source route (dropped), or the empty string.

        Raises ValueError, with a text for the administrator, for what is no address.
        """
        path = text.strip()
        if path.startswith("<"):
            if not path.endswith(">"):
                raise ValueError(f"{text!r}: the closing > is missing")
            path = path[1:-1].strip()
        if route := _SOURCE_ROUTE.match(path):
            path = path[route.end() :].strip()
        elif not path:
            return cls("", "")
        if path.startswith('"'):
            return cls._parse_quoted(path)
        local, at, domain = path.rpartition("@")
        if not at:
            local, domain = path, ""
        if not local or (at and not domain.strip()):
            raise ValueError(f"{text!r} is not an address: expected local-part@domain")
        return cls(local, domain.strip())

    @classmethod
    def _parse_quoted(cls, path: str) -> Address:
        local: list[str] = []
        i = 1
        while i < len(path) and path[i] != '"':
            if path[i] == "\\":
                i += 1
            local.append(path[i : i + 1])
            i += 1
        rest = path[i + 1 :]
        if i >= len(path) or (rest and not (rest.startswith("@") and rest[1:].strip())):
            raise ValueError(f"{path!r} is not an address: the quoted local part must be followed by @domain")
        if not rest and not local:
            raise ValueError(f"{path!r} is not an address: the null sender has no quotes")
        return cls("".join(local), rest[1:].strip())

    @property
    def is_null(self) -> bool:
        """True for `<>`, the sender of bounces (RFC 5321 section 4.5.5)."""
        return not self.local and not self.domain

    def split_detail(self, delimiter: str = "+") -> tuple[str, str]:
        """Split the local part at the first delimiter: `user+box` gives ("user", "+box"), `user` gives ("user", "").

        A local part that begins with the delimiter is not split, as in Postfix (`split_addr`).
        """
        at = self.local.find(delimiter, 1) if delimiter else -1
        return (self.local, "") if at < 1 else (self.local[:at], self.local[at:])

    def __str__(self) -> str:
        """Return `local@domain`, quoted where RFC 5321 wants it; empty for the null sender."""
        local = self.local
        if not local and not self.domain:
            return ""
        # The empty local part, "" in quotes, is legal; .a, a. and a..b are so only in quotes.
        if not _DOT_ATOM.match(local) or local.startswith(".") or local.endswith(".") or ".." in local:
            local = '"' + re.sub(r'(["\\])', r"\\\1", local) + '"'
        return f"{local}@{self.domain}" if self.domain else local

    def __bytes__(self) -> bytes:
        """Return the address as it goes on the wire, without angle brackets."""
        return str(self).encode("utf-8", "surrogateescape")
