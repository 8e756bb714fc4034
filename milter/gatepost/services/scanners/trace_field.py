"""A message as a content scanner should get it: with its envelope, and where it comes from, in fields on top.

Scanners read the client, its HELO, TLS and login from the topmost Received. That is the public smtpd's, which Postfix
also writes into what it gives to a proxy, and which knows more than we do. It may be missing: a header check can drop
it, as sites do that hide where their users sit. Then what stands on top was written by strangers.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gatepost.address import Address
    from gatepost.message.header import Header, Headers
    from gatepost.message.message import Message
    from gatepost.session import Session, Transaction

# What could be read as another part of the field stays out of it: `x) by mx with ESMTPSA` would be a login.
_STRANGE = re.compile(r"[^A-Za-z0-9._:\[\]-]")
_PLAIN_ADDRESS = re.compile(r"[\w.+=/~#$%&'*!?^`{|}-]+@[\w.:\[\]-]+", re.ASCII)
_LOGIN = re.compile(rb"\(Authenticated sender: |[ \t]with (?:UTF8|E)SMTPS?A\b")
_LAST_DATE = re.compile(rb";[^;]*\Z")


def with_envelope(transaction: Transaction, message: Message, hostname: str) -> bytes:
    """Return the whole message, X-Envelope-From and the public smtpd's Received on top; `hostname` is this server's.

    The size of the message, and nearly as long for a large one as reading it takes: for a thread.
    """
    sender = re.sub(rb"[\x00-\x1f\x7f]", b"_", bytes(transaction.sender))
    field = own_received(message.headers, transaction.session)
    if field is None:
        value = received_value(transaction, hostname, datetime.now(UTC))
    else:
        value = with_sender(field.raw, transaction.sender)
    with message.open() as reader:
        if field is not None:
            reader.seek(len(bytes(field)))
        # SpamAssassin believes X-Envelope-From only above every Received. It alone can name the null sender.
        return b"X-Envelope-From: <%b>\r\nReceived:%b\r\n%b" % (sender, value, reader.read())


def own_received(headers: Headers, session: Session) -> Header | None:
    """Return the Received on top of the header if the public smtpd wrote it; None if anybody else may have.

    It must name this client as Postfix does, and a login only if there was one, where the edge door knows that.
    """
    field = headers[0] if len(headers) else None
    if field is None or not field.is_named("Received"):
        return None
    prefix = "IPv6:" if ":" in session.address else ""
    client = rf"from \S+ \(\S+ \[{prefix}{re.escape(session.address)}\]\)\s"
    if not re.match(client.encode(), field.raw.lstrip(), re.IGNORECASE):
        return None
    knows_logins = session.daemon_name is not None
    return None if knows_logins and session.login is None and _LOGIN.search(field.raw) else field


def received_value(transaction: Transaction, hostname: str, now: datetime) -> bytes:
    """Return the value that Postfix would write for this transaction, folded, and with `(envelope-from <...>)`."""
    session = transaction.session
    helo = _STRANGE.sub("_", session.helo or "unknown")
    name = _STRANGE.sub("_", session.name or "unknown")
    ip = f"IPv6:{session.address}" if ":" in session.address else session.address
    lines = [f"from {helo} ({name} [{_STRANGE.sub('_', ip)}])"]
    if session.tls_version:
        version, cipher = (_STRANGE.sub("_", text or "unknown") for text in (session.tls_version, session.tls_cipher))
        lines.append(f"(using {version} with cipher {cipher})")
    if session.login is not None:
        lines.append(f"(Authenticated sender: {re.sub(r'[^A-Za-z0-9._@+-]', '_', session.login) or '_'})")
    protocol = "ESMTP" if session.esmtp else "SMTP"
    if session.esmtp:
        protocol += "S" * bool(session.tls_version) + "A" * (session.login is not None)
    lines.append(f"by {_STRANGE.sub('_', hostname)} (Postfix) with {protocol} id {transaction.id}")
    value = " " + "\r\n\t".join(lines) + f"; {format_datetime(now)}"
    return with_sender(value.encode(), transaction.sender)


def with_sender(received: bytes, sender: Address) -> bytes:
    """Return the value of a Received field with `(envelope-from <...>)` in it, before its date.

    Where SpamAssassin looks first, and where no field further down in the message counts. An address that is not plain
    stays out.
    """
    if not _PLAIN_ADDRESS.fullmatch(str(sender)):
        return received
    date = _LAST_DATE.search(received)
    place = date.start() if date else len(received)
    return received[:place] + f"\r\n\t(envelope-from <{sender}>)".encode() + received[place:]
