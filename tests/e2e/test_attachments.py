"""attachments, bogus_bounce and content_log side by side behind a real Postfix: what passes, passes byte for byte."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING

from tests.e2e.postfix_rig import queue_id, wait_until

if TYPE_CHECKING:
    from tests.e2e.gate import Gate

PLUGINS = """
[[plugin]]
name = "bogus_bounce"
[[plugin]]
name = "content_log"
file = "content.json"
sha256 = true
[[plugin]]
name = "attachments"
"""


def mail(name: str, content: bytes = b"content") -> bytes:
    return (
        b"From: a@example.net\r\nSubject: \xc3\xa4 test\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/mixed;\r\n\tboundary="b"\r\n\r\n--b\r\n\r\nhello\r\n\r\n--b\r\n'
        b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n"
        b"Content-Disposition: attachment; filename*=utf-8''" + name.encode() + b"\r\n\r\n"
        + base64.encodebytes(content).replace(b"\n", b"\r\n") + b"--b--\r\n.\r\n"
    )  # fmt: skip


def test_a_dangerous_attachment_is_refused_and_what_became_of_each_message_is_written_down(gate: Gate) -> None:
    gate.use(PLUGINS)
    assert gate.send(mail("invoice%2Eexe")) == (
        b'554 5.7.1 the attachment "invoice.exe" is of a kind that is not accepted here (exe)\r\n'
    )
    assert gate.send(mail("a.jpg", b"MZ\x90\0" + bytes(99))).startswith(
        b'554 5.7.1 the attachment "a.jpg" is of a kind'
    )
    assert gate.queue() == []
    queue_id(gate.send(mail("invoice.pdf")))
    entry, text = gate.take()
    assert text.endswith(mail("invoice.pdf").removesuffix(b".\r\n"))
    file = gate.daemon.directory / "content.json"
    wait_until(lambda: file.exists() and file.read_bytes().count(b"\n") == 3)
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record["refused_by"] for record in records] == ["attachments", "attachments", None]
    assert [record["queue_id"] for record in records] == [None, None, entry.queue_id]
    assert [record["attachments"][0]["names"] for record in records] == [["invoice.exe"], ["a.jpg"], ["invoice.pdf"]]


def test_a_bounce_to_two_recipients_is_refused_at_data_and_one_to_one_passes(gate: Gate) -> None:
    gate.use(PLUGINS)
    with gate.client() as client:
        assert [reply[:3] for reply in client.transaction(b"rcpt@example.org", b"rcpt2@example.org", sender=b"")] == [
            b"250",
            b"250",
        ]
        assert client.command(b"DATA") == b"554 5.7.1 a bounce has one recipient, not 2\r\n"
        client.command(b"RSET")
        queue_id(client.message(sender=b""))


def test_a_return_path_is_seen_where_postfix_does_not_drop_it(gate: Gate) -> None:
    gate.use(PLUGINS)
    content = b"Return-Path: <a@example.net>\r\nFrom: a@example.net\r\n\r\ntext\r\n.\r\n"

    def reply() -> bytes:
        with gate.client() as client:
            return client.message(content, sender=b"")

    queue_id(reply())
    gate.postfix.postconf_edit({"message_drop_headers": "bcc, content-length, resent-bcc"})
    gate.postfix.reload()
    try:
        assert reply() == b"554 5.7.1 this bounce has a Return-Path\r\n"
    finally:
        gate.postfix.postconf("-X", "message_drop_headers")
        gate.postfix.reload()


def test_no_message_that_postfix_takes_by_default_is_too_large_to_be_looked_at(gate: Gate) -> None:
    limit = int(gate.postfix.postconf("-d", "-h", "message_size_limit"))
    gate.use(PLUGINS)
    content = mail("invoice%2Eexe")
    padding = (b"x" * 76 + b"\r\n") * ((limit - len(content)) // 78 - 10)
    assert b"(exe)" in gate.send(content.replace(b"hello", b"hello\r\n" + padding))
