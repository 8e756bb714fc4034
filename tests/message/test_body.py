"""Bodies: constant memory, independent readers, no descriptor left behind, CRLF everywhere."""

from __future__ import annotations

import gc
import io
import os
import threading
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.message.body import MEMORY_LIMIT_BYTES, Body, BodyWriter, spooled

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = bytes(range(32, 127)) * 600 + b"\r\n"


def open_files() -> int:
    gc.collect()
    return len(list(Path("/proc/self/fd").iterdir()))


def written(chunks: int, memory_limit: int = MEMORY_LIMIT_BYTES) -> Body:
    writer = BodyWriter(memory_limit)
    for _ in range(chunks):
        writer.write(CHUNK)
    return writer.finish()


@pytest.fixture(params=["in memory", "in a file"])
def body(request: pytest.FixtureRequest) -> Body:
    body = written(3, 10 if request.param == "in a file" else MEMORY_LIMIT_BYTES)
    assert request.param in repr(body)
    return body


def test_what_was_written_is_read(body: Body) -> None:
    assert bytes(body) == CHUNK * 3
    assert body.size == len(body) == len(CHUNK) * 3
    assert b"".join(body.chunks(1000)) == CHUNK * 3
    assert max(map(len, body.chunks(1000))) == 1000


def test_readers_do_not_disturb_each_other(body: Body) -> None:
    with body.open() as one, body.open() as other:
        assert one.read(10) == CHUNK[:10]
        assert other.read(5) == CHUNK[:5]
        assert one.read(10) == CHUNK[10:20]
        one.seek(-2, os.SEEK_END)
        assert one.read() == b"\r\n"


def test_a_reader_can_begin_with_something_else(body: Body) -> None:
    with body.open(preceded_by=b"Header: x\r\n\r\n") as reader:
        assert reader.read() == b"Header: x\r\n\r\n" + CHUNK * 3
        assert reader.tell() == 13 + body.size
        reader.seek(11)
        assert reader.read(5) == b"\r\n" + CHUNK[:3]
        with pytest.raises(ValueError, match="negative"):
            reader.seek(-1)


def test_an_open_reader_outlives_its_body(body: Body) -> None:
    with body.open() as reader:
        body.close()
        body.close()
        assert reader.read() == CHUNK * 3
    with pytest.raises(ValueError, match="closed"):
        body.open()


def test_threads_read_the_same_body_at_once(body: Body) -> None:
    seen: list[bytes] = []
    threads = [threading.Thread(target=lambda: seen.append(b"".join(body.chunks(777)))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [CHUNK * 3] * 4


def test_nothing_stays_open_whether_closed_or_forgotten() -> None:
    before = open_files()
    kept = written(2, 10)
    with kept.open() as reader:
        assert open_files() == before + 2
        reader.read(1)
    kept.close()
    forgotten = written(2, 10)
    next(forgotten.chunks(10))
    forgotten.open()
    unfinished = BodyWriter(10)
    unfinished.write(CHUNK)
    assert open_files() > before
    del forgotten, unfinished
    assert open_files() == before


def test_a_writer_given_up_holds_nothing() -> None:
    before = open_files()
    writer = BodyWriter(10)
    writer.write(CHUNK)
    writer.close()
    assert open_files() == before
    assert writer.finish().size == 0


def test_the_temporary_file_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    body = written(2, 10)
    assert "in a file" in repr(body)
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_body() -> None:
    tracemalloc.start()
    try:
        body = spooled(CHUNK.replace(b"\r\n", b"\n") for _ in range(300))
        total = sum(map(len, body.chunks()))
        assert total == body.size > 16 << 20
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("given_lines", "lines"),
    [
        (b"", b""),
        (b"a", b"a\r\n"),
        (b"a\nb\n", b"a\r\nb\r\n"),
        (b"a\r\nb\r\n", b"a\r\nb\r\n"),
        (b"a\rb", b"a\r\nb\r\n"),
        (b"a\r\r\n", b"a\r\n\r\n"),
        (b"\n.\n", b"\r\n.\r\n"),
        (b"a\r", b"a\r\n"),
    ],
)
def test_line_ends_become_crlf_wherever_the_data_is_cut(given_lines: bytes, lines: bytes) -> None:
    def pieces() -> Iterator[bytes]:
        for byte in given_lines:
            yield bytes([byte])
            yield b""

    assert bytes(spooled(given_lines)) == lines
    assert bytes(spooled(io.BytesIO(given_lines))) == lines
    assert bytes(spooled(pieces())) == lines


@given(st.lists(st.text("ab\r\n").map(str.encode)))
def test_cuts_do_not_matter(pieces: list[bytes]) -> None:
    whole = bytes(spooled(pieces))
    assert whole == bytes(spooled(b"".join(pieces)))
    assert bytes(spooled(whole)) == whole


def test_text_is_no_body() -> None:
    with pytest.raises(TypeError, match="encode"):
        spooled("text")  # type: ignore[arg-type]
