"""The two kinds of error in an SMTP dialogue: the peer's, which has a reply, and ours, which is a bug."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gatepost.smtp.reply import Reply


class SmtpSyntaxError(Exception):
    """The peer sent a command that cannot be made sense of; `reply` is what to answer, the dialogue goes on."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.text)
        self.reply = reply


class LocalError(Exception):
    """The caller of a machine broke its rules; nothing that a peer sends can cause it."""


@dataclass(frozen=True, slots=True)
class RemoteError:
    """An event: the peer broke the protocol.

    From the front machine, `reply` is the answer to write, and the dialogue goes on. From the inner machine, `reply` is
    what the client may be told, and the connection is of no more use. `detail` is for the log.
    """

    reply: Reply
    detail: str
