"""The few exception types of gatepost; verdicts are values and never raised.

`ConfigError` is the administrator's to mend, `Unavailable` is a service that did not answer. The peer's own faults
(`SmtpSyntaxError`) live beside the SMTP machines, because they carry the reply that the peer gets.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

EX_TEMPFAIL = 75
"""sysexits(3): a port is taken, a socket cannot be made; trying again later may work."""

EX_CONFIG = 78
"""sysexits(3): the configuration is wrong; nothing was started or changed."""

ONE_LINE_ERRORS = 10
"""As many as a reader takes in; a wrong file in place of a list can have thousands."""


class ConfigError(Exception):
    """Something the administrator wrote is wrong: one line that says what, where and what to do.

    `file` and `line` (1-based) are None where there is no such place. `str()` gives `FILE:LINE: MESSAGE`.
    """

    def __init__(self, message: str, file: Path | str | None = None, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.file = file
        self.line = line

    def __str__(self) -> str:
        if self.file is None:
            return self.message
        return f"{self.file}: {self.message}" if self.line is None else f"{self.file}:{self.line}: {self.message}"

    def at(self, file: Path | str | None, line: int | None = None) -> ConfigError:
        """Return the same error with a place, kept if it already has one."""
        return self if self.file is not None else ConfigError(self.message, file, line)

    @property
    def each(self) -> tuple[ConfigError, ...]:
        """The errors one by one: this one, or those that `ConfigErrors` holds."""
        return (self,)

    @property
    def in_one_line(self) -> str:
        """All of it for a log: the first few errors, and how many more there are."""
        first, more = self.each[:ONE_LINE_ERRORS], len(self.each) - ONE_LINE_ERRORS
        line = "; ".join(map(str, first))
        return f"{line}; and {more} more, see gatepost check" if more > 0 else line


class ConfigErrors(ConfigError):  # noqa: N818 - several of them
    """Several configuration errors found in one pass; `errors` holds each, `str()` is one line per error."""

    def __init__(self, errors: list[ConfigError]) -> None:
        super().__init__("\n".join(map(str, errors)))
        self.errors = errors

    def at(self, file: Path | str | None, line: int | None = None) -> ConfigErrors:
        """Return the same errors, each with a place."""
        return ConfigErrors([error.at(file, line) for error in self.errors])

    @property
    def each(self) -> tuple[ConfigError, ...]:
        """Every error in it, also of those that are several themselves."""
        return tuple(one for error in self.errors for one in error.each)


def in_order(errors: Iterable[ConfigError]) -> list[ConfigError]:
    """Return every error by file and line, none twice; what has no line comes last of its file."""
    found = {str(one): one for error in errors for one in error.each}
    return sorted(found.values(), key=lambda error: (str(error.file or ""), error.line or math.inf))


def raise_errors(errors: Iterable[ConfigError]) -> None:
    """Raise what there is, by file and line and none twice: nothing, a ConfigError, or ConfigErrors."""
    ordered = in_order(errors)
    if ordered:
        raise ordered[0] if len(ordered) == 1 else ConfigErrors(ordered)


class Unavailable(Exception):  # noqa: N818 - a state of the service, named as plugin authors say it
    """A service that a plugin needs (store, scanner, DNS) did not answer; the plugin's `on_unavailable` decides."""

    def __init__(self, service: str, reason: str) -> None:
        super().__init__(f"{service}: {reason}")
        self.service = service
        self.reason = reason
