"""The client side of the dialogue with the inner smtpd: bytes in, replies out.

Theory of operation
-------------------
We pipeline (RFC 2920): XFORWARD, MAIL and RCPT go out in one write, and their replies come in any number of pieces. So
the machine only counts: `expect(n)` when n commands are written, and the next n replies are theirs, in order. A reply
that nothing waits for is `Unsolicited`: smtpd says 421 before it closes an idle connection (`smtpd_timeout`), and must
not be taken for the answer to a command that we are about to send. The banner counts as the reply to a first command
of no bytes, for which the caller says `expect(1)` like for any other; it is due from the start, for it may come first.

    WAITING --all expected replies are in--> READY --expect(n)--> WAITING
    WAITING, READY --unsolicited or malformed reply, end of stream--> CLOSED

The weak spot: a 421 that crosses our command on the wire cannot be told from the answer to it. So a first command that
is answered 421 on a kept connection, or not at all, is to be tried on a fresh one; `idle` is False from then on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from gatepost.smtp.content import END_OF_CONTENT
from gatepost.smtp.error import LocalError, RemoteError
from gatepost.smtp.reply import Reply, parse_reply
from gatepost.smtp.xforward import Xforward, encode

__all__ = [
    "DATA",
    "END_OF_CONTENT",
    "QUIT",
    "RSET",
    "InnerEvent",
    "InnerMachine",
    "LocalError",
    "RemoteError",
    "State",
    "Unsolicited",
    "ehlo",
    "extensions",
    "mail",
    "queue_id",
    "rcpt",
]

REPLY_LIMIT_BYTES = 64 * 1024
"""No smtpd says as much (a line is 512 bytes in RFC 5321 section 4.5.3.1.5, an EHLO reply some 15 lines): a peer that
does is no smtpd, and shall not fill our memory."""

DATA = b"DATA\r\n"
RSET = b"RSET\r\n"
QUIT = b"QUIT\r\n"

_REPLY_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])[^\r\n\0]*)?\Z")

_GARBLED = Reply.of(451, "Error: internal connection failed", "4.3.0")


class State(Enum):
    """Whether the connection can be written to, and whether replies are due."""

    WAITING = "waiting"
    READY = "ready"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Unsolicited:
    """A reply that nothing waited for; the connection is to be given up."""

    reply: Reply


InnerEvent: TypeAlias = Reply | Unsolicited | RemoteError


class InnerMachine:
    """One connection to the inner smtpd, from the moment it is connected."""

    __slots__ = ("_banner_due", "_closing", "_input", "_lines", "_size", "expected", "offered", "state")

    def __init__(self) -> None:
        self._input = b""
        self._lines: list[bytes] = []
        self._size = 0
        self._banner_due = 1
        self._closing = False
        self.expected = 1
        """How many replies are still to come; 1 at first, for the banner."""
        self.offered: dict[str, frozenset[str]] | None = None
        """What the inner smtpd's EHLO offers, see `extensions`; None before that."""
        self.state = State.WAITING

    @property
    def is_greeted(self) -> bool:
        """True once EHLO was accepted."""
        return self.offered is not None

    @property
    def idle(self) -> bool:
        """True when every reply is in and nothing else has come: only such a connection may be kept for later."""
        return self.state is State.READY and not self._closing and not self._input and not self._lines

    def expect(self, replies: int = 1) -> None:
        """Say that commands with so many replies are being written; the first call is for the banner.

        On a closed connection nothing is counted: no reply will come. LocalError for a number below 1.
        """
        if replies < 1:
            raise LocalError(f"expect({replies}): there is no command without a reply")
        if self.state is State.CLOSED:
            return
        self.expected += replies - self._banner_due
        self._banner_due = 0
        self.state = State.WAITING if self.expected else State.READY

    def greeted(self, reply: Reply) -> None:
        """Take what the answer to EHLO offers; nothing if it is a refusal."""
        if reply.is_positive:
            self.offered = extensions(reply)

    def xforward(self, xforward: Xforward) -> bytes:
        """Return the XFORWARD commands that this connection takes, empty if it takes none.

        One reply comes for each CRLF. They are to be sent before every MAIL: smtpd forgets them with the transaction.
        """
        attributes = (self.offered or {}).get("XFORWARD", frozenset())
        return encode(xforward, attributes) if attributes else b""

    def receive(self, data: bytes) -> list[InnerEvent]:
        """Take bytes from the inner smtpd and return the replies that are now whole, in order.

        A malformed reply gives a RemoteError as the last event there is; what comes after it is not looked at.
        """
        events: list[InnerEvent] = []
        if self.state is State.CLOSED:
            return events
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            event = self._line(line.removesuffix(b"\r"))
            if event is not None:
                events.append(event)
                if isinstance(event, RemoteError):
                    return events
        if self._size + len(self._input) > REPLY_LIMIT_BYTES:
            events.append(self._broken(f"reply over {REPLY_LIMIT_BYTES} bytes"))
        return events

    def receive_eof(self) -> list[InnerEvent]:
        """Take note that the inner smtpd has closed: a RemoteError if replies were due, else nothing."""
        due = self.expected and self.state is State.WAITING
        self.state = State.CLOSED
        return [self._broken("connection closed with replies due")] if due else []

    def _line(self, line: bytes) -> InnerEvent | None:
        match = _REPLY_LINE.match(line)
        if match is None:
            return self._broken(f"not a reply line: {line[:80]!r}")
        code, separator = match.groups()
        if separator != b"-" and not self._lines and len(line) < REPLY_LIMIT_BYTES:
            return self._whole((line,))
        if self._lines and self._lines[0][:3] != code:
            # Which of the two counts? The promise of 250 if and only if 250 leaves no room (RFC 5321 section 4.2.1).
            return self._broken(f"two codes in one reply: {self._lines[0][:3]!r} and {code!r}")
        self._lines.append(line)
        self._size += len(line) + 2
        if self._size > REPLY_LIMIT_BYTES:
            return self._broken(f"reply over {REPLY_LIMIT_BYTES} bytes")
        if separator == b"-":
            return None
        lines, self._lines, self._size = tuple(self._lines), [], 0
        return self._whole(lines)

    def _whole(self, lines: tuple[bytes, ...]) -> Reply | Unsolicited:
        reply = parse_reply(lines)
        if not self.expected:
            self.state = State.CLOSED
            return Unsolicited(reply)
        self.expected -= 1
        # smtpd closes after 421 (RFC 5321 section 3.8), and replies still due never come: the end of stream tells.
        if reply.code == 421:
            self._closing = True
        if not self.expected:
            self.state = State.READY
        return reply

    def _broken(self, detail: str) -> RemoteError:
        self.state = State.CLOSED
        self._input = b""
        self._lines = []
        return RemoteError(_GARBLED, detail)


def ehlo(name: str) -> bytes:
    """Return an EHLO command."""
    return b"EHLO " + name.encode("ascii", "replace") + b"\r\n"


def mail(argument: bytes) -> bytes:
    """Return a MAIL command from what followed the verb in the client's own: `FROM:<a@b> SIZE=1`."""
    return b"MAIL " + argument + b"\r\n"


def rcpt(argument: bytes) -> bytes:
    """Return a RCPT command from what followed the verb: `TO:<a@b> NOTIFY=NEVER`."""
    return b"RCPT " + argument + b"\r\n"


def extensions(reply: Reply) -> dict[str, frozenset[str]]:
    """Return what an EHLO reply offers: keywords in upper case, each with its parameters in upper case (RFC 5321
    section 4.1.1.1): `{"SIZE": {"10240000"}, "XFORWARD": {"NAME", "ADDR"}}`."""
    offered: dict[str, frozenset[str]] = {}
    for line in reply.lines[1:]:
        if words := line.upper().split():
            offered[words[0]] = frozenset(words[1:])
    return offered


def queue_id(reply: Reply) -> str | None:
    """Return Postfix's queue id from `250 2.0.0 Ok: queued as ID` (`data_cmd` in smtpd.c); None if it is not there."""
    _, found, rest = reply.text.rpartition("queued as ")
    return rest.split()[0] if found and rest.strip() else None
