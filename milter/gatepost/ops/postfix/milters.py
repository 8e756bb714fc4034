"""What becomes of milters that a service had before gatepost: nothing without the administrator's word.

Behind a proxy filter a milter of the front can still refuse, but no longer change a message (smtpd/smtpd.c: with a
proxy the cleanup server, which does the changing, is on the inner). On the inner it can change again, but its client
is localhost, and a signer takes that for permission to sign.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from gatepost.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gatepost.ops.postfix.fronts import Configuration
    from gatepost.ops.postfix.postconf import Service

Choice = Literal["keep-front", "inner"]
"""`--milters`: the front keeps them, or they follow ours on the inner service."""

_ELEMENT = re.compile(r"\{(?:[^{}]|\{[^{}]*\})*\}|[^\s,]+")
"""An element of smtpd_milters: `{ inet:HOST:PORT, name = value }` or a bare endpoint (milter/milter.c, milter_new)."""


@dataclass(frozen=True, slots=True)
class FrontRecord:
    """What was decided for a front when it was applied; `own` is its `-o smtpd_milters` of before, None without one."""

    service: str
    milters: Choice | None = None
    own: str | None = None


def elements(value: str) -> tuple[str, ...]:
    """Split a value of smtpd_milters."""
    return tuple(_ELEMENT.findall(value))


def decide(
    configuration: Configuration, front: Service, record: FrontRecord | None, choice: Choice | None, ours: str
) -> FrontRecord:
    """The decision for this front: what `choice` says, else what was decided earlier; ConfigError if nobody has."""
    own = front.options.get("smtpd_milters")
    if record is not None and record.milters == "inner":
        # The front's list is empty by our own hand: what counts is what stood there before.
        own = record.own
        found = elements(configuration.expanded["smtpd_milters"] if own is None else own)
    else:
        found = elements(configuration.effective(front, "smtpd_milters"))
    found = tuple(element for element in found if ours not in re.split(r"[\s,{}]+", element))
    maps = configuration.effective(front, "smtpd_milter_maps")
    named = ", ".join((*found, *((f"smtpd_milter_maps={maps}",) if maps else ())))
    decided = choice or (record.milters if record is not None else None)
    if not named:
        return FrontRecord(front.key)
    if decided is None:
        source = "-o in master.cf" if own is not None else "main.cf"
        raise ConfigError(
            f"{front.key} has milters of its own ({source}): {named}. Say --milters=keep-front (they stay there and "
            "can still refuse, but lose edits and signing) or --milters=inner (they come after gatepost's on the inner "
            "service, edit and sign, but see every client as localhost, which a signer trusts)",
            configuration.directory,
        )
    if decided == "inner" and maps:
        raise ConfigError(
            f"{front.key} has smtpd_milter_maps={maps}, which chooses milters by client address; on the inner service "
            "every client is localhost: use --milters=keep-front",
            configuration.directory,
        )
    return FrontRecord(front.key, decided, own)


def front_options(record: FrontRecord | None, decision: FrontRecord) -> dict[str, str | None]:
    """The settings by which a front follows the decision: empty where the list is not ours to touch."""
    if decision.milters == "inner":
        return {"smtpd_milters": ""}
    if record is not None and record.milters == "inner":
        return {"smtpd_milters": record.own}
    return {}


def inner_value(configuration: Configuration, decisions: Sequence[FrontRecord], ours: str) -> str:
    """smtpd_milters of the inner service: ours first, then those that moved there."""
    moved: Mapping[str, tuple[str, ...]] = {
        decision.service: elements(configuration.main["smtpd_milters"] if decision.own is None else decision.own)
        if decision.milters == "inner"
        else ()
        for decision in decisions
    }
    if len(set(moved.values())) > 1:
        said = "; ".join(f"{service}: {', '.join(found) or '(none)'}" for service, found in moved.items())
        raise ConfigError(
            f"these services share one inner service but differ in the milters that would move there ({said}): "
            "use --milters=keep-front, or let gatepost stand before one of them only",
            configuration.directory,
        )
    others = (element for element in next(iter(moved.values())) if ours not in re.split(r"[\s,{}]+", element))
    return ",".join((ours, *others))


def consequences(decision: FrontRecord) -> str | None:
    """One line for the administrator on what the decision costs; None if there was nothing to decide."""
    match decision.milters:
        case None:
            return None
        case "keep-front":
            return f"{decision.service} keeps its milters: they can refuse, but no longer edit or sign"
        case "inner":
            return f"{decision.service}'s milters moved to the inner service: they see every client as localhost"
