"""Each edit of a content hook, as Postfix's queue has it: what it names is changed, and nothing else."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import queue_id

if TYPE_CHECKING:
    from tests.e2e.gate import Gate

HEADER = (
    b"From: a@example.com\r\nX-One:  two blanks\r\nSubject: a\r\n\tfolded one\r\nX-One:\ttab\r\n"
    b"X-Last: \xc3\xbc \r\n\r\n"
)
BODY = b"text\r\n..a dot\r\n\r\nend\r\n\r\n"
RECIPIENTS = (b"a@example.org", b"B.b@Example.ORG")


def edited(gate: Gate, statement: str) -> tuple[str, list[str], bytes, bytes]:
    """Send the message through a plugin of that statement; return sender, recipients, header and body as queued."""
    source = f"class Edits(Plugin):\n    def data_post(self, transaction, message):\n        {statement}\n"
    gate.use(hooks={"edits": source})
    with gate.client() as client:
        queue_id(client.message(HEADER + BODY + b".\r\n", *RECIPIENTS))
    entry, queued = gate.take()
    header, _, body = re.sub(rb"(?m)^Received: .*\n(?:[ \t].*\n)*", b"", queued).partition(b"\r\n\r\n")
    return entry.sender, sorted(entry.recipients), header + b"\r\n\r\n", body


PLAIN_BODY = BODY.replace(b"..", b".")
PLAIN_RECIPIENTS = ["B.b@Example.ORG", "a@example.org"]


@pytest.mark.parametrize(
    ("statement", "header"),
    [
        ("message.add_header('X-New', 'n')", HEADER[:-2] + b"X-New: n\r\n\r\n"),
        ("message.insert_header(0, 'X-New', 'n')", b"X-New: n\r\n" + HEADER),
        ("message.change_header('X-One', 'new')", HEADER.replace(b"X-One:  two blanks", b"X-One: new")),
        ("message.change_header('x-one', 'new', 2)", HEADER.replace(b"X-One:\ttab", b"x-one: new")),
        ("message.delete_header('X-One', 2)", HEADER.replace(b"X-One:\ttab\r\n", b"")),
        (
            "message.delete_header('X-One', None)",
            HEADER.replace(b"X-One:\ttab\r\n", b"").replace(b"X-One:  two blanks\r\n", b""),
        ),
        ("message.delete_header('Subject')", HEADER.replace(b"Subject: a\r\n\tfolded one\r\n", b"")),
        ("message.delete_header('X-Absent')", HEADER),
        (
            "message.change_header('Subject', 'b\\r\\n\\tfolded too')",
            HEADER.replace(b"a\r\n\tfolded one", b"b\r\n\tfolded too"),
        ),
    ],
)
def test_an_edit_of_the_header_touches_that_field_alone(gate: Gate, statement: str, header: bytes) -> None:
    sender, recipients, got, body = edited(gate, statement)
    # Postfix finds a field without regard to case; which spelling is written is not ours to promise.
    assert got.replace(b"x-one: new", b"X-One: new") == header.replace(b"x-one: new", b"X-One: new")
    assert (sender, recipients, body) == ("sender@example.com", PLAIN_RECIPIENTS, PLAIN_BODY)


@pytest.mark.parametrize(
    ("statement", "body"),
    [
        ("message.replace_body(b'new\\r\\n.\\r\\n')", b"new\r\n.\r\n"),
        ("message.replace_body(b'')", b""),
        ("message.append_to_body(b'-- \\r\\nsig\\r\\n')", PLAIN_BODY + b"-- \r\nsig\r\n"),
        ("message.replace_body(b'0123456789abcde\\r\\n' * 200_000)", b"0123456789abcde\r\n" * 200_000),
    ],
    ids=["replace", "empty", "append", "large"],
)
def test_an_edit_of_the_body_leaves_the_header(gate: Gate, statement: str, body: bytes) -> None:
    sender, recipients, header, got = edited(gate, statement)
    assert got == body
    assert (sender, recipients, header) == ("sender@example.com", PLAIN_RECIPIENTS, HEADER)


@pytest.mark.parametrize(
    ("statement", "sender", "recipients"),
    [
        ("message.change_sender('new@example.net')", "new@example.net", PLAIN_RECIPIENTS),
        ("message.change_sender('')", "MAILER-DAEMON", PLAIN_RECIPIENTS),
        ("message.add_recipient('c@example.net')", "sender@example.com", [*PLAIN_RECIPIENTS, "c@example.net"]),
        ("message.delete_recipient('a@example.org')", "sender@example.com", PLAIN_RECIPIENTS[:1]),
        ("message.delete_recipient('B.b@example.org')", "sender@example.com", PLAIN_RECIPIENTS[1:]),
    ],
)
def test_an_edit_of_the_envelope_leaves_the_message(
    gate: Gate, statement: str, sender: str, recipients: list[str]
) -> None:
    assert edited(gate, statement) == (sender, recipients, HEADER, PLAIN_BODY)


def test_a_quarantined_message_is_held(gate: Gate) -> None:
    source = (
        "class Holds(Plugin):\n    def data_post(self, transaction, message):\n        message.quarantine('look')\n"
    )
    gate.use(hooks={"holds": source})
    seen = gate.daemon.log_size()
    queue_id(gate.send())
    (entry,) = gate.queue()
    assert entry.queue_name == "hold"
    gate.daemon.wait_for_log("rcpt@example.org=held", since=seen)


def test_deleting_the_last_recipient_is_an_error_of_the_plugin(gate: Gate) -> None:
    source = """
    class Deletes(Plugin):
        def data_post(self, transaction, message):
            for recipient in message.recipients:
                message.delete_recipient(recipient)
    """
    gate.use(hooks={"deletes": source})
    assert gate.send().startswith(b"451 4.3.0")
    assert gate.queue() == []


def test_a_deleted_recipient_is_counted_as_discarded(gate: Gate) -> None:
    source = """
    class Deletes(Plugin):
        def data_post(self, transaction, message):
            message.delete_recipient("b@example.org")
    """
    gate.use(hooks={"deletes": source}, restart=True)
    gate.send(b".\r\n", b"a@example.org", b"b@example.org")
    gate.wait_until_idle()
    assert gate.tally() == {"offered": 2, "accepted": 1, "discarded": 1}


def test_edits_of_several_plugins_add_up_in_their_order(gate: Gate) -> None:
    first = (
        "class First(Plugin):\n    def data_post(self, transaction, message):\n        message.add_header('X-A', '1')\n"
    )
    second = (
        "class Second(Plugin):\n    def data_post(self, transaction, message):\n"
        "        message.change_header('X-A', message.headers.get('X-A') + '2')\n"
    )
    gate.use(hooks={"first": first, "second": second})
    queue_id(gate.send())
    assert gate.take()[1].count(b"\r\nX-A: 12\r\n") == 1


@pytest.mark.parametrize(("count", "reply"), [(1000, b"250 "), (1001, b"554 5.6.0 "), (9990, b"554 5.6.0 ")])
def test_a_message_that_needs_thousands_of_edits_is_refused_and_not_put_off_for_ever(
    gate: Gate, count: int, reply: bytes
) -> None:
    deletes = "class Edits(Plugin):\n    def data_post(self, transaction, message):\n        "
    gate.use(hooks={"edits": f"{deletes}message.delete_header('X-Forged', None)\n"})
    assert gate.send(b"X-Forged: y\r\n" * count + HEADER + b"\r\n.\r\n").startswith(reply)
    assert [b"X-Forged" in gate.postfix.message(entry.queue_id) for entry in gate.queue()] == [False] * (count == 1000)
