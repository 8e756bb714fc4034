"""Durations and sizes, as administrators write them."""

from __future__ import annotations

import datetime
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from gatepost.quantity import Duration, Size, parse_duration, parse_size


class Model(BaseModel):
    duration: Duration = 0.0
    size: Size = 0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("50m", 3000.0),
        ("36d", 36 * 86400.0),
        ("4h", 14400.0),
        ("2w", 1209600.0),
        ("250ms", 0.25),
        ("1.5s", 1.5),
        ("1h30m", 5400.0),
        ("1h 30m", 5400.0),
        (" 3 s ", 3.0),
        ("100", 100.0),
        ("0", 0.0),
        (30, 30.0),
        (0.5, 0.5),
    ],
)
def test_a_duration_is_seconds(value: object, seconds: float) -> None:
    assert parse_duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    ["", "m", "5 minutes", "5x", "-5s", "5m later", "1h30", "5,5s", "∞", "inf", True, None, [], datetime.time(1, 2)],
)
def test_what_is_no_duration_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match='is not a duration: write for example "30s"'):
        parse_duration(value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_no_event_loop_can_wait_for_ever_or_for_nan(value: float) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("8 MiB", 8 << 20),
        ("8MiB", 8 << 20),
        ("8 mib", 8 << 20),
        ("500 KB", 500_000),
        ("10k", 10_240),
        ("2M", 2 << 20),
        ("1 GiB", 1 << 30),
        ("1 GB", 10**9),
        ("42 b", 42),
        ("42", 42),
        (42, 42),
        (0, 0),
    ],
)
def test_a_size_is_bytes(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize("value", ["", "MiB", "8 megs", "-1", "1.5 MiB", "8 MiB 2", 1.5, True, None])
def test_what_is_no_size_is_refused_with_an_example(value: object) -> None:
    with pytest.raises(ValueError, match='is not a size: write for example "64 KiB"'):
        parse_size(value)


@pytest.mark.parametrize("fields", [{"duration": -1}, {"size": -1}])
def test_a_negative_quantity_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        Model.model_validate(fields)


@given(st.integers(0, 10**6), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_parts_of_a_duration_add_up(days: int, hours: int, minutes: int, seconds: int) -> None:
    text = f"{days}d{hours}h{minutes}m{seconds}s"

    assert parse_duration(text) == days * 86400 + hours * 3600 + minutes * 60 + seconds


@given(st.text())
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    for parse in (parse_duration, parse_size):
        try:
            assert parse(text) >= 0
        except ValueError as error:
            assert "write for example" in str(error)  # noqa: PT017 - either outcome is right
