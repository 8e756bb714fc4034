"""The units pass systemd's own checks, and say what the daemon counts on."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from gatepost.configuration.config import Config
from gatepost.doors.milterd import STOP_LIMIT_S
from gatepost.doors.proxy import AFTERMATH_BUDGET_S
from gatepost.endpoint import Endpoint
from gatepost.errors import EX_CONFIG, EX_TEMPFAIL
from gatepost.ops import listener
from gatepost.ops.cli import THREAD_GRACE_S
from gatepost.ops.service import GREETED_S

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
UNITS = ("gatepost.service", "gatepost.socket")
MOST_EXPOSURE = 1.3


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=60)


def unit(name: str) -> dict[str, list[str]]:
    """Return the values of each directive, in order."""
    found = defaultdict(list)
    for line in (SYSTEMD / name).read_text().splitlines():
        if match := re.fullmatch(r"(\w+)=(.*)", line):
            found[match[1]].append(match[2])
    return found


def only(name: str, directive: str) -> str:
    (value,) = unit(name)[directive]
    return value


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root directory with the units, the programs that they start, and the targets that every unit refers to."""
    for name in ("opt/gatepost/bin/gatepost", "bin/kill"):
        program = tmp_path / name
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    units = tmp_path / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    for name in UNITS:
        shutil.copy(SYSTEMD / name, units)
    for target in ("sysinit", "basic", "sockets", "network", "nss-lookup", "multi-user", "shutdown"):
        (units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    return tmp_path


def verify(root: Path) -> str:
    """Return what systemd-analyze has to say against the units; nothing where they are good."""
    done = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", f"--root={root}", *UNITS)
    return done.stdout + done.stderr + f"exit status {done.returncode}" * bool(done.returncode)


def test_systemd_has_nothing_against_the_units(root: Path) -> None:
    assert verify(root) == ""


@pytest.mark.parametrize(
    ("right", "wrong"), [("KillMode=mixed", "KilMode=mixed"), ("/opt/gatepost/bin/gatepost run", "/opt/none run")]
)
def test_systemd_would_have_said_so(root: Path, right: str, wrong: str) -> None:
    """Without this the test above could pass for a check that sees nothing."""
    file = root / "etc" / "systemd" / "system" / "gatepost.service"
    file.write_text(file.read_text().replace(right, wrong))
    assert wrong.split()[0].partition("=")[0] in verify(root)


def test_the_sandbox_is_strict() -> None:
    done = run("systemd-analyze", "security", "--offline=true", "--no-pager", SYSTEMD / "gatepost.service")
    exposure = re.search(r"Overall exposure level for gatepost\.service: ([\d.]+)", done.stdout)
    assert exposure, done.stdout + done.stderr
    print(f"systemd-analyze security: {exposure[1]}")  # noqa: T201 - with -rP, the number
    assert float(exposure[1]) <= MOST_EXPOSURE, done.stdout


def test_what_the_sandbox_leaves_open_is_what_gatepost_needs() -> None:
    """Every line here has its reason in the unit; a new one wants one, too."""
    done = run("systemd-analyze", "security", "--offline=true", "--json=short", SYSTEMD / "gatepost.service")
    exposed = {check["json_field"] for check in json.loads(done.stdout) if check["set"] is False}
    assert exposed == {
        "RootDirectoryOrRootImage",
        "RestrictAddressFamilies_AF_UNIX",
        "RestrictAddressFamilies_AF_INET_INET6",
        "PrivateNetwork",
        "DeviceAllow",
        "IPAddressDeny",
    }


# --- what one file says of another


def test_the_end_is_awaited_for_longer_than_it_can_take() -> None:
    """Messages under way, their last hooks, those who were turned away, libmilter, and a stuck thread or two."""
    longest_s = (
        *(Config().proxy.front_timeout, AFTERMATH_BUDGET_S, GREETED_S),
        *(STOP_LIMIT_S, 2 * THREAD_GRACE_S),
    )
    assert int(only("gatepost.service", "TimeoutStopSec")) > sum(longest_s)


def test_a_held_up_loop_is_noticed_before_the_fronts_lose_patience() -> None:
    noticed_s = sum(int(only("gatepost.service", name)) for name in ("WatchdogSec", "TimeoutAbortSec", "RestartSec"))
    assert noticed_s < Config().proxy.front_timeout / 2


def test_a_wrong_configuration_is_not_tried_again_and_a_taken_port_is() -> None:
    assert only("gatepost.service", "Restart") == "on-failure"
    stays_down = only("gatepost.service", "RestartPreventExitStatus").split()
    assert (str(EX_CONFIG) in stays_down, str(EX_TEMPFAIL) in stays_down) == (True, False)


def test_restarts_alone_never_reach_the_start_limit() -> None:
    starts = int(only("gatepost.service", "StartLimitIntervalSec")) / int(only("gatepost.service", "RestartSec"))
    assert starts <= int(only("gatepost.service", "StartLimitBurst"))


def test_the_socket_unit_holds_the_default_port_and_as_many_waiting() -> None:
    assert only("gatepost.socket", "ListenStream") == Config().proxy.listen
    assert only("gatepost.socket", "Backlog") == str(listener.BACKLOG)
    assert only("gatepost.service", "Sockets") == "gatepost.socket"


def test_there_are_files_enough_for_the_most_sessions() -> None:
    """For each: the front, the inner smtpd, the milter, and two spooled bodies."""
    assert int(only("gatepost.service", "LimitNOFILE")) > 5 * Config().proxy.max_sessions


def test_the_default_places_can_be_written() -> None:
    socket = Endpoint.parse(Config().milter.socket).path
    assert socket is not None
    assert str(Path(socket).parent) in [value.lstrip("-") for value in unit("gatepost.service")["ReadWritePaths"]]
    store = Path(Config().store.url.removeprefix("sqlite:"))
    assert store.parent == Path("/var/lib", only("gatepost.service", "StateDirectory"))


@pytest.mark.parametrize("name", UNITS)
def test_both_come_before_postfix_as_debian_starts_it(name: str) -> None:
    assert {"postfix.service", "postfix@-.service"} <= set(only(name, "Before").split())


# --- user and directories, made by systemd's own programs


def test_user_and_directories_are_made_as_designed(tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    etc.mkdir()
    (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\npostfix:x:101:105::/var/spool/postfix:/bin/false\n")
    (etc / "group").write_text("root:x:0:\npostfix:x:105:\n")
    (tmp_path / "var" / "spool" / "postfix").mkdir(parents=True)
    (tmp_path / "var" / "lib").mkdir()

    for command in (
        ("systemd-sysusers", f"--root={tmp_path}", SYSTEMD / "gatepost.sysusers.conf"),
        ("systemd-tmpfiles", f"--root={tmp_path}", "--create", SYSTEMD / "gatepost.tmpfiles.conf"),
    ):
        done = run(*command)
        assert done.returncode == 0, done.stderr

    users = [line.split(":") for line in (etc / "passwd").read_text().splitlines()]
    (user,) = [fields for fields in users if fields[0] == "gatepost"]
    uid, gid = int(user[2]), int(user[3])
    assert user[6].endswith("nologin")
    milter, store = (tmp_path / place for place in ("var/spool/postfix/gatepost", "var/lib/gatepost"))
    assert [
        (f"{place.stat().st_mode & 0o7777:o}", place.stat().st_uid, place.stat().st_gid) for place in (milter, store)
    ] == [
        ("2750", uid, 105),
        ("750", uid, gid),
    ]
