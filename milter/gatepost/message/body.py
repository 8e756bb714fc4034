"""The body of a message: written once, then read as often as one likes, from any thread, in constant memory.

A small body stays in memory, a large one goes to a temporary file that has no name, so that nothing is left behind
however the process ends. Lines end in CRLF.
"""

from __future__ import annotations

import io
import os
import re
import tempfile
import threading
import weakref
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from typing_extensions import Buffer

MEMORY_LIMIT_BYTES = 1 << 20
"""A body longer than this is kept in a file: nine in ten are shorter, and the few long ones would fill the memory."""

CHUNK_BYTES = 65536
"""Also the most that libmilter sends in one packet (MILTER_CHUNK_SIZE is one less)."""

_STRAY_LINE_END = re.compile(rb"\r(?!\n)|(?<!\r)\n")


class Body:
    """Bytes with CRLF line ends that do not change; `size` is their number.

    `Body(data)` holds `data`; larger ones are made by `BodyWriter`.
    """

    __slots__ = ("__weakref__", "_close_file", "_closed", "_data", "_file", "_lock", "size")

    def __init__(self, data: bytes = b"") -> None:
        self.size = len(data)
        self._data = data
        self._file: int | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._close_file: weakref.finalize[[int], Body] | None = None

    @classmethod
    def _of_file(cls, file: int, size: int) -> Body:
        body = cls()
        body.size = size
        body._file = file
        body._close_file = weakref.finalize(body, os.close, file)
        return body

    def open(self, preceded_by: bytes = b"") -> BinaryIO:
        """Return a new reader, positioned at the start and independent of all others and of `close`.

        It reads `preceded_by` first. ValueError after `close`.
        """
        with self._lock:
            if self._closed:
                raise ValueError("the body is closed: its message is done with")
            if self._file is None:
                return io.BytesIO(preceded_by + self._data)
            # Of its own, so that a reader in a thread that overran never reads from a number given to another file.
            file = os.dup(self._file)
        return io.BufferedReader(_FileReader(file, self.size, preceded_by), CHUNK_BYTES)

    def chunks(self, limit: int = CHUNK_BYTES) -> Iterator[bytes]:
        """Go through the body in pieces of at most `limit` bytes, cut anywhere; an empty body has none."""
        with self.open() as reader:
            while chunk := reader.read(limit):
                yield chunk

    def close(self) -> None:
        """Give the memory or the file back; readers already open go on. May be called twice, or not at all."""
        with self._lock:
            self._closed = True
            self._data = b""
            if self._close_file is not None:
                self._close_file()

    def __bytes__(self) -> bytes:
        """Return the whole body; look at `size` first."""
        with self.open() as reader:
            return reader.read()

    def __len__(self) -> int:
        """Return the number of bytes."""
        return self.size

    def __bool__(self) -> bool:
        """Return False for an empty body."""
        return self.size > 0

    def __repr__(self) -> str:
        """Return where and how large, never the content."""
        place = "closed" if self._closed else "in memory" if self._file is None else "in a file"
        return f"<Body of {self.size} bytes, {place}>"


class BodyWriter:
    """Collects a body piece by piece: `write`, then `finish`; or `close`, when the message is given up.

    An OSError (disk full) comes out of `write`. Not for several threads at once.
    """

    __slots__ = ("_file", "_memory", "_memory_limit", "_size")

    def __init__(self, memory_limit: int = MEMORY_LIMIT_BYTES) -> None:
        self._memory: list[bytes] = []
        self._memory_limit = memory_limit
        self._size = 0
        self._file: BinaryIO | None = None

    def write(self, chunk: bytes) -> None:
        """Append `chunk`, which stays as it is."""
        self._size += len(chunk)
        if self._file is not None:
            _write_all(self._file.fileno(), chunk)
            return
        self._memory.append(chunk)
        if self._size > self._memory_limit:
            self._file = tempfile.TemporaryFile(prefix="gatepost-", buffering=0)  # noqa: SIM115 - outlives this call
            _write_all(self._file.fileno(), b"".join(self._memory))
            self._memory.clear()

    def finish(self) -> Body:
        """Return what was written; the writer is empty afterwards."""
        if self._file is None:
            body = Body(b"".join(self._memory))
        else:
            body = Body._of_file(os.dup(self._file.fileno()), self._size)
        self.close()
        return body

    def close(self) -> None:
        """Throw away what was written and not finished."""
        self._memory.clear()
        self._size = 0
        if self._file is not None:
            self._file.close()
            self._file = None

    def __del__(self) -> None:
        """Close the file of a writer that was forgotten: an aborted message must not cost a descriptor."""
        self.close()


def spooled(data: bytes | BinaryIO | Iterable[bytes]) -> Body:
    """Return a body made of `data`, with CRLF line ends, in constant memory.

    A lone LF or CR becomes CRLF: Postfix would write the first as a line end of its own and pass on the second, which
    the next host may take for one. The last line gets its CRLF, as it would from Postfix.
    """
    writer = BodyWriter()
    for piece in _with_crlf(_pieces(data)):
        writer.write(piece)
    return writer.finish()


def _pieces(data: bytes | BinaryIO | Iterable[bytes]) -> Iterable[bytes]:
    if isinstance(data, bytes | bytearray | memoryview):
        return (bytes(data),)
    if isinstance(data, str):
        raise TypeError("a body is bytes: encode the text")
    if hasattr(data, "read"):
        return iter(lambda: data.read(CHUNK_BYTES), b"")
    return data


def _with_crlf(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held = b""  # a CR whose LF may be in the next piece
    last = b""
    for given in pieces:
        piece = held + given
        held = b"\r" if piece.endswith(b"\r") else b""
        if piece := piece.removesuffix(held):
            # Counting is ten times as fast as searching, and nearly all mail is clean.
            is_clean = piece.count(b"\r\n") == piece.count(b"\n") == piece.count(b"\r")
            yield piece if is_clean else _STRAY_LINE_END.sub(b"\r\n", piece)
            last = piece[-1:]
    if held or last not in {b"", b"\n"}:
        yield b"\r\n"


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


class _FileReader(io.RawIOBase):
    """Reads a file from its start by position, after some bytes from memory; owns and closes the descriptor."""

    def __init__(self, file: int, file_size: int, preceded_by: bytes) -> None:
        self._file = file
        self._preceding = preceded_by
        self._size = len(preceded_by) + file_size
        self._place = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        if origin + offset < 0:
            raise ValueError(f"negative position {origin + offset}")
        self._place = origin + offset
        return self._place

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")
        if self._place < len(self._preceding):
            data = self._preceding[self._place : self._place + len(view)]
        else:
            data = os.pread(self._file, len(view), self._place - len(self._preceding))
        view[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._file)
        super().close()
