"""The command line: `gatepost postfix show|diff|apply|revert|doctor`.

Everything wrong is a ConfigError, which `gatepost.ops.cli` turns into one line and an exit status. `diff` ends with 1
when there is something to change, as diff(1) does.
"""

from __future__ import annotations

import asyncio
import json as json_format
from dataclasses import dataclass
from pathlib import Path  # noqa: TC003 - cyclopts reads it at run time
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.text import Text

from gatepost.configuration.config import load_config
from gatepost.errors import ConfigError
from gatepost.ops import log
from gatepost.ops.postfix import change, plan, postconf, report
from gatepost.ops.postfix.backup import Backup
from gatepost.ops.postfix.doctor import diagnosis, examination, roster
from gatepost.ops.postfix.doctor import report as doctor_report
from gatepost.ops.postfix.fronts import Configuration
from gatepost.ops.postfix.milters import Choice  # noqa: TC001 - cyclopts reads it at run time

_Flag = Annotated[bool, Parameter(negative="")]

app = App(
    name="postfix",
    help="Put gatepost into Postfix's master.cf, show what that means, and take it out again.",
)


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Which Postfix."""

    config_dir: Path | None = None
    """Postfix's configuration directory. Default: the one that `postconf` names."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What to put there."""

    config: Path | None = None
    """gatepost's configuration. Default: /etc/gatepost/gatepost.toml, or the built-in one."""
    service: Annotated[tuple[str, ...], Parameter(negative="")] = ()
    """An smtpd service in master.cf, such as smtp/inet, submission/inet or 127.0.0.1:2525/inet; may be repeated.
    Default: smtp/inet, or smtpd/pass where postscreen holds that."""
    milters: Choice | None = None
    """What becomes of milters that the service has already: `keep-front` leaves them there, where they can refuse but
    not edit or sign; `inner` puts them behind gatepost, where they see every client as localhost."""


@app.command
def show(target: Target | None = None, wanted: Wanted | None = None, *, json: _Flag = False) -> int:
    """Show what Postfix has now, and the entries as they should be.

    Parameters
    ----------
    json
        Print it as JSON.
    """
    job = _Job.open(target, wanted)
    outcome: tuple[plan.Plan, change.Staged] | str
    try:
        outcome = job.planned()
    except ConfigError as error:
        outcome = str(error)
    backup = str(job.kept.path) if job.kept.record() is not None else None
    found = report.make(job.configuration, backup, outcome)
    _say(json_format.dumps(found.as_json(), indent=2) if json else "\n".join(report.text(found)))
    return 0


@app.command
def diff(target: Target | None = None, wanted: Wanted | None = None) -> int:
    """Show what apply would change, as a unified diff; ends with 1 if there is something, 0 if not."""
    job = _Job.open(target, wanted)
    _, staged = job.planned()
    lines = staged.diff(job.configuration.directory)
    _say_diff(lines)
    return 1 if lines else 0


@app.command
def apply(target: Target | None = None, wanted: Wanted | None = None, *, reload: _Flag = False) -> int:
    """Put gatepost into master.cf: settings on the front services, and the inner service.

    Keeps a backup of main.cf and master.cf, repairs settings of its own that were changed, touches no others, and ends
    with `postfix check`. A second call changes nothing.

    Parameters
    ----------
    reload
        Run `postfix reload` in the end. gatepost must be running by then, or clients get 451.
    """
    job = _Job.open(target, wanted)
    made, staged = job.planned()
    directory = job.configuration.directory
    changes = made.differences(job.configuration)
    warnings = change.apply(job.configuration, made, staged, job.kept)
    if changes:
        _say(f"{directory / 'master.cf'} changed:")
        for line in changes:
            _say(f"  {line}")
        _say(f"backup: {job.kept.path} (gatepost postfix revert puts it back)")
    else:
        _say(f"{directory / 'master.cf'}: nothing to change, all is as it should be")
    for note in made.notes:
        _say(f"note: {note}")
    for warning in warnings:
        _say(f"postfix check: {warning}")
    _say("postfix check: passed")
    _finish(directory, "start gatepost (gatepost run, or its systemd unit), then: {reload}", reload=reload)
    return 0


@app.command
def revert(target: Target | None = None, *, force: _Flag = False, reload: _Flag = False) -> int:
    """Put main.cf and master.cf back as they were before the first apply, byte for byte.

    Parameters
    ----------
    force
        Even when a file was changed by somebody else since; its present state is kept as FILE.before-revert.
    reload
        Run `postfix reload` in the end.
    """
    directory = postconf.open_directory((target or Target()).config_dir).directory
    lines = change.revert(directory, Backup(directory), force=force)
    if lines is None:
        _say(f"{directory}: nothing to revert, gatepost has no backup there")
        return 0
    for line in lines:
        _say(line)
    _finish(directory, "{reload}, then gatepost can be stopped", reload=reload)
    return 0


@app.command
def doctor(
    target: Target | None = None,
    *,
    config: Path | None = None,
    service: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    json: _Flag = False,
) -> int:
    """Look for what will not work between Postfix and gatepost, and say how to mend it; changes nothing.

    Reads both configurations, the files of plugins that know recipients, and greets the live sockets. Ends with 1 if
    there is a finding; notes do not count.

    Parameters
    ----------
    config
        gatepost's configuration. Default: /etc/gatepost/gatepost.toml, or the built-in one.
    service
        A front to look at, such as smtp/inet; may be repeated. Default: every service that passes mail to gatepost.
    json
        Print a list of objects with service, parameter, problem, remedy, command and severity.
    """
    log.configure("error")
    settings = load_config(config)
    there = postconf.open_directory((target or Target()).config_dir)
    record = Backup(there.directory).record()
    plugins = asyncio.run(roster.read(settings))
    facts = examination.examine(settings, plugins, there, record, service, config)
    found = diagnosis.on_paper(facts)
    found += diagnosis.alive(facts, found)
    if json:
        _say(json_format.dumps([one.as_json() for one in found], indent=2))
    else:
        doctor_report.show(facts, found)
    return 1 if any(one.severity == "finding" for one in found) else 0


@dataclass(frozen=True, slots=True)
class _Job:
    """One call: the configuration as read, what is wanted, and the backup."""

    configuration: Configuration
    settings: plan.Settings
    wanted: Wanted
    kept: Backup

    @classmethod
    def open(cls, target: Target | None, wanted: Wanted | None) -> _Job:
        wanted = wanted or Wanted()
        config = load_config(wanted.config)
        there = postconf.open_directory((target or Target()).config_dir)
        return cls(Configuration.read(there), plan.Settings.of(config), wanted, Backup(there.directory))

    def planned(self) -> tuple[plan.Plan, change.Staged]:
        record = self.kept.record()
        made = plan.make(
            self.configuration,
            self.settings,
            services=self.wanted.service,
            choice=self.wanted.milters,
            applied=record.applied if record is not None else None,
        )
        return made, change.stage(self.configuration, made)


def _finish(directory: Path, advice: str, *, reload: bool) -> None:
    """Reload, or say what comes next: nothing of the change is in force before a reload."""
    if reload:
        change.reload(directory)
        _say("postfix reload: done")
    else:
        _say("next: " + advice.format(reload=f"postfix -c {directory} reload"))


def _say(line: str) -> None:
    Console(soft_wrap=True, highlight=False, markup=False, emoji=False).print(line)


_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def _say_diff(lines: list[str]) -> None:
    """Print a diff, in colours on a terminal."""
    console = Console(soft_wrap=True, highlight=False)
    for line in lines:
        style = "bold" if line.startswith(("+++", "---")) else _COLOURS.get(line[:1], "")
        console.print(Text(line, style=style))
