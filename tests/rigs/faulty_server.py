"""A server that behaves badly in one of a few ways, for tests of what asks servers. Counts who comes."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Literal

from gatepost.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Fault = Literal["garbage", "endless", "close", "half", "silence"]
"""`garbage`: 4 KiB of nonsense, then the end; `endless`: nonsense for ever; `close`: the end at once; `half`: it reads
what is sent and ends after `greeting`; `silence`: it reads, and never answers."""

GARBAGE = bytes(range(256)) * 16


class FaultyServer:
    """Where it listens, and how often it was asked."""

    def __init__(self, fault: Fault, greeting: bytes = b"") -> None:
        self.fault = fault
        self.greeting = greeting
        self.visits = 0
        self.endpoint = Endpoint()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        with suppress(OSError, asyncio.CancelledError):
            writer.write(self.greeting)
            match self.fault:
                case "close":
                    pass
                case "garbage":
                    writer.write(GARBAGE)
                    await writer.drain()
                case "endless":
                    while True:
                        writer.write(GARBAGE)
                        await writer.drain()
                case "half":
                    await reader.read(1 << 16)
                case "silence":
                    while await reader.read(1 << 16):
                        pass
        writer.close()


@asynccontextmanager
async def faulty_server(fault: Fault, greeting: bytes = b"") -> AsyncIterator[FaultyServer]:
    """Run one on a free port of 127.0.0.1; `greeting` is what it says to everybody first."""
    made = FaultyServer(fault, greeting)
    server = await asyncio.start_server(made._serve, "127.0.0.1", 0)
    try:
        made.endpoint = Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
        yield made
    finally:
        server.close()
