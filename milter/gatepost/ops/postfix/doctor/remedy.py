"""The commands that mend: lines for the shell, to be copied as they are."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gatepost.configuration.config import DEFAULT_FILE
from gatepost.ops.postfix.value import without_blanks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gatepost.configuration.config import Config

_SYSTEMD = Path("/run/systemd/system")
"""There where systemd is process 1 (sd_booted(3))."""

_TOML_VALUE = r"""("[^"]*"|[^ ,#}]+)"""


@dataclass(frozen=True, slots=True)
class Remedies:
    """Commands for one gatepost configuration and one Postfix; `services` are the fronts, for `apply`."""

    config: Config
    config_file: Path | None
    directory: Path
    services: Sequence[str]
    milters: str | None = None
    """`--milters`, where apply would ask for it."""

    def apply(self) -> str:
        """Let gatepost write its settings into master.cf; without any front before the one that is apply's default."""
        words = ["gatepost", "postfix", "apply", *self._config(), "--config-dir", str(self.directory)]
        for service in self.services:
            words += ["--service", service]
        if self.milters is not None:
            words += ["--milters", self.milters]
        return shlex.join(words)

    def revert(self) -> str:
        """Take gatepost off every service."""
        return shlex.join(["gatepost", "postfix", "revert", "--config-dir", str(self.directory)])

    def set_option(self, service: str, name: str, value: str) -> str:
        """Set one `-o` of a service; white space in the value becomes commas, for postconf -P takes none."""
        return self._postconf("-P", f"{service}/{name}={without_blanks(value)}")

    def set_field(self, service: str, name: str, value: str) -> str:
        """Set one column of a service."""
        return self._postconf("-F", f"{service}/{name}={value}")

    def set_main(self, name: str, value: str) -> str:
        """Set a parameter in main.cf."""
        return self._postconf("-e", f"{name}={value}")

    def unset_main(self, name: str) -> str:
        """Take a parameter out of main.cf, so that Postfix's own default counts."""
        return self._postconf("-X", name)

    def reload_postfix(self) -> str:
        """Bring a change of master.cf or main.cf into force."""
        return shlex.join(["postfix", "-c", str(self.directory), "reload"])

    def start_postfix(self) -> str:
        """Start Postfix."""
        return shlex.join(["postfix", "-c", str(self.directory), "start"])

    def start(self) -> str:
        """Start gatepost."""
        if _SYSTEMD.is_dir():
            return "systemctl start gatepost"
        return shlex.join(["gatepost", "run", *self._config()])

    def restart(self) -> str:
        """Start gatepost anew: the one that runs is ended by systemd, or by hand."""
        return "systemctl restart gatepost" if _SYSTEMD.is_dir() else self.start()

    def set_key(self, key: str, value: str) -> str:
        """Set SECTION.KEY of gatepost's configuration to a TOML value, where the file says it or should."""
        section, name = key.split(".")
        path = self.config.file or DEFAULT_FILE
        file = shlex.quote(str(path))
        appended = f"printf '\\n%s\\n' '[{section}]' {shlex.quote(f'{name} = {value}')} >> {file}"
        if self.config.file is None:
            return f"mkdir -p {shlex.quote(str(path.parent))} && {appended}"
        script = _script(path.read_text(), self.config.lines, section, name, value)
        if script is None:
            return appended
        return f"sed -i -E {shlex.quote(script)} {file}"

    def _postconf(self, *arguments: str) -> str:
        return shlex.join(["postconf", "-c", str(self.directory), *arguments])

    def _config(self) -> list[str]:
        return ["--config", str(self.config_file.absolute())] if self.config_file is not None else []


def edit(place: str) -> str:
    """Open a file at a line: `place` is FILE:LINE."""
    file, _, line = place.rpartition(":")
    return f"${{EDITOR:-vi}} +{line} {shlex.quote(file)}"


def _script(text: str, lines: Mapping[str, int], section: str, name: str, value: str) -> str | None:
    """What sed is to do to a configuration with these lines; None where the file says nothing of the section yet."""
    replace = rf"s~({name}\s*=\s*){_TOML_VALUE}~\1{_for_sed(value)}~"
    if line := lines.get(f"{section}.{name}"):
        return f"{line}{replace}"
    if line := lines.get(section):
        there = text.split("\n")[line - 1]
        if there.lstrip().startswith("["):
            return f"{line}a {name} = {value}"
        # SECTION = { ... }, perhaps with nothing in it.
        if re.search(rf"\b{name}\b", there):
            return f"{line}{replace}"
        return rf"{line}s~\{{~{{ {name} = {_for_sed(value)},~; {line}s~,\s*\}}~ }}~"
    if line := min((at for key, at in lines.items() if key.startswith(f"{section}.")), default=0):
        # SECTION.KEY = ...: a [SECTION] beside these would be a second one.
        return f"{line}i {section}.{name} = {value}"
    return None


def _for_sed(text: str) -> str:
    return re.sub(r"([\\&~])", r"\\\1", text)
