"""What a hook may answer: six verdicts, all values, never exceptions.

| verdict               | meaning                     | default reply            |
|-----------------------|-----------------------------|--------------------------|
| `Declined` (or None)  | not my concern, go on       | the next plugin is asked |
| `Ok`                  | done, stop asking           | success                  |
| `DenySoft`            | failed, try again later     | 450 or 451               |
| `Deny`                | failed for good             | 550 or 554               |
| `DenySoftDisconnect`  | failed for now, hang up     | 421                      |
| `DenyDisconnect`      | failed for good, hang up    | 521                      |

The reply's default code depends on the hook (see `gatepost.hooks`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import ClassVar

_ENHANCED = re.compile(r"[45]\.\d{1,3}\.\d{1,3}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One answer of one hook.

    `text` is what the client is told; a line break makes a multi-line reply; empty means the hook's default text.
    `enhanced` is an enhanced status code (RFC 3463) such as "5.1.1"; None means 4.7.1 or 5.7.1. `code` is an explicit
    SMTP reply code; None means the hook's own. A code of the wrong class raises ValueError.
    """

    text: str = ""
    enhanced: str | None = field(default=None, kw_only=True)
    code: int | None = field(default=None, kw_only=True)

    denies: ClassVar[bool] = False
    permanent: ClassVar[bool] = False
    disconnects: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse what could not be said to the client, or would mean something else than the verdict."""
        if not isinstance(self.text, str):
            # Caught here it is the plugin's error, with its line; later it would be one of the door.
            raise TypeError(f"{self.kind}: the text is a {type(self.text).__name__}, not a str")
        if not self.denies:
            if self.code is not None or self.enhanced is not None:
                raise ValueError(f"{self.kind} carries no reply code: leave out code and enhanced")
            return
        reply_class = "5" if self.permanent else "4"
        if self.enhanced is not None and not (
            _ENHANCED.fullmatch(self.enhanced) and self.enhanced.startswith(reply_class)
        ):
            raise ValueError(f"{self.kind}: enhanced={self.enhanced!r} is not of the form {reply_class}.X.Y")
        if self.code is not None and not self._allows(self.code):
            allowed = self.disconnect_code if self.disconnects else f"from {reply_class}00 to {reply_class}99"
            raise ValueError(f"{self.kind}: code={self.code} cannot be used here, the code must be {allowed}")

    @property
    def kind(self) -> str:
        """The verdict's name, as in logs: `Deny`."""
        return type(self).__name__

    @property
    def disconnect_code(self) -> int:
        """The reply code on which Postfix hangs up on its client (`smtpd_chat_reply`): 421 or 521."""
        return 521 if self.permanent else 421

    def _allows(self, code: int) -> bool:
        if self.disconnects:
            return code == self.disconnect_code
        # 421 and 521 make Postfix hang up: only the Disconnect verdicts may say them.
        return code // 100 == (5 if self.permanent else 4) and code not in {421, 521}


@dataclass(frozen=True, slots=True)
class Declined(Verdict):
    """Not my concern: the next plugin is asked. A hook that returns None says the same."""


@dataclass(frozen=True, slots=True)
class Ok(Verdict):
    """Done: no later plugin is asked. A check that merely finds nothing wrong answers `Declined` instead."""


@dataclass(frozen=True, slots=True)
class DenySoft(Verdict):
    """Refused for now: the client may try again later (4xx)."""

    denies: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class Deny(Verdict):
    """Refused for good (5xx)."""

    denies: ClassVar[bool] = True
    permanent: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class DenySoftDisconnect(Verdict):
    """Refused for now, and Postfix hangs up on the client (421)."""

    denies: ClassVar[bool] = True
    disconnects: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class DenyDisconnect(Verdict):
    """Refused for good, and Postfix hangs up on the client (521)."""

    denies: ClassVar[bool] = True
    permanent: ClassVar[bool] = True
    disconnects: ClassVar[bool] = True


DECLINED = Declined()
"""The one Declined that the pipeline itself uses."""

OK = Ok()
"""The Ok without a text."""


def mildest(verdicts: list[Verdict]) -> Verdict:
    """Return the denial that costs the sender least: soft before permanent, no hang-up before hang-up.

    Used where several runs of a message refuse it and one reply must stand for all. The first of equals wins;
    `verdicts` must not be empty.
    """
    return min(verdicts, key=lambda verdict: (verdict.permanent, verdict.disconnects))
