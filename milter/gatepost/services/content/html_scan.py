"""The parts of HTML in which URLs stand: attributes, style sheets, scripts, and the text that people read.

No tree is made. A parser that makes one takes time by the square of what strangers send (200,000 nested <div> held
selectolax, and with it the whole process, for 167 s); this is one pass, in which the tags stand as browsers find them.
Comments are read as if they were none: Outlook shows what stands in `<!--[if mso]>`.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LINKS = frozenset({"href", "action", "formaction", "xlink:href", "ping"})
"""Attributes that lead somewhere when the reader clicks."""

RESOURCES = frozenset(
    {"src", "background", "srcset", "imagesrcset", "data", "poster", "lowsrc", "dynsrc", "cite", "longdesc", "codebase"}
)
"""Attributes of what is loaded when the reader looks."""

VALUE_LIMIT = 4096
"""Characters of an attribute's value that are read."""

_TAG = re.compile(r"<(/?[A-Za-z][^\s/>]{0,40}+)[^\s/>]*+")
_BETWEEN = re.compile(r"[\s/]*+")
_NAME = re.compile(r"([^\s/>=]++)(\s*+=\s*+)?")
_DOCTYPE = re.compile(r"<!doctype[^<>]{0,400}>", re.IGNORECASE)
_BARE = re.compile(r"[^\s>]*+")
_RAW_END = {name: re.compile(rf"</{name}", re.IGNORECASE) for name in ("style", "script", "xmp", "noembed")}
_CSS_URL = re.compile(r"(?:url\s{0,20}\(|@import)\s{0,20}[\"']?\s{0,20}([^\s\"')>;]{1,2048})", re.IGNORECASE)
# Browsers do without "url=", too: 0; http://...
_REFRESH = re.compile(
    r"(?:\A[\s\d.]{1,40}+[;,]\s{0,20}+(?:url\s{0,20}=)?|url\s{0,20}=)\s{0,20}[\"']?([^\"'>]{1,2048})", re.IGNORECASE
)
_CSS_ESCAPE = re.compile(r"\\(?:([0-9a-fA-F]{1,6})[ \t\r\n]?|([^0-9a-fA-F\r\n]))")
_LONG_NUMBER = re.compile(r"&#[xX]?[0-9a-fA-F]{9,}+")
_INLINE = frozenset(
    {"b", "strong", "i", "em", "u", "s", "strike", "font", "span", "small", "big", "sub", "sup", "tt", "code", "wbr"}
    | {"ins", "del", "mark", "bdo", "bdi", "nobr", "abbr"}
)
"""Tags that do not separate what stands before from what stands behind."""

Piece = tuple[str, str]
"""Kind and text: `link` and `resource` are one URL, `script` is source, `text` is what people read."""


def scan_html(source: str) -> Iterator[Piece]:
    """Yield all pieces; the text comes last."""
    text: list[str] = []
    place, end = 0, len(source)
    while place < end:
        opening = source.find("<", place)
        if opening < 0:
            opening = end
        if opening > place:
            text.append(source[place:opening])
        tag = _TAG.match(source, opening)
        if tag is None:
            # A comment or a lone "<": what follows is read as text. A document type names an address of w3.org.
            text.append(" ")
            doctype = _DOCTYPE.match(source, opening)
            place = doctype.end() if doctype else opening + 1
            continue
        name = tag[1].lower()
        attributes, place = _attributes(source, tag.end())
        if name.removeprefix("/") not in _INLINE:
            text.append(" ")
        yield from _urls_of(name, attributes)
        if name in _RAW_END:
            found = _RAW_END[name].search(source, place)
            stop = found.start() if found else end
            yield from (
                ((("resource", url)) for url in css_urls(source[place:stop]))
                if name == "style"
                else (("script", source[place:stop]),)
            )
            place = stop
    yield "text", unescape("".join(text))


def _attributes(source: str, place: int) -> tuple[list[tuple[str, str]], int]:
    """Return the attributes that stand from `place` on, and where the tag has ended.

    Of those given twice browsers take the first; but which one that is, hangs on their quirks.
    """
    found: list[tuple[str, str]] = []
    while True:
        if between := _BETWEEN.match(source, place):
            place = between.end()
        if place >= len(source) or source[place] == ">":
            return found, place + 1
        match = _NAME.match(source, place)
        if match is None:
            # "=" in front of a name.
            place += 1
            continue
        place = match.end()
        value = ""
        if match[2]:
            quote = source[place : place + 1]
            if quote and quote in "\"'":
                stop = source.find(quote, place + 1)
                if stop < 0:
                    # Browsers show nothing of a tag that does not end.
                    found.append((match[1].lower(), source[place + 1 : place + VALUE_LIMIT]))
                    return found, len(source)
                value, place = source[place + 1 : min(stop, place + VALUE_LIMIT)], stop + 1
            elif bare := _BARE.match(source, place):
                value, place = bare[0][:VALUE_LIMIT], bare.end()
        found.append((match[1].lower(), value))


def _urls_of(tag: str, attributes: list[tuple[str, str]]) -> Iterator[Piece]:
    for name, raw in attributes:
        value = unescape(raw) if "&" in raw else raw
        if name in LINKS and not (tag == "link" and name == "href"):
            yield "link", value
        elif name in {"srcset", "imagesrcset"}:
            yield from (("resource", candidate) for candidate in value.replace(",", " ").split())
        elif name in RESOURCES or name == "href":
            yield "resource", value
        elif name == "style":
            yield from (("resource", url) for url in css_urls(value))
        elif name == "srcdoc":
            yield "script", value
        elif tag == "meta" and name == "content" and (refresh := _REFRESH.search(value)):
            yield "link", refresh[1]
        elif name.startswith("on"):
            yield "script", value


def css_urls(source: str) -> Iterator[str]:
    """Yield the URLs of a style sheet, its escapes resolved."""
    if "\\" in source:
        source = _CSS_ESCAPE.sub(_css_character, source)
    if "url" in source.lower() or "@import" in source.lower():
        for match in _CSS_URL.finditer(source):
            yield match[1]


def _css_character(escape: re.Match[str]) -> str:
    number = int(escape[1] or "0", 16)
    return chr(number) if 0 < number < 0xD800 else escape[2] or "\ufffd"


def unescape(text: str) -> str:
    """Return the text with its character references resolved."""
    # Python refuses to read a number of thousands of digits, and such a character there is none.
    return html.unescape(_LONG_NUMBER.sub("\ufffd", text)) if "&" in text else text
