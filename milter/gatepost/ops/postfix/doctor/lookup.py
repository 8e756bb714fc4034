"""Postfix's lookup tables and lists, asked through `postmap -q`, which opens every type just as smtpd does.

Many keys are one run. A table that cannot be asked (its type is not installed, its server does not answer) is no
"not found": it is `Unanswered`, with postmap's own words.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gatepost.ops.postfix import postconf
from gatepost.ops.postfix.value import elements

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

_TIMEOUT_S = 20
"""For one table: a directory server far away may need seconds, and one that is dead shall not hold the doctor up."""

_PATTERNS = frozenset({"regexp", "pcre", "cidr", "tcp"})
"""Types that are asked for whole addresses only, never for parts of them (DICT_FLAG_PATTERN)."""


class Unanswered(Exception):  # noqa: N818 - a state of the table
    """A table cannot be asked; `table` is its type and name."""

    def __init__(self, table: str, reason: str) -> None:
        super().__init__(f"{table}: {reason}")
        self.table = table


class Tables:
    """The tables that one Postfix configuration may name."""

    def __init__(self, directory: Path) -> None:
        self._command = (str(postconf.command("postmap")), "-c", str(directory), "-q", "-")
        self._failed: dict[str, Unanswered] = {}

    def matching(self, table: str, keys: Collection[str]) -> set[str]:
        """Return those keys that the table has; Unanswered if it cannot be asked, which is tried but once."""
        if table in self._failed:
            raise self._failed[table]
        try:
            return self._matching(table, keys)
        except Unanswered as error:
            self._failed[table] = error
            raise

    def _matching(self, table: str, keys: Collection[str]) -> set[str]:
        # proxymap(8) only opens it for smtpd in its chroot, and needs Postfix to run; we can open it ourselves.
        opened = table.removeprefix("proxy:")
        asked = sorted({key for key in keys if key and "\n" not in key})
        if not asked:
            return set()
        try:
            done = subprocess.run(
                (*self._command, opened),
                input="\n".join(asked) + "\n",
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                timeout=_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Unanswered(table, f"no answer in {_TIMEOUT_S} s") from error
        failed = [line for line in done.stderr.splitlines() if "fatal:" in line or "panic:" in line]
        if failed:
            raise Unanswered(table, failed[-1].partition(": ")[2])
        return {line.partition("\t")[0] for line in done.stdout.split("\n")} & set(asked)

    def known(self, maps: str, wanted: Mapping[str, Sequence[str]]) -> set[str]:
        """Return those addresses that one of these maps knows, under any of the keys given for each.

        The first key is the whole address. Unanswered when a map cannot be asked and the others leave somebody over.
        """
        found: set[str] = set()
        failure: Unanswered | None = None
        for table in elements(maps):
            kind = table.removeprefix("proxy:").partition(":")[0]
            by_key: dict[str, list[str]] = {}
            for address, keys in wanted.items():
                if address not in found:
                    for key in keys[:1] if kind in _PATTERNS else keys:
                        by_key.setdefault(key, []).append(address)
            try:
                for key in self.matching(table, by_key):
                    found.update(by_key[key])
            except Unanswered as error:
                failure = error
        if failure is not None and any(address not in found for address in wanted):
            raise failure
        return found


Style = Literal["exact", "parents", "dotted"]
"""Which domains below it a name in a list matches: none, all, or those of one with a dot before it (postconf(5),
parent_domain_matches_subdomains)."""


def match_domains(tables: Tables, patterns: str, domains: Collection[str], style: Style = "exact") -> set[str]:
    """Return the domains that a list such as mydestination names (util/match_list.c): names, /files, tables, `!`."""
    left, matched = set(domains), set()
    for element in _with_files(patterns):
        negative, pattern = element.startswith("!"), element.lstrip("!").lower()
        if ":" in pattern and not pattern.startswith("["):
            names = {domain: _names(domain, style) for domain in left}
            keys = tables.matching(element.lstrip("!"), {name for all_names in names.values() for name in all_names})
            hits = {domain for domain, all_names in names.items() if not keys.isdisjoint(all_names)}
        else:
            hits = {domain for domain in left if pattern in _names(domain, style)}
        left -= hits
        if not negative:
            matched |= hits
    return matched


def _names(domain: str, style: Style) -> tuple[str, ...]:
    """Every name in a list that the domain goes by."""
    labels = domain.split(".")
    above = [".".join(labels[first:]) for first in range(1, len(labels))] if style != "exact" else []
    return (domain, *(above if style == "parents" else (f".{name}" for name in above)))


def _with_files(patterns: str) -> list[str]:
    """Replace /FILE by what it contains (util/match_list.c)."""
    found = []
    for element in elements(patterns):
        bang = "!" * (len(element) - len(element.lstrip("!")))
        path = element.lstrip("!")
        if not path.startswith("/"):
            found.append(element)
            continue
        try:
            text = Path(path).read_text(errors="surrogateescape")
        except OSError as error:
            raise Unanswered(path, error.strerror or "cannot be read") from error
        lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
        found += [bang + word for line in lines for word in elements(line)]
    return found
