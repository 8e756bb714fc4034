r"""Lists of envelope addresses, an entry a line, the reason after white space: what `badmailfrom` and its like read.

    user@example.org            this address
    @example.org                every address in this domain
    @.example.org               every address in the domains below it
    /^news-\d+@/                every address in which this pattern is found

Patterns are RE2's, without regard to case; one pass over an address tries them all, in linear time. Addresses and
domains are equal whatever their case, a dot at the end of a domain does not matter, and an internationalised domain may
be written either way (`bücher.example`, `xn--bcher-kva.example`) on either side. The null address is in no list.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import re2

from gatepost.address import Address
from gatepost.errors import ConfigError, ConfigErrors
from gatepost.idn import to_ascii, to_unicode
from gatepost.services.lists.list_file import parse_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATTERN_LIMIT = 10_000
"""Patterns of one list. Compiling that many takes a tenth of a second, in which nothing else runs."""

PATTERN_MEMORY_BYTES = 64 << 20
"""What the patterns of one list may take, compiled: enough for `PATTERN_LIMIT` of forty characters."""


@dataclass(frozen=True, slots=True)
class Listing:
    """An entry that an address fell under: the text after it, empty if there is none, and the number of its line."""

    reason: str
    line: int


class AddressList:
    """A whole list; one look-up for each label of the domain, and one pass of the patterns, however long it is."""

    def __init__(self) -> None:
        self._addresses: dict[str, Listing] = {}
        self._domains: dict[str, Listing] = {}
        self._parents: dict[str, Listing] = {}
        self._patterns: list[Listing] = []
        self._matcher = re2.Set.SearchSet(_options())

    @classmethod
    def parse(cls, text: str, path: Path) -> AddressList:
        """Read a list; made to be given to `Plugin.watch`. ConfigErrors name every wrong line; a duplicate is none."""
        made = cls()
        parse_lines(text, path, made.add)
        made.compile(path)
        return made

    def __len__(self) -> int:
        """Return the number of different entries."""
        return len(self._addresses) + len(self._domains) + len(self._parents) + len(self._patterns)

    def find(self, address: Address) -> Listing | None:
        """Return the most specific entry for `address`: itself, its domain, the nearest domain above, then patterns.

        Of several patterns the first in the file; None if there is no entry.
        """
        if address.is_null:
            return None
        domain = to_ascii(address.domain)
        return (
            self._addresses.get(_key(address.local, domain))
            or self._domains.get(domain)
            or self._find_parent(domain)
            or self._find_pattern(address.local, domain)
        )

    def _find_parent(self, domain: str) -> Listing | None:
        while self._parents and domain:
            domain = domain.partition(".")[2]
            if listing := self._parents.get(domain):
                return listing
        return None

    def _find_pattern(self, local: str, domain: str) -> Listing | None:
        if not self._patterns:
            return None
        found = [index for text in _spellings(local, domain) for index in self._matcher.Match(text) or ()]
        return self._patterns[min(found)] if found else None

    def add(self, line: str, number: int) -> None:
        """Take in one line; ConfigError without a place for a wrong one. After the last one comes `compile`."""
        if line.startswith("/"):
            self._add_pattern(line, number)
            return
        entry, reason = _split(line)
        local, at, domain = entry.rpartition("@")
        whole_domain = bool(at) and not local
        if not (at and _PLAIN_LOCAL.fullmatch(local)):
            local, domain = _parse(entry)
        below = whole_domain and domain.startswith(".")
        domain = domain.removeprefix(".") if below else domain
        if not _DOMAIN.fullmatch(domain):
            raise ConfigError(_not_an_entry(entry))
        domain = to_ascii(domain)
        listing = Listing(reason, number)
        if not whole_domain:
            self._addresses.setdefault(_key(local, domain), listing)
        elif below:
            self._parents.setdefault(domain, listing)
        else:
            self._domains.setdefault(domain, listing)

    def _add_pattern(self, line: str, number: int) -> None:
        match = _PATTERN.fullmatch(line)
        if match is None:
            raise ConfigError(r"a pattern stands between two slashes, then white space; a slash within is written \/")
        pattern, reason = match.groups(default="")
        try:
            self._matcher.Add(pattern)
        except re2.error:
            raise ConfigError(f"the pattern /{pattern}/ is not understood: {_problem(pattern)}") from None
        self._patterns.append(Listing(" ".join(reason.split()), number))

    def compile(self, path: Path) -> None:
        """Make the patterns ready; ConfigError if they are too many, or one of them spares nobody."""
        if len(self._patterns) > PATTERN_LIMIT:
            raise ConfigError(
                f"{len(self._patterns)} patterns are too many, the limit is {PATTERN_LIMIT}: "
                "write addresses and domains as they are, which costs nothing",
                path,
            )
        try:
            self._matcher.Compile()
        except re2.error:
            mebibytes = PATTERN_MEMORY_BYTES >> 20
            problem = f"the patterns need more than {mebibytes} MiB: write fewer, or with smaller repetitions {{n,m}}"
            raise ConfigError(problem, path) from None
        # `/spam|/` or `/x*/` is a slip that would refuse all mail.
        everywhere = set(self._matcher.Match("") or ()) & set(self._matcher.Match("\x01@\x01") or ())
        errors = [
            ConfigError("the pattern is found in every address; if that is meant, write /./", path, listing.line)
            for index, listing in enumerate(self._patterns)
            if index in everywhere
        ]
        if errors:
            raise errors[0] if len(errors) == 1 else ConfigErrors(errors)


# The entries. Nearly all are plain: the address parser, which knows quotes and routes, is only for the others.
_PLAIN_LOCAL = re.compile(r"[\w.!#$%&'+/=?^`{|}~-]*+", re.ASCII)
_SPECIAL = re.compile(r"[@,;:<>()\[\]\\*]")
_LABEL = r"""[^\s.@<>()\[\],;:\\"*/]++"""
_DOMAIN = re.compile(rf"{_LABEL}(?>(?:\.{_LABEL})*)\.?|\[[0-9A-Za-z.:]++\]")
_ENTRY = re.compile(r'((?>(?:"(?>(?:[^"\\]|\\.)*)"|[^\s"])+))(?:\s+(.*))?')
_PATTERN = re.compile(r"/((?>(?:[^/\\]|\\.)*))/(?:\s+(.*))?")


def _split(line: str) -> tuple[str, str]:
    """Return the entry and its reason."""
    if '"' not in line:
        entry, *rest = line.split(None, 1)
        return entry, " ".join(rest[0].split()) if rest else ""
    match = _ENTRY.fullmatch(line)
    if match is None:
        raise ConfigError("a quote is left open")
    return match[1], " ".join((match[2] or "").split())


def _parse(entry: str) -> tuple[str, str]:
    try:
        address = Address.parse(entry)
    except ValueError as error:
        raise ConfigError(_not_an_entry(entry)) from error
    if address.is_null:
        raise ConfigError(
            "the null sender <> cannot be listed: it is the sender of bounces (RFC 5321 section 4.5.5), and without "
            "these nobody here would learn that a message was not delivered"
        )
    # Two addresses with a comma between them would otherwise be one with an odd local part.
    if '"' not in entry and _SPECIAL.search(address.local):
        raise ConfigError(_not_an_entry(entry))
    return address.local, address.domain


def _not_an_entry(entry: str) -> str:
    wrong = "* means nothing here" if "*" in entry else "this is no address"
    return f"{entry!r}: {wrong}; write user@example.org, @example.org, @.example.org or /PATTERN/"


# How addresses are compared.
def _key(local: str, domain: str) -> str:
    local = local if local.isascii() else unicodedata.normalize("NFC", local)
    return f"{local.lower()}@{domain}"


def _spellings(local: str, domain: str) -> Iterator[bytes]:
    """Yield the texts in which patterns are looked for: with A-labels, and with U-labels where that is another text."""
    yield _wire(local, domain)
    if (unicode_domain := to_unicode(domain)) != domain:
        yield _wire(local, unicode_domain)


def _wire(local: str, domain: str) -> bytes:
    # What is not UTF-8 becomes "?": the dot of a pattern would not match it, and the address slip through.
    return str(Address(local, domain)).encode("utf-8", "replace")


def _options() -> re2.Options:
    options = re2.Options()
    options.max_mem = PATTERN_MEMORY_BYTES
    options.log_errors = False
    options.case_sensitive = False
    options.dot_nl = True
    return options


def _problem(pattern: str) -> str:
    """Return what RE2 says of a bad pattern: a set of patterns says nothing."""
    try:
        re2.compile(pattern, _options())
    except re2.error as error:
        said = error.args[0]
        return said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
    return "RE2 cannot use it"
