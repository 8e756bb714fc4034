"""attachments: names in zip archives, in winmail.dat, and of files that stand uuencoded in a text."""

from __future__ import annotations

import binascii
import io
import struct
import zipfile
import zlib

import pytest
from tests.hooks.attached_mail import PROGRAM, TEXT, kind, mail, named, part, reply, zipped


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
