"""One `gatepost run` in a directory of its own, for the demo, the end-to-end tests and the benchmark.

It owns its ports, its milter socket, its store, its hooks directory and the process; the Postfix beside it is a
`PrivatePostfix`, or any other. Nothing here knows plugins: their tables and files are the caller's.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Final, Self

from gatepost.errors import ConfigError
from gatepost.ops.private_postfix import free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

COMMAND: Final = (sys.executable, "-c", "from gatepost.ops.cli import main; main()")
"""The command line of this very interpreter, wherever the `gatepost` script is."""

_POLL_S: Final = 0.01

# Starting takes a second, ending as long as messages are under way; the limits are for a host that is badly overloaded.
_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 30.0
_COMMAND_TIMEOUT_S: Final = 120.0
_LOG_TIMEOUT_S: Final = 30.0


class PrivateDaemon:
    """A daemon below `directory`, which is made if need be and must be one that user postfix can enter.

    Call `configure`, then `apply` to a Postfix, then `start`; or use it as a context manager once it is configured.
    `environment` adds to the process's own; `command` runs gatepost's command line.
    """

    def __init__(
        self,
        directory: Path,
        *,
        environment: Mapping[str, str] | None = None,
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.directory = directory.resolve()
        self.config_file = self.directory / "gatepost.toml"
        self.log_file = self.directory / "gatepost.log"
        self.hooks_dir = self.directory / "hooks"
        self.proxy_port = free_loopback_port()
        self.inner_port = free_loopback_port()
        self.environment = dict(environment or {})
        self._command = tuple(command)
        self._process: subprocess.Popen[bytes] | None = None
        self._lay_out()

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; the directory stays."""
        self.stop()

    @property
    def sections(self) -> dict[str, dict[str, str]]:
        """What the configuration must say of this daemon's own places: tables of gatepost.toml, by name."""
        return {
            "proxy": {"listen": f"127.0.0.1:{self.proxy_port}", "inner": f"127.0.0.1:{self.inner_port}"},
            "milter": {"socket": f"unix:{self.directory}/run/milter.sock"},
            "store": {"url": f"sqlite:{self.directory}/gatepost.db"},
            "hooks": {"directory": str(self.hooks_dir)},
        }

    @property
    def pid(self) -> int:
        """The running process; ConfigError if none runs."""
        if self._process is None or not self.is_running:
            raise ConfigError(f"gatepost does not run: {self._last_words()}", self.config_file)
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """True from `start` on, until the process has ended by whatever cause."""
        return self._process is not None and self._process.poll() is None

    def configure(self, plugins: str = "", more: Mapping[str, Mapping[str, str | int]] | None = None) -> None:
        """Write the configuration: `plugins` are `[[plugin]]` tables as text, `more` adds keys to sections."""
        sections: dict[str, dict[str, str | int]] = {name: dict(table) for name, table in self.sections.items()}
        for name, table in (more or {}).items():
            sections.setdefault(name, {}).update(table)
        text = "".join(
            f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
            for name, table in sections.items()
        )
        self.config_file.write_text(text + plugins)

    def apply(self, config_dir: Path, service: str) -> None:
        """Run `gatepost postfix apply` on an smtpd service; ConfigError with what it said if it refuses."""
        done = self.run(
            *("postfix", "apply", "--config", str(self.config_file)),
            *("--config-dir", str(config_dir), "--service", service),
        )
        if done.returncode:
            raise ConfigError(done.stderr.strip() or done.stdout.strip(), self.config_file)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one more gatepost command to its end."""
        return subprocess.run(
            [*self._command, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            env={**os.environ, **self.environment},
            check=False,
        )

    def start(self) -> None:
        """Start and return once it is ready; ConfigError with its own last words if it does not get there."""
        seen = self.log_size()
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._command, "run", "--config", str(self.config_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
                # Ctrl-C in a terminal is for the caller, which ends the daemon in its own order.
                start_new_session=True,
            )
        try:
            self.wait_for_log(r" event=ready ", since=seen, timeout_s=_START_TIMEOUT_S)
        except TimeoutError as error:
            self.stop()
            raise ConfigError(f"gatepost does not start: {self._last_words()}", self.config_file) from error

    def stop(self) -> None:
        """End it in good order and return when it is gone; killed when it does not end. May be called twice."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_TIMEOUT_S)
        self.kill()

    def wait(self, timeout_s: float = _STOP_TIMEOUT_S) -> int:
        """Return its exit status once it has ended by itself; TimeoutError if it does not."""
        if self._process is None:
            raise ConfigError("gatepost was not started", self.config_file)
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"gatepost goes on: {self._last_words()}") from error

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
            self._process = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def reload(self) -> None:
        """Reload and return when the new configuration is in force; ConfigError if it is refused."""
        seen = self.log_size()
        self.signal(signal.SIGHUP)
        found = self.wait_for_log(r' event=(?:reloaded|"not reloaded).*', since=seen)
        if "not reloaded" in found[0]:
            raise ConfigError(found[0], self.config_file)

    def log(self, since: int = 0) -> str:
        """Return the log from that byte on."""
        if not self.log_file.exists():
            return ""
        with self.log_file.open("rb") as log:
            log.seek(since)
            return log.read().decode(errors="replace")

    def log_size(self) -> int:
        """Return the log's length in bytes, to be given as `since` later."""
        return self.log_file.stat().st_size if self.log_file.exists() else 0

    def wait_for_log(self, pattern: str, *, since: int = 0, timeout_s: float = _LOG_TIMEOUT_S) -> re.Match[str]:
        """Return the first match of a regular expression in the log from byte `since` on; else TimeoutError."""
        deadline = time.monotonic() + timeout_s
        while (found := re.search(pattern, self.log(since))) is None:
            if time.monotonic() > deadline or (self._process is not None and self._process.poll() is not None):
                if found := re.search(pattern, self.log(since)):
                    return found
                raise TimeoutError(f"no {pattern!r} in the log, which ends: {self.log(since)[-2000:]}")
            time.sleep(_POLL_S)
        return found

    def _lay_out(self) -> None:
        sockets = self.directory / "run"
        for place in (self.directory, self.hooks_dir, sockets):
            place.mkdir(mode=0o755, parents=True, exist_ok=True)
        # The socket gets its group from its directory, so that Postfix's smtpd may connect.
        shutil.chown(sockets, group="postfix")
        sockets.chmod(0o2750)

    def _last_words(self) -> str:
        return self.log().strip().rpartition("\n")[2] or "it said nothing"
