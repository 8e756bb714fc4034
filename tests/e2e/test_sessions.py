"""A client's session: which connections belong to it, what it knows, when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import queue_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.gate import Gate

TELLS = """
class Tells(Plugin):
    def connect(self, session):
        self.log.info("begins", address=session.address, host=session.name, helo=session.helo, esmtp=session.esmtp)
        self.notes(session)["helo"] = session.helo

    def rcpt(self, transaction, recipient):
        self.log.info("rcpt", knows=self.notes(transaction.session)["helo"], id=transaction.id)

    def disconnect(self, session):
        self.log.info("ends", helo=session.helo)
"""


@pytest.fixture
def short(gate: Gate) -> Iterator[Gate]:
    """Sessions end soon after their last message."""
    gate.use(hooks={"tells": TELLS}, restart=True, proxy={"session_idle": "0.3s"})
    yield gate
    gate.use(restart=True)


def test_it_knows_the_client_as_postfix_does(gate: Gate) -> None:
    gate.use(hooks={"tells": TELLS})
    seen = gate.daemon.log_size()
    with gate.client() as client:
        client.command(b"XCLIENT NAME=mail.example.com ADDR=IPV6:2001:db8::1 PORT=4711 PROTO=ESMTP")
        client.command(b"EHLO mail.example.com")
        queue_id(client.message())
    gate.daemon.wait_for_log(
        "event=begins .*address=2001:db8::1 host=mail.example.com helo=mail.example.com esmtp=true", since=seen
    )


@pytest.mark.parametrize(
    ("xforward", "address"),
    [
        (b"XFORWARD NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE] PORT=[UNAVAILABLE] SOURCE=REMOTE", "unknown"),
        (b"NOOP", "127.0.0.1"),
    ],
    ids=["Postfix does not know the client", "no Postfix front"],
)
def test_a_client_without_an_address_is_not_taken_for_the_front(gate: Gate, xforward: bytes, address: str) -> None:
    gate.use(hooks={"tells": TELLS})
    seen = gate.daemon.log_size()
    with gate.proxy_client() as client:
        client.command(xforward)
        client.command(b"MAIL FROM:<a@example.com>")
    gate.daemon.wait_for_log(f"event=begins .*address={address} ", since=seen)


def test_it_ends_when_it_has_been_idle(short: Gate) -> None:
    seen = short.daemon.log_size()
    with short.client() as client:
        queue_id(client.message())
        short.daemon.wait_for_log("event=ends .*helo=client.example.com", since=seen)
        queue_id(client.message())
    log = short.daemon.log(seen)
    assert log.count("event=begins") == 2


def test_another_helo_is_another_session(short: Gate) -> None:
    seen = short.daemon.log_size()
    with short.client() as client:
        queue_id(client.message())
        client.command(b"EHLO second.example.com")
        queue_id(client.message())
    short.daemon.wait_for_log("event=ends .*helo=second.example.com", since=seen)
    log = short.daemon.log(seen)
    assert log.count("event=begins") == log.count("event=ends") == 2
    assert "knows=second.example.com" in log


def test_two_clients_of_one_address_are_two_sessions(gate: Gate) -> None:
    gate.use(hooks={"tells": TELLS})
    seen = gate.daemon.log_size()
    with gate.client() as one, gate.client() as two:
        two.command(b"EHLO two.example.com")
        for _ in range(3):
            queue_id(one.message())
            queue_id(two.message())
    log = gate.daemon.log(seen)
    assert log.count("event=begins") == 2
    assert log.count("knows=client.example.com") == log.count("knows=two.example.com") == 3


@pytest.mark.parametrize("blocking", [False, True], ids=["async", "blocking"])
def test_it_ends_after_a_reload_too(short: Gate, blocking: bool) -> None:
    source = TELLS.replace("class Tells(Plugin):", f"class Tells(Plugin):\n    blocking = {blocking}")
    short.use(hooks={"tells": source}, proxy={"session_idle": "0.3s"})
    seen = short.daemon.log_size()
    queue_id(short.send())
    short.use(hooks={"tells": source}, proxy={"session_idle": "0.3s"})
    short.daemon.wait_for_log("event=ends .*helo=client.example.com", since=seen)
    assert "level=error" not in short.daemon.log(seen)
