"""SpamAssassin's daemon: what it makes of one message.

Request, parser and status codes are aiospamc's. The connection is ours: the library's reads whatever it is sent into
memory, without an end, and leaves its socket open when it is cancelled.

The question is HEADERS, not SYMBOLS or REPORT: one answer with the score and every X-Spam field that spamd's own
configuration (`add_header`) asks for, without the body.
"""

from __future__ import annotations

import asyncio
import getpass
import math
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

try:
    getpass.getuser()
except (KeyError, OSError):
    # aiospamc asks while it is imported, for a default that is not used here; a container's user may have no name.
    os.environ["LOGNAME"] = str(os.getuid())

from aiospamc.client import Client
from aiospamc.connections import ConnectionManager
from aiospamc.exceptions import ClientException, NotEnoughDataError
from aiospamc.header_values import UserValue
from aiospamc.requests import Request
from aiospamc.responses import Response, ResponseException, Status

from gatepost.errors import Unavailable
from gatepost.message.header import Header, Headers
from gatepost.services.processor import in_thread

if TYPE_CHECKING:
    from gatepost.endpoint import Endpoint

CHUNK_BYTES = 65536

SPARE_BYTES = 256 << 10
"""Beyond the size of the question: the answer repeats the message's header, and adds the report."""

HEAD_LIMIT_BYTES = 4096
"""Of the answer's own head, which has three lines; the library's parser takes quadratic time."""

FIELDS = 50
"""X-Spam fields taken from one answer; the default configuration makes four."""

FIELD_LIMIT_BYTES = 16 << 10
"""Of one field: a report of a hundred rules has 8 KiB."""

NONSENSE = "its answer is not understood"

CUT_OFF = "closed the connection in the middle of its answer"

_GREETING = b"SPAMD/"
_OWN_FIELD = re.compile(r"x-spam-(?!prev-)", re.IGNORECASE)
_TESTS = re.compile(r"\btests=\[?([^\s\]]*)")
_TEST = re.compile(r"\w{1,100}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SpamReport:
    """What spamd found."""

    score: float
    required: float
    """From this score on spamd itself calls a message spam: its required_score, which may be the user's."""
    is_spam: bool
    """Whether it does: not the same as score >= required, where a rule is told to decide alone."""
    tests: tuple[str, ...]
    """The rules that matched, from X-Spam-Status; empty also if spamd is configured not to make that field."""
    fields: tuple[Header, ...]
    """The X-Spam fields that spamd would add, in its order, each checked and so fit for the message."""


async def spamd_scan(endpoint: Endpoint, message: bytes, user: str = "") -> SpamReport:
    """Ask one spamd about a message; `user` is whose preferences count, empty for those of spamd's own user.

    Unavailable, OSError or EOFError if there is no good answer. No time limit but the caller's.
    """
    headers = {"User": UserValue(user)} if user else {}
    response = await _ask(endpoint, Request("HEADERS", headers=headers, body=message))
    found = response.headers.spam
    if found is None or not (math.isfinite(found.score) and math.isfinite(found.threshold)):
        raise Unavailable("spamd", "answered without a score")
    fields = await in_thread(_own_fields, response.body)
    status = next((field.value for field in fields if field.is_named("X-Spam-Status")), "")
    return SpamReport(found.score, found.threshold, found.value, _tests(status), fields)


async def spamd_ping(endpoint: Endpoint) -> None:
    """Return if spamd is there; raise what `spamd_scan` raises otherwise."""
    await _ask(endpoint, Request("PING"))


async def _ask(endpoint: Endpoint, request: Request) -> Response:
    try:
        return await Client(_Connection(endpoint, len(request.body) + SPARE_BYTES)).request(request)
    except ResponseException as error:
        code = error.code
        name = Status(code).name if code in {*Status} else str(code)
        raise Unavailable("spamd", f"answered {name}: {str(error)[:100]!r}") from error
    except (ClientException, ValueError) as error:
        if isinstance(error.__cause__, NotEnoughDataError):
            raise Unavailable("spamd", CUT_OFF) from error
        raise Unavailable("spamd", NONSENSE) from error


class _Connection(ConnectionManager):
    """One question and its answer, of limited size; the socket is closed whatever happens."""

    def __init__(self, endpoint: Endpoint, limit_bytes: int) -> None:
        super().__init__(str(endpoint))
        self._endpoint = endpoint
        self._limit_bytes = limit_bytes

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect."""
        if self._endpoint.path is not None:
            return await asyncio.open_unix_connection(self._endpoint.path)
        return await asyncio.open_connection(self._endpoint.host, self._endpoint.port)

    async def request(self, data: bytes) -> bytes:
        """Return the answer."""
        reader, writer = await self.open()
        try:
            view = memoryview(data)
            for start in range(0, len(view), CHUNK_BYTES):
                writer.write(view[start : start + CHUNK_BYTES])
                await writer.drain()
            # spamd reads lines: it would wait for the end of a last one without.
            writer.write_eof()
            return await self._answer(reader)
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> bytes:
        answer = bytearray()
        while chunk := await reader.read(CHUNK_BYTES):
            answer += chunk
            if not answer.startswith(_GREETING[: len(answer)]):
                raise Unavailable("spamd", NONSENSE)
            if len(answer) > self._limit_bytes:
                raise Unavailable("spamd", f"its answer is longer than {self._limit_bytes} bytes")
        if not answer:
            raise EOFError
        if answer.find(b"\r\n\r\n", 0, HEAD_LIMIT_BYTES) < 0:
            if len(answer) > HEAD_LIMIT_BYTES:
                raise Unavailable("spamd", NONSENSE)
            if not answer.endswith(b"\r\n"):
                raise Unavailable("spamd", CUT_OFF)
        return bytes(answer)


def _own_fields(header: bytes) -> tuple[Header, ...]:
    r"""Return spamd's own fields of the rewritten header.

    SpamAssassin has removed the X-Spam fields that the message came with, but for X-Spam-Prev ones, its own of earlier.
    """
    fields: list[Header] = []
    for field in Headers.parse(re.sub(rb"\r*\n", b"\r\n", header)):
        if _OWN_FIELD.match(field.name) and len(field.raw) <= FIELD_LIMIT_BYTES and len(fields) < FIELDS:
            try:
                fields.append(Header.make(field.name, field.raw))
            except ValueError:
                # A report quotes the message, whatever its bytes.
                fields.append(Header.make(field.name, field.value))
    return tuple(fields)


def _tests(status: str) -> tuple[str, ...]:
    """Return the names in `tests=A,B, C=1.5`, a list that may be folded and have scores (`_TESTSSCORES_`)."""
    found = _TESTS.search(re.sub(r",\s+", ",", status))
    names = (word.partition("=")[0] for word in found[1].split(",")) if found else ()
    return tuple(name for name in names if _TEST.fullmatch(name) and name != "none")
