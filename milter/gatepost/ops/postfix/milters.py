"""What becomes of milters that a service had before gatepost: nothing without the administrator's word.

Behind a proxy filter a milter of the front can still refuse, but no longer change a message (smtpd/smtpd.c: with a
proxy the cleanup server, which does the changing, is on the inner). On the inner it can change again, but its client
is localhost, and a signer takes that for permission to sign. gatepost's own milter on the front, the edge door, comes
before those that stay there, so that it hears of a client that one of them refuses; never in their place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

from gatepost.errors import ConfigError
from gatepost.ops.postfix import place
from gatepost.ops.postfix.value import elements

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gatepost.ops.postfix.fronts import Configuration
    from gatepost.ops.postfix.postconf import Service

Choice = Literal["keep-front", "inner"]
"""`--milters`: the front keeps them, or they follow ours on the inner service."""


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
    """gatepost's milter: its `address` as smtpd must write it, milter.socket, and the element of a front.

    `edge` is None while milter.edge is off.
    """

    address: str
    socket: str
    queue_directory: Path
    edge: str | None = None

    def without(self, listed: Listed) -> tuple[str, ...]:
        """The milters of a list that are not ours, as they are written there if that can be."""
        written, expanded = elements(listed.written), elements(listed.expanded)
        others = tuple(one for one in expanded if not self._is(one))
        if len(written) == len(expanded):
            return tuple(one for one, full in zip(written, expanded, strict=True) if full in others)
        # A `$name` stands for none or several: it can stay, unless ours is among them.
        left = tuple(one for one in written if not self._is(one))
        return left if len(written) - len(left) == len(expanded) - len(others) else others

    def is_in(self, listed: Listed) -> bool:
        """Whether a list has ours."""
        return any(map(self._is, elements(listed.expanded)))

    def _is(self, element: str) -> bool:
        return place.is_milter(element, self.socket, self.queue_directory)


class Listed(NamedTuple):
    """A value of smtpd_milters: as it is written, and with every `$name` replaced."""

    written: str
    expanded: str

    @property
    def full(self) -> Listed:
        """The same list, with every `$name` replaced where it is written, too."""
        return Listed(self.expanded, self.expanded)


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
    listed = own if own is not None else _in_main(configuration)
    found = ours.without(listed.full)
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
    if decided == "inner" and (name := _local_name(front, listed)):
        raise ConfigError(
            f"{front.key} has its own -o {name}, which smtpd_milters = {listed.written} needs, and which the inner "
            "service would lack: write these milters there without it, or use --milters=keep-front",
            configuration.directory / "master.cf",
        )
    decision = decided if named else None
    edge = None
    if ours.edge is not None:
        # Our `-o` hides main.cf's list, so those that stay come along in it, as they are written there.
        stay = () if decision == "inner" else ours.without(listed)
        edge = ",".join((ours.edge, *stay))
    return FrontRecord(front.key, decision, own.written if own is not None else None, edge)


def front_options(
    front: Service, record: FrontRecord | None, decision: FrontRecord, ours: Ours
) -> dict[str, str | None]:
    """The settings by which a front follows the decision: empty where the list is not ours to touch."""
    if decision.edge is not None:
        return {"smtpd_milters": decision.edge}
    if decision.milters == "inner":
        return {"smtpd_milters": ""}
    touched = record is not None and (record.milters == "inner" or record.edge is not None)
    there = Listed(front.options.get("smtpd_milters", ""), front.expanded.get("smtpd_milters", ""))
    if touched or ours.is_in(there):
        return {"smtpd_milters": decision.own}
    return {}


def inner_value(configuration: Configuration, decided: Sequence[tuple[Service, FrontRecord]], ours: Ours) -> str:
    """smtpd_milters of the inner service: ours first, then those that moved there from the fronts."""
    moved: dict[str, tuple[str, ...]] = {}
    for front, decision in decided:
        moves = decision.milters == "inner"
        moved[front.key] = ours.without(_listed(configuration, front, decision.own)) if moves else ()
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
    overrides = configuration.effective(front, "receive_override_options")
    if decision.edge is not None and "no_milters" in re.split(r"[\s,]+", overrides):
        said.append(
            f"{decision.service} has receive_override_options={overrides}: no_milters takes gatepost's milter off, and "
            "the edge door hears nothing there"
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


def _own(configuration: Configuration, front: Service, record: FrontRecord | None, ours: Ours) -> Listed | None:
    """The front's own `-o smtpd_milters`, as it would be without gatepost; None if main.cf's list counts."""
    if record is not None and record.milters == "inner":
        # The front's list is empty by our own hand: what counts is what stood there before.
        return Listed(record.own, record.own) if record.own is not None else None
    if "smtpd_milters" not in front.options:
        return None  # or taken away by hand: main.cf's list is in force
    there = Listed(front.options["smtpd_milters"], front.expanded["smtpd_milters"])
    if record is not None and record.edge is not None:
        # The first is ours, perhaps at an address that milter.socket had then.
        old, *stayed = elements(record.edge)
        left, full = (
            [one for one in ours.without(listed) if place.of_milter(one) != place.of_milter(old)]
            for listed in (there, there.full)
        )
        # What somebody has added or removed since is the administrator's word, and stays so.
        written = record.own if left == stayed else ",".join(left)
        return Listed(written, ",".join(full)) if written is not None else None
    if not ours.is_in(there):
        return there
    # The edge door, put there by hand.
    without = ours.without(there)
    if without == ours.without(_in_main(configuration)):
        return None
    return Listed(",".join(without), ",".join(ours.without(there.full)))


def _local_name(front: Service, listed: Listed) -> str | None:
    """The first `$name` in a list that has a value in this service alone; None if there is none."""
    return next((name for name in _NAME.findall(listed.written) if name in front.options), None)


_NAME = re.compile(r"\$[{(]?(\w+)")
"""As Postfix writes them: `$name`, `${name}`, `$(name)`, `${name?value}` (util/mac_parse.c)."""


def _listed(configuration: Configuration, front: Service, own: str | None) -> Listed:
    """The list that a front has if `own` is its `-o smtpd_milters`."""
    if own is None:
        return _in_main(configuration)
    if own == front.options.get("smtpd_milters"):
        return Listed(own, front.expanded["smtpd_milters"])
    return Listed(own, own)


def _in_main(configuration: Configuration) -> Listed:
    return Listed(configuration.main["smtpd_milters"], configuration.expanded["smtpd_milters"])
