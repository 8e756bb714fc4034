"""clamd's protocol with a real clamd: large messages cost neither memory nor the event loop, on either event loop."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import TYPE_CHECKING

import pytest
import uvloop
from tests.rigs.clamd_rig import EICAR, Clamd
from tests.rigs.faulty_server import faulty_server

from gatepost import Address, ClamdAnswer, Endpoint, Message, Unavailable, clamd_ping, clamd_scan
from gatepost.message.body import BodyWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.rigs.faulty_server import Fault

SENDER = Address.parse("a@example.net")
FOUND = ClamdAnswer("Eicar-Test-Signature.UNOFFICIAL")
LARGE_BYTES = 64 << 20
LOOPS = [asyncio.new_event_loop, uvloop.new_event_loop]


@pytest.fixture(scope="module")
def clamd() -> Iterator[Clamd]:
    with Clamd({"StreamMaxLength": "66M", "MaxFileSize": "100M", "MaxScanSize": "100M"}) as running:
        yield running


def message(text: bytes, lines: int = 0, end: bytes = b"") -> Message:
    writer = BodyWriter()
    writer.write(text)
    for _ in range(lines // 1000):
        writer.write((b"x" * 78 + b"\r\n") * 1000)
    writer.write(end)
    return Message([], writer.finish(), SENDER, [SENDER])


@pytest.mark.parametrize("loop", LOOPS)
def test_it_works_on_both_event_loops(clamd: Clamd, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    too_large = message(b"", 1_000_000)

    async def everything() -> None:
        for server in (clamd.unix, clamd.tcp, clamd.tcp6):
            await clamd_ping(server)
            assert await clamd_scan(server, message(EICAR)) == FOUND
            assert await clamd_scan(server, message(b"", 50_000)) == ClamdAnswer()
            assert await clamd_scan(server, too_large) == ClamdAnswer(too_large=True)
            with clamd.paused(), pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await clamd_scan(server, message(b"", 50_000))
            assert await clamd_scan(server, message(EICAR)) == FOUND

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(everything())


async def test_a_large_message_is_sent_in_constant_memory_and_lets_the_event_loop_go_on(clamd: Clamd) -> None:
    steps = 0

    async def others() -> None:
        nonlocal steps
        while True:
            await asyncio.sleep(0)
            steps += 1

    large = message(b"", LARGE_BYTES // 80, EICAR)
    assert large.size > LARGE_BYTES * 0.99
    running = asyncio.create_task(others())
    tracemalloc.start()
    try:
        assert await clamd_scan(clamd.unix, large) == FOUND
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        running.cancel()
    assert peak < 2 << 20
    assert steps > LARGE_BYTES >> 16


@pytest.mark.parametrize(
    ("fault", "greeting", "error"),
    [
        ("garbage", b"", "answered ''"),
        ("endless", b"x", "answered 'x"),
        ("half", b"", "closed the connection without answer"),
        ("half", b"PON", "closed the connection in the middle of its answer"),
        ("half", b"PONG\n", "closed the connection in the middle of its answer"),
        ("half", b"PANG\0", "answered 'PANG'"),
        ("half", b"\xff\r\n\x1b[0m\0", r"answered '\\ufffd\\r\\n\\x1b\[0m'"),
    ],
)
async def test_a_ping_is_answered_by_clamd_alone(fault: Fault, greeting: bytes, error: str) -> None:
    async with faulty_server(fault, greeting) as server:
        with pytest.raises((Unavailable, EOFError), match=error):
            await clamd_ping(server.endpoint)


async def test_a_name_is_looked_up(clamd: Clamd) -> None:
    assert await clamd_scan(Endpoint("localhost", clamd.tcp.port), message(EICAR)) == FOUND
    with pytest.raises(OSError, match=r"not known|resolution"):
        await clamd_ping(Endpoint("nowhere.invalid", 3310))
