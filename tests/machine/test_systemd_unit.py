"""The unit as it is shipped, under the real systemd, with Debian's own Postfix: its sandbox, socket and watchdog."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest
from tests.machine.documented_commands import perform, steps
from tests.machine.machine import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.machine.machine import Machine

CONTENT = "".join(
    f'\n[[plugin]]\nname = "{name}"\n{options}'
    for name, options in {
        "spf": 'temperror = "allow"\nskip_networks = []\n',
        "bogus_bounce": "",
        "attachments": "",
        "dkim": "",
        "arc": "",
        "dmarc": 'temperror = "allow"\ninvalid_from = "allow"\n',
        # Nobody listens there: what matters is that the library is loaded and a socket tried.
        "clamav": 'server = "unix:/run/clamav/clamd.ctl"\non_unavailable = "pass"\n',
        "spamassassin": 'server = "127.0.0.1:783"\non_unavailable = "pass"\n',
        "rspamd": 'server = "127.0.0.1:11333"\non_unavailable = "pass"\n',
        "content_log": 'file = "/var/lib/gatepost/content.jsonl"\n',
        "authentication_results": 'authserv_id = "mx.example.org"\n',
    }.items()
)

pytestmark = pytest.mark.timeout(600)
"""The first test installs packages."""

SEND = "smtp-source -s 4 -m {count} -l 2000 -f a@example.net -t root@localhost 127.0.0.1:25"


@pytest.fixture(scope="module")
def installed(machine: Machine) -> Machine:
    """The machine after the README's own installation."""
    for step in steps((CHECKOUT / "README.md").read_text()):
        if step.heading == "Put it on your Postfix":
            perform(machine, step)
    return machine


@pytest.fixture(autouse=True)
def running(installed: Machine) -> None:
    installed.run("systemctl reset-failed gatepost gatepost.socket; systemctl start gatepost")


@pytest.fixture
def since(installed: Machine, running: None) -> str:
    """Where the journal ends as the test begins."""
    shown = installed.run("journalctl --sync; journalctl --no-pager -n 1 --show-cursor")
    return shown.strip().rpartition("-- cursor: ")[2]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen within 60 s"
        time.sleep(0.1)


def logged(machine: Machine, since: str, *patterns: str) -> str:
    """Return the unit's journal since then, once it has all of these: what was said a moment ago may come later."""
    journal = ""

    def is_whole() -> bool:
        nonlocal journal
        journal = machine.run(f"journalctl -u gatepost --no-pager --after-cursor='{since}'")
        return all(re.search(pattern, journal) for pattern in patterns)

    try:
        wait_until(is_whole)
    except AssertionError as error:
        raise AssertionError(f"not all of {patterns} in the journal:\n{journal}") from error
    return journal


def shown(machine: Machine, name: str) -> str:
    return machine.run(f"systemctl show -p {name} --value gatepost").strip()


def test_it_runs_as_its_own_user_and_mail_passes(installed: Machine, since: str) -> None:
    process = installed.run(f"ps -o user=,group= -p {shown(installed, 'MainPID')}")
    assert process.split() == ["gatepost", "gatepost"]
    installed.run(SEND.format(count=4))
    logged(installed, since, "reply=250")


def test_the_milter_socket_is_postfixs_to_use(installed: Machine) -> None:
    owner = installed.run("stat -c '%U:%G %a' /var/spool/postfix/gatepost/milter.sock")
    assert owner.strip() == "gatepost:postfix 660"


def test_systemd_rates_the_sandbox_at_1_3_or_better(installed: Machine) -> None:
    rating = installed.run("systemd-analyze security --no-pager gatepost.service | tail -n 1")
    found = re.search(r"Overall exposure level for gatepost.service: ([\d.]+)", rating)
    assert found, rating
    assert float(found[1]) <= 1.3


def test_restarts_under_load_turn_no_client_away(installed: Machine) -> None:
    installed.run(f"({SEND.format(count=400)}; echo $? >/tmp/sent) >/tmp/load 2>&1 & echo started")
    for _ in range(3):
        before = shown(installed, "MainPID")
        installed.run("systemctl restart gatepost")
        assert shown(installed, "MainPID") != before
    wait_until(lambda: installed.attempt("test -s /tmp/sent").returncode == 0)
    told = installed.attempt("cat /tmp/load; journalctl --no-pager | grep -E 'warning|error|event=st'").stdout
    assert installed.run("cat /tmp/sent").strip() == "0", told
    assert "queue file write error" not in installed.run("journalctl --no-pager")


def test_a_client_waits_while_nobody_serves(installed: Machine) -> None:
    installed.run("systemctl stop gatepost")
    # The socket starts it again: that a client comes is reason enough.
    installed.run(SEND.format(count=1))
    # It may have served before systemd has read that it is ready.
    wait_until(lambda: shown(installed, "ActiveState") == "active")


def test_a_killed_daemon_is_back_at_once(installed: Machine) -> None:
    before = shown(installed, "MainPID")
    installed.run(f"kill -9 {before}")
    wait_until(lambda: shown(installed, "ActiveState") == "active" and shown(installed, "MainPID") != before)
    installed.run(SEND.format(count=4))


def test_a_reload_with_a_mistake_fails_with_its_reason_and_changes_nothing(installed: Machine, since: str) -> None:
    before = shown(installed, "MainPID")
    installed.run("cp /etc/gatepost/gatepost.toml /tmp/good; echo 'blak = 1' >>/etc/gatepost/gatepost.toml")
    assert installed.attempt("systemctl reload gatepost").returncode != 0
    logged(installed, since, "greylist has no option 'blak'")
    installed.run("cp /tmp/good /etc/gatepost/gatepost.toml; systemctl reload gatepost")
    assert shown(installed, "MainPID") == before
    installed.run(SEND.format(count=4))


def test_every_content_plugin_works_in_the_sandbox(installed: Machine, since: str) -> None:
    config, lines = "/etc/gatepost/gatepost.toml", "/var/lib/gatepost/content.jsonl"
    installed.run(f"cp {config} /tmp/kept.toml; cat >>{config} <<'END'\n{CONTENT}END")
    try:
        installed.run("systemctl reload gatepost")
        logged(installed, since, "event=reloaded .*content_log")
        installed.run(SEND.format(count=4))
        # A line is written after the client has its answer; the servers that are not there are named.
        wait_until(lambda: installed.attempt(f"test $(wc -l <{lines}) -ge 4").returncode == 0)
        log = logged(installed, since, "problem=", "(?s)(reply=250.*){4}")
        line = installed.run(f"tail -n 1 {lines}")
    finally:
        installed.run(f"cp /tmp/kept.toml {config}; systemctl reload gatepost")
    assert '"root@localhost": "accepted"' in line
    assert "reason=error" not in log
    assert "Traceback" not in log


def test_a_plugin_that_holds_the_event_loop_gets_the_daemon_restarted(installed: Machine, since: str) -> None:
    plugin = "import time\\nfrom gatepost import Plugin\\nclass Stuck(Plugin):\\n    def mail(self, t, s, p):\\n"
    plugin += "        if s.local == 'stuck': time.sleep(600)\\n"
    installed.run(f'mkdir -p /etc/gatepost/hooks; printf "{plugin}" >/etc/gatepost/hooks/stuck.py')
    installed.run("cp /etc/gatepost/gatepost.toml /tmp/good")
    installed.run("printf '\\n[[plugin]]\\nname = \"stuck\"\\n' >>/etc/gatepost/gatepost.toml")
    installed.run("mkdir -p /run/systemd/system/gatepost.service.d")
    installed.run("printf '[Service]\\nWatchdogSec=1\\n' >/run/systemd/system/gatepost.service.d/quick.conf")
    installed.run("systemctl daemon-reload && systemctl restart gatepost")
    before = shown(installed, "MainPID")
    installed.run("swaks --server 127.0.0.1 --from stuck@example.net --to root@localhost >/dev/null 2>&1 & echo")
    wait_until(lambda: shown(installed, "ActiveState") == "active" and shown(installed, "MainPID") not in {before, "0"})
    # The log names the line.
    logged(installed, since, "Watchdog timeout", 'File "/etc/gatepost/hooks/stuck.py", line 5 in mail')
    installed.run("rm -r /run/systemd/system/gatepost.service.d; cp /tmp/good /etc/gatepost/gatepost.toml")
    installed.run("systemctl daemon-reload && systemctl restart gatepost")


def test_a_wrong_configuration_is_not_tried_again_and_again(installed: Machine, since: str) -> None:
    installed.run("cp /etc/gatepost/gatepost.toml /tmp/good; echo 'blak = 1' >>/etc/gatepost/gatepost.toml")
    installed.attempt("systemctl restart gatepost")
    wait_until(lambda: shown(installed, "ActiveState") == "failed")
    assert shown(installed, "ExecMainStatus") == "78"
    logged(installed, since, "greylist has no option 'blak'")
    installed.run("cp /tmp/good /etc/gatepost/gatepost.toml")
