"""The standard library's view of a message: useful for good mail, harmless for any other."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.message.email_view import email_view

NAMES = ["From", "To", "Date", "Content-Type", "Content-Disposition", "Content-Transfer-Encoding", "Message-ID"]
NAMES += ["MIME-Version", "Subject", "Sender", "Reply-To", "X-Other"]
BAD = [
    b"",
    b"(",
    b"((((((((((" * 300,
    b'"',
    b"<",
    b"=?utf-8?q?=?=",
    b"=?",
    b"@",
    b"<@>",
    b"a@[",
    b"[",
    b":;",
    b"a:b@c;d",
    b"text/plain; charset*0*=",
    b"text/plain; x*=utf-8''%",
    b"multipart/mixed; boundary=",
    b"\xff\x00",
    b"Thu, 99 Foo 99999 99:99:99 +9999",
    b"a" * 9000,
    b"<a@b" * 2000,
]


def view_everything(data: bytes) -> None:
    """Ask for all that a plugin may ask for."""
    message = email_view(lambda: io.BytesIO(data))
    for part in message.walk():
        for name, value in part.items():
            assert isinstance(str(value), str)
            assert isinstance(str(part[name]), str)
        for name in ("From", "To", "Sender", "Reply-To"):
            field = part[name]
            assert field is None or isinstance(field.addresses, tuple)
        part.get_content_type()
        part.get_content_disposition()
        part.get_filename()
        part.get_boundary()
        part.get_content_charset()
        part.is_attachment()
        part.get_payload(decode=True)
    message.get_body()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", BAD, ids=range(len(BAD)))
def test_no_header_value_can_raise(name: str, value: bytes) -> None:
    view_everything(name.encode() + b": " + value + b"\r\n\r\nbody\r\n")


@given(
    st.lists(
        st.sampled_from(
            [name.encode() + b": " for name in NAMES]
            + [
                b"multipart/mixed; boundary=b",
                b"message/rfc822",
                b"--b",
                b"--b--",
                b"\r\n",
                b"\n",
                b" ",
                b"=?",
                b"\xff",
            ]
            + [b"message/delivery-status", b"base64", b'"', b";", b"(", b"<", b"@", b"x"]
        ),
        max_size=40,
    )
)
def test_no_message_can_raise(pieces: list[bytes]) -> None:
    view_everything(b"".join(pieces))


def test_nesting_without_end_is_one_plain_part() -> None:
    data = b"Content-Type: message/rfc822\r\n\r\n" * 2000
    message = email_view(lambda: io.BytesIO(data))
    assert message["Content-Type"] == "message/rfc822"


def test_a_structured_value_too_long_to_parse_in_time_is_empty() -> None:
    short, long = [
        email_view(lambda count=count: io.BytesIO(b"To: " + b'"a" <a@b>, ' * count + b"\r\n\r\n"))  # type: ignore[misc]
        for count in (600, 9000)
    ]
    assert len(short["To"].addresses) == 600
    assert long["To"].addresses == ()


def test_good_mail_is_read_as_usual() -> None:
    data = (
        b"From: =?utf-8?q?J=C3=B6rg?= <j@example.org>\r\nSubject: x\r\n"
        b"Content-Type: multipart/alternative; boundary=b\r\n\r\n"
        b"--b\r\n\r\nplain\r\n--b\r\nContent-Type: text/html\r\n\r\n<p>\r\n--b--\r\n"
    )
    message = email_view(lambda: io.BytesIO(data))
    assert message["From"].addresses[0].display_name == "Jörg"
    body = message.get_body(("plain",))
    assert body is not None
    assert body.get_content() == "plain"
