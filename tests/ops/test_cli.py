"""The command line: what is wrong is one line each on stderr, with its place, and the exit status says of what kind."""

from __future__ import annotations

import json
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest
from tests.ops.host import HEAD, PATIENCE_S, Host

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

EX_TEMPFAIL = 75
EX_CONFIG = 78


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def port() -> Iterator[int]:
    """Return a port that is taken."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize("command", ["hooks", "run"])
def test_a_missing_configuration_is_78(host: Host, command: str) -> None:
    status, out, err = host.run(command)

    assert (status, out) == (EX_CONFIG, "")
    assert err == ["gatepost: gatepost.toml: cannot read the configuration: No such file or directory"]


def test_what_plugins_warn_of_goes_to_stderr_so_that_json_stays_json(host: Host) -> None:
    host.write("aliases", "a@example.org: b@example.org\nb@example.org: a@example.org\n")
    host.write(
        "gatepost.toml",
        '[[plugin]]\nname = "aliases"\nfile = "aliases"\n[[plugin]]\nname = "loop"\nmode = "observe"\n',
    )

    status, out, err = host.run("hooks", "--json")

    rows = {row["hook"]: row for row in json.loads(out)}
    assert status == 0
    assert [plugin["name"] for plugin in rows["rcpt"]["plugins"]] == ["aliases"]
    assert [(plugin["name"], plugin["mode"]) for plugin in rows["data_headers_end"]["plugins"]] == [("loop", "observe")]
    assert rows["rcpt"]["door"] == "proxy"
    assert len(err) == 1
    assert "alias loop" in err[0]


def test_hooks_shows_the_plugins_of_each_hook_in_their_order(host: Host) -> None:
    for name in ("zebra", "ant"):
        host.write(f"{name}.py", f"{HEAD}class {name.title()}(Plugin):\n    def rcpt(self, t, r): ...\n")
    host.write(
        "gatepost.toml",
        '[hooks]\ndirectory = "."\n[[plugin]]\nname = "zebra"\n[[plugin]]\nname = "ant"\nmode = "off"\n',
    )

    status, out, _ = host.run("hooks")

    rows = {words[0]: words[1:] for line in out.splitlines() if (words := line.split())}
    assert status == 0
    assert rows["rcpt"] == ["proxy", "zebra,", "ant", "(off)"]
    assert rows["data_post"] == ["content", "-"]


@pytest.mark.parametrize(
    ("edge", "doors"),
    [
        ("true", ["edge", "edge", "edge", "edge", "proxy", "edge", "edge close"]),
        ("false", ["proxy", "proxy", "none", "proxy", "proxy", "none", "expiry"]),
    ],
)
def test_hooks_shows_at_which_door_each_runs_with_the_edge_and_without(host: Host, edge: str, doors: list[str]) -> None:
    host.write("gatepost.toml", f"[milter]\nedge = {edge}\n")

    _, out, _ = host.run("hooks", "--json")

    rows = {row["hook"]: row["door"] for row in json.loads(out)}
    names = ("connect", "helo", "unrecognized_command", "mail", "rcpt", "rcpt_refused", "disconnect")
    assert [rows[name] for name in names] == doors


# --- run ------------------------------------------------------------------------------------------------------------


def settings(host: Host, listen: str, milter: str, store: str = "sqlite::memory:", plugins: str = "") -> None:
    host.write(
        "gatepost.toml",
        f'[proxy]\nlisten = "{listen}"\n[milter]\nsocket = "{milter}"\n[store]\nurl = "{store}"\n'
        f'[hooks]\ndirectory = "."\n{plugins}',
    )


def test_run_with_a_mistake_starts_nothing(host: Host) -> None:
    settings(
        host,
        f"unix:{host.directory}/proxy",
        f"unix:{host.directory}/milter",
        plugins='[[plugin]]\nname = "none"\n',
    )

    status, _, err = host.run("run")

    assert status == EX_CONFIG
    assert [line.partition("there")[0] for line in err] == ["gatepost: gatepost.toml:10: "]
    assert [file.name for file in host.directory.iterdir()] == ["gatepost.toml"]


def test_run_with_a_store_that_cannot_be_is_told_with_its_line(host: Host) -> None:
    settings(
        host, f"unix:{host.directory}/proxy", f"unix:{host.directory}/milter", f"sqlite:{host.directory}/none/store.db"
    )

    status, _, err = host.run("run")

    assert status == EX_CONFIG
    assert len(err) == 1
    assert err[0].startswith("gatepost: gatepost.toml:6: ")


def test_a_taken_port_is_75_and_leaves_no_milter_socket(host: Host, port: int) -> None:
    settings(host, f"127.0.0.1:{port}", f"unix:{host.directory}/milter")

    status, _, err = host.run("run")

    assert status == EX_TEMPFAIL
    assert err == [f"gatepost: cannot listen at 127.0.0.1:{port} ([proxy] listen): Address already in use"]
    assert not (host.directory / "milter").exists()


@pytest.mark.parametrize(
    ("milter", "problem"),
    [
        ("none/deeper/milter", "the directory none/deeper of the milter socket is not there: run install -d"),
        ("gatepost.toml", "gatepost.toml is there and is no socket: remove it, or correct [milter] socket"),
        ("used", "used is in use: another gatepost runs with this [milter] socket"),
    ],
)
def test_a_milter_socket_that_cannot_be_made_is_75(host: Host, milter: str, problem: str) -> None:
    settings(host, f"unix:{host.directory}/proxy", f"unix:{host.directory}/{milter}")
    with socket.socket(socket.AF_UNIX) as used:
        used.bind(str(host.directory / "used"))
        used.listen()

        status, _, err = host.run("run")

    assert status == EX_TEMPFAIL
    assert len(err) == 1
    assert err[0].removeprefix("gatepost: ").startswith(problem)


@pytest.mark.parametrize(
    ("arguments", "environment", "problem"),
    [
        (["--log-level", "loud"], {}, "--log-level 'loud': write debug, info, warning or error"),
        ([], {"GATEPOST_LOOP": "trio"}, "GATEPOST_LOOP=trio in the environment: write asyncio or uvloop, or unset it"),
    ],
)
def test_a_bad_argument_is_78(
    host: Host,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    environment: dict[str, str],
    problem: str,
) -> None:
    host.write("gatepost.toml", "")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    status, _, err = host.run("run", *arguments)

    assert (status, err) == (EX_CONFIG, [f"gatepost: {problem}"])


STUCK = """
import threading
from pathlib import Path
class Stuck(Plugin):
    blocking = True
    def connect(self, session):
        Path(__file__).with_name("begun").touch()
        threading.Event().wait()
"""


def test_a_hook_that_never_ends_does_not_keep_the_daemon_from_ending(host: Host) -> None:
    host.write("stuck.py", HEAD + STUCK)
    stuck = '[[plugin]]\nname = "stuck"\ntimeout = "50ms"\n'
    settings(host, f"unix:{host.directory}/proxy", f"unix:{host.directory}/milter", plugins=stuck)
    daemon = host.start("run", "--config", str(host.config))
    try:
        # Mostly once: on a busy machine the time may be over before the thread has begun, and then it never does.
        while not (host.directory / "begun").exists():
            assert session(host, daemon) == [b"220", b"250", b"250", b"451", b"221"]
        daemon.send_signal(signal.SIGTERM)
        _, err = daemon.communicate(timeout=PATIENCE_S)
    finally:
        daemon.kill()

    assert daemon.returncode == 0
    assert "hooks still running are left behind" in err


def session(host: Host, daemon: subprocess.Popen[str]) -> list[bytes]:
    """Offer a message; return the codes of the replies."""
    with socket.socket(socket.AF_UNIX) as client:
        connect(client, host.directory / "proxy", daemon)
        client.settimeout(PATIENCE_S)
        with client.makefile("rwb") as stream:
            heard = [stream.readline()]
            for command in (b"HELO there", b"MAIL FROM:<a@example.net>", b"RCPT TO:<b@example.org>", b"QUIT"):
                stream.write(command + b"\r\n")
                stream.flush()
                heard.append(stream.readline())
    return [line[:3] for line in heard]


def connect(client: socket.socket, path: Path, daemon: subprocess.Popen[str]) -> None:
    """Connect once the daemon listens."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            client.connect(str(path))
        except OSError:
            assert daemon.poll() is None, daemon.communicate()
            assert time.monotonic() < deadline, "the daemon does not listen"
            time.sleep(0.02)
        else:
            return
