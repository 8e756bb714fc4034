"""A directory with a configuration, and the gatepost command run on it as an administrator would."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PATIENCE_S = 60.0

HEAD = "from gatepost import Deny, Ok, Plugin, PluginOptions\n"
"""Stands before the plugins that a test writes; their own first line is 2."""


@dataclass(slots=True)
class Host:
    """A directory with a configuration, and the command run on it."""

    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "gatepost.toml"

    def start(self, *arguments: str, stderr: int | IO[str] = subprocess.PIPE) -> subprocess.Popen[str]:
        """Start the command; one that says much, and is not read at once, must not have a pipe for `stderr`."""
        environment = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
        return subprocess.Popen(
            [sys.executable, "-c", "from gatepost.ops.cli import main; main()", *arguments],
            cwd=self.directory,
            env=environment | {"COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, list[str]]:
        """Return exit status, stdout, and the lines of stderr without the directory's name."""
        process = self.start(*arguments, "--config", str(self.config))
        try:
            out, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
        return process.returncode, out, err.replace(f"{self.directory}/", "").splitlines()

    def write(self, name: str, text: str) -> None:
        """Write a file, and the directories above it."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
