"""What a check finds: a mistake, a warning or a note, with its place."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from gatepost.configuration.loader import Place
    from gatepost.errors import ConfigError

Severity = Literal["error", "warning", "note"]

_GRAVEST_FIRST = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found: what is wrong, and what to do, in one line.

    An `error` keeps the daemon from starting; a `warning` is what probably is not meant; a `note` is worth knowing.
    `file` and `line` are None where there is no such place.
    """

    severity: Severity
    problem: str
    file: Path | str | None = None
    line: int | None = None

    @classmethod
    def of(cls, error: ConfigError) -> Finding:
        """Return an error as a finding."""
        return cls("error", " ".join(error.message.split()), error.file, error.line)

    @classmethod
    def warning(cls, problem: str, place: Place = (None, None)) -> Finding:
        """Return a warning at `place`."""
        return cls("warning", problem, *place)

    @classmethod
    def note(cls, problem: str, place: Place = (None, None)) -> Finding:
        """Return a note at `place`."""
        return cls("note", problem, *place)

    def __str__(self) -> str:
        """Return `FILE:LINE: PROBLEM`, with its severity before the problem where that is no error."""
        place = "" if self.file is None else f"{self.file}: " if self.line is None else f"{self.file}:{self.line}: "
        severity = "" if self.severity == "error" else f"{self.severity}: "
        return f"{place}{severity}{self.problem}"

    def plain(self) -> dict[str, str | int | None]:
        """Return it as JSON has it."""
        file = None if self.file is None else str(self.file)
        return {"severity": self.severity, "file": file, "line": self.line, "problem": self.problem}


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return them by file and line, the gravest of a line first, none twice; without a line, last of their file."""
    return sorted(
        dict.fromkeys(findings),
        key=lambda one: (str(one.file or ""), one.line or math.inf, _GRAVEST_FIRST.index(one.severity)),
    )
