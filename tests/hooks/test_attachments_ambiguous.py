"""attachments: MIME that two programs read in two ways is refused, and what all read alike is not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.hooks.attached_mail import TEXT, mail, part, reply

from gatepost.services.content.mime_fault import MIME_FAULTS

if TYPE_CHECKING:
    from gatepost.services.content.mime_fault import MimeFault


def nested(outer: str, inner: str) -> bytes:
    inside = f"--{outer}\r\nContent-Type: multipart/mixed; boundary={inner}\r\n\r\n--{inner}\r\n\r\nx\r\n--{inner}--"
    return mail(inside, content_type=f"multipart/mixed; boundary={outer}", end=f"\r\n--{outer}--")


ATTACHED_MESSAGE = "Content-Type: message/rfc822\r\n\r\n"


def attached(levels: int) -> bytes:
    """Return a message in which messages stand in each other."""
    return f"MIME-Version: 1.0\r\n{ATTACHED_MESSAGE * levels}Subject: the innermost\r\n\r\nx\r\n".encode()


def wide(parts: int) -> str:
    return mail(
        *[TEXT.replace("--b", "--w")] * parts, content_type="multipart/mixed; boundary=w", end="\r\n--w--"
    ).decode()


def deep(levels: int) -> bytes:
    text = "x"
    for level in range(levels):
        name = f"L{level:03}"
        text = f'Content-Type: multipart/mixed; boundary="{name}"\r\n\r\n--{name}\r\n{text}\r\n--{name}--\r\n'
    return f"MIME-Version: 1.0\r\n{text}".encode()


QP = "Content-Transfer-Encoding: quoted-printable\r\n"
AMBIGUOUS: list[tuple[MimeFault, bytes]] = [
    ("repeated_field", mail(TEXT, head="Content-Type: text/plain\r\n")),
    (
        "repeated_field",
        mail(TEXT, "--b\r\nContent-Transfer-Encoding: base64\r\nContent-Transfer-Encoding: 7bit\r\n\r\n"),
    ),
    (
        "repeated_field",
        mail(
            TEXT,
            part(
                "Content-Type: image/png\r\nContent-Disposition: inline; filename=a.png\r\n"
                "Content-Disposition: attachment; filename=b.png"
            ),
        ),
    ),
    ("repeated_parameter", mail(TEXT, content_type="multipart/mixed; boundary=b; boundary=c")),
    ("repeated_parameter", mail(TEXT, content_type="multipart/mixed; boundary=b; boundary=B")),
    ("repeated_parameter", mail(TEXT, "--b\r\nContent-Type: text/html; charset=utf-8; charset=utf-7\r\n\r\nx")),
    ("repeated_parameter", mail(TEXT, content_type="multipart/mixed; boundary=b; BOUNDARY*=''c")),
    *(
        ("type_syntax", mail(TEXT, content_type=f"{kind} boundary=b"))
        for kind in (
            "(c) multipart/mixed;",
            "multipart/mixed (c);",
            "multipart / mixed;",
            "multipart/mixed",
            "multipart/mixed,",
            '"multipart/mixed";',
            "; multipart/mixed;",
            "text/plain multipart/mixed;",
        )
    ),
    ("type_syntax", mail(TEXT, "--b\r\nContent-Type: (c) message/rfc822\r\n\r\nSubject: x\r\n\r\nx")),
    ("boundary_syntax", mail(TEXT, content_type='multipart/mixed; boundary="b"c')),
    ("boundary_syntax", mail(TEXT, content_type='multipart/mixed; boundary="b')),
    ("boundary_syntax", mail(TEXT, content_type='multipart/mixed; boundary="\\b"')),
    ("boundary_syntax", mail(TEXT, content_type="multipart/mixed; boundary=b c")),
    ("boundary_syntax", mail(TEXT, content_type="multipart/mixed; boundary=b(c)")),
    ("missing_boundary", mail(TEXT, content_type="multipart/mixed")),
    ("missing_boundary", mail(TEXT, content_type="multipart/mixed; boundary=other")),
    ("missing_boundary", mail(TEXT, "--b\r\nContent-Type: multipart/signed\r\n\r\nx")),
    ("missing_boundary", mail(TEXT, "--b\r\nContent-Type: multipart/mixed; name=a\r\n\r\nx")),
    ("missing_boundary", mail(TEXT, content_type="multipart/signed; name=smime.p7m")),
    ("missing_boundary", mail(TEXT, "--b\r\nContent-Type: multipart/signed; name=a; boundary=c\r\n\r\nx")),
    ("repeated_boundary", nested("b", "b")),
    ("boundary_prefix", nested("b", "bb")),
    ("boundary_prefix", nested("bb", "b")),
    ("boundary_prefix", mail(TEXT, "--b junk\r\n\r\nx")),
    ("boundary_prefix", mail("--bb\r\n\r\nx")),
    ("late_parts", mail(TEXT, "--b--", TEXT)),
    ("late_parts", mail("--b--", TEXT)),
    ("encoded_multipart", mail(TEXT, head="Content-Transfer-Encoding: base64\r\n")),
    ("encoded_multipart", mail(TEXT, "=2D-b\r\n\r\nhidden", head=QP)),
    ("encoded_multipart", mail(TEXT, "eA==", "--=\r\nb\r\n\r\nhidden", head=QP)),
    ("broken_header", mail(TEXT, "--b\r\nX: y\r\nno field\r\nContent-Type: text/html\r\n\r\nx")),
    ("nul_in_header", mail(TEXT, content_type="multipart/mixed; boundary=b; x=\0")),
    ("unknown_encoding", mail(TEXT, part("Content-Type: image/png", encoding="base65"))),
    ("too_deep", deep(40)),
    ("too_deep", attached(9)),
    ("too_many_parts", mail(*[f"--b\r\n{ATTACHED_MESSAGE}{wide(900)}"] * 3)),
    ("too_many_parts", mail(*[TEXT] * 1100)),
    ("partial", mail("x", content_type="message/partial; id=a; number=1; total=2", end="")),
    ("names_differ", mail(TEXT, part("Content-Type: x/y; name=a.txt\r\nContent-Disposition: x; filename=a.pdf"))),
    ("broken_base64", mail(TEXT, part("Content-Type: image/png") + "==\r\nYWJj\r\n")),
    ("not_closed", mail(TEXT, end="")),
    ("external_body", mail(TEXT, "--b\r\nContent-Type: message/external-body; access-type=URL; URL=x\r\n\r\n")),
]


@pytest.mark.parametrize(("fault", "content"), AMBIGUOUS)
async def test_ambiguous_mime_is_refused(fault: MimeFault, content: bytes) -> None:
    assert (await reply(content, faults=[fault])).startswith("554 5.6.0 the message is ambiguous: ")
    assert await reply(content, faults=[]) == "250"
    assert await reply(content, faults=[fault], ambiguous="allow") == "250"


async def test_a_thousand_faults_that_do_not_count_hide_none_that_does() -> None:
    careless = part("Content-Type: image/png; name=a.txt\r\nContent-Disposition: x; filename=a.pdf") + "==\r\nYWJj\r\n"
    ambiguous = part("Content-Type: image/png", encoding="base65")
    assert await reply(mail(*[careless] * 600)) == "250"
    assert (await reply(mail(*[careless] * 600, ambiguous))).startswith("554 5.6.0 the message is ambiguous: ")


def test_every_fault_has_its_example() -> None:
    assert {fault for fault, _ in AMBIGUOUS} == set(MIME_FAULTS)


UNAMBIGUOUS = [
    b"Subject: x\r\n\r\nno MIME at all\r\n",
    b"\r\n--b\r\nno header\r\n",
    mail(TEXT, head="Content-Transfer-Encoding: 8bit\r\n"),
    mail(TEXT, head=QP),
    mail(TEXT, part("Content-Type: image/png", b"xx"), part("Content-Type: image/png", b"x"), TEXT, head=QP),
    mail(TEXT, part("Content-Type: image/png", encoding="x-uuencode")),
    mail(TEXT, content_type='multipart/mixed;\r\n\tboundary="----=_NextPart_000_0001_01D9.8A"; charset="x"', end="\r\n"
         '------=_NextPart_000_0001_01D9.8A\r\n\r\nx\r\n------=_NextPart_000_0001_01D9.8A--'),
    mail(TEXT, content_type="multipart/mixed; boundary=b ; charset=utf-8"),
    mail(TEXT, content_type="multipart/mixed; BOUNDARY=b;"),
    mail(TEXT, head="Content-Type:  multipart/mixed; boundary=b\r\n"),
    mail(TEXT, part("Content-Type: image/png; name=a.png\r\nContent-Disposition: attachment;\r\n"
                    " filename*=utf-8''a.png; filename=a.png")),
    mail(TEXT, part("Content-Type: image/png; name=a.png\r\nContent-Disposition: inline\r\n"
                    "Content-Disposition: attachment; filename=a.png")),
    mail(TEXT, head="Content-Transfer-Encoding: 8bit\r\nContent-Transfer-Encoding: 7bit\r\n"),
    *(mail(TEXT, part("Content-Type: application/json", encoding=one)) for one in ("7-bit", "8-bit", "UTF-8")),
    mail(TEXT, "--b\r\nContent-Type: text/html; charset=utf-8; charset=UTF-8\r\n\r\nx"),
    mail(TEXT, "--b\r\nContent-Type: message/rfc822\r\n\r\nContent-Type: multipart/mixed;"),
    mail(TEXT, part("Content-Type: multipart/signed; name=smime.p7m", b"Content-Type: multipart/signed; boundary=c")),
    mail(TEXT, '--b\r\nContent-Type: message/rfc822; name="Load of\r\n          web1"\r\n\r\nSubject: x\r\n\r\nx'),
    attached(8),
    mail(*[f"--b\r\n{ATTACHED_MESSAGE}{wide(900)}"] * 2),
    nested("----=_Part_1_2.3", "----=_Part_10_2.3"),
    nested("_004_AB_", "_000_AB_"),
    mail(TEXT, TEXT, TEXT),
    mail(TEXT, TEXT, end="\r\n--b--\r\n\r\n--b--\r\nfooter"),
    mail("", end="--b--"),
    mail("This is a multi-part message in MIME format."),
    mail("x", content_type='text/plain; charset=us-ascii (Plain text); name="multipart/x boundary=.txt"', end=""),
    mail("x", content_type="text/plain charset=utf-8", end=""),
    mail("x", content_type="text", end=""),
]  # fmt: skip


@pytest.mark.parametrize("content", UNAMBIGUOUS)
async def test_what_ordinary_programs_send_is_not_ambiguous(content: bytes) -> None:
    assert await reply(content) == "250"


async def test_a_bounce_may_bring_back_half_a_message() -> None:
    half = "Content-Type: message/rfc822\r\n\r\nContent-Type: multipart/mixed; boundary=z\r\n\r\nfirst lines only"
    report = mail(TEXT, f"--b\r\n{half}", content_type="multipart/report; report-type=delivery-status; boundary=b")
    assert await reply(report) == "250"
