"""The circuit breaker: who is left alone and for how long, who tries a server again, and how it comes back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from tests.services.scanners.fleet import ONE, REFUSED, TWO, Fleet, down, gathered, told, until

from gatepost import Endpoint, Unavailable
from gatepost.services.scanners import upstream
from gatepost.services.scanners.upstream import FAILURES, LONGEST_PAUSE_S, PAUSE_S

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def logged() -> Iterator[list[Any]]:
    with capture_logs() as lines:
        yield lines


async def test_after_failures_in_a_row_a_server_is_left_alone_for_a_while(logged: list[Any]) -> None:
    fleet = Fleet(ONE, TWO)
    fleet.state = {ONE: REFUSED}
    for _ in range(FAILURES + 2):
        assert await fleet.ask() == "answer of 2"

    assert fleet.asked.count(1) == FAILURES
    assert told(logged) == [("warning", "server failed")] * (FAILURES - 1) + [("error", "server left alone")]
    assert logged[-1] | {"server": str(ONE), "problem": "Connection refused", "failures": FAILURES} == logged[-1]
    assert logged[-1]["for_s"] == PAUSE_S


async def test_failures_that_are_not_in_a_row_do_no_harm() -> None:
    fleet = Fleet(ONE)
    for _ in range(5):
        fleet.state = {ONE: REFUSED}
        await fleet.fail(FAILURES - 1)
        fleet.state = {}
        assert await fleet.ask() == "answer of 1"


async def test_when_all_are_left_alone_it_is_told_at_once() -> None:
    fleet = Fleet(ONE)
    fleet.state = {ONE: REFUSED}
    await fleet.fail(FAILURES)
    fleet.clock.now += 2
    fleet.take_asked()

    with pytest.raises(Unavailable) as raised:
        await fleet.ask()

    assert raised.value.reason == "192.0.2.1:1 is left alone for 3 s (Connection refused)"
    assert (fleet.asked, fleet.probed) == ([], [])


async def test_after_the_while_it_is_probed_and_asked_and_back(logged: list[Any]) -> None:
    fleet = Fleet()
    await down(fleet)
    fleet.state, fleet.probe_state = {}, {}
    fleet.clock.now += 2

    assert await fleet.ask() == "answer of 1"
    assert (fleet.probed, fleet.asked) == ([1], [1])
    assert told(logged)[-1] == ("info", "server is back")
    assert logged[-1] | {"server": str(ONE), "down_s": 7} == logged[-1]

    await fleet.ask()
    assert fleet.probed == [1]


async def test_a_server_that_does_not_answer_the_probe_is_not_asked() -> None:
    fleet = Fleet()
    await down(fleet)
    fleet.state = {}

    await fleet.fail()

    assert (fleet.probed, fleet.asked) == ([1], [])


async def test_a_probe_has_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "PROBE_S", 0.05)
    fleet = Fleet()
    await down(fleet)
    fleet.probe_state = {ONE: None}

    with pytest.raises(Unavailable) as raised:
        await fleet.ask()

    assert raised.value.reason == "192.0.2.1:1: no answer to a probe within 0.05 s"
    assert fleet.upstreams.servers[0].is_down


async def test_without_a_probe_one_message_tries_it() -> None:
    fleet = Fleet()
    await down(fleet)
    fleet.state = {}
    assert await fleet.upstreams.ask(fleet.work) == "answer of 1"
    assert fleet.probed == []


async def test_the_while_doubles_up_to_a_limit_and_begins_anew_after_an_answer(logged: list[Any]) -> None:
    fleet = Fleet()
    await down(fleet)
    for _ in range(6):
        logged.clear()
        await fleet.fail()
        (line,) = logged
        fleet.clock.now += line["for_s"] - 0.001
        await fleet.fail()  # A moment too early.
        assert len(logged) == 1
        fleet.clock.now += 0.001
    assert line["for_s"] == LONGEST_PAUSE_S
    assert fleet.probed == [1] * 6

    fleet.state, fleet.probe_state = {}, {}
    await fleet.ask()
    await down(fleet)
    assert logged[-1]["for_s"] == PAUSE_S


async def test_pauses_are_5_10_20_40_60_seconds(logged: list[Any]) -> None:
    fleet = Fleet()
    await down(fleet)
    for _ in range(5):
        await fleet.fail()
        fleet.clock.now += LONGEST_PAUSE_S
    assert [line["for_s"] for line in logged if "for_s" in line] == [5, 10, 20, 40, 60, 60]


# Several at once


async def test_only_one_message_tries_a_server_again() -> None:
    fleet = Fleet()
    await down(fleet)

    replies = await gathered(fleet, 4)

    assert (
        replies == ["192.0.2.1:1: Connection refused"] + ["192.0.2.1:1 is being tried again (Connection refused)"] * 3
    )
    assert fleet.probed == [1]


async def test_meanwhile_the_others_are_answered_by_the_next_server() -> None:
    fleet = Fleet(ONE, TWO)
    fleet.state = fleet.probe_state = {ONE: REFUSED}
    for _ in range(FAILURES):
        await fleet.ask()
    fleet.clock.now += PAUSE_S

    assert await gathered(fleet, 4) == ["answer of 2"] * 4
    assert fleet.probed == [1]


async def test_after_a_probe_nobody_waits_for_the_long_question_of_the_first() -> None:
    fleet = Fleet()
    await down(fleet)
    fleet.probe_state, fleet.state = {}, {ONE: None}
    long = asyncio.create_task(fleet.ask())
    await until(lambda: fleet.asked == [1])
    fleet.state = {}

    assert await fleet.ask() == "answer of 1"
    assert fleet.probed == [1, 1]
    assert not fleet.upstreams.servers[0].is_down

    long.cancel()
    await asyncio.gather(long, return_exceptions=True)


async def test_many_who_fail_after_a_probe_double_the_while_once(logged: list[Any]) -> None:
    fleet = Fleet()
    await down(fleet)
    fleet.probe_state, fleet.state = {}, {}
    go = asyncio.Event()

    async def fails(server: Endpoint) -> None:
        fleet.asked.append(server.port)
        await go.wait()
        raise REFUSED

    tasks = []
    for count in range(1, 6):
        tasks.append(asyncio.create_task(fleet.upstreams.ask(fails, fleet.probe)))
        await until(lambda: len(fleet.asked) == count)  # noqa: B023 - awaited before the next round
    logged.clear()
    go.set()
    await asyncio.gather(*tasks, return_exceptions=True)

    assert [line["for_s"] for line in logged] == [2 * PAUSE_S]


async def test_failures_that_began_before_the_while_do_not_lengthen_it(logged: list[Any]) -> None:
    fleet = Fleet()
    fleet.state = {ONE: REFUSED}

    await gathered(fleet, 3 * FAILURES)

    assert [line["for_s"] for line in logged if "for_s" in line] == [PAUSE_S]
    fleet.clock.now += PAUSE_S
    fleet.state = {}
    assert await fleet.ask() == "answer of 1"


async def test_an_answer_that_was_under_way_brings_it_back_at_once() -> None:
    fleet = Fleet()
    go = asyncio.Event()

    async def late(server: Endpoint) -> str:
        await go.wait()
        return "late"

    waiting = asyncio.create_task(fleet.upstreams.ask(late))
    await asyncio.sleep(0)
    fleet.state = {ONE: REFUSED}
    await fleet.fail(FAILURES)
    go.set()

    assert await waiting == "late"
    fleet.state = {}
    assert await fleet.ask() == "answer of 1"


@pytest.mark.parametrize("where", ["probe", "work"])
async def test_a_trial_that_is_given_up_is_no_failure_and_the_next_message_tries(where: str, logged: list[Any]) -> None:
    fleet = Fleet()
    await down(fleet)
    fleet.state, fleet.probe_state = ({}, {ONE: None}) if where == "probe" else ({ONE: None}, {})
    logged.clear()
    given_up = asyncio.create_task(fleet.ask())
    await until(lambda: bool(fleet.asked if where == "work" else fleet.probed))
    given_up.cancel()
    assert isinstance((await asyncio.gather(given_up, return_exceptions=True))[0], asyncio.CancelledError)

    fleet.state, fleet.probe_state = {}, {}
    assert await fleet.ask() == "answer of 1"
    assert told(logged) == [("info", "server is back")]


async def test_a_caller_that_is_cancelled_does_not_ask_the_next_server() -> None:
    fleet = Fleet(ONE, TWO)
    fleet.state = {ONE: None}
    task = asyncio.create_task(fleet.ask())
    await until(lambda: fleet.asked == [1])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert fleet.asked == [1]
    assert fleet.upstreams.servers[0].failures == 0


async def test_a_mistake_of_the_caller_ends_the_trial() -> None:
    fleet = Fleet()
    await down(fleet)
    fleet.probe_state, fleet.state = {}, {ONE: KeyError("bug")}
    with pytest.raises(KeyError):
        await fleet.ask()
    fleet.state = {}
    assert await fleet.ask() == "answer of 1"
