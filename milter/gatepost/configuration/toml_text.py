"""TOML as people write it: where each key stands, and what can still be read around a statement that is not TOML.

tomllib tells no places, and gives up at the first mistake. Here a mistake costs the statement that it is in, or the
table whose header it is in; the rest is read all the same, so that one missing quote hides no other mistake.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

MISTAKES_LIMIT = 20
"""After so many the text is hardly TOML at all, and each one costs some parsing: the rest is left unread."""

_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?\Z")
_KEY = re.compile(r"\s*(\"[^\"]+\"|'[^']+'|[A-Za-z0-9_-]+(?:\s*\.\s*[A-Za-z0-9_-]+)*)\s*=")
_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)\Z")

_REMEDIES = {
    "Invalid value": 'text stands in quotes, "like this"',
    "Cannot overwrite a value": "the key stands there before; delete one",
    "Cannot declare": "the table stands there before; put its keys together",
}
"""What to do, where tomllib's own words do not say it, by how they begin."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """A statement that is not TOML: its first line, what tomllib says, and the last line that was left unread for it.

    `noticed` is the line where tomllib gave up.
    """

    line: int
    problem: str
    noticed: int
    last: int
    is_header: bool = False

    def __str__(self) -> str:
        """Say it in one line, with the lines that were not looked at."""
        text = f"not TOML: {self.problem}"
        if self.noticed > self.line:
            text += f" by line {self.noticed}"
        text += next((f": {remedy}" for words, remedy in _REMEDIES.items() if self.problem.startswith(words)), "")
        if self.last > self.line:
            text += f" (lines {self.line} to {self.last} were not looked at)"
        return text


@dataclass(frozen=True, slots=True)
class TomlText:
    """What a text says as far as it is TOML, and where it is not."""

    data: dict[str, Any]
    mistakes: tuple[Mistake, ...]
    places: TomlPlaces
    """Of what was read."""

    @property
    def has_lost_a_table(self) -> bool:
        """True when the header of a table may be among the lines that were left unread."""
        return len(self.mistakes) == MISTAKES_LIMIT or any(mistake.is_header for mistake in self.mistakes)

    def unread_in(self, first: int, last: int) -> bool:
        """Return True if any of these lines, both included, was left unread."""
        return any(mistake.line <= last and first <= mistake.last for mistake in self.mistakes)


def read_toml(text: str) -> TomlText:
    """Read as much of the text as there is to read; raises nothing, whatever the text."""
    # Not splitlines: to TOML and to editors only LF ends a line.
    lines = text.split("\n")
    mistakes: list[Mistake] = []
    while True:
        try:
            data = tomllib.loads("\n".join(lines))
        except (ValueError, RecursionError) as error:
            # ValueError: beside TOMLDecodeError, which is one, an integer of more than 4,300 digits.
            problem, noticed = _reason(error, lines)
        else:
            return TomlText(data, tuple(mistakes), TomlPlaces("\n".join(lines)))
        first = _statement_around(lines, noticed)
        end = len(lines) + 1 if len(mistakes) + 1 == MISTAKES_LIMIT else _next_statement(lines, first)
        unread = [number for number in range(first, end) if lines[number - 1].strip()]
        is_header = _begins_header(lines[first - 1])
        mistakes.append(Mistake(first, problem, noticed, max(unread, default=first), is_header))
        lines[first - 1 : end - 1] = [""] * (end - first)


def _reason(error: Exception, lines: Sequence[str]) -> tuple[str, int]:
    """Return what is wrong in a few words, and the line where that was noticed."""
    if isinstance(error, RecursionError):
        problem, noticed = "too many brackets inside brackets", len(lines)
    elif not isinstance(error, tomllib.TOMLDecodeError):
        problem, noticed = "a number with too many digits", len(lines)
    else:
        found = _PLACE.search(str(error))
        problem = _PLACE.sub("", str(error))
        noticed = int(found[1]) if found and found[1] else len(lines)
    # The end of the text is its last line with something in it.
    while noticed > 1 and not lines[noticed - 1].strip():
        noticed -= 1
    return problem, noticed


def _statement_around(lines: Sequence[str], noticed: int) -> int:
    """Return the line where the statement begins that cannot be read: what is before it can be.

    That is nearly always the line where it was noticed, or one shortly before: so in steps that double, and then by
    halves. (A good string of several lines that look like statements, just before, may take the blame.)
    """
    starts = [n for n in range(noticed, 0, -1) if n == noticed or _begins_statement(lines[n - 1])]
    near, far = -1, 0
    while far < len(starts) and not _is_toml(lines[: starts[far] - 1]):
        near, far = far, 2 * far + 1
    far = min(far, len(starts) - 1)
    while far - near > 1:
        middle = (near + far) // 2
        if _is_toml(lines[: starts[middle] - 1]):
            far = middle
        else:
            near = middle
    return starts[far]


def _next_statement(lines: Sequence[str], first: int) -> int:
    """Return the line after `first` from which to read on: below a broken header that is the next header."""
    wanted = _HEADER.match if _begins_header(lines[first - 1]) else _begins_statement
    return next((n for n in range(first + 1, len(lines) + 1) if wanted(lines[n - 1])), len(lines) + 1)


def _begins_statement(line: str) -> bool:
    return bool(_KEY.match(line)) or _begins_header(line)


def _begins_header(line: str) -> bool:
    return line.lstrip().startswith("[")


def _is_toml(lines: Sequence[str]) -> bool:
    try:
        tomllib.loads("\n".join(lines))
    except (ValueError, RecursionError):
        return False
    return True


class TomlPlaces:
    """Where tables and keys stand in a TOML text; tomllib does not tell.

    Finds `[table]`, `[[table]]` and `key =` at the beginning of lines, which is how people write; a key inside an
    inline table has the line of the innermost table or key that was found.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[tuple[str | int, ...], int] = {}
        self._headers: list[int] = []
        table: tuple[str | int, ...] = ()
        counts: dict[str, int] = {}
        lines = text.split("\n")
        for number, line in enumerate(lines, 1):
            if header := _HEADER.match(line):
                name = header[2]
                table = tuple(part.strip(" \"'") for part in name.split("."))
                if header[1] == "[[":
                    self._lines.setdefault(table, number)
                    table = (*table, counts.get(name, 0))
                    counts[name] = counts.get(name, 0) + 1
                self._lines.setdefault(table, number)
                self._headers.append(number)
            elif key := _KEY.match(line):
                path = (part.strip(" \"'") for part in key[1].split("."))
                self._lines.setdefault((*table, *path), number)
        self._headers.append(len(lines) + 1)

    def dotted(self) -> dict[str, int]:
        """Return the line of every table and key, by its name with dots."""
        return {".".join(map(str, path)): line for path, line in self._lines.items()}

    def line(self, path: Sequence[str | int]) -> int | None:
        """Return the 1-based line of the table or key, of the innermost part of it that was found, or None."""
        for length in range(len(path), 0, -1):
            if (found := self._lines.get(tuple(path[:length]))) is not None:
                return found
        return None

    def last_line(self, first: int) -> int:
        """Return the last line of the table whose header stands in line `first`."""
        return next((header - 1 for header in self._headers if header > first), first)
