"""List files: an entry a line, comments, and all mistakes at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from gatepost import ConfigError, ConfigErrors, parse_lines
from gatepost.services.lists.list_file import ERROR_LIMIT, LINE_LIMIT, MESSAGE_LIMIT

PATH = Path("list")


def entries(text: str) -> list[tuple[str, int]]:
    return parse_lines(text, PATH, lambda line, number: (line, number))


def refuse_bad(line: str, number: int) -> str:
    if "bad" in line:
        raise ConfigError(f"{line} will not do")
    return line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("\n\n  \t\n", []),
        ("one", [("one", 1)]),
        ("\none\n\n  two \n", [("one", 2), ("two", 4)]),
        ("# a comment\none # another\n\t# a third", [("one", 2)]),
        ("a#b\nc #d\n#e", [("a#b", 1), ("c", 2)]),
        ('say "no # comment" # but this', [('say "no # comment"', 1)]),
        ('an open " quote # hides nothing', [('an open " quote', 1)]),
        ("one\r\ntwo\r\n", [("one", 1), ("two", 2)]),
        ("\ufeffone\ntwo", [("one", 1), ("two", 2)]),
    ],
)
def test_lines_come_stripped_and_numbered_without_comments(text: str, expected: list[tuple[str, int]]) -> None:
    assert entries(text) == expected


def test_one_mistake_is_one_error_with_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_lines("good\nbad\n", PATH, refuse_bad)

    assert str(caught.value) == "list:2: bad will not do"
    assert not isinstance(caught.value, ConfigErrors)


def test_several_mistakes_are_raised_together() -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse_lines("bad 1\ngood\nbad 3\n", PATH, refuse_bad)

    assert str(caught.value) == "list:1: bad 1 will not do\nlist:3: bad 3 will not do"


def test_a_file_that_is_no_list_does_not_fill_the_log() -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse_lines("bad\n" * (ERROR_LIMIT + 7), PATH, refuse_bad)

    assert len(caught.value.errors) == ERROR_LIMIT + 1
    assert str(caught.value.errors[-1]) == "list: and 7 more lines are wrong: is this the right file?"


def test_an_overlong_line_is_refused_unread_and_not_repeated_in_the_error() -> None:
    assert entries("x" * LINE_LIMIT) == [("x" * LINE_LIMIT, 1)]
    with pytest.raises(ConfigError, match="4097 characters") as caught:
        entries("x" * (LINE_LIMIT + 1))

    assert len(str(caught.value)) < 100


def test_a_long_error_keeps_its_beginning_and_its_end() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_lines("bad" + "x" * 3000, PATH, refuse_bad)

    assert caught.value.message.startswith("badxxx")
    assert caught.value.message.endswith("xxx will not do")
    assert len(caught.value.message) < MESSAGE_LIMIT + 10
    assert caught.value.line == 1
