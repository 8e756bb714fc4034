"""The server side of the dialogue with the front smtpd: bytes in, events out.

Theory of operation
-------------------
The front (Postfix's before-queue filter client, `smtpd_proxy.c`) sends one message per connection and waits for each
reply; another client may pipeline (RFC 2920). So the machine gives out one command, then waits until its caller says
with `answered` what reply it gave, for only that decides what may follow; input that comes meanwhile is kept. A command
that is out of order, unknown or too long never gets that far: the machine makes a `RemoteError` of it, whose reply the
caller writes and says no more about.

    GREETED --EHLO--> READY --MAIL--> MAIL --RCPT--> RCPT --DATA--> DATA_SENT --354--> CONTENT --end--> ANSWER --> READY

A refused command leaves the state as it was (RFC 5321 section 4.1.4); RSET, EHLO and the answer to the content end the
transaction. 421 and 521 change nothing here: the front hangs up by itself, after a QUIT.

The weak spot: the caller must take every event (`next_event` until None) before it gives more bytes in CONTENT, else
they pile up here; `buffered` tells how many there are. A refused DATA leaves the transaction open, as in Postfix: the
peer may give more recipients and say DATA again.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Self, TypeAlias

from gatepost.smtp.command import LINE_LIMIT_BYTES, parse_command
from gatepost.smtp.content import BareNewline, ContentScanner
from gatepost.smtp.error import LocalError, RemoteError
from gatepost.smtp.reply import Reply
from gatepost.smtp.xforward import ATTRIBUTES

__all__ = [
    "EXTENSIONS",
    "Aborted",
    "CommandReceived",
    "ContentChunk",
    "ContentEnd",
    "FrontEvent",
    "FrontMachine",
    "LocalError",
    "RemoteError",
    "State",
    "ehlo_reply",
]


_ANY = frozenset({b"EHLO", b"HELO", b"NOOP", b"RSET", b"QUIT", b"VRFY"})


class State(Enum):
    """Where the dialogue stands, and the commands that make sense there (RFC 5321 section 4.1.4)."""

    allowed: frozenset[bytes]

    def __new__(cls, words: str, allowed: frozenset[bytes] = frozenset()) -> Self:
        """Make a state; `allowed` stands on it because hashing a state to look it up is slow."""
        state = object.__new__(cls)
        state._value_ = words
        state.allowed = allowed
        return state

    GREETED = ("greeted", _ANY | {b"XFORWARD"})  # our banner is out
    READY = ("ready", _ANY | {b"XFORWARD", b"MAIL"})  # EHLO or HELO accepted, no transaction
    MAIL = ("mail", _ANY | {b"RCPT"})  # MAIL accepted, no recipient yet
    RCPT = ("rcpt", _ANY | {b"RCPT", b"DATA"})  # at least one recipient accepted
    # In these no command is read at all.
    DATA_SENT = ("data sent",)  # DATA given out, our 354 not said yet
    CONTENT = ("content",)
    ANSWER = ("answer",)  # the content has ended, our reply to it not said yet
    CLOSED = ("closed",)  # QUIT answered, or the peer is gone


_AFTER_SUCCESS: dict[bytes, State] = {
    b"EHLO": State.READY,
    b"HELO": State.READY,
    b"MAIL": State.MAIL,
    b"RCPT": State.RCPT,
    b"QUIT": State.CLOSED,
}
"""The state after a 2xx reply; RSET has a rule of its own, and other commands change nothing."""

_VERBS: frozenset[bytes] = frozenset().union(*(state.allowed for state in State))

_WITHOUT_ARGUMENT = frozenset({b"DATA", b"RSET"})
"""As in Postfix (`data_cmd`, `rset_cmd`)."""

_DOT = b"."
"""What waits for an answer when the content has ended."""

EXTENSIONS = (
    "PIPELINING",
    "SIZE",
    "8BITMIME",
    "SMTPUTF8",
    "ENHANCEDSTATUSCODES",
    "DSN",
    "XFORWARD " + " ".join(ATTRIBUTES),
)
"""What our EHLO offers."""

_NOT_RECOGNIZED = Reply.of(502, "Error: command not recognized", "5.5.2")
_TOO_LONG = Reply.of(500, "Error: line too long", "5.5.2")
_NO_ARGUMENT = Reply.of(501, "Error: this command takes no argument", "5.5.4")
_NO_RECIPIENTS = Reply.of(554, "Error: no valid recipients", "5.5.1")
_OUT_OF_ORDER = {
    (State.GREETED, b"MAIL"): Reply.of(503, "Error: send HELO/EHLO first", "5.5.1"),
    (State.MAIL, b"MAIL"): Reply.of(503, "Error: nested MAIL command", "5.5.1"),
    (State.RCPT, b"MAIL"): Reply.of(503, "Error: nested MAIL command", "5.5.1"),
    # Every recipient was refused (RFC 5321 section 3.3).
    (State.MAIL, b"DATA"): _NO_RECIPIENTS,
    (State.MAIL, b"XFORWARD"): Reply.of(503, "Error: MAIL transaction in progress", "5.5.1"),
    (State.RCPT, b"XFORWARD"): Reply.of(503, "Error: MAIL transaction in progress", "5.5.1"),
}
_NEED_MAIL = Reply.of(503, "Error: need MAIL command", "5.5.1")


class CommandReceived(NamedTuple):
    """A command that is in order: `line` is the whole of it, as received, without its line end."""

    verb: bytes
    argument: bytes
    line: bytes


class ContentChunk(NamedTuple):
    """Content to pass on as it is; empty only where the machine's `stray` is set and the content is given up."""

    data: bytes


class ContentEnd(NamedTuple):
    """The content has ended, and waits for a reply; the end itself (`content.END_OF_CONTENT`) is not in any chunk.

    `size` is in bytes, as received, without the end; `stray` names the first bare CR or LF, None if there was none.
    With bare_newline = "reject" a message with a stray one is not whole: its chunks stopped there.
    """

    size: int
    stray: str | None


class Aborted(NamedTuple):
    """The peer is gone in the middle of a transaction: nothing of it may be queued."""

    state: State


FrontEvent: TypeAlias = CommandReceived | ContentChunk | ContentEnd | Aborted | RemoteError


class FrontMachine:
    """One connection from the front, from our banner on."""

    __slots__ = ("_at", "_bare_newline", "_discarding", "_end_due", "_eof", "_input", "_scanner", "_waiting", "state")

    def __init__(self, bare_newline: BareNewline = "reject") -> None:
        self._bare_newline: BareNewline = bare_newline
        self._input = b""
        self._at = 0
        self._eof = False
        self._discarding = False
        self._end_due = False
        self._waiting: bytes | None = None
        self._scanner: ContentScanner | None = None
        self.state = State.GREETED

    @property
    def buffered(self) -> int:
        """How many bytes are held that no event has told of yet."""
        return len(self._input) - self._at

    @property
    def answer_due(self) -> bool:
        """True while the last command, or the content, waits for `answered`."""
        return self._waiting is not None

    @property
    def eof_received(self) -> bool:
        """True once the peer has closed its side, whatever is still to be read before that."""
        return self._eof

    @property
    def stray(self) -> str | None:
        """The first stray CR or LF of the content under way, told as soon as it is seen, before ContentEnd."""
        return self._scanner.stray if self._scanner is not None else None

    def receive(self, data: bytes) -> int:
        """Take bytes from the peer; the events they make are to be had from `next_event`. Return `buffered`."""
        if self._eof:
            raise LocalError("bytes after the end of the stream")
        # Where nothing is left over this copies nothing, and content goes to the scanner as it came.
        self._input = self._input[self._at :] + data if self._at < len(self._input) else data
        self._at = 0
        return len(self._input)

    def receive_eof(self) -> None:
        """Take note that the peer has closed."""
        self._eof = True

    def next_event(self) -> FrontEvent | None:
        """Return the next event; None when more bytes are needed, or the last command is still to be answered."""
        if self._waiting is not None:
            return self._content_end() if self._end_due else None
        state = self.state
        if state is State.CLOSED or (self._at == len(self._input) and not self._eof):
            return None
        event = self._next_content() if state is State.CONTENT else self._next_command()
        if event is None and self._eof and self._waiting is None:
            return self._peer_gone()
        return event

    def answered(self, code: int) -> None:
        """Say with which reply code the last command, or the content, was answered.

        LocalError if none is waiting for an answer, or if the code is one that the peer cannot make sense of there.
        """
        verb = self._waiting
        if verb is None:
            raise LocalError(f"answered({code}): no command waits for an answer")
        positive = 200 <= code < 300
        if code < 400 and not (code == 354 if verb == b"DATA" else positive):
            # The front takes an unexpected 2xx or 3xx for a broken filter (`smtpd_proxy_cmd`).
            raise LocalError(f"answered({code}): no such answer to {verb.decode()}")
        self._waiting = None
        if verb == _DOT:
            self._scanner = None
            self.state = State.READY
        elif verb == b"DATA":
            self.state = State.CONTENT if code == 354 else State.RCPT
            self._scanner = ContentScanner(self._bare_newline) if code == 354 else None
        elif positive and verb == b"RSET" and self.state is not State.GREETED:
            self.state = State.READY
        elif positive:
            self.state = _AFTER_SUCCESS.get(verb, self.state)

    def _next_command(self) -> FrontEvent | None:
        start = self._at
        newline = self._input.find(b"\n", start)
        if newline < 0:
            if self._discarding or self.buffered >= LINE_LIMIT_BYTES:
                self._discarding = True
                self._input, self._at = b"", 0
            return None
        # As Postfix's smtp_get: LF ends a line, and every CR before it goes.
        self._at = newline + 1
        if self._discarding or newline + 1 - start > LINE_LIMIT_BYTES:
            self._discarding = False
            return RemoteError(_TOO_LONG, f"command line over {LINE_LIMIT_BYTES} bytes")
        line = self._input[start:newline].rstrip(b"\r")
        verb, argument = parse_command(line)
        if verb not in self.state.allowed:
            return self._refused(verb, line)
        if argument and verb in _WITHOUT_ARGUMENT:
            return RemoteError(_NO_ARGUMENT, f"argument to {verb.decode()}")
        self._waiting = verb
        if verb == b"DATA":
            self.state = State.DATA_SENT
        return CommandReceived(verb, argument, line)

    def _refused(self, verb: bytes, line: bytes) -> RemoteError:
        if verb not in _VERBS:
            return RemoteError(_NOT_RECOGNIZED, f"unknown command {line[:80]!r}")
        reply = _OUT_OF_ORDER.get((self.state, verb), _NEED_MAIL)
        return RemoteError(reply, f"{verb.decode()} out of order in state {self.state.value!r}")

    def _next_content(self) -> FrontEvent | None:
        data = self._input[self._at :]
        if not data or self._scanner is None:
            return None
        clean = self._scanner.stray is None
        scanned = self._scanner.feed(data)
        self._input, self._at = scanned.rest, 0
        if scanned.finished:
            self.state = State.ANSWER
            self._waiting = _DOT
            self._end_due = True
        # The first stray is told at once, be there content to pass on or not: the caller takes the message back.
        if scanned.chunk or (clean and self._scanner.stray is not None):
            return ContentChunk(scanned.chunk)
        return self._content_end() if scanned.finished else None

    def _content_end(self) -> FrontEvent | None:
        self._end_due = False
        scanner = self._scanner
        return ContentEnd(scanner.size, scanner.stray) if scanner is not None else None

    def _peer_gone(self) -> Aborted | None:
        state, self.state = self.state, State.CLOSED
        if self._scanner is not None:
            self._scanner.eof()
        return Aborted(state) if state in {State.MAIL, State.RCPT, State.CONTENT} else None


def ehlo_reply(hostname: str) -> bytes:
    """Return our answer to EHLO, encoded.

    MAIL and RCPT parameters come from the front whatever is listed here; XFORWARD names what we want to be told, and
    the others are what a client that talks to us directly may do (the inner smtpd does them).
    """
    return Reply.of(250, f"{hostname}\n" + "\n".join(EXTENSIONS)).encode()
