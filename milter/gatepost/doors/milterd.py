"""The content door: the milter on the inner smtpd, run by libmilter's threads through pymilter.

Postfix hands a milter the message only once it has all of it, so the callbacks before end-of-message only collect,
and there is one crossing to the event loop, at end-of-message. Edits are then made from the milter's thread, one milter
edit each. A denial is answered generically here; the proxy door gives the client the verdict's own text.

Fails closed: an exception in a callback is a 451 (pymilter's exception policy), a session that matches no transaction
is turned away while content hooks are loaded, and the inner smtpd carries `milter_default_action=tempfail`.

pymilter's traps that shape this file: `main()` in one daemon thread, never the main one; no restart in one process;
`stop()` only wakes on a connection; the socket's mode is the umask's.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import milter
import structlog

from gatepost.deadline import Deadline
from gatepost.doors.milter_edit import apply_edit
from gatepost.doors.milter_socket import SocketError, give_to_postfix, knock, prepare_path, why_not
from gatepost.message import BodyWriter, Header, Headers, Message

if TYPE_CHECKING:
    from collections.abc import Callable

    from gatepost.doors.lease import Key, Lease, LeaseTable, Part
    from gatepost.endpoint import Endpoint
    from gatepost.flow import ContentDecision

DAEMON_NAME = "gatepost-content"
"""The inner smtpd's milter_macro_daemon_name, as `gatepost postfix apply` sets it."""

_EDITS = (
    milter.ADDHDRS
    | milter.CHGHDRS
    | milter.CHGBODY
    | milter.ADDRCPT
    | milter.DELRCPT
    | milter.CHGFROM
    | milter.QUARANTINE
)
_NEVER = milter.P_NOHELO | milter.P_NORCPT | milter.P_NODATA | milter.P_NOUNKNOWN | milter.P_NOEOH
_NO_REPLY = milter.P_NR_CONN | milter.P_NR_HDR | milter.P_NR_BODY

STOP_LIMIT_S = 6.0
"""A little more than libmilter needs by itself to see that it is to stop."""
KNOCK_INTERVAL_S = 0.02

LATE_ANSWER_S = 5.0
"""How much longer than the reply's deadline the milter's thread waits for the event loop, before it answers 451."""

_log = structlog.get_logger("gatepost.milter")


@dataclass(slots=True, eq=False)
class _Session:
    """One milter session: one connection to the inner smtpd, several messages after each other."""

    covered: frozenset[Part]
    """What was negotiated."""
    no_reply: int
    """The callbacks that are not answered, of those negotiated."""
    key: Key | None = None
    daemon_name: str | None = None
    lease: Lease | None = None
    fields: list[Header] = field(default_factory=list)
    body: BodyWriter | None = None

    def reset(self) -> None:
        """Forget the message under way."""
        self.lease = None
        self.fields = []
        if self.body is not None:
            self.body.close()
            self.body = None


class MilterDoor:
    """The milter socket and its thread. One for each process, and never started again after `stop`."""

    def __init__(self, endpoint: Endpoint, leases: LeaseTable, needs: Callable[[], frozenset[Part]]) -> None:
        self._endpoint = endpoint
        self._leases = leases
        self._needs = needs
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Make the socket; SocketError if it cannot be made or is in use. Call before `start`."""
        if not hasattr(milter, "main"):
            raise SocketError("the module `milter` is not pymilter's: a folder of that name shadows it; see sys.path")
        if self._endpoint.path is not None:
            prepare_path(Path(self._endpoint.path))
        milter.set_connect_callback(self._on_connect)
        milter.set_envfrom_callback(self._on_mail)
        milter.set_header_callback(self._on_header)
        milter.set_body_callback(self._on_body)
        milter.set_eom_callback(self._on_end_of_message)
        milter.set_abort_callback(self._on_abort)
        milter.set_close_callback(self._on_close)
        milter.set_exception_policy(milter.TEMPFAIL)
        milter.set_flags(_EDITS)
        milter.register("gatepost", negotiate=self._on_negotiate)
        umask = os.umask(0o117)
        try:
            milter.setconn(self._endpoint.libmilter)
            milter.opensocket(False)
        except milter.error as error:
            raise SocketError(f"cannot listen at {self._endpoint}: {why_not(self._endpoint)}") from error
        finally:
            os.umask(umask)
        if self._endpoint.path is not None:
            give_to_postfix(Path(self._endpoint.path))

    def start(self) -> None:
        """Serve, in a thread of its own; the running event loop gets the messages."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=milter.main, name="milter", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """End the thread; messages under way must have ended before. Takes up to libmilter's 5 s."""
        if self._thread is None:
            return
        stopping = asyncio.create_task(asyncio.to_thread(milter.stop))
        # It looks up from its socket when somebody connects, else every 5 s. A knock before it was told to stop is in
        # vain, so more than one.
        deadline = Deadline.after(STOP_LIMIT_S)
        while self._thread.is_alive() and deadline.remaining() > 0:
            with suppress(OSError):
                await asyncio.to_thread(knock, self._endpoint)
            await asyncio.to_thread(self._thread.join, KNOCK_INTERVAL_S)
        await asyncio.gather(stopping, return_exceptions=True)
        if self._endpoint.path is not None:
            Path(self._endpoint.path).unlink(missing_ok=True)

    def _on_negotiate(self, ctx: Any, options: list[int]) -> int:
        offered_actions, offered = options[0], options[1]
        needs = self._needs()
        covered = set(needs)
        skip = _NEVER
        if "header" not in needs:
            skip |= milter.P_NOHDRS
        elif not offered & milter.P_HDR_LEADSPC:
            covered.discard("header")
        if "body" not in needs:
            skip |= milter.P_NOBODY
        if offered_actions & _EDITS != _EDITS:
            covered.discard("edit")
        # With nothing to look at, the whole session is accepted at CONNECT, which must be answered for that.
        no_reply = _NO_REPLY & offered if needs else 0
        options[0] = offered_actions & _EDITS if "edit" in needs else 0
        options[1] = offered & (skip | no_reply | milter.P_HDR_LEADSPC)
        options[2] = options[3] = 0
        ctx.setpriv(_Session(frozenset(covered), no_reply))
        return milter.CONTINUE

    def _on_connect(self, ctx: Any, name: str, family: int, address: Any) -> int:
        session = ctx.getpriv()
        if family in {socket.AF_INET, socket.AF_INET6}:
            session.key = (address[0], address[1])
        session.daemon_name = ctx.getsymval("{daemon_name}")
        if not session.covered and not self._needs():
            # Safe across a reload: no lease is covered by this session, so a transaction that needs more gets another.
            return milter.ACCEPT
        return milter.NOREPLY if session.no_reply & milter.P_NR_CONN else milter.CONTINUE

    def _on_mail(self, ctx: Any, *arguments: bytes) -> int:
        session = ctx.getpriv()
        session.reset()
        if session.daemon_name != DAEMON_NAME:
            # The public smtpd or another service: its mail goes through the proxy, which is where it is looked at.
            _log.warning(
                "milter session from another service, accepted unseen",
                daemon_name=session.daemon_name,
                client=session.key,
            )
            return milter.ACCEPT
        lease = self._leases.find(session.key) if session.key else None
        if lease is None:
            if not self._needs():
                return milter.ACCEPT
            _log.error(
                "message on the inner smtpd that did not come through the proxy, deferred",
                client=session.key,
                remedy="let nothing but gatepost connect to proxy.inner",
            )
            return milter.TEMPFAIL
        lease.covered = session.covered
        if not lease.needs:
            return milter.ACCEPT
        session.lease = lease
        session.body = BodyWriter()
        return milter.CONTINUE

    def _on_header(self, ctx: Any, name: str, value: bytes) -> int:
        session = ctx.getpriv()
        session.fields.append(Header(name, value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")))
        return milter.NOREPLY if session.no_reply & milter.P_NR_HDR else milter.CONTINUE

    def _on_body(self, ctx: Any, chunk: bytes) -> int:
        session = ctx.getpriv()
        session.body.write(chunk)
        return milter.NOREPLY if session.no_reply & milter.P_NR_BODY else milter.CONTINUE

    def _on_end_of_message(self, ctx: Any) -> int:
        session = ctx.getpriv()
        lease, writer = session.lease, session.body
        if lease is None or writer is None:
            return milter.ACCEPT
        body, session.body = writer.finish(), None
        try:
            decision = self._decide(lease, session.fields, body)
            if decision is None:
                return milter.TEMPFAIL
            if decision.denial is not None:
                return milter.REJECT if decision.denial.verdict.permanent else milter.TEMPFAIL
            for edit in decision.message.edits:
                apply_edit(ctx, edit, lease.spellings)
            return milter.ACCEPT
        finally:
            body.close()
            session.reset()

    def _decide(self, lease: Lease, fields: list[Header], body: Any) -> ContentDecision | None:
        assert self._loop is not None
        transaction = lease.flow.transaction
        recipients = [
            target for recipient in transaction.accepted for target in recipient.targets or (recipient.address,)
        ]
        message = Message(
            Headers(fields), body, transaction.sender, recipients, mime_limit=lease.flow.settings.mime_limit
        )
        # What run_coroutine_threadsafe does, with fewer calls and locks: this is done for every message.
        tasks: list[asyncio.Task[ContentDecision | None]] = []
        ended: SimpleQueue[asyncio.Future[ContentDecision | None]] = SimpleQueue()

        def begin() -> None:
            task = asyncio.ensure_future(lease.decide(message))
            task.add_done_callback(ended.put)
            tasks.append(task)

        self._loop.call_soon_threadsafe(begin)
        try:
            done = ended.get(timeout=(lease.deadline.remaining() if lease.deadline else 0) + LATE_ANSWER_S)
        except Empty:
            for task in tasks:
                self._loop.call_soon_threadsafe(task.cancel)
            return None
        return None if done.cancelled() else done.result()

    def _on_abort(self, ctx: Any) -> int:
        session = ctx.getpriv()
        if session is not None:
            session.reset()
        return milter.CONTINUE

    def _on_close(self, ctx: Any) -> int:
        session = ctx.getpriv()
        if session is not None:
            session.reset()
            ctx.setpriv(None)
        return milter.CONTINUE
