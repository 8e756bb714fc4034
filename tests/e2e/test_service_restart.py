"""A restart loses nothing while systemd holds the port, and a crash queues nothing that was not answered 250."""

from __future__ import annotations

import re
import signal
import socket
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.gate import MESSAGE, Gate
from tests.e2e.postfix_rig import queue_id, wait_until
from tests.rigs.socket_holder import SocketHolder

from gatepost.ops.private_daemon import PrivateDaemon
from gatepost.ops.private_postfix import free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import StartPostfix

RESTARTS = 3
CLIENTS = 4


class HeldDaemon(PrivateDaemon):
    """A daemon whose proxy port the test holds, as gatepost.socket does."""

    def __init__(self, directory: Path, loop: str) -> None:
        listening = socket.create_server(("127.0.0.1", free_loopback_port()), backlog=512)
        self.held = listening
        self.holder = SocketHolder(directory, listening.fileno())
        super().__init__(directory, environment={"GATEPOST_LOOP": loop}, command=self.holder.command)
        self.proxy_port = listening.getsockname()[1]

    def release(self) -> None:
        """Let go of the port."""
        self.holder.__exit__()
        self.held.close()


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    loop: str = request.param
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    return loop


@pytest.fixture(scope="module")
def module_gate(start_postfix: StartPostfix, postfix_directory: Path, loop: str) -> Iterator[Gate]:
    """A Postfix before whose queue daemons come and go, at a port that stays."""
    postfix = start_postfix()
    directory = Path(tempfile.mkdtemp(prefix="gp-", dir=postfix_directory))
    directory.chmod(0o755)
    daemon = HeldDaemon(directory, loop)
    daemon.configure(more={"proxy": {"front_timeout": "20s"}})
    daemon.apply(postfix.config_dir, postfix.front_service)
    postfix.reload()
    yield Gate(postfix, daemon, postfix.front_port)
    daemon.stop()
    daemon.release()


def send_until(gate: Gate, number: int, enough: threading.Event) -> dict[str, bytes]:
    """Send one message after the other; return the last reply to each, by its subject."""
    heard: dict[str, bytes] = {}
    while not enough.is_set():
        subject = f"{number}-{len(heard)}"
        heard[subject] = gate.send(f"Subject: {subject}\r\n\r\nload\r\n.\r\n".encode())
    return heard


def subjects(gate: Gate) -> Counter[str]:
    """Return how often each subject is in the queue."""
    found = (gate.postfix.message(entry.queue_id).decode() for entry in gate.postfix.queue())
    return Counter(subject for text in found for subject in re.findall(r"^Subject: (.*)$", text, re.MULTILINE))


def listed(gate: Gate) -> int:
    return len(gate.postfix.queue())


def more_than(gate: Gate, count: int) -> bool:
    return listed(gate) > count


def test_restarts_under_load_are_seen_by_no_client(gate: Gate) -> None:
    enough = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as threads:
        sending = [threads.submit(send_until, gate, number, enough) for number in range(CLIENTS)]
        try:
            for _ in range(RESTARTS):
                wait_until(partial(more_than, gate, listed(gate) + CLIENTS), 60)
                gate.daemon.stop()
                gate.daemon.start()
        finally:
            enough.set()
        heard = {subject: reply for done in sending for subject, reply in done.result().items()}
    assert [reply for reply in heard.values() if not reply.startswith(b"250 2.0.0 Ok: queued")] == []
    assert subjects(gate) == dict.fromkeys(heard, 1)


def test_who_connects_while_no_daemon_runs_waits_for_the_next(gate: Gate) -> None:
    gate.daemon.stop()
    with gate.client() as client:
        client.command(b"MAIL FROM:<a@example.com>")
        client.send(b"RCPT TO:<b@example.org>\r\n")
        wait_until(lambda: gate.connections(gate.daemon.proxy_port) > 0)
        gate.daemon.start()
        assert client.reply() == b"250 2.1.5 Ok\r\n"
        queue_id(client.content(MESSAGE))


def test_who_connects_while_a_daemon_ends_waits_for_the_next(gate: Gate) -> None:
    with gate.client() as first, gate.client() as second:
        first.transaction(b"a@example.org")
        seen = gate.daemon.log_size()
        gate.daemon.signal(signal.SIGTERM)
        gate.daemon.wait_for_log("event=stopping messages=1", since=seen)
        second.command(b"MAIL FROM:<a@example.com>")
        second.send(b"RCPT TO:<b@example.org>\r\n")
        queue_id(first.content(MESSAGE))
        assert gate.daemon.wait() == 0
        gate.daemon.start()
        assert second.reply() == b"250 2.1.5 Ok\r\n"
        queue_id(second.content(MESSAGE))


# --- crashes

COUNTS = """
class Counts(Plugin):
    async def rcpt(self, transaction, recipient):
        self.log.info("counted", so_far=await self.store.increment("counts:rcpt"))

    async def data_post(self, transaction, message):
        if transaction.sender.local == "slow":
            self.log.info("data_post begins")
            await asyncio.sleep(30)
"""


def crash(gate: Gate) -> None:
    """Kill the daemon as the kernel would, and start the next one."""
    gate.daemon.kill()
    assert (gate.daemon.directory / "run" / "milter.sock").exists()
    gate.daemon.start()


@pytest.mark.parametrize("stage", ["rcpt", "content", "hook"])
def test_a_crash_queues_nothing_and_is_a_451(gate: Gate, stage: str) -> None:
    gate.use(hooks={"counts": COUNTS})
    seen = gate.daemon.log_size()
    with gate.client() as client:
        assert client.transaction(b"a@example.org", sender=b"slow@example.com") == [b"250 2.1.5 Ok\r\n"]
        if stage == "rcpt":
            crash(gate)
            reply = client.content(MESSAGE)
        else:
            client.command(b"DATA")
            client.send(MESSAGE if stage == "hook" else MESSAGE[:10])
            if stage == "hook":
                gate.daemon.wait_for_log("data_post begins", since=seen)
            crash(gate)
            client.send(b"" if stage == "hook" else MESSAGE[10:])
            reply = client.reply()
        assert reply.startswith(b"451 4.3.0")
        assert gate.queue() == []
        client.command(b"RSET")
        queue_id(client.message())


def test_the_store_outlives_a_crash(gate: Gate) -> None:
    gate.use(hooks={"counts": COUNTS})
    seen = gate.daemon.log_size()
    for _ in range(2):
        queue_id(gate.send())
        gate.wait_until_idle()
        crash(gate)
    counted = [int(count) for count in re.findall(r"event=counted .*so_far=(\d+)", gate.daemon.log(seen))]
    assert counted == [counted[0], counted[0] + 1]


def test_crashes_under_load_queue_each_message_once_and_every_250_is_kept(gate: Gate) -> None:
    enough = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as threads:
        sending = [threads.submit(send_until, gate, number, enough) for number in range(CLIENTS)]
        try:
            for _ in range(RESTARTS):
                wait_until(partial(more_than, gate, listed(gate) + CLIENTS), 60)
                crash(gate)
        finally:
            enough.set()
        heard = {subject: reply for done in sending for subject, reply in done.result().items()}
    queued = subjects(gate)
    assert {reply[:4] for reply in heard.values()} <= {b"250 ", b"451 "}
    assert {subject for subject, reply in heard.items() if reply.startswith(b"250")} <= set(queued)
    assert set(queued.values()) == {1}
