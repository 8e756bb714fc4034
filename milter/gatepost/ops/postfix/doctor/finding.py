"""What the doctor says: one thing that is wrong, or worth knowing, with its remedy."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["finding", "note"]
"""A `finding` makes the command end with status 1; a `note` does not."""

GATEPOST = "gatepost"
"""In place of a service: the daemon and its configuration."""

MAIN = "main.cf"
"""In place of a service: what holds for every service that does not say otherwise."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`service` is NAME/TYPE of master.cf, `main.cf` or `gatepost`; `parameter` is Postfix's, or gatepost's key.

    `problem` says what is wrong with the value that was seen, `remedy` what is to be done, and `command` is a line for
    the shell that does it. None of them ends with a full stop.
    """

    service: str
    parameter: str
    problem: str
    remedy: str
    command: str
    severity: Severity = "finding"

    def as_json(self) -> dict[str, str]:
        """The finding as plain data; these keys stay."""
        return asdict(self)
