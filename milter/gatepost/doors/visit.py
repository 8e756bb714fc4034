"""One client's visit to a public smtpd as the edge door hears of it. Lives on the event loop.

It runs what the client says through the hooks and answers with a reply, or None to let Postfix answer. A transaction
begins at the client's MAIL; the proxy connection that Postfix opens at the first good recipient takes it over, and ends
it. One that no proxy connection took, because every recipient was refused or the client gave it up, ends here.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from gatepost.deadline import Deadline
from gatepost.doors.farewell import CLOSING
from gatepost.hooks import HOOKS
from gatepost.pipeline import arrival as hooks_of
from gatepost.session import Recipient
from gatepost.smtp.command import SmtpSyntaxError, parse_path
from gatepost.smtp.reply import refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.doors.session_table import Entry
    from gatepost.doors.switchboard import Switchboard
    from gatepost.pipeline.flow import Flow
    from gatepost.pipeline.pipeline import Pipeline
    from gatepost.session import Denial
    from gatepost.smtp.reply import Reply

AFTERMATH_BUDGET_S = 30.0
"""How long the hooks may take that run at the end of a transaction that no proxy connection took over."""


class Arrival(NamedTuple):
    """Who has come, and where; as Session tells it."""

    address: str
    port: int
    name: str | None
    daemon_name: str | None = None
    daemon_address: str | None = None
    daemon_port: int | None = None


class Tls(NamedTuple):
    """TLS facts at a greeting or MAIL; all None without TLS."""

    version: str | None
    cipher: str | None
    cert_subject: str | None
    cert_issuer: str | None


class Login(NamedTuple):
    """SASL facts at a greeting or MAIL; all None for a client that has not logged in. `sender` comes with MAIL."""

    name: str | None
    method: str | None
    sender: str | None = None


class Visit:
    """From CONNECT to the client's end. One thing after the other: the daemon's end waits for a command under way."""

    def __init__(self, board: Switchboard) -> None:
        self._board = board
        self._lock = asyncio.Lock()
        self._entry: Entry | None = None
        self._flow: Flow | None = None
        """The client's transaction, until ABORT; whoever took it over."""
        self._asking: Pipeline | None = None
        self._ending: dict[asyncio.Task[None], Pipeline] = {}
        """The last hooks of transactions that are over."""

    def uses(self, pipeline: Pipeline) -> bool:
        """Tell whether the client's command or transaction is on this pipeline, or what a transaction leaves behind."""
        of_transaction = self._flow.pipeline if self._flow is not None else None
        # Both: what is no command may come in the midst of a transaction, and after a reload.
        return pipeline in {of_transaction, self._asking, *self._ending.values()}

    async def connect(self, arrival: Arrival, deadline: Deadline) -> Reply | None:
        """Begin, before the banner.

        Postfix makes it `554 ... not accepting connections` or `421 ... Service unavailable`, in its own words, and
        gives ours at MAIL; with any other 4xx it greets, and gives that at MAIL (`smtpd_proto`).
        """
        async with self._lock:
            if self._board.is_stopping:
                return CLOSING
            entry = self._entry = self._board.sessions.open(arrival.address, arrival.port, arrival.name)
            self._board.visits.add(self)
            session = entry.session
            session.daemon_name, session.daemon_address, session.daemon_port = arrival[3:]
            with self._on_pipeline(entry) as pipeline:
                return _reply(await hooks_of.connect(pipeline, session, deadline))

    async def helo(self, name: str, tls: Tls, login: Login, deadline: Deadline) -> Reply | None:
        """Take note of one greeting; each is judged by itself, and a denial given at MAIL, unless it is a 421.

        Postfix would answer 250 with any other denial, too, but refuse every later command with it: logging in,
        STARTTLS and better greetings as well (`helo_cmd`, "Sendmail compatibility").
        """
        async with self._lock:
            self._end_transaction()
            await self._settle(deadline)
            if (entry := self._present()) is None:
                return CLOSING
            session = entry.session
            session.helo = name
            session.esmtp = True  # as good a guess as any; what an earlier greeting was says nothing about this one
            session.tls_version, session.tls_cipher, session.cert_subject, session.cert_issuer = tls
            session.login, session.sasl_method, session.sasl_sender = login
            with self._on_pipeline(entry) as pipeline:
                reply = _reply(await hooks_of.helo(pipeline, session, deadline))
            return reply if reply is not None and reply.code == 421 else None

    async def unknown(self, verb: str, deadline: Deadline) -> Reply | None:
        """Answer what is no command."""
        async with self._lock:
            await self._settle(deadline)
            if (entry := self._present()) is None:
                return CLOSING
            with self._on_pipeline(entry) as pipeline:
                return _reply(await hooks_of.unrecognized(pipeline, entry.session, verb, deadline))

    async def mail(self, argument: bytes, tls: Tls, login: Login, deadline: Deadline) -> Reply | None:
        """Begin a transaction; any denial is given at once."""
        async with self._lock:
            self._end_transaction()
            await self._settle(deadline)
            if (entry := self._present()) is None:
                return CLOSING
            session = entry.session
            session.tls_version, session.tls_cipher, session.cert_subject, session.cert_issuer = tls
            has_logged_in = session.login is None and login.name is not None
            session.login, session.sasl_method, session.sasl_sender = login
            if has_logged_in and session.denial is not None and session.denial.hook == "helo":
                # It was not known then: plugins with skip_authenticated do not ask for more.
                with self._on_pipeline(entry) as pipeline:
                    await hooks_of.helo(pipeline, session, deadline)
            try:
                envelope = parse_path(argument, b"FROM")
            except SmtpSyntaxError:
                return None  # Postfix reads it nevertheless: then it is the proxy's to judge
            entry.move_to(self._board.pipeline)
            flow = self._flow = entry.waiting = self._board.begin(entry, envelope)
            await flow.mail(deadline)
            reply = _reply(flow.hang_up or flow.transaction.denial)
            if reply is not None:
                self._begin_to_end(flow, reply.code)
            return reply

    async def refused(self, argument: bytes, reply: Reply, deadline: Deadline) -> None:
        """Take note of a recipient that Postfix refused. No answer of ours would be heard (`smtpd_milter_eval`)."""
        async with self._lock:
            if self._flow is None or self._present() is None:
                return
            try:
                envelope = parse_path(argument, b"TO")
            except SmtpSyntaxError:
                return
            recipient = Recipient(envelope.address, self._flow.transaction, envelope.parameters)
            await self._flow.refused(recipient, reply, deadline)

    async def abort(self) -> None:
        """End the transaction, if nobody took it over; no error if there is none.

        Not in time: ABORT is not answered, and smtpd sends it together with the next event that is (`milter8_event`).
        """
        async with self._lock:
            self._end_transaction()

    async def close(self) -> None:
        """The client has left; its session ends once its last message is done. May be called twice."""
        async with self._lock:
            self._end_transaction()
            if self._ending:
                await asyncio.wait(self._ending)
            self._board.visits.discard(self)
            if self._entry is not None:
                self._board.sessions.leave(self._entry)
                self._entry = None

    def _end_transaction(self) -> None:
        """End the transaction, if there is one that nobody took over."""
        flow, self._flow = self._flow, None
        if flow is not None and self._entry is not None and self._entry.waiting is flow:
            self._begin_to_end(flow, None)

    def _begin_to_end(self, flow: Flow, code: int | None) -> None:
        """End a transaction that is nobody else's, without anybody waiting for it now."""
        assert self._entry is not None
        self._entry.waiting = None
        task = asyncio.create_task(flow.end(code, Deadline.after(AFTERMATH_BUDGET_S)))
        self._ending[task] = flow.pipeline
        task.add_done_callback(self._ending.pop)

    async def _settle(self, deadline: Deadline) -> None:
        """Let the last hooks of what is over go before those of the client's next command.

        But only for half of the time that this command has: it must not be refused for what another left behind.
        """
        if self._ending:
            await asyncio.wait(self._ending, timeout=deadline.remaining() / 2)

    def _present(self) -> Entry | None:
        """Return the client's session; None once the daemon has no more time for it."""
        return None if self._board.is_stopping else self._entry

    @contextmanager
    def _on_pipeline(self, entry: Entry) -> Iterator[Pipeline]:
        """Hold on to the pipeline in force, to which the session moves, while a hook of the session runs."""
        self._asking = self._board.pipeline
        entry.move_to(self._asking)
        try:
            yield self._asking
        finally:
            self._asking = None


def _reply(denial: Denial | None) -> Reply | None:
    return refusal(denial.verdict, HOOKS[denial.hook]) if denial is not None else None
