"""What all connections of all doors share: settings, the pipeline in force, sessions, leases, the inner pool."""

from __future__ import annotations

import socket
from time import monotonic
from typing import TYPE_CHECKING

from gatepost.doors.inner import InnerPool
from gatepost.doors.lease import LeaseTable, Part, parts_for
from gatepost.doors.session_table import SessionTable
from gatepost.endpoint import Endpoint
from gatepost.pipeline.flow import Flow, Tally
from gatepost.session import Transaction
from gatepost.smtp.front import ehlo_reply
from gatepost.smtp.reply import Reply

if TYPE_CHECKING:
    from gatepost.configuration.config import Config
    from gatepost.doors.proxy import ProxyConnection
    from gatepost.doors.session_table import Entry
    from gatepost.doors.visit import Visit
    from gatepost.pipeline.pipeline import Pipeline
    from gatepost.smtp.command import Envelope

ANSWER_MARGIN_S = 10.0
"""Our answer is due this long before Postfix's smtpd_proxy_timeout ends: after that, the client gets a 451 that is not
ours, and may later get a duplicate."""


class Switchboard:
    """The state of one daemon that its connections use."""

    def __init__(self, config: Config, pipeline: Pipeline) -> None:
        self.hostname = socket.gethostname()
        self.banner = f"220 {self.hostname} ESMTP gatepost\r\n".encode("ascii", "replace")
        self.hello = {b"EHLO": ehlo_reply(self.hostname), b"HELO": Reply.of(250, self.hostname).encode()}
        """The answers to a client that greets."""
        self.settings = config.proxy
        self.content = config.content
        self.pipeline = pipeline
        self.reply_budget_s = config.proxy.front_timeout - ANSWER_MARGIN_S
        self.tally = Tally()
        self.leases = LeaseTable()
        self.sessions = SessionTable(config.proxy.session_idle, monotonic, lambda: self.pipeline)
        self.pool = InnerPool(Endpoint.parse(config.proxy.inner), self.hostname)
        self.connections: set[ProxyConnection] = set()
        self.visits: set[Visit] = set()
        """The clients that the edge door has."""
        self.edge = config.milter.edge
        self.edge_budget_s = config.milter.edge_timeout
        self.is_stopping = False
        """True once the daemon takes no more messages: the edge door turns everybody away."""
        self._transactions = 0

    def take_over(self, config: Config, pipeline: Pipeline) -> None:
        """Begin a new configuration: for transactions that begin now, and connections opened now."""
        self.settings = config.proxy
        self.content = config.content
        self.pipeline = pipeline
        self.reply_budget_s = config.proxy.front_timeout - ANSWER_MARGIN_S
        self.edge = config.milter.edge
        self.edge_budget_s = config.milter.edge_timeout
        self.sessions.idle_s = config.proxy.session_idle
        self.pool.retire_all()

    def begin(self, entry: Entry, envelope: Envelope) -> Flow:
        """Begin a transaction of a session, with the pipeline in force."""
        entry.transactions += 1
        session = entry.session
        identity = f"{session.id}.{entry.transactions}"
        session.transaction = Transaction(identity, session, envelope.address, envelope.parameters)
        return Flow(self.pipeline, self.content, self.tally, session.transaction)

    def uses(self, pipeline: Pipeline) -> bool:
        """Tell whether a transaction, a client's command or its disconnect hooks are still on this pipeline."""
        return (
            any(connection.pipeline is pipeline for connection in self.connections)
            or any(visit.uses(pipeline) for visit in self.visits)
            or self.sessions.uses(pipeline)
        )

    def admit(self) -> bool:
        """Count one more transaction; False, and not counted, when there are as many as allowed."""
        if self._transactions >= self.settings.max_sessions:
            return False
        self._transactions += 1
        return True

    def release(self) -> None:
        """Count one transaction less."""
        self._transactions -= 1

    def milter_needs(self) -> frozenset[Part]:
        """Return what a milter session that begins now must negotiate. Called from libmilter's threads."""
        needs = parts_for(self.pipeline.content_hooks)
        for connection in tuple(self.connections):
            needs |= connection.needs
        return needs
