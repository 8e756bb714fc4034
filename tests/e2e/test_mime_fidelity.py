"""Bytes pass as they are through all content plugins: the queue has what a Postfix without gatepost would have.

Each message goes to two services of one Postfix, one with gatepost and all plugins, one without; Postfix's own changes,
such as lines that it breaks, are so the same on both ways, and only its Received field is left out.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.e2e.content_stack import ORDER, Stack
from tests.e2e.postfix_rig import SmtpClient, queue_id, wait_until
from tests.rigs.dkim_rig import MESSAGE, signed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.e2e.gate import Gate

FROM: Final = b"From: a@example.com\r\nSubject: hello\r\n"
MIXED: Final = FROM + b"Content-Type: multipart/mixed; "
ENCODED: Final = FROM + b"Content-Transfer-Encoding: "


def multipart(depth: int) -> bytes:
    parts = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\npreamble\r\n--b%d\r\n" % (n, n) for n in range(depth)
    )
    return (
        FROM
        + b"MIME-Version: 1.0\r\n"
        + parts
        + b"\r\ntext\r\n"
        + b"".join(b"--b%d--\r\nepilogue \r\n" % n for n in reversed(range(depth)))
    )


MESSAGES: Final = {
    "nothing": b"",
    "an empty line": b"\r\n",
    "no header": b"\r\nbody alone\r\n",
    "no header, no empty line": b"this is no header field\r\nnor this\r\n",
    "no body": FROM,
    "no body, but an empty line": FROM + b"\r\n",
    "an empty body line": FROM + b"\r\n\r\n",
    "empty lines at the end": FROM + b"\r\ntext\r\n\r\n\r\n\r\n",
    "an mbox line on top": b"From a@example.com Mon Mar  2 12:00:00 2026\r\n" + FROM + b"\r\ntext\r\n",
    "a quoted mbox line on top": b">From a@example.com Mon Mar  2\r\n" + FROM + b"\r\nFrom here\r\n>From there\r\n",
    "no space after the colon": b"From:a@example.com\r\nSubject:hello\r\nX-A:\r\n\r\ntext\r\n",
    "spaces before and after the colon": b"From : a@example.com\r\nSubject \t:  two blanks\r\nX-T:\ttab \r\n\r\nx\r\n",
    "empty values": b"X-A:\r\nX-B: \r\nX-C: \t \r\nX-D:\r\n\r\n\r\n",
    "folded by tabs and spaces": FROM + b"To: a@example.org,\r\n\tb@example.org,\r\n     c@example.org\r\n\r\nx\r\n",
    "folded lines of blanks": FROM + b"X-A: one\r\n  \t\r\n two\r\nX-B:\r\n\tthree \r\n\r\nx\r\n",
    "begins with a folded line": b" folded what?\r\n" + FROM + b"\r\nx\r\n",
    "fields twice": b"From: a@example.com\r\nfrom: b@example.com\r\nFROM: c@example.com\r\nTo:\r\nTo:\r\n\r\nx\r\n",
    "odd names": b"X!#$%&'*+-.^_`{|}~: 1\r\nX/1(2): 3\r\n: nameless\r\n\r\nx\r\n",
    "not UTF-8": b"From: \xfc <a@example.com>\r\nX-\xe4: \xff\r\nSubject: \xc3\xbc \xe2\x82\r\n\r\n\x80\x9f\xff\r\n",
    "NUL": FROM + b"X-A: a\0b\r\nX-\0B: c\r\n\r\nd\0e\r\n\0\r\n",
    "control characters": FROM + b"X-A: \x01\x07\x0b\x0c\x1b\x7f\r\n\r\n" + bytes({*range(256)} - {10, 13}) + b"\r\n",
    "dots": FROM + b"\r\n..\r\n...\r\n..dot\r\n..\r\n. \r\n.a\r\n",
    "white space at the end": FROM + b"X-A: b \t \r\n\r\ntext  \r\n\t\r\n \r\n-- \r\nme \r\n",
    "format=flowed": FROM
    + b"Content-Type: text/plain; format=flowed; delsp=yes\r\n\r\n > quoted \r\n> > more \r\n From\r\n",
    "long lines in the body": FROM + b"\r\n" + b"x" * 998 + b"\r\n" + b"y" * 5_000 + b"\r\n" + b"z " * 40_000 + b"\r\n",
    "a long field": FROM + b"X-A: " + b"x" * 20_000 + b"\r\nX-B: c\r\n\r\nx\r\n",
    # With a milter Postfix cuts a field at 60,000 bytes, else at header_size_limit (102,400).
    "as long a field as Postfix keeps": FROM + b"X-A: " + b"word " * 11_998 + b"\r\nX-B: c\r\n\r\nx\r\n",
    "many folded lines": FROM + b"References:" + b"\r\n <1@example.com>" * 2_000 + b"\r\n\r\nx\r\n",
    "many fields": FROM + b"".join(b"X-%d: %d\r\n" % (n, n) for n in range(1_500)) + b"\r\nx\r\n",
    "nested multiparts": multipart(40),
    "a multipart without an end": multipart(3).rpartition(b"--b2--")[0],
    "a multipart without its boundary": MIXED + b"boundary=none\r\n\r\n--some\r\n\r\nx\r\n",
    "a boundary in quotes, twice": FROM
    + b'Content-Type: multipart/mixed; boundary="a b"; boundary=c\r\n\r\n--c\r\n\r\nx\r\n',
    "broken base64": ENCODED + b"base64\r\n\r\n!!!=A===\r\nAAAA=\r\n\xff\r\n",
    "broken quoted-printable": ENCODED + b"quoted-printable\r\n\r\n=\r\n=ZZ=3\r\n= \r\n==\r\n",
    "8bit that says 7bit": ENCODED + b"7bit\r\n\r\n\xfc\xff\r\n",
    "an attached message": FROM + b"Content-Type: message/rfc822\r\n\r\n" + FROM + b"\r\nFrom inside\r\n..\r\n",
    "Postfix's own fields": b"Return-Path: <x@example.com>\r\nReceived: from x\r\n\tby y\r\nBcc: b@example.org\r\n"
    b"Content-Length: 5\r\nResent-To:\r\n" + FROM + b"\r\nx\r\n",
    "two megabytes": FROM + b"\r\n" + b"".join(b"%071d\r\n" % n for n in range(30_000)),
    "ten megabytes of base64": ENCODED
    + b"base64\r\n\r\n"
    + base64.encodebytes(bytes(range(256)) * 30_000).replace(b"\n", b"\r\n"),
}

WATCHING: Final = 'mode = "observe"\n'
READ_ONLY: Final = {
    # What would be refused here, because it is as odd as it is, is to pass.
    **dict.fromkeys(("headers", "bogus_bounce", "attachments"), WATCHING),
    "dmarc": 'invalid_from = "allow"\n',
    "rspamd": 'size_limit = "8 MiB"\n',  # the rig's own limit
    "spamassassin": 'headers = []\nold_headers = "keep"\nsize_limit = "2 MiB"\n',
}
READERS: Final = tuple(name for name in ORDER if name not in {"authentication_results", "dkim_sign"})

WRITERS: Final = {
    "authentication_results": ("", rb"Authentication-Results: mx\.example\.org;.*\n(?:[ \t].*\n)*"),
    "clamav": ("mark_all = true\n", rb"X-Virus-Status: Clean\n"),
    "spamassassin": ('headers = ["Status"]\ntag_threshold = 1000\n', rb"X-Spam-Status: No.*\n(?:[ \t].*\n)*"),
    "rspamd": ('headers = ["X-Spam-Score"]\n', rb"X-Spam-Score: [-0-9.]+\n"),
    "dkim_sign": ('keys = "dkim_keys"\n', rb"DKIM-Signature: v=1;.*\n(?:[ \t].*\n)*"),
}
"""A plugin's options by which it adds the field."""

ED25519: Final = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A="
"""The secret key of RFC 8463, appendix A.2."""


PATIENT: Final = {"front_timeout": "100s"}
"""Time enough for all plugins with the largest message on a busy machine."""

POSTFIXS_OWN: Final = re.compile(rb"(?m)^Received: from [\w.]+ \(.*\n(?:\t.*\n)*?\t.*[+-]\d{4} \(\w+\)\n")
"""Ends with its date, whatever the message begins with."""


@pytest.fixture(scope="module")
def messages() -> dict[str, bytes]:
    return {**MESSAGES, "signed": signed(MESSAGE, c="simple/simple")}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as running:
        yield running


def queued(gate: Gate, messages: Iterable[bytes], *, plain: bool = False) -> list[bytes]:
    r"""Send the messages in one session; return them as they are queued, with `\n`, without Postfix's Received."""
    # The public smtpd and the inner one each add one; only a field that a plugin put on top stands above or between.
    port, hops = (gate.plain_port, 1) if plain else (gate.postfix.front_port, 2)
    found = []
    with SmtpClient(port, timeout_s=60) as client:
        for content in messages:
            lines = content if content.endswith(b"\r\n") or not content else content + b"\r\n"
            wire = re.sub(rb"(?m)^\.", b"..", lines) + b".\r\n"
            text = gate.postfix.message(queue_id(client.message(wire)))
            rest, count = POSTFIXS_OWN.subn(b"", text, count=hops)
            assert count == hops
            found.append(rest)
    return found


def names_of_different(names: Iterable[str], ours: Iterable[bytes], plain: Iterable[bytes]) -> list[str]:
    return [name for name, one, other in zip(names, ours, plain, strict=True) if one != other]


def test_all_plugins_that_read_leave_every_byte(gate: Gate, stack: Stack, messages: dict[str, bytes]) -> None:
    gate.use(stack.tables(*READERS, more=READ_ONLY), proxy=PATIENT)
    seen = gate.daemon.log_size()
    ours = queued(gate, messages.values())
    plain = queued(gate, messages.values(), plain=True)
    assert names_of_different(messages, ours, plain) == []
    # They have really been read, each once; it is told after the reply.
    wait_until(lambda: gate.daemon.log(seen).count("event=content ") >= len(messages))
    assert gate.daemon.log(seen).count("event=content ") == len(messages)
    assert "reason=error" not in gate.daemon.log(seen)


@pytest.mark.parametrize("plugin", WRITERS)
def test_a_plugin_that_adds_a_field_adds_that_alone(
    gate: Gate, stack: Stack, messages: dict[str, bytes], plugin: str
) -> None:
    options, field = WRITERS[plugin]
    others = tuple(name for name in READERS if name != plugin)
    (gate.daemon.directory / "ed.key").write_text(ED25519)
    (gate.daemon.directory / "ed.key").chmod(0o600)
    gate.use(
        stack.tables(*others, plugin, more={**READ_ONLY, plugin: options}),
        files={"dkim_keys": "example.com e ed.key\n"},
        proxy=PATIENT,
    )
    names = [name for name, content in messages.items() if len(content) < 500_000]
    if plugin == "dkim_sign":
        names = [name for name in names if messages[name].startswith(FROM)]
    contents = [messages[name] for name in names]
    ours = queued(gate, contents)
    plain = queued(gate, contents, plain=True)
    without = []
    for name, message in zip(names, ours, strict=True):
        rest, count = re.subn(rb"(?m)^" + field, b"", message, count=1)
        assert count == 1, (name, message[:500])
        without.append(rest)
    assert names_of_different(names, without, plain) == []


LINES = st.lists(
    st.binary(max_size=90).map(lambda line: line.replace(b"\r", b"").replace(b"\n", b"")), min_size=1, max_size=12
)
FIELDS = st.lists(
    st.tuples(st.sampled_from([b"Subject", b"To", b"X-A", b"Content-Type", b"References"]), LINES).map(
        lambda field: field[0] + b":" + b"\r\n\t".join(field[1]) + b"\r\n"
    ),
    max_size=6,
)


def test_messages_that_nobody_thought_of_pass_as_they_are(gate: Gate, stack: Stack) -> None:
    gate.use(stack.tables(*READERS, more=READ_ONLY), proxy=PATIENT)

    @settings(max_examples=30, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(FIELDS, LINES)
    def same(fields: list[bytes], body: list[bytes]) -> None:
        content = b"".join(fields) + b"\r\n" + b"\r\n".join(body) + b"\r\n"
        ours = queued(gate, [content])
        assert ours == queued(gate, [content], plain=True)

    same()
