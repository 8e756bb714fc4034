"""`gatepost demo`, run as an administrator runs it, with a temporary directory of its own to leave clean."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import SmtpClient

if TYPE_CHECKING:
    from collections.abc import Iterator

_COMMAND = (sys.executable, "-c", "from gatepost.ops.cli import main; main()", "demo")

_AS_NOBODY = """\
import os, sys
from gatepost.ops.cli import main
os.setgroups([]); os.setgid(65534); os.setuid(65534)
sys.argv = ["gatepost", "demo"]
main()
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a demo runs: `directory` is its TMPDIR, which nothing else uses."""

    directory: Path

    def environment(self, **more: str) -> dict[str, str]:
        return {**os.environ, "TMPDIR": str(self.directory), "TERM": "xterm-256color", "COLUMNS": "90", **more}

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*_COMMAND, *arguments], env=self.environment(), capture_output=True, text=True, timeout=90, check=False
        )

    def processes(self) -> list[str]:
        """Return the command lines of those that work in the directory or name it."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    where = str((entry / "cwd").readlink())
                    if str(self.directory) in words or where.startswith(f"{self.directory}/"):
                        found.append(words)
        return found

    def is_clean(self) -> bool:
        return not self.processes() and not list(self.directory.iterdir())


@pytest.fixture
def place() -> Iterator[Place]:
    """Not pytest's own temporary directory: user postfix cannot enter that."""
    if os.geteuid() != 0 or shutil.which("postfix", path="/usr/sbin:/usr/local/sbin") is None:
        pytest.skip("needs Postfix and root")
    directory = Path(tempfile.mkdtemp(prefix="gatepost-"))
    directory.chmod(0o755)
    yield Place(directory)
    shutil.rmtree(directory)


def test_every_step_goes_as_expected(place: Place) -> None:
    done = place.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    for shown in (
        "S: 550 5.1.1 no such user here",
        "S: 450 4.7.1 This mail is temporarily denied",
        "| Example Networks",
        "S: 521 5.7.1 too many refused commands",
        "S: 452 4.5.3 please send this recipient's copy apart",
    ):
        assert shown in done.stdout
    assert done.stdout.count("S: 250 2.0.0 Ok: queued as") == 3
    assert done.stdout.splitlines()[-1] == "All 8 steps went as they should."
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "\x1b" not in done.stdout, "colours in a pipe"
    assert place.is_clean()


def test_without_greylist_in_the_given_configuration_its_step_is_named(place: Place, tmp_path: Path) -> None:
    config = tmp_path / "gatepost.toml"
    # Were anything but the plugin entries taken from here, the daemon would not even start.
    config.write_text(
        '[proxy]\nlisten = "192.0.2.1:25"\n[milter]\nsocket = "unix:/nonexistent/milter.sock"\n'
        '[store]\nurl = "sqlite:/nonexistent/gatepost.db"\n'
        '[[plugin]]\nname = "client_options"\nfile = "/nonexistent/client_options"\n'
        '[[plugin]]\nname = "aliases"\nfile = "/nonexistent/aliases"\n'
        '[[plugin]]\nname = "addsig"\ndirectory = "/nonexistent"\n'
        '[[plugin]]\nname = "count_denies"\nlimit = 2\n'
    )
    done = place.run("--config", str(config))
    assert done.returncode == 1, done.stdout + done.stderr
    *_, count, last = done.stdout.splitlines()
    assert count == "1 of 8 steps did not go as they should:"
    assert last.startswith("greylist: a first contact is asked to come again later: expected 450 4.7.1, got 250 ")
    assert place.is_clean()


def test_an_error_in_the_given_configuration_is_one_line_and_nothing_is_started(place: Place, tmp_path: Path) -> None:
    config = tmp_path / "gatepost.toml"
    config.write_text('[[plugin]]\nname = "greylist"\nblack_timeot = "5m"\n')
    done = place.run("--config", str(config))
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == (
        f"gatepost: {config}:3: greylist has no option 'black_timeot': did you mean 'black_timeout'?\n"
    )
    assert place.is_clean()


def test_without_root_it_is_one_line_and_a_temporary_failure(place: Place) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY],
        env=place.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (75, "")
    assert re.fullmatch(r"gatepost: .*root.*\n", done.stderr)


def test_keep_serves_until_ctrl_c_and_then_cleans_up(place: Place) -> None:
    with subprocess.Popen(
        [*_COMMAND, "--keep"], env=place.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith("Ctrl-C"):
                break
        assert "All is well." in said
        server = re.search(r"swaks --server 127\.0\.0\.1:(\d+)", said)
        queue = re.search(r"(postqueue) (-c) (\S+) (-p)", said)
        assert server, said
        assert queue, said
        with SmtpClient(int(server[1])) as client:
            assert client.transaction(b"nobody@wsr.ac.at") == [b"550 5.1.1 no such user here\r\n"]
        listed = subprocess.run(queue.groups(), capture_output=True, text=True, timeout=60, check=True)
        assert "anna@example.net" in listed.stdout
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        assert process.wait(60) == 0, rest
    assert rest.endswith("All 8 steps went as they should.\n")
    assert place.is_clean()


def test_on_a_terminal_it_is_coloured_and_sigterm_in_the_middle_leaves_nothing(place: Place) -> None:
    ours, its = pty.openpty()
    with (
        os.fdopen(ours, "rb", buffering=0) as screen,
        subprocess.Popen(_COMMAND, env=place.environment(), stdin=its, stdout=its, stderr=its) as process,
    ):
        os.close(its)
        said = b""
        # EIO is how Linux says that the last writer has closed the terminal.
        with contextlib.suppress(OSError):
            interrupted = False
            while chunk := screen.read(65536):
                said += chunk
                if not interrupted and b"waiting for the end of the black period" in said:
                    assert len(place.processes()) > 2, "the daemon and Postfix"
                    process.terminate()
                    interrupted = True
        assert process.wait(60) == 128 + signal.SIGTERM
    assert b"\x1b[36mMAIL FROM:<anna@example.net>" in said
    assert b"\x1b[33m450 4.7.1 This mail is temporarily denied" in said
    assert place.is_clean()
