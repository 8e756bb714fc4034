"""Which services are fronts, and what they must agree on because they share one inner service."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gatepost.errors import ConfigError
from gatepost.ops.postfix import entry

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from gatepost.ops.postfix.postconf import Postconf, Service

_MAIN = (
    *entry.CARRIED,
    "compatibility_level",
    "mail_version",
    "queue_directory",
    "receive_override_options",
    "smtpd_milter_maps",
    "smtpd_milters",
    "smtpd_proxy_filter",
    "smtpd_proxy_options",
)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What was read from one configuration directory; `main` as written, `expanded` with `$name` replaced."""

    directory: Path
    services: Sequence[Service]
    main: Mapping[str, str]
    expanded: Mapping[str, str]
    known: frozenset[str]

    @classmethod
    def read(cls, postconf: Postconf) -> Configuration:
        """Read the directory that `postconf` stands for."""
        return cls(
            directory=postconf.directory,
            services=postconf.services(),
            main=postconf.values(*_MAIN),
            expanded=postconf.values(*_MAIN, expand=True),
            known=postconf.known(*entry.PARAMETERS),
        )

    @property
    def queue_directory(self) -> Path:
        """Postfix's queue directory, where smtpd stands while it runs."""
        return Path(self.expanded["queue_directory"])

    def service(self, key: str) -> Service | None:
        """The entry of this NAME/TYPE, None if there is none."""
        return next((service for service in self.services if service.key == key), None)

    def effective(self, service: Service, name: str) -> str:
        """The value of a parameter in this service: its own `-o`, else main.cf, else the default; expanded."""
        return service.expanded.get(name, self.expanded.get(name, ""))

    def chrooted(self, service: Service) -> bool:
        """Whether the service runs chrooted; `-` means yes before compatibility level 1 (master/master_ent.c)."""
        column = service.fields["chroot"]
        if column != "-":
            return column == "y"
        level = re.match(r"\d+", self.expanded.get("compatibility_level", ""))
        return level is None or int(level[0]) < 1


def named(
    configuration: Configuration, requested: Collection[str], applied: Collection[str], inner: str
) -> frozenset[str]:
    """The services that `--service` names, or the default; ConfigError for one that cannot be a front.

    The default is smtp/inet, or smtpd/pass where postscreen holds that, or what was applied earlier where neither is.
    """
    keys = frozenset(requested) or _default(configuration, applied)
    for key in sorted(keys):
        _check(configuration, key, inner)
    return keys


def select(
    configuration: Configuration, requested: Collection[str], applied: Collection[str], inner: str, listen: str
) -> tuple[Service, ...]:
    """The fronts in master.cf's order: those requested and those applied earlier, which stay applied.

    Of an earlier call are those that the record names (`applied`) and those that already point at proxy.listen; a
    recorded one that is gone from master.cf, or no longer runs smtpd, is forgotten.
    """

    def is_front(service: Service) -> bool:
        if service.key in requested:
            return True
        earlier = service.key in applied or service.options.get("smtpd_proxy_filter") == listen
        return earlier and service.program == "smtpd" and service.key != inner

    return tuple(service for service in configuration.services if is_front(service))


def refuse_unsupported(
    configuration: Configuration, front: Service, applied: Collection[str], proxy_filter: str
) -> None:
    """Refuse a front whose own settings and gatepost cannot both work."""
    there = configuration.effective(front, "smtpd_proxy_filter")
    if there not in ("", proxy_filter) and front.key not in applied:
        raise ConfigError(
            f"{front.key} already has smtpd_proxy_filter={there}: Postfix takes one before-queue filter a service; "
            "remove it, or put that filter behind gatepost's inner service",
            configuration.directory / "master.cf",
        )
    if "speed_adjust" in re.split(r"[\s,]+", configuration.effective(front, "smtpd_proxy_options")):
        raise ConfigError(
            f"{front.key} has smtpd_proxy_options=speed_adjust: Postfix then answers RCPT before gatepost is asked, "
            "and the first refused recipient refuses the whole message; remove speed_adjust",
            configuration.directory / "master.cf",
        )


def agreed_chroot(configuration: Configuration, fronts: Sequence[Service]) -> tuple[str, bool]:
    """The chroot column for the inner service, and whether that means chrooted."""
    chrooted = {front.key: configuration.chrooted(front) for front in fronts}
    if len(set(chrooted.values())) > 1:
        said = ", ".join(f"{key} {'is' if inside else 'is not'}" for key, inside in chrooted.items())
        raise ConfigError(
            f"the inner service copies the chroot column of its fronts, and these differ ({said} chrooted): "
            "give them the same chroot column",
            configuration.directory / "master.cf",
        )
    return fronts[0].fields["chroot"], chrooted[fronts[0].key]


def carried(configuration: Configuration, fronts: Sequence[Service]) -> dict[str, str | None]:
    """The `-o` settings that the inner service takes over from its fronts; None where main.cf's value stands."""
    found: dict[str, str | None] = {}
    for name in entry.CARRIED:
        _agree(configuration, name, {front.key: configuration.effective(front, name) for front in fronts})
        if name in configuration.known:
            found[name] = next((front.options[name] for front in fronts if name in front.options), None)
    return found


def overrides(configuration: Configuration, fronts: Sequence[Service]) -> str:
    """What the inner's receive_override_options must add: `,no_address_mappings` or nothing.

    Sites with an after-queue content_filter leave address mapping to the filter's return path; doing it on the inner
    as well would map twice. The front's other overrides are not for the inner: `no_milters` would take ours off.
    """
    found = {}
    for front in fronts:
        options = re.split(r"[\s,]+", configuration.effective(front, "receive_override_options"))
        found[front.key] = ",no_address_mappings" if "no_address_mappings" in options else ""
    return _agree(configuration, "receive_override_options", found)


def _agree(configuration: Configuration, name: str, values: Mapping[str, str]) -> str:
    """The one value that all fronts have."""
    if len(set(values.values())) > 1:
        said = ", ".join(f"{key}: {value.lstrip(',') or '(none)'}" for key, value in values.items())
        raise ConfigError(
            f"these services share one inner service but differ in {name} ({said}): give them the same, "
            "or let gatepost stand before one of them only",
            configuration.directory / "master.cf",
        )
    return next(iter(values.values()))


def _default(configuration: Configuration, applied: Collection[str]) -> frozenset[str]:
    smtp = configuration.service("smtp/inet")
    if smtp is None:
        there = frozenset(key for key in applied if configuration.service(key) is not None)
        return there or frozenset({"smtp/inet"})
    return frozenset({"smtpd/pass" if smtp.program == "postscreen" else "smtp/inet"})


def _check(configuration: Configuration, key: str, inner: str) -> None:
    file = configuration.directory / "master.cf"
    service = configuration.service(key)
    choices = ", ".join(
        other.key for other in configuration.services if other.program == "smtpd" and other.key != inner
    )
    if service is None:
        raise ConfigError(f'no service "{key}" here; --service takes one of: {choices or "(there is no smtpd)"}', file)
    if key == inner:
        raise ConfigError(f"{key} is gatepost's own inner service; --service takes one of: {choices}", file)
    if service.program == "postscreen":
        raise ConfigError(f"{key} runs postscreen, not smtpd: take the smtpd behind it, --service smtpd/pass", file)
    if service.program != "smtpd":
        raise ConfigError(f"{key} runs {service.program}, not smtpd; --service takes one of: {choices}", file)
