"""How Postfix writes values: lists with braces in them, and times."""

from __future__ import annotations

import re

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def elements(value: str) -> tuple[str, ...]:
    """Split a list at white space and commas outside braces (util/mystrtok.c, mystrtokq)."""
    found, element, depth = [], "", 0
    for character in value:
        if depth == 0 and (character.isspace() or character == ","):
            found.append(element)
            element = ""
            continue
        depth += (character == "{") - (character == "}" and depth > 0)
        element += character
    return tuple(filter(None, (*found, element)))


def without_blanks(value: str) -> str:
    """Write a list without white space, which postconf -P does not take: `{ a, b = c } d` is `{a,b=c},d`."""
    tight = (re.sub(r"\s*([{}=,])\s*", r"\1", element) for element in elements(value))
    return ",".join(re.sub(r"\s+", ",", element) for element in tight)


def seconds(value: str) -> int | None:
    """Read a time, `100s` or `5m`; without a unit it is in seconds, as with all that the doctor reads. None if none."""
    found = re.fullmatch(r"(\d+)([smhdw]?)", value.strip())
    return int(found[1]) * _UNITS[found[2]] if found else None
