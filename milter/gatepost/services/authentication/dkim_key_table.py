"""Which domain signs with which key: a file with a line for each key, and the keys that it names.

All of them are read again when they change; a change that is no good leaves the old version in force.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from gatepost.errors import ConfigError
from gatepost.idn import to_ascii
from gatepost.services.authentication.dkim_signer import DkimKey, DkimSigner, parse_dkim_key
from gatepost.services.lists.list_file import parse_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from gatepost.services.lists.watched_file import WatchedFile

_NAME = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*")


class DkimKeyTable:
    """The signers of each domain. `watch` is the plugin's; ConfigError for a file that is wrong."""

    def __init__(self, path: Path, watch: Callable[[Path, Callable[[str, Path], object]], WatchedFile[object]]) -> None:
        self._watch = watch
        self._keys: dict[Path, WatchedFile[DkimKey]] = {}
        self._table: WatchedFile[dict[str, list[tuple[str, Path]]]] = watch(path, self._parse)  # type: ignore[assignment]

    def signers(self, author: str) -> list[DkimSigner]:
        """Return who signs for a domain with A-labels: its own keys, else those of the nearest domain above it."""
        table, domain = self._table.value, author
        while domain:
            if domain in table:
                return [DkimSigner(domain, selector, self._keys[path].value) for selector, path in table[domain]]
            domain = domain.partition(".")[2]
        return []

    def _parse(self, text: str, path: Path) -> dict[str, list[tuple[str, Path]]]:
        table: dict[str, list[tuple[str, Path]]] = {}

        def parse(line: str, number: int) -> None:
            words = line.split(None, 2)
            if len(words) != 3:
                raise ConfigError("write a domain, a selector and the file of the key")
            domain, selector, key = to_ascii(words[0]), words[1].lower(), Path(words[2])
            if not _NAME.fullmatch(domain) or not _NAME.fullmatch(selector):
                raise ConfigError(f"{words[0]} {words[1]}: no domain, or no selector")
            signers = table.setdefault(domain, [])
            if selector in (one for one, _ in signers):
                raise ConfigError(f"{domain} has the selector {selector} twice")
            if key not in self._keys:
                self._keys[key] = self._watch(key, _parse_key)  # type: ignore[assignment]
            signers.append((selector, key))

        parse_lines(text, path, parse)
        return table


def _parse_key(text: str, path: Path) -> DkimKey:
    if path.stat().st_mode & 0o007:
        raise ConfigError("everybody on this machine can read or change this key: chmod o= it, or make a new one", path)
    try:
        return parse_dkim_key(text)
    except ConfigError as error:
        raise error.at(path) from error
