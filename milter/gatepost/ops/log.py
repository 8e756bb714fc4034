"""The log: structlog to stderr, one logfmt line a record, for journald to keep.

Values come from clients: quotes, backslashes and control characters in them are escaped, so that nobody can forge a
line. Under systemd (JOURNAL_STREAM) the time is left out, because the journal has its own.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import MutableMapping

# One character alone must not be a dash: that is what stands for no value.
_BARE = re.compile(r"(?!-\Z)[a-zA-Z0-9_.:/@+<>\[\]()*,;!?#%&'~^|{}$-]+")


def logfmt_value(value: object) -> str:
    """Return a value as logfmt has it: bare where that is unambiguous, else in double quotes with escapes."""
    if value is None:
        return "-"
    if value is True or value is False:
        return "true" if value else "false"
    text = str(value)
    if _BARE.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    if not escaped.isprintable():
        escaped = "".join(
            char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode("ascii")
            for char in escaped
        )
    return f'"{escaped}"'


def render_logfmt(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
    """Render one record: time (outside the journal), level, event, then the fields in the order they were given."""
    lead = {key: event.pop(key) for key in ("time", "level", "event") if key in event}
    return " ".join(
        [
            # A short cut past the call for what nearly every value is: this line is written for every message.
            f"{key}={value if type(value) is str and _BARE.fullmatch(value) else logfmt_value(value)}"
            for fields in (lead, event)
            for key, value in fields.items()
        ]
    )


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send every record of `level` and above to `stream`, by default stderr."""
    processors: list[structlog.typing.Processor] = [structlog.processors.add_log_level]
    if "JOURNAL_STREAM" not in os.environ:
        processors.append(structlog.processors.TimeStamper("iso", utc=True, key="time"))
    structlog.configure(
        processors=[*processors, structlog.processors.format_exc_info, render_logfmt],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=True,
    )
