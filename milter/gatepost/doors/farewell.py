"""Who connects to a proxy that is about to end: an honest 421 at MAIL, in place of a refused connection.

To the front a refused connection is "451 4.3.0 Error: queue file write error", and a mail to postmaster; 421 at MAIL is
passed on to the client, which is hung up on and tries again (`smtpd_proxy_create`, `smtpd_chat_reply`).
"""

from __future__ import annotations

import asyncio
from typing import cast

from gatepost.smtp.front import CommandReceived, FrontMachine, RemoteError, ehlo_reply
from gatepost.smtp.reply import Reply

CLOSING = Reply.of(421, "restarting, please try again later", "4.3.2")
_OK = Reply.of(250, "Ok", "2.0.0")
_GOODBYE = Reply.of(221, "Bye", "2.0.0")


class FarewellConnection(asyncio.Protocol):
    """One connection that is greeted and turned away; in `connections` while it is open."""

    def __init__(self, hostname: str, connections: set[FarewellConnection]) -> None:
        self._hostname = hostname
        self._connections = connections
        self._machine = FrontMachine("reject")
        self._transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet as always."""
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)
        self._transport.write(Reply.of(220, f"{self._hostname} ESMTP gatepost").encode())

    def data_received(self, data: bytes) -> None:
        """Answer what has come. No transaction begins, so there is never content."""
        self._machine.receive(data)
        while not self._transport.is_closing() and (event := self._machine.next_event()) is not None:
            match event:
                case CommandReceived(verb=verb):
                    self._answer(verb)
                case RemoteError(reply=reply):
                    self._transport.write(reply.encode())

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to undo."""
        self._connections.discard(self)

    def close(self) -> None:
        """Hang up on one that has not said MAIL in time."""
        self._transport.close()

    def _answer(self, verb: bytes) -> None:
        match verb:
            case b"EHLO":
                code, answer = 250, ehlo_reply(self._hostname)
            case b"MAIL":
                code, answer = CLOSING.code, CLOSING.encode()
            case b"QUIT":
                code, answer = _GOODBYE.code, _GOODBYE.encode()
            case _:
                code, answer = _OK.code, _OK.encode()
        self._machine.answered(code)
        self._transport.write(answer)
        if verb == b"QUIT":
            # Not sooner: a close with something unread would take the 421 back on its way (RST).
            self._transport.close()
