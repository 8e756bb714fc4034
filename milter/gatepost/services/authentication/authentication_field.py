"""The Authentication-Results field (RFC 8601): written from results, and those of others told apart by their id.

Values come from strangers. The library `authres` writes each that has an @ as it is, so that a signature of
`i="a; dmarc=pass"@example.org` would become a result of ours; it is the judge in the tests.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gatepost.idn import to_ascii

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from gatepost.authentication import MethodResult
    from gatepost.message.header import Header, Headers

AUTHENTICATION_RESULTS = "Authentication-Results"

RESULTS_LIMIT = 60
VALUE_LIMIT = 255
"""Results in one field, and characters of a value or reason: what is longer is cut. Far below what a field may hold."""

_LINE_LIMIT = 78

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+")
_ATOMS = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_MAILBOX = re.compile(rf"(?:{_ATOMS}(?:\.{_ATOMS})*)?@[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_STRANGE = re.compile(r"[^ -~]")
_PASS = re.compile(r"=(?=[\s\"'\\()]*pass)", re.IGNORECASE)

_ID = re.compile(r'"((?>(?:[^"\\]|\\.)*))"|([^\x00- \x7f()<>@,;:\\"/\[\]?=]+)', re.DOTALL)
_SPACE = re.compile(r"[ \t]*")
_VERSION = re.compile(r"[0-9]+")
_PARENTHESIS = re.compile(r"[()]|\\.?", re.DOTALL)


def results_field(authserv_id: str, results: Sequence[MethodResult]) -> bytes:
    """Return the value of the field, folded."""
    lines = [f" {authserv_id}"]
    for words in [_words(result) for result in results[:RESULTS_LIMIT]] or [["none"]]:
        lines[-1] += ";"
        lines.append("\t")
        for word in words:
            if lines[-1] != "\t" and len(lines[-1]) + len(word) > _LINE_LIMIT:
                lines.append("\t")
            lines[-1] += word if lines[-1] == "\t" else f" {word}"
    return "\r\n".join(lines).encode("ascii")


def _words(result: MethodResult) -> list[str]:
    words = [f"{result['method']}={result['result']}"]
    if result["reason"] and (reason := _plain(result["reason"])):
        words.append(f"reason={_quoted(reason)}")
    for name, value in result["properties"].items():
        if text := _value(value):
            words.append(f"{name}={text}")
    return words


def _value(value: str) -> str:
    local, at, domain = value.rpartition("@")
    text = _plain(value if value.isascii() else f"{local}{at}{to_ascii(domain)}")
    return text if not text or _TOKEN.fullmatch(text) or _MAILBOX.fullmatch(text) else _quoted(text)


def _plain(text: str) -> str:
    # "=pass" stands in the field where something passed, and nowhere else: many filters only search for it.
    return _PASS.sub("?", _STRANGE.sub("?", text[:VALUE_LIMIT])).strip()


def _quoted(text: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


def claiming(headers: Headers, ids: Collection[str]) -> list[int]:
    """Return which of the Authentication-Results fields, counted from 1, say to be by one of `ids`."""
    own = {_folded(one) for one in ids}
    fields = headers.fields(AUTHENTICATION_RESULTS)
    return [number for number, field in enumerate(fields, 1) if _claims(field, own)]


def _claims(field: Header, own: set[str]) -> bool:
    text = field.raw.replace(b"\r\n", b"").decode("utf-8", "replace")
    claimed = _authserv_id(text)
    if claimed is not None:
        return _folded(claimed) in own
    # Who reads it with less care may find any id in it: what names us at all is taken for ours.
    return any(one in _squeezed(text) or one in _squeezed(field.value) for one in own)


def _folded(authserv_id: str) -> str:
    """Return the id as it is compared: RFC 8601 says nothing of case, and people see no soft hyphen."""
    return to_ascii("".join(filter(str.isprintable, authserv_id)))


def _squeezed(text: str) -> str:
    return to_ascii(re.sub(r'[\s"\\]', "", "".join(filter(str.isprintable, text)))) + text.lower()


def _authserv_id(text: str) -> str | None:
    """Return the id of a field; None where the syntax is not as it should be up to the first result."""
    place = _after_comments(text, 0)
    match = None if place is None else _ID.match(text, place)
    if match is None:
        return None
    place = _after_comments(text, match.end())
    if place is not None and (version := _VERSION.match(text, place)):
        place = _after_comments(text, version.end())
    if place is None or text[place : place + 1] not in {"", ";"}:
        return None
    return match[2] if match[1] is None else re.sub(r"\\(.)", r"\1", match[1])


def _after_comments(text: str, place: int) -> int | None:
    """Return the place behind white space and comments; None where a comment does not end."""
    depth = 0
    while True:
        if depth == 0:
            space = _SPACE.match(text, place)
            place = space.end() if space else place
            if text[place : place + 1] != "(":
                return place
        parenthesis = _PARENTHESIS.search(text, place)
        if parenthesis is None:
            return None
        depth += {"(": 1, ")": -1}.get(parenthesis[0], 0)
        place = parenthesis.end()
