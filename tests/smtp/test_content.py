"""Where content ends, in every split of the stream, and that nobody else can see an end before it."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepost.smtp.content import END_OF_CONTENT, ContentScanner
from gatepost.smtp.error import LocalError

Mode = Literal["reject", "normalize"]
MODES: tuple[Mode, ...] = ("reject", "normalize")

Outcome = tuple[bytes, bool, bytes, str | None]
"""What was passed on, whether the content ended, what followed it, the stray."""


def scan(mode: Mode, pieces: list[bytes]) -> Outcome:
    scanner = ContentScanner(mode)
    passed_on = b""
    for number, piece in enumerate(pieces):
        scanned = scanner.feed(piece)
        passed_on += scanned.chunk
        assert scanned.finished is scanner.finished
        if scanned.finished:
            return passed_on, True, scanned.rest + b"".join(pieces[number + 1 :]), scanner.stray
        assert scanned.rest == b""
    return passed_on, False, b"", scanner.stray


def splits(stream: bytes) -> list[list[bytes]]:
    """The whole, every split in two, and byte by byte."""
    return [
        [stream],
        *([stream[:at], stream[at:]] for at in range(len(stream) + 1)),
        [stream[at : at + 1] for at in range(len(stream))],
    ]


def ends_seen_by_lax_parser(wire: bytes) -> list[int]:
    """Where a parser ends the content that takes any of CRLF, CR, LF, or several CRs and an LF, for a line end."""
    ends = []
    line = b""
    for at, byte in enumerate(wire):
        if byte in b"\r\n":
            if line == b".":
                ends.append(at)
            line = b""
        else:
            line += bytes([byte])
    return ends


def expected_text(content: bytes) -> bytes:
    """What the recipient is to get after normalising: read byte by byte, as the rules are told, without stuffing.

    `content` is what comes before the end. A dot at the start of a line as CRLF makes them is stuffing, and goes.
    """
    lines: list[bytes] = []
    line = b""
    at = 0
    after_crlf = True
    while at < len(content):
        pair = content[at : at + 2] == b"\r\n"
        if pair or content[at] in b"\r\n":
            if after_crlf and line.startswith(b".") and (pair or line != b"."):
                line = line[1:]
            lines.append(line)
            line, after_crlf = b"", pair
            at += 2 if pair else 1
        else:
            line += content[at : at + 1]
            at += 1
    assert line == b""
    return b"".join(each + b"\r\n" for each in lines)


def unstuffed(wire: bytes) -> bytes:
    """What a strict server makes of content on the wire (RFC 5321 section 4.5.2)."""
    assert not wire or wire.endswith(b"\r\n")
    return b"".join(line.removeprefix(b".") + b"\r\n" for line in wire.split(b"\r\n")[:-1])


CLEAN = [
    (b".\r\n", b"", b""),
    (b"\r\n.\r\n", b"\r\n", b""),
    (b"a\r\n.\r\nQUIT\r\n", b"a\r\n", b"QUIT\r\n"),
    (b"a\r\n\r\n.\r\n.\r\n", b"a\r\n\r\n", b".\r\n"),
    (b"..\r\n.\r\n", b"..\r\n", b""),
    (b".foo\r\n..bar\r\n.\r\n", b".foo\r\n..bar\r\n", b""),
    (b". \r\n.\r\n", b". \r\n", b""),
    (b"a.\r\n.\r\n", b"a.\r\n", b""),
    (b"\x00.\x00\r\n.\x00\r\n.\r\n", b"\x00.\x00\r\n.\x00\r\n", b""),
    (b"\xff\xfe\x85\r\n.\r\n", b"\xff\xfe\x85\r\n", b""),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("stream", "content", "rest"), CLEAN)
def test_clean_content_passes_to_the_byte_in_every_split(
    mode: Mode, stream: bytes, content: bytes, rest: bytes
) -> None:
    for pieces in splits(stream):
        assert scan(mode, pieces) == (content, True, rest, None)


SMUGGLING = [
    # What is no end of content, the stray in it, and what it becomes when normalised. Between "a" and "b", for an end
    # of line there is legal on both sides.
    (b"\n.\n", "LF at byte 1", b"\r\n..\r\n"),
    (b"\n.\r\n", "LF at byte 1", b"\r\n..\r\n"),
    (b"\r\n.\n", "LF at byte 4", b"\r\n..\r\n"),
    (b"\r.\r", "CR at byte 1", b"\r\n..\r\n"),
    (b"\r.\r\n", "CR at byte 1", b"\r\n..\r\n"),
    (b"\r\n.\r", "CR at byte 4", b"\r\n..\r\n"),
    (b"\r\n.\r\r\n", "CR at byte 4", b"\r\n..\r\n\r\n"),
    (b"\r\r\n.\r\r\n", "CR at byte 1", b"\r\n\r\n..\r\n\r\n"),
    (b"\n.\r", "LF at byte 1", b"\r\n..\r\n"),
    (b"\r.\n", "CR at byte 1", b"\r\n..\r\n"),
    (b"\n\r.\n\r", "LF at byte 1", b"\r\n\r\n..\r\n\r\n"),
    (b"\n\n.\n\n", "LF at byte 1", b"\r\n\r\n..\r\n\r\n"),
    (b"\r\n.\n.\r.\r\n", "LF at byte 4", b"\r\n..\r\n..\r\n..\r\n"),
    (b"\r\n\x00.\r\n", None, b"\r\n\x00.\r\n"),
    (b"\r\n.\x00\r\n", None, b"\r\n.\x00\r\n"),
    (b"\r\x00\n.\r\x00\n", "CR at byte 1", b"\r\n\x00\r\n..\r\n\x00\r\n"),
    (b"\r\n.\x0b\r\n\x0c.\x85\r\n", None, b"\r\n.\x0b\r\n\x0c.\x85\r\n"),
    (b"\n.foo\r\n.bar\r\n", "LF at byte 1", b"\r\n..foo\r\n.bar\r\n"),
    (b"\r.foo\n", "CR at byte 1", b"\r\n..foo\r\n"),
]


@pytest.mark.parametrize(("trick", "stray", "normalized"), SMUGGLING)
def test_no_trick_ends_the_content(trick: bytes, stray: str | None, normalized: bytes) -> None:
    stream = b"a" + trick + b"b\r\n.\r\nMAIL FROM:<x@y>\r\n"
    words = f"bare {stray} of the content" if stray else None
    for pieces in splits(stream):
        passed_on, *outcome = scan("normalize", pieces)
        assert outcome == [True, b"MAIL FROM:<x@y>\r\n", words]
        assert passed_on == b"a" + normalized + b"b\r\n"
        passed_on, *outcome = scan("reject", pieces)
        assert outcome == [True, b"MAIL FROM:<x@y>\r\n", words]
        assert passed_on == b"a" + trick + b"b\r\n" if stray is None else (b"a" + trick).startswith(passed_on)


@pytest.mark.parametrize(
    ("start", "normalized"),
    [
        (b".\n", b"..\r\n"),
        (b".\r", b"..\r\n"),
        (b".\r\r\n", b"..\r\n\r\n"),
        (b"\n.\r\n", b"\r\n..\r\n"),
        (b".a\n", b".a\r\n"),
    ],
)
def test_the_first_line_has_the_same_rules(start: bytes, normalized: bytes) -> None:
    for pieces in splits(start + b"b\r\n.\r\n"):
        assert scan("normalize", pieces)[:3] == (normalized + b"b\r\n", True, b"")
        assert scan("reject", pieces)[1:3] == (True, b"")


streams = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"a", b"\x00", b"\r\n.\r\n"]), max_size=30
).map(b"".join)


@given(streams, st.lists(st.integers(0, 60), max_size=6), st.sampled_from(MODES))
def test_the_split_makes_no_difference(stream: bytes, cuts: list[int], mode: Mode) -> None:
    stream += b"\r\n.\r\n"
    at = [0, *sorted(cut % len(stream) for cut in cuts), len(stream)]
    whole, *whole_outcome = scan(mode, [stream])
    for pieces in [[stream[start:stop] for start, stop in pairwise(at)], *splits(stream)]:
        passed_on, *outcome = scan(mode, pieces)
        assert outcome == whole_outcome
        # In mode reject a piece before the stray may already have gone on; the message is taken back then.
        given_up = mode == "reject" and outcome[2] is not None
        assert stream.startswith(passed_on) if given_up else passed_on == whole


@given(streams)
@example(b"\r\n.\r\r\n.\r\n")
@example(b"\n.\n.\n.")
def test_no_parser_sees_an_end_in_what_is_passed_on(stream: bytes) -> None:
    passed_on, finished, rest, stray = scan("normalize", [stream + b"\r\n.\r\n"])
    received = (b"\r\n" + stream + b"\r\n.\r\n").split(b"\r\n.\r\n")[0][2:]
    assert finished
    wire = passed_on + END_OF_CONTENT
    assert ends_seen_by_lax_parser(wire) == [len(wire) - 2]
    assert passed_on.count(b"\r") == passed_on.count(b"\n") == passed_on.count(b"\r\n")
    content = received + b"\r\n" if received or not (stream + b"\r\n.\r\n").startswith(b".\r\n") else b""
    assert unstuffed(passed_on) == expected_text(content)
    assert rest == (stream + b"\r\n.\r\n")[len(content) + 3 :]
    assert (stray is None) is (passed_on == content)


@pytest.mark.parametrize("mode", MODES)
def test_size_counts_what_was_received_without_the_end(mode: Mode) -> None:
    for pieces in splits(b"..a\r\nb\r\n.\r\nQUIT\r\n"):
        scanner = ContentScanner(mode)
        for piece in pieces:
            if not scanner.finished:
                scanner.feed(piece)
        assert scanner.size == len(b"..a\r\nb\r\n")
    scanner = ContentScanner(mode)
    scanner.feed(b".\r\n")
    assert scanner.size == 0


def test_after_a_stray_everything_is_swallowed_up_to_the_real_end() -> None:
    scanner = ContentScanner("reject")
    assert scanner.feed(b"a\r\nb\nc\r\n").chunk == b""
    assert scanner.stray == "bare LF at byte 4 of the content"
    assert scanner.feed(b"d\r\n.\n.\r.\r\r\n\r\n").chunk == b""
    assert scanner.feed(b".\r\nRSET\r\n") == (b"", True, b"RSET\r\n")


@pytest.mark.parametrize("tail", [b"QUIT\r\n", b"x", b"\r\n", b"\r\n.", b"\r\n.\r", b"\r"])
def test_the_stream_s_end_before_the_dot_is_an_abort(tail: bytes) -> None:
    scanner = ContentScanner("reject")
    assert not scanner.feed(b"a\r\n" + tail).finished
    scanner.eof()
    assert (scanner.aborted, scanner.finished) == (True, False)


def test_the_stream_s_end_after_the_dot_is_none() -> None:
    scanner = ContentScanner("reject")
    scanner.feed(b".\r\n")
    scanner.eof()
    assert not scanner.aborted


def test_a_scanner_that_has_ended_takes_no_more() -> None:
    finished, aborted = ContentScanner("reject"), ContentScanner("reject")
    finished.feed(b".\r\n")
    aborted.eof()
    for scanner in (finished, aborted):
        with pytest.raises(LocalError):
            scanner.feed(b"x")


def test_any_kind_of_buffer_is_taken() -> None:
    for data in (b"a\r\n.\r\n", bytearray(b"a\r\n.\r\n"), memoryview(b"a\r\n.\r\n")):
        assert ContentScanner("reject").feed(data) == (b"a\r\n", True, b"")


@pytest.mark.parametrize(
    ("mode", "piece"),
    [("reject", b"x" * 70 + b"\r\n"), ("reject", b"x\n"), ("normalize", b"x\n.\r"), ("normalize", b"\r\n.\r\r")],
)
def test_memory_does_not_grow_with_the_content(mode: Mode, piece: bytes) -> None:
    chunk = (piece * 65_536)[:65_536]
    scanner = ContentScanner(mode)
    tracemalloc.start()
    try:
        for _ in range(5):
            scanner.feed(chunk)
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(50):
            scanner.feed(chunk)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < len(chunk)
