"""What `gatepost postfix show` tells, as data for `--json` and as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gatepost.ops.postfix.change import Staged
    from gatepost.ops.postfix.fronts import Configuration
    from gatepost.ops.postfix.plan import Plan

State = Literal["applied", "differs", "missing", "untouched"]
"""`differs`: apply would change it; `missing`: apply would make it; `untouched`: gatepost does not stand before it."""


@dataclass(frozen=True, slots=True)
class ServiceReport:
    """One smtpd service: its `-o` settings now, and those that gatepost wants there (None: the `-o` must go)."""

    service: str
    role: Literal["front", "inner", "other"]
    state: State
    chroot: str | None
    options: Mapping[str, str]
    wanted: Mapping[str, str | None]


@dataclass(frozen=True, slots=True)
class Report:
    """The whole: `refused` says why apply would refuse, then nothing is wanted; `entries` is text for master.cf."""

    config_directory: str
    queue_directory: str
    mail_version: str
    backup: str | None
    services: Sequence[ServiceReport]
    refused: str | None
    changes: Sequence[str]
    notes: Sequence[str]
    entries: str

    def as_json(self) -> dict[str, object]:
        """The report as plain data."""
        return asdict(self)


def make(configuration: Configuration, backup: str | None, outcome: tuple[Plan, Staged] | str) -> Report:
    """Put together what was read and planned; `outcome` is the plan, or the reason for which there is none."""
    plan, staged, refused = (None, None, outcome) if isinstance(outcome, str) else (*outcome, None)
    return Report(
        config_directory=str(configuration.directory),
        queue_directory=str(configuration.queue_directory),
        mail_version=configuration.expanded["mail_version"],
        backup=backup,
        services=_services(configuration, plan),
        refused=refused,
        changes=plan.differences(configuration) if plan is not None else (),
        notes=plan.notes if plan is not None else (),
        entries="".join(staged.entries.values()) if staged is not None else "",
    )


def text(report: Report) -> list[str]:
    """The report as lines for a terminal."""
    lines = [
        f"Postfix {report.mail_version}, configuration {report.config_directory}, queue {report.queue_directory}",
        f"backup: {report.backup or 'none, nothing was applied yet'}",
        "",
    ]
    width = max((len(service.service) for service in report.services), default=0)
    for service in report.services:
        lines.append(f"{service.service:{width}}  {service.role:5}  {service.state}")
        if service.state == "differs":
            lines += [f"{'':{width}}    -o {name}={value}" for name, value in service.options.items()]
    if report.refused is not None:
        return [*lines, "", f"apply would refuse: {report.refused}"]
    lines += ["", "master.cf as it should be:", *report.entries.splitlines()]
    lines += [f"note: {note}" for note in report.notes]
    if report.changes:
        return [*lines, "", "apply would change:", *(f"  {change}" for change in report.changes)]
    return [*lines, "", "all is as it should be"]


def _services(configuration: Configuration, plan: Plan | None) -> list[ServiceReport]:
    entries = {entry.service: entry for entry in plan.entries} if plan is not None else {}
    reports = []
    for service in configuration.services:
        if service.program == "smtpd" and service.key not in entries:
            chroot = service.fields["chroot"]
            reports.append(ServiceReport(service.key, "other", "untouched", chroot, dict(service.options), {}))
    for key, entry in entries.items():
        there = configuration.service(key)
        different = any(line.startswith(f"{key}: ") for line in plan.differences(configuration)) if plan else False
        reports.append(
            ServiceReport(
                service=key,
                role="inner" if entry.fields else "front",
                state="missing" if there is None else "differs" if different else "applied",
                chroot=there.fields["chroot"] if there is not None else None,
                options=dict(there.options) if there is not None else {},
                wanted=dict(entry.options),
            )
        )
    return reports
