"""How long a hook may take, and whom it may hold up: itself, and nobody else."""

from __future__ import annotations

import asyncio
import threading
import time
from time import perf_counter
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from structlog.testing import capture_logs

from gatepost import Deny, Ok, Plugin, Session, Verdict
from gatepost.pipeline.hook_call import LOOP_GUARD_S, Failure, HookCall
from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT_S = 60.0
"""Longer than any hook here takes that is not meant to take too long."""


class Kind(Plugin):
    """The same hook as a plain, an asynchronous, and a blocking plugin; `_act` is what it does."""

    _act: Callable[[], Any] = staticmethod(lambda: None)


class Plain(Kind):
    def connect(self, session: Session) -> Any:
        return self._act()


class Asynchronous(Kind):
    async def connect(self, session: Session) -> Any:
        await asyncio.sleep(0)
        return self._act()


class Blocking(Kind):
    blocking = True

    def connect(self, session: Session) -> Any:
        return self._act()


async def answer_of(kind: type[Kind], act: Callable[[], Any]) -> Verdict | Failure:
    doing = type(kind.__name__, (kind,), {"_act": staticmethod(act), "__module__": kind.__module__})
    async with gate(doing) as made:
        return await made.pipeline.calls["connect"][0]((Session("s", "192.0.2.1"),), TIMEOUT_S)


async def poll(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.005)


async def test_the_daemon_can_still_cancel_the_caller_of_a_hook() -> None:
    """Else a hook could hold up the end of the daemon."""
    entered = threading.Event()
    release = threading.Event()

    class Slow(Plugin):
        cancelled = False

        async def connect(self, session: Session) -> None:
            entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise

    class Stuck(Plugin):
        blocking = True

        def connect(self, session: Session) -> None:
            entered.set()
            release.wait(TIMEOUT_S)

    async with gate(Slow, Stuck) as made:
        for call in made.pipeline.calls["connect"]:
            entered.clear()
            caller = asyncio.ensure_future(call((Session("s", "192.0.2.1"),), TIMEOUT_S))
            await poll(entered.is_set)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
        release.set()
        slow = made.plugin("slow")
        assert isinstance(slow, Slow)
        await poll(lambda: slow.cancelled)


async def test_a_hook_over_its_time_is_cancelled_and_is_a_timeout() -> None:
    class Sleeper(Plugin):
        cancelled = False

        async def connect(self, session: Session) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                self.cancelled = True

    async with gate(Sleeper) as made:
        answer = await made.pipeline.calls["connect"][0]((Session("s", "192.0.2.1"),), 0.02)

        assert answer == Failure("timeout", "no answer within 0.02 s")
        sleeper = made.plugin("sleeper")
        assert isinstance(sleeper, Sleeper)
        await poll(lambda: sleeper.cancelled)


@pytest.mark.parametrize("late_end", ["answers", "raises"])
async def test_a_hook_that_swallows_its_cancellation_holds_nobody_up(late_end: str) -> None:
    release = asyncio.Event()
    ended = asyncio.Event()

    class Stubborn(Plugin):
        async def connect(self, session: Session) -> Ok:
            while not release.is_set():
                try:
                    await release.wait()
                except asyncio.CancelledError:
                    continue
            ended.set()
            if late_end == "raises":
                raise ValueError("too late for anybody to hear")
            return Ok()

    async with gate(Stubborn) as made:
        call = made.pipeline.calls["connect"][0]
        async with asyncio.timeout(TIMEOUT_S):
            answer = await call((Session("s", "192.0.2.1"),), 0.02)
        assert isinstance(answer, Failure)
        assert answer.reason == "timeout"
        assert not ended.is_set()
        release.set()
        await ended.wait()


async def test_a_blocking_hook_over_its_time_is_a_timeout_while_its_thread_goes_on() -> None:
    begun = threading.Event()
    release = threading.Event()
    ended = threading.Event()

    class Stuck(Plugin):
        blocking = True

        def connect(self, session: Session) -> Deny:
            begun.set()
            release.wait(TIMEOUT_S)
            ended.set()
            return Deny()

    async with gate(Stuck) as made:
        # Mostly once: on a busy machine the time may be over before the thread has begun, and then it never does.
        while not begun.is_set():
            answer = await made.pipeline.calls["connect"][0]((Session("s", "192.0.2.1"),), 0.02)
            assert answer == Failure("timeout", "no answer within 0.02 s")
        assert not ended.is_set()
        release.set()
        await poll(ended.is_set)


async def test_a_plugin_whose_threads_are_all_stuck_starves_only_itself() -> None:
    release = threading.Event()

    class Stuck(Plugin):
        blocking = True

        def connect(self, session: Session) -> None:
            release.wait(TIMEOUT_S)

    class Well(Plugin):
        blocking = True

        def connect(self, session: Session) -> Ok:
            return Ok(threading.current_thread().name)

    async with gate(Stuck, Well) as made:
        stuck, well = made.pipeline.calls["connect"]
        session = Session("s", "192.0.2.1")
        answers = await asyncio.gather(*(stuck((session,), 0.05) for _ in range(Stuck.threads + 2)))
        try:
            assert {type(answer) for answer in answers} == {Failure}
            answer = await well((session,), TIMEOUT_S)
            assert isinstance(answer, Ok)
            assert answer.text.startswith("hook well")
        finally:
            release.set()


async def test_calls_that_never_got_a_thread_are_never_made() -> None:
    release = threading.Event()
    calls: list[str] = []

    class Stuck(Plugin):
        blocking = True

        def connect(self, session: Session) -> None:
            calls.append(session.id)
            release.wait(TIMEOUT_S)

    async with gate(Stuck) as made:
        call = made.pipeline.calls["connect"][0]
        stuck = [asyncio.ensure_future(call((Session("stuck", "192.0.2.1"),), TIMEOUT_S)) for _ in range(Stuck.threads)]
        await poll(lambda: len(calls) == Stuck.threads)
        given_up = await asyncio.gather(*(call((Session("given up", "192.0.2.1"),), 0.05) for _ in range(5)))
        assert given_up == [Failure("timeout", "no answer within 0.05 s")] * 5
        release.set()
        # One that waits in turn behind those that were given up.
        await call((Session("last", "192.0.2.1"),), TIMEOUT_S)
        await asyncio.gather(*stuck)

    assert calls == ["stuck"] * Stuck.threads + ["last"]


async def test_a_blocking_hook_lets_the_event_loop_go_on() -> None:
    release = threading.Event()

    class Stuck(Plugin):
        blocking = True

        def connect(self, session: Session) -> Ok:
            return Ok() if release.wait(TIMEOUT_S) else Ok("nobody else could run")

    async with gate(Stuck) as made:
        call = asyncio.ensure_future(made.pipeline.calls["connect"][0]((Session("s", "192.0.2.1"),), TIMEOUT_S))
        await asyncio.sleep(0)
        release.set()

        assert await call == Ok()


async def test_an_async_hook_of_a_blocking_plugin_runs_on_the_event_loop() -> None:
    class Both(Plugin):
        blocking = True

        async def connect(self, session: Session) -> Ok:
            return Ok(threading.current_thread().name)

    async with gate(Both) as made:
        answer = await made.pipeline.calls["connect"][0]((Session("s", "192.0.2.1"),), TIMEOUT_S)

    assert answer == Ok(threading.current_thread().name)


async def test_a_call_after_the_plugin_was_shut_down_is_an_error() -> None:
    async with gate(Blocking) as made:
        call = made.pipeline.calls["connect"][0]
    failure = await call((Session("s", "192.0.2.1"),), TIMEOUT_S)

    assert isinstance(failure, Failure)
    assert failure.reason == "error"


def hold_the_loop() -> None:
    time.sleep(LOOP_GUARD_S * 1.2)


def hold_the_loop_and_raise() -> NoReturn:
    hold_the_loop()
    raise ValueError("and then this")


@pytest.mark.parametrize("act", [hold_the_loop, hold_the_loop_and_raise])
@pytest.mark.parametrize("kind", [Plain, Asynchronous])
async def test_a_hook_that_holds_the_event_loop_is_named(kind: type[Kind], act: Callable[[], None]) -> None:
    with capture_logs() as logs:
        await answer_of(kind, act)

    (entry,) = [entry for entry in logs if "event loop held up" in entry["event"]]
    assert (entry["plugin"], entry["hook"], entry["log_level"]) == (kind.__name__.lower(), "connect", "warning")
    assert entry["ms"] >= LOOP_GUARD_S * 1000


async def test_a_hook_that_waits_or_runs_in_a_thread_does_not_hold_the_event_loop() -> None:
    class Waiting(Plugin):
        async def connect(self, session: Session) -> None:
            await asyncio.sleep(LOOP_GUARD_S * 1.2)

    with capture_logs() as logs:
        async with gate(Waiting) as made:
            await made.pipeline.calls["connect"][0]((Session("s", "192.0.2.1"),), TIMEOUT_S)
        await answer_of(Blocking, hold_the_loop)

    assert [entry for entry in logs if "event loop held up" in entry["event"]] == []


async def test_the_limits_that_a_hook_sets_itself_work_inside_the_call() -> None:
    class Careful(Plugin):
        async def connect(self, session: Session) -> Ok:
            try:
                async with asyncio.timeout(0.01):
                    await asyncio.Event().wait()
            except TimeoutError:
                return Ok("gave up by itself")
            return Ok()

    async with gate(Careful) as made:
        answer = await made.pipeline.calls["connect"][0]((Session("s", "192.0.2.1"),), TIMEOUT_S)

    assert answer == Ok("gave up by itself")


async def test_a_quick_plain_hook_costs_no_trip_round_the_event_loop() -> None:
    async with gate(Plain) as made:
        call: HookCall = made.pipeline.calls["connect"][0]
        turns = 0

        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.ensure_future(count_turns())
        started = perf_counter()
        for _ in range(100):
            await call((Session("s", "192.0.2.1"),), TIMEOUT_S)
        assert perf_counter() > started
        counting.cancel()

    assert turns == 0
