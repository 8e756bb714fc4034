"""A client or a front that is gone in the middle leaves nothing behind: no mail, no connection, no file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.e2e.gate import MESSAGE, open_files, reset_connection
from tests.e2e.postfix_rig import queue_id, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.gate import Gate
    from tests.e2e.postfix_rig import SmtpClient

STAGES = ("mail", "rcpt", "data", "content", "before the dot", "after the dot")

HOOKS = {
    "reads": """
        from pathlib import Path

        class Reads(Plugin):
            async def data_post(self, transaction, message):
                self.log.info("reads")
                await asyncio.sleep(0.05)
                while (Path(__file__).parent / "wait").exists():
                    await asyncio.sleep(0.01)
                message.replace_body(b"x" * 2_000_000)
        """
}


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    loop: str = request.param
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    return loop


@pytest.fixture
def leaves_nothing(gate: Gate) -> Iterator[None]:
    """Compares what the daemon holds open before and after, with no connection in the pool."""

    def settled() -> int:
        gate.wait_until_idle()
        gate.daemon.reload()
        gate.wait_until_pool_is_empty()
        return len(open_files(gate.daemon.pid))

    gate.use(hooks=HOOKS)
    queue_id(gate.send())
    gate.postfix.empty_queue()
    before = settled()
    yield
    settled()

    def is_clean() -> bool:
        files = open_files(gate.daemon.pid)
        return len(files) <= before and not any("deleted" in file for file in files)

    # libmilter's threads close their side a moment after Postfix has closed; cleanup(8) removes what it was to queue a
    # moment after its client has gone, and qmgr(8) moves on what is queued. Nothing else would ever do it.
    wait_until(is_clean)
    wait_until(lambda: not [file for file in (gate.postfix.queue_dir / "incoming").rglob("*") if file.is_file()])


def wait_for_ends(gate: Gate, seen: int, count: int) -> None:
    """Return once so many transactions have ended since; none of them accepted."""
    wait_until(lambda: gate.daemon.log(seen).count(" event=transaction ") >= count)
    assert "=accepted" not in gate.daemon.log(seen)


def walk(client: SmtpClient, stage: str) -> None:
    """Go on up to the stage, in replies received."""
    client.command(b"MAIL FROM:<a@example.com>")
    if stage == "mail":
        return
    client.command(b"RCPT TO:<b@example.org>")
    if stage == "rcpt":
        return
    client.command(b"DATA")
    if stage == "data":
        return
    client.send(b"Subject: half\r\n\r\n" + (b"y" * 70 + b"\r\n") * (3 if stage == "content" else 30_000))
    if stage == "content":
        client.send(b"in the middle of a li")
    elif stage == "after the dot":
        client.send(b".\r\n")


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("manner", ["closes", "resets"])
def test_nothing_is_queued_for_a_client_that_vanishes_before_the_dot(gate: Gate, manner: str) -> None:
    seen = gate.daemon.log_size()
    for stage in STAGES[:-1]:
        client = gate.client()
        walk(client, stage)
        client.close() if manner == "closes" else reset_connection(client)
    # Of the first, gatepost hears nothing.
    wait_for_ends(gate, seen, len(STAGES) - 2)
    assert gate.queue() == []
    queue_id(gate.send())
    assert len(gate.queue()) == 1


@pytest.mark.usefixtures("leaves_nothing")
def test_a_client_that_vanishes_after_the_dot_may_have_sent_it(gate: Gate) -> None:
    client = gate.client()
    walk(client, "after the dot")
    reset_connection(client)
    assert len(gate.queue()) <= 1
    queue_id(gate.send())


@pytest.mark.usefixtures("leaves_nothing")
@pytest.mark.parametrize("manner", ["closes", "resets"])
def test_a_front_that_vanishes_has_queued_nothing(gate: Gate, manner: str) -> None:
    """As after Postfix's smtpd_proxy_timeout: the client was told 451, and will come again."""
    seen = gate.daemon.log_size()
    wait = gate.daemon.hooks_dir / "wait"
    wait.touch()
    try:
        for stage in STAGES:
            client = gate.proxy_client()
            walk(client, stage)
            if stage == "after the dot":
                gate.daemon.wait_for_log("event=reads", since=seen)
            client.close() if manner == "closes" else reset_connection(client)
        # The front is gone before the hook is done.
        gate.wait_until_idle()
    finally:
        wait.unlink()
    wait_for_ends(gate, seen, len(STAGES))
    assert gate.queue() == []
    queue_id(gate.send())


@pytest.mark.usefixtures("leaves_nothing")
def test_eof_in_the_content_is_no_end_even_after_a_quit(gate: Gate) -> None:
    """What the front writes when its client is gone."""
    seen = gate.daemon.log_size()
    with gate.proxy_client() as front:
        walk(front, "content")
        front.send(b"ne\r\nQUIT\r\n")
    gate.daemon.wait_for_log("b@example.org=aborted", since=seen)
    assert gate.queue() == []


@pytest.mark.usefixtures("leaves_nothing")
def test_every_recipient_has_an_outcome_in_the_log(gate: Gate) -> None:
    seen = gate.daemon.log_size()
    client = gate.client()
    client.transaction(b"a@example.org", b"gone@example.net")
    reset_connection(client)
    gate.daemon.wait_for_log('rcpt="a@example.org=aborted gone@example.net=refused"', since=seen)


def test_mail_goes_on_when_hundreds_have_vanished(gate: Gate) -> None:
    gate.use(restart=True)
    for n in range(100):
        client = gate.proxy_client()
        walk(client, STAGES[n % 4])
        reset_connection(client)
    queue_id(gate.send(MESSAGE, b"a@example.org", b"b@example.org"))
    gate.wait_until_idle()
    tally = gate.tally()
    assert tally == {"aborted": 75, "accepted": 2, "offered": 77}
