"""The content of a message on its way through: where it ends, and stray CR and LF in it.

Rules, all against smuggling a second message inside a first (two parsers that disagree about the end):

1. Only CRLF "." CRLF ends the content, or "." CRLF as its very first line (RFC 5321 section 4.1.1.4). Postfix 3.7 and
   many others take more for an end; we take nothing else, in either mode.
2. A CR that is not followed by LF, and an LF that does not follow CR, is a stray (RFC 5321 section 2.3.8). Mode
   `reject`: from the first stray on nothing is passed on any more, and the rest is swallowed up to the end.
   Mode `normalize`: each stray becomes CRLF.
3. What is passed on never contains CRLF "." CRLF: where normalising makes a line that begins with a dot, or a line that
   is a dot alone, a dot is put before it (RFC 5321 section 4.5.2). All else passes raw, dot-stuffing included, and so
   does the unstuffed `.foo` that the front may send: the inner smtpd takes the dot away as it always would.

How: a chunk is looked at as a whole, with a few passes in C and no loop over lines. What a chunk's end leaves open (the
last four bytes at most: the start of an end, a CR that may be half a CRLF) is held back and put before the next chunk.
The stream is taken to begin after a CRLF that is not passed on, so that the first line needs no rule of its own.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from gatepost.smtp.error import LocalError

BareNewline = Literal["reject", "normalize"]

END_OF_CONTENT = b".\r\n"
"""What ends the content; it is the caller's to send, for nothing can be taken back after it."""

_CRLF = b"\r\n"
_END = b"\r\n.\r\n"
_OPEN_ENDS = (b"\r\n.\r", b"\r\n.", b"\r\n", b"\r")
_STRAY = re.compile(rb"\r(?!\n)|(?<!\r)\n")


class Scanned(NamedTuple):
    """What a piece of the stream came to: `chunk` to pass on (may be empty), `rest` behind the end (else empty)."""

    chunk: bytes
    finished: bool
    rest: bytes


class ContentScanner:
    """Scans one message's content, in pieces of any size, in constant memory."""

    __slots__ = ("_bare_newline", "_held", "_not_ours", "aborted", "finished", "size", "stray")

    def __init__(self, bare_newline: BareNewline = "reject") -> None:
        self._bare_newline: BareNewline = bare_newline
        self._held = _CRLF
        # How many of the held bytes did not come from the peer: the CRLF before the first line.
        self._not_ours = len(_CRLF)
        self.size = 0
        """Bytes of content looked at so far, as received, without the end; what is held back does not count yet."""
        self.finished = False
        """True once the end has been seen."""
        self.aborted = False
        """True when the stream ended before the content did."""
        self.stray: str | None = None
        """The first stray CR or LF, in words for the log with its offset in bytes; None if there is none."""

    def feed(self, data: bytes | bytearray | memoryview) -> Scanned:
        """Take the next bytes of the stream; LocalError once the content has ended."""
        if self.finished or self.aborted:
            raise LocalError("content is fed to a scanner that has ended")
        stream = self._held + data
        end = stream.find(_END)
        if end >= 0:
            self.finished = True
            stop = end + len(_CRLF)
            rest = stream[end + len(_END) :]
        else:
            stop = len(stream) - self._open_bytes(stream)
            rest = b""
        self._held = stream[stop:] if end < 0 else b""
        return Scanned(self._pass_on(stream, stop), self.finished, rest)

    def eof(self) -> None:
        """Take note that the stream has ended: before the end of the content this is an abort.

        When its client is gone, the front writes QUIT into the content and closes (`smtpd_proxy_close`): there is no
        message then, whatever stands in it.
        """
        self.aborted = not self.finished

    def _open_bytes(self, stream: bytes) -> int:
        """Return how many bytes at the end of the stream are decided only by what follows."""
        for open_end in _OPEN_ENDS:
            if stream.endswith(open_end):
                return len(open_end)
        if self._bare_newline == "normalize" and stream.endswith(b"\n"):
            # A lone LF may be followed by a dot, which is then the first of a line; and a dot before it needs its LF.
            return 4 if stream.endswith(b"\r\n.\n") else 1
        return 0

    def _pass_on(self, stream: bytes, stop: int) -> bytes:
        """Return what of `stream[:stop]` goes on, and count it."""
        skip = min(self._not_ours, stop)
        if self.stray is not None and self._bare_newline == "reject":
            chunk = b""
        elif self._has_stray(stream, stop):
            chunk = self._handle_stray(stream[:stop], skip)
        else:
            chunk = stream[skip:stop]
        self.size += stop - skip
        self._not_ours -= skip
        return chunk

    @staticmethod
    def _has_stray(stream: bytes, stop: int) -> bool:
        pairs = stream.count(_CRLF, 0, stop)
        return stream.count(b"\n", 0, stop) != pairs or stream.count(b"\r", 0, stop) != pairs

    def _handle_stray(self, region: bytes, skip: int) -> bytes:
        if self.stray is None and (match := _STRAY.search(region)):
            name = "CR" if match[0] == b"\r" else "LF"
            self.stray = f"bare {name} at byte {self.size + match.start() - skip} of the content"
        return b"" if self._bare_newline == "reject" else _normalize(region)[skip:]


def _normalize(region: bytes) -> bytes:
    """Return the region with every stray as CRLF, dot-stuffed where that is needed.

    The region holds no end of content, and its last bytes leave nothing open.
    """
    # A dot alone on a line that begins with CRLF and ends with a stray: CRLF "." CR cannot go on with LF here.
    region = region.replace(b"\r\n.\n", b"\r\n..\n").replace(b"\r\n.\r", b"\r\n..\r")
    # A dot behind a stray LF: stuff behind every LF, then take that back behind CRLF.
    region = region.replace(b"\n.", b"\n..").replace(b"\r\n..", b"\r\n.")
    # A dot behind a stray CR.
    region = region.replace(b"\r.", b"\r\n..")
    return region.replace(_CRLF, b"\n").replace(b"\r", b"\n").replace(b"\n", _CRLF)
