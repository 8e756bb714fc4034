"""The command line: what is wrong is one line each on stderr, with its place, and the exit status says of what kind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EX_TEMPFAIL = 75
EX_CONFIG = 78
PATIENCE_S = 20.0

HEAD = "from gatepost import Deny, Ok, Plugin, PluginOptions\n"


@dataclass(slots=True)
class Host:
    """A directory with a configuration, and the command run on it."""

    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "gatepost.toml"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if name != "JOURNAL_STREAM"}
        return subprocess.Popen(
            [sys.executable, "-c", "from gatepost.ops.cli import main; main()", *arguments],
            cwd=self.directory,
            env=environment | {"COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
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
        (self.directory / name).write_text(text)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.fixture
def port() -> Iterator[int]:
    """Return a port that is taken."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number: int = server.getsockname()[1]
        return number


@pytest.mark.parametrize("command", ["check", "hooks", "run"])
def test_a_missing_configuration_is_78(host: Host, command: str) -> None:
    status, out, err = host.run(command)

    assert (status, out) == (EX_CONFIG, "")
    assert err == ["gatepost: gatepost.toml: cannot read the configuration: No such file or directory"]


def test_every_mistake_in_the_configuration_is_a_line_with_its_place(host: Host) -> None:
    host.write(
        "gatepost.toml",
        '[proxy]\nlistn = "127.0.0.1:1"\nmax_sessions = 0\n[store]\nurl = "db:x"\n[[plugin]]\nfile = "x"\n',
    )

    status, out, err = host.run("check")

    assert (status, out) == (EX_CONFIG, "")
    assert err == [
        "gatepost: gatepost.toml:2: there is no key 'listn' here: did you mean 'listen'?",
        "gatepost: gatepost.toml:3: proxy.max_sessions: Input should be greater than or equal to 1 (given: 0)",
        "gatepost: gatepost.toml:5: store.url: 'db:x' is not understood: write \"sqlite:/...\", with the path in full",
        'gatepost: gatepost.toml:6: a [[plugin]] needs a name, such as name = "greylist"',
    ]


def test_every_mistake_in_the_plugins_is_a_line_with_its_place(host: Host) -> None:
    host.write("arguments.py", f"{HEAD}class Arguments(Plugin):\n    def rcpt(self, recipient): ...\n")
    host.write("method.py", f"{HEAD}class Method(Plugin):\n    async def recpt(self, t, r): ...\n")
    host.write("verdict.py", f"{HEAD}class Verdict(Plugin):\n    def deny(self, s, h, v):\n        return Deny()\n")
    host.write("syntax.py", "def f(:\n")
    host.write("option.py", f"{HEAD}class Option(Plugin): ...\n")
    names = ["arguments", "method", "verdict", "syntax", "greylst", "option"]
    plugins = "".join(f'[[plugin]]\nname = "{name}"\n' for name in names)
    host.write("gatepost.toml", f'[hooks]\ndirectory = "."\n{plugins}timout = "5s"\nmode = "maybe"\n')

    status, out, err = host.run("check")

    assert (status, out) == (EX_CONFIG, "")
    assert [line.removeprefix("gatepost: ") for line in err] == [
        "arguments.py:3: rcpt has the wrong arguments: write def rcpt(self, transaction, recipient)",
        "method.py:3: recpt is no hook, and a method of your own begins with an underscore: did you mean 'rcpt'?",
        "verdict.py:4: the deny hook may not answer Deny: it may answer DenyDisconnect, DenySoftDisconnect or nothing",
        "syntax.py:1: not Python: invalid syntax",
        "gatepost.toml:11: there is no plugin 'greylst': did you mean 'greylist'?",
        "gatepost.toml:15: option has no option 'timout': did you mean 'timeout'?",
        "gatepost.toml:16: option.mode: Input should be 'enforce', 'observe' or 'off' (given: 'maybe')",
    ]


def test_a_missing_or_broken_file_of_a_plugin_is_a_line_with_its_place(host: Host) -> None:
    host.write("aliases", "fine@example.org: x@example.com\nno colon here\nfine@example.org: (greylst=off)\n")
    host.write(
        "gatepost.toml",
        '[[plugin]]\nname = "client_options"\nfile = "clients"\n'
        '[[plugin]]\nname = "aliases"\nfile = "aliases"\n[[plugin]]\nname = "greylist"\n',
    )

    status, out, err = host.run("check")

    assert (status, out) == (EX_CONFIG, "")
    assert [line.partition(": ")[2] for line in err] == [
        "gatepost.toml:3: plugin client_options: cannot read clients: No such file or directory",
        "aliases:2: there is no colon: write LOCAL@DOMAIN: TARGET",
        "aliases:3: there is no plugin 'greylst': did you mean 'greylist'?",
    ]


def good_configuration(host: Host, directory_mode: int) -> Path:
    directory = host.directory / "milter"
    directory.mkdir()
    directory.chmod(directory_mode)
    host.write(
        "gatepost.toml",
        f'[milter]\nsocket = "unix:{directory}/sock"\n'
        f'[store]\nurl = "sqlite:{host.directory}/gatepost.db"\n[[plugin]]\nname = "loop"\n',
    )
    return directory


def test_a_good_configuration_says_so_and_leaves_no_trace(host: Host) -> None:
    good_configuration(host, 0o2750)

    status, out, err = host.run("check")

    assert (status, out, err) == (0, f"{host.config}: good. Plugins: loop.\n", [])
    assert sorted(file.name for file in host.directory.rglob("*")) == ["gatepost.toml", "milter"]


def test_check_warns_of_a_socket_directory_that_postfix_cannot_use(host: Host) -> None:
    directory = good_configuration(host, 0o750)

    status, _, err = host.run("check")

    assert status == 0
    assert len(err) == 1
    assert f"{directory.name} is not setgid" in err[0]
    assert "install -d -o gatepost -g postfix -m 2750" in err[0]


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
    assert [line.partition("there")[0] for line in err] == ["gatepost: gatepost.toml:9: "]
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
    settings(host, f"127.0.0.1:{free_port()}", f"unix:{host.directory}/{milter}")
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
class Stuck(Plugin):
    blocking = True
    def connect(self, session):
        threading.Event().wait()
"""


def test_a_hook_that_never_ends_does_not_keep_the_daemon_from_ending(host: Host) -> None:
    host.write("stuck.py", HEAD + STUCK)
    stuck = '[[plugin]]\nname = "stuck"\ntimeout = "50ms"\n'
    settings(host, f"unix:{host.directory}/proxy", f"unix:{host.directory}/milter", plugins=stuck)
    daemon = host.start("run", "--config", str(host.config))
    try:
        with socket.socket(socket.AF_UNIX) as client:
            connect(client, host.directory / "proxy", daemon)
            client.settimeout(PATIENCE_S)
            with client.makefile("rwb") as stream:
                heard = [stream.readline()]
                for command in (b"HELO there", b"MAIL FROM:<a@example.net>", b"RCPT TO:<b@example.org>", b"QUIT"):
                    stream.write(command + b"\r\n")
                    stream.flush()
                    heard.append(stream.readline())
        daemon.send_signal(signal.SIGTERM)
        _, err = daemon.communicate(timeout=PATIENCE_S)
    finally:
        daemon.kill()

    assert [line[:3] for line in heard] == [b"220", b"250", b"250", b"451", b"221"]
    assert daemon.returncode == 0
    assert "hooks still running are left behind" in err


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
