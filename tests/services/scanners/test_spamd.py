"""What is made of a spamd's answers, good ones and such as no spamd gives."""

from __future__ import annotations

import asyncio
import gc
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from tests.rigs.faulty_server import faulty_server

from gatepost.endpoint import Endpoint
from gatepost.errors import Unavailable
from gatepost.services.scanners.spamd import FIELD_LIMIT_BYTES, FIELDS, SPARE_BYTES, SpamReport, spamd_ping, spamd_scan

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.rigs.faulty_server import Fault

MESSAGE = b"Subject: test\r\n\r\ntext\r\n"


@asynccontextmanager
async def answering(*answers: bytes) -> AsyncIterator[tuple[Endpoint, list[bytes]]]:
    """Answer each question, read to its end, with the next of these; the list has the questions."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read())
        writer.write(answers[len(asked) - 1])
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1]), asked
    finally:
        server.close()


def answer(header: bytes, spam: bytes = b"True ; 12.3 / 5.0") -> bytes:
    return b"SPAMD/1.1 0 EX_OK\r\nContent-length: %d\r\nSpam: %b\r\n\r\n%b" % (len(header), spam, header)


async def report(header: bytes, spam: bytes = b"True ; 12.3 / 5.0") -> SpamReport:
    async with answering(answer(header, spam)) as (server, _):
        return await spamd_scan(server, MESSAGE)


async def test_the_question_is_the_message_and_the_user() -> None:
    async with answering(answer(b"a: b\r\n\r\n"), answer(b"a: b\r\n\r\n")) as (server, asked):
        for user in ("bob@example.org", ""):
            await spamd_scan(server, MESSAGE, user)
    length = b"Content-length: %d\r\n" % len(MESSAGE)
    assert asked == [
        b"HEADERS SPAMC/1.5\r\nUser: bob@example.org\r\n" + length + b"\r\n" + MESSAGE,
        b"HEADERS SPAMC/1.5\r\n" + length + b"\r\n" + MESSAGE,
    ]


async def test_the_answer_is_read() -> None:
    got = await report(
        b"X-Spam-Flag: YES\r\nX-Spam-Status: Yes, score=12.3 required=5.0 tests=ONE,\r\n\tTWO,THREE autolearn=no\r\n"
        b"From: a@b.example\r\nx-spam-level: ****\nX-Spam-Prev-Subject: old\r\n\r\nX-Spam-Body: no\r\n"
    )
    assert (got.score, got.required, got.is_spam) == (12.3, 5.0, True)
    assert got.tests == ("ONE", "TWO", "THREE")
    assert [field.name for field in got.fields] == ["X-Spam-Flag", "X-Spam-Status", "x-spam-level"]


@pytest.mark.parametrize(
    ("status", "tests"),
    [
        (b"No, score=0.0 required=5.0 tests=none autolearn=no", ()),
        (b"No, score=0.0 required=5.0 tests= autolearn=no", ()),
        (b"No, tests=A=1.5,B=-0.001 version=4", ("A", "B")),
        (b"No, tests=[A, B,\r\n C] version=4", ("A", "B", "C")),
        (b"No, tests=A,B", ("A", "B")),
        (b"No, tests=A,b\xff,=,C;rm,\xc3\xbc,,B", ("A", "B")),
        (b"as you like it", ()),
        (b"tests=" + b"A," * 7000 + b"B", ("A",) * 7000 + ("B",)),
    ],
)
async def test_the_rules_are_found_however_the_field_is_written(status: bytes, tests: tuple[str, ...]) -> None:
    assert (await report(b"X-Spam-Status: " + status + b"\r\n\r\n")).tests == tests


async def test_without_a_status_no_rule_is_known() -> None:
    assert await report(b"Subject: x\r\n\r\n", b"False ; -1.5 / 5.0") == SpamReport(-1.5, 5.0, False, (), ())


async def test_what_a_field_may_not_hold_is_not_taken_over() -> None:
    large = b"X-Spam-Big: " + b"x" * FIELD_LIMIT_BYTES + b"\r\n"
    (field,) = (await report(b"X-Spam-Report: caf\xe9\0 \r x\r\n\tmore\r\n" + large + b"\r\n")).fields
    assert field.value == "caf\N{REPLACEMENT CHARACTER}    x\tmore"
    assert field.raw.isascii()


async def test_the_number_of_fields_is_limited() -> None:
    assert len((await report(b"X-Spam-A: b\r\n" * 1000 + b"\r\n")).fields) == FIELDS


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (b"SPAMD/1.5 75 EX_TEMPFAIL\r\n\r\n", "answered EX_TEMPFAIL: 'EX_TEMPFAIL'"),
        (b"SPAMD/1.5 79 Timeout: (30 second timeout)\r\n\r\n", "answered EX_TIMEOUT: 'Timeout: (30 second timeout)'"),
        (b"SPAMD/1.0 76 Bad header line: (x)\r\n", "answered EX_PROTOCOL: 'Bad header line: (x)'"),
        (b"SPAMD/1.5 12 Odd\r\n\r\n", "answered 12: 'Odd'"),
        (b"SPAMD/1.5 70 " + b"x" * 3000 + b"\r\n\r\n", f"answered EX_SOFTWARE: '{'x' * 100}'"),
        (b"SPAMD/1.5 0 EX_OK\r\n\r\n", "answered without a score"),
        (b"SPAMD/1.5 0 EX_OK\r\nSpam: True ; nan / 5\r\n\r\n", "answered without a score"),
        (b"SPAMD/1.5 0 EX_OK\r\nSpam: True ; 1 / inf\r\n\r\n", "answered without a score"),
        (b"SPAMD/1.5 0 EX_OK\r\nSpam: maybe\r\n\r\n", "its answer is not understood"),
        (b"SPAMD/1.5 0 EX_OK\r\nSp\xe4m: True ; 1 / 2\r\n\r\n", "its answer is not understood"),
        (b"SPAMD/1.5 0 EX_OK\r\nContent-length: -1\r\n\r\n", "its answer is not understood"),
        (
            b"SPAMD/1.5 0 EX_OK\r\nContent-length: 999999999999\r\n\r\nx",
            "closed the connection in the middle of its answer",
        ),
        (b"SPAMD/1.5 0 EX_OK\r\nContent-length: " + b"9" * 5000 + b"\r\n\r\n", "its answer is not understood"),
        (b"SPAMD/1.5 0 EX_OK\r\n" + b"a:\r\n" * 50_000 + b"\r\n", "its answer is not understood"),
        (b"SPAMD/1.5 zero EX_OK\r\n\r\n", "its answer is not understood"),
        (b"SPAMD/1.5 0 EX_OK\r\n\r\nmore than was said", "its answer is not understood"),
        (b"SPAMD", "closed the connection in the middle of its answer"),
        (answer(b"X-Spam-Level: *\r\n\r\n")[:-2], "closed the connection in the middle of its answer"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "its answer is not understood"),
        (answer(b"a: b\r\n" * 50_000), f"its answer is longer than {SPARE_BYTES + len(MESSAGE)} bytes"),
    ],
)
async def test_every_answer_that_is_no_good_is_named(said: bytes, problem: str) -> None:
    async with answering(said) as (server, _):
        with pytest.raises(Unavailable) as raised:
            await spamd_scan(server, MESSAGE)
    assert raised.value.reason == problem


@pytest.mark.parametrize("fault", ["garbage", "endless", "close", "half"])
@pytest.mark.parametrize("greeting", [b"", b"SPAMD/1.1 0 EX_OK\r\nContent-length: 99999999\r\n"])
async def test_a_server_that_is_none_fails_at_once(fault: Fault, greeting: bytes) -> None:
    async with asyncio.timeout(60), faulty_server(fault, greeting) as server:
        for ask in (spamd_scan(server.endpoint, MESSAGE * 100_000), spamd_ping(server.endpoint)):
            with pytest.raises((Unavailable, OSError, EOFError)):
                await ask


async def test_nothing_is_left_open_when_the_time_is_over(recwarn: pytest.WarningsRecorder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        for size in (1, 400_000):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await spamd_scan(Endpoint("127.0.0.1", deaf.getsockname()[1]), MESSAGE * size)
        await asyncio.sleep(0)
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


async def test_nobody_there_is_an_error_of_the_system() -> None:
    async with faulty_server("close") as server:
        gone = server.endpoint
    with pytest.raises(ConnectionRefusedError):
        await spamd_ping(gone)
    with pytest.raises(FileNotFoundError):
        await spamd_ping(Endpoint(path="/nonexistent/spamd.sock"))
