"""What a file really is, by its first bytes: what can be run, what holds other files, what holds macros.

A short table of its own. Libraries that know a thousand types (puremagic, python-magic) tell a PNG from a TIFF, which
no mail was ever refused for, and the large ones need a C library with a history of its own.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

FileType = Literal[
    "executable", "script", "shortcut", "java", "installer", "disk_image", "zip", "rar", "7z", "ace", "arj", "lzh",
    "cab", "gzip", "bzip2", "xz", "zstd", "tar", "tnef", "ole", "office_macro", "onenote", "help", "pdf", "rtf", "html",
    "message",
]  # fmt: skip

FILE_TYPES: tuple[str, ...] = get_args(FileType)

_MAGIC: tuple[tuple[int, bytes, FileType], ...] = (
    (0, b"\x7fELF", "executable"),
    (0, b"\xfe\xed\xfa\xce", "executable"),
    (0, b"\xfe\xed\xfa\xcf", "executable"),
    (0, b"\xce\xfa\xed\xfe", "executable"),
    (0, b"\xcf\xfa\xed\xfe", "executable"),
    (0, b"dex\n", "executable"),
    (0, b"\0asm", "executable"),
    (0, b"L\0\0\0\x01\x14\x02\0\0\0\0\0\xc0", "shortcut"),
    (0, b"[InternetShortcut]", "shortcut"),
    (0, b"#!", "script"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"PK\x05\x06", "zip"),
    (0, b"Rar!\x1a\x07", "rar"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z"),
    (7, b"**ACE**", "ace"),
    (0, b"\x60\xea", "arj"),
    (0, b"MSCF", "cab"),
    (0, b"\x1f\x8b", "gzip"),
    (0, b"BZh", "bzip2"),
    (0, b"\xfd7zXZ\0", "xz"),
    (0, b"\x28\xb5\x2f\xfd", "zstd"),
    (257, b"ustar", "tar"),
    (0, b"\x78\x9f\x3e\x22", "tnef"),
    (0x8001, b"CD001", "disk_image"),
    (0, b"vhdxfile", "disk_image"),
    (0, b"conectix", "disk_image"),
    (0, b"ITSF", "help"),
    (0, b"\xe4\x52\x5c\x7b\x8c\xd8\xa7\x4d", "onenote"),
    (0, b"{\\rt", "rtf"),
)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_MSI = b"\x84\x10\x0c\0\0\0\0\0\xc0\0\0\0\0\0\0\x46"
"""The class identifier of Windows Installer's root entry."""

_VBA = "_VBA_PROJECT".encode("utf-16-le")
_LZH = re.compile(rb"..-lh[0-9a-z]-", re.DOTALL)
_HTML = re.compile(rb"\s{0,200}<(?:!doctype\s{1,20}html|html|head|script|body)\b", re.IGNORECASE)


def file_type(content: bytes) -> FileType | None:
    """Return what the content is; None for what the table does not know, text among it."""
    for place, magic, kind in _MAGIC:
        if content.startswith(magic, place):
            return kind
    if content.startswith(b"MZ"):
        # A text may begin so, too, but has no NUL; the header of a program, of 64 bytes, has many.
        return "executable" if b"\0" in content[:64] else None
    if content.startswith(b"\xca\xfe\xba\xbe"):
        # Java's class files and Mach-O for several processors share their first bytes; both can be run.
        return "java" if len(content) > 7 and content[7] > 0x2A else "executable"
    if content.startswith(_OLE):
        return "office_macro" if _VBA in content else "installer" if _MSI in content[:65_536] else "ole"
    head = content[:1024].removeprefix(b"\xef\xbb\xbf")
    if b"%PDF-" in head:
        return "pdf"
    if _LZH.match(content):
        return "lzh"
    return "html" if _HTML.match(head) else None
