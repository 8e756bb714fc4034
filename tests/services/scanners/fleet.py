"""Servers that do as a test says, and the clock by which they are left alone."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from tests.services.store.hand_clock import HandClock

from gatepost import Endpoint, Unavailable
from gatepost.services.scanners.upstream import FAILURES, PAUSE_S, Upstreams

if TYPE_CHECKING:
    from collections.abc import Callable

ONE, TWO, THREE = (Endpoint("192.0.2.1", port) for port in (1, 2, 3))
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


class Fleet:
    """Servers as `work` and `probe` find them; `asked` and `probed` are the ports in order.

    `state` maps a server to what it does: raise, wait for ever (None), or be well, which is the default.
    """

    def __init__(self, *endpoints: Endpoint) -> None:
        self.clock = HandClock()
        self.upstreams = Upstreams("scan", endpoints or (ONE,), structlog.get_logger(), self.clock)
        self.state: dict[Endpoint, BaseException | None] = {}
        self.probe_state: dict[Endpoint, BaseException | None] = {}
        self.asked: list[int | None] = []
        self.probed: list[int | None] = []

    async def work(self, server: Endpoint) -> str:
        self.asked.append(server.port)
        await behave(self.state, server)
        return f"answer of {server.port}"

    async def probe(self, server: Endpoint) -> None:
        self.probed.append(server.port)
        await behave(self.probe_state, server)

    async def ask(self) -> str:
        return await self.upstreams.ask(self.work, self.probe)

    async def fail(self, times: int = 1) -> None:
        for _ in range(times):
            with pytest.raises(Unavailable):
                await self.ask()

    def take_asked(self) -> list[int | None]:
        asked, self.asked = self.asked, []
        return asked


async def behave(state: dict[Endpoint, BaseException | None], server: Endpoint) -> None:
    await asyncio.sleep(0)
    if server in state:
        if (error := state[server]) is not None:
            raise error
        await asyncio.Event().wait()


def told(logged: list[Any]) -> list[tuple[str, str]]:
    return [(line["log_level"], line["event"]) for line in logged]


async def down(fleet: Fleet) -> None:
    """Let the first server fail until it is left alone, and the while pass."""
    fleet.state[ONE] = fleet.probe_state[ONE] = REFUSED
    for _ in range(FAILURES):
        with pytest.raises(Unavailable):
            await fleet.ask()
    fleet.clock.now += PAUSE_S
    fleet.take_asked()


async def gathered(fleet: Fleet, count: int) -> list[str]:
    results = await asyncio.gather(*(fleet.ask() for _ in range(count)), return_exceptions=True)
    return [result if isinstance(result, str) else getattr(result, "reason", repr(result)) for result in results]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what happens next is a few steps of the event loop away
            await asyncio.sleep(0)
