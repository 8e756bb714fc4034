"""Hashes of bodies are those of dkimpy, wherever the body is cut, and take no memory."""

from __future__ import annotations

import hashlib
import tracemalloc
from itertools import repeat

import pytest
from dkim.canonicalization import Relaxed, Simple
from hypothesis import given
from hypothesis import strategies as st

from gatepost.deadline import Deadline, of_hook
from gatepost.services.authentication.dkim_body import BodyHash, hash_body

PIECES = st.sampled_from([b" ", b"\t", b"  \t", b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"a", b"bc", b"\r\r\n", b"\n\n"])


@given(
    st.lists(PIECES, max_size=14).map(b"".join),
    st.integers(1, 5),
    st.sampled_from([None, 0, 1, 3, 7, 1000]),
)
def test_a_body_has_the_hash_that_dkimpy_gives_it_wherever_it_is_cut(body: bytes, cut: int, limit: int | None) -> None:
    wanted = {BodyHash(relaxed, algorithm, limit) for relaxed in (False, True) for algorithm in ("sha1", "sha256")}
    hashed = hash_body((body[place : place + cut] for place in range(0, len(body), cut)), wanted)
    assert hashed.keys() == wanted
    for one in wanted:
        canonical = (Relaxed if one.relaxed else Simple).canonicalize_body(body)
        assert hashed[one].digest == hashlib.new(one.algorithm, canonical[:limit]).digest()
        assert hashed[one].size == len(canonical)


@pytest.mark.parametrize("piece", [b" ", b"\r\n", b"\t \r\n", b"a \r\n", b"\r"])
def test_memory_does_not_grow_with_the_body(piece: bytes) -> None:
    chunk = (piece * 65536)[:65536]
    wanted = [BodyHash(False, "sha256"), BodyHash(True, "sha256")]

    def peak(chunks: int) -> int:
        tracemalloc.start()
        try:
            hash_body(repeat(chunk, chunks), wanted)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(128) < peak(8) + 65536


def test_a_gigabyte_of_empty_lines_counts_only_if_text_follows() -> None:
    lines = b"\r\n" * 32768
    one = BodyHash(False, "sha256")
    assert hash_body([b"a\r\n", *[lines] * 1000], [one])[one].size == 3
    assert hash_body([b"a\r\n", *[lines] * 1000, b"b\r\n"], [one])[one].size == 6 + 65_536_000


def test_reading_stops_when_the_hook_has_no_time_left() -> None:
    token = of_hook.set(Deadline.after(0))
    try:
        with pytest.raises(TimeoutError):
            hash_body(repeat(b"a" * 65536), [BodyHash(False, "sha256")])
    finally:
        of_hook.reset(token)


def test_nothing_is_read_when_nothing_is_wanted() -> None:
    assert hash_body(repeat(b"endless"), []) == {}
