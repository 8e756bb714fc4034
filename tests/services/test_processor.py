"""Work for the processor is done in threads, few at a time, in the caller's context."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar

import pytest

from gatepost import Address, Message
from gatepost.message.body import Body
from gatepost.services.processor import THREADS, in_thread

WAIT_S = 60.0
SOMEBODY = Address.parse("a@example.org")
SMALL, LARGE = (Message((), Body(bytes(size)), SOMEBODY, [SOMEBODY]) for size in (1000, 2_000_000))
caller: ContextVar[str] = ContextVar("caller", default="nobody")


async def test_the_result_and_the_exception_come_back() -> None:
    assert await in_thread(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 7, 0)


async def test_no_more_work_runs_at_once_than_there_are_threads() -> None:
    lock = threading.Lock()
    running = most = 0
    full = threading.Event()

    def work(_: Message) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
            if running == THREADS:
                full.set()
        full.wait(WAIT_S)
        with lock:
            running -= 1

    await asyncio.gather(*(in_thread(work, message) for message in (SMALL, LARGE) * THREADS * 5))

    assert most == THREADS


async def test_a_small_message_waits_for_no_large_one() -> None:
    release = threading.Event()

    def work(_: Message) -> None:
        release.wait(WAIT_S)

    busy = [asyncio.ensure_future(in_thread(work, LARGE)) for _ in range(THREADS * 2)]
    await in_thread(bytes, SMALL.headers)
    assert not any(future.done() for future in busy)
    release.set()
    await asyncio.gather(*busy)


async def test_work_that_nobody_waits_for_any_more_is_never_begun() -> None:
    release = threading.Event()
    done: list[int] = []
    busy = [asyncio.ensure_future(in_thread(release.wait, WAIT_S)) for _ in range(THREADS)]
    late = asyncio.ensure_future(in_thread(done.append, 1))
    await asyncio.sleep(0)
    late.cancel()
    await asyncio.gather(late, return_exceptions=True)
    release.set()
    await asyncio.gather(*busy)
    await in_thread(done.append, 2)

    assert done == [2]


async def test_work_runs_in_the_context_of_who_asked() -> None:
    caller.set("somebody")

    assert await in_thread(caller.get) == "somebody"
