"""From a configuration as it is to the entries as they should be; reads no file and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gatepost.errors import ConfigError
from gatepost.ops.postfix import entry, fronts, listener, milters

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from gatepost.configuration.config import Config
    from gatepost.ops.postfix.entry import Entry
    from gatepost.ops.postfix.fronts import Configuration
    from gatepost.ops.postfix.milters import Choice, FrontRecord
    from gatepost.ops.postfix.postconf import Postconf


@dataclass(frozen=True, slots=True)
class Settings:
    """What Postfix must know of gatepost's configuration: three addresses as written there, and the edge door.

    `edge_timeout_s` is milter.edge_timeout, None while milter.edge is off.
    """

    listen: str
    inner: str
    milter: str
    edge_timeout_s: float | None = None

    @classmethod
    def of(cls, config: Config) -> Settings:
        """Take them from the whole configuration."""
        edge_timeout_s = config.milter.edge_timeout if config.milter.edge else None
        return cls(config.proxy.listen, config.proxy.inner, config.milter.socket, edge_timeout_s)


@dataclass(frozen=True, slots=True)
class Applied:
    """What `apply` did earlier, as the backup's record tells; empty when it never ran or was reverted."""

    fronts: tuple[FrontRecord, ...] = ()
    inner: str | None = None

    def front(self, key: str) -> FrontRecord | None:
        """The record of this front."""
        return next((record for record in self.fronts if record.service == key), None)


@dataclass(frozen=True, slots=True)
class Plan:
    """`entries` are the fronts in master.cf's order, then the inner; `obsolete` is an older proxy.inner's."""

    entries: tuple[Entry, ...]
    obsolete: str | None
    applied: Applied
    notes: tuple[str, ...]

    def differences(self, configuration: Configuration) -> tuple[str, ...]:
        """What carrying the plan out would change there, one line each; empty when all is as it should be."""
        lines = [
            line for wanted in self.entries for line in entry.differences(wanted, configuration.service(wanted.service))
        ]
        if self.obsolete is not None and configuration.service(self.obsolete) is not None:
            lines.append(f"{self.obsolete}: removed, proxy.inner is another now")
        return tuple(lines)

    def carry_out(self, postconf: Postconf, configuration: Configuration) -> None:
        """Make the directory of `postconf`, which is in the state of `configuration`, as the plan says."""
        for wanted in self.entries:
            entry.repair(postconf, wanted, configuration.service(wanted.service))
        if self.obsolete is not None and configuration.service(self.obsolete) is not None:
            postconf.drop_service(self.obsolete)


def make(
    configuration: Configuration,
    settings: Settings,
    *,
    services: Collection[str] = (),
    choice: Choice | None = None,
    applied: Applied | None = None,
) -> Plan:
    """Plan to put gatepost before these services (NAME/TYPE; none: the default one) and those applied earlier.

    `choice` is `--milters`, for the services named here. ConfigError for whatever cannot or should not be done.
    """
    before = applied or Applied()
    earlier = [record.service for record in before.fronts]
    address = listener.inner_service(settings.inner)
    inner_key = f"{address}/inet"
    requested = fronts.named(configuration, services, earlier, inner_key)
    queue = configuration.queue_directory
    # A socket that a chrooted smtpd can reach has the same name outside the chroot: this finds the fronts of old.
    proxy_filter = listener.proxy_filter(settings.listen, queue, chrooted=False)
    chosen = fronts.select(configuration, requested, earlier, inner_key, proxy_filter)
    for front in chosen:
        fronts.refuse_unsupported(configuration, front, earlier, proxy_filter)
    chroot, chrooted = fronts.agreed_chroot(configuration, chosen)
    proxy_filter = listener.proxy_filter(settings.listen, queue, chrooted=chrooted)
    ours = _milter(settings, queue, chrooted=chrooted)
    _refuse_foreign(configuration, inner_key, before)
    _refuse_taken(configuration, settings, address, inner_key)

    entries, decided = [], []
    notes: list[str] = []
    for front in chosen:
        record = before.front(front.key)
        said = choice if front.key in requested else None
        decision = milters.decide(configuration, front, record, said, ours)
        decided.append((front, decision))
        notes += milters.notes(configuration, front, decision)
        own = milters.front_options(front, record, decision, ours)
        entries.append(entry.front(front.key, configuration.known, proxy_filter, own))
    inner = entry.inner(
        inner_key,
        configuration.known,
        chroot=chroot,
        networks=listener.networks(address),
        milters=milters.inner_value(configuration, decided, ours),
        overrides=fronts.overrides(configuration, chosen),
        carried=fronts.carried(configuration, chosen),
    )
    return Plan(
        entries=(*entries, inner),
        obsolete=before.inner if before.inner != inner_key else None,
        applied=Applied(tuple(decision for _, decision in decided), inner_key),
        notes=tuple(notes),
    )


def _milter(settings: Settings, queue_directory: Path, *, chrooted: bool) -> milters.Ours:
    address = listener.milter(settings.milter, queue_directory, chrooted=chrooted)
    edge = milters.edge_element(address, settings.edge_timeout_s) if settings.edge_timeout_s is not None else None
    return milters.Ours(address, settings.milter, queue_directory, edge)


def _refuse_foreign(configuration: Configuration, inner_key: str, applied: Applied) -> None:
    """Refuse to take over a service that somebody else made for another purpose."""
    there = configuration.service(inner_key)
    if there is None:
        return
    if there.program != "smtpd" or not (entry.is_ours(there) or applied.inner == inner_key):
        raise ConfigError(
            f"{inner_key} is there already and is not gatepost's: set proxy.inner to a free port, or remove it",
            configuration.directory / "master.cf",
        )


def _refuse_taken(configuration: Configuration, settings: Settings, inner: listener.Inet, inner_key: str) -> None:
    """Refuse ports that this Postfix listens on itself: amavis' way back is 127.0.0.1:10025 by custom, for instance."""
    file = configuration.directory / "master.cf"
    listens = listener.of_endpoint(listener.parse(settings.listen, "proxy.listen"))
    if listens is not None and listens.collides(inner):
        raise ConfigError(f"proxy.listen and proxy.inner are the same port {inner}: choose another for one of them")
    for service in configuration.services:
        there = listener.of_service(service.key)
        if there is None or service.key == inner_key:
            continue
        for setting, address in (("proxy.inner", inner), ("proxy.listen", listens)):
            if address is not None and address.collides(there):
                raise ConfigError(
                    f"{setting} = {address} is the port of Postfix's own {service.key}: choose a free port", file
                )
