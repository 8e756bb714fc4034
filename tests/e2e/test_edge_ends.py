"""How sessions of the edge end: clients that vanish, a daemon that ends under its clients, hooks that linger."""

from __future__ import annotations

import re
import signal
import threading
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
from tests.e2e.edge_rig import EDGE, NOTES, counted, put_edge_on_front, wait_until_left
from tests.e2e.gate import MESSAGE, Gate, reset_connection
from tests.e2e.postfix_rig import SmtpClient, queue_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

VANISHING = 60
"""At once; every second one leaves without a word."""


@pytest.fixture(scope="module")
def edge_gate(module_gate: Gate) -> Gate:
    """Put the edge on the front, which refuses a recipient by itself."""
    put_edge_on_front(module_gate)
    return module_gate


@pytest.fixture
def notes(edge_gate: Gate, gate: Gate) -> Gate:
    wait_until_left(gate)
    gate.use(hooks={"notes": NOTES}, milter=EDGE)
    return gate


def test_clients_that_vanish_leave_nothing_behind(notes: Gate) -> None:
    vanish: list[Callable[[SmtpClient], object]] = [
        lambda client: None,
        lambda client: client.send(b"EHL"),
        lambda client: client.send(b"EHLO x\r\nMAIL FROM:<a@example.com>\r\n"),
        lambda client: (client.command(b"EHLO x"), client.transaction(b"nobody@example.org")),
        lambda client: (client.command(b"EHLO x"), client.transaction(b"a@example.org"), client.command(b"DATA")),
    ]
    together = threading.Barrier(VANISHING, timeout=60)

    def visit(number: int) -> None:
        client = SmtpClient(notes.postfix.front_port, helo=None, timeout_s=60)
        together.wait()
        if number % 2:
            vanish[number // 2 % len(vanish)](client)
            reset_connection(client)
        else:
            client.command(b"EHLO stays")
            queued.append(queue_id(client.message()))
            client.close()

    queued: list[str] = []
    seen = notes.daemon.log_size()
    threads = [threading.Thread(target=visit, args=(number,)) for number in range(VANISHING)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(queued) == VANISHING / 2
    wait_until(lambda: counted(notes, seen)["disconnect"] == VANISHING, 60)
    saw = counted(notes, seen)
    assert saw["connect"] == VANISHING
    assert saw["mail"] == saw["reset"] >= VANISHING / 2


def test_what_a_transaction_leaves_behind_does_not_hold_up_the_client(notes: Gate) -> None:
    release = notes.daemon.directory / "release"
    release.unlink(missing_ok=True)
    source = f"""
    class Lingers(Plugin):
        async def mail(self, transaction, sender, parameters):
            self.log.info("saw mail", sender=sender.local)

        async def reset_transaction(self, transaction):
            while transaction.sender.local == "slow" and not Path({str(release)!r}).exists():
                await asyncio.sleep(0.02)
            self.log.info("saw reset", sender=transaction.sender.local)

        async def disconnect(self, session):
            self.log.info("saw disconnect")
    """
    table = '[[plugin]]\nname = "lingers"\ntimeout = "25s"\n'
    hooks = {"lingers": "from pathlib import Path\n" + dedent(source)}
    notes.use(table, hooks=hooks, milter={"edge": True, "edge_timeout": "2s"})
    seen = notes.daemon.log_size()
    with notes.client() as client:
        assert client.command(b"MAIL FROM:<slow@example.com>").startswith(b"250 ")
        client.command(b"RSET")
        assert client.command(b"MAIL FROM:<next@example.com>").startswith(b"250 ")
    notes.daemon.wait_for_log("saw reset.* sender=next", since=seen)
    assert "saw disconnect" not in notes.daemon.log(seen), "its last transaction is not done"
    release.touch()
    notes.daemon.wait_for_log("saw disconnect", since=seen)
    assert re.findall(r'saw reset".* sender=(\w+)', notes.daemon.log(seen)) == ["next", "slow"]


def test_a_restart_under_a_client_puts_it_off_and_the_next_is_served(notes: Gate) -> None:
    with notes.client() as before, notes.client() as in_transaction:
        in_transaction.command(b"MAIL FROM:<a@example.com>")
        notes.use(hooks={"notes": NOTES}, milter=EDGE, restart=True)
        assert before.command(b"MAIL FROM:<a@example.com>").startswith(b"4")
        assert in_transaction.command(b"RCPT TO:<a@example.org>").startswith(b"4")
    assert notes.send().startswith(b"250")


def test_a_client_that_idles_on_old_plugins_does_not_hold_up_the_end(notes: Gate) -> None:
    seen = notes.daemon.log_size()
    with notes.client() as client:
        client.command(b"MAIL FROM:<a@example.com>")
        notes.use(hooks={"notes": NOTES}, milter=EDGE)
        notes.daemon.signal(signal.SIGTERM)
        assert notes.daemon.wait() == 0
        assert client.command(b"RCPT TO:<a@example.org>").startswith(b"4")
    assert counted(notes, seen)["reset"] == counted(notes, seen)["disconnect"] == 1
    notes.use(hooks={"notes": NOTES}, milter=EDGE)


def test_a_client_that_comes_while_the_daemon_ends_hears_421(notes: Gate) -> None:
    with notes.client() as under_way, notes.client() as idle:
        under_way.transaction(b"a@example.org")
        seen = notes.daemon.log_size()
        notes.daemon.signal(signal.SIGTERM)
        notes.daemon.wait_for_log("event=stopping", since=seen)
        assert idle.command(b"MAIL FROM:<a@example.com>").startswith(b"421 4.3.2 ")
        assert idle.hung_up()
        with SmtpClient(notes.postfix.front_port, helo=None) as late:
            assert late.greeting.startswith(b"421 ")
        queue_id(under_way.content(MESSAGE))
        assert notes.daemon.wait() == 0
    notes.use(hooks={"notes": NOTES}, milter=EDGE)


def test_a_crash_under_a_client_puts_it_off_and_the_next_is_served(notes: Gate) -> None:
    with notes.client() as client:
        queue_id(client.message())
        notes.daemon.kill()
        notes.use(hooks={"notes": NOTES}, milter=EDGE)
        assert client.command(b"MAIL FROM:<a@example.com>").startswith(b"451 4.7.1 ")
    assert notes.send().startswith(b"250")
