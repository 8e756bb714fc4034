"""The test kit with plugins from a configuration file, as administrators write it, and a clock in hand."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from gatepost.configuration.config import parse_config
from gatepost.configuration.loader import load_plugins
from gatepost.deadline import Deadline
from gatepost.pipeline.arrival import greet
from gatepost.pipeline.pipeline import Pipeline
from gatepost.services.store.store import open_store
from gatepost.testing import Client, Gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from gatepost import Overrides, Recipient, Session, Transaction
    from gatepost.services.store.store import Store
    from gatepost.smtp.reply import Reply


class HandClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def text(reply: Reply) -> str:
    """Return the reply as the client sees it, without line ends."""
    return reply.encode().decode().strip()


@dataclass(frozen=True, slots=True)
class Mail:
    """One transaction; replies are text, `250 2.1.5 Ok` shortened to `250`."""

    client: Client

    @property
    def transaction(self) -> Transaction:
        return self.client.transaction

    async def rcpt(self, address: str) -> str:
        reply = await self.client.rcpt(address)
        return "250" if reply.code == 250 else text(reply)

    async def offer(self, address: str) -> tuple[Recipient, str]:
        """Say RCPT; return what became of the recipient, and the reply."""
        reply = await self.rcpt(address)
        return self.transaction.recipients[-1], reply

    async def data(self) -> str:
        """Send a message; return the last reply."""
        reply = await self.client.data()
        return "250" if reply.code == 250 else text(reply)


@dataclass(frozen=True, slots=True)
class Rig:
    """Plugins in their order, as a configuration names them."""

    gate: Gate
    clock: HandClock

    @property
    def pipeline(self) -> Pipeline:
        return self.gate.pipeline

    @property
    def store(self) -> Store:
        return self.gate.store

    async def connect(self, address: str = "192.0.2.1", name: str | None = None, **facts: Any) -> Client:
        """Return a client whose connect and helo hooks have run; `facts` are further fields of its Session."""
        client = self.gate.client(address, name=name, **facts)
        client.greeted = True
        await greet(self.pipeline, client.session, Deadline.after(10))
        return client

    async def session(self, address: str = "192.0.2.1", name: str | None = None) -> Session:
        """Return the session of such a client."""
        return (await self.connect(address, name)).session

    async def mail(self, client: Client | None = None, sender: str = "alice@sender.example") -> Mail:
        """Say MAIL, from a new client if none is given."""
        client = client or await self.connect()
        await client.mail(sender)
        return Mail(client)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def load(tmp_path: Path, clock: HandClock) -> AsyncIterator[Callable[[str], Awaitable[Rig]]]:
    """Load a configuration; files that it names are relative to the test's own directory."""
    async with contextlib.AsyncExitStack() as stack:

        async def load_rig(settings: str) -> Rig:
            config = parse_config(settings, tmp_path / "gatepost.toml")
            store = open_store("sqlite::memory:", clock)
            stack.push_async_callback(store.close)
            pipeline = Pipeline(load_plugins(config, store))
            await pipeline.start()
            stack.push_async_callback(pipeline.stop)
            return Rig(Gate(pipeline, store, config.content, {}), clock)

        yield load_rig


@pytest.fixture
def overrides_of() -> Callable[[tuple[Overrides, ...]], dict[str, dict[str, object]]]:
    """Return what a chain of overrides comes to, as plain data."""

    def flatten(chain: tuple[Overrides, ...]) -> dict[str, dict[str, object]]:
        flat: dict[str, dict[str, object]] = {}
        for overrides in chain:
            for plugin, values in overrides.values.items():
                flat.setdefault(plugin, {}).update(values)
        return flat

    return flatten
