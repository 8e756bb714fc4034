"""clamav when clamd is gone, paused, restarted or reloading, or when something else answers in its place."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.hooks.clamav_mail import CLEAN, DEFERRED, FIELD, INFECTED, NOWHERE, edits, outcome, plain, send
from tests.hooks.short_shares import short_shares
from tests.rigs.clamd_rig import EICAR, Clamd
from tests.rigs.faulty_server import faulty_server

from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rigs.faulty_server import Fault


@pytest.fixture(scope="module")
def clamd() -> Iterator[Clamd]:
    with Clamd() as running:
        yield running


@pytest.mark.parametrize("fault", ["garbage", "endless", "close", "half", "silence"])
@pytest.mark.parametrize("size", [1, 1_500_000])
async def test_what_is_no_clamd_is_unavailable(fault: Fault, size: int) -> None:
    content = plain(b"text\r\n" * (size // 6)) + EICAR
    async with faulty_server(fault) as server:
        with short_shares():
            assert (await outcome(server.endpoint, content, timeout=20))[0] == DEFERRED
            assert (await outcome(server.endpoint, content, timeout=20, on_unavailable="pass"))[0] == "250"
        assert server.visits == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"stream: OK",
        b"OK\0",
        b"stream: OK FOUN\0",
        b"stream: Can't allocate memory ERROR\0",
        b"COMMAND READ TIMED OUT\0",
        b"x" * 100_000 + b"\0",
    ],
)
async def test_an_answer_that_says_neither_is_no_answer(answer: bytes) -> None:
    async with faulty_server("half", answer) as server:
        assert (await outcome(server.endpoint, CLEAN, timeout=60))[0] == DEFERRED


async def test_ok_before_the_whole_message_was_sent_is_no_answer() -> None:
    large = plain(b"text\r\n" * 1_500_000)
    async with faulty_server("half", b"stream: OK\0") as server:
        assert (await outcome(server.endpoint, large, timeout=60))[0] == DEFERRED


@pytest.mark.parametrize(
    ("name", "shown"),
    [(b"a\r\n250 Ok\r\nX: y", "a_250_Ok_X:_y"), (b"\xff\xfe%s", "_%s"), (b"n" * 3000, "n" * 97 + "...")],
)
async def test_a_name_cannot_break_the_reply_or_the_header(name: bytes, shown: str) -> None:
    async with faulty_server("half", b"stream: " + name + b" FOUND\0") as server:
        assert (await outcome(server.endpoint, CLEAN))[0] == f"554 5.7.1 the message contains a virus: {shown}"
        for action in ("tag", "quarantine"):
            reply, message = await outcome(server.endpoint, CLEAN, action=action)
            assert reply == "250"
            assert message is not None
            assert message.headers.get_all(FIELD) == [f"Infected ({shown})"]


async def test_a_paused_clamd_is_late_then_left_alone_and_back_when_it_goes_on(clamd: Clamd) -> None:
    large = plain(b"text\r\n" * 250_000)
    with capture_logs() as logged:
        async with gate(clamav={"server": str(clamd.unix), "timeout": 25}) as postfix:
            with clamd.paused(), short_shares():
                for content in (CLEAN, large, CLEAN):
                    assert (await send(postfix, content))[0] == DEFERRED
                reply, client = await send(postfix, CLEAN)
                assert reply == DEFERRED
                (record,) = [record for record in client.transaction.records if record.plugin == "clamav"]
                assert f"{clamd.unix} is left alone for " in str(record.detail)
            servers = postfix.plugin("clamav")._servers.servers  # type: ignore[attr-defined]
            assert [server.is_down for server in servers] == [True]
            servers[0]._until = 0.0
            assert (await send(postfix, plain(EICAR)))[0] == INFECTED
    told = [(line["event"], line["server"]) for line in logged if "server" in line]
    assert told == [
        ("server failed", str(clamd.unix)),
        ("server failed", str(clamd.unix)),
        ("server left alone", str(clamd.unix)),
        ("server is back", str(clamd.unix)),
    ]


async def test_the_next_server_is_asked_when_one_fails(clamd: Clamd) -> None:
    async with faulty_server("half") as breaks_off, faulty_server("garbage") as talks:
        servers = [NOWHERE, str(breaks_off.endpoint), str(talks.endpoint), "127.0.0.1:1", str(clamd.tcp6)]
        assert (await outcome(servers, plain(b"text\r\n" * 250_000) + EICAR))[0] == INFECTED
        assert (breaks_off.visits, talks.visits) == (1, 1)


async def test_every_server_and_its_problem_is_in_the_record() -> None:
    async with (
        faulty_server("garbage") as talks,
        gate(clamav={"server": [NOWHERE, str(talks.endpoint)]}) as postfix,
    ):
        _, client = await send(postfix, CLEAN)
        (record,) = [record for record in client.transaction.records if record.plugin == "clamav"]
    assert record.detail == f"clamav: {NOWHERE}: No such file or directory; {talks.endpoint}: answered ''"


async def test_with_pass_the_message_goes_on_as_it_is() -> None:
    forged = FIELD.encode() + b": Clean\r\n" + CLEAN
    reply, message = await outcome(NOWHERE, forged, on_unavailable="pass", mark_all=True)
    assert (reply, edits(message)) == ("250", [])


async def test_a_restart_is_survived_by_the_next_message() -> None:
    with Clamd() as clamd:
        async with gate(clamav={"server": str(clamd.tcp)}) as postfix:
            assert (await send(postfix, plain(EICAR)))[0] == INFECTED
            clamd.stop()
            assert (await send(postfix, plain(EICAR)))[0] == DEFERRED
            clamd.start()
            assert (await send(postfix, plain(EICAR)))[0] == INFECTED


@pytest.mark.parametrize("concurrently", ["yes", "no"])
async def test_messages_are_scanned_while_the_signatures_are_reloaded(concurrently: str) -> None:
    # Without concurrency a reload waits for threads that wait for work: 30 s by default.
    with Clamd({"ConcurrentDatabaseReload": concurrently, "IdleTimeout": "1"}) as clamd:
        async with gate(clamav={"server": str(clamd.unix)}) as postfix:
            for _ in range(2):
                assert clamd.command(b"RELOAD") == b"RELOADING"
                answers = await asyncio.gather(*(send(postfix, plain(EICAR)) for _ in range(5)))
                assert [reply for reply, _ in answers] == [INFECTED] * 5


async def test_more_messages_than_the_queue_of_its_socket_holds_are_scanned_in_the_end() -> None:
    settings = {"MaxConnectionQueueLength": "1", "MaxThreads": "1", "MaxQueue": "2"}
    with Clamd(settings) as clamd:
        async with gate(clamav={"server": str(clamd.unix)}) as postfix:
            with clamd.paused():
                tasks = [asyncio.create_task(send(postfix, plain(EICAR))) for _ in range(30)]
                await asyncio.sleep(0.2)
            assert [(await task)[0] for task in tasks] == [INFECTED] * 30


async def test_nothing_stays_open_when_its_time_is_over(clamd: Clamd) -> None:
    def sockets() -> int:
        links = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return sum(link.startswith("socket:") or "gatepost-" in link for link in links)

    large = plain(b"text\r\n" * 250_000)
    before = sockets()
    with clamd.paused():
        assert (await outcome(clamd.unix, large, timeout=0.2))[0] == DEFERRED
        assert (await outcome(clamd.tcp, large, timeout=0.2))[0] == DEFERRED
    # Where the hook's time is over first, its sockets are closed by the next turns of the event loop.
    async with asyncio.timeout(60):
        while sockets() > before:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.01)


def test_a_plugin_that_is_not_configured_imports_nothing() -> None:
    assert "gatepost.services.scanners.clamd" not in _modules_after("import gatepost")
    assert "clamdpy" not in _modules_after("from gatepost import clamd_scan")


def _modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
