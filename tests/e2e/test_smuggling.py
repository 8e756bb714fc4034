"""Nobody gets a second message through inside a first, whatever his line ends (RFC 5321 section 2.3.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import queue_id

if TYPE_CHECKING:
    from tests.e2e.gate import Gate

SECOND = b"MAIL FROM:<smuggler@example.com>\r\nRCPT TO:<victim@example.org>\r\nDATA\r\nSubject: smuggled\r\n\r\n"

ENDS = [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r\n.\r\r\n", b"\n", b"\r"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("hooks", [False, True], ids=["no hooks", "content hook"])
def test_a_bare_cr_or_lf_ends_the_connection(gate: Gate, end: bytes, hooks: bool) -> None:
    source = "class Reads(Plugin):\n    def data_post(self, transaction, message):\n        pass\n"
    gate.use(hooks={"reads": source} if hooks else {})
    with gate.proxy_client() as front:
        front.transaction(b"a@example.org")
        front.command(b"DATA")
        front.send(b"Subject: first\r\n\r\ntext" + end + SECOND + b"more\r\n")
        front.send(b".\r\n")
        assert front.reply() == b"521 5.6.0 bare CR or LF in the message is not allowed\r\n"
    assert gate.queue() == []


def test_the_client_is_told_when_postfix_lets_a_bare_cr_through(gate: Gate) -> None:
    with gate.client() as client:
        client.transaction(b"a@example.org")
        client.command(b"DATA")
        client.send(b"Subject: first\r\n\r\nlone\rcr\r\n.\r\n")
        assert client.reply().startswith(b"521 5.6.0")
        assert client.hung_up()
    assert gate.queue() == []


@pytest.mark.parametrize("end", ENDS)
def test_normalize_makes_one_message_of_it(gate: Gate, end: bytes) -> None:
    gate.use(proxy={"bare_newline": "normalize"})
    with gate.proxy_client() as front:
        front.transaction(b"a@example.org")
        front.command(b"DATA")
        front.send(b"Subject: first\r\n\r\ntext" + end + SECOND + b"more\r\n.\r\n")
        queue_id(front.reply())
    entry, queued = gate.take()
    assert entry.recipients == ("a@example.org",)
    lines = queued.split(b"\r\n")
    assert b"MAIL FROM:<smuggler@example.com>" in lines
    assert b"more" in lines
    assert b"\n" not in queued.replace(b"\r\n", b"")
    assert b"\r" not in queued.replace(b"\r\n", b"")


def test_a_reload_in_between_does_not_change_what_a_connection_does(gate: Gate) -> None:
    with gate.proxy_client() as front:
        front.transaction(b"a@example.org")
        front.command(b"DATA")
        front.send(b"Subject: first\r\n\r\na\nb\r\n")
        gate.use(proxy={"bare_newline": "normalize"})
        assert front.command(b".").startswith(b"521 5.6.0")
    assert gate.queue() == []
