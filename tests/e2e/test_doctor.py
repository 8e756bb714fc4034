"""`gatepost postfix doctor` beside a running Postfix and a running gatepost: what it sees of live sockets."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pty
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import NextHop, Script, wait_until

from gatepost.configuration.config import load_config
from gatepost.endpoint import Endpoint
from gatepost.ops.postfix import postconf
from gatepost.ops.postfix.backup import Backup
from gatepost.ops.postfix.doctor import diagnosis, examination, live, roster
from gatepost.ops.private_daemon import COMMAND, PrivateDaemon

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.conftest import StartPostfix

    from gatepost.ops.postfix.doctor.finding import Finding
    from gatepost.ops.private_postfix import PrivatePostfix


class Host:
    """Postfix and gatepost, as apply has put them together."""

    def __init__(self, postfix: PrivatePostfix, daemon: PrivateDaemon) -> None:
        self.postfix = postfix
        self.daemon = daemon
        self.inner = f"127.0.0.1:{daemon.inner_port}/inet"
        self.milter = daemon.directory / "run" / "milter.sock"

    @property
    def arguments(self) -> tuple[str, ...]:
        config = ("--config", str(self.daemon.config_file), "--config-dir", str(self.postfix.config_dir))
        return ("postfix", "doctor", *config)

    def doctor(self) -> list[Finding]:
        """What the command finds, without the start of a process."""
        config = load_config(self.daemon.config_file)
        there = postconf.open_directory(self.postfix.config_dir)
        record = Backup(there.directory).record()
        plugins = asyncio.run(roster.read(config))
        facts = examination.examine(config, plugins, there, record, (), self.daemon.config_file)
        found = diagnosis.on_paper(facts)
        return [*found, *diagnosis.alive(facts, found)]

    def only(self, service: str, parameter: str) -> Finding:
        """The one finding there is, which must be about that."""
        (found,) = self.doctor()
        assert (found.service, found.parameter, found.severity) == (service, parameter, "finding"), found
        return found


@pytest.fixture(scope="module")
def module_host(start_postfix: StartPostfix, postfix_directory: Path) -> Iterator[Host]:
    postfix = start_postfix()
    directory = Path(tempfile.mkdtemp(prefix="gp-", dir=postfix_directory))
    directory.chmod(0o755)
    daemon = PrivateDaemon(directory)
    daemon.configure()
    daemon.apply(postfix.config_dir, postfix.front_service)
    postfix.reload()
    with daemon:
        yield Host(postfix, daemon)


@pytest.fixture
def host(module_host: Host) -> Iterator[Host]:
    yield module_host
    if not module_host.daemon.is_running or not module_host.milter.exists():
        module_host.daemon.kill()
        module_host.daemon.start()


@contextmanager
def stopped(daemon: PrivateDaemon) -> Iterator[None]:
    daemon.kill()
    try:
        yield
    finally:
        daemon.start()


@contextmanager
def in_the_place_of_the_proxy(host: Host, script: Script) -> Iterator[None]:
    with stopped(host.daemon), NextHop(host.daemon.proxy_port) as hop:
        hop.script = script
        yield


def test_a_whole_installation_is_clean_and_stays_untouched(host: Host) -> None:
    def state() -> dict[str, str]:
        return {
            str(path): hashlib.sha256(path.read_bytes()).hexdigest()
            for directory in (host.postfix.config_dir, host.daemon.directory)
            for path in directory.rglob("*")
            if path.is_file()
        }

    before = state()
    done = host.daemon.run(*host.arguments, "--json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert state() == before
    assert host.postfix.queue() == []
    # As a client that says good-bye, not one that was lost.
    host.postfix.wait_for_log(r"disconnect from \S+ ehlo=1 quit=1 commands=2")
    assert "lost connection" not in host.postfix.log()


def test_a_gatepost_that_does_not_run(host: Host) -> None:
    with stopped(host.daemon):
        found = host.only("gatepost", "proxy.listen")
        assert "gatepost is not running, and clients get 451" in found.problem
        assert found.command in {
            "systemctl start gatepost",
            f"gatepost run --config {host.daemon.config_file}",
        }


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (Script(banner=b"SSH-2.0-OpenSSH_9.2\r\n"), "its banner is 'SSH-2.0-OpenSSH_9.2'"),
        (Script(banner=b"554 no\r\n"), "its banner is '554 no'"),
        (Script(hang_up="banner", banner=b""), "it hangs up"),
        (Script(ehlo=b"250-probe\r\n250 PIPELINING\r\n"), "it does not offer XFORWARD"),
        (Script(ehlo=b"502 what?\r\n"), "it answers EHLO with '502 what?'"),
        (Script(ehlo=b"\x00\xff" * 40_000), "it answers EHLO with"),
    ],
)
def test_something_else_in_the_place_of_the_proxy(host: Host, script: Script, said: str) -> None:
    with in_the_place_of_the_proxy(host, script):
        found = host.only("gatepost", "proxy.listen")
        assert f"is not gatepost's proxy, or is stuck: {said}" in found.problem
        assert found.command == f"ss -tlpn sport = :{host.daemon.proxy_port}"


def is_stopped(pid: int) -> bool:
    """Tell whether SIGSTOP has reached every thread of the process."""
    with suppress(FileNotFoundError):  # a thread that has just ended
        # The state stands after the name, which is in parentheses.
        states = {(task / "stat").read_text().rpartition(") ")[2][0] for task in Path(f"/proc/{pid}/task").iterdir()}
        return states == {"T"}
    return False


def test_a_gatepost_that_hangs_is_not_waited_for(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TIMEOUT_S", 0.3)
    endpoints = (
        Endpoint.parse(f"127.0.0.1:{host.daemon.proxy_port}"),
        Endpoint.parse(f"unix:{host.milter}"),
    )
    host.daemon.signal(signal.SIGSTOP)
    try:
        wait_until(lambda: is_stopped(host.daemon.pid))
        for ask, endpoint in zip((live.greet, live.negotiate), endpoints, strict=True):
            with pytest.raises(live.Unusable, match=r"says nothing in 0\.3 s"):
                ask(endpoint)
    finally:
        host.daemon.signal(signal.SIGCONT)


def test_a_server_that_drips_its_banner_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TIMEOUT_S", 0.3)

    def drip(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"220-")
            time.sleep(0.02)

    with socket.create_server(("127.0.0.1", 0)) as server, answering(server, drip):
        endpoint = Endpoint.parse(f"127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(live.Unusable, match=r"says nothing in 0\.3 s"):
            live.greet(endpoint)


@contextmanager
def answering(server: socket.socket, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    """Let a listening socket answer every connection, one after the other, until the end."""
    server.listen()

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                with connection, suppress(OSError):
                    answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_milter_socket_that_was_removed(host: Host) -> None:
    host.milter.unlink()
    found = host.only("gatepost", "milter.socket")
    assert "No such file or directory" in found.problem


def test_something_else_in_the_place_of_the_milter(host: Host) -> None:
    host.milter.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(host.milter))
        host.milter.chmod(0o660)
        with answering(server, lambda connection: connection.sendall(b"220 no milter\r\n")):
            found = host.only("gatepost", "milter.socket")
    host.milter.unlink()
    assert "it does not speak the milter protocol" in found.problem


def test_a_postfix_that_does_not_run(host: Host) -> None:
    host.postfix.stop()
    try:
        found = host.only(host.inner, "proxy.inner")
        assert "Postfix is not running" in found.problem
        assert found.command == f"postfix -c {host.postfix.config_dir} start"
    finally:
        host.postfix.start()


def test_settings_that_postfix_has_not_taken_over_yet(host: Host) -> None:
    host.postfix.postconf_service(host.inner, {"smtpd_authorized_xforward_hosts": ""})
    host.postfix.reload()
    host.postfix.postconf_service(host.inner, {"smtpd_authorized_xforward_hosts": "127.0.0.0/8"})
    found = host.only(host.inner, "smtpd_authorized_xforward_hosts")
    assert "settings in force are older" in found.problem
    assert found.command == f"postfix -c {host.postfix.config_dir} reload"
    host.postfix.reload()
    assert host.doctor() == []


def test_an_inner_service_that_was_never_brought_into_force(host: Host) -> None:
    moved = dict(host.daemon.sections["proxy"], inner="127.0.0.1:1")
    host.daemon.kill()
    host.daemon.configure(more={"proxy": moved})
    try:
        host.daemon.apply(host.postfix.config_dir, host.postfix.front_service)
        host.daemon.start()
        found = host.only("127.0.0.1:1/inet", "proxy.inner")
        assert "Postfix has not been reloaded since it was set up" in found.problem
    finally:
        host.daemon.kill()
        host.daemon.configure()
        host.daemon.apply(host.postfix.config_dir, host.postfix.front_service)


def test_findings_are_told_as_json_with_keys_that_stay(host: Host) -> None:
    with stopped(host.daemon):
        done = host.daemon.run(*host.arguments, "--json")
    assert (done.returncode, done.stderr) == (1, "")
    (found,) = json.loads(done.stdout)
    assert sorted(found) == ["command", "parameter", "problem", "remedy", "service", "severity"]
    assert (found["service"], found["severity"]) == ("gatepost", "finding")


def test_notes_do_not_change_the_exit_status(host: Host) -> None:
    host.daemon.configure(more={"proxy": {"front_timeout": "60s"}})
    try:
        done = host.daemon.run(*host.arguments, "--json")
    finally:
        host.daemon.configure()
    assert [one["severity"] for one in json.loads(done.stdout)] == ["note"]
    assert done.returncode == 0


def test_findings_are_told_in_text_with_the_command_to_run(host: Host) -> None:
    host.postfix.postconf_service(host.postfix.front_service, {"smtpd_proxy_timeout": "1s"})
    try:
        done = host.daemon.run(*host.arguments)
    finally:
        subprocess.run(
            ["postconf", "-c", host.postfix.config_dir, "-PX", f"{host.postfix.front_service}/smtpd_proxy_timeout"],
            check=True,
        )
    etc, front = host.postfix.config_dir, host.postfix.front_service
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0] == f"finding  {front}  smtpd_proxy_timeout"
    assert f"    run: postconf -c {etc} -P {front}/smtpd_proxy_timeout=100s" in lines
    assert lines[-2:] == [
        f"{etc}: {front}, inner {host.inner}: 1 finding",
        f"Postfix takes a change over by: postfix -c {etc} reload",
    ]


def test_colours_are_for_terminals_only(host: Host) -> None:
    with stopped(host.daemon):
        assert "\x1b[" not in host.daemon.run(*host.arguments).stdout
        assert b"\x1b[" in on_a_terminal(*host.arguments)


def on_a_terminal(*arguments: str) -> bytes:
    ours, its = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen([*COMMAND, *arguments], stdout=its, stderr=its, env=environment) as process:
        os.close(its)
        said = b""
        # EIO is how Linux says that the last writer has closed the terminal.
        with suppress(OSError):
            while chunk := os.read(ours, 65536):
                said += chunk
        process.wait()
    os.close(ours)
    return said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[proxy]\nlistn = 1\n", "gatepost.toml:2: there is no key 'listn' here: did you mean 'listen'?"),
        ('[[plugin]]\nname = "aliases"\nfile = "missing"\n', "cannot read"),
        ('[[plugin]]\nname = "nosuch"\n', "there is no plugin 'nosuch'"),
    ],
)
def test_a_broken_configuration_of_gateposts_is_78(host: Host, tmp_path: Path, text: str, said: str) -> None:
    config = tmp_path / "gatepost.toml"
    config.write_text(text)
    done = host.daemon.run("postfix", "doctor", "--config", str(config), "--config-dir", str(host.postfix.config_dir))
    assert (done.returncode, done.stdout) == (78, "")
    assert said in done.stderr


def test_two_at_once_see_the_same_and_leave_no_error_in_the_log(host: Host) -> None:
    seen = host.daemon.log_size()
    command = [*COMMAND, *host.arguments, "--json"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [json.loads(process.communicate(timeout=60)[0]) for process in processes] == [[], []]
    assert "level=error" not in host.daemon.log(seen)
    assert "level=warning" not in host.daemon.log(seen)
