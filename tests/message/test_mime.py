"""The MIME structure: where parts begin and end, also in what no mailer should have sent."""

from __future__ import annotations

from email import message_from_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.message.header import Header, Headers
from gatepost.message.mime import PART_LIMIT, Part, parse_content_type, parse_structure


def structure(content_type: str, data: bytes) -> Part:
    return parse_structure(Headers([Header("Content-Type", f" {content_type}".encode())]), data)


MIXED = "multipart/mixed; boundary=b"
NESTED = (
    b'preamble\r\n--b\r\nContent-Type: multipart/alternative; boundary="b 2"\r\n\r\n'
    b"--b 2\r\n\r\nplain\r\n--b 2\r\nContent-Type: text/html\r\n\r\n<p>\r\n--b 2--\r\ninner epilogue\r\n"
    b"--b  \r\nContent-Type: message/rfc822\r\n\r\n"
    b"Content-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n"
    b"--bb\r\n--b--\r\nepilogue\r\n--b\r\nnot a part"
)


def test_nested_parts_are_found_with_their_exact_content() -> None:
    root = structure(MIXED, NESTED)
    assert [(part.path, part.content_type) for part in root.walk()] == [
        ((), "multipart/mixed"),
        ((0,), "multipart/alternative"),
        ((0, 0), "text/plain"),
        ((0, 1), "text/html"),
        ((1,), "message/rfc822"),
    ]
    alternative, attached = root.children
    assert [part.raw for part in alternative.children] == [b"plain", b"<p>"]
    assert attached.raw.endswith(b"--c--\r\n--bb")
    assert attached.children == ()


@pytest.mark.parametrize(
    ("data", "contents"),
    [
        (b"--b\r\n\r\none\r\n--b\r\n\r\ntwo", [b"one", b"two"]),
        (b"--b\r\n\r\none\r\n--b--", [b"one"]),
        (b"--b\r\n\r\n--b\r\n--b--\r\n", [b"", b""]),
        (b"--b\r\nX: header only\r\n--b--\r\n", [b""]),
        (b"--b\r\nno header\r\n--b--\r\n", [b"no header"]),
        (b"--b\r\n\r\n\r\n--b--\r\n", [b""]),
        (b"--b", [b""]),
        (b"--b--\r\n", []),
        (b"", []),
        (b"x--b\r\n\r\n--bx\r\n--b -\r\n", []),
        (b"\n--b\n\none\n--b--\n", []),
    ],
)
def test_parts_of_odd_bodies(data: bytes, contents: list[bytes]) -> None:
    assert [part.raw for part in structure(MIXED, data).children] == contents


@given(
    st.lists(
        st.sampled_from([b"--b", b"--b--", b"--c", b"\r\n", b"\r\n", b" ", b"x", b"X: y", MIXED.encode()]), max_size=40
    )
)
def test_parts_lie_in_order_inside_their_parent(pieces: list[bytes]) -> None:
    def check(part: Part) -> None:
        place = part.content_start
        assert part.start <= part.header_end <= part.content_start <= part.end
        for child in part.children:
            assert place <= child.start
            assert child.end <= part.end
            place = child.end
            check(child)

    check(structure(MIXED, b"".join(pieces)))


LINES = st.lists(st.sampled_from([b"X: y\r\n", b"\r\n", b"text\r\n", b"--bb\r\n"]), min_size=1, max_size=6)


@given(st.lists(LINES.map(b"".join), min_size=1, max_size=6))
def test_the_standard_library_sees_the_same_parts(parts: list[bytes]) -> None:
    data = b"--b\r\n" + b"--b\r\n".join(parts) + b"--b--\r\n"
    seen = message_from_bytes(f"Content-Type: {MIXED}\r\n\r\n".encode() + data)
    expected = [part.get_payload(decode=True) for part in list(seen.walk())[1:]]
    assert [part.raw for part in structure(MIXED, data).children] == expected


def test_too_many_parts_are_one_plain_part() -> None:
    assert len(structure(MIXED, b"--b\r\n\r\n" * PART_LIMIT).children) == PART_LIMIT
    assert structure(MIXED, b"--b\r\n\r\n" * (PART_LIMIT + 1)).children == ()


def test_endless_nesting_ends() -> None:
    data = b"".join(b"--b%d\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n" % (n, n + 1) for n in range(500))
    assert len(list(structure("multipart/mixed; boundary=b0", data).walk())) == 31


@pytest.mark.parametrize(
    ("value", "content_type", "parameters"),
    [
        (None, "text/plain", {}),
        ("garbage", "text/plain", {}),
        ("Text/HTML", "text/html", {}),
        ("text/plain; Charset=UTF-8;format=flowed ; x", "text/plain", {"charset": "UTF-8", "format": "flowed"}),
        (r'text/plain; charset="a\"b;c"; n=1', "text/plain", {"charset": 'a"b;c', "n": "1"}),
        ("text/plain; charset=a; charset=b", "text/plain", {"charset": "a"}),
        ("multipart/mixed;\tboundary = x", "multipart/mixed", {"boundary": "x"}),
        ("text/plain; charset=", "text/plain", {"charset": ""}),
    ],
)
def test_content_types_are_read(value: str | None, content_type: str, parameters: dict[str, str]) -> None:
    assert parse_content_type(value) == (content_type, parameters)


def leaf(*fields: tuple[str, bytes], data: bytes = b"") -> Part:
    return parse_structure(Headers(Header(name, raw) for name, raw in fields), data)


@pytest.mark.parametrize(
    ("fields", "is_attachment"),
    [
        ([], False),
        ([("Content-Disposition", b" inline")], False),
        ([("Content-Disposition", b" Attachment")], True),
        ([("Content-Disposition", b" inline; filename*=utf-8''x.txt")], True),
        ([("Content-Type", b" text/plain; name=notes.txt")], True),
        ([("Content-Disposition", b" garbage/\xff")], False),
    ],
)
def test_files_are_told_from_text(fields: list[tuple[str, bytes]], is_attachment: bool) -> None:
    assert leaf(*fields).is_attachment is is_attachment


@pytest.mark.parametrize(
    ("encoding", "data", "content"),
    [
        (b"", b"a=\r\n", b"a=\r\n"),
        (b" 8BIT", b"\xff", b"\xff"),
        (b" quoted-printable", b"a=3D=\r\nb=ZZ", b"a=b=ZZ"),
        (b" Base64 ; x", b"YWJj\r\nZA==\r\n", b"abcd"),
        (b" base64", b"YWJjZ", None),
        (b" x-uuencode", b"", None),
    ],
)
def test_transfer_encodings_are_undone(encoding: bytes, data: bytes, content: bytes | None) -> None:
    assert leaf(("Content-Transfer-Encoding", encoding), data=data).content() == content


def test_a_charset_is_always_named() -> None:
    assert leaf().charset == "us-ascii"
    assert leaf(("Content-Type", b" text/plain; charset=Latin-1")).charset == "latin-1"
    assert leaf(("Content-Type", b" text/plain; charset=")).charset == "us-ascii"


def test_a_digest_holds_messages() -> None:
    assert (
        structure("multipart/digest; boundary=b", b"--b\r\n\r\nSubject: x\r\n").children[0].content_type
        == "message/rfc822"
    )
