"""What systemd hears, over a real NOTIFY_SOCKET: in the right order, and nothing while the event loop is held up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.e2e.gate import PREAMBLE
from tests.e2e.postfix_rig import SmtpClient

from gatepost.errors import ConfigError
from gatepost.ops.notification import Notifier
from gatepost.ops.private_daemon import PrivateDaemon

if TYPE_CHECKING:
    from collections.abc import Iterator

VARIABLES = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give the milter socket's directory away")


class Systemd:
    """The receiving end of NOTIFY_SOCKET. A message is what one datagram holds, by its names."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))

    def close(self) -> None:
        self._socket.close()

    def next(self, timeout_s: float = 60.0) -> dict[str, str]:
        """Return the next message, the watchdog's left out."""
        while "WATCHDOG" in (message := self._receive(timeout_s)):
            pass
        return message

    def until(self, message: dict[str, str]) -> list[dict[str, str]]:
        """Return what comes before that message, once it has come."""
        found = []
        while (received := self._receive(60.0)) != message:
            found.append(received)
        return found

    def pending(self) -> list[dict[str, str]]:
        """Return what has been sent and not looked at; waits for nothing."""
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self._receive(0))
        return found

    async def fed(self) -> None:
        """Return once the watchdog is fed; the event loop turns meanwhile."""
        async with asyncio.timeout(60):
            while {"WATCHDOG": "1"} not in self.pending():  # noqa: ASYNC110 - a datagram sets no Event
                await asyncio.sleep(0.01)

    def fill(self) -> None:
        """Let so much wait here that the next sender must."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sender.sendto(b"FILL=1", self.address)

    def _receive(self, timeout_s: float) -> dict[str, str]:
        self._socket.settimeout(timeout_s)
        # NOTIFY_BUFFER_MAX of systemd: it throws a longer one away.
        message = self._socket.recv(4097)
        assert len(message) <= 4096
        return dict(line.split("=", 1) for line in message.decode().splitlines())


@pytest.fixture
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="gp-") as path:
        yield Path(path)


@pytest.fixture
def systemd(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Systemd]:
    """systemd, which this process is told of as a daemon is."""
    listening = Systemd(str(directory / "notify"))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NOTIFY_SOCKET", listening.address)
    yield listening
    listening.close()


async def test_ready_is_said_with_the_status_in_one_message(systemd: Systemd) -> None:
    with Notifier() as notifier:
        notifier.ready("serving")
        assert systemd.pending() == [{"READY": "1", "STATUS": "serving"}]


def test_a_reload_and_the_end_are_announced(systemd: Systemd) -> None:
    with Notifier() as notifier:
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        notifier.reloading()
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        notifier.stopping("3 messages")
    reloading, stopping = systemd.pending()
    assert (reloading["RELOADING"], stopping) == ("1", {"STOPPING": "1", "STATUS": "3 messages"})
    assert before // 1000 <= int(reloading["MONOTONIC_USEC"]) <= after // 1000


async def test_an_abstract_socket_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(Systemd(f"@gatepost-test-{os.getpid()}")) as listening:
        monkeypatch.setenv("NOTIFY_SOCKET", listening.address)
        with Notifier() as notifier:
            notifier.ready("serving")
        assert [message["READY"] for message in listening.pending()] == ["1"]


@pytest.mark.parametrize("status", ["two\nlines", "Приём", "caf\udce9", "x" * 10_000, "é" * 600])
async def test_ready_is_heard_whatever_the_status_holds(systemd: Systemd, status: str) -> None:
    """As UTF-8, which is all that systemd takes, and on one line, or it could say STOPPING=1."""
    with Notifier() as notifier:
        notifier.ready(status)
    (message,) = systemd.pending()
    assert message["READY"] == "1"
    assert message.keys() == {"READY", "STATUS"}
    assert status[:2] in {message["STATUS"][:2], "ca", "tw"}


async def test_without_systemd_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with Notifier() as notifier:
        notifier.reloading()
        notifier.ready("serving")
        notifier.stopping("stopping")
        assert len(asyncio.all_tasks()) == 1


# The library forgets its socket where it cannot connect.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("address", ["/none/there", "not a path"])
async def test_a_systemd_that_is_not_there_is_told_in_the_log_alone(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with capture_logs() as log, Notifier() as notifier:
        notifier.ready("serving")
    assert [(line["log_level"], line["address"]) for line in log] == [("warning", address)]


async def test_a_systemd_that_does_not_read_holds_nothing_up_for_long(systemd: Systemd) -> None:
    with Notifier() as notifier:
        systemd.fill()
        notifier.ready("lost")
    assert {"READY": "1", "STATUS": "lost"} not in systemd.pending()


def test_the_variables_are_taken_away(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    with Notifier():
        assert not set(VARIABLES) & set(os.environ)


# --- the watchdog


async def test_the_event_loop_feeds_the_watchdog_and_a_held_up_one_does_not(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    with Notifier() as notifier:
        notifier.ready("serving")
        for _ in range(3):
            await systemd.fed()
        time.sleep(0.3)  # noqa: ASYNC251 - as a plugin would
        assert systemd.pending() == []
        await systemd.fed()


async def test_the_watchdog_is_fed_until_the_very_end(systemd: Systemd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "40000")
    with Notifier() as notifier:
        notifier.ready("serving")
        notifier.stopping("stopping")
        await systemd.fed()
        await systemd.fed()
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "\N{SUPERSCRIPT TWO}"},
        {"WATCHDOG_USEC": "40000", "WATCHDOG_PID": "1"},
    ],
    ids=["unset", "zero", "no number", "another process"],
)
async def test_no_watchdog_is_fed_that_is_not_ours(
    systemd: Systemd, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with Notifier() as notifier:
        notifier.ready("serving")
        assert len(asyncio.all_tasks()) == 1
        assert [message.get("WATCHDOG") for message in systemd.pending()] == [None]


# --- the daemon

SLOW_START = """
class SlowStart(Plugin):
    async def init(self):
        self.log.info("begun")
        while not os.path.exists({go!r}):
            await asyncio.sleep(0.01)

    def connect(self, session):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.connect({notify!r})
            systemd.send(b"HELD=1")
            time.sleep(0.4)
            systemd.send(b"HELD=0")
"""


@pytest.fixture
def daemon(directory: Path, systemd: Systemd) -> PrivateDaemon:
    """A daemon that waits for the file `go` before it is ready, and is held up for 0.4 s by each client.

    It tells systemd when that begins and ends. The watchdog is fed once and then rarely: a socket may hold as few as
    ten messages that nobody has looked at.
    """
    daemon = PrivateDaemon(directory / "daemon", environment={"WATCHDOG_USEC": "60000000"})
    source = SLOW_START.format(go=str(directory / "go"), notify=systemd.address)
    source = f"{PREAMBLE}import os\nimport socket\n{source}"
    (daemon.hooks_dir / "slow_start.py").write_text(source)
    daemon.configure('[[plugin]]\nname = "slow_start"\n')
    return daemon


@needs_root
def test_the_daemon_is_ready_only_when_both_doors_serve(
    directory: Path, systemd: Systemd, daemon: PrivateDaemon
) -> None:
    starting = threading.Thread(target=daemon.start)
    starting.start()
    daemon.wait_for_log("event=begun")
    assert systemd.pending() == []
    (directory / "go").touch()
    ready = systemd.next()
    with SmtpClient(daemon.proxy_port, helo=None), socket.socket(socket.AF_UNIX) as milter:
        milter.connect(str(daemon.directory / "run" / "milter.sock"))
    starting.join()
    daemon.stop()
    assert ready == {"READY": "1", "STATUS": f"serving 127.0.0.1:{daemon.proxy_port}; plugins: slow_start"}


@needs_root
def test_the_daemon_tells_how_a_reload_went_and_that_it_stops(
    directory: Path, systemd: Systemd, daemon: PrivateDaemon
) -> None:
    (directory / "go").touch()
    with daemon:
        systemd.next()
        daemon.reload()
        assert systemd.next().keys() == {"RELOADING", "MONOTONIC_USEC", "STATUS"}
        assert re.match(r"reloaded, serving .*; plugins: slow_start", systemd.next()["STATUS"])

        daemon.configure('[[plugin]]\nname = "none"\n')
        with pytest.raises(ConfigError):
            daemon.reload()
        assert systemd.next()["RELOADING"] == "1"
        told = systemd.next()
        assert told["READY"] == "1"
        assert "not reloaded, the old configuration stays in force" in told["STATUS"]
        assert "there is no plugin 'none'" in told["STATUS"]

        daemon.signal(signal.SIGTERM)
        assert systemd.next()["STOPPING"] == "1"


@needs_root
def test_a_plugin_that_holds_the_daemon_up_keeps_it_from_feeding(
    directory: Path, systemd: Systemd, daemon: PrivateDaemon
) -> None:
    (directory / "go").touch()
    daemon.environment["WATCHDOG_USEC"] = "200000"
    with daemon:
        systemd.next()
        with SmtpClient(daemon.proxy_port) as client:
            client.send(b"MAIL FROM:<a@example.org>\r\n")
            systemd.until({"HELD": "1"})
            # At ten a second, four were due.
            assert systemd.until({"HELD": "0"}) == []
            # It is fed again.
            systemd.until({"WATCHDOG": "1"})
            client.reply()
            client.command(b"QUIT")
        daemon.wait_for_log("event loop held up.*plugin=slow_start")
