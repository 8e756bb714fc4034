"""Carrying a plan out, and undoing it: both files change in one step each, or not at all.

postconf makes every edit, in a private copy of the two files: so `diff` shows what `apply` would do to the byte, an
edit that postconf does not take is noticed before anything happened, and the result goes in with the file's own
permissions (postconf itself leaves 0644, util/edit_file.c).
"""

from __future__ import annotations

import contextlib
import difflib
import os
import pty
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gatepost.errors import ConfigError
from gatepost.ops.postfix import backup, postconf
from gatepost.ops.postfix.fronts import Configuration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gatepost.ops.postfix.backup import Backup
    from gatepost.ops.postfix.plan import Plan


@dataclass(frozen=True, slots=True)
class Staged:
    """The two files before and after a plan, and its services as they would stand in master.cf."""

    before: Mapping[str, bytes]
    after: Mapping[str, bytes]
    entries: Mapping[str, str]

    @property
    def changed(self) -> tuple[str, ...]:
        """The names of the files that the plan changes."""
        return tuple(name for name in backup.FILES if self.before[name] != self.after[name])

    def diff(self, directory: Path) -> list[str]:
        """The change as a unified diff, lines without their ends; empty when there is none."""
        lines: list[str] = []
        for name in self.changed:
            old, new = (side[name].decode(errors="replace").splitlines() for side in (self.before, self.after))
            lines += difflib.unified_diff(old, new, str(directory / name), f"{directory / name} (applied)", lineterm="")
        return lines


def read(directory: Path) -> dict[str, bytes]:
    """Both files as they are."""
    return {name: (directory / name).read_bytes() for name in backup.FILES}


def stage(configuration: Configuration, plan: Plan) -> Staged:
    """Carry the plan out on a copy of the files; ConfigError when postconf did not do what it was told."""
    before = read(configuration.directory)
    with tempfile.TemporaryDirectory(prefix="gatepost-postfix-") as scratch:
        copy = Path(scratch)
        for name, content in before.items():
            (copy / name).write_bytes(content)
            # Postfix waits up to two seconds before it trusts a file that young (util/dict.c, dict_load_file_xt).
            os.utime(copy / name, (0, 0))
        there = postconf.Postconf(copy)
        plan.carry_out(there, configuration)
        if left := plan.differences(Configuration.read(there)):
            raise ConfigError(
                f"postconf did not take {len(left)} settings, first {left[0]}; nothing was changed: is the entry "
                "written twice?",
                configuration.directory / "master.cf",
            )
        entries = {entry.service: there.text(entry.service) for entry in plan.entries}
        return Staged(before, read(copy), entries)


def apply(configuration: Configuration, plan: Plan, staged: Staged, kept: Backup) -> list[str]:
    """Back up, put the staged files in place and run `postfix check`; returns its warnings.

    When the check fails, the files are what they were before, permissions included, and so is the backup.
    """
    directory = configuration.directory
    _require_root("apply", directory)
    record = kept.record()
    if staged.changed and read(directory) != staged.before:
        raise ConfigError("somebody else has changed the files in this moment: run apply again", directory)
    owners = {name: backup.owner(directory / name) for name in staged.changed}
    # The record first: killed between two writes, each file is then either the original or ours, and revert knows both.
    if record is not None:
        kept.put(backup.rewritten(record, plan.applied, staged.before, staged.after))
    elif staged.changed:
        kept.keep(staged.before, staged.after, plan.applied)
    try:
        for name in staged.changed:
            backup.write(directory / name, staged.after[name], owners[name])
        return check(directory)
    except ConfigError as error:
        for name in staged.changed:
            backup.write(directory / name, staged.before[name], owners[name])
        if record is not None:
            kept.put(record)
        else:
            kept.discard()
        raise ConfigError(f"{error.message}; {_restored(directory, staged)}", error.file) from error


def revert(directory: Path, kept: Backup, *, force: bool) -> list[str] | None:
    """Put the originals back, byte for byte, and drop the backup; None when there is nothing to revert.

    Returns one line per file for the administrator. Refuses when somebody changed a file after `apply`, unless
    `force`: then that state is kept beside the file.
    """
    record = kept.record()
    if record is None:
        return None
    _require_root("revert", directory)
    files, originals = read(directory), kept.originals()
    edited = backup.edited_since(record, files, originals)
    if edited and not force:
        raise ConfigError(
            f"{' and '.join(edited)} changed after gatepost's apply, and reverting would lose that: undo it or note "
            f"it (diff -u {kept.path}/{edited[0]} {directory}/{edited[0]}), then run revert --force",
            directory,
        )
    lines = []
    for name in backup.FILES:
        file, owner = directory / name, record.owners[name]
        if name in edited:
            aside = file.with_name(f"{name}.before-revert")
            backup.write(aside, files[name], backup.owner(file))
            lines.append(f"{aside}: what was in {name} until now")
        if files[name] != originals[name] or backup.owner(file) != owner:
            backup.write(file, originals[name], owner)
            lines.append(f"{file}: restored")
        else:
            lines.append(f"{file}: is as it was before apply")
    kept.discard()
    return lines


def check(directory: Path) -> list[str]:
    """Run `postfix check`: its warnings, each once; ConfigError with its own words when it fails."""
    status, output = _postfix(directory, "check")
    lines = list(dict.fromkeys(output.splitlines()))
    if status:
        fatal = [line for line in lines if "fatal:" in line] or lines
        raise ConfigError(f"postfix check fails: {'; '.join(fatal) or f'status {status}'}", directory)
    return [line for line in lines if "warning:" in line]


def reload(directory: Path) -> None:
    """Run `postfix reload`; ConfigError when Postfix does not run or does not obey."""
    status, output = _postfix(directory, "reload")
    if status:
        said = [line for line in output.splitlines() if "fatal:" in line] or output.splitlines()
        raise ConfigError(
            f"the files are in place, but postfix reload failed: {'; '.join(said) or f'status {status}'}", directory
        )


def _restored(directory: Path, staged: Staged) -> str:
    if not staged.changed:
        return "gatepost had nothing to change"
    try:
        check(directory)
    except ConfigError:
        return "it failed before gatepost's change as well; the files are restored as they were"
    return "the files are restored as they were"


def _require_root(what: str, directory: Path) -> None:
    if os.geteuid() != 0:
        raise ConfigError(f"{what} changes Postfix's files and runs postfix check: run it as root", directory)


def _postfix(directory: Path, action: str) -> tuple[int, str]:
    """Run `postfix -c DIRECTORY ACTION` on a terminal of its own: to anything else postlog(1) keeps silent."""
    ours, its = pty.openpty()
    arguments = (str(postconf.command("postfix")), "-c", str(directory), action)
    environment = {**os.environ, "LC_ALL": "C"}
    with (
        os.fdopen(ours, "rb", buffering=0) as screen,
        subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=its, stderr=its, env=environment) as process,
    ):
        os.close(its)
        said = b""
        # EIO is how Linux says that the last writer has closed the terminal.
        with contextlib.suppress(OSError):
            while chunk := screen.read(65536):
                said += chunk
    return process.returncode, said.decode(errors="replace").replace("\r\n", "\n")
