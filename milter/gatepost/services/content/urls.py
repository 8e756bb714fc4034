"""The hosts to which a message links: from its subject, its texts and its HTML, those of attached messages too.

Everything here is work for a thread, and bounded whatever a stranger sends: so much text, so many hosts. A mail program
makes a link of more than what begins with http: names that end in a top-level domain count, too, but last.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from gatepost.services.content.file_name import names_of, plain_name
from gatepost.services.content.html_scan import scan_html
from gatepost.services.content.part_tree import message_leaves, text_of
from gatepost.services.content.url_host import Host, hosts_of, parse_authority, without_invisible

if TYPE_CHECKING:
    from collections.abc import Iterator

    from publicsuffixlist import PublicSuffixList

    from gatepost.message.mime import Part

TEXT_LIMIT = 1 << 20
"""Characters of one text or HTML that are read: a tenth of a second. A newsletter has 100,000."""

LEAST_TEXT = 1 << 14
"""Characters of each text that are read, whatever stands before it; the others share twice TEXT_LIMIT."""

HOST_LIMIT = 2000
"""Different hosts that are kept."""

_PIECE = 8192
"""Characters that one regular expression looks at, so that no single call holds the interpreter for long."""

_OVERLAP = 512
_SCHEMED = re.compile(r"(?:https?|ftp):[/\\][^\s<>\"'`]{1,2048}+|//[^\s<>\"'`/]{4,256}+", re.IGNORECASE)
_BRACKETED = re.compile(r"<((?:https?|ftp):[/\\][^<>\"]{1,2048}+)>", re.IGNORECASE)
_NAME = re.compile(
    r"(?<![\w@.%/-])(?:[^\W_][\w-]{0,62}+[.\u3002\uff0e\uff61]){1,40}[^\W\d_][\w-]{1,62}+(?![\w@])", re.UNICODE
)
_DOTS = re.compile("[.\u3002\uff0e\uff61]")
_HTML_NAMES = (".htm", ".html", ".xhtml", ".shtml", ".svg")
_HTML_TYPES = frozenset({"text/html", "application/xhtml+xml", "image/svg+xml"})
_CARDS = frozenset({"text/calendar", "application/ics", "text/vcard", "text/x-vcard", "text/directory"})
"""Their lines are folded anywhere, in the middle of a host too (RFC 5545 section 3.1, RFC 6350 section 3.2)."""

_HTML_START = re.compile(
    rb"\s{0,200}(?:\xef\xbb\xbf)?\s{0,200}<(?:!doctype\s+html|html|head|body|script|svg)\b", re.IGNORECASE
)

DISGUISED, LINK, RESOURCE, NAME = range(4)
"""Ranks of hosts: those that somebody took pains to hide come first, names that are no link by themselves last."""


class LinkedHost(NamedTuple):
    """A host, and how it was linked to: the best rank of all its links."""

    host: Host
    rank: int


class Links(NamedTuple):
    """What a message links to: the hosts by rank and then in their order, and whether all of the text was read."""

    hosts: tuple[LinkedHost, ...]
    is_complete: bool


def find_links(root: Part) -> Links:
    """Return the hosts to which the message with that structure links."""
    ranks: dict[Host, int] = {}
    left = 2 * TEXT_LIMIT
    is_complete = True
    for text, is_html in _texts(root):
        # The end of a text counts as well as its beginning, and the last text as well as the first: nobody is to hide
        # behind a megabyte of padding.
        share = max(left // 2, LEAST_TEXT)
        if len(text) > share:
            is_complete = False
            text = text[: share * 3 // 4] + " " + text[len(text) - share // 4 :]
        left -= min(left, len(text))
        for host, rank in _hosts_in(text, is_html=is_html):
            known = host._replace(is_disguised=False)
            ranks[known] = min(rank, ranks.get(known, NAME))
            if len(ranks) >= HOST_LIMIT:
                return Links(_ranked(ranks), is_complete=False)
    return Links(_ranked(ranks), is_complete)


def _ranked(ranks: dict[Host, int]) -> tuple[LinkedHost, ...]:
    return tuple(LinkedHost(host, rank) for host, rank in sorted(ranks.items(), key=lambda item: item[1]))


def _texts(root: Part) -> Iterator[tuple[str, bool]]:
    """Yield the texts, and whether they are HTML."""
    yield root.headers.get("Subject") or "", False
    for part, content, _ in message_leaves(root):
        is_named_so = any(plain_name(name).endswith(_HTML_NAMES) for name in names_of(part))
        if part.content_type in _HTML_TYPES or is_named_so or _HTML_START.match(content):
            yield text_of(content, part.charset), True
        elif part.content_type in _CARDS:
            yield re.sub(r"\r?\n[ \t]", "", text_of(content, part.charset)), False
        elif part.content_type.startswith("text/"):
            text = text_of(content, part.charset)
            yield (_unflowed(text, part) if part.parameters.get("format", "").lower() == "flowed" else text), False


def _unflowed(text: str, part: Part) -> str:
    """Join the lines that format=flowed has split (RFC 3676)."""
    delete = part.parameters.get("delsp", "").lower() == "yes"
    return re.sub(r" \r?\n(?![> ])", "" if delete else " ", text)


def _hosts_in(text: str, *, is_html: bool) -> Iterator[tuple[Host, int]]:
    if not is_html:
        yield from _in_text(text)
        return
    for kind, piece in scan_html(text):
        match kind:
            case "text":
                yield from _in_text(piece)
            case "script":
                yield from _with_scheme(piece, RESOURCE)
            case _:
                rank = LINK if kind == "link" else RESOURCE
                yield from ((host, DISGUISED if host.is_disguised else rank) for host in hosts_of(piece))


def _in_text(text: str) -> Iterator[tuple[Host, int]]:
    text = without_invisible(text)
    # RFC 3986 appendix C: white space in angle brackets is from a line that was wrapped.
    yield from _with_scheme(text, LINK)
    for piece in pieces(text):
        for match in _BRACKETED.finditer(piece):
            if (whole := "".join(match[1].split())) != match[1]:
                yield from ((host, LINK) for host in hosts_of(whole))
        for match in _NAME.finditer(piece):
            if (host := _named(match[0])) is not None:
                yield host, LINK if match[0][:4].lower() == "www." else NAME


def _named(text: str) -> Host | None:
    """Return the host that a bare name is; what stands behind a dot without a blank may be the next sentence."""
    is_www = text[:4].lower() == "www."
    labels = _DOTS.split(text)
    for end in range(len(labels), max(1, len(labels) - 3), -1):
        host = parse_authority(".".join(labels[:end]))
        if host and host.ip is None and registered_domains(host.name, known=not is_www):
            return host
    return None


def _with_scheme(text: str, rank: int) -> Iterator[tuple[Host, int]]:
    for piece in pieces(text):
        for match in _SCHEMED.finditer(piece):
            for host in hosts_of(match[0].rstrip(".,;:!?)]}")):
                yield host, DISGUISED if host.is_disguised else rank
                if host.ip is None and not registered_domains(host.name, known=True) and (other := _named(host.name)):
                    # The next sentence behind an ideographic full stop, which may also stand within a name.
                    yield other, rank


def pieces(text: str) -> Iterator[str]:
    """Cut a text where there is white space; where there is none, a piece repeats the end of the one before."""
    place = 0
    while len(text) - place > _PIECE:
        cut = max(text.rfind(blank, place, place + _PIECE) for blank in " \n\t")
        if cut > place:
            yield text[place:cut]
            place = cut
        else:
            yield text[place : place + _PIECE]
            place += _PIECE - _OVERLAP
    yield text[place:]


@lru_cache(maxsize=4096)
def registered_domains(host: str, *, known: bool = False) -> tuple[str, ...]:
    """Return what was registered of a host name, the narrowest first; lists of domains are asked about that.

    Two where people register below a registered domain: user.blogspot.com, blogspot.com. None for a public suffix, and
    with `known` for a name below no top-level domain that there is.
    """
    found = (_suffixes(True).privatesuffix(host, accept_unknown=not known), _suffixes(False).privatesuffix(host))
    return tuple(dict.fromkeys(domain for domain in found if domain)) if found[0] else ()


@lru_cache(maxsize=2)
def _suffixes(private: bool) -> PublicSuffixList:
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList(only_icann=not private)
