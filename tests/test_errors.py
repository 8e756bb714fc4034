"""Errors for the administrator: in order, none twice, and short where there is but one line for them."""

from __future__ import annotations

import pytest

from gatepost.errors import ONE_LINE_ERRORS, ConfigError, ConfigErrors, in_order, raise_errors


def test_errors_come_by_file_and_line_and_none_twice() -> None:
    mixed = [
        ConfigError("z", "b", 2),
        ConfigErrors([ConfigError("y", "b", 10), ConfigErrors([ConfigError("x", "a"), ConfigError("w", "a", 3)])]),
        ConfigError("z", "b", 2),
        ConfigError("v"),
    ]

    assert [str(error) for error in in_order(mixed)] == ["v", "a:3: w", "a: x", "b:2: z", "b:10: y"]


def test_nothing_wrong_raises_nothing() -> None:
    raise_errors([])


def test_one_error_is_raised_as_itself() -> None:
    with pytest.raises(ConfigError) as caught:
        raise_errors([ConfigError("x", "a", 1), ConfigError("x", "a", 1)])

    assert not isinstance(caught.value, ConfigErrors)
    assert caught.value.each == (caught.value,)


def test_several_errors_are_raised_together() -> None:
    with pytest.raises(ConfigErrors) as caught:
        raise_errors([ConfigError("y", "a", 2), ConfigError("x", "a", 1)])

    assert str(caught.value) == "a:1: x\na:2: y"


def test_one_line_has_the_first_errors_and_how_many_more_there_are() -> None:
    errors = [ConfigError(f"x{number}") for number in range(ONE_LINE_ERRORS + 3)]

    assert ConfigError("x", "a", 1).in_one_line == "a:1: x"
    assert ConfigErrors(errors[:2]).in_one_line == "x0; x1"
    assert ConfigErrors(errors).in_one_line.endswith("x9; and 3 more, see gatepost check")
