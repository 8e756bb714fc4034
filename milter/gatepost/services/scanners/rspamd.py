"""Asks an rspamd about a message, over HTTP: one question, one answer, one connection. Used by the plugin `rspamd`.

What the answer means is read in `gatepost.services.scanners.rspamd_answer`; which server is asked is the business of
`gatepost.services.scanners.upstream`.
"""

from __future__ import annotations

import asyncio
import io
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import aiohttp

from gatepost.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from aiohttp.client_proto import ResponseHandler

    from gatepost.endpoint import Endpoint
    from gatepost.message.message import Message

ANSWER_LIMIT_BYTES = 4 << 20
"""A message with 10,240 URLs, rspamd's own limit, makes an answer of a megabyte."""

CHUNK_BYTES = 256 << 10
"""Of a message in a file: each piece is read by a thread, which costs as much as reading 100 KB."""

PING_S = 2.0

_OF_THE_MESSAGE = {400, 413, 422}
"""HTTP status codes that speak of this message; all others speak of the server."""

_TIMELESS = aiohttp.ClientTimeout(total=None, connect=None, sock_connect=None, sock_read=None)
"""The hook's own time is the limit."""

_FIXED_FIELDS = (
    # Nothing that must be unpacked: a small answer cannot become a large one.
    ("Accept-Encoding", "identity"),
    ("User-Agent", "gatepost"),
)


class Unscannable(Exception):  # noqa: N818 - a state of the message
    """The server is well and would not judge this message: no other one would, and it is not to be left alone."""


async def rspamd_check(endpoint: Endpoint, message: Message, fields: Iterable[tuple[str, str]]) -> bytes:
    """Send the message with these HTTP fields, and return what rspamd answers: JSON, as it came.

    Raises Unavailable or OSError for the server's failure, Unscannable for the message's. Constant memory: a message
    in a file is read while it is sent.
    """
    try:
        return await _post(endpoint, message, fields)
    except aiohttp.ClientConnectorError as error:
        raise Unavailable("rspamd", error.os_error.strerror or str(error)) from error
    except aiohttp.ClientResponseError as error:
        # It is no HTTP: no message makes rspamd say so.
        raise Unavailable("rspamd", _words(error)) from error
    except (aiohttp.ClientError, OSError) as error:
        # A message that is larger than rspamd takes, or that a worker dies of, ends like this, too. Who sends a few of
        # them must not make us leave the server alone.
        if not isinstance(error, TimeoutError) and await _is_well(endpoint):
            size = f"is max_message below {message.size} bytes?"
            raise Unscannable(f"{endpoint} answers a ping, but not this message: {_words(error)}; {size}") from error
        raise Unavailable("rspamd", _words(error)) from error


async def rspamd_ping(endpoint: Endpoint) -> None:
    """Ask whether a server answers at all; raises as `rspamd_check` does."""
    try:
        async with _session(endpoint) as session, session.get(_url(endpoint, "ping"), allow_redirects=False) as answer:
            if answer.status != 200:
                raise Unavailable("rspamd", f"answered {answer.status} to a ping")
    except aiohttp.ClientError as error:
        raise Unavailable("rspamd", _words(error)) from error


async def _post(endpoint: Endpoint, message: Message, fields: Iterable[tuple[str, str]]) -> bytes:
    length = ("Content-Length", str(message.size))
    with message.open() as reader:
        async with (
            _session(endpoint) as session,
            session.post(
                _url(endpoint, "checkv2"),
                data=_pieces(reader),
                headers=[*_FIXED_FIELDS, length, *fields],
                # A server must not send mail to another one.
                allow_redirects=False,
            ) as answer,
        ):
            body = await _body(answer)
    if answer.status in _OF_THE_MESSAGE:
        raise Unscannable(f"{endpoint} answered {_status(answer, body)}")
    if answer.status != 200:
        raise Unavailable("rspamd", f"answered {_status(answer, body)}")
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        raise Unavailable("rspamd", "packed its answer, which nobody asked for")
    return body


async def _body(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for piece in answer.content.iter_chunked(64 << 10):
        body += piece
        if len(body) > ANSWER_LIMIT_BYTES:
            raise Unavailable("rspamd", f"its answer has more than {ANSWER_LIMIT_BYTES} bytes")
    return bytes(body)


async def _pieces(reader: BinaryIO) -> AsyncIterator[bytes]:
    in_memory = isinstance(reader, io.BytesIO)
    try:
        while piece := reader.read(CHUNK_BYTES) if in_memory else await asyncio.to_thread(reader.read, CHUNK_BYTES):
            yield piece
    except ValueError:
        # Closed: the server has answered before it had all of the message, and nobody wants the rest.
        return


class _Abortable(aiohttp.BaseConnector):
    """Knows its transports. aiohttp itself leaves one open until all is sent: for ever, where a server has hung."""

    transports: tuple[asyncio.WriteTransport, ...] = ()

    async def _create_connection(self, *arguments: Any, **named: Any) -> ResponseHandler:
        # Not ours to know what it takes: it is aiohttp's own, and may change with a release.
        made = await super()._create_connection(*arguments, **named)
        if made.transport is not None:
            self.transports = (*self.transports, cast("asyncio.WriteTransport", made.transport))
        return made


class _Tcp(_Abortable, aiohttp.TCPConnector):
    pass


class _Unix(_Abortable, aiohttp.UnixConnector):
    pass


@asynccontextmanager
async def _session(endpoint: Endpoint) -> AsyncIterator[aiohttp.ClientSession]:
    """Open a session for one request: rspamd closes after each, so that there is nothing to keep."""
    connector = _Unix(endpoint.path, force_close=True) if endpoint.path is not None else _Tcp(force_close=True)
    session = aiohttp.ClientSession(
        connector=connector,
        timeout=_TIMELESS,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        skip_auto_headers=("Content-Type",),
    )
    try:
        yield session
    finally:
        for transport in connector.transports:
            transport.abort()
        await session.close()


def _url(endpoint: Endpoint, command: str) -> str:
    return f"http://{'localhost' if endpoint.path is not None else endpoint}/{command}"


async def _is_well(endpoint: Endpoint) -> bool:
    try:
        async with asyncio.timeout(PING_S):
            await rspamd_ping(endpoint)
    except (Unavailable, OSError):
        return False
    return True


def _status(answer: aiohttp.ClientResponse, body: bytes) -> str:
    """Return an HTTP error in a few words; rspamd says more in the body than in the reason."""
    said = body[:200].decode("utf-8", "replace") or answer.reason or ""
    return f"{answer.status} {''.join(char if char.isprintable() else ' ' for char in said)}".rstrip()


def _words(error: Exception) -> str:
    if isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientPayloadError):
        return "closed the connection without a whole answer"
    if isinstance(error, aiohttp.ClientResponseError):
        return "its answer is no HTTP"
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return "".join(char if char.isprintable() else " " for char in text[:200])
