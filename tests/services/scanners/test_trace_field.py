"""The envelope as a scanner is told it: Postfix's own word where it can be had, and nothing of a stranger's making."""

from __future__ import annotations

from typing import Any

import pytest

from gatepost.address import Address
from gatepost.message.header import Headers
from gatepost.message.message import Message
from gatepost.services.scanners.trace_field import own_received, with_envelope
from gatepost.session import Session, Transaction

POSTFIX = (
    b"Received: from client.example (host.example [192.0.2.1])\r\n"
    b"\tby mx.example.org (Postfix) with ESMTP\r\n\tfor <b@example.org>; Tue, 24 Nov 2026 00:31:58 +0000 (UTC)\r\n"
)
LOGGED_IN = POSTFIX.replace(b"ESMTP", b"ESMTPSA").replace(b"\tby", b"\t(Authenticated sender: x)\r\n\tby")


def handed_over(
    content: bytes = b"Subject: x\r\n\r\ntext\r\n", *, sender: str = "a@example.net", **facts: Any
) -> bytes:
    session = Session("s", facts.pop("address", "192.0.2.1"), **({"helo": "client.example"} | facts))
    transaction = Transaction("s.1", session, Address.parse(sender))
    message = Message.parse(content, transaction.sender, [Address.parse("b@example.org")])
    return with_envelope(transaction, message, "mx.example.org")


def received(**facts: Any) -> str:
    """Return the field made up, unfolded, without its date."""
    fields = Headers.parse(handed_over(**facts))
    assert [field.name for field in fields] == ["X-Envelope-From", "Received", "Subject"]
    return fields[1].raw.replace(b"\r\n", b"").replace(b"\t", b" ").decode().strip()


def test_without_a_received_of_our_own_one_is_made_up() -> None:
    made = received(name="host.example")
    assert made.startswith(
        "from client.example (host.example [192.0.2.1]) by mx.example.org (Postfix) with ESMTP id s.1"
    )
    assert " (envelope-from <a@example.net>); " in made
    assert received(esmtp=False, name=None, helo=None).startswith(
        "from unknown (unknown [192.0.2.1]) by mx.example.org (Postfix) with SMTP id"
    )


def test_tls_and_login_are_told() -> None:
    made = received(address="2001:db8::1", tls_version="TLSv1.3", tls_cipher="TLS_AES_256", login="al ice", esmtp=True)
    assert made.startswith(
        "from client.example (unknown [IPv6:2001:db8::1]) (using TLSv1.3 with cipher TLS_AES_256) "
        "(Authenticated sender: al_ice) by mx.example.org (Postfix) with ESMTPSA id"
    )


@pytest.mark.parametrize(
    "facts",
    [
        {"helo": "x) by mx with ESMTPSA id (y"},
        {"helo": "x\r\nX-Spam-Flag: NO"},
        {"helo": "envelope-from=<b@c>"},
        {"name": "x (Authenticated sender: y)"},
        {"address": "unknown"},
        {"helo": "\udcff\0"},
        {"sender": '"a) by b with ESMTPA c"@example.net'},
        {"sender": "ä@example.net"},
        {"sender": '"<>"@example.net'},
    ],
)
def test_nothing_that_a_client_says_becomes_another_fact(facts: dict[str, Any]) -> None:
    made = received(**facts)
    assert (made.count(" by "), made.count(" with "), made.count("(")) == (1, 1, 3 if "sender" not in facts else 2)
    assert "Authenticated sender" not in made
    assert "envelope-from=" not in made
    assert made.isascii()


def test_the_envelope_sender_is_one_line_whatever_it_holds() -> None:
    assert handed_over(sender="").startswith(b"X-Envelope-From: <>\r\nReceived: ")
    evil = Transaction("s.1", Session("s", "192.0.2.1"), Address("a\r\nX: y\0", "example.net"))
    message = Message.parse(b"\r\n", evil.sender, [Address("b")])
    assert with_envelope(evil, message, "mx").startswith(b'X-Envelope-From: <"a__X: y_"@example.net>\r\nReceived: ')


def test_postfixs_own_received_is_kept_and_told_the_sender() -> None:
    got = handed_over(POSTFIX + b"Received: from elsewhere\r\n\r\ntext\r\n")
    assert got == (
        b"X-Envelope-From: <a@example.net>\r\n"
        + POSTFIX.replace(b"; ", b"\r\n\t(envelope-from <a@example.net>); ")
        + b"Received: from elsewhere\r\n\r\ntext\r\n"
    )


@pytest.mark.parametrize(
    ("header", "facts", "ours"),
    [
        (POSTFIX, {}, True),
        (POSTFIX.replace(b"[192.0.2.1]", b"[IPv6:2001:db8::1]"), {"address": "2001:db8::1"}, True),
        (LOGGED_IN, {}, True),  # Without the edge door nobody knows better.
        (LOGGED_IN, {"daemon_name": "smtpd"}, False),
        (LOGGED_IN, {"daemon_name": "smtpd", "login": "x"}, True),
        (POSTFIX, {"address": "192.0.2.10"}, False),
        (POSTFIX, {"address": "192.0.2"}, False),
        (POSTFIX, {"address": "unknown"}, False),
        (b"Subject: x\r\n" + POSTFIX, {}, False),
        (b"Received: from x by y\r\n" + POSTFIX, {}, False),
        (b"", {}, False),
        (b"Received:\r\n", {}, False),
        (b"Received: from " + b"x (" * 30_000 + b"\r\n", {}, False),
    ],
)
def test_a_received_is_only_ours_if_it_names_this_client(header: bytes, facts: dict[str, Any], ours: bool) -> None:
    session = Session("s", **({"address": "192.0.2.1"} | facts))
    assert (own_received(Headers.parse(header), session) is not None) == ours
