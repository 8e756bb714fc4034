"""A check beside a live daemon that has work to do: the daemon notices nothing, and keeps all it has."""

from __future__ import annotations

import signal
import socket
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from tests.ops.host import HEAD, PATIENCE_S, Host

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

SPY = """
import os
from pathlib import Path
LOG = Path(__file__).with_name("events")
class Spy(Plugin):
    def init(self):
        self._note("init")
    def reload(self):
        self._note("reload")
    def shutdown(self):
        self._note("shutdown")
    async def rcpt(self, transaction, recipient):
        await self.store.increment("spy:recipients")
        return Deny("seen")
    def _note(self, event):
        with LOG.open("a") as log:
            log.write(f"{os.getpid()} {event}\\n")
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    host = Host(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o2750)
    host.write("hooks/spy.py", HEAD + SPY)
    configure(host)
    return host


def configure(host: Host, plugins: str = '[[plugin]]\nname = "spy"\n', more: str = "") -> None:
    directory = host.directory
    host.write(
        "gatepost.toml",
        f'[proxy]\nlisten = "unix:{directory}/run/proxy"\n{more}[milter]\nsocket = "unix:{directory}/run/milter"\n'
        f'[store]\nurl = "sqlite:{directory}/store.db"\n[hooks]\ndirectory = "hooks"\n{plugins}',
    )


@contextmanager
def running(host: Host) -> Iterator[subprocess.Popen[str]]:
    with (host.directory / "log").open("w") as log:
        daemon = host.start("run", "--config", str(host.config), stderr=log)
    try:
        # It can be connected to before it serves.
        logged(host, "event=ready")
        yield daemon
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(PATIENCE_S)
    finally:
        daemon.kill()
        daemon.communicate()


def connect(host: Host, daemon: subprocess.Popen[str]) -> socket.socket:
    """Connect once the daemon listens."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(host.directory / "run" / "proxy"))
        except OSError:
            client.close()
            assert daemon.poll() is None, (host.directory / "log").read_text()
            assert time.monotonic() < deadline, "the daemon does not listen"
            time.sleep(0.02)
        else:
            client.settimeout(PATIENCE_S)
            return client


def message(host: Host, daemon: subprocess.Popen[str]) -> list[str]:
    """Offer a message; return the codes of the replies."""
    with connect(host, daemon) as client, client.makefile("rwb") as stream:
        heard = [stream.readline()]
        for command in (b"HELO there", b"MAIL FROM:<a@example.net>", b"RCPT TO:<b@example.org>", b"QUIT"):
            stream.write(command + b"\r\n")
            stream.flush()
            heard.append(stream.readline())
    return [line[:3].decode() for line in heard]


def logged(host: Host, words: str) -> str:
    """Return the one line of the daemon's log with these words, once it is there."""
    deadline = time.monotonic() + PATIENCE_S
    while not (lines := [line for line in (host.directory / "log").read_text().splitlines() if words in line]):
        text = (host.directory / "log").read_text()
        assert time.monotonic() < deadline, f"no {words!r} in the log, which ends: {text[-2000:]}"
        time.sleep(0.02)
    (line,) = lines
    return line


def events(host: Host) -> list[str]:
    return (host.directory / "hooks" / "events").read_text().splitlines()


def test_a_live_daemon_under_load_notices_nothing_of_checks(host: Host) -> None:
    with running(host) as daemon:
        sockets = {path: path.stat().st_ino for path in (host.directory / "run").iterdir()}
        replies: list[list[str]] = []
        ended = threading.Event()

        def load() -> None:
            while not ended.is_set():
                replies.append(message(host, daemon))

        client = threading.Thread(target=load)
        client.start()
        try:
            checked = [host.run("check")[0] for _ in range(3)]
        finally:
            ended.set()
            client.join()
        assert {path: path.stat().st_ino for path in (host.directory / "run").iterdir()} == sockets
        seen = host.run("store", "list", "spy:", "--json")[1]

    assert checked == [0, 0, 0]
    assert {tuple(one) for one in replies} == {("220", "250", "250", "550", "221")}
    assert f'"value": {len(replies)},' in seen
    own = [event.partition(" ")[2] for event in events(host) if event.startswith(f"{daemon.pid} ")]
    others = [event.partition(" ")[2] for event in events(host) if not event.startswith(f"{daemon.pid} ")]
    assert own == ["init", "shutdown"]
    assert others == ["init"] * 3


def test_a_reload_that_fails_tells_everything_in_one_line_and_changes_nothing(host: Host) -> None:
    with running(host) as daemon:
        configure(host, '[[plugin]]\nname = "spy"\nlimit = 3\n[[plugin]]\nname = "spi"\n', "max_sessions = 0\n")
        daemon.send_signal(signal.SIGHUP)
        line = logged(host, "not reloaded")
        assert message(host, daemon)[3] == "550"

    for words in (
        "toml:3: proxy.max_sessions",
        "toml:12: spy has no option 'limit'",
        "toml:14: there is no plugin 'spi'",
    ):
        assert words in line
