"""What plugins warn of in the log while they load, turned into findings.

The daemon writes these to its log, where nobody looks while editing: an option for a plugin that is not loaded, an
alias that leads in a circle.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog

from gatepost.ops.check.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, MutableMapping

    from gatepost.configuration.loader import Place

Record: TypeAlias = "MutableMapping[str, Any]"

_PLACE = re.compile(r"(.+):(\d+)")
_PLACE_FIELDS = ("at", "file", "line")


def listen() -> list[Record]:
    """Keep the warnings and errors that this process logs from now on in the list that is returned; none is written."""
    heard: list[Record] = []

    def keep(_logger: object, _method: str, event: Record) -> Record:
        heard.append(event)
        raise structlog.DropEvent

    structlog.configure(
        processors=[structlog.processors.add_log_level, keep],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    )
    return heard


def findings_in(heard: Iterable[Record], places: Mapping[str, Place]) -> list[Finding]:
    """Return a warning for each record, the first of those that say the same of one file with how many there are.

    `places` are those of the plugins, by name, for records that tell no other.
    """
    alike: dict[tuple[str, str], list[Place]] = {}
    for record in heard:
        file, line = _place(record, places)
        alike.setdefault((_text(record), str(file or "")), []).append((file, line))
    findings = []
    for (text, _), at in alike.items():
        more = f" (and in {len(at) - 1} more lines)" if len(at) > 1 else ""
        findings.append(Finding.warning(text + more, at[0]))
    return findings


def _place(record: Record, places: Mapping[str, Place]) -> Place:
    if found := _PLACE.fullmatch(str(record.get("at", ""))):
        return found[1], int(found[2])  # type: ignore[return-value]
    if "file" in record:
        line = record.get("line", str(record.get("lines", "")).partition(",")[0])
        return record["file"], int(line) if str(line).isdecimal() else None
    return places.get(str(record.get("plugin", "")), (None, None))


def _text(record: Record) -> str:
    """Return the record in words: `aliases: alias loop: mail to it is refused (lines 12, 15, 12)`."""
    who = f"{record['plugin']}: " if "plugin" in record else ""
    passed_over = {"event", "level", "plugin", *_PLACE_FIELDS}
    fields = ", ".join(f"{key} {value}" for key, value in record.items() if key not in passed_over)
    return " ".join(f"{who}{record.get('event', '')}{f' ({fields})' if fields else ''}".split())
