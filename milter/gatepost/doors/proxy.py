"""The proxy door: one connection from the front smtpd, one message.

What the front needs (POSTFIX.md; `smtpd_proxy_create`, `smtpd_proxy_cmd`): always a greeting, always 250 to EHLO and
XFORWARD, never a dropped connection before the client has its answer. Anything else becomes "451 4.3.0 Error: queue
file write error" there. So overload is 421 at MAIL, a refused sender is 250 at MAIL, and trouble of any kind is a 451.

Each connection is a task that takes the front machine's events one after the other; `ProxyConnection` has one method
for each SMTP verb. This is one of the two places that catch every exception.
"""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING, cast

import structlog

from gatepost.deadline import Deadline
from gatepost.doors.inner_transaction import TRY_AGAIN, InnerTransaction
from gatepost.doors.lease import Lease
from gatepost.doors.throttle import READ_AHEAD_BYTES, Backpressure, Throttle
from gatepost.hooks import HOOKS
from gatepost.session import Recipient
from gatepost.smtp.command import SmtpSyntaxError, parse_path
from gatepost.smtp.front import Aborted, CommandReceived, ContentChunk, ContentEnd, FrontMachine, RemoteError
from gatepost.smtp.inner import queue_id
from gatepost.smtp.reply import Reply, refusal
from gatepost.smtp.xforward import Xforward

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from gatepost.address import Address
    from gatepost.doors.lease import Part
    from gatepost.doors.session_table import Entry
    from gatepost.doors.switchboard import Switchboard
    from gatepost.pipeline.flow import Flow
    from gatepost.pipeline.pipeline import Pipeline
    from gatepost.smtp.front import FrontEvent

OK = Reply.of(250, "Ok", "2.0.0")
SENDER_OK = Reply.of(250, "Ok", "2.1.0")
GOODBYE = Reply.of(221, "Bye", "2.0.0")
OVERLOAD = Reply.of(421, "too many sessions, please try again later", "4.3.2")
STRAY = Reply.of(521, "bare CR or LF in the message is not allowed", "5.6.0")

AFTERMATH_BUDGET_S = 30.0
"""How long the hooks may take that run after the client has its answer."""

_log = structlog.get_logger("gatepost.proxy")


class ProxyConnection(asyncio.Protocol):
    """One connection from the front."""

    def __init__(self, switchboard: Switchboard) -> None:
        self._board = switchboard
        self._rejects_stray = switchboard.settings.bare_newline == "reject"
        self._machine = FrontMachine(switchboard.settings.bare_newline)
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._task: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._lost = False
        self._received_at = 0.0
        self._hello = b""
        self._xforward = Xforward()
        self._entry: Entry | None = None
        self._flow: Flow | None = None
        self._ending: Flow | None = None
        self._greeting: Pipeline | None = None
        self._lease: Lease | None = None
        self._inner: InnerTransaction | None = None
        self._admitted = False
        self._data_refused: int | None = None

    # --- the transport's side -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet at once: without a banner the front gives the client a 451 that says nothing."""
        self._transport = cast("asyncio.Transport", transport)
        self._throttle = Throttle(self._transport)
        self._backpressure = Backpressure(self._throttle, self._board.reply_budget_s)
        self._write(self._board.banner)
        self._task = self._loop.create_task(self._serve())
        self._board.connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Hand the bytes to the machine and wake the task."""
        self._received_at = monotonic()
        if self._machine.receive(data) > READ_AHEAD_BYTES:
            self._throttle.hold("behind")
        self._wake()

    def eof_received(self) -> bool:
        """The front closes without waiting for QUIT's reply, or in the middle of the content: an abort."""
        self._machine.receive_eof()
        self._lost = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End the connection's part in everything."""
        if not self._machine.eof_received:
            self._machine.receive_eof()
        self._lost = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _next_event(self) -> FrontEvent | None:
        """Wait for the next event; None when there will be none any more."""
        event = None
        while event is None:
            if self._throttle.is_holding:
                self._throttle.release("behind")
            if self._lost or self._transport.is_closing():
                return None
            self._waiter = self._loop.create_future()
            await self._waiter
            self._waiter = None
            event = self._machine.next_event()
        return event

    def _deadline(self) -> Deadline:
        """When the reply to what was just received must be out."""
        return Deadline(self._received_at + self._board.reply_budget_s)

    # --- the task -------------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        try:
            while event := self._machine.next_event() or await self._next_event():
                if self._throttle.is_holding and self._machine.buffered <= READ_AHEAD_BYTES:
                    # Before the event is dealt with: only while the front is read, its end is noticed.
                    self._throttle.release("behind")
                try:
                    work = self._handle(event)
                    if work is not None:
                        await work
                except Exception:  # noqa: BLE001 - whatever is wrong here, the client must get an answer that is ours
                    self._survive()
        except asyncio.CancelledError:
            _log.warning("connection given up: the daemon ends", session=self._session_id())
        finally:
            try:
                await self._end_transaction(None, "connection ended")
            finally:
                self._leave_session()
                self._board.connections.discard(self)
                self._transport.close()

    def _survive(self) -> None:
        """Go on after a bug: nothing of this message is queued, and every answer that is still due is a 451."""
        _log.exception("bug in the proxy door", session=self._session_id())
        if self._inner is not None:
            self._inner.fail()
        if self._machine.answer_due:
            self._answer(TRY_AGAIN)

    def _handle(self, event: FrontEvent) -> Coroutine[None, None, None] | None:
        """Do what the event asks for; return what of it has to be awaited, None if nothing."""
        match event:
            case CommandReceived():
                return self._command(event)
            case ContentChunk(data=data):
                if self._inner is not None:
                    self._inner.write(data)
                if self._rejects_stray and self._machine.stray is not None and self._inner is not None:
                    # Nothing of such a message may be queued: take it back before the end is even read.
                    self._inner.abandon("bare CR or LF")
            case ContentEnd():
                return self._end_of_content(event)
            case RemoteError(reply=reply):
                self._write(reply.encode())
            case Aborted():
                return self._end_transaction(None, "client gone")
        return None

    def _command(self, command: CommandReceived) -> Coroutine[None, None, None] | None:
        match command.verb:
            case b"RCPT":
                return self._rcpt(command)
            case b"MAIL":
                return self._mail(command)
            case b"DATA":
                return self._data()
            case b"EHLO" | b"HELO":
                return self._greet(command)
            case b"XFORWARD":
                self._leave_session()
                self._xforward = self._xforward.updated(command.argument)
            case b"RSET":
                return self._reset()
            case b"QUIT":
                self._answer(GOODBYE)
                self._transport.close()
                return None
        self._answer(OK)
        return None

    def _write(self, data: bytes) -> None:
        # uvloop raises where asyncio only warns.
        if not self._transport.is_closing():
            self._transport.write(data)

    def _answer(self, reply: Reply) -> None:
        self._machine.answered(reply.code)
        self._write(reply.encode())

    # --- one method for each verb ---------------------------------------------------------------------------------

    async def _greet(self, command: CommandReceived) -> None:
        """Answer EHLO or HELO, which ends a transaction (RFC 5321 section 4.1.4)."""
        await self._end_transaction(None, "greeted again")
        self._hello = command.argument
        self._machine.answered(250)
        self._write(self._board.hello[command.verb])

    async def _reset(self) -> None:
        await self._end_transaction(None, "reset")
        self._answer(OK)

    async def _mail(self, command: CommandReceived) -> None:
        """Answer 250, whatever was decided, unless it is a hang-up: the refusal is for the recipients."""
        try:
            envelope = parse_path(command.argument, b"FROM")
        except SmtpSyntaxError as error:
            self._answer(error.reply)
            return
        self._admitted = self._board.admit()
        if not self._admitted:
            self._answer(OVERLOAD)
            return
        deadline = self._deadline()
        entry = self._entry or self._join_session(envelope.address)
        while not entry.is_on(self._board.pipeline):
            self._greeting = self._board.pipeline
            try:
                # A reload in the meantime has taken the board over, and the session moves on to that.
                await entry.greet(self._greeting, deadline)
            finally:
                self._greeting = None
        at_edge = entry.take(envelope.address)
        flow = self._flow = at_edge or self._board.begin(entry, envelope)
        lease = self._lease = Lease(flow, self._front_is_there)
        mail = b"MAIL " + command.argument + b"\r\n"
        self._inner = InnerTransaction(self._board.pool, self._board.leases, lease, self._xforward, mail)
        denial = flow.hang_up if at_edge is not None else await flow.mail(deadline)
        if denial is not None:
            await self._finish(refusal(denial.verdict, HOOKS[denial.hook]))
        else:
            self._answer(SENDER_OK)

    def _join_session(self, sender: Address) -> Entry:
        """Return the client's session, which is this connection's, too, from now on."""
        if any(self._xforward):  # one that the front does not know is not the front itself, which lists may trust
            self._entry = self._board.sessions.join(self._xforward, "unknown", sender)
        else:  # not a Postfix front: the peer itself is the client
            peer = self._transport.get_extra_info("peername")
            client = Xforward(helo=self._hello.decode("utf-8", "replace") or None)
            self._entry = self._board.sessions.join(client, peer[0] if isinstance(peer, tuple) else "127.0.0.1")
        return self._entry

    def _leave_session(self) -> None:
        if self._entry is not None:
            self._board.sessions.leave(self._entry)
            self._entry = None

    def _front_is_there(self) -> bool:
        return not self._lost and not self._transport.is_closing()

    async def _rcpt(self, command: CommandReceived) -> None:
        """Ask the hooks, then the inner smtpd for every target; its reply goes back as it is."""
        try:
            envelope = parse_path(command.argument, b"TO")
        except SmtpSyntaxError as error:
            self._answer(error.reply)
            return
        assert self._flow is not None
        assert self._inner is not None
        deadline = self._deadline()
        recipient = Recipient(envelope.address, self._flow.transaction, envelope.parameters)
        denial = await self._flow.rcpt(recipient, deadline)
        if denial is not None:
            self._answer(refusal(denial.verdict, HOOKS[denial.hook]))
            return
        paths = {target: b"<" + bytes(target) + b">" for target in recipient.targets}
        paths = paths or {envelope.address: envelope.path}
        targets = [(target, b"RCPT TO:" + path + envelope.raw_parameters + b"\r\n") for target, path in paths.items()]
        reply = await self._inner.rcpt(targets, deadline)
        if reply.is_positive and self._lease is not None:
            for target, path in paths.items():
                self._lease.spellings.setdefault(target, path.decode("utf-8", "surrogateescape"))
        self._flow.answered(recipient, reply.code)
        self._answer(reply)

    async def _data(self) -> None:
        """Ask the hooks, then the inner smtpd; from its 354 on, content streams.

        A refusal leaves the transaction open: the client may name further recipients and try again.
        """
        assert self._flow is not None
        assert self._inner is not None
        deadline = self._deadline()
        denial = await self._flow.data(deadline)
        if denial is not None:
            reply = refusal(denial.verdict, HOOKS[denial.hook])
        else:
            reply = await self._inner.data(deadline)
        if reply.code != 354:
            self._data_refused = reply.code
            self._answer(reply)
            return
        assert self._inner.connection is not None
        self._backpressure.watch(self._inner.connection)
        self._answer(reply)

    async def _end_of_content(self, end: ContentEnd) -> None:
        """Forward the dot, if the front still waits for the answer; the inner's word is the client's."""
        assert self._flow is not None
        assert self._inner is not None
        assert self._lease is not None
        self._backpressure.stop()
        self._flow.transaction.size = end.size
        if end.stray is not None and self._rejects_stray:
            self._inner.abandon("bare CR or LF")
            _log.warning("bare CR or LF in the content", txn=self._flow.transaction.id, where=end.stray)
            await self._finish(STRAY)
            return
        if not self._front_is_there():
            await self._end_transaction(None, "client gone")
            return
        reply = await self._inner.end(self._deadline())
        decision = self._lease.decision
        if decision is not None and decision.denial is not None:
            if reply.is_positive:
                _log.error("queued although refused by a hook", txn=self._flow.transaction.id)
            else:
                reply = refusal(decision.denial.verdict, HOOKS[decision.denial.hook])
        if not reply.is_positive and (hang_up := self._flow.hang_up_after(reply.code)) is not None:
            reply = refusal(hang_up.verdict, HOOKS[hang_up.hook])
        await self._finish(reply)

    async def _finish(self, reply: Reply) -> None:
        """Give the reply that ends the transaction, then run what comes after it."""
        self._answer(reply)
        if self._flow is not None and reply.is_positive:
            self._flow.transaction.queue_id = queue_id(reply)
        await self._end_transaction(reply.code, "transaction ended")

    async def _end_transaction(self, code: int | None, reason: str) -> None:
        """Let go of the inner smtpd, and let the flow close its books. No error if there is no transaction."""
        if not self._admitted:
            return
        self._admitted = False
        self._board.release()
        self._backpressure.stop()
        code, self._data_refused = code or self._data_refused, None
        inner, flow, lease = self._inner, self._flow, self._lease
        self._inner = self._flow = self._lease = None
        if inner is not None:
            inner.abandon(reason)
        if flow is not None:
            message = lease.decision.message if lease is not None and lease.decision is not None else None
            self._ending = flow
            try:
                await flow.end(code, Deadline.after(AFTERMATH_BUDGET_S), message=message)
            finally:
                self._ending = None

    def _session_id(self) -> str | None:
        return self._entry.session.id if self._entry is not None else None

    # --- the end of the daemon ------------------------------------------------------------------------------------

    @property
    def in_transaction(self) -> bool:
        """True from MAIL, the connect and helo hooks included, until the last hook after the answer is done."""
        return self._admitted or self._ending is not None

    @property
    def pipeline(self) -> Pipeline | None:
        """The pipeline of the transaction under way, or whose connect and helo hooks run; None between transactions."""
        flow = self._flow or self._ending
        return flow.pipeline if flow is not None else self._greeting

    @property
    def needs(self) -> frozenset[Part]:
        """What the milter must negotiate for the transaction under way. Read from libmilter's threads."""
        lease = self._lease
        return lease.needs if lease is not None else frozenset()

    async def give_up(self) -> None:
        """End the connection without waiting for the client; nothing that was not answered is queued."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
