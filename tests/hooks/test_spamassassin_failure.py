"""spamassassin when spamd is down, paused, restarted, or something else: mail waits, and the log says for whom.

The pauses of the circuit breaker are made short; how long they are is its own tests' business.
"""

from __future__ import annotations

import asyncio
import os
import tracemalloc
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from tests.hooks.short_shares import short_shares
from tests.rigs.faulty_server import faulty_server
from tests.rigs.spamd_rig import GTUBE, Spamd

from gatepost.address import Address
from gatepost.deadline import Deadline
from gatepost.message.body import Body
from gatepost.message.header import Header
from gatepost.message.message import Message
from gatepost.session import Recipient, Transaction
from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, MutableMapping
    from pathlib import Path

    from tests.rigs.faulty_server import Fault

    from gatepost.testing import Gate

SPAM = b"Subject: offer\r\n\r\n" + GTUBE + b"\r\n"


@pytest.fixture(scope="module")
def spamd() -> Iterator[Spamd]:
    """For tests that do not stop it."""
    with Spamd() as running:
        yield running


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatepost.services.scanners.upstream.PAUSE_S", 0.05)
    monkeypatch.setattr("gatepost.services.scanners.upstream.LONGEST_PAUSE_S", 0.05)
    monkeypatch.setattr("gatepost.services.scanners.upstream.PROBE_S", 0.5)


async def code(postfix: Gate, content: bytes = b"Subject: x\r\n\r\nx\r\n") -> int:
    return (await postfix.client("192.0.2.77").send("a@sender.example", "b@example.org", content=content)).code


async def code_once_back(postfix: Gate, content: bytes = b"Subject: x\r\n\r\nx\r\n") -> int:
    """Send until it is not put off, as a sender does."""
    for _ in range(1000):
        if (got := await code(postfix, content)) != 451:
            return got
        await asyncio.sleep(0.02)
    raise AssertionError("still not back")


def told(logs: list[MutableMapping[str, Any]], event: str) -> list[tuple[Any, Any]]:
    return [(line["server"], line.get("problem")) for line in logs if line["event"] == event]


async def test_a_spamd_that_is_stopped_and_started_again() -> None:
    with Spamd() as mortal:
        async with gate(spamassassin={"server": mortal.server, "reject_threshold": 9}) as postfix:
            assert await code(postfix) == 250
            mortal.stop()
            with capture_logs() as logs:
                assert [await code(postfix) for _ in range(3)] == [451] * 3
            assert told(logs, "server failed") == [(mortal.server, "No such file or directory")] * 2
            assert told(logs, "server left alone") == [(mortal.server, "No such file or directory")]
            mortal.start()
            with capture_logs() as logs:
                assert await code_once_back(postfix) == 250
            assert told(logs, "server is back") == [(mortal.server, None)]
            assert await code(postfix, SPAM) == 554


async def test_a_spamd_that_is_paused(spamd: Spamd) -> None:
    options = {"server": f"127.0.0.1:{spamd.port}", "timeout": "19s", "reject_threshold": 9}
    async with gate(spamassassin=options) as postfix:
        with spamd.paused(), capture_logs() as logs, short_shares():
            assert [await code(postfix) for _ in range(3)] == [451] * 3
        assert [problem[:20] for _, problem in told(logs, "server failed")] == ["no answer within 0.1"] * 2
        assert await code_once_back(postfix, SPAM) == 554


async def test_with_pass_the_message_goes_on_as_it_is(spamd: Spamd) -> None:
    options = {"server": "unix:/nonexistent/spamd", "on_unavailable": "pass", "reject_threshold": 9}
    async with gate(spamassassin=options) as postfix:
        client = postfix.client("192.0.2.77")
        with capture_logs() as logs:
            reply = await client.send("a@s.example", "b@example.org", content=b"X-Spam-Level: *\r\n" + SPAM)
    assert reply.code == 250
    assert client.message is not None
    assert bytes(client.message.headers) == b"X-Spam-Level: *\r\nSubject: offer\r\n"
    assert "unix:/nonexistent/spamd: No such file or directory" in str(logs)


@pytest.mark.parametrize("fault", ["garbage", "endless", "close", "half", "silence"])
async def test_a_server_that_is_no_spamd_is_left_alone(fault: Fault) -> None:
    async with faulty_server(fault, b"SPAMD/1.1 0 EX_" if fault == "half" else b"") as server:
        options = {"server": str(server.endpoint), "timeout": "20s"}
        async with gate(spamassassin=options) as postfix:
            with capture_logs() as logs, short_shares():
                assert [await code(postfix) for _ in range(3)] == [451] * 3
                assert server.visits == 3
            assert [where for where, _ in told(logs, "server left alone")] == [str(server.endpoint)]


async def test_a_server_left_alone_is_asked_for_a_sign_of_life_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatepost.services.scanners.upstream.PAUSE_S", 0.0)
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append((await reader.read()).split(b" ")[0])
        writer.write(b"SPAMD/1.5 75 EX_TEMPFAIL\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        where = "127.0.0.1:{1}".format(*server.sockets[0].getsockname())
        async with gate(spamassassin={"server": where}) as postfix:
            with capture_logs() as logs:
                assert [await code(postfix) for _ in range(4)] == [451] * 4
    finally:
        server.close()
    assert asked == [b"HEADERS", b"HEADERS", b"HEADERS", b"PING"]
    assert told(logs, "server failed")[0] == (where, "answered EX_TEMPFAIL: 'EX_TEMPFAIL'")


@asynccontextmanager
async def cut_off(spamd: Spamd, answer_bytes: int) -> AsyncIterator[str]:
    """Stand before the spamd, and hang up after so many bytes of each answer to HEADERS."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream_reader, upstream = await asyncio.open_unix_connection(spamd.path)
        upstream.write(await reader.read())
        upstream.write_eof()
        writer.write((await upstream_reader.read())[:answer_bytes])
        upstream.close()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield "127.0.0.1:{1}".format(*server.sockets[0].getsockname())
    finally:
        server.close()


@pytest.mark.parametrize(
    ("answer_bytes", "problem"),
    [
        (0, "closed the connection without an answer"),
        (10, "closed the connection in the middle of its answer"),
        (60, "closed the connection in the middle of its answer"),
        (300, "closed the connection in the middle of its answer"),
    ],
)
async def test_half_an_answer_is_no_answer(spamd: Spamd, answer_bytes: int, problem: str) -> None:
    async with cut_off(spamd, answer_bytes) as where, gate(spamassassin={"server": where}) as postfix:
        with capture_logs() as logs:
            assert await code(postfix, SPAM) == 451
    assert told(logs, "server failed") == [(where, problem)]


async def test_of_several_servers_the_first_that_answers_is_the_one(spamd: Spamd) -> None:
    before = spamd.scans
    async with faulty_server("garbage") as broken:
        servers = ["unix:/nonexistent/spamd", str(broken.endpoint), f"127.0.0.1:{spamd.port}", spamd.server]
        async with gate(spamassassin={"server": servers, "reject_threshold": 9}) as postfix:
            assert [await code(postfix, SPAM) for _ in range(3)] == [554] * 3
            assert broken.visits == 3
    assert spamd.scans - before == 3


async def test_every_kind_of_address(spamd: Spamd) -> None:
    before = spamd.scans
    servers = [spamd.server, *(f"{host}:{spamd.port}" for host in spamd.hosts), f"localhost:{spamd.port}"]
    for server in servers:
        async with gate(spamassassin={"server": server, "reject_threshold": 9}) as postfix:
            assert await code(postfix, SPAM) == 554
    assert spamd.scans - before == len(servers)


async def test_many_messages_at_once_all_get_their_own_answer(spamd: Spamd) -> None:
    async with gate(spamassassin={"server": spamd.server, "reject_threshold": 9}) as postfix:
        codes = await asyncio.gather(
            *(code(postfix, SPAM if number % 3 == 0 else b"Subject: x\r\n\r\nx\r\n") for number in range(60))
        )
    assert codes == [554 if number % 3 == 0 else 250 for number in range(60)]


async def test_a_gigabyte_is_not_read(spamd: Spamd, tmp_path: Path) -> None:
    file = os.open(tmp_path / "body", os.O_RDWR | os.O_CREAT)
    os.truncate(file, 1 << 30)
    body = Body._of_file(file, 1 << 30)
    async with gate(spamassassin={"server": spamd.server}) as postfix:
        session = postfix.client().session
        transaction = Transaction("t.1", session, Address.parse("a@sender.example"))
        transaction.recipients = [Recipient(Address.parse("b@example.org"), transaction, accepted=True)]
        message = Message([Header("Subject", b" x")], body, transaction.sender, [Address.parse("b@example.org")])
        tracemalloc.start()
        try:
            verdict, edited = await postfix.pipeline.edit(transaction, message, deadline=Deadline.after(60))
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    body.close()
    assert (verdict.denies, edited.edits) == (False, ())
    assert peak < 1 << 20
