"""The proxy's socket comes from systemd where that holds one; one that cannot be served is one line and exit 78."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import SmtpClient, wait_until
from tests.rigs.socket_holder import SocketHolder

from gatepost.errors import ConfigError
from gatepost.ops.listener import take_inherited
from gatepost.ops.private_daemon import COMMAND, PrivateDaemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EX_CONFIG = 78

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give the milter socket's directory away")


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose path is short enough for UNIX sockets."""
    with tempfile.TemporaryDirectory(prefix="gp-") as path:
        yield Path(path)


def daemon_of(directory: Path, holder: SocketHolder, listen: str, loop: str = "asyncio") -> PrivateDaemon:
    daemon = PrivateDaemon(directory / "daemon", environment={"GATEPOST_LOOP": loop}, command=holder.command)
    daemon.configure(more={"proxy": {"listen": listen}})
    return daemon


def spelled(listening: socket.socket) -> str:
    address = listening.getsockname()
    return f"unix:{address}" if isinstance(address, str) else f"127.0.0.1:{address[1]}"


def tcp(_: Path) -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def unix(directory: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(directory / "proxy.sock"))
    listening.listen()
    return listening


def banner(listening: socket.socket) -> bytes:
    """Connect to a listening socket, wait to be greeted, and take leave."""
    with socket.socket(listening.family) as client:
        client.settimeout(60)
        client.connect(listening.getsockname())
        greeting = client.recv(1000)
        client.sendall(b"QUIT\r\n")
        return greeting


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("make", [tcp, unix])
def test_one_daemon_after_the_other_serves_the_socket_that_is_held(
    directory: Path, make: Callable[[Path], socket.socket], loop: str
) -> None:
    with make(directory) as listening, SocketHolder(directory, listening.fileno()) as holder:
        daemon = daemon_of(directory, holder, spelled(listening), loop)
        for _ in range(2):
            with daemon:
                assert banner(listening).startswith(b"220 ")
        # Still held, with its path: who connects now waits.
        with socket.socket(listening.family) as waiting:
            waiting.settimeout(60)
            waiting.connect(listening.getsockname())
            with daemon:
                assert waiting.recv(1000).startswith(b"220 ")
                waiting.sendall(b"QUIT\r\n")
        assert daemon.log().count(f"event=ready listen={spelled(listening)}") == 3
        assert "level=warning" not in daemon.log()


@pytest.mark.parametrize("make", [tcp, unix])
def test_a_held_socket_elsewhere_is_served_and_named(directory: Path, make: Callable[[Path], socket.socket]) -> None:
    with make(directory) as listening, SocketHolder(directory, listening.fileno()) as holder:
        with daemon_of(directory, holder, "127.0.0.1:9") as daemon:
            assert banner(listening).startswith(b"220 ")
        warnings = [line for line in daemon.log().splitlines() if "level=warning" in line]
        assert len(warnings) == 1
        assert f"listen=127.0.0.1:9 serving={spelled(listening)}" in warnings[0]
        assert "systemctl edit gatepost.socket" in warnings[0]
        assert f"event=ready listen={spelled(listening)}" in daemon.log()


def test_a_name_and_the_address_that_it_stands_for_are_the_same_place(directory: Path) -> None:
    with tcp(directory) as listening, SocketHolder(directory, listening.fileno()) as holder:
        with daemon_of(directory, holder, f"localhost:{listening.getsockname()[1]}") as daemon:
            assert banner(listening).startswith(b"220 ")
        assert "level=warning" not in daemon.log()


@contextlib.contextmanager
def datagram() -> Iterator[list[int]]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as received:
        yield [received.fileno()]


@contextlib.contextmanager
def connected() -> Iterator[list[int]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield [ours.fileno()]


@contextlib.contextmanager
def file() -> Iterator[list[int]]:
    with tempfile.TemporaryFile() as opened:
        yield [opened.fileno()]


@contextlib.contextmanager
def two() -> Iterator[list[int]]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        yield [one.fileno(), other.fileno()]


@pytest.mark.parametrize(
    ("held", "problem"),
    [
        (datagram, "is no stream socket"),
        (connected, "is a connection, not a listening socket"),
        (file, "descriptor 3 is no socket"),
        (two, "systemd passed on 2 sockets (proxy, other1): leave one ListenStream= in gatepost.socket"),
    ],
)
def test_what_cannot_be_the_proxys_socket_is_78(
    directory: Path, held: Callable[[], contextlib.AbstractContextManager[list[int]]], problem: str
) -> None:
    with held() as descriptors, SocketHolder(directory, *descriptors) as holder:
        daemon = daemon_of(directory, holder, "127.0.0.1:9")
        ended = daemon.run("run", "--config", str(daemon.config_file))
    assert ended.returncode == EX_CONFIG
    assert len(ended.stderr.splitlines()) == 1
    assert problem in ended.stderr
    assert not (daemon.directory / "run" / "milter.sock").exists()


@pytest.mark.parametrize("number", ["many", "-1", "\N{SUPERSCRIPT TWO}"])
def test_a_number_of_sockets_that_is_none_is_a_mistake(monkeypatch: pytest.MonkeyPatch, number: str) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", number)
    with pytest.raises(ConfigError, match="is no number of sockets"):
        take_inherited()
    assert "LISTEN_FDS" not in os.environ


@pytest.mark.parametrize("environment", [{"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_FDS": "0"}])
def test_sockets_that_were_passed_to_another_process_are_let_be(directory: Path, environment: dict[str, str]) -> None:
    daemon = PrivateDaemon(directory / "daemon", environment=environment)
    daemon.configure()
    with daemon, SmtpClient(daemon.proxy_port) as client:
        assert client.greeting.startswith(b"220 ")


def test_programs_that_plugins_start_know_nothing_of_systemd(directory: Path) -> None:
    source = """
import subprocess
from gatepost import Plugin

class Starts(Plugin):
    def init(self):
        ran = subprocess.run(["env"], capture_output=True, text=True, check=True)
        self.log.info("environment", names=sorted(line.partition("=")[0] for line in ran.stdout.splitlines()))
"""
    with tcp(directory) as listening, SocketHolder(directory, listening.fileno()) as holder:
        daemon = daemon_of(directory, holder, spelled(listening))
        daemon.environment |= {"NOTIFY_SOCKET": f"{directory}/none", "WATCHDOG_USEC": "1000000", "SEEN": "1"}
        (daemon.hooks_dir / "starts.py").write_text(source)
        daemon.configure('[[plugin]]\nname = "starts"\n')
        with daemon:
            names = daemon.wait_for_log("event=environment.*")[0]
    assert "SEEN" in names
    assert not [word for word in ("NOTIFY_", "WATCHDOG_", "LISTEN_") if word in names], names


def test_systemd_socket_activate_starts_it_at_the_first_connection(directory: Path) -> None:
    """systemd's own implementation of the protocol, in place of our holder."""
    daemon = PrivateDaemon(directory / "daemon")
    daemon.configure()
    command = ["systemd-socket-activate", "-l", f"127.0.0.1:{daemon.proxy_port}", "--fdname=proxy", *COMMAND]
    process = subprocess.Popen(
        [*command, "run", "--config", str(daemon.config_file)],
        env={name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"},
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )
    try:
        clients: list[SmtpClient] = []

        def greeted() -> bool:
            assert process.poll() is None, process.communicate()
            with contextlib.suppress(ConnectionRefusedError):
                clients.append(SmtpClient(daemon.proxy_port))
            return bool(clients)

        wait_until(greeted)
        assert clients[0].command(b"QUIT").startswith(b"221")
        clients[0].close()
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert f"event=ready listen=127.0.0.1:{daemon.proxy_port}" in log
