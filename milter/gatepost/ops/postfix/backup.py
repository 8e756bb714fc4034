"""The originals of main.cf and master.cf, kept from before the first change, and the record of what was applied.

They lie in CONFIG_DIR/gatepost-backup, readable by root alone because main.cf may hold passwords. The record is
written last and removed first: where it is, the backup is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from gatepost.errors import ConfigError
from gatepost.ops.postfix.milters import FrontRecord  # noqa: TC001 - pydantic reads it at run time
from gatepost.ops.postfix.plan import Applied

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILES = ("main.cf", "master.cf")
DIRECTORY = "gatepost-backup"


@dataclass(frozen=True, slots=True)
class Owner:
    """Permissions of a file; `mode` without the file type."""

    mode: int
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Record:
    """What the backup belongs to.

    `written` has the SHA-256 of each file as the last `apply` left it; `edited` names the files that somebody else had
    changed since, when `apply` ran again: their newest state is neither the original nor ours.
    """

    fronts: tuple[FrontRecord, ...]
    inner: str | None
    owners: dict[str, Owner]
    written: dict[str, str]
    edited: tuple[str, ...] = ()

    @property
    def applied(self) -> Applied:
        """The part that planning needs."""
        return Applied(self.fronts, self.inner)


@dataclass(frozen=True, slots=True)
class Backup:
    """The backup of one configuration directory, there or not."""

    config_directory: Path

    @property
    def path(self) -> Path:
        """The directory that holds it."""
        return self.config_directory / DIRECTORY

    def record(self) -> Record | None:
        """The record, None when there is no backup."""
        file = self.path / "record.json"
        try:
            return _RECORD.validate_json(file.read_bytes())
        except FileNotFoundError:
            return None
        except PermissionError as error:
            raise ConfigError("not readable: run as root", file) from error
        except ValidationError as error:
            raise ConfigError(
                "the record of the backup is damaged: compare main.cf and master.cf with the copies beside it, put "
                "back by hand what you want, and remove this directory",
                file,
            ) from error

    def originals(self) -> dict[str, bytes]:
        """Both files as they were before the first change."""
        try:
            return {name: (self.path / name).read_bytes() for name in FILES}
        except OSError as error:
            raise ConfigError(f"the backup cannot be read: {error.strerror}", error.filename) from error

    def keep(self, originals: Mapping[str, bytes], written: Mapping[str, bytes], applied: Applied) -> None:
        """Keep the originals before `written` replaces them; whatever an interrupted call left there is replaced."""
        _make_private(self.path)
        owners = {}
        for name in FILES:
            write(self.path / name, originals[name], _private())
            owners[name] = owner(self.config_directory / name)
        self.put(Record(applied.fronts, applied.inner, owners, digests(written)))

    def put(self, record: Record) -> None:
        """Write the record, unless it says the same already."""
        file, text = self.path / "record.json", _RECORD.dump_json(record, indent=2) + b"\n"
        if not file.exists() or file.read_bytes() != text:
            write(file, text, _private())

    def discard(self) -> None:
        """Remove the backup: the originals are in force again."""
        (self.path / "record.json").unlink(missing_ok=True)
        shutil.rmtree(self.path, ignore_errors=True)


_RECORD = TypeAdapter(Record)


def digests(files: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of each file, in hexadecimal."""
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def edited_since(record: Record, files: Mapping[str, bytes], originals: Mapping[str, bytes]) -> tuple[str, ...]:
    """The files that hold changes of somebody else's: restoring the originals would lose these."""
    now = digests(files)
    return tuple(
        name
        for name in FILES
        if files[name] != originals[name] and (now[name] != record.written[name] or name in record.edited)
    )


def rewritten(record: Record, applied: Applied, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> Record:
    """The record after an `apply` that found the files as `before` and left them as `after`."""
    found, left = digests(before), digests(after)
    # An edit that this call has repaired to the byte is none.
    foreign = {name for name in FILES if record.written[name] not in (found[name], left[name])}
    changed = {name for name in FILES if before[name] != after[name]}
    return replace(
        record,
        fronts=applied.fronts,
        inner=applied.inner,
        # A file that was not written again keeps its digest, so that an edit undone by hand is no edit.
        written={name: left[name] if name in changed else record.written[name] for name in FILES},
        edited=tuple(name for name in FILES if name in record.edited or name in foreign & changed),
    )


def owner(path: Path) -> Owner:
    """The permissions of a file, of its target if it is a symbolic link."""
    status = path.stat()
    return Owner(status.st_mode & 0o7777, status.st_uid, status.st_gid)


def write(path: Path, content: bytes, permissions: Owner) -> None:
    """Replace a file in one step, with these permissions from its first byte; through a symbolic link, its target."""
    target = path.resolve()
    fresh = target.with_name(f".{target.name}.gatepost")
    try:
        fresh.unlink(missing_ok=True)  # left there by a call that was killed
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            os.fchown(file.fileno(), permissions.uid, permissions.gid)
            os.fchmod(file.fileno(), permissions.mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(target)
    except OSError as error:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise ConfigError(f"cannot be written: {error.strerror}; run as root", path) from error


def _private() -> Owner:
    return Owner(0o600, os.geteuid(), os.getegid())


def _make_private(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise ConfigError(f"cannot be made: {error.strerror}; run as root", path) from error
