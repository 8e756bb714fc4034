"""One part of a message is replaced: everything else stays to the byte, and nothing can break the structure."""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.rigs.message_rig import body_after, message

from gatepost.message.edit import ReplaceBody

if TYPE_CHECKING:
    from gatepost import Message
    from gatepost.message.mime import Part

MULTIPART = (
    b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=out\r\n\r\npreamble\r\n"
    b"--out\r\nContent-Type: multipart/alternative; boundary=in\r\n\r\n"
    b'--in\r\nCONTENT-TYPE: text/plain;\r\n\tcharset = "iso-8859-1"; format=flowed\r\nX-Odd : 1\r\n\r\nplain\r\n'
    b"--in\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<p>=\r\na</p>\r\n"
    b"--in--\r\n"
    b"--out\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\nAAEC\r\n"
    b"--out--\r\nepilogue without line end"
)


def part(mail: Message, *path: int) -> Part:
    root = mail.structure
    assert root is not None
    return next(found for found in root.walk() if found.path == path)


def test_a_part_gets_new_content_and_all_else_stays() -> None:
    mail = message(MULTIPART)
    before = bytes(mail.body)
    mail.replace_part(part(mail, 0, 0), b"other\nlines")
    assert body_after(mail) == before.replace(b"\r\n\r\nplain\r\n", b"\r\n\r\nother\r\nlines\r\n")
    assert mail.summary() == ["replace part 1.1"]


def test_a_new_charset_is_written_where_the_old_one_stood() -> None:
    mail = message(MULTIPART)
    before = bytes(mail.body)
    mail.replace_part(part(mail, 0, 0), "grüß".encode(), charset="utf-8")
    expected = before.replace(b'"iso-8859-1"', b"utf-8").replace(
        b"X-Odd : 1\r\n\r\nplain", b"X-Odd : 1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\ngr=C3=BC=C3=9F"
    )
    assert body_after(mail) == expected
    assert part(mail, 0, 0).content() == "grüß".encode()


@pytest.mark.parametrize(
    ("path", "content", "raw"),
    [
        ((0, 1), b"<p>a=b " + b"x" * 80 + b" \r\nc", b"<p>a=3Db " + b"x" * 66 + b"=\r\n" + b"x" * 14 + b"=20\r\nc"),
        ((1,), bytes(range(60)), binascii.b2a_base64(bytes(range(57)), newline=False) + b"\r\nOTo7"),
        ((1,), b"", b""),
    ],
)
def test_transfer_encodings_are_kept(path: tuple[int, ...], content: bytes, raw: bytes) -> None:
    mail = message(MULTIPART)
    mail.replace_part(part(mail, *path), content)
    assert part(mail, *path).raw == raw
    assert part(mail, *path).content() == content


def test_parts_are_found_again_after_other_edits() -> None:
    mail = message(MULTIPART)
    plain, html, file = part(mail, 0, 0), part(mail, 0, 1), part(mail, 1)
    mail.replace_part(plain, b"much longer than before" * 10)
    mail.replace_part(html, b"<b>")
    mail.replace_part(file, b"new")
    contents = [part(mail, *path).content() for path in [(0, 0), (0, 1), (1,)]]
    assert contents == [b"much longer than before" * 10, b"<b>", b"new"]
    mail.replace_body(b"")
    with pytest.raises(ValueError, match="any more"):
        mail.replace_part(html, b"x")


@pytest.mark.parametrize("content", [b"--in\r\n", b"a\n--out--\nb", b"--in--"])
def test_content_that_would_break_the_structure_is_refused(content: bytes) -> None:
    mail = message(MULTIPART)
    with pytest.raises(ValueError, match="boundary"):
        mail.replace_part(part(mail, 0, 0), content)
    assert mail.edits == ()


def test_only_leaves_with_a_known_encoding_can_be_replaced() -> None:
    mail = message(MULTIPART)
    with pytest.raises(ValueError, match="multipart/alternative"):
        mail.replace_part(part(mail, 0), b"x")
    odd = message(b"Content-Transfer-Encoding: x-uue\r\n\r\nx\r\n")
    with pytest.raises(ValueError, match="x-uue"):
        odd.replace_part(part(odd), b"x")


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        (b"Subject: x\r\n", {"Content-Type": "text/plain; charset=utf-8", "MIME-Version": "1.0"}),
        (b"MIME-Version: 1.0\r\nContent-Type: text/plain\r\n", {"Content-Type": "text/plain; charset=utf-8"}),
        (
            b"MIME-Version: 1.0\r\nContent-Type: text/x; CHARSET=us-ascii; y=z\r\nContent-Transfer-Encoding: 7BIT\r\n",
            {"Content-Type": "text/x; CHARSET=utf-8; y=z"},
        ),
    ],
)
def test_the_root_part_has_its_fields_in_the_message_header(header: bytes, fields: dict[str, str]) -> None:
    mail = message(header + b"\r\nold\r\n")
    mail.replace_part(part(mail), "grüß\r\n".encode(), charset="utf-8")
    assert body_after(mail) == b"gr=C3=BC=C3=9F\r\n"
    for name, value in {**fields, "Content-Transfer-Encoding": "quoted-printable"}.items():
        assert mail.headers.get_all(name) == [value]


def test_the_header_stays_when_nothing_demands_a_change() -> None:
    mail = message(b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\xc3\xbc\r\n")
    mail.replace_part(part(mail), "öä".encode())
    assert [type(edit) for edit in mail.edits] == [ReplaceBody]
    assert body_after(mail) == "öä\r\n".encode()


@pytest.mark.parametrize("given_part", [b"", b"X: y\r\n", b"X: y", b"\r\n", b"no header\r\n"])
def test_a_part_without_proper_header_can_be_filled(given_part: bytes) -> None:
    mail = message(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n" + given_part + b"\r\n--b--\r\n")
    mail.replace_part(part(mail, 0), "ü".encode(), charset="utf-8")
    filled = part(mail, 0)
    assert filled.content() == "ü".encode()
    assert filled.charset == "utf-8"
    assert filled.headers.get("X") == ("y" if given_part.startswith(b"X") else None)
    assert bytes(mail.body).endswith(b"\r\n--b--\r\n")


@pytest.mark.parametrize("given_part", [b"--b\r\n", b"--b\r\n\r\n"])
@pytest.mark.parametrize("after", [b"--b\r\n\r\nother\r\n--b--\r\n", b"--b--\r\n"])
def test_what_a_part_of_nothing_gets_is_content_and_no_header(given_part: bytes, after: bytes) -> None:
    mail = message(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + given_part + after)
    mail.replace_part(part(mail, 0), b"Phone: 1")
    assert part(mail, 0).content() == b"Phone: 1"
    assert bytes(mail.body) == b"--b\r\n\r\nPhone: 1\r\n" + after


TEXTS = st.text(st.sampled_from("aü \n=.-"), max_size=60).map(str.encode)
ENCODINGS = st.sampled_from(["7bit", "8bit", "quoted-printable", "base64"])


@given(TEXTS, ENCODINGS, st.lists(TEXTS, min_size=1, max_size=3), st.booleans())
def test_whatever_a_part_gets_comes_out_and_its_neighbours_stay(
    content: bytes, encoding: str, others: list[bytes], is_closed: bool
) -> None:
    neighbours = b"".join(b"--b\r\n\r\n" + other.replace(b"\n", b"\r\n") + b"\r\n" for other in others)
    data = (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Transfer-Encoding: "
        + f"{encoding}\r\n\r\nAAAA\r\n".encode()
        + neighbours
        + (b"--b--\r\n" if is_closed else b"")
    )
    assume(b"\n--b" not in b"\n" + b"\n".join([content, *others]))
    mail = message(data)
    content = content.replace(b"\n", b"\r\n")
    mail.replace_part(part(mail, 0), content)
    assert part(mail, 0).content() == content
    assert bytes(mail.body).endswith(b"\r\n" + neighbours + (b"--b--\r\n" if is_closed else b""))
    assert [found.raw for found in list(part(mail).walk())[2:-1]] == [
        other.replace(b"\n", b"\r\n") for other in others[:-1]
    ]
