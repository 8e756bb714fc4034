"""Servers of one service: who is asked, in which order, and for how long."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from structlog.testing import capture_logs
from tests.rigs.faulty_server import faulty_server
from tests.services.scanners.fleet import ONE, REFUSED, THREE, TWO, Fleet, told, until
from tests.services.store.hand_clock import HandClock

from gatepost import Endpoint, Unavailable
from gatepost.deadline import Deadline, of_hook
from gatepost.services.scanners import upstream
from gatepost.services.scanners.upstream import FAILURES, Upstreams

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.rigs.faulty_server import Fault


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


# Who is asked


async def test_the_first_server_that_answers_is_the_one(logged: list[Any]) -> None:
    fleet = Fleet(ONE, TWO, THREE)
    fleet.state = {ONE: REFUSED}

    assert await fleet.ask() == "answer of 2"
    assert fleet.asked == [1, 2]
    assert told(logged) == [("warning", "server failed")]
    assert logged[0] | {"server": str(ONE), "problem": "Connection refused", "failures": 1} == logged[0]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (Unavailable("other", "busy"), "busy"),
        (REFUSED, "Connection refused"),
        (OSError("no reason at all"), "no reason at all"),
        (OSError(), "OSError"),
        (TimeoutError("its own limit"), "its own limit"),
        (TimeoutError(), "no answer within 28.5 s"),
        (EOFError(), "closed the connection without an answer"),
        (EOFError("closed at once"), "closed at once"),
        (asyncio.IncompleteReadError(b"half", 8), "closed the connection in the middle of its answer (4 bytes)"),
    ],
)
async def test_when_none_answers_each_server_and_its_problem_are_named(
    monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    monkeypatch.setattr(upstream, "_time_left_s", lambda: 28.5)
    fleet = Fleet(ONE)
    fleet.state = {ONE: error}

    with pytest.raises(Unavailable) as raised:
        await fleet.ask()

    assert str(raised.value) == f"scan: 192.0.2.1:1: {words}"
    assert fleet.upstreams.servers[0].problem == words


async def test_all_problems_stand_in_the_order_of_the_servers() -> None:
    fleet = Fleet(ONE, TWO)
    fleet.state = {ONE: REFUSED, TWO: EOFError()}

    with pytest.raises(Unavailable) as raised:
        await fleet.ask()

    assert raised.value.reason == (
        "192.0.2.1:1: Connection refused; 192.0.2.1:2: closed the connection without an answer"
    )


async def test_a_mistake_of_the_caller_is_no_failure_of_the_server(logged: list[Any]) -> None:
    fleet = Fleet(ONE, TWO)
    fleet.state = {ONE: KeyError("bug")}

    for _ in range(FAILURES + 1):
        with pytest.raises(KeyError):
            await fleet.ask()

    assert fleet.asked == [1] * (FAILURES + 1)
    assert logged == []


@pytest.mark.parametrize("fault", ["garbage", "endless", "close", "half", "silence"])
async def test_real_servers_that_misbehave_are_passed_over(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    async def line(server: Endpoint) -> bytes:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        try:
            writer.write(b"hello\n")
            answer = await reader.readexactly(3)
            if answer != b"yes":
                raise Unavailable("scan", "nonsense")
            return answer
        finally:
            writer.close()

    # Half of it is for the first, which may use it up; the other may take as long as a busy machine takes.
    left_s = iter([1.0, 60.0])
    monkeypatch.setattr(upstream, "_time_left_s", lambda: next(left_s))
    async with faulty_server(fault) as bad, faulty_server("half", b"yes") as good:
        servers = Upstreams("scan", [bad.endpoint, good.endpoint], structlog.get_logger())
        assert await servers.ask(line) == b"yes"
        assert (bad.visits, good.visits) == (1, 1)
        assert [server.failures for server in servers.servers] == [1, 0]


# For how long


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that each server was given, in order; nothing ends by them."""
    given: list[float] = []
    timeout = asyncio.timeout

    def noting(seconds: float) -> asyncio.Timeout:
        given.append(seconds)
        return timeout(60)

    monkeypatch.setattr(upstream.asyncio, "timeout", noting)  # type: ignore[attr-defined]
    return given


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_servers_have_equal_shares_of_the_hooks_time(
    monkeypatch: pytest.MonkeyPatch, shares: list[float], count: int
) -> None:
    left_s = 30.0
    monkeypatch.setattr(upstream, "_time_left_s", lambda: left_s)

    async def takes_its_share(server: Endpoint) -> None:
        nonlocal left_s
        left_s -= shares[-1]
        raise TimeoutError

    servers = Upstreams("scan", (ONE, TWO, THREE)[:count], structlog.get_logger(), HandClock())
    with pytest.raises(Unavailable):
        await servers.ask(takes_its_share)

    assert shares == pytest.approx([30.0 / count] * count)


async def test_what_one_does_not_use_is_the_others(shares: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "_time_left_s", lambda: 30.0)
    fleet = Fleet(ONE, TWO, THREE)
    fleet.state = {ONE: REFUSED, TWO: REFUSED}

    assert await fleet.ask() == "answer of 3"
    assert shares == [10.0, 15.0, 30.0]


async def test_who_is_left_alone_gets_no_share(shares: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "_time_left_s", lambda: 30.0)
    fleet = Fleet(ONE, TWO)
    fleet.state = {ONE: REFUSED}
    for _ in range(FAILURES):
        await fleet.ask()
    shares.clear()

    await fleet.ask()

    assert shares == [30.0]


async def test_the_answer_is_known_before_the_hooks_time_is_over(
    shares: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = HandClock()
    monkeypatch.setattr("gatepost.deadline.monotonic", clock)
    limit = Deadline.after(0.5)
    of_hook.set(limit)

    async def takes_its_share(server: Endpoint) -> None:
        clock.now += shares[-1]
        raise TimeoutError

    servers = Upstreams("scan", (ONE, TWO), structlog.get_logger(), HandClock())
    with pytest.raises(Unavailable):
        await servers.ask(takes_its_share)

    assert len(shares) == 2
    assert 0 < limit.remaining() < 0.1


async def test_who_keeps_silent_is_left_when_its_share_is_over() -> None:
    fleet = Fleet(ONE, TWO)
    fleet.state = {ONE: None, TWO: None}
    of_hook.set(Deadline.after(0.5))

    await fleet.fail()

    assert fleet.asked == [1, 2]


async def test_without_a_hook_there_is_a_limit_too(shares: list[float]) -> None:
    assert of_hook.get() is None
    await Fleet(ONE).ask()
    assert shares == [upstream.TIME_S]


@pytest.mark.parametrize(("left_s", "failures"), [(0.0, 1), (5.0, 0)])
async def test_silence_until_the_pipeline_gives_up_counts_and_to_be_called_off_before_does_not(
    monkeypatch: pytest.MonkeyPatch, left_s: float, failures: int
) -> None:
    monkeypatch.setattr(upstream, "_time_left_s", lambda: 30.0)
    fleet = Fleet(ONE)
    fleet.state = {ONE: None}
    asked = asyncio.create_task(fleet.ask())
    await until(lambda: fleet.asked == [1])
    monkeypatch.setattr(upstream, "_time_left_s", lambda: left_s)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked

    assert fleet.upstreams.servers[0].failures == failures


async def test_no_answer_in_hardly_any_time_says_nothing_about_the_server(logged: list[Any]) -> None:
    """Another plugin has used up the message's time."""
    fleet = Fleet(ONE)
    fleet.state = {ONE: None}
    for remaining_s in (0.0, 0.01, 0.1, 0.05, 0.02):
        of_hook.set(Deadline.after(remaining_s))
        await fleet.fail()
    assert logged == []
    of_hook.set(Deadline.after(5))
    fleet.state = {}
    assert await fleet.ask() == "answer of 1"
