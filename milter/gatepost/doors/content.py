"""The content door: what the milter on the inner smtpd does with a message. Runs in libmilter's threads.

Postfix hands a milter the message only once it has all of it, so the callbacks before end-of-message only collect,
and there is one crossing to the event loop, at end-of-message. Edits are then made from the milter's thread, one milter
edit each. A denial is answered generically here; the proxy door gives the client the verdict's own text.
"""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING, Any

import milter
import structlog

from gatepost.deadline import Deadline
from gatepost.doors.crossing import LateError
from gatepost.doors.milter_edit import apply_edit
from gatepost.message.header import FIELDS_LIMIT, SIZE_LIMIT_BYTES
from gatepost.message.message import BodyWriter, Header, Headers, Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from gatepost.doors.crossing import Crossing
    from gatepost.doors.lease import Key, Lease, LeaseTable, Part
    from gatepost.pipeline.flow import ContentDecision

_log = structlog.get_logger("gatepost.milter")


class ContentSession:
    """One connection to the inner smtpd: several messages after each other."""

    def __init__(
        self,
        key: Key | None,
        covered: frozenset[Part],
        leases: LeaseTable,
        needs: Callable[[], frozenset[Part]],
        crossing: Crossing,
    ) -> None:
        """`covered` is what was negotiated, `needs` tells what messages may need now."""
        self._key = key
        self._covered = covered
        self._leases = leases
        self._needs = needs
        self._crossing = crossing
        self._lease: Lease | None = None
        self._fields: list[Header] = []
        self._header_size = 0
        self._body: BodyWriter | None = None
        self._is_whole = True

    def mail(self, _: Any) -> int:
        """Join the transaction that has this connection; decided here, never at CONNECT."""
        self.reset()
        lease = self._leases.find(self._key) if self._key else None
        if lease is None:
            if not self._needs():
                return milter.ACCEPT
            _log.error(
                "message on the inner smtpd that did not come through the proxy, deferred",
                client=self._key,
                remedy="let nothing but gatepost connect to proxy.inner",
            )
            return milter.TEMPFAIL
        lease.covered = self._covered
        if not lease.needs:
            return milter.ACCEPT
        self._lease = lease
        self._body = BodyWriter()
        return milter.CONTINUE

    def header(self, name: str, value: bytes) -> None:
        """Collect a header field; of a header that is too large, which is refused for that, no more than shows it."""
        if len(self._fields) <= FIELDS_LIMIT and self._header_size <= SIZE_LIMIT_BYTES:
            field = Header(name, value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
            self._fields.append(field)
            self._header_size += field.size

    def body(self, chunk: bytes) -> None:
        """Collect a piece of the body; no more of one that cannot be kept, whose message is then deferred."""
        if self._body is None:
            return
        try:
            self._body.write(chunk)
        except OSError as error:
            _log.error("message cannot be kept, deferred", problem=str(error), directory=tempfile.gettempdir())
            self._body.close()
            self._body = None
            self.fail()

    def fail(self) -> None:
        """Take note that something of the message was not collected: it may not pass."""
        self._is_whole = False

    def end_of_message(self, ctx: Any) -> int:
        """Have the message decided on the event loop, and make the edits."""
        lease, writer = self._lease, self._body
        if not self._is_whole:
            self.reset()
            return milter.TEMPFAIL
        if lease is None or writer is None:
            return milter.ACCEPT
        body, self._body = writer.finish(), None
        try:
            decision = self._decide(lease, body)
            if decision is None:
                return milter.TEMPFAIL
            if decision.denial is not None:
                return milter.REJECT if decision.denial.verdict.permanent else milter.TEMPFAIL
            for edit in decision.message.edits:
                apply_edit(ctx, edit, lease.spellings)
            return milter.ACCEPT
        finally:
            body.close()
            self.reset()

    def _decide(self, lease: Lease, body: Any) -> ContentDecision | None:
        transaction = lease.flow.transaction
        recipients = [
            target for recipient in transaction.accepted for target in recipient.targets or (recipient.address,)
        ]
        message = Message(
            Headers(self._fields), body, transaction.sender, recipients, mime_limit=lease.flow.settings.mime_limit
        )
        try:
            return self._crossing.run(lambda: lease.decide(message), lease.deadline or Deadline.after(0))
        except LateError:
            return None

    def reset(self) -> None:
        """Forget the message under way."""
        self._lease = None
        self._fields = []
        self._header_size = 0
        self._is_whole = True
        if self._body is not None:
            self._body.close()
            self._body = None
