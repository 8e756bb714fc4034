"""attachments: what is refused by name, by what it is and by size; options; nothing that strangers send costs much."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.hooks.attached_mail import MIXED, PROGRAM, TEXT, kind, mail, named, part, reply, zipped

from gatepost import Address, ConfigError, Message, list_contents
from gatepost.testing import gate

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "name",
    ["report.pdf", "photo.jpg", "archive.tar.gz", "exe", ".exe.txt", "executive.docx", "a.b.c", "שלום\u200f.pdf",
     "Screenshot 10.03\u202fPM.png", "notes.text", "a  b.pdf", "C\u202a:\\x\\y.doc", "x" * 200 + ".pdf"],
)  # fmt: skip
async def test_ordinary_attachments_pass(name: str) -> None:
    assert await reply(named(name)) == "250"


@pytest.mark.parametrize(
    ("name", "by"),
    [
        ("invoice.exe", "exe"),
        ("INVOICE.EXE", "exe"),
        ("invoice.pdf.js", "js"),
        ("invoice.exe.", "exe"),
        ("invoice.exe . .", "exe"),
        ("dir/invoice.scr", "scr"),
        ("C:\\dir\\invoice.scr", "scr"),
        ("invoice.vbs::$DATA", "vbs"),
        ("a:b.vbs", "vbs"),
        ("..exe", "exe"),
        ("invoice.\u200bexe", "exe"),
        ("x.search.library-ms", "library-ms"),
        ("setup.appref-ms", "appref-ms"),
    ],
)
async def test_dangerous_extensions_are_refused(name: str, by: str) -> None:
    answer = await reply(named(name))
    assert answer.startswith('554 5.7.1 the attachment "')
    assert answer.endswith(f"is of a kind that is not accepted here ({by})")


HEADERS = [
    "Content-Type: application/x; name=a.exe",
    "Content-Type: application/x; name=\"a.txt\"; NAME = 'x'; name=a.exe",
    'Content-Disposition: attachment; filename="=?utf-8?b?YS5leGU=?="',
    'Content-Disposition: attachment;\r\n filename="=?utf-8?q?a=2Ee?=\r\n =?utf-8?q?xe?="',
    "Content-Disposition: attachment; filename==?utf-8?q?a=2Eexe?=",
    "Content-Disposition: attachment; filename*=utf-8''a%2Eexe",
    "Content-Disposition: attachment; filename*0*=utf-8''a%2E; filename*1=e; filename*2*=%78e",
    "Content-Disposition: attachment; filename*1=exe; filename*0=a.",
    "Content-Disposition: attachment; filename=a.txt; filename*=iso-8859-1'en'a.exe",
    "Content-Disposition: attachment; filename*=utf-8''a.txt; filename=a.exe",
    "Content-Disposition: inline; filename=a.exe; x",
    "Content-Disposition: filename; filename = a.exe",
    'Content-Disposition: attachment; filename="a.exe',
    'Content-Disposition: attachment; filename="a\\.e\\xe"',
    "Content-Disposition: attachment; filename*=x-none'a.exe",
    "Content-Disposition: attachment; filename*=punycode''a.exe",
    'Content-Type: text/plain; name="a.exe"\r\nContent-Disposition: attachment; filename="a.txt"',
    "Content-Disposition: attachment; filename=a%2Eexe",
]


@pytest.mark.parametrize("header", HEADERS)
async def test_a_name_is_found_wherever_and_however_it_is_given(header: str) -> None:
    assert "(exe)" in await reply(mail(TEXT, part(header)), faults=[])


async def test_names_in_attached_messages_and_of_the_message_itself_count() -> None:
    inner = named("a.exe").decode()
    attached = f"--c\r\nContent-Type: message/rfc822\r\n\r\n{inner}"
    outer = mail("--c\r\n\r\nsee\r\n", attached, content_type="multipart/mixed; boundary=c", end="\r\n--c--")
    assert await reply(outer) == kind("a.exe", "exe")
    encoded = part("Content-Type: message/rfc822", named("a.exe"))
    assert await reply(mail(TEXT, encoded)) == kind("a.exe", "exe")
    assert await reply(mail("", content_type="application/x; name=a.exe", end="x")) == kind("a.exe", "exe")


async def test_a_message_may_be_called_after_what_it_is_about() -> None:
    message = part('Content-Type: message/rfc822; name="Your order at example.com"', b"Subject: x\r\n\r\nx", "7bit")
    assert await reply(mail(TEXT, message)) == "250"
    assert await reply(named("example.com")) == kind("example.com", "com")


async def test_names_are_refused_by_patterns() -> None:
    assert await reply(named("Invoice-7.htm"), names=["invoice*.HTM"]) == kind("Invoice-7.htm", "invoice*.HTM")
    assert await reply(named("x-invoice-7.htm"), names=["invoice*.htm"]) == "250"


async def test_extensions_are_an_option() -> None:
    assert await reply(named("a.exe"), extensions=["pdf"]) == "250"
    assert await reply(named("a.pdf"), extensions=["*.PDF"]) == kind("a.pdf", "pdf")


async def test_what_a_file_is_counts_whatever_it_is_called() -> None:
    assert await reply(named("picture.jpg", PROGRAM)) == kind("picture.jpg", "executable")
    assert await reply(named("picture.jpg", b"\x7fELF" + bytes(60))) == kind("picture.jpg", "executable")
    for text in (b"MZ is how it begins, " * 9, b"MZ rang"):
        assert await reply(named("MZ.txt", text)) == await reply(b"\r\n" + text) == "250"
    hidden = mail(TEXT, part("Content-Type: text/plain", PROGRAM))
    assert await reply(hidden) == kind("text/plain", "executable")
    assert await reply(named("a.pdf", b"%PDF-1.7 x"), types=["pdf"]) == kind("a.pdf", "pdf")
    assert await reply(mail("#!/bin/sh", content_type="text/plain", end=""), types=["script"]) == "250"
    assert await reply(named("a.txt", b"#!/bin/sh"), types=["script"]) == kind("a.txt", "script")
    macro = zipped("xl/workbook.xml", "xl/vbaProject.bin")
    assert await reply(named("a.xlsx", macro), types=["office_macro"]) == kind("a.xlsx", "office_macro")
    ole = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512) + "_VBA_PROJECT".encode("utf-16-le")
    assert await reply(named("a.doc", ole), types=["office_macro"]) == kind("a.doc", "office_macro")


async def test_a_file_is_seen_through_damaged_base64() -> None:
    body = base64.encodebytes(PROGRAM).decode()
    broken = body[:4] + "\x01-_!" + body[4:].rstrip("=\n") + "=\n====\nfooter of a list\n"
    header = "--b\r\nContent-Type: image/png\r\nContent-Transfer-Encoding: BASE64\r\n\r\n"
    assert "(executable)" in await reply(mail(TEXT, header + broken.replace("\n", "\r\n")))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("photo\u202egpj.txt", "characters that turn the direction of writing"),
        ("photo.jpg" + " " * 60 + ".txt", "a gap before the extension"),
        ("x.{3050f4d8-98B5-11CF-BB82-00AA00BDCE0B}", "a class identifier for an extension"),
        ("a.txt\0.jpg", "a NUL"),
    ],
)
async def test_deceptive_names_are_refused(name: str, how: str) -> None:
    answer = await reply(named(name), faults=[])
    assert answer.startswith("554 5.7.1 the name of the attachment ")
    assert answer.endswith(f"is deceptive: {how}")
    assert await reply(named(name), faults=[], deceptive="allow") == "250"


async def test_size_is_that_of_the_content() -> None:
    content = named("a.bin", bytes(3000))
    assert await reply(content, max_size="3000") == "250"
    assert await reply(content, max_size="2 KiB") == '552 5.3.4 the attachment "a.bin" is too large'


async def test_a_message_above_the_limit_is_an_option() -> None:
    with capture_logs() as logs:
        assert await reply(named("a.exe", bytes(9000)), mime_limit="4 KiB") == "250"
    assert [line["event"] for line in logs if "reason" in line] == ["attachments not looked at"]
    answer = await reply(named("a.exe", bytes(9000)), mime_limit="4 KiB", too_large="deny")
    assert answer == "552 5.3.4 the message is too large to be looked at"


async def test_a_reply_has_no_line_of_a_strangers() -> None:
    answer = await reply(named('a\\"\r\n 250 ok ü' + "x" * 500 + ".exe"))
    assert answer.startswith('554 5.7.1 the attachment "a? 250 ok ?')
    assert len(answer) < 250
    assert answer.isascii()
    assert "\n" not in answer


async def test_recipients_may_have_other_rules(tmp_path: Path) -> None:
    (tmp_path / "aliases").write_text(
        'lab@e.example: lab@e.example (attachments.extensions="pdf, txt")\n*@e.example: all@e.example\n'
    )
    async with gate(aliases={"file": tmp_path / "aliases"}, attachments={}) as postfix:
        client = postfix.client()
        for content, codes in ((named("a.exe"), [250, 554]), (named("a.pdf"), [554, 250])):
            to = ("lab@e.example", "bob@e.example")
            assert [(await client.send("a@s.example", one, content=content)).code for one in to] == codes


@pytest.mark.parametrize(
    "options", [{"types": ["nothing"]}, {"faults": ["nothing"]}, {"encrypted": "maybe"}, {"max_size": "big"}]
)
async def test_wrong_options_stop_the_start(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        await reply(b"\r\n", **options)


LINES = st.sampled_from(
    [
        *HEADERS,
        *("--b", "--b--", "--bb", "", "\0", ":", " ", "\u202e", "x" * 99, "=", "PK\1\2" + "\xff" * 60, "PK\3\4"),
        *(f"Content-Type: {kind}" for kind in (MIXED, f"{MIXED}b", "message/rfc822")),
        *(f"Content-Transfer-Encoding: {encoding}" for encoding in ("base64", "quoted-printable")),
        "UEsDBAoAAAAAAA==",
    ]
)


@settings(max_examples=200)
@given(st.lists(LINES, max_size=30))
def test_nothing_that_a_stranger_sends_raises(lines: list[str]) -> None:
    message = Message.parse("\r\n".join(lines).encode(), Address.parse("a@b.c"), [Address.parse("d@e.f")])
    root = message.structure
    assert root is not None
    list_contents(root, hashes=True)


MEGABYTES = 4 << 20
MULTIPART = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
ATTACHED = b"Content-Type: message/rfc822\r\n\r\n"
ZIP = b"Content-Type: application/zip\r\nContent-Transfer-Encoding: binary\r\n\r\n"
BASE64 = b"Content-Transfer-Encoding: base64\r\n\r\n"
LARGE: dict[str, tuple[bytes, bytes]] = {
    "parts": (MULTIPART, b"--b\r\n\r\nx\r\n"),
    "parts with names": (MULTIPART, b"--b\r\nContent-Disposition: x" + b"; filename=a" * 300 + b"\r\n\r\nx\r\n"),
    "open quotes": (MULTIPART, b"--b\r\nContent-Type: x/y" + b';a="' * 3000 + b"\r\n\r\nx\r\n"),
    "blanks": (MULTIPART, b"--b\r\nContent-Type: x/y;" + b" " * 9000 + b"\r\n\r\nx\r\n"),
    "fields": (b"", b"Content-Type: multipart/mixed; boundary=b\r\n"),
    "attached messages within each other": (b"", ATTACHED),
    "attached messages side by side": (MULTIPART, b"--b\r\n" + ATTACHED + b"Content-Type: x/y\r\n\r\nx\r\n"),
    "multiparts within each other": (b"", b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n"),
    "base64 with padding": (BASE64, b"QUI="),
    "entries of archives": (ZIP, b"PK\x03\x04"),
    "two kinds of entries": (ZIP, b"PK\x03\x04PK\x01\x02" + bytes(30)),
    "uuencoded files": (b"\r\n", b"begin 644 a\r\n#0V%T\r\n"),
    "winmail.dat": (ZIP + b"\x78\x9f\x3e\x22\0\0", b"\2\5\x90\6\0\x10\0\0\0\x1e\0\7\x37" + bytes(14)),
    "brackets": (MULTIPART, b'--b\r\nContent-Type: x/y; name="{00000000-' + b"0000-" * 900 + b'"\r\n\r\n'),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", LARGE)
def test_a_large_message_of_anything_is_read_in_linear_time(what: str) -> None:
    head, unit = LARGE[what]
    content = head + unit * (MEGABYTES // len(unit))
    root = Message.parse(content, Address.parse("a@b.c"), [Address.parse("d@e.f")]).structure
    assert root is not None
    list_contents(root, hashes=True)
