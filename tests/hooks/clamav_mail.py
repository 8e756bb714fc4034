"""Mail with and without viruses, and what comes of it with the plugin clamav."""

from __future__ import annotations

import base64
import io
import zipfile
from typing import TYPE_CHECKING, Any

from gatepost.testing import gate

if TYPE_CHECKING:
    from gatepost import Endpoint, Message
    from gatepost.testing import Client, Gate

CLEAN = b"Subject: test\r\n\r\nhello\r\n"
FIELD = "X-Virus-Status"
NOWHERE = "unix:/nonexistent/clamd"
INFECTED = "554 5.7.1 the message contains a virus: Eicar-Test-Signature.UNOFFICIAL"
DEFERRED = "451 4.3.0 temporary failure, please try again later"


def zipped(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("invoice.com", content)
    return file.getvalue()


def mail(attachment: bytes, *, first: bytes = b"From: a@example.net\r\n") -> bytes:
    """Return a message with a text and that attachment in base64."""
    return (
        first + b"Subject: invoice\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
        b"--b\r\nContent-Type: text/plain\r\n\r\nsee there\r\n\r\nFrom here on\r\n"
        b"--b\r\nContent-Type: application/octet-stream\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + base64.encodebytes(attachment).replace(b"\n", b"\r\n")
        + b"--b--\r\n"
    )


def plain(content: bytes) -> bytes:
    return b"Subject: test\r\n\r\n" + content + b"\r\n"


async def send(postfix: Gate, content: bytes, *recipients: str, sender: str = "a@example.net") -> tuple[str, Client]:
    client = postfix.client()
    reply = await client.send(sender, *(recipients or ("b@example.org",)), content=content)
    return "250" if reply.code == 250 else reply.encode().decode().strip(), client


async def outcome(server: Endpoint | str | list[str], content: bytes, **options: Any) -> tuple[str, Message | None]:
    named = server if isinstance(server, list) else str(server)
    async with gate(clamav={"server": named, **options}) as postfix:
        reply, client = await send(postfix, content)
        return reply, client.message


def edits(message: Message | None) -> list[str]:
    assert message is not None
    return message.summary()
