"""What DNS answers look like to plugins, and how the names they ask for become DNS names.

Names go in as mail has them: with or without a final dot, in any case, internationalised ones as U-labels or A-labels.
Names come out as host names are compared: lower case, no final dot.
"""

from __future__ import annotations

from dataclasses import dataclass

import dns.exception
import dns.name
import dns.rdata

from gatepost.idn import to_ascii


@dataclass(frozen=True, slots=True)
class Answer:
    """What DNS says about a name and a type."""

    records: tuple[dns.rdata.Rdata, ...] = ()
    """dnspython's record objects, CNAMEs followed; empty when the name has none of this type."""
    exists: bool = True
    """False when there is no such name (NXDOMAIN); True with no records when it only has none of this type."""
    ttl: int = 0
    """Seconds for which the name server lets this be kept; part of it is over when the answer was in the cache."""
    wire_bytes: int = 0
    """Size of the message it came in."""


NO_SUCH_NAME = Answer(exists=False)
"""The answer for what cannot be a name in DNS."""


@dataclass(frozen=True, slots=True, order=True)
class Mx:
    """A mail exchanger; the lowest preference is tried first."""

    preference: int
    host: str
    """Lower case, without a final dot; empty for the null MX (RFC 7505), which says: no mail here."""

    @property
    def is_null(self) -> bool:
        """True for the record that says that the domain takes no mail."""
        return not self.host


def to_dns_name(text: str) -> dns.name.Name | None:
    """Return the absolute DNS name; None for what cannot be one: empty, an empty label, a label or name too long.

    Every other octet is taken as it is: DNS itself forbids none, and a backslash or `@` means itself.
    """
    text = text if text.isascii() else to_ascii(text)
    try:
        return dns.name.Name([*text.removesuffix(".").encode("ascii").split(b"."), b""])
    except (dns.exception.DNSException, UnicodeEncodeError):
        return None


def to_host(name: dns.name.Name) -> str:
    """Return a host name as people compare it: lower case, no final dot, the root empty."""
    return name.to_text(omit_final_dot=True).lower() if name != dns.name.root else ""
