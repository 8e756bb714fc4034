"""content_log: what is written down of a message, where, and that no disk trouble holds up mail."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import resource
import signal
import stat
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from gatepost import ConfigError, Deny, Plugin
from gatepost.testing import gate

if TYPE_CHECKING:
    from pathlib import Path

    from gatepost import Message, Transaction
    from gatepost.testing import Client

PDF = b"%PDF-1.7 something"
MAIL = (
    b"From: =?utf-8?q?J=C3=B6rg?= <joerg@example.net>\r\nTo: bob@example.org\r\nSubject: invoice\r\n"
    b"Message-ID: <1@example.net>\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    b"--b\r\n\r\nhello\r\n--b\r\nContent-Type: application/octet-stream; name=a.pdf\r\n"
    b"Content-Transfer-Encoding: base64\r\n\r\n" + base64.b64encode(PDF) + b"\r\n--b--\r\n"
)


class Refuse(Plugin):
    """Refuses mail about spam."""

    def data_post(self, transaction: Transaction, message: Message) -> Deny | None:
        return Deny("no") if "spam" in (message.headers.get("Subject") or "") else None


async def send(content: bytes = MAIL, *recipients: str, **options: Any) -> Client:
    async with gate(content_log=options) as postfix:
        client = postfix.client()
        assert (await client.send("a@example.net", *(recipients or ("b@example.org",)), content=content)).code == 250
        return client


def records(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    return [json.loads(line) for line in lines]


async def test_a_line_of_json_tells_what_a_message_was(tmp_path: Path) -> None:
    file = tmp_path / "content.json"
    client = await send(file=file, sha256=True)
    (record,) = records(file)
    assert record.pop("time").endswith("+00:00")
    assert record == {
        "session": client.session.id,
        "txn": client.transaction.id,
        "client": "192.0.2.1",
        "name": None,
        "helo": "client.example",
        "login": None,
        "sender": "a@example.net",
        "recipients": {"b@example.org": "accepted"},
        "size": len(MAIL),
        "queue_id": "TESTQUEUEID",
        "refused_by": None,
        "headers": {
            "From": ["Jörg <joerg@example.net>"],
            "To": ["bob@example.org"],
            "Subject": ["invoice"],
            "Message-ID": ["<1@example.net>"],
        },
        "attachments": [
            {
                "names": ["a.pdf"],
                "content_type": "application/octet-stream",
                "file_type": "pdf",
                "size": len(PDF),
                "sha256": hashlib.sha256(PDF).hexdigest(),
            }
        ],
        "kept": None,
    }
    assert stat.S_IMODE(file.stat().st_mode) & 0o137 == 0


async def test_a_line_in_the_log_tells_the_same_in_short() -> None:
    with capture_logs() as logs:
        await send(headers=["Subject", "Event", "X-Any"])
    (line,) = (line for line in logs if line["event"] == "content")
    assert line["subject"] == "invoice"
    assert line["header_event"] is None
    assert line["x_any"] is None
    assert line["rcpt"] == "b@example.org=accepted"
    assert line["files"] == "a.pdf application/octet-stream pdf 18"
    with capture_logs() as logs:
        await send(log=False)
    assert [line for line in logs if line["event"] == "content"] == []


async def test_what_became_of_it_is_told(tmp_path: Path) -> None:
    file = tmp_path / "content.json"
    async with gate(content_log={"file": file}, refuse={"gone@example.org": "550 5.1.1 unknown"}) as postfix:
        client = postfix.client()
        await client.send("a@example.net", "gone@example.org", "b@example.org", content=MAIL)
    (record,) = records(file)
    assert record["recipients"] == {"gone@example.org": "refused", "b@example.org": "accepted"}


async def test_what_a_later_plugin_refuses_is_written_down_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "content.json"
    (tmp_path / "later.py").write_text(
        "from gatepost import Deny, Plugin\n\n\nclass Later(Plugin):\n    def data_post(self, transaction, message):\n"
        "        return Deny('no')\n"
    )
    async with gate(directory=tmp_path, content_log={"file": file}, later={}) as postfix:
        assert (await postfix.client().send("a@example.net", "b@example.org", content=MAIL)).code == 554
    (record,) = records(file)
    assert (record["refused_by"], record["queue_id"]) == ("later", None)
    assert record["recipients"] == {"b@example.org": "refused"}


async def test_what_was_refused_before_is_not_seen(tmp_path: Path) -> None:
    file = tmp_path / "content.json"
    async with gate(Refuse, content_log={"file": file}) as postfix:
        client = postfix.client()
        assert (await client.send("a@example.net", "b@example.org", content=b"Subject: spam\r\n\r\n")).code == 554
        assert not file.exists()
        assert (await client.send("a@example.net", "b@example.org", content=b"Subject: x\r\n\r\n")).code == 250
    assert len(records(file)) == 1


async def test_recipients_that_are_handled_apart_make_one_line(tmp_path: Path) -> None:
    file = tmp_path / "content.json"
    (tmp_path / "aliases").write_text("a@e.example: a@e.example (content_log.sha256=on)\n*@e.example: b@e.example\n")
    aliases = {"file": tmp_path / "aliases"}
    async with gate(content={"disagree": "lenient"}, aliases=aliases, content_log={"file": file}) as postfix:
        await postfix.client().send("x@example.net", "a@e.example", "b@e.example", content=MAIL)
    (record,) = records(file)
    assert record["recipients"] == {"a@e.example": "accepted", "b@e.example": "accepted"}


async def test_nothing_in_a_message_can_begin_a_line_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "content.json"
    evil = '{"forged": true}'
    content = (
        f"Subject: =?utf-8?q?x=0A=0D{evil}=00=E2=80=A8=1B[2J?=\r\nFrom: a\r\n {evil}\r\n"
        f'Content-Type: x/y; name="a\r\n {evil}"\r\n\r\n\0'
    ).encode() + b"\xff\xfe"
    with capture_logs() as logs:
        await send(content, file=file, headers=["Subject", "From", "X\nY"])
    (record,) = records(file)
    assert "forged" not in record
    assert file.read_bytes().isascii()
    (line,) = (line for line in logs if line["event"] == "content")
    assert "\n" not in line["subject"]


async def test_values_are_cut(tmp_path: Path) -> None:
    file = tmp_path / "content.json"
    content = b"Subject: " + b"x " * 30_000 + b"\r\n" + b"From: a\r\n" * 50
    parts = b"--b\r\nContent-Type: x/y; name=a.txt\r\n\r\nx\r\n" * 900
    await send(content + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + parts, file=file)
    (record,) = records(file)
    assert len(record["headers"]["Subject"][0]) == 1000
    assert len(record["headers"]["From"]) == 10
    assert len(record["attachments"]) == 100


async def test_a_message_above_the_limit_has_no_attachments_in_its_line(tmp_path: Path) -> None:
    file = tmp_path / "content.json"
    async with gate(content={"mime_limit": 100}, content_log={"file": file}) as postfix:
        assert (await postfix.client().send("a@example.net", "b@example.org", content=MAIL)).code == 250
    (record,) = records(file)
    assert record["attachments"] is None
    assert record["headers"]["Subject"] == ["invoice"]


async def test_the_file_may_be_rotated_at_any_time(tmp_path: Path) -> None:
    file = tmp_path / "content.json"
    async with gate(content_log={"file": file}) as postfix:
        client = postfix.client()
        for number in range(3):
            await client.send("a@example.net", "b@example.org", content=MAIL)
            file.rename(tmp_path / f"old{number}")
    assert [len(records(tmp_path / f"old{number}")) for number in range(3)] == [1, 1, 1]


async def test_lines_of_messages_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    file = tmp_path / "content.json"
    async with gate(content_log={"file": file}) as postfix:
        await asyncio.gather(
            *(postfix.client().send("a@example.net", "b@example.org", content=MAIL) for _ in range(50))
        )
    assert len({record["txn"] for record in records(file)}) == 50


async def test_trouble_with_the_file_is_told_once_and_mail_passes(tmp_path: Path) -> None:
    file = tmp_path / "content.json"
    file.mkdir()
    with capture_logs() as logs:
        async with gate(content_log={"file": file}) as postfix:
            client = postfix.client()
            for _ in range(3):
                assert (await client.send("a@example.net", "b@example.org", content=MAIL)).code == 250
            file.rmdir()
            assert (await client.send("a@example.net", "b@example.org", content=MAIL)).code == 250
            assert len(records(file)) == 1
            file.unlink()
            os.mkfifo(file)
            assert (await client.send("a@example.net", "b@example.org", content=MAIL)).code == 250
    assert len([line for line in logs if line["event"] == "not written"]) == 2


async def test_a_full_disk_loses_the_line_but_never_half_of_one(tmp_path: Path) -> None:
    file = tmp_path / "content.json"
    await send(file=file)
    size = file.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with capture_logs() as logs:
            # As on a disk with a few bytes left: part of a line still fits.
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 40, before[1]))
            await send(file=file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [line["option"] for line in logs if line["event"] == "not written"] == ["file"]
    await send(file=file)
    assert len(records(file)) == 2


async def test_whole_messages_are_kept_byte_for_byte(tmp_path: Path) -> None:
    file, directory = tmp_path / "content.json", tmp_path / "kept"
    directory.mkdir(0o700)
    await send(file=file, directory=directory)
    (kept,) = directory.iterdir()
    assert kept.read_bytes() == MAIL
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert [record["kept"] for record in records(file)] == [kept.name]


async def test_a_large_message_is_not_kept(tmp_path: Path) -> None:
    await send(directory=tmp_path, size_limit=50)
    await send(directory=tmp_path, directory_limit=50)
    assert list(tmp_path.iterdir()) == []


async def test_the_oldest_messages_make_room(tmp_path: Path) -> None:
    (tmp_path / "20200101T000000-old.eml").write_bytes(bytes(300))
    half = tmp_path / "20200101T000000-half.eml.part"
    half.write_bytes(bytes(300))
    os.utime(half, (0, 0))
    async with gate(content_log={"directory": tmp_path, "directory_limit": 3 * len(MAIL) + 10}) as postfix:
        client, seen = postfix.client(), []
        for _ in range(5):
            await client.send("a@example.net", "b@example.org", content=MAIL)
            seen.append(sorted(path.name for path in tmp_path.iterdir()))
    assert [len(names) for names in seen] == [2, 3, 3, 3, 3]
    assert seen[0][0] == "20200101T000000-old.eml"
    assert seen[4][0] == seen[2][-1]
    assert all(name.endswith(".eml") for name in seen[4])


async def test_a_message_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    # As at a reload, or a check beside the daemon.
    (tmp_path / "20260301T000000-now.eml.part").write_bytes(bytes(300))
    await send(directory=tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".part", ".eml"}


async def test_trouble_with_the_directory_holds_up_no_mail(tmp_path: Path) -> None:
    directory = tmp_path / "kept"
    directory.mkdir()
    with capture_logs() as logs:
        async with gate(content_log={"directory": directory}) as postfix:
            directory.rmdir()
            client = postfix.client()
            for _ in range(2):
                assert (await client.send("a@example.net", "b@example.org", content=MAIL)).code == 250
    assert [line["option"] for line in logs if line["event"] == "not written"] == ["directory"]


@pytest.mark.parametrize("options", [{"directory": "/nonexistent/x"}, {"file": "/nonexistent/x"}, {"size_limit": "x"}])
async def test_wrong_options_stop_the_start(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        await send(**options)


async def test_nothing_is_remembered_of_messages_that_are_over(tmp_path: Path) -> None:
    async with gate(content_log={"file": tmp_path / "x"}) as postfix:
        client = postfix.client()
        await client.send("a@example.net", "b@example.org", content=MAIL)
        await client.mail("a@example.net")
        await client.abandon()
        assert vars(postfix.plugin("content_log"))["_seen"] == {}
