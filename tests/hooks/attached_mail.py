"""Messages with attachments, and what `attachments` answers to them."""

from __future__ import annotations

import base64
import io
import zipfile
from typing import Any

from gatepost.testing import gate

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
