"""Text files with an entry a line: what is a comment, which line is meant, and all mistakes of a file at once.

What an entry means is its plugin's business; reading the file again when it changes is `watched_file`'s.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from gatepost.errors import ConfigError, ConfigErrors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")

ERROR_LIMIT = 50
"""So many mistakes are told one by one: more come from a file that is no list at all, and would fill the log."""

LINE_LIMIT = 4096
"""Characters of a line: nobody writes a longer entry."""

MESSAGE_LIMIT = 300
"""Characters of one error: most repeat the entry, and in a file that is no list it is endless."""

# Outside of double quotes and not inside of a word, "#" begins a comment.
_COMMENT = re.compile(r'("[^"]*")|(?:^|(?<=\s))#.*')


def parse_lines(text: str, path: Path, parse: Callable[[str, int], T]) -> list[T]:
    """Return what `parse` makes of each line of a file: called with the line and its number, counted from 1.

    Lines come stripped and without their comment; those with nothing left are passed by. A "#" begins a comment at the
    start of a line or after white space, unless it stands in double quotes.
    `parse` raises ConfigError for a line that is wrong. The rest is read nevertheless, and then all such errors are
    raised together, each with file and line.
    """
    entries: list[T] = []
    errors: list[ConfigError] = []
    for number, line in _lines(text):
        try:
            if len(line) > LINE_LIMIT:
                raise ConfigError(f"a line of {len(line)} characters: write one short entry a line")
            entries.append(parse(line, number))
        except ConfigError as error:
            errors.append(_shortened(error).at(path, number))
    if len(errors) > ERROR_LIMIT:
        more = f"and {len(errors) - ERROR_LIMIT} more lines are wrong: is this the right file?"
        errors[ERROR_LIMIT:] = [ConfigError(more, path)]
    if errors:
        raise errors[0] if len(errors) == 1 else ConfigErrors(errors)
    return entries


def _lines(text: str) -> Iterator[tuple[int, str]]:
    # Some editors begin a UTF-8 file with a byte order mark; it is no part of the first entry.
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = (_COMMENT.sub(r"\1", raw) if "#" in raw else raw).strip()
        if line:
            yield number, line


def _shortened(error: ConfigError) -> ConfigError:
    message = error.message
    if len(message) <= MESSAGE_LIMIT:
        return error
    # The end says what to write instead.
    return ConfigError(f"{message[: MESSAGE_LIMIT // 2]} ... {message[-MESSAGE_LIMIT // 2 :]}", error.file, error.line)
