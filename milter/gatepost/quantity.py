"""Durations and sizes as administrators write them (`"50m"`, `"36d"`, `"8 MiB"`), as types for options."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import BeforeValidator, Field

_DURATION_UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])")
_SIZE_UNITS_BYTES = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1 << 10, "mib": 1 << 20}
_SIZE_UNITS_BYTES |= {"gib": 1 << 30, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE = re.compile(r"(\d+)\s*([a-z]*)", re.IGNORECASE)


def parse_duration(value: object) -> float:
    """Return seconds for `"50m"`, `"1h30m"`, `"3s"`, `"250ms"`, or a plain number of seconds; ValueError otherwise."""
    # TOML has inf and nan; an event loop cannot wait for them.
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"\d+(?:\.\d+)?", text):
            return float(text)
        parts = _DURATION.findall(text)
        if parts and _DURATION.sub("", text).strip() == "":
            return float(sum(float(number) * _DURATION_UNITS_S[unit] for number, unit in parts))
    raise ValueError(f'{value!r} is not a duration: write for example "30s", "50m", "4h" or "36d"')


def parse_size(value: object) -> int:
    """Return bytes for `"8 MiB"`, `"500 KB"`, `"10k"` (1,024), or a plain number of bytes; ValueError otherwise."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (match := _SIZE.fullmatch(value.strip())):
        number, unit = match.groups()
        if unit.lower() in _SIZE_UNITS_BYTES:
            return int(number) * _SIZE_UNITS_BYTES[unit.lower()]
    raise ValueError(f'{value!r} is not a size: write for example "64 KiB" or "8 MiB"')


Duration = Annotated[float, BeforeValidator(parse_duration), Field(ge=0)]
"""Seconds, written as a number or like `"50m"`; not negative."""

Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
"""Bytes, written as a number or like `"8 MiB"`; not negative."""
