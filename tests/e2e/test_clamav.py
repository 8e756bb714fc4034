"""clamav with a real clamd behind a real Postfix: viruses get no further than the dot, all else passes as it came."""

from __future__ import annotations

import base64
import io
import re
import zipfile
from typing import TYPE_CHECKING

import pytest
from tests.e2e.gate import rss_bytes
from tests.e2e.postfix_rig import queue_id, wait_until
from tests.rigs.clamd_rig import EICAR, Clamd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.gate import Gate

HEADER = b"From: a@example.com\r\nSubject: a\r\n\tfolded one\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
CLEAN = b"--b\r\n\r\ntext \xff\r\n..a dot\r\n--b--\r\n\r\n"


def with_virus() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(zipfile.ZipInfo("invoice.com"), EICAR)
    encoded = base64.encodebytes(file.getvalue()).replace(b"\n", b"\r\n")
    return b"--b\r\nContent-Transfer-Encoding: base64\r\n\r\n" + encoded + b"--b--\r\n"


@pytest.fixture(scope="module")
def clamd() -> Iterator[Clamd]:
    with Clamd({"StreamMaxLength": "64M", "MaxFileSize": "2M", "MaxScanSize": "2M"}) as running:
        yield running


def use(gate: Gate, *servers: object, options: str = "") -> None:
    named = ", ".join(f'"{server}"' for server in servers)
    gate.use(f'[[plugin]]\nname = "clamav"\nserver = [{named}]\n{options}')


def queued(gate: Gate) -> tuple[str, bytes]:
    """Return the queue that the only message is in, and its content without Postfix's own field."""
    entry, text = gate.take()
    return entry.queue_name, re.sub(rb"(?m)^Received: .*\n(?:[ \t].*\n)*", b"", text)


@pytest.mark.parametrize("way", ["unix", "tcp", "tcp6"])
def test_a_virus_is_refused_at_the_dot_and_a_clean_message_is_queued_as_it_came(
    gate: Gate, clamd: Clamd, way: str
) -> None:
    use(gate, getattr(clamd, way))
    with gate.client() as client:
        told = client.message(HEADER + with_virus() + b".\r\n")
        assert told == b"554 5.7.1 the message contains a virus: Eicar-Test-Signature.UNOFFICIAL\r\n"
        assert gate.postfix.queue() == []
        queue_id(client.message(HEADER + CLEAN + b".\r\n"))
    assert queued(gate)[1] == HEADER + CLEAN.replace(b"\r\n..", b"\r\n.")


def test_a_held_message_differs_in_one_field(gate: Gate, clamd: Clamd) -> None:
    use(gate, clamd.unix, options='action = "quarantine"\n')
    queue_id(gate.send(HEADER + with_virus() + b".\r\n"))
    name, text = queued(gate)
    assert name == "hold"
    field = b"X-Virus-Status: Infected (Eicar-Test-Signature.UNOFFICIAL)\r\n"
    assert text == HEADER[:-2] + field + b"\r\n" + with_virus()


def test_mail_waits_for_a_clamd_that_is_paused_or_gone(gate: Gate, clamd: Clamd) -> None:
    message = HEADER + with_virus() + b".\r\n"
    # Only who is to be put off has little patience: a scan may take longer than that on a busy machine.
    aliases = '[[plugin]]\nname = "aliases"\nfile = "aliases"\n'
    clamav = f'[[plugin]]\nname = "clamav"\nserver = "{clamd.unix}"\n'
    gate.use(aliases + clamav, files={"aliases": "impatient@gatepost.test: (clamav.timeout=1s)\n"})
    seen = gate.daemon.log_size()
    with clamd.paused():
        assert gate.send(message, b"impatient@gatepost.test").startswith(b"451 4.3.0 ")
    assert gate.send(message).startswith(b"554 5.7.1 ")
    clamd.stop()
    try:
        assert gate.send(message).startswith(b"451 4.3.0 ")
    finally:
        clamd.start()
    assert gate.send(message).startswith(b"554 5.7.1 ")
    assert gate.queue() == []
    failed = [line for line in gate.daemon.log(seen).splitlines() if 'event="server failed"' in line]
    assert len(failed) == 2
    assert all(f"server={clamd.unix}" in line for line in failed)


def test_a_second_server_takes_over(gate: Gate, clamd: Clamd) -> None:
    with Clamd() as second:
        use(gate, second.tcp, clamd.unix, options='timeout = "4s"\n')
        seen = gate.daemon.log_size()
        with second.paused():
            # On a busy machine the other one's half of the time may be too short, too; then once more.
            wait_until(lambda: gate.send(HEADER + with_virus() + b".\r\n").startswith(b"554 5.7.1 "), 60)
    log = gate.daemon.log(seen)
    assert f'event="server failed" plugin=clamav server={second.tcp} ' in log
    assert "server left alone" not in log


def test_a_large_message_takes_no_memory(gate: Gate, clamd: Clamd) -> None:
    plugin = f'[[plugin]]\nname = "clamav"\nserver = "{clamd.unix}"\nsize_limit = "64 MiB"\nmark_all = true\n'
    # Time enough for a busy machine.
    gate.use(plugin, proxy={"front_timeout": "100s"})
    queue_id(gate.send())
    gate.take()
    before = rss_bytes(gate.daemon.pid)
    queue_id(gate.send(b"Subject: large\r\n\r\n" + (b"x" * 78 + b"\r\n") * (45_000_000 // 80) + b".\r\n"))
    _, text = gate.take()
    assert b"\r\nX-Virus-Status: Clean\r\n" in text[:2000]
    assert len(text) > 40_000_000
    assert rss_bytes(gate.daemon.pid) - before < 10 << 20
