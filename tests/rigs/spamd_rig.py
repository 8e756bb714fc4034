"""A real spamd for tests: private, on a UNIX socket and a loopback port, with a few rules of its own and no network.

    with Spamd() as spamd:
        ...  # server = "unix:{spamd.path}" or "127.0.0.1:{spamd.port}"; spamd.scans is how many messages it has seen

SpamAssassin's own files say what GTUBE is and which fields are added; all other rules are `RULES`. It takes a moment to
start, more on a busy host: share one among the tests of a module.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.rigs.dns_rig import end_server, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

START_S = 60.0
STOP_S = 15.0
"""For a host that is badly overloaded, both."""

STOCK = Path("/usr/share/spamassassin")

GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
"""SpamAssassin's own test string: 1,000 points."""

RULES = r"""
loadplugin Mail::SpamAssassin::Plugin::Check
score GTUBE 1000
use_bayes 0
required_score 5
body FOUR_POINTS /four points please/
score FOUR_POINTS 4
body SIX_POINTS /six points please/
score SIX_POINTS 6
body MINUS_POINTS /minus points please/
score MINUS_POINTS -3
header OUR_SENDER EnvelopeFrom =~ /^alice\@sender\.example$/
score OUR_SENDER 0.1
header NULL_SENDER EnvelopeFrom =~ /^$/
score NULL_SENDER 0.1
add_header all Relays _RELAYSUNTRUSTED_ / _RELAYSTRUSTED_
add_header all Custom made for _REMOTEHOSTNAME_
"""


class Spamd:
    """A spamd as a child process, from `with` until its end."""

    def __init__(self, more_rules: str = "") -> None:
        self._rules = RULES + more_rules
        self._process: subprocess.Popen[bytes] | None = None
        self._stack = contextlib.ExitStack()
        self.directory: Path
        self.port = 0

    def __enter__(self) -> Self:
        if shutil.which("spamd", path="/usr/sbin:/usr/bin") is None or not STOCK.is_dir():
            pytest.skip("spamd is not installed")
        with contextlib.ExitStack() as stack:
            self.directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gatepost-spamd-")))
            self._lay_out()
            stack.callback(self.stop)
            self._start_somewhere()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def path(self) -> Path:
        """Its UNIX socket."""
        return self.directory / "run" / "sock"

    @property
    def hosts(self) -> list[str]:
        """The loopback addresses at whose `port` it listens."""
        return ["127.0.0.1", "[::1]"] if Path("/proc/net/if_inet6").exists() else ["127.0.0.1"]

    @property
    def server(self) -> str:
        """The socket, as the plugin's option takes it."""
        return f"unix:{self.path}"

    @property
    def log(self) -> str:
        """All it has logged since the first start."""
        return (self.directory / "log").read_text(errors="replace")

    @property
    def scans(self) -> int:
        """How many messages it was given since the first start."""
        return len(self.users)

    @property
    def users(self) -> list[str]:
        """For whom, in order; its own user if none was named."""
        return re.findall(r"spamd: checking message .* for ([^\s:]+):\d+", self.log)

    def scans_of(self, message_id: str) -> int:
        """Return how often it was given the message with that Message-ID: no other test's message is among them."""
        return len(re.findall(rf"spamd: checking message {re.escape(message_id)} ", self.log))

    def _start_somewhere(self) -> None:
        # The port is free when we look, and may be taken when spamd does: then another one.
        for _ in range(4):
            self.port = free_port()
            with contextlib.suppress(AssertionError):
                self.start()
                return
            self.stop()
        raise AssertionError(f"spamd does not start:\n{self.log[-2000:]}")

    def start(self) -> None:
        """Start, and wait until it takes connections on both sockets; again at the same places."""
        user = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("spamd", "--local", "--nouser-config", f"--username={user}", "--syslog=stderr"),
                    *(f"--configpath={self.directory}/rules", f"--siteconfigpath={self.directory}/site"),
                    *(f"--virtual-config-dir={self.directory}/users/%u", "--min-children=1", "--max-children=2"),
                    *(f"--listen={self.path}", *(f"--listen={host}:{self.port}" for host in self.hosts)),
                    "--socketmode=0666",
                ],
                env={**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.directory), "LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, f"spamd has ended:\n{self.log[-2000:]}"
            assert time.monotonic() < deadline, f"spamd does not answer:\n{self.log[-2000:]}"
            time.sleep(0.02)

    def stop(self) -> None:
        """End it and its children; nothing if it has ended."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGCONT)
        end_server(self._process, self.port, STOP_S)
        self._process = None
        self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop it and its children as SIGSTOP does; the kernel goes on taking connections."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process.pid, signal.SIGCONT)

    def prefer(self, user: str, preferences: str) -> None:
        """Write the preferences of a user, for the messages to come."""
        directory = self.directory / "users" / user
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        (directory / "user_prefs").write_text(preferences)

    def _lay_out(self) -> None:
        self.directory.chmod(0o755)
        for name in ("rules", "site", "users", "run"):
            (self.directory / name).mkdir()
        for name in ("10_default_prefs.cf", "20_body_tests.cf"):
            shutil.copy(STOCK / name, self.directory / "rules" / name)
        (self.directory / "rules" / "90_test.cf").write_text(self._rules)

    def _answers(self) -> bool:
        try:
            for family, address in ((socket.AF_UNIX, str(self.path)), (socket.AF_INET, ("127.0.0.1", self.port))):
                with socket.socket(family) as connection:
                    connection.settimeout(START_S)
                    connection.connect(address)
                    connection.sendall(b"PING SPAMC/1.5\r\n\r\n")
                    if not connection.recv(100).startswith(b"SPAMD/"):
                        return False
        except OSError:
            return False
        return True
