"""Where a URL leads: its host in one spelling, however it was disguised, and the hosts of URLs that stand in it.

Reads URLs as browsers do (the WHATWG URL standard) and not as RFC 3986 wants them: any number of slashes, backslashes,
percent signs and full-width letters in the host, IPv4 addresses as one number, octal or hexadecimal. Nothing raises.
"""

from __future__ import annotations

import base64
import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from gatepost.idn import to_ascii
from gatepost.services.lists.zone import is_host_name

if TYPE_CHECKING:
    from collections.abc import Iterator

URL_LIMIT = 4096
"""Characters of a URL that are read; redirectors with a URL in them need a few hundred."""

NESTING = 3
"""URLs within URLs within URLs."""

NESTED_LIMIT = 8
"""URLs that are looked for in one."""

SCHEMES = frozenset({"http", "https", "ftp"})

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,30}+):")
_CONTROL = re.compile(r"[\x00-\x1f]")
_INVISIBLE = re.compile(r"[\u00ad\u034f\u061c\u180b-\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")
_NESTED = re.compile(r"(?i:https?|ftp):[/\\]|(?i:www)\.|aHR0c[\w+/=-]{8,}+")
_AUTHORITY_END = re.compile(r"[/\\?#]|[,;|](?=(?i:https?|ftp):)")
_HOST_END = re.compile(
    r"\.\.|[\x00-,/:-@\[-^`{-\x7f"
    # Quotes, brackets, dashes and the like of other scripts, which stand behind a URL in a text; no dots.
    r"\u00a1\u00ab\u00bb\u00bf\u2010-\u2023\u2025-\u205e\u3001\u3003\u3008-\u3011\u3014-\u301f"
    r"\ufe10-\ufe19\ufe30-\ufe51\ufe54-\ufe6b\uff01-\uff0d\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff60\uff62-\uff64]"
)
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+")
_DOTS = re.compile("[\u3002\uff0e\uff61]")


class Host(NamedTuple):
    """A host name in lower case, A-labels and all, or an address; `is_disguised` when a URL hides where it leads."""

    name: str
    ip: IPv4Address | IPv6Address | None
    is_disguised: bool


def without_invisible(text: str) -> str:
    """Return the text without the characters that nobody sees and browsers pass over in host names."""
    return text if text.isascii() else _INVISIBLE.sub("", text)


def hosts_of(url: str) -> Iterator[Host]:
    """Yield the host of a URL, then those of the URLs in its path and query; of a relative one only those."""
    yield from _hosts(url[:URL_LIMIT], NESTING)


def _hosts(url: str, depth: int) -> Iterator[Host]:
    text = without_invisible(_CONTROL.sub("", url)).strip()
    scheme = _SCHEME.match(text)
    if scheme and scheme[1].lower() in SCHEMES:
        rest = text[scheme.end() :].lstrip("/\\")
    elif text.startswith(("//", "\\\\", "/\\", "\\/")):
        rest = text.lstrip("/\\")
    elif text[:4].lower() == "www.":
        rest = text
    else:
        rest = ""
    place = 0
    if rest:
        end = _AUTHORITY_END.search(rest)
        place = end.start() if end else len(rest)
        authorities = [rest[:place]]
        if "\\" in rest[place : place + 1] and "@" in rest:
            # http://good.example\@bad.example/: programs disagree.
            authorities.append(rest.partition("/")[0])
        for authority in authorities:
            if (host := parse_authority(authority)) is not None:
                yield host
            else:
                # http://,http://bad.example: no host, but the beginning of another URL.
                place = 0
    if depth:
        yield from _nested(rest[place:] if rest else text, depth - 1)


def _nested(text: str, depth: int) -> Iterator[Host]:
    for _ in range(NESTING):
        if (decoded := unquote(text)) == text:
            break
        text = decoded
    for count, found in enumerate(_NESTED.finditer(text)):
        if count >= NESTED_LIMIT:
            return
        if found[0].startswith("aHR0c"):
            yield from _hosts(_decode_base64(found[0]), depth)
        else:
            # What stands in that URL again is found by this loop.
            yield from _hosts(re.split(r"[\s<>\"'&]", text[found.start() :], maxsplit=1)[0], 0)


def _decode_base64(text: str) -> str:
    try:
        return base64.urlsafe_b64decode(text.replace("+", "-").replace("/", "_").rstrip("=") + "===").decode("latin-1")
    except ValueError:
        return ""


def parse_authority(authority: str) -> Host | None:
    """Return the host of `user:password@HOST:port`; None for what is no host."""
    _, at, place = authority.rpartition("@")
    if place.startswith("["):
        literal, closing, _ = place[1:].partition("]")
        try:
            return Host(f"[{literal}]", IPv6Address(literal), bool(at)) if closing else None
        except AddressValueError:
            return None
    raw = place.partition(":")[0]
    name = unquote(raw) if "%" in raw else raw
    # Of `http://a.example...and so on`, or with a bracket there, mail programs make a link up to that.
    name = to_ascii(_HOST_END.split(_DOTS.sub(".", without_invisible(name)).strip(), maxsplit=1)[0])
    while not is_host_name(name):
        # Browsers and DNS take labels that begin or end with a hyphen; what stands behind these is asked about.
        name = name.partition(".")[2]
        if "." not in name or _NUMBER.fullmatch(name.rpartition(".")[2]):
            return None
    if _NUMBER.fullmatch(name.rpartition(".")[2]):
        ip = parse_ipv4(name)
        return None if ip is None else Host(str(ip), ip, bool(at) or str(ip) != raw)
    return Host(name, None, bool(at) or "%" in raw) if "." in name else None


def parse_ipv4(text: str) -> IPv4Address | None:
    """Read an address as browsers do: one to four numbers, decimal, octal (0...) or hexadecimal (0x...)."""
    labels = text.removesuffix(".").split(".")
    if len(labels) > 4 or not all(map(_NUMBER.fullmatch, labels)):
        return None
    try:
        numbers = [_number(label) for label in labels]
    except ValueError:
        return None
    *high, last = numbers
    if any(number > 255 for number in high) or last >= 256 ** (4 - len(high)):
        return None
    return IPv4Address(sum(number << (24 - 8 * place) for place, number in enumerate(high)) + last)


def _number(label: str) -> int:
    if label[:2].lower() == "0x":
        return int(label[2:] or "0", 16)
    return int(label, 8) if len(label) > 1 and label.startswith("0") else int(label)
