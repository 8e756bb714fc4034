"""The way from libmilter's threads to the event loop."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from gatepost.deadline import Deadline
from gatepost.doors.crossing import Crossing


async def test_what_is_started_begins_before_what_the_thread_runs_next_and_takes_as_long_as_it_has_to() -> None:
    crossing = Crossing(asyncio.get_running_loop())
    done: list[str] = []
    release = asyncio.Event()

    async def lingers() -> None:
        done.append("begun")
        await release.wait()
        done.append("ended")

    async def answers() -> list[str]:
        return list(done)

    def callbacks() -> list[str]:
        crossing.start(lingers)
        return crossing.run(answers, Deadline.after(60))

    assert await asyncio.to_thread(callbacks) == ["begun"]
    release.set()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert done == ["begun", "ended"]


async def test_a_bug_in_what_is_started_is_logged() -> None:
    crossing = Crossing(asyncio.get_running_loop())

    async def fails() -> None:
        raise KeyError("bug")

    async def answers() -> None:
        await asyncio.sleep(0)

    def callbacks() -> None:
        crossing.start(fails)
        crossing.run(answers, Deadline.after(60))

    with capture_logs() as logs:
        await asyncio.to_thread(callbacks)
    assert [entry["event"] for entry in logs] == ["bug in the milter"]


def test_after_the_end_of_the_event_loop_nothing_is_started() -> None:
    loop = asyncio.new_event_loop()
    crossing = Crossing(loop)
    loop.close()
    crossing.start(lambda: asyncio.sleep(0))
