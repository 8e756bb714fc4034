"""clamd's protocol: one message scanned (INSTREAM), one sign of life (PING); a connection for each.

The message goes in chunks of 64 KiB, so that neither side ever holds it whole. Raises OSError, EOFError or Unavailable
where the server fails; has no limit of time, and leaves nothing open when it is cancelled. Which server is asked, and
for how long, is the business of `gatepost.services.scanners.upstream`.

Plain sockets, not asyncio's streams: clamd says "size limit exceeded" and closes while the message is still being sent.
A stream whose write fails is closed with what it has not read yet; from a socket the answer can still be had.
"""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple

from gatepost.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gatepost.endpoint import Endpoint
    from gatepost.message.message import Message

CHUNK_BYTES = 65536
"""A megabyte takes 3 ms so, and 140 ms in chunks of 1 KiB."""

ANSWER_LIMIT_BYTES = 4096
"""An answer is a line; who sends more is no clamd, and must not fill the memory."""

BUSY_S = 0.05
"""How long to wait where the queue of a UNIX socket is full: connecting to it fails at once, unlike with TCP."""

FIRST_FIELD = b"Received: by gatepost\r\n"
"""Goes before the message. clamd tells what it gets by the first bytes: with a first field named `MZ` or `%PDF-1.4`, it
took mail for a program or a document, and found no virus in its attachments. Postfix, too, puts a Received on top."""

_FOUND = re.compile(rb"stream: (.+) FOUND", re.DOTALL)
_TOO_LARGE = b"INSTREAM size limit exceeded"


class ClamdAnswer(NamedTuple):
    """What clamd says of a message: `signature` is the name of what it found, in printable ASCII; None for nothing.

    `too_large`: it has more than the server's StreamMaxLength, and was not scanned.
    """

    signature: str | None = None
    too_large: bool = False


async def clamd_scan(server: Endpoint, message: Message) -> ClamdAnswer:
    """Have the message scanned as it is now."""
    async with _connected(server) as connection:
        all_sent = False
        with suppress(ConnectionError):
            # Broken off where clamd has had enough; it has then said why.
            await _send(connection, message)
            all_sent = True
        answer = await _answer(connection)
    if found := _FOUND.fullmatch(answer):
        return ClamdAnswer(_printable(found[1]))
    if answer.startswith(_TOO_LARGE):
        return ClamdAnswer(too_large=True)
    if answer != b"stream: OK" or not all_sent:
        raise Unavailable("clamd", _strange(answer))
    return ClamdAnswer()


async def clamd_ping(server: Endpoint) -> None:
    """Return if the server is there and answers."""
    async with _connected(server) as connection:
        await asyncio.get_running_loop().sock_sendall(connection, b"zPING\0")
        answer = await _answer(connection)
    if answer != b"PONG":
        raise Unavailable("clamd", _strange(answer))


@asynccontextmanager
async def _connected(server: Endpoint) -> AsyncIterator[socket.socket]:
    connection = await _connect(server)
    with connection:
        yield connection


async def _connect(server: Endpoint) -> socket.socket:
    loop = asyncio.get_running_loop()
    if server.path is not None:
        addresses: list[tuple[int, int, int, str | tuple[object, ...]]]
        addresses = [(socket.AF_UNIX, socket.SOCK_STREAM, 0, server.path)]
    else:
        found = await loop.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
        addresses = [(family, kind, protocol, address) for family, kind, protocol, _, address in found]
    failure = OSError("the name has no address")
    for family, kind, protocol, address in addresses:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.setblocking(False)
            if family == socket.AF_UNIX:
                await _connect_unix(connection, str(address))
            else:
                await loop.sock_connect(connection, address)
        except OSError as error:
            connection.close()
            failure = error
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise failure


async def _connect_unix(connection: socket.socket, path: str) -> None:
    # Event loops take EAGAIN for a connection under way, which it is not on a UNIX socket (connect(2)).
    while True:
        try:
            connection.connect(path)
        except BlockingIOError:
            await asyncio.sleep(BUSY_S)
        else:
            return


async def _send(connection: socket.socket, message: Message) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, b"zINSTREAM\0" + _chunk(FIRST_FIELD))
    in_memory = message.size <= CHUNK_BYTES
    with message.open() as reader:
        # In a thread: a large message is in a file, and a disk may be slow.
        while data := reader.read(CHUNK_BYTES) if in_memory else await asyncio.to_thread(reader.read, CHUNK_BYTES):
            await loop.sock_sendall(connection, _chunk(data))
    await loop.sock_sendall(connection, _chunk(b""))


def _chunk(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


async def _answer(connection: socket.socket) -> bytes:
    """Return what stands before the first NUL."""
    loop = asyncio.get_running_loop()
    answer = b""
    while b"\0" not in answer:
        if len(answer) > ANSWER_LIMIT_BYTES:
            raise Unavailable("clamd", _strange(answer))
        data = await loop.sock_recv(connection, ANSWER_LIMIT_BYTES)
        if not data:
            raise EOFError("closed the connection" + (" in the middle of its answer" if answer else " without answer"))
        answer += data
    return answer.partition(b"\0")[0].strip()


def _printable(name: bytes) -> str:
    """Return a name as it may stand in a reply, a header field and the log, whatever the server made of it."""
    text = re.sub(r"[^!-~]+", "_", name.decode("ascii", "replace"))
    return text if len(text) <= 100 else f"{text[:97]}..."


def _strange(answer: bytes) -> str:
    return f"answered {answer[:100].decode('ascii', 'replace')!a}"
