"""Whoever connects to a proxy that ends is greeted, hears 421 at MAIL, and never gets further."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from gatepost.doors.farewell import FarewellConnection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CLOSING = b"421 4.3.2 restarting, please try again later\r\n"


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter, set[FarewellConnection]]]:
    """A client of a port where everyone is turned away, and who is there."""
    loop = asyncio.get_running_loop()
    open_ones: set[FarewellConnection] = set()
    server = await loop.create_server(lambda: FarewellConnection("mx.example.org", open_ones), "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    try:
        async with asyncio.timeout(60):
            yield reader, writer, open_ones
    finally:
        writer.close()
        server.close()


async def test_it_speaks_as_the_proxy_does_up_to_mail() -> None:
    async with connected() as (reader, writer, open_ones):
        assert await reader.readline() == b"220 mx.example.org ESMTP gatepost\r\n"
        writer.write(b"EHLO front.example.org\r\n")
        lines = [await reader.readline()]
        while lines[-1][3:4] == b"-":
            lines.append(await reader.readline())
        assert lines[0] == b"250-mx.example.org\r\n"
        assert any(line[4:].startswith(b"XFORWARD ") for line in lines)
        writer.write(b"XFORWARD NAME=client.example.com ADDR=192.0.2.1\r\n")
        assert (await reader.readline()).startswith(b"250 ")
        writer.write(b"MAIL FROM:<a@example.com>\r\n")
        assert await reader.readline() == CLOSING
        assert len(open_ones) == 1
        writer.write(b"QUIT\r\n")
        assert await reader.read() == b"221 2.0.0 Bye\r\n"
        assert not open_ones


async def test_a_client_that_does_not_wait_hears_421_all_the_same() -> None:
    async with connected() as (reader, writer, _):
        writer.write(b"EHLO x\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\nQUIT\r\nNOOP\r\n")
        said = await reader.read()
        codes = [line[:3] for line in said.splitlines() if line[3:4] == b" "]
        assert codes == [b"220", b"250", b"421", b"503", b"503", b"221"]
        assert CLOSING in said


@pytest.mark.parametrize(
    "garbage", [b"\x00\xff\r\n", b"x" * 20_000 + b"\r\n", b"\r\n", b"MAIL FROM:<a@example.com>\r\n"]
)
async def test_garbage_is_refused_and_the_next_command_answered(garbage: bytes) -> None:
    async with connected() as (reader, writer, _):
        await reader.readline()
        writer.write(garbage + b"NOOP\r\n")
        assert (await reader.readline())[:1] == b"5"
        assert (await reader.readline()).startswith(b"250 ")


async def test_one_that_says_nothing_can_be_hung_up_on() -> None:
    async with connected() as (reader, writer, open_ones):
        await reader.readline()
        (connection,) = open_ones
        connection.close()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        assert not open_ones
