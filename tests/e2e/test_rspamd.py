"""rspamd behind a real Postfix: what it says reaches the client and the queue, and its troubles nobody but the log."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import queue_id
from tests.rigs.rspamd_rig import GTUBE, GTUBE_ADD_HEADER, GTUBE_REWRITE_SUBJECT, Rspamd, mail

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.gate import Gate


@pytest.fixture(scope="module")
def rspamd() -> Iterator[Rspamd]:
    with Rspamd() as running:
        yield running


def use(gate: Gate, rspamd: Rspamd, options: str = "", more: str = "") -> None:
    gate.use(f'[[plugin]]\nname = "rspamd"\nserver = "{rspamd.socket}"\n{options}\n{more}')


def queued(gate: Gate) -> bytes:
    """Return the header and body in the queue, without what Postfix itself has added."""
    _, text = gate.take()
    return re.sub(rb"(?m)^Received: .*\n(?:[ \t].*\n)*", b"", text)


def test_a_message_that_rspamd_lets_pass_is_byte_identical(gate: Gate, rspamd: Rspamd) -> None:
    use(gate, rspamd)
    content = mail(b"X-Odd:  \xff two\r\n\tlines ", body=b"..dot\r\n" + bytes(range(14, 256)) + b"\r\n\r\n")
    queue_id(gate.send(content + b".\r\n"))
    assert queued(gate) == content.replace(b"\r\n..", b"\r\n.")


def test_its_actions_reach_the_client_and_the_queue(gate: Gate, rspamd: Rspamd) -> None:
    use(gate, rspamd)
    assert gate.send(mail(body=GTUBE + b"\r\n.\r\n")) == b"554 5.7.1 Gtube pattern\r\n"
    assert gate.send(mail(b"X-Action: soft reject; Later") + b".\r\n") == b"451 4.7.1 Later\r\n"
    assert gate.queue() == []

    marked = mail(body=GTUBE_ADD_HEADER + b"\r\n")
    queue_id(gate.send(marked + b".\r\n"))
    assert queued(gate) == marked.replace(b"\r\n\r\n", b"\r\nX-Spam: Yes\r\n\r\n", 1)

    renamed = mail(body=GTUBE_REWRITE_SUBJECT + b"\r\n")
    queue_id(gate.send(renamed + b".\r\n"))
    assert queued(gate) == renamed.replace(b"Subject: hello", b"Subject: [SPAM] hello")

    seen = gate.daemon.log_size()
    queue_id(gate.send(mail(b"X-Action: quarantine") + b".\r\n"))
    (entry,) = gate.queue()
    assert entry.queue_name == "hold"
    gate.daemon.wait_for_log("rcpt@example.org=held", since=seen)


def test_its_milter_block_is_taken_over(gate: Gate, rspamd: Rspamd) -> None:
    use(gate, rspamd)
    block = {
        "remove_headers": {"X-Reply": 0, "X-Old": -1},
        "add_headers": {"X-Top": {"value": "1", "order": 0}, "X-Evil": "a\r\nX-Injected: b"},
        "change_from": "new@example.com",
        "add_rcpt": ["c@example.net"],
        "del_rcpt": ["b@example.org"],
    }
    content = mail(b"X-Old: 1", b"X-Old: 2", reply=block)
    seen = gate.daemon.log_size()
    queue_id(gate.send(content + b".\r\n", b"a@example.org", b"b@example.org"))
    (entry,) = gate.queue()
    assert (entry.sender, sorted(entry.recipients)) == ("new@example.com", ["a@example.org", "c@example.net"])
    assert queued(gate) == b"X-Top: 1\r\nFrom: a@example.net\r\nSubject: hello\r\nX-Old: 1\r\n\r\ntext\r\n"
    gate.daemon.wait_for_log('event="left out".*X-Evil', since=seen)


def test_recipients_may_have_it_their_way(gate: Gate, rspamd: Rspamd) -> None:
    aliases = "tolerant@example.org: (rspamd.reject=tag)\nstrict@example.org: (rspamd.mode=enforce)\n"
    content = mail(body=GTUBE + b"\r\n.\r\n")
    tables = f"""
        [content]
        disagree = "{{disagree}}"
        [[plugin]]
        name = "aliases"
        file = "aliases"
        [[plugin]]
        name = "rspamd"
        server = "{rspamd.socket}"
    """
    recipients = (b"tolerant@example.org", b"strict@example.org")
    gate.use(tables.format(disagree="lenient"), files={"aliases": aliases})
    before = rspamd.scans()
    queue_id(gate.send(content, *recipients))
    assert rspamd.scans() == before + 1
    assert b"X-Spam: Yes" in queued(gate)

    gate.use(tables.format(disagree="defer-rest"), files={"aliases": aliases})
    with gate.client() as client:
        tolerant, strict = client.transaction(*recipients)
        assert (tolerant[:3], strict[:9]) == (b"250", b"452 4.5.3")
        queue_id(client.content(content))
    assert gate.send(content, recipients[1]).startswith(b"554 5.7.1")


def test_hung_then_dead_then_back_and_nobody_is_told_anything_but_later(gate: Gate) -> None:
    with Rspamd() as own:
        # Only who is to be put off has little patience: a scan may take longer than that on a busy machine.
        impatient = b"impatient@gatepost.test"
        plugins = f"""
            [[plugin]]
            name = "aliases"
            file = "aliases"
            [[plugin]]
            name = "rspamd"
            server = "{own.socket}"
        """
        gate.use(plugins, files={"aliases": f"{impatient.decode()}: (rspamd.timeout=1s)\n"})
        spam = mail(body=GTUBE + b"\r\n.\r\n")
        assert gate.send(spam).startswith(b"554 5.7.1")
        seen = gate.daemon.log_size()
        with own.paused():
            for _ in range(3):
                assert gate.send(spam, impatient).startswith(b"451 4.3.0")
            assert gate.send(spam).startswith(b"451 4.3.0")
        log = gate.daemon.log(seen)
        assert log.count('event="server failed"') == 2
        assert log.count('event="server left alone"') == 1
        assert "is left alone for" in log
        own.stop()
        # A reload begins anew with every server.
        use(gate, own, 'on_unavailable = "pass"')
        queue_id(gate.send(spam))
        gate.postfix.empty_queue()
        own.start()
        assert gate.send(spam).startswith(b"554 5.7.1")
