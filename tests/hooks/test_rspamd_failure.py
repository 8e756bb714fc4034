"""rspamd that is down, hung, restarted, or answers what makes no sense: the policy, the next server, no traceback."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import tracemalloc
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest
from tests.hooks.short_shares import short_shares
from tests.rigs.faulty_server import Fault, faulty_server
from tests.rigs.rspamd_rig import GTUBE, Rspamd, mail

from gatepost import Address
from gatepost.endpoint import Endpoint
from gatepost.errors import Unavailable
from gatepost.message.body import BodyWriter
from gatepost.message.header import Header
from gatepost.message.message import Message
from gatepost.services.scanners import upstream
from gatepost.services.scanners.rspamd import ANSWER_LIMIT_BYTES, Unscannable, rspamd_check, rspamd_ping
from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from gatepost.testing import Gate

SPAM = mail(body=GTUBE)


@pytest.fixture(scope="module")
def rspamd() -> Iterator[Rspamd]:
    with Rspamd() as running:
        yield running


async def reply(postfix: Gate, content: bytes = SPAM) -> str:
    answer = await postfix.client().send("a@example.net", "b@example.org", content=content)
    return answer.encode().decode().strip()


NOT_NOW = "451 4.3.0"
REFUSED = "554 5.7.1 Gtube pattern"
PASSED = "250 2.0.0 Ok: queued as TESTQUEUEID"


@pytest.mark.parametrize("fault", get_args(Fault))
async def test_a_server_that_makes_no_sense_is_passed_over(
    rspamd: Rspamd, fault: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        faulty_server(fault) as faulty,
        gate(rspamd={"server": [str(faulty.endpoint), rspamd.server], "timeout": 4}) as postfix,
    ):
        assert await reply(postfix) == REFUSED
        # Asked, and pinged, twice at most, where it might have been the message's fault.
        assert 1 <= faulty.visits <= 3
        log = capsys.readouterr().out
        assert "server failed" in log
        assert str(faulty.endpoint) in log


@pytest.mark.parametrize("fault", get_args(Fault))
async def test_alone_it_defers_and_is_left_alone(fault: Fault) -> None:
    async with (
        faulty_server(fault) as faulty,
        gate(rspamd={"server": str(faulty.endpoint), "timeout": 25}) as postfix,
    ):
        with short_shares():
            for _ in range(upstream.FAILURES):
                assert (await reply(postfix)).startswith(NOT_NOW)
        visits = faulty.visits
        assert (await reply(postfix)).startswith(NOT_NOW)
        assert faulty.visits == visits


@asynccontextmanager
async def scripted(
    answer: bytes, ping: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npong"
) -> AsyncIterator[str]:
    """Run a server that reads each request and gives this answer, or that to a ping."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            header = await reader.readuntil(b"\r\n\r\n")
            is_ping = header.startswith(b"GET /ping ")
            if not is_ping:
                await reader.readexactly(int(header.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            writer.write(ping if is_ping else answer)
            await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


def http(body: object, status: str = "200 OK", *fields: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(data)}", *fields, "", ""])
    return head.encode() + data


WELL = {"action": "reject", "score": 15.0}


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (http({"error": "busy\r\nevent=forged"}, "503 Later"), '503 {"error": "busy'),
        (http(b"", "429 Too Many Requests"), "429 Too Many Requests"),
        (http(WELL, "500 Oops"), "500"),
        (http(WELL, "404 Not Found"), "404"),
        (http(WELL, "401 Who"), "401"),
        (http(WELL, "302 Found", "Location: http://127.0.0.1:9/"), "302"),
        (http(WELL, "200 OK", "Content-Encoding: zstd"), "packed"),
        (http(b"pong"), "no JSON"),
        (http(b""), "no JSON"),
        (http(b"[" * 100_000), "no JSON"),
        (http([WELL]), "no action"),
        (http({"error": "task timed out"}), "no action"),
        (http({"action": 7, "score": 1}), "no action"),
        (http({"action": "reject"}), "no score"),
        (http({"action": "reject", "score": "15"}), "no score"),
        (http(b'{"action": "reject", "score": NaN}'), "no score"),
        (http(b'{"action": "reject", "score": 1' + b"0" * 400 + b"}"), "no score"),
        (http({"action": "reject", "score": 1, "x": "y" * ANSWER_LIMIT_BYTES}), "more than"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "without a whole answer"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000, ""),
    ],
)
async def test_answers_that_are_none(answer: bytes, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    ping = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n"
    async with scripted(answer, ping) as server, gate(rspamd={"server": server}) as postfix:
        assert (await reply(postfix)).startswith(NOT_NOW)
        log = capsys.readouterr().out
        assert "reason=unavailable" in log
        assert "\nevent=forged" not in log
        assert problem in log


@pytest.mark.parametrize("answer", [b"SPAMD/1.1 0 EX_OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000])
async def test_one_that_answers_a_ping_and_then_no_http_is_passed_over(rspamd: Rspamd, answer: bytes) -> None:
    async with scripted(answer) as odd, gate(rspamd={"server": [odd, rspamd.server]}) as postfix:
        assert await reply(postfix) == REFUSED
        assert postfix.plugin("rspamd")._servers.servers[0].failures == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("status", ["400 Bad Request", "413 Too Large"])
async def test_a_message_that_it_does_not_take_is_not_the_servers_failure(status: str) -> None:
    async with scripted(http({"error": "no"}, status)) as server, gate(rspamd={"server": server}) as postfix:
        for _ in range(upstream.FAILURES + 1):
            assert (await reply(postfix)).startswith(NOT_NOW)
        assert not postfix.plugin("rspamd")._servers.servers[0].failures  # type: ignore[attr-defined]


async def test_the_policy_may_let_mail_pass(unused_tcp_port: int) -> None:
    options: dict[str, Any] = {"server": f"127.0.0.1:{unused_tcp_port}", "on_unavailable": "pass"}
    async with gate(rspamd=options) as postfix:
        assert (await reply(postfix)).startswith("250")


async def test_what_is_wrong_in_parts_counts_for_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    odd = {
        "action": "Soft_Reject",
        "score": 3,
        "required_score": "many",
        "symbols": ["A"],
        "messages": [],
        "milter": 7,
        "subject": {},
    }
    async with scripted(http(odd)) as server, gate(rspamd={"server": server}) as postfix:
        assert await reply(postfix) == "451 4.7.1 Try again later"
        log = capsys.readouterr().out
        for part in ("symbols", "milter", "subject"):
            assert f"{part}: not a t" in log


async def test_a_dead_one_fails_over_and_a_restarted_one_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "PAUSE_S", 0.05)
    with Rspamd() as first:
        async with gate(rspamd={"server": [first.server, first.socket]}) as postfix:
            assert await reply(postfix) == REFUSED
            first.stop()
            for _ in range(upstream.FAILURES):
                assert (await reply(postfix)).startswith(NOT_NOW)
            first.start()
            await asyncio.sleep(0.1)
            assert await reply(postfix) == REFUSED


async def test_a_hung_one_costs_its_share_of_the_time_and_no_more(
    rspamd: Rspamd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "PAUSE_S", 0.05)
    with Rspamd() as hung:
        async with gate(rspamd={"server": [hung.socket, rspamd.server], "timeout": 60}) as postfix:
            # The hung one has half of the first; the other may take as long as a busy machine takes.
            left_s = itertools.cycle([1.4, 60.0])
            monkeypatch.setattr(upstream, "_time_left_s", lambda: next(left_s))
            with hung.paused():
                for _ in range(upstream.FAILURES + 1):
                    assert await reply(postfix) == REFUSED
            # Named, for it may still judge those that were called off; it logs what it has answered.
            async with asyncio.timeout(60):
                while not hung.scans_of("<back@example.net>"):
                    assert await reply(postfix, mail(b"Message-ID: <back@example.net>", body=GTUBE)) == REFUSED
                    await asyncio.sleep(0.1)


async def test_a_worker_that_dies_of_a_message_is_not_a_dead_server(rspamd: Rspamd) -> None:
    async with gate(rspamd={"server": rspamd.server}) as postfix:
        worker = rspamd.worker()
        os.kill(worker, signal.SIGSTOP)
        try:
            scan = asyncio.create_task(reply(postfix, mail()))
            await asyncio.sleep(0.2)
        finally:
            # With its connections; the main process starts another worker.
            os.kill(worker, signal.SIGKILL)
        assert (await scan)[:3] in {"250", "451"}
        async with asyncio.timeout(60):
            while (await reply(postfix)) != REFUSED:  # noqa: ASYNC110 - it is the sender who tries again
                await asyncio.sleep(0.05)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_nothing_stays_open(rspamd: Rspamd, monkeypatch: pytest.MonkeyPatch) -> None:
    large = mail(body=b"x" * 76 + b"\r\n" + b"y" * (4 << 20))
    with Rspamd() as hung:
        async with gate(rspamd={"server": [hung.socket, rspamd.socket], "timeout": 60}) as postfix:
            await reply(postfix)
            before = open_files()
            # The hung one has half of that, of each message's time; the other as long as a busy machine takes.
            left_s = iter([4.0] * 10)
            monkeypatch.setattr(upstream, "_time_left_s", lambda: next(left_s, 60.0))
            with hung.paused():
                # What the hung one has not read does not keep the connection open.
                assert await asyncio.gather(*(reply(postfix, large) for _ in range(10))) == [PASSED] * 10
                await until(lambda: open_files() <= before)
            assert await asyncio.gather(*(reply(postfix) for _ in range(20))) == [REFUSED] * 20
            await until(lambda: open_files() <= before)


async def until(condition: Callable[[], bool]) -> None:
    """Return once it holds; a transport is closed by the event loop's next turns."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.01)


async def test_a_huge_message_takes_constant_memory_and_a_server_may_answer_before_its_end() -> None:
    writer = BodyWriter()
    for _ in range(1024):
        writer.write(b"x" * 65_534 + b"\r\n")
    message = Message(
        [Header("Subject", b" huge")], writer.finish(), Address("a", "b.example"), [Address("c", "d.example")]
    )
    sizes: list[int] = []

    async def count(reader: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        header = await reader.readuntil(b"\r\n\r\n")
        assert f"content-length: {message.size}\r\n".encode() in header.lower()
        got = 0
        while got < message.size and (chunk := await reader.read(1 << 18)):
            got += len(chunk)
        sizes.append(got)
        answer.write(http(WELL))
        answer.close()

    server = await asyncio.start_server(count, "127.0.0.1", 0)
    async with server:
        endpoint = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
        tracemalloc.start()
        try:
            assert json.loads(await rspamd_check(endpoint, message, [])) == WELL
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert sizes == [message.size]
    assert peak < 8 << 20

    async def hasty(reader: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        answer.write(http({"error": "too large"}, "413 Too Large"))
        await answer.drain()
        answer.close()

    async with await asyncio.start_server(hasty, "127.0.0.1", 0) as server:
        endpoint = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
        with pytest.raises((Unscannable, Unavailable)):
            await rspamd_check(endpoint, message, [])


async def test_a_ping_is_answered_by_rspamd_alone(rspamd: Rspamd, unused_tcp_port: int) -> None:
    await rspamd_ping(Endpoint.parse(rspamd.server))
    await rspamd_ping(Endpoint.parse(rspamd.socket))
    with pytest.raises((Unavailable, OSError)):
        await rspamd_ping(Endpoint("127.0.0.1", unused_tcp_port))
    async with faulty_server("garbage") as garbage:
        with pytest.raises(Unavailable):
            await rspamd_ping(garbage.endpoint)
