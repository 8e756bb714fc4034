"""Results of checks on who a message comes from, as RFC 8601 words them: spf=pass, dkim=fail, and what they rest on.

Each plugin that checks leaves its results in its own notes of the transaction, under `authentication_results`. Who
needs them reads those of all plugins together: dmarc, and authentication_results, which writes the one field.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gatepost.session import Transaction

_KEY = "authentication_results"

_WORD = re.compile(r"[a-z0-9][a-z0-9-]*")


class MethodResult(TypedDict):
    """One result; plain data, because it is kept in notes."""

    method: str
    """In lower case, from the registry of RFC 8601 section 2.7: `spf`, `dkim`, `dmarc`, `arc`, `auth`, `iprev`."""
    result: str
    """In lower case, from the same registry: `pass`, `fail`, `none`, `temperror` and so on."""
    reason: str | None
    """Why, in words, for people; None if there is nothing to say."""
    properties: dict[str, str]
    """What was checked, by `ptype.property`: `{"smtp.mailfrom": "example.org"}`, `{"header.d": "example.org"}`."""


def method_result(
    method: str, result: str, properties: Mapping[str, str | None] | None = None, reason: str | None = None
) -> MethodResult:
    """Return a result; properties that are None are left out. ValueError for words that RFC 8601 does not allow."""
    for word in (method, result):
        if not _WORD.fullmatch(word):
            raise ValueError(f"{word!r}: methods and results are words in lower case")
    kept = {name: value for name, value in (properties or {}).items() if value is not None}
    for name in kept:
        ptype, dot, key = name.partition(".")
        if not (dot and _WORD.fullmatch(ptype) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", key)):
            raise ValueError(f"{name!r}: a property is written like smtp.mailfrom")
    return MethodResult(method=method, result=result, reason=reason, properties=kept)


def keep_results(notes: dict[str, Any], results: Iterable[MethodResult]) -> None:
    """Leave the results in a plugin's notes of the transaction, in place of those it left before."""
    notes[_KEY] = list(results)


def results_of(transaction: Transaction, method: str | None = None) -> list[MethodResult]:
    """Return the results that plugins have left, of one method or of all, in the order in which plugins left notes."""
    return [
        result
        for notes in transaction.notes.values()
        for result in notes.get(_KEY, ())
        if method is None or result["method"] == method
    ]
