"""attachments: what is refused by name, by what it is, by what is in an archive, and for ambiguous MIME."""

from __future__ import annotations

import base64
import binascii
import io
import struct
import zipfile
import zlib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gatepost import Address, ConfigError, Message, list_contents
from gatepost.services.content.mime_fault import MIME_FAULTS
from gatepost.testing import gate

if TYPE_CHECKING:
    from pathlib import Path

    from gatepost.services.content.mime_fault import MimeFault

PROGRAM = b"MZ\x90\0\x03\0\0\0" + bytes(100)
TEXT = "--b\r\n\r\nhello\r\n"


def zipped(*names: str, **contents: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, b"content " * 10)
        for name, content in contents.items():
            archive.writestr(name.replace("_", "."), content)
    return file.getvalue()


def part(header: str, content: bytes = b"content", encoding: str = "base64") -> str:
    body = base64.encodebytes(content).decode() if encoding == "base64" else content.decode("latin-1")
    return f"--b\r\n{header}\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n{body}".replace("\r\n", "\n").replace(
        "\n", "\r\n"
    )


MIXED = "multipart/mixed; boundary=b"


def mail(*parts: str, content_type: str = MIXED, head: str = "", end: str = "\r\n--b--") -> bytes:
    text = f"From: a@s.example\r\nMIME-Version: 1.0\r\nContent-Type: {content_type}\r\n{head}\r\n" + "\r\n".join(parts)
    return (text + end + "\r\n").encode("utf-8", "surrogateescape")


def named(name: str, content: bytes = b"content") -> bytes:
    header = f'Content-Type: application/octet-stream\r\nContent-Disposition: attachment; filename="{name}"'
    return mail(TEXT, part(header, content))


async def reply(content: bytes, *, mime_limit: str = "8 MiB", **options: Any) -> str:
    async with gate(content={"mime_limit": mime_limit}, attachments=options) as postfix:
        answer = await postfix.client().send("a@s.example", "b@e.example", content=content)
        return "250" if answer.code == 250 else answer.encode().decode().strip()


def kind(name: str, by: str) -> str:
    return f'554 5.7.1 the attachment "{name}" is of a kind that is not accepted here ({by})'


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


async def test_names_in_zip_archives_count() -> None:
    held = '554 5.7.1 the archive "a.zip" holds "invoice.exe", which is of a kind that is not accepted here (exe)'
    assert await reply(named("a.zip", zipped("x/readme.txt", "invoice.exe"))) == held
    assert await reply(named("a.zip", zipped("x/readme.txt"))) == "250"
    assert await reply(named("a.zip", zipped("invoice.exe")), archives=False) == "250"
    # Called otherwise, behind other data, without its directory, or with another name in it.
    assert "invoice.exe" in await reply(named("a.dat", zipped("invoice.exe")))
    assert "invoice.exe" in await reply(named("a.zip", b"GIF89a" + zipped("invoice.exe")))
    assert "invoice.exe" in await reply(named("a.zip", zipped("invoice.exe").partition(b"PK\x01\x02")[0]))
    changed = zipped("invoice.exe")
    for place in (changed.index(b"invoice.exe"), changed.rindex(b"invoice.exe")):
        other = changed[:place] + b"invoice.txt" + changed[place + 11 :]
        assert "invoice.exe" in await reply(named("a.zip", other))


async def test_archives_in_archives_are_looked_into_and_bombs_are_not_unpacked() -> None:
    nested = zipped(inner_zip=zipped(more_zip=zipped("invoice.exe")))
    assert 'holds "invoice.exe"' in await reply(named("a.zip", nested))
    bomb = zipped(inner_zip=bytes(200 << 20))
    assert await reply(named("a.zip", bomb)) == "250"
    refused = '554 5.7.1 the archive "a.zip" cannot be looked through'
    assert await reply(named("a.zip", bomb), unlisted="deny") == refused
    deep = zipped("x.txt")
    for _ in range(8):
        deep = zipped(inner_zip=deep)
    assert await reply(named("a.zip", deep), unlisted="deny") == refused


async def test_all_archives_of_a_message_share_what_is_spent_on_them() -> None:
    refused = '554 5.7.1 the archive "c.zip" cannot be looked through'
    for archive in (zipped(inner_zip=bytes(6 << 20)), zipped(*(f"{number}.txt" for number in range(4000)))):
        parts = [part(f'Content-Type: application/zip; name="{name}.zip"', archive) for name in "abc"]
        assert await reply(mail(TEXT, *parts[:2]), unlisted="deny") == "250"
        assert await reply(mail(TEXT, *parts), unlisted="deny") == refused


async def test_entries_that_share_broken_data_cost_little_and_hide_nothing() -> None:
    # Each begins an archive with a name in it, then a bomb that breaks off with an error.
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = deflater.compress(zipped("invoice.exe") + bytes(15 << 20)) + deflater.flush(zlib.Z_FULL_FLUSH) + b"\xff" * 9
    entries = 1800
    local = [
        b"PK\3\4" + bytes(4) + b"\x08" + bytes(17) + b"\5\0" + struct.pack("<H", 35 * left) + b"i.zip"
        for left in reversed(range(entries))
    ]
    content = named("a.zip", b"".join(local) + data)
    assert 'holds "invoice.exe"' in await reply(content)
    assert (await reply(content, extensions=[], unlisted="deny")).endswith('"a.zip" cannot be looked through')


async def test_an_archive_that_is_packed_in_an_unusual_way_counts_as_not_looked_through() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("inner.zip", zipped("invoice.exe"))
    refused = '554 5.7.1 the archive "a.zip" cannot be looked through'
    assert await reply(named("a.zip", file.getvalue()), unlisted="deny") == refused


def tnef(title: bytes, long_name: bytes = b"", kind: int = 0x1F) -> bytes:
    """A winmail.dat with one file; tnefparse 1.4.0 reads the same names in it."""

    def attribute(identifier: int, data: bytes) -> bytes:
        return struct.pack("<BII", 2, identifier, len(data)) + data + struct.pack("<H", sum(data) & 0xFFFF)

    name = struct.pack("<IIII", 1, 0x37070000 | kind, 1, len(long_name)) + long_name
    return (
        b"\x78\x9f\x3e\x22\1\0"
        + attribute(0x18010, title + b"\0")
        + attribute(0x6800F, PROGRAM)
        + attribute(0x69005, name)
    )


async def test_names_in_winmail_dat_count() -> None:
    held = '554 5.7.1 the archive "winmail.dat" holds "{}", which is of a kind that is not accepted here (exe)'
    long = ("Rechnung.exe".encode("utf-16-le") + b"\0\0", b"Rechnung.exe\0")
    assert await reply(named("winmail.dat", tnef(b"invoice.exe"))) == held.format("invoice.exe")
    assert await reply(named("winmail.dat", tnef(b"RECHNU~1", long[0]))) == held.format("Rechnung.exe")
    assert await reply(named("winmail.dat", tnef(b"RECHNU~1", long[1], 0x1E))) == held.format("Rechnung.exe")
    assert await reply(named("winmail.dat", tnef(b"invoice.pdf", b"\xff" * 9))) == "250"
    assert await reply(named("winmail.dat", tnef(b"invoice.exe")), archives=False) == "250"
    assert await reply(named("a.dat", tnef(b"a.pdf")), types=["tnef"]) == kind("a.dat", "tnef")


UUENCODED = b"".join(binascii.b2a_uu(PROGRAM[at : at + 45]) for at in range(0, len(PROGRAM), 45)).decode()


@pytest.mark.parametrize("line_end", ["\r\n", "\n"])
async def test_files_that_stand_uuencoded_in_a_text_count(line_end: str) -> None:
    def text(name: str) -> bytes:
        lines = f"see this\n\nbegin 644 {name}\n{UUENCODED}`\nend\nbye\n".replace("\n", line_end)
        return mail(TEXT, part("Content-Type: text/plain", lines.encode()))

    assert await reply(text("invoice.exe")) == kind("invoice.exe", "exe")
    assert await reply(text("picture.jpg")) == kind("picture.jpg", "executable")
    assert await reply(b"\r\nbegin 600 a.exe\r\n#0V%T\r\n") == kind("a.exe", "exe")
    assert await reply(text("picture.jpg"), types=[]) == "250"
    assert await reply(b"\r\nbegin 644 the.exe\r\nis how it begins\r\nHello\r\n") == "250"
    many = b"begin 644 a.txt\r\n#0V%T\r\n" * 1000
    assert (await reply(b"\r\n" + many)).startswith("554 5.6.0 the message is ambiguous: more files")


async def test_encrypted_archives_are_an_option() -> None:
    content = bytearray(zipped("a.txt"))
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    assert await reply(named("a.zip", bytes(content))) == "250"
    answer = await reply(named("a.zip", bytes(content)), encrypted="defer")
    assert answer == '451 4.7.1 the archive "a.zip" is encrypted'


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
