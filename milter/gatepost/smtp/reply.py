"""SMTP replies: made by us or read from the inner smtpd, and their bytes.

A reply of ours is made safe here, whatever text a plugin gave: printable ASCII, one code on every line, and short
enough for Postfix's before-queue filter client. A reply of the inner smtpd keeps its own bytes, so that the client gets
them as they are. Deciding what to reply is not done here, but for the one mapping from a denying verdict.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gatepost.hooks import Hook
    from gatepost.verdict import Verdict

LINE_LIMIT_BYTES = 512
"""RFC 5321 section 4.5.3.1.5: a reply line with its code and CRLF."""

REPLY_LIMIT_BYTES = 2047
"""Postfix's front collects a reply up to `line_length_limit` (2,048) and drops the lines after that, the last one too
(`smtpd_proxy_cmd`): its client then waits for the rest of a multi-line reply that never comes."""

_CODE_RANGE = range(200, 600)
_ENHANCED = re.compile(r"([245])\.\d{1,3}\.\d{1,3}(?= |\Z)")
_LINE_BREAK = re.compile(r"\r\n|\r|\n")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_DEFAULT_TEXT = {2: "Ok", 3: "End data with <CR><LF>.<CR><LF>", 4: "Try again later", 5: "Refused by local policy"}


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply: `lines` without code and enhanced status code, which stand on every line of the wire.

    `enhanced` is of the code's own class (RFC 2034 section 4), None for none. `raw` is set for a reply that was read
    from the wire: its bytes, and then what `encode` returns. A code outside 200 to 599, or an enhanced code of another
    class, raises ValueError.
    """

    code: int
    lines: tuple[str, ...] = ()
    enhanced: str | None = None
    raw: bytes | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a code that would mean something else on the other side."""
        if self.code not in _CODE_RANGE:
            raise ValueError(f"{self.code} is not an SMTP reply code")
        if self.enhanced is not None:
            match = _ENHANCED.fullmatch(self.enhanced)
            if match is None or int(match[1]) != self.code // 100:
                raise ValueError(f"the enhanced status code {self.enhanced!r} does not go with reply code {self.code}")

    @classmethod
    def of(cls, code: int, text: str = "", enhanced: str | None = None) -> Reply:
        """Return a reply from a text with line breaks; an empty text becomes a short default when encoded."""
        return cls(code, tuple(_LINE_BREAK.split(text.strip("\r\n"))), enhanced)

    @classmethod
    def from_wire(cls, wire_lines: list[bytes]) -> Reply:
        """Return the reply that these lines (without line ends) make up; the caller has checked their form."""
        return parse_reply(tuple(wire_lines))

    @property
    def text(self) -> str:
        """The lines, joined with line breaks."""
        return "\n".join(self.lines)

    @property
    def is_positive(self) -> bool:
        """True for 2xx: only that makes Postfix believe that a command was accepted (`smtpd_proxy_cmd`)."""
        return 200 <= self.code < 300

    @property
    def hangs_up(self) -> bool:
        """True for 421 and 521, on which the front hangs up on its client (`smtpd_chat_reply`)."""
        return self.code in {421, 521}

    def encode(self) -> bytes:
        """Return the reply as bytes for the wire, ending with CRLF, never more than `REPLY_LIMIT_BYTES`."""
        if self.raw is not None:
            return self.raw if len(self.raw) <= REPLY_LIMIT_BYTES else _shorten(self.raw)
        return _encode(self.code, self.lines, self.enhanced)


def refusal(verdict: Verdict, hook: Hook) -> Reply:
    """Return the reply for a denying verdict of this hook; ValueError for a verdict that does not deny."""
    if not verdict.denies:
        raise ValueError(f"{verdict.kind} is not a refusal")
    if verdict.disconnects:
        code = verdict.disconnect_code
    elif verdict.code is not None:
        code = verdict.code
    else:
        code = hook.hard_code if verdict.permanent else hook.soft_code
    return Reply.of(code, verdict.text, verdict.enhanced or ("5.7.1" if verdict.permanent else "4.7.1"))


def printable(text: str) -> str:
    """Return the text with control characters and TAB as spaces, and what is not ASCII as question marks.

    The front turns a TAB into `?`, and without SMTPUTF8 a reply is ASCII (RFC 5321 section 4.2).
    """
    if text.isascii() and text.isprintable():
        return text
    return _NOT_ASCII.sub("?", _CONTROL.sub(" ", text))


@lru_cache(maxsize=512)
def parse_reply(wire_lines: tuple[bytes, ...]) -> Reply:
    """Do as `Reply.from_wire` does; nearly all that an inner smtpd says is one of a dozen replies, hence the cache."""
    code = int(wire_lines[0][:3])
    lines: list[str] = []
    enhanced = None
    for wire_line in wire_lines:
        text = wire_line[4:].decode("utf-8", "replace")
        match = _ENHANCED.match(text)
        if match is not None and int(match[1]) == code // 100:
            enhanced = enhanced or match[0]
            text = text[match.end() + 1 :]
        lines.append(text)
    return Reply(code, tuple(lines), enhanced, b"\r\n".join(wire_lines) + b"\r\n")


@lru_cache(maxsize=512)
def _encode(code: int, lines: tuple[str, ...], enhanced: str | None) -> bytes:
    texts = [printable(line).rstrip() for line in lines]
    while texts and not texts[-1]:
        texts.pop()
    if not texts:
        texts = [_DEFAULT_TEXT[code // 100]]
    lead = f"{enhanced} " if enhanced else ""
    budget = REPLY_LIMIT_BYTES
    wire_lines: list[bytes] = []
    for text in texts:
        # `550-` and CRLF: 6 bytes around the text.
        line = f"{lead}{text}".rstrip().encode("ascii")[: LINE_LIMIT_BYTES - 6]
        budget -= len(line) + 6
        if budget < 0:
            break
        wire_lines.append(line)
    code_bytes = b"%d" % code
    head = b"".join([code_bytes + b"-" + line + b"\r\n" for line in wire_lines[:-1]])
    return head + code_bytes + b" " + wire_lines[-1] + b"\r\n"


def _shorten(raw: bytes) -> bytes:
    """Cut a reply to the whole lines that fit, the last one marked as such; one overlong line is cut within."""
    end = raw.rfind(b"\r\n", 0, REPLY_LIMIT_BYTES)
    if end < 0:
        end = REPLY_LIMIT_BYTES - 2
    kept = raw[:end]
    last = kept.rfind(b"\r\n") + 2 if b"\r\n" in kept else 0
    return kept[: last + 3] + b" " + kept[last + 4 :] + b"\r\n"
