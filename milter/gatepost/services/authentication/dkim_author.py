"""Whose domain a message is from, for what is signed and what must be: only where every reader would say the same."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gatepost.address import Address
from gatepost.idn import to_ascii

if TYPE_CHECKING:
    from gatepost.message.header import Headers

VALUE_LIMIT = 4096
"""Characters of a From that are read; an honest one with one author has a hundred."""

# What stands in quotes or in a comment is no syntax; each alternative takes what it begins, so the time is linear.
_IGNORED = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\Z)|\((?:[^()\\]|\\.)*+(?:\)|\Z)?')
_ADDRESS = re.compile(r'[^<>,;:()\[\]"\\]*<([^<>,;:()\[\]"\\]+)>\s*|([^<>,;:()\[\]"\\]+)')
_DOMAIN = re.compile(r"[^\s.@]+(?:\.[^\s.@]+)*")


def author_domain(headers: Headers) -> tuple[str | None, str]:
    """Return the domain of the one author in From, with A-labels, and why there is none.

    None for no From or several, for several authors, groups, and whatever mail programs may read in different ways.
    """
    fields = headers.fields("From")
    if len(fields) != 1:
        return None, "there is no From" if not fields else "there are several From fields"
    text = fields[0].raw.replace(b"\r\n", b"").decode("utf-8", "replace")
    if len(text) > VALUE_LIMIT:
        return None, "From is too long"
    match = _ADDRESS.fullmatch(_IGNORED.sub(_stand_in, text))
    if match is None:
        return None, "From does not name one author"
    try:
        address = Address.parse((match[1] or match[2]).strip())
    except ValueError:
        return None, "From names no address"
    if not address.local or not _DOMAIN.fullmatch(address.domain) or not address.domain.isprintable():
        return None, "From names no address with a domain"
    return to_ascii(address.domain), ""


def _stand_in(ignored: re.Match[str]) -> str:
    """Return what syntax sees of a quoted string (still one word) or a comment; what does not end is a fault."""
    text = ignored[0]
    if len(text) < 2 or text[-1] not in '")':
        return '"'
    return "" if text[0] == "(" else "_"


def is_within(domain: str, parent: str) -> bool:
    """Tell whether the domain is the other one, or below it."""
    domain, parent = to_ascii(domain), to_ascii(parent)
    return domain == parent or domain.endswith("." + parent)
