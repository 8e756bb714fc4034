"""What becomes of milters that a service had before gatepost: nothing without the administrator's word.

Behind a proxy filter a milter of the front can still refuse, but no longer change a message (smtpd/smtpd.c: with a
proxy the cleanup server, which does the changing, is on the inner). On the inner it can change again, but its client
is localhost, and a signer takes that for permission to sign. gatepost's own milter on the front, the edge door, comes
before those that stay there, so that it hears of a client that one of them refuses; never in their place.
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
"""An element of smtpd_milters: a bare endpoint, or `{ inet:HOST:PORT, name=value, { name = value } }`.

Blanks around `=` without braces of its own are fatal for smtpd (milter/milter.c, milter_new).
"""


@dataclass(frozen=True, slots=True)
class FrontRecord:
    """What was decided for a front when it was applied.

    `own` is the `-o smtpd_milters` that it has apart from gatepost, None without one; `edge` the whole value that apply
    gave it for the edge door, None while that is off.
    """

    service: str
    milters: Choice | None = None
    own: str | None = None
    edge: str | None = None


@dataclass(frozen=True, slots=True)
class Ours:
    """gatepost's milter: its `address` as smtpd must write it, every spelling of that, and the element of a front.

    `edge` is None while milter.edge is off.
    """

    address: str
    spellings: frozenset[str]
    edge: str | None = None

    def without(self, value: str) -> tuple[str, ...]:
        """The milters of a list that are not ours."""
        return tuple(one for one in elements(value) if self.spellings.isdisjoint(re.split(r"[\s,{}]+", one)))

    def is_in(self, value: str) -> bool:
        """Whether a list has ours."""
        return self.without(value) != elements(value)


def elements(value: str) -> tuple[str, ...]:
    """Split a value of smtpd_milters."""
    return tuple(_ELEMENT.findall(value))


def edge_element(address: str, edge_timeout_s: float) -> str:
    """The element of a front's smtpd_milters for the edge door.

    Each setting stands here, because main.cf's may be meant for others: `accept` would let every client past a
    gatepost that is down, and before protocol 6 recipients that Postfix refused are not told of (SMFIP_RCPT_REJ). No
    blanks, for `postconf -P` takes none.
    """
    command_s = max(_COMMAND_TIMEOUT_S, int(edge_timeout_s) + EDGE_MARGIN_S)
    timeouts = f"connect_timeout={_CONNECT_TIMEOUT_S}s,command_timeout={command_s}s"
    return f"{{{address},default_action=tempfail,protocol=6,{timeouts}}}"


EDGE_MARGIN_S = 10
"""How much longer than a hook may take Postfix waits for the reply: time for a busy moment, and to cross threads."""

_COMMAND_TIMEOUT_S = 30
_CONNECT_TIMEOUT_S = 30
"""Postfix's own defaults (milter_command_timeout, milter_connect_timeout)."""


def decide(
    configuration: Configuration, front: Service, record: FrontRecord | None, choice: Choice | None, ours: Ours
) -> FrontRecord:
    """The decision for this front: what `choice` says, else what was decided earlier; ConfigError if nobody has."""
    own = _own(configuration, front, record, ours)
    if own == front.options.get("smtpd_milters"):
        found = ours.without(configuration.effective(front, "smtpd_milters"))
    else:
        found = ours.without(configuration.expanded["smtpd_milters"] if own is None else own)
    maps = configuration.effective(front, "smtpd_milter_maps")
    named = ", ".join((*found, *((f"smtpd_milter_maps={maps}",) if maps else ())))
    decided = choice or (record.milters if record is not None else None)
    if named and decided is None:
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
    decision = decided if named else None
    edge = None
    if ours.edge is not None:
        # Our `-o` hides main.cf's list, so those that stay come along in it, as they are written there.
        stay = () if decision == "inner" else ours.without(_listed(configuration, own))
        edge = ",".join((ours.edge, *stay))
    return FrontRecord(front.key, decision, own, edge)


def front_options(
    front: Service, record: FrontRecord | None, decision: FrontRecord, ours: Ours
) -> dict[str, str | None]:
    """The settings by which a front follows the decision: empty where the list is not ours to touch."""
    if decision.edge is not None:
        return {"smtpd_milters": decision.edge}
    if decision.milters == "inner":
        return {"smtpd_milters": ""}
    touched = record is not None and (record.milters == "inner" or record.edge is not None)
    if touched or ours.is_in(front.options.get("smtpd_milters", "")):
        return {"smtpd_milters": decision.own}
    return {}


def inner_value(configuration: Configuration, decisions: Sequence[FrontRecord], ours: Ours) -> str:
    """smtpd_milters of the inner service: ours first, then those that moved there."""
    moved: Mapping[str, tuple[str, ...]] = {
        decision.service: ours.without(_listed(configuration, decision.own)) if decision.milters == "inner" else ()
        for decision in decisions
    }
    if len(set(moved.values())) > 1:
        said = "; ".join(f"{service}: {', '.join(found) or '(none)'}" for service, found in moved.items())
        raise ConfigError(
            f"these services share one inner service but differ in the milters that would move there ({said}): "
            "use --milters=keep-front, or let gatepost stand before one of them only",
            configuration.directory,
        )
    return ",".join((ours.address, *next(iter(moved.values()))))


def notes(configuration: Configuration, front: Service, decision: FrontRecord) -> tuple[str, ...]:
    """Lines for the administrator on what the decision costs; empty if there was nothing to decide."""
    said = [consequences(decision)]
    if decision.edge is not None and decision.own is None and len(elements(decision.edge)) > 1:
        said.append(
            f"{decision.service} now has main.cf's milters in an -o of its own, after gatepost's: when smtpd_milters "
            "changes in main.cf, run apply again"
        )
    if decision.edge is not None and (maps := configuration.effective(front, "smtpd_milter_maps")):
        said.append(
            f"{decision.service} has smtpd_milter_maps={maps}: clients that it lists do not pass the edge door, and "
            "gatepost first hears of them at their first recipient"
        )
    return tuple(line for line in said if line is not None)


def consequences(decision: FrontRecord) -> str | None:
    """What it costs milters that they stay, or that they move; None where there are none."""
    match decision.milters:
        case None:
            return None
        case "keep-front":
            return f"{decision.service} keeps its milters: they can refuse, but no longer edit or sign"
        case "inner":
            return f"{decision.service}'s milters moved to the inner service: they see every client as localhost"


def _own(configuration: Configuration, front: Service, record: FrontRecord | None, ours: Ours) -> str | None:
    """The front's own `-o smtpd_milters`, as it would be without gatepost; None if main.cf's list counts."""
    there = front.options.get("smtpd_milters")
    if record is not None and record.milters == "inner":
        # The front's list is empty by our own hand: what counts is what stood there before.
        return record.own
    if record is not None and record.edge is not None:
        if there is None:
            return None  # taken away by hand: main.cf's list is in force
        # The first is ours, perhaps at an address that milter.socket had then.
        written, *stayed = elements(record.edge)
        left = [one for one in ours.without(there) if _address(one) != _address(written)]
        # What somebody has added or removed since is the administrator's word, and stays so.
        return record.own if left == stayed else ",".join(left)
    if there is None or not ours.is_in(there):
        return there
    # The edge door, put there by hand.
    without = ours.without(there)
    return None if without == ours.without(configuration.main["smtpd_milters"]) else ",".join(without)


def _listed(configuration: Configuration, own: str | None) -> str:
    """The list that a front has without gatepost, not expanded."""
    return configuration.main["smtpd_milters"] if own is None else own


def _address(element: str) -> str:
    return re.split(r"[\s,{}]+", element.strip("{} \t"), maxsplit=1)[0]
