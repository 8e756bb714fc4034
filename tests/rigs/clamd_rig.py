"""A real clamd for tests, with signatures of our own, on a UNIX socket and on ports of 127.0.0.1 and ::1.

with Clamd() as clamd:
    ...  # clamav.server = [str(clamd.unix)], or clamd.tcp, clamd.tcp6
    with clamd.paused(): ...            # it has stopped (SIGSTOP), its sockets are open
    clamd.stop(); clamd.start()         # its addresses stay the same
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from gatepost.endpoint import Endpoint
from gatepost.ops.private_postfix import free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

START_S: Final = 60.0
"""For a host that is badly overloaded."""

STREAM_LIMIT_BYTES: Final = 2 << 20
"""Its StreamMaxLength, unless a test says otherwise."""

EICAR: Final = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
"""The test virus that every scanner finds; in two pieces, so that none finds it in this file."""

VIRUSES: Final = {
    "Eicar-Test-Signature": EICAR,
    "PUA.Test.Tool": b"a-tool-that-may-be-unwanted",
    "Heuristics.Test.Trick": b"a-trick-that-is-often-harmless",
}
"""What it finds, and by which name; clamd appends `.UNOFFICIAL` to signatures that are not its makers'."""


class Clamd:
    """The daemon, from `with` until its end. `settings` are further lines of clamd.conf."""

    def __init__(self, settings: Mapping[str, str] | None = None) -> None:
        self.settings = {"StreamMaxLength": str(STREAM_LIMIT_BYTES), **(settings or {})}
        self.unix = self.tcp = self.tcp6 = Endpoint()
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._program = shutil.which("clamd", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        if self._program is None:
            pytest.skip("clamd is not installed")
        with contextlib.ExitStack() as stack:
            self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatepost-clamd-")))
            # For the daemon under test, which may be another user.
            self.directory.chmod(0o755)
            signatures = self.directory / "signatures"
            signatures.mkdir()
            lines = [f"{name}:0:*:{content.hex()}\n" for name, content in VIRUSES.items()]
            (signatures / "test.ndb").write_text("".join(lines))
            self.unix = Endpoint(path=str(self.directory / "socket"))
            stack.callback(self.stop)
            self._start_on_free_ports()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start_on_free_ports(self) -> None:
        # A port is free when we look, and may be taken when clamd does: then another one.
        for attempt in range(5):
            port = free_loopback_port()
            self.tcp, self.tcp6 = Endpoint("127.0.0.1", port), Endpoint("::1", port)
            try:
                self.start()
            except AssertionError:
                if attempt == 4:
                    raise
            else:
                return

    @property
    def pid(self) -> int:
        """Its process, while it runs."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, on the addresses that it had before."""
        assert self._program is not None
        lines = {
            "Foreground": "yes",
            "DatabaseDirectory": str(self.directory / "signatures"),
            "TemporaryDirectory": str(self.directory),
            "LocalSocket": str(self.unix.path),
            "LocalSocketMode": "666",
            "TCPSocket": str(self.tcp.port),
            "LogFile": str(self.directory / "log"),
            "MaxThreads": "4",
            "SelfCheck": "0",
            **self.settings,
        }
        addresses = "TCPAddr 127.0.0.1\nTCPAddr ::1\n"
        configuration = self.directory / "clamd.conf"
        configuration.write_text(addresses + "".join(f"{key} {value}\n" for key, value in lines.items()))
        output = self.directory / "output"
        with output.open("ab") as file:
            command = [self._program, "-c", str(configuration)]
            self._process = subprocess.Popen(command, stdout=file, stderr=file)
        if not self._is_up():
            self.stop()
            raise AssertionError(f"clamd did not start: {output.read_text()[-2000:]}")

    def stop(self) -> None:
        """End it; what it was scanning gets no answer."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        Path(str(self.unix.path)).unlink(missing_ok=True)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop it as a machine without memory or disk does: it accepts connections and does nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def command(self, command: bytes) -> bytes:
        """Say a command such as `RELOAD`; return the answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(str(self.unix.path))
            connection.sendall(b"z" + command + b"\0")
            return connection.recv(4096).rstrip(b"\0")

    def log(self) -> str:
        """Return what it has logged: a line for each message in which it found something."""
        return (self.directory / "log").read_text()

    def _is_up(self) -> bool:
        assert self._process is not None
        end = time.monotonic() + START_S
        while time.monotonic() < end and self._process.poll() is None:
            with contextlib.suppress(OSError):
                if self.command(b"PING") == b"PONG":
                    return True
            time.sleep(0.02)
        return False
