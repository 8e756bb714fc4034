"""A TOML text with mistakes: each is told where it begins, and what is around it is read all the same."""

from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.configuration.toml_text import MISTAKES_LIMIT, read_toml


@pytest.mark.parametrize(
    ("text", "data", "mistakes"),
    [
        ("a = 1\n", {"a": 1}, []),
        ("a = x\nb = 2", {"b": 2}, [(1, 1)]),
        ("a = x\nb = y\nc = 3", {"c": 3}, [(1, 1), (2, 2)]),
        ("a = 1\na = 2\nb = 3", {"a": 1, "b": 3}, [(2, 2)]),
        # Begun, and never ended: what follows is not part of it.
        ('a = [\n  1,\n  2\n[t]\nb = "x"', {"t": {"b": "x"}}, [(1, 3)]),
        ('a = """\n[t]\nb = 1', {"t": {"b": 1}}, [(1, 1)]),
        ('a = "x\nb = 1', {"b": 1}, [(1, 1)]),
        # A broken header: its keys would come to stand in the table before.
        ("[s]\na = 1\n[t\nb = 2\n\n[u]\nc = 3", {"s": {"a": 1}, "u": {"c": 3}}, [(3, 4)]),
        ("[s]\na = 1\n[s]\nb = 2\n[u]\nc = 3", {"s": {"a": 1}, "u": {"c": 3}}, [(3, 4)]),
        # What tomllib does not call a mistake of the text.
        (f"a = {'9' * 5000}\nb = 1", {"b": 1}, [(1, 1)]),
        (f"a = {'[' * 5000}\nb = 1", {"b": 1}, [(1, 1)]),
        # Good strings of several lines that look like statements.
        ('a = """\nb = 1\n[t]\n"""\nc = x\nd = 2', {"a": "b = 1\n[t]\n", "d": 2}, [(5, 5)]),
    ],
)
def test_a_mistake_costs_no_more_than_its_statement(
    text: str, data: dict[str, object], mistakes: list[tuple[int, int]]
) -> None:
    read = read_toml(text)

    assert read.data == data
    assert [(mistake.line, mistake.last) for mistake in read.mistakes] == mistakes


def test_lines_left_unread_are_known() -> None:
    read = read_toml("[s]\na = 1\n[t\nb = 2\n\n[u]\nc = 3")

    assert read.unread_in(1, 3)
    assert read.unread_in(4, 9)
    assert not read.unread_in(1, 2)
    assert not read.unread_in(6, 7)
    assert read.has_lost_a_table
    assert not read_toml("[s]\na = x").has_lost_a_table


def test_the_end_of_a_table_is_known() -> None:
    places = read_toml("a = 1\n[[p]]\nb = 1\n\n[[p]]\nc = 1\n").places

    assert [places.last_line(line) for line in (1, 2, 5)] == [1, 4, 7]


def test_a_text_that_is_no_toml_at_all_is_given_up_soon() -> None:
    read = read_toml("\n".join(f"x{number} = here" for number in range(5000)))

    assert read.data == {}
    assert len(read.mistakes) == MISTAKES_LIMIT
    assert read.mistakes[-1].last == 5000
    assert read.has_lost_a_table


def test_lines_that_are_no_statements_are_one_mistake() -> None:
    read = read_toml("a = 1\n" + "From: somebody, and on and on\n" * 5000 + "[t]\nb = 2")

    assert read.data == {"a": 1, "t": {"b": 2}}
    assert [(mistake.line, mistake.last) for mistake in read.mistakes] == [(2, 5001)]


STATEMENT = st.sampled_from(
    [
        "[t]",
        "[[p]]",
        "[t",
        "a = 1",
        "b = x",
        'c = "',
        'd = """',
        "e = [",
        "]",
        "f.g = 1",
        "f = 2",
        "# x",
        "",
        "{",
        "'''",
    ]
)


@given(st.lists(STATEMENT | st.text(max_size=12)).map("\n".join))
def test_no_text_raises_and_every_mistake_has_a_line_of_it(text: str) -> None:
    read = read_toml(text)

    lines = text.count("\n") + 1
    assert all(1 <= mistake.line <= mistake.last <= lines for mistake in read.mistakes)
    assert all("\n" not in str(mistake) for mistake in read.mistakes)


@given(st.lists(STATEMENT).map("\n".join))
def test_a_good_text_is_what_tomllib_reads(text: str) -> None:
    try:
        expected = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        assert read_toml(text).mistakes
    else:
        assert (read_toml(text).data, read_toml(text).mistakes) == (expected, ())
