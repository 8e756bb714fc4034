"""All content plugins together, with their real daemons behind a real Postfix, as docs/content.md has them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.content_stack import LISTED, ORDER, Stack
from tests.e2e.postfix_rig import queue_id
from tests.rigs.clamd_rig import EICAR
from tests.rigs.dkim_rig import MESSAGE, signed
from tests.rigs.rspamd_rig import GTUBE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.gate import Gate

PAGE = Path(__file__).parents[2] / "docs" / "content.md"

HEADER = b"From: a@example.com\r\nDate: Mon, 2 Mar 2026 12:00:00 +0000\r\nSubject: hello\r\n\r\n"
CLEAN = HEADER + b"text\r\n.\r\n"
SPAM = HEADER + GTUBE + b"\r\n.\r\n"
VIRUS = HEADER + EICAR + b"\r\n.\r\n"
LINK = HEADER + b"http://www.%s/\r\n.\r\n" % LISTED.encode()


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack() as running:
        yield running


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def documented(stack: Stack) -> str:
    """Return the page's configuration with the servers, files and lists that there are here."""
    (tables,) = blocks("toml")
    here = {
        "unix:/run/clamav/clamd.ctl": str(stack.clamd.unix),
        "127.0.0.1:783": stack.spamd.server,
        "dbl.example.org": "dbl.invalid",
    }
    for there, server in here.items():
        assert tables.count(there) == 1
        tables = tables.replace(there, server)
    return stack.dns + tables


def test_the_documented_configuration_does_what_the_page_says(gate: Gate, stack: Stack) -> None:
    gate.use(documented(stack), files={"dkim_keys": ""})
    (program,) = blocks("python")
    trial = gate.daemon.directory / "trial.py"
    trial.write_text(program)
    command = [sys.executable, str(trial), "127.0.0.1", str(gate.postfix.front_port), "you@example.org"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (shown,) = [block for block in blocks("text") if block.startswith("clean accepted")]
    expected = shown.replace("Test-Signature", "Test-Signature.UNOFFICIAL")
    assert said == expected
    _, text = gate.take()
    assert b"\r\nX-Spam-Status: No" in text
    assert b"Authentication-Results: mx.example.org;" in text


def test_the_pages_configuration_has_the_order_of_its_picture() -> None:
    column = blocks("text")[0].index("spf") - 1
    names = [re.match(r"[| ]*(\w+)", line[column:]) for line in blocks("text")[0].splitlines()]
    drawn = [found[1] for found in names if found and found[1] in ORDER]
    assert drawn == list(ORDER)
    configured = re.findall(r'^name = "(\w+)"', blocks("toml")[0], re.MULTILINE)
    assert configured == [name for name in ORDER if name in configured]


def test_all_results_of_a_signed_message_stand_in_one_field(gate: Gate, stack: Stack) -> None:
    gate.use(stack.tables(*ORDER[:-1], more={"headers": 'mode = "observe"\n'}))
    message = signed(MESSAGE)
    with gate.client() as client:
        queue_id(client.message(message + b".\r\n", sender=b"ada@example.com"))
    _, text = gate.take()
    (field,) = re.findall(rb"(?m)^Authentication-Results: .*\r\n(?:[ \t].*\r\n)*", text)
    folded = b" ".join(field.split())
    assert b"dkim=pass header.d=example.com" in folded
    assert b"dmarc=" in folded
    assert b"spf=none" in folded


@pytest.mark.parametrize(
    ("content", "plugin", "order"),
    [
        (SPAM, b"554 5.7.1 This message looks like spam", ("clamav", "spamassassin", "rspamd")),
        (SPAM, b"554 5.7.1 Gtube pattern", ("rspamd", "clamav", "spamassassin")),
        (VIRUS.replace(b"\r\n.\r\n", b"\r\n" + GTUBE + b"\r\n.\r\n"), b"virus", ("clamav", "spamassassin", "rspamd")),
        (VIRUS.replace(b"\r\n.\r\n", b"\r\n" + GTUBE + b"\r\n.\r\n"), b"Gtube", ("rspamd", "spamassassin", "clamav")),
        (LINK.replace(b"\r\n.\r\n", b"\r\n" + GTUBE + b"\r\n.\r\n"), b"linked domain", ("uribl", "spamassassin")),
        (LINK.replace(b"\r\n.\r\n", b"\r\n" + GTUBE + b"\r\n.\r\n"), b"like spam", ("spamassassin", "uribl")),
    ],
)
def test_the_first_of_the_list_has_the_word(
    gate: Gate, stack: Stack, content: bytes, plugin: bytes, order: tuple[str, ...]
) -> None:
    gate.use(stack.tables(*order))
    assert plugin in gate.send(content)
    assert gate.queue() == []


def scans_of(stack: Stack, message_id: str) -> tuple[int, int]:
    return stack.spamd.scans_of(message_id), stack.rspamd.scans_of(message_id)


def test_forged_mail_is_refused_before_it_costs_a_scan(gate: Gate, stack: Stack) -> None:
    gate.use(stack.tables(*ORDER[:-1], more={"spf": 'fail = "allow"\n'}))
    # Named, for a scan that an earlier test has called off may still be told of.
    forged = b"Message-ID: <forged@strict.example>\r\n" + CLEAN.replace(b"a@example.com", b"a@strict.example")
    with gate.client() as client:
        client.transaction(b"rcpt@example.org", sender=b"a@strict.example")
        assert client.content(forged).startswith(b"550 5.7.1 rejected by the DMARC policy of strict.example")
    assert gate.queue() == []
    # One that is not forged shows that they do tell.
    queue_id(gate.send(b"Message-ID: <clean@example.com>\r\n" + CLEAN))
    assert (scans_of(stack, "<forged@strict.example>"), scans_of(stack, "<clean@example.com>")) == ((0, 0), (1, 1))


@pytest.mark.parametrize(
    ("limit", "received", "delivered_to", "reply"),
    [
        (47, 46, 0, b"250 "),
        (47, 47, 0, b"554 5.4.6 too many hops"),
        (48, 47, 0, b"250 "),
        (48, 48, 0, b"554 5.4.0 Error: too many hops"),
        (50, 47, 3, b"554 5.4.6 too many hops"),
    ],
)
def test_loop_counts_what_postfix_does_not(
    gate: Gate, limit: int, received: int, delivered_to: int, reply: bytes
) -> None:
    gate.use(f'[[plugin]]\nname = "loop"\nmax = {limit}\n')
    hops = b"Received: from a by b; x\r\n" * received + b"Delivered-To: a@b.example\r\n" * delivered_to
    assert gate.send(hops + CLEAN).startswith(reply)
