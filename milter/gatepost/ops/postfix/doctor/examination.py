"""All facts, gathered once: gatepost's configuration and plugins, every smtpd service, and what `apply` would do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gatepost.errors import ConfigError
from gatepost.ops.postfix import entry, fronts, listener, milters, place, plan
from gatepost.ops.postfix.doctor.remedy import Remedies
from gatepost.ops.postfix.doctor.smtpd import PARAMETERS, Smtpd
from gatepost.ops.postfix.value import elements

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from gatepost.configuration.config import Config
    from gatepost.ops.postfix.backup import Record
    from gatepost.ops.postfix.doctor.roster import Roster
    from gatepost.ops.postfix.fronts import Configuration
    from gatepost.ops.postfix.plan import Plan
    from gatepost.ops.postfix.postconf import Postconf


@dataclass(frozen=True, slots=True)
class Examination:
    """What was read. `main` is main.cf's values, expanded; `smtpds` are all services that run smtpd, by key.

    `fronts` are those to put gatepost before; `misplaced` have it, and are for users who log in, of whom gatepost knows
    nothing while the edge is off. `recorded` are the fronts by apply's own record.

    `planned` is what `apply` wants, or the reason for which it would refuse.
    """

    config: Config
    roster: Roster
    postconf: Postconf
    configuration: Configuration
    main: Mapping[str, str]
    smtpds: Mapping[str, Smtpd]
    fronts: Sequence[Smtpd]
    misplaced: Sequence[Smtpd]
    recorded: frozenset[str]
    inner_key: str
    planned: Plan | str
    remedies: Remedies

    @property
    def inner(self) -> Smtpd | None:
        """The service at proxy.inner, None if there is no such smtpd."""
        return self.smtpds.get(self.inner_key)

    @property
    def queue_directory(self) -> Path:
        """Where smtpd stands."""
        return self.configuration.queue_directory

    @property
    def sockets(self) -> dict[str, str]:
        """proxy.listen and milter.socket by name, as places (`place.canonical`)."""
        there = {"proxy.listen": self.config.proxy.listen, "milter.socket": self.config.milter.socket}
        return {key: place.canonical(address, self.queue_directory) for key, address in there.items()}

    def is_ours(self, element: str) -> bool:
        """Whether an element of smtpd_milters is gatepost's milter, in whatever spelling."""
        return place.is_milter(element, self.config.milter.socket, self.queue_directory)

    def is_proxy(self, address: str) -> bool:
        """Whether a value of smtpd_proxy_filter is gatepost's proxy."""
        return bool(address) and place.canonical(address, self.queue_directory) == self.sockets["proxy.listen"]


def examine(
    config: Config,
    roster: Roster,
    postconf: Postconf,
    record: Record | None,
    services: Collection[str] = (),
    config_file: Path | None = None,
) -> Examination:
    """Gather the facts about these services, or all that pass mail to gatepost; ConfigError for a bad configuration.

    `record` is that of the backup, `config_file` what --config said.
    """
    configuration = fronts.Configuration.read(postconf)
    inner_key = f"{listener.inner_service(config.proxy.inner)}/inet"
    smtpds = {one.key: Smtpd.read(postconf, one) for one in configuration.services if one.program == "smtpd"}
    applied = record.applied if record is not None else plan.Applied()
    directory = configuration.directory
    facts = Examination(
        config=config,
        roster=roster,
        postconf=postconf,
        configuration=configuration,
        main=postconf.values(*PARAMETERS, expand=True),
        smtpds=smtpds,
        fronts=(),
        misplaced=(),
        recorded=frozenset(one.service for one in applied.fronts),
        inner_key=inner_key,
        planned="",
        remedies=Remedies(config, config_file, directory, ()),
    )
    found = [smtpds[key] for key in _fronts(facts, services)]
    misplaced = [one for one in found if one.is_for_users and not config.milter.edge]
    facts = replace(facts, fronts=[one for one in found if one not in misplaced], misplaced=misplaced)
    keys = tuple(front.key for front in facts.fronts)
    decided, asked = _decided(facts, applied)
    planned = _planned(facts, keys, decided)
    if not isinstance(planned, str):
        # Also about those of main.cf that a front's own list, with the edge door, hides.
        asked = any(one.milters and not _milters_of(applied, one.service) for one in planned.applied.fronts)
    remedies = Remedies(config, config_file, directory, keys, "keep-front" if asked else None)
    return replace(facts, remedies=remedies, planned=planned)


def _milters_of(applied: plan.Applied, front: str) -> milters.Choice | None:
    record = applied.front(front)
    return record.milters if record is not None else None


def _fronts(facts: Examination, requested: Collection[str]) -> tuple[str, ...]:
    if requested:
        named = fronts.named(facts.configuration, requested, (), facts.inner_key)
        return tuple(key for key in facts.smtpds if key in named)
    return tuple(
        key
        for key, smtpd in facts.smtpds.items()
        if key != facts.inner_key and (key in facts.recorded or facts.is_proxy(smtpd.text("smtpd_proxy_filter")))
    )


def _decided(facts: Examination, applied: plan.Applied) -> tuple[plan.Applied, bool]:
    """What was applied, completed for services that were set up by hand; and whether apply would ask for --milters.

    Milters that stand on a front although nobody has decided about them are there by somebody's will: kept.
    """
    decided, asked = [], False
    for front in facts.fronts:
        there = applied.front(front.key)
        if there is None or there.milters is None:
            others = [one for one in elements(front.text("smtpd_milters")) if not facts.is_ours(one)]
            asked = asked or bool(others or front.text("smtpd_milter_maps"))
            own = front.service.options.get("smtpd_milters")
            there = replace(there or milters.FrontRecord(front.key, own=own), milters="keep-front")
        decided.append(there)
    looked_at = {front.key for front in facts.fronts}
    decided += [one for one in applied.fronts if one.service not in looked_at]
    inner = applied.inner
    if facts.inner is not None and _is_gateposts(facts, facts.inner):
        inner = facts.inner_key
    return plan.Applied(tuple(decided), inner), asked


def _is_gateposts(facts: Examination, inner: Smtpd) -> bool:
    return entry.is_ours(inner.service) or any(facts.is_ours(one) for one in elements(inner.text("smtpd_milters")))


def _planned(facts: Examination, keys: Collection[str], applied: plan.Applied) -> plan.Plan | str:
    try:
        return plan.make(facts.configuration, plan.Settings.of(facts.config), services=keys, applied=applied)
    except ConfigError as error:
        return error.message
