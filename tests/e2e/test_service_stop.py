"""SIGTERM at every stage: what is under way is finished, in bounded time; what is new hears an honest 421; exit 0."""

from __future__ import annotations

import ctypes
import re
import signal
import socket
import subprocess
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
from tests.e2e.gate import MESSAGE, PREAMBLE, Gate
from tests.e2e.postfix_rig import NextHop, SmtpClient, queue_id
from tests.rigs.socket_holder import SocketHolder

from gatepost.configuration.config import ProxySection
from gatepost.errors import EX_TEMPFAIL
from gatepost.ops.private_daemon import COMMAND, PrivateDaemon
from gatepost.ops.private_postfix import free_loopback_port
from gatepost.ops.service import GREETED_S

if TYPE_CHECKING:
    from collections.abc import Iterator

LEAST_FRONT_TIMEOUT_S = 20.0
CLOSING = b"421 4.3.2 restarting, please try again later\r\n"


class Endless:
    """A daemon told to end while a client sends content for ever: the longest a message is waited for.

    Its port is held, as by systemd; a second client connects meanwhile.
    """

    def __init__(self, directory: Path) -> None:
        self._held = socket.create_server(("127.0.0.1", free_loopback_port()))
        self._holder = SocketHolder(directory, self._held.fileno())
        self.daemon = PrivateDaemon(directory, command=self._holder.command)
        self.daemon.proxy_port = self._held.getsockname()[1]
        self.daemon.configure(more={"proxy": {"front_timeout": f"{LEAST_FRONT_TIMEOUT_S:.0f}s"}})
        self.next_hop = NextHop(self.daemon.inner_port)
        self.daemon.start()
        self.client = SmtpClient(self.daemon.proxy_port, timeout_s=60)
        self.client.transaction(b"rcpt@example.org")
        assert self.client.command(b"DATA").startswith(b"354")
        self.client.send(b"Subject: endless\r\n\r\nand so")
        self.daemon.signal(signal.SIGTERM)
        self.daemon.wait_for_log("event=stopping messages=1")
        self.heard_meanwhile: list[bytes] = []
        self._meanwhile = threading.Thread(target=self._come_meanwhile, daemon=True)
        self._meanwhile.start()

    def _come_meanwhile(self) -> None:
        # The daemon is killed if the tests end before it has.
        with suppress(OSError), SmtpClient(self.daemon.proxy_port, timeout_s=60) as client:
            self.heard_meanwhile.append(client.command(b"MAIL FROM:<sender@example.com>"))

    def replies_meanwhile(self) -> list[bytes]:
        """What the second client has heard; the daemon may have ended before its thread has read it."""
        self._meanwhile.join(30)
        return self.heard_meanwhile

    def close(self) -> None:
        self.client.close()
        self.daemon.kill()
        self.next_hop.__exit__()
        self._holder.__exit__()
        self._held.close()


@pytest.fixture(scope="module", autouse=True)
def endless(postfix_directory: Path) -> Iterator[Endless]:
    """Begun with the first test and looked at by the last, because it takes its twenty seconds."""
    directory = Path(tempfile.mkdtemp(prefix="gp-", dir=postfix_directory))
    endless = Endless(directory)
    yield endless
    endless.close()


def stop(gate: Gate) -> None:
    """Send SIGTERM; return once the daemon has begun to end."""
    seen = gate.daemon.log_size()
    gate.daemon.signal(signal.SIGTERM)
    gate.daemon.wait_for_log("event=stopping", since=seen)


# --- while it ends


def test_new_messages_hear_421_and_those_under_way_are_finished(gate: Gate) -> None:
    gate.use(restart=True)
    with gate.client() as first, gate.client() as second:
        first.transaction(b"a@example.org")
        stop(gate)
        (reply,) = second.transaction(b"b@example.org")
        assert reply == CLOSING
        assert second.hung_up()
        queue_id(first.content(MESSAGE))
    assert gate.daemon.wait() == 0
    assert len(gate.postfix.queue()) == 1


def test_who_has_just_connected_may_still_send_a_message(gate: Gate) -> None:
    gate.use(restart=True)
    with gate.client() as client, gate.proxy_client() as front:
        client.transaction(b"a@example.org")
        stop(gate)
        assert front.transaction(b"b@example.org") == [b"250 2.1.5 Ok\r\n"]
        queue_id(front.content(MESSAGE))
        queue_id(client.content(MESSAGE))
    assert gate.daemon.wait() == 0


def test_a_connection_that_is_idle_is_not_waited_for(gate: Gate) -> None:
    gate.use(proxy={"front_timeout": "100s"}, restart=True)
    with gate.proxy_client() as idle:
        queue_id(idle.message())
        stop(gate)
        assert gate.daemon.wait() == 0
        assert idle.hung_up()


@pytest.mark.parametrize("blocking", [True, False], ids=["thread", "coroutine"])
def test_a_slow_hook_is_waited_for(gate: Gate, blocking: bool) -> None:
    source = """
    class Slow(Plugin):
        blocking = BLOCKING

        ASYNC def rcpt(self, transaction, recipient):
            self.log.info("rcpt begins")
            WAIT(0.4)
    """
    word, wait = ("", "time.sleep") if blocking else ("async", "await asyncio.sleep")
    source = source.replace("BLOCKING", str(blocking)).replace("ASYNC ", f"{word} ".lstrip()).replace("WAIT", wait)
    gate.use(hooks={"slow": source}, restart=True)
    seen = gate.daemon.log_size()
    with gate.client() as client:
        client.command(b"MAIL FROM:<a@example.com>")
        client.send(b"RCPT TO:<b@example.org>\r\n")
        gate.daemon.wait_for_log("rcpt begins", since=seen)
        stop(gate)
        assert client.reply().startswith(b"250")
        queue_id(client.content(MESSAGE))
    assert gate.daemon.wait() == 0


def test_a_client_that_is_just_being_greeted_is_waited_for(gate: Gate) -> None:
    """Its message has begun: cut off, it would hear "queue file write error"."""
    source = f"""
    class Slow(Plugin):
        async def connect(self, session):
            self.log.info("connect begins")
            await asyncio.sleep({GREETED_S + 0.4})
    """
    gate.use(hooks={"slow": source}, restart=True)
    seen = gate.daemon.log_size()
    with gate.client() as client:
        client.command(b"MAIL FROM:<a@example.com>")
        client.send(b"RCPT TO:<b@example.org>\r\n")
        gate.daemon.wait_for_log("connect begins", since=seen)
        stop(gate)
        assert client.reply().startswith(b"250")
        queue_id(client.content(MESSAGE))
    assert gate.daemon.wait() == 0


def test_a_second_sigterm_changes_nothing(gate: Gate) -> None:
    gate.use(restart=True)
    seen = gate.daemon.log_size()
    with gate.client() as client:
        client.transaction(b"a@example.org")
        stop(gate)
        gate.daemon.signal(signal.SIGTERM)
        gate.daemon.signal(signal.SIGINT)
        gate.daemon.wait_for_log('event="already stopping"', since=seen)
        queue_id(client.content(MESSAGE))
    assert gate.daemon.wait() == 0


def test_a_reload_while_it_ends_is_not_begun(gate: Gate) -> None:
    gate.use(restart=True)
    seen = gate.daemon.log_size()
    with gate.client() as client:
        client.transaction(b"a@example.org")
        stop(gate)
        gate.daemon.signal(signal.SIGHUP)
        queue_id(client.content(MESSAGE))
    assert gate.daemon.wait() == 0
    assert "event=reloaded" not in gate.daemon.log(seen)


# --- while it starts

STUCK = {
    "import": """
        print("stuck begins", file=sys.stderr, flush=True)
        time.sleep(60)
    """,
    "thread": """
        class Stuck(Plugin):
            def init(self):
                print("stuck begins", file=sys.stderr, flush=True)
                time.sleep(60)
    """,
    "coroutine": """
        class Stuck(Plugin):
            async def init(self):
                print("stuck begins", file=sys.stderr, flush=True)
                await asyncio.sleep(60)
    """,
}


@pytest.fixture
def alone(postfix_directory: Path) -> PrivateDaemon:
    """A daemon without a Postfix, whose plugin `stuck` is the test's."""
    directory = Path(tempfile.mkdtemp(prefix="gp-", dir=postfix_directory))
    daemon = PrivateDaemon(directory)
    daemon.configure('[[plugin]]\nname = "stuck"\n')
    return daemon


def write(daemon: PrivateDaemon, source: str) -> None:
    (daemon.hooks_dir / "stuck.py").write_text(PREAMBLE + dedent(source))


@pytest.mark.parametrize("where", list(STUCK))
def test_sigterm_ends_a_start_that_is_stuck(alone: PrivateDaemon, where: str) -> None:
    write(alone, STUCK[where])
    process = subprocess.Popen(
        [*COMMAND, "run", "--config", str(alone.config_file)], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    try:
        assert process.stderr is not None
        assert process.stderr.readline() == b"stuck begins\n"
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert b"stopped before it was ready" in log
    assert not (alone.directory / "run" / "milter.sock").exists()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", alone.proxy_port)) != 0


def test_sigterm_ends_a_daemon_whose_reload_is_stuck(alone: PrivateDaemon) -> None:
    write(alone, "class Stuck(Plugin):\n    pass\n")
    alone.start()
    write(alone, STUCK["thread"])
    alone.signal(signal.SIGHUP)
    alone.wait_for_log("stuck begins")
    alone.signal(signal.SIGTERM)
    assert alone.wait() == 0


# --- when the milter is lost


def threads_open_to_sighup(pid: int) -> list[int]:
    """Return all but the first, to which the kernel gives a signal if it can; one of them is libmilter's."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        blocked = re.search(r"^SigBlk:\s*(\w+)", (task / "status").read_text(), re.MULTILINE)
        if blocked and not int(blocked[1], 16) & 1 << signal.SIGHUP - 1 and int(task.name) != pid:
            found.append(int(task.name))
    return found


def test_without_its_milter_the_daemon_ends_to_be_started_anew(alone: PrivateDaemon) -> None:
    """The kernel may give libmilter a signal that is the daemon's; then every message would have to wait."""
    write(alone, "class Stuck(Plugin):\n    pass\n")
    alone.start()
    pid = alone.pid
    for thread in threads_open_to_sighup(pid):
        # What another thread gets is a reload.
        ctypes.CDLL(None).tgkill(pid, thread, signal.SIGHUP)
    # libmilter looks up from its socket every 5 s, or when somebody connects.
    with suppress(OSError), socket.socket(socket.AF_UNIX) as knock:
        knock.connect(str(alone.directory / "run" / "milter.sock"))
    assert alone.wait() == EX_TEMPFAIL
    log = alone.log()
    assert 'event="the milter has ended by itself, and the daemon with it"' in log
    assert log.endswith("gatepost: the milter had ended by itself: start the daemon again\n")
    assert not (alone.directory / "run" / "milter.sock").exists()
    alone.start()
    alone.stop()


# --- the bound; the last test of this module


def test_a_client_that_never_finishes_is_waited_for_as_long_as_the_front_would(endless: Endless) -> None:
    assert endless.daemon.wait(LEAST_FRONT_TIMEOUT_S + 15) == 0
    log = endless.daemon.log()
    assert 'event="connection given up: the daemon ends"' in log
    assert re.search(r"event=stopped aborted=1 offered=1", log)
    assert endless.client.hung_up()
    # Who connected meanwhile has not been left waiting for longer than a front does.
    assert endless.replies_meanwhile() == [CLOSING]
    # Without the dot nothing of it is queued.
    (conversation,) = endless.next_hop.conversations()
    assert not conversation.content.endswith(b"\r\n.\r\n")


def test_the_least_front_timeout_is_what_is_tested() -> None:
    assert ProxySection(front_timeout=LEAST_FRONT_TIMEOUT_S).front_timeout == LEAST_FRONT_TIMEOUT_S
    with pytest.raises(ValueError, match="greater than or equal to 20"):
        ProxySection(front_timeout=LEAST_FRONT_TIMEOUT_S - 1)


def test_threads_that_have_computed_and_are_idle_keep_nobody_waiting(gate: Gate) -> None:
    gate.use('[[plugin]]\nname = "attachments"\n')
    queue_id(gate.send())
    seen = gate.daemon.log_size()
    gate.daemon.stop()
    assert "left behind" not in gate.daemon.log(seen)
