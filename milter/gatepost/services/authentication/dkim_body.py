"""Hashes of a message's body as DKIM and ARC want them (RFC 6376 sections 3.4 and 3.7), read once, in constant memory.

dkimpy wants the whole message in memory and splits it into lines, which takes up to twenty times its size. What is
hashed here is the same, byte for byte.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, NamedTuple, Protocol

from gatepost.deadline import check_time

if TYPE_CHECKING:
    from collections.abc import Iterable

_EMPTY_LINES = b"\r\n" * 32_768


class BodyHash(NamedTuple):
    """How a signature wants the body: relaxed or simple, by which hash, and how much of it (l=; None is all)."""

    relaxed: bool
    algorithm: str
    limit_bytes: int | None = None


class HashedBody(NamedTuple):
    """A digest, and how many bytes the body has in that form."""

    digest: bytes
    size: int


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def digest(self) -> bytes: ...


def hash_body(chunks: Iterable[bytes], wanted: Iterable[BodyHash]) -> dict[BodyHash, HashedBody]:
    """Read the body once and return all the hashes that are wanted.

    For a thread: a gigabyte takes seconds. TimeoutError once the time of the hook that asked for it is over.
    """
    canons: dict[bool, _Canonical] = {}
    for one in wanted:
        canons.setdefault(one.relaxed, _Relaxed() if one.relaxed else _Simple()).wants(one)
    if canons:
        for chunk in chunks:
            check_time()
            for canon in canons.values():
                canon.read(chunk)
    return {one: hashed for canon in canons.values() for one, hashed in canon.finish().items()}


class _Canonical(ABC):
    """One form of the body as it is read, without empty lines at the end, and its hashes."""

    def __init__(self) -> None:
        self._hashes: dict[BodyHash, _Hash] = {}
        self._held = b""
        self._empty_lines = 0  # line ends that count only if text follows
        self._size = 0

    def wants(self, one: BodyHash) -> None:
        if one not in self._hashes:
            self._hashes[one] = hashlib.new(one.algorithm, usedforsecurity=False)

    def read(self, chunk: bytes) -> None:
        data, self._held = self.reduced(self._held + chunk)
        self._text(data)

    @abstractmethod
    def reduced(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the form of what is certain, and the end that depends on what follows: a few bytes."""

    def finish(self) -> dict[BodyHash, HashedBody]:
        if self._held:
            self._text(self._held)
        if self._size or self.keeps_line_of_empty_body:
            self._emit(b"\r\n")
        return {one: HashedBody(made.digest(), self._size) for one, made in self._hashes.items()}

    keeps_line_of_empty_body = True

    def _text(self, data: bytes) -> None:
        """Hash the data but for line ends at its end, which are counted."""
        lines = _line_ends(data)
        text = data[: len(data) - 2 * lines]
        if text:
            # There may be as many as the message has room for.
            while self._empty_lines:
                some = min(self._empty_lines, 32_768)
                self._emit(_EMPTY_LINES[: 2 * some])
                self._empty_lines -= some
            self._emit(text)
        self._empty_lines += lines

    def _emit(self, data: bytes) -> None:
        for one, made in self._hashes.items():
            limit = one.limit_bytes
            made.update(data if limit is None else data[: max(0, limit - self._size)])
        self._size += len(data)


class _Simple(_Canonical):
    """As it is."""

    def reduced(self, data: bytes) -> tuple[bytes, bytes]:
        return (data[:-1], b"\r") if data.endswith(b"\r") else (data, b"")


class _Relaxed(_Canonical):
    """Runs of white space become one blank, and those before a line end none."""

    keeps_line_of_empty_body = False

    def reduced(self, data: bytes) -> tuple[bytes, bytes]:
        # Replacing is twenty times as fast as a regular expression; each round halves the longest run.
        if b"\t" in data:
            data = data.replace(b"\t", b" ")
        while b"  " in data:
            data = data.replace(b"  ", b" ")
        data = data.replace(b" \r\n", b"\r\n")
        certain = data.removesuffix(b"\r").removesuffix(b" ")
        return certain, data[len(certain) :]


def _line_ends(data: bytes) -> int:
    """Return how many times CRLF stands at the end."""
    if not data.endswith(b"\r\n"):
        return 0
    tail = data[len(data.rstrip(b"\r\n")) :]
    tail = tail[max(tail.rfind(b"\r\r"), tail.rfind(b"\n\n")) + 1 :]
    return len(tail) // 2
