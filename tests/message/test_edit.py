"""The edits of a message, made by a real milter on a real Postfix, give exactly the message that `Message` shows.

Run as a program, this file is that milter: it edits each message at random, seeded by the message, and prints what must
come of it.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import smtplib
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import Milter  # type: ignore[import-untyped]
import pytest

from gatepost import Address, Header, Message
from gatepost.doors.milter_edit import apply_edit
from gatepost.message.body import BodyWriter
from gatepost.ops.private_postfix import PrivatePostfix, free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Iterator

SEEDS = 60
HEADER = (
    "Received: from a by b;\r\n\tsometime\r\nX-Seed: {seed}\r\nX-A: one\r\nSubject:no space\r\nX-A:  two \r\n"
    "Received: second\r\nDKIM-Signature: a=b;\r\n  c=d\r\nX-B: z\r\nDate: Thu, 1 Jan 2026 00:00:00 +0000\r\n"
    "From: a@example.org\r\nMessage-Id: <1@a>\r\n"
)
NAMES = ["Subject", "X-A", "X-B", "Received", "DKIM-Signature", "x-a", "X-New"]
VALUES: list[str | bytes] = [
    "yes",
    "a  b",
    "grüß dich",
    "long " * 40 + "x",
    "one\r\n two\r\n\tthree",
    "",
    b"raw  value",
    b"\ttab",
]
ADDRESSES = ["anna@example.org", "Bert@example.org", "carl@example.net", '"d d"@example.net']


def edit_at_random(message: Message, choose: random.Random) -> None:
    for _ in range(choose.randrange(9)):
        name, value, address = choose.choice(NAMES), choose.choice(VALUES), choose.choice(ADDRESSES)
        match choose.randrange(11):
            case 0:
                message.add_header(name, value)
            case 1 | 2:
                message.insert_header(choose.randrange(14), name, value)
            case 3 | 4:
                message.change_header(name, value, choose.randrange(1, 4))
            case 5:
                message.delete_header(name, choose.choice([1, 2, None]))
            case 6:
                message.replace_body(choose.choice([b"", b"a\n.\r\n" + b"x" * 3000]))
            case 10:
                message.append_to_body(b"more\ntext")
            case 7:
                message.change_sender(choose.choice(["", address]))
            case 8:
                message.add_recipient(address)
            case 9 if len(message.recipients) > 1:
                message.delete_recipient(address)


@dataclass(frozen=True, slots=True)
class Rig:
    postfix: PrivatePostfix
    port: int
    milter: subprocess.Popen[str]


def wait_for_listener(port: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), timeout=5):
            return
        time.sleep(0.02)
    raise TimeoutError(f"the milter does not listen on port {port}")


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    if os.geteuid() != 0 or shutil.which("postfix", path="/usr/sbin:/usr/local/sbin") is None:
        pytest.skip("needs Postfix and root")
    port, milter_port = free_loopback_port(), free_loopback_port()
    service = (
        f"127.0.0.1:{port} inet n - n - 10 smtpd\n -o smtpd_milters=inet:127.0.0.1:{milter_port}\n"
        " -o milter_default_action=tempfail -o mynetworks=127.0.0.0/8\n"
        " -o smtpd_relay_restrictions= -o smtpd_recipient_restrictions=permit_mynetworks,reject"
    )
    with tempfile.TemporaryDirectory(prefix="gatepost-") as place:
        Path(place).chmod(0o755)
        command = [sys.executable, __file__, str(milter_port)]
        with (
            PrivatePostfix(Path(place) / "postfix", services=[service]) as postfix,
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
        ):
            wait_for_listener(milter_port)
            yield Rig(postfix, port, process)
            process.kill()


def test_postfix_makes_of_the_edits_what_the_message_shows(rig: Rig) -> None:
    queue_ids = {}
    with smtplib.SMTP("127.0.0.1", rig.port, timeout=60) as client:
        client.ehlo("client.example")
        for seed in range(SEEDS):
            client.mail("sender@example.org")
            client.rcpt("anna@example.org")
            client.rcpt("Bert@EXAMPLE.org")
            code, text = client.data(HEADER.format(seed=seed) + "\r\nline one\r\nline two\r\n")
            assert code == 250, text
            queue_ids[seed] = text.decode().split()[-1]
    entries = {entry.queue_id: entry for entry in rig.postfix.wait_for_queue(SEEDS, 60)}

    kinds: set[str] = set()
    assert rig.milter.stdout is not None
    for seed, queue_id in queue_ids.items():
        expected = json.loads(rig.milter.stdout.readline())
        queued = rig.postfix.message(queue_id).replace(b"\n", b"\r\n")
        assert queued.startswith(b"Received: from client.example ")
        # Postfix's own Received stays on top, whatever was inserted.
        queued = re.sub(rb"\A.*?\r\n(?![ \t])", b"", queued, count=1, flags=re.DOTALL)
        entry = entries[queue_id]
        assert queued.decode("latin-1") == expected["message"], (seed, expected["summary"])
        assert entry.sender == (expected["sender"] or "MAILER-DAEMON"), (seed, expected["summary"])
        assert sorted(map(str.lower, entry.recipients)) == expected["recipients"], (seed, expected["summary"])
        kinds.update(line.split(" ")[0] for line in expected["summary"])
    assert kinds == {"add", "insert", "change", "delete", "append", "replace"}


@Milter.header_leading_space
class EditingMilter(Milter.Base):  # type: ignore[misc]
    """Collects a message and edits it at its end."""

    def envfrom(self, sender: str, *_: str) -> int:
        self.sender = Address.parse(sender)
        self.spellings: dict[Address, str] = {}
        self.fields: list[Header] = []
        self.writer = BodyWriter()
        return int(Milter.CONTINUE)

    def envrcpt(self, recipient: str, *_: str) -> int:
        self.spellings[Address.parse(recipient)] = recipient
        return int(Milter.CONTINUE)

    def header(self, name: str, value: str) -> int:
        self.fields.append(Header(name, value.encode("utf-8", "surrogateescape").replace(b"\n", b"\r\n")))
        return int(Milter.CONTINUE)

    def body(self, chunk: bytes) -> int:
        self.writer.write(chunk)
        return int(Milter.CONTINUE)

    def eom(self) -> int:
        message = Message(self.fields, self.writer.finish(), self.sender, self.spellings)
        edit_at_random(message, random.Random(int(message.headers.get("X-Seed") or 0)))
        for edit in message.edits:
            apply_edit(self._ctx, edit, self.spellings)
        with message.open() as reader:
            expected: dict[str, Any] = {"message": reader.read().decode("latin-1")}
        expected["sender"] = str(message.sender)
        expected["recipients"] = sorted(str(one).lower() for one in message.recipients)
        expected["summary"] = message.summary()
        sys.stdout.write(json.dumps(expected) + "\n")
        sys.stdout.flush()
        return int(Milter.ACCEPT)


if __name__ == "__main__":
    Milter.factory = EditingMilter
    Milter.set_flags(
        Milter.CHGBODY + Milter.CHGHDRS + Milter.ADDHDRS + Milter.ADDRCPT + Milter.DELRCPT + Milter.CHGFROM
    )
    Milter.runmilter("edits", f"inet:{sys.argv[1]}@127.0.0.1", 60)
