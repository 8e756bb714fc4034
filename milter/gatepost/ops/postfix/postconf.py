"""One Postfix configuration directory, read and edited through the `postconf` command alone.

Owns the syntax of postconf's output and arguments; knows nothing of gatepost's parameters. Postfix's own parser thus
decides what master.cf means: continuation lines, comments, `-o { name = value }` and duplicates included.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from gatepost.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SBIN = ("/usr/sbin", "/usr/local/sbin", "/usr/local/postfix/sbin")
"""Where Postfix's commands live when the PATH of a plain user or of cron does not say."""

_TIMEOUT_S = 60
"""postconf takes milliseconds; one that hangs (a dead NFS mount) must not hang the administrator's shell for ever."""

_FIELD = re.compile(r"(?P<service>\S+?/(?:inet|unix|unix-dgram|fifo|pass))/(?P<field>[^/\s=]+) =(?: (?P<value>.*))?")
_PARAMETER = re.compile(r"(?P<name>[^\s=]+) =(?: (?P<value>.*))?")


@dataclass(frozen=True, slots=True)
class Service:
    """One master.cf entry. `key` is NAME/TYPE; `fields` has postconf's names (master(5): private, chroot, ...).

    `options` are its `-o` settings as written, `expanded` the same with `$name` replaced.
    """

    key: str
    fields: Mapping[str, str]
    options: Mapping[str, str] = field(default_factory=dict)
    expanded: Mapping[str, str] = field(default_factory=dict)

    @property
    def program(self) -> str:
        """The daemon that runs: the first word of the command, `smtpd` for instance."""
        words = self.fields["command"].split(None, 1)
        return words[0] if words else ""


class Postconf:
    """`postconf -c DIRECTORY`: every method is one or two runs of it; what it refuses is a ConfigError."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._command = (str(command("postconf")), "-c", str(directory))

    def services(self) -> tuple[Service, ...]:
        """Every entry of master.cf, in its order."""
        fields = self._by_service("-F")
        options = self._by_service("-P")
        expanded = self._by_service("-P", "-x")
        return tuple(Service(key, fields[key], options.get(key, {}), expanded.get(key, {})) for key in fields)

    def values(self, *names: str, expand: bool = False, over: Mapping[str, str] | None = None) -> dict[str, str]:
        """The parameters of these names in force (main.cf, else the default); those that Postfix lacks are left out.

        `over` are settings that stand over main.cf's, as a service's own do.
        """
        overriding = (word for name, value in (over or {}).items() for word in ("-o", f"{name}={value}"))
        return self._parameters(*(("-x",) if expand else ()), *overriding, *names)

    def written(self, *names: str) -> dict[str, str]:
        """The parameters of these names that main.cf sets, as they stand there."""
        return self._parameters("-n", *names)

    def known(self, *names: str) -> frozenset[str]:
        """Which of these parameters this version of Postfix has."""
        return frozenset(self._parameters("-d", *names))

    def text(self, key: str) -> str:
        """The entry of this service as master.cf would show it, one `-o` a line; empty if there is none."""
        return self.run("-Mf", key)

    def add_service(self, key: str, fields: tuple[str, ...], options: Mapping[str, str]) -> None:
        """Append an entry; `fields` are the five columns between type and command, then the command."""
        words = [*key.rsplit("/", 1), *fields, *(_argument(name, value) for name, value in options.items())]
        self.run("-M", "-e", f"{key}={' '.join(words)}")

    def drop_service(self, key: str) -> None:
        """Remove an entry."""
        self.run("-MX", key)

    def set_field(self, key: str, name: str, value: str) -> None:
        """Set one column of an entry."""
        self.run("-F", "-e", f"{key}/{name}={value}")

    def set_option(self, key: str, name: str, value: str) -> None:
        """Set one `-o` of an entry; other options, duplicates and flags of the entry stay as they are."""
        if not re.search(r"\s", value):
            self.run("-P", "-e", f"{key}/{name}={value}")
            return
        # postconf -Pe "does not accept whitespace in parameter value" (postconf/postconf_edit.c), but the command
        # field accepts the `-o { name = value }` form.
        self.drop_option(key, name)
        before = self.run("-h", "-F", f"{key}/command").strip()
        self.run("-F", "-e", f"{key}/command={before} {_argument(name, value)}")

    def drop_option(self, key: str, name: str) -> None:
        """Remove one `-o` of an entry, so that main.cf's value counts."""
        self.run("-PX", f"{key}/{name}")

    def run(self, *arguments: str) -> str:
        """Run postconf with these arguments and return what it prints; warnings are left to `postfix check`."""
        done = subprocess.run(
            (*self._command, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env={**os.environ, "LC_ALL": "C"},
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if "fatal:" in line] or done.stderr.splitlines()
            raise ConfigError(said[-1].strip() if said else f"postconf failed with status {done.returncode}")
        return done.stdout

    def _by_service(self, *arguments: str) -> dict[str, dict[str, str]]:
        found: dict[str, dict[str, str]] = {}
        for line in self.run(*arguments).split("\n"):
            if match := _FIELD.fullmatch(line):
                found.setdefault(match["service"], {})[match["field"]] = match["value"] or ""
        return found

    def _parameters(self, *arguments: str) -> dict[str, str]:
        # postconf answers an unknown name with a warning and status 0.
        lines = self.run(*arguments).split("\n")
        return {match["name"]: match["value"] or "" for line in lines if (match := _PARAMETER.fullmatch(line))}


def command(name: str) -> Path:
    """Find a command of Postfix, in PATH or where it is usually installed."""
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_SBIN)))
    if found is None:
        raise ConfigError(f"no {name} command found: install Postfix, or put the directory of its commands in PATH")
    return Path(found)


def open_directory(directory: Path | None) -> Postconf:
    """The configuration in this directory (None: Postfix's own), once both files are seen to be readable."""
    if directory is None:
        done = subprocess.run(
            (command("postconf"), "-h", "config_directory"),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise ConfigError(f"{done.stderr.strip()}: name the configuration with --config-dir DIR")
        directory = Path(done.stdout.strip())
    directory = directory.absolute()
    if not directory.is_dir():
        raise ConfigError("no such directory: give the one that holds main.cf and master.cf to --config-dir", directory)
    for name in ("main.cf", "master.cf"):
        try:
            (directory / name).read_bytes()
        except OSError as error:
            raise ConfigError(f"{error.strerror}: Postfix's configuration needs this file", directory / name) from error
    return Postconf(directory)


def _argument(name: str, value: str) -> str:
    """One `-o` for a command line in master.cf (master(5): braces protect whitespace)."""
    return f"-o {{{name}={value}}}" if re.search(r"\s", value) else f"-o {name}={value}"
