"""One transaction on the inner smtpd: XFORWARD, MAIL and RCPT in one write, all-or-nothing recipients, DATA, the dot.

Nothing is sent before the first recipient that our hooks let through. A recipient that stands for several targets is
accepted only if the inner smtpd accepts each; else what was accepted of it is taken back by RSET, and the envelope as
far as it was answered is sent again. If the inner smtpd then answers anything differently, what the client was told no
longer holds: the transaction is broken, and everything after gets a 451, so that the client tries all of it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from gatepost.deadline import Deadline
from gatepost.doors.inner import InnerConnection, InnerPool, InnerUnavailable
from gatepost.smtp.inner import DATA, END_OF_CONTENT, RSET
from gatepost.smtp.reply import Reply

if TYPE_CHECKING:
    from gatepost.address import Address
    from gatepost.doors.lease import Lease, LeaseTable
    from gatepost.smtp.xforward import Xforward

_log = structlog.get_logger("gatepost.inner")

TRY_AGAIN = Reply.of(451, "temporary failure, please try again later", "4.3.0")
"""Any trouble between us and the inner smtpd; what it is stands in the log."""

NOT_COVERED = Reply.of(451, "content filter not ready, please try again later", "4.3.5")
"""The message cannot be shown to the content hooks: it may not pass."""

LAST_WORD_S = 5.0
"""How long after the reply's deadline the inner smtpd's word on the message is still waited for. The content hooks are
over by then; what is queued cannot be taken back, and the front still waits (`ANSWER_MARGIN_S`), so the truth is worth
it: a 451 now would make the client send a duplicate."""

HELD_BYTES = 16 * 1024
"""The most content that is held back until more comes."""

ALREADY_ACCEPTED = Reply.of(250, "Ok", "2.1.5")


@dataclass(frozen=True, slots=True)
class _Sent:
    """A RCPT that the inner smtpd accepted: the target (to know it again), the line, the reply's code."""

    target: Address
    line: bytes
    code: int


class InnerTransaction:
    """What the proxy door says to the inner smtpd for one message."""

    def __init__(self, pool: InnerPool, leases: LeaseTable, lease: Lease, xforward: Xforward, mail: bytes) -> None:
        self._pool = pool
        self._leases = leases
        self._lease = lease
        self._xforward = xforward
        self._mail = mail
        self._accepted: list[_Sent] = []
        self._final: Reply | None = None
        self._held = b""
        self.connection: InnerConnection | None = None
        """None before the first recipient, and after an end of any kind."""

    async def rcpt(self, targets: list[tuple[Address, bytes]], deadline: Deadline) -> Reply:
        """Offer one recipient: its targets, each with its RCPT line. Return the reply for the client.

        A target that was accepted before in this transaction is not sent again: with another ORCPT, Postfix would
        deliver two copies.
        """
        if self._final is not None:
            return self._final
        known = {sent.target for sent in self._accepted}
        new = [(target, line) for target, line in targets if target not in known]
        if not new:
            return ALREADY_ACCEPTED
        try:
            replies = await self._offer([line for _, line in new], deadline)
            if replies is None:
                return self._final or TRY_AGAIN
            refused = [reply for reply in replies if not reply.is_positive]
            if not refused:
                self._accepted += [
                    _Sent(target, line, reply.code) for (target, line), reply in zip(new, replies, strict=True)
                ]
                return replies[-1]
            if len(refused) < len(replies):
                await self._take_back(deadline)
            return next((reply for reply in refused if reply.code // 100 == 4), refused[0])
        except InnerUnavailable as error:
            return self._give_up(error)

    async def _offer(self, lines: list[bytes], deadline: Deadline) -> list[Reply] | None:
        """Send RCPT lines, with the envelope before them if need be; None when MAIL was refused (see `_final`)."""
        if self.connection is not None:
            return await self.connection.command(b"".join(lines), len(lines), deadline)
        pooled = self._pool.pooled()
        if pooled is not None:
            # It may have been closed a moment ago: what fails now is tried once more, on a fresh connection.
            try:
                return await self._send_envelope(pooled, lines, deadline)
            except InnerUnavailable:
                self._drop("pooled connection was dead")
        return await self._send_envelope(await self._pool.open(deadline), lines, deadline)

    async def _send_envelope(
        self, connection: InnerConnection, lines: list[bytes], deadline: Deadline
    ) -> list[Reply] | None:
        self.connection = connection
        self._leases.add(connection.key, self._lease)
        forward = connection.machine.xforward(self._xforward)
        count = forward.count(b"\r\n")
        replies = await connection.command(b"".join((forward, self._mail, *lines)), count + 1 + len(lines), deadline)
        mail = replies[count]
        if not mail.is_positive:
            self._final = mail
            self._drop("MAIL refused")
            return None
        return replies[count + 1 :]

    async def _take_back(self, deadline: Deadline) -> None:
        """Undo the targets of a recipient that was refused in part."""
        assert self.connection is not None
        (reset,) = await self.connection.command(RSET, 1, deadline)
        if not reset.is_positive:
            raise InnerUnavailable(f"RSET refused: {reset.code} {reset.text}")
        await self._send_again(self.connection, deadline)

    async def _send_again(self, connection: InnerConnection, deadline: Deadline) -> None:
        """Send the envelope with all that was accepted so far; InnerUnavailable if any answer is another than then."""
        replies = await self._send_envelope(connection, [sent.line for sent in self._accepted], deadline)
        if replies is None or [reply.code for reply in replies] != [sent.code for sent in self._accepted]:
            raise InnerUnavailable("answers differ when the same envelope is sent again")

    async def data(self, deadline: Deadline) -> Reply:
        """Say DATA; a 354 opens the way for `write`. Makes sure before that the content door will see the message."""
        if self._final is not None:
            return self._final
        if self.connection is None:
            return TRY_AGAIN
        try:
            if not self._lease.is_covered:
                await self._change_connection(deadline)
            (reply,) = await self.connection.command(DATA, 1, deadline)
        except InnerUnavailable as error:
            return self._give_up(error)
        if reply.code // 100 == 2:
            return self._give_up(InnerUnavailable(f"answered DATA with {reply.code}"))
        return reply

    async def _change_connection(self, deadline: Deadline) -> None:
        """Move to a fresh connection, whose milter session negotiates what the plugins need now."""
        self._drop("milter session does not cover the pipeline")
        self._lease.covered = None
        await self._send_again(await self._pool.open(deadline), deadline)

    def write(self, chunk: bytes) -> None:
        """Pass content on; silently nothing once the connection has failed, which `end` will tell.

        A small chunk is held until the next one, or the dot, so that the end of a message is one write and wakes the
        inner smtpd once.
        """
        if self.connection is not None and self.connection.is_good:
            if self._held:
                self.connection.transport.write(self._held)
            if len(chunk) <= HELD_BYTES:
                self._held = chunk
            else:
                self._held = b""
                self.connection.transport.write(chunk)

    async def end(self, deadline: Deadline) -> Reply:
        """Send the dot and return the inner smtpd's word on the message. After this nothing can be taken back."""
        if self._final is not None or self.connection is None:
            return self._final or TRY_AGAIN
        if not self._lease.is_covered:
            _log.error(
                "message not shown to the content hooks, deferred",
                txn=self._lease.flow.transaction.id,
                needed=" ".join(sorted(self._lease.needs)),
                negotiated="no milter session" if self._lease.covered is None else " ".join(self._lease.covered),
                remedy="run: gatepost postfix apply, then: postfix reload",
            )
            self.abandon("content door not joined")
            return NOT_COVERED
        self._lease.deadline = deadline
        connection = self.connection
        try:
            (reply,) = await connection.command(self._held + END_OF_CONTENT, 1, Deadline(deadline.at + LAST_WORD_S))
        except InnerUnavailable as error:
            return self._give_up(error)
        self._leases.remove(connection.key)
        self.connection = None
        if reply.code // 100 == 3:
            connection.close("answered the dot with 3xx")
            return TRY_AGAIN
        if reply.is_positive:
            self._pool.give_back(connection)
        else:
            connection.close("message refused")
        return reply

    def abandon(self, reason: str) -> None:
        """Take the message back by closing the connection; nothing is queued. No error if there is none."""
        self._drop(reason)

    def fail(self) -> None:
        """Take the message back, and answer everything from now on with 451."""
        self._drop("gatepost failed")
        self._final = TRY_AGAIN

    def _give_up(self, error: InnerUnavailable) -> Reply:
        _log.error("transaction on the inner smtpd failed", txn=self._lease.flow.transaction.id, problem=error.reason)
        self.fail()
        return TRY_AGAIN

    def _drop(self, reason: str) -> None:
        if self.connection is not None:
            self._leases.remove(self.connection.key)
            self.connection.close(reason)
            self.connection = None
