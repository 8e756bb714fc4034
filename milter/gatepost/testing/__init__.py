"""The test kit for plugin authors: run one hook, a transaction or a whole dialogue without Postfix.

    from gatepost.testing import gate, run_hook

    async def test_long_helo_is_refused():
        result = await run_hook("my_plugin", "helo", name="x" * 300, directory="/etc/gatepost/hooks")
        assert result.verdict.denies

    async def test_first_contact_is_deferred():
        async with gate(greylist={"black_timeout": "5m"}) as postfix:
            client = postfix.client("192.0.2.1")
            await client.mail("a@example.net")
            assert (await client.rcpt("x@example.org")).code == 450

    async def test_listed_client_is_refused():
        listed = {"1.2.0.192.bl.example": {"A": ["127.0.0.2"]}}
        async with gate(dns=listed, dnsbl={"zones": ["bl.example"]}) as postfix:
            ...

Everything is the daemon's own code but for Postfix itself: the inner smtpd here accepts what it is not told to refuse.
The store is a real one, in memory; its clock can be given. DNS has what a test says, or asks the name servers it gives.
"""

from __future__ import annotations

import itertools
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatepost.address import Address
from gatepost.configuration.config import Config, ContentSection, HooksSection, PluginEntry
from gatepost.configuration.loader import load_plugins, plugin_of_class, snake_case
from gatepost.deadline import Deadline
from gatepost.errors import ConfigError
from gatepost.hooks import HOOKS
from gatepost.message.message import Message
from gatepost.pipeline.arrival import greet, unrecognized
from gatepost.pipeline.flow import Flow, Tally
from gatepost.pipeline.pipeline import Pipeline
from gatepost.plugin import Plugin
from gatepost.services.store.store import open_store
from gatepost.session import Recipient, Session, Transaction
from gatepost.smtp.command import SmtpSyntaxError, parse_command, parse_path
from gatepost.smtp.reply import Reply, refusal
from gatepost.testing.dns_table import resolver_for_test
from gatepost.verdict import DECLINED, Deny, Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from gatepost.message.edit import Edit
    from gatepost.services.store.store import Store
    from gatepost.session import Denial
    from gatepost.testing.dns_table import Dns

BUDGET_S = 30.0
"""How long each reply may take here."""

_ACCEPTED = Reply.of(250, "Ok", "2.1.5")
_session_numbers = itertools.count(1)

PluginSource = str | Path | type[Plugin[Any]]
"""A plugin by name (bundled, or in `directory`), by file, or as a class."""


@dataclass(frozen=True, slots=True)
class HookResult:
    """What one hook answered and left behind."""

    verdict: Verdict
    session: Session
    transaction: Transaction
    recipient: Recipient
    message: Message

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits that the plugin made to the message."""
        return self.message.edits


class Gate:
    """A pipeline, and clients to talk to it. Made by `gate`."""

    def __init__(self, pipeline: Pipeline, store: Store, content: ContentSection, refuse: Mapping[str, str]) -> None:
        self.pipeline = pipeline
        self.store = store
        self.content = content
        self.tally = Tally()
        self.refuse = dict(refuse)
        """Recipients that the inner smtpd refuses: `{"x@example.org": "550 5.1.1 unknown"}`."""

    def plugin(self, name: str) -> Plugin[Any]:
        """Return a loaded plugin; KeyError if there is none of that name."""
        return {loaded.name: loaded.plugin for loaded in self.pipeline.plugins}[name]

    def client(
        self, address: str = "192.0.2.1", *, name: str | None = None, helo: str | None = "client.example", **facts: Any
    ) -> Client:
        """Return a client that has just connected; `facts` are further fields of its Session."""
        session = Session(
            f"test{next(_session_numbers)}", address, port=facts.pop("port", 40_000), name=name, helo=helo, **facts
        )
        return Client(self, session)


@dataclass(slots=True)
class Client:
    """One client session: a method for each command, each returning the reply that the client would see."""

    gate: Gate
    session: Session
    greeted: bool = False
    flow: Flow | None = None
    message: Message | None = None
    """The last message as it would be queued, with the edits made."""
    transactions: list[Transaction] = field(default_factory=list)
    """Every transaction of the session, the ended ones too."""

    @property
    def transaction(self) -> Transaction:
        """The newest transaction, also after its end; IndexError before MAIL."""
        return self.transactions[-1]

    async def mail(self, sender: str = "sender@example.net", **parameters: str | None) -> Reply:
        """Say MAIL; connect, helo and mail hooks run as they do behind Postfix. Ends the transaction before, if any."""
        await self.abandon()
        await self._arrive()
        number = len(self.transactions) + 1
        transaction = Transaction(f"{self.session.id}.{number}", self.session, Address.parse(sender), parameters)
        self.transactions.append(transaction)
        self.session.transaction = transaction
        self.message = None
        self.flow = Flow(self.gate.pipeline, self.gate.content, self.gate.tally, transaction)
        denial = await self.flow.mail(Deadline.after(BUDGET_S))
        if denial is not None:
            return await self._finish(_reply(denial))
        return Reply.of(250, "Ok", "2.1.0")

    async def rcpt(self, recipient: str, **parameters: str | None) -> Reply:
        """Say RCPT."""
        flow = self._flow()
        offered = Recipient(Address.parse(recipient), flow.transaction, parameters)
        denial = await flow.rcpt(offered, Deadline.after(BUDGET_S))
        if denial is not None:
            return _reply(denial)
        refused = [
            self.gate.refuse[str(target)]
            for target in offered.targets or (offered.address,)
            if str(target) in self.gate.refuse
        ]
        reply = _parse_reply(refused[0]) if refused else _ACCEPTED
        flow.answered(offered, reply.code)
        return reply

    async def refused(self, recipient: str, reply: str = "550 5.1.1 User unknown", **parameters: str | None) -> Reply:
        """Say RCPT for a recipient that Postfix itself refuses, as the edge door sees it; return Postfix's reply."""
        flow, refusal = self._flow(), _parse_reply(reply)
        offered = Recipient(Address.parse(recipient), flow.transaction, parameters)
        await flow.refused(offered, refusal, Deadline.after(BUDGET_S))
        return refusal

    async def unrecognized(self, verb: str = "BOGUS") -> Reply:
        """Say what is no command, as the edge door hears it; Postfix's own answer if no plugin has another."""
        await self._arrive()
        denial = await unrecognized(self.gate.pipeline, self.session, verb, Deadline.after(BUDGET_S))
        return _reply(denial) if denial else Reply.of(500, "Error: command not recognized", "5.5.2")

    async def data(self, content: bytes | str = b"Subject: test\r\n\r\ntest\r\n") -> Reply:
        """Say DATA and send the content, without dot-stuffing; return the reply to DATA or to the dot."""
        flow = self._flow()
        if not flow.transaction.accepted:
            return Reply.of(554, "Error: no valid recipients", "5.5.1")
        if isinstance(content, str):
            content = content.encode()
        denial = await flow.data(Deadline.after(BUDGET_S))
        if denial is not None:
            return await self._finish(_reply(denial))
        flow.transaction.size = len(content)
        recipients = [
            target for recipient in flow.transaction.accepted for target in recipient.targets or (recipient.address,)
        ]
        self.message = Message.parse(
            content, flow.transaction.sender, recipients, mime_limit=self.gate.content.mime_limit
        )
        if flow.needs_content:
            decision = await flow.content(self.message, Deadline.after(BUDGET_S))
            if decision.denial is not None:
                return await self._finish(_reply(decision.denial))
            self.message = decision.message
        flow.transaction.queue_id = "TESTQUEUEID"
        return await self._finish(Reply.of(250, "Ok: queued as TESTQUEUEID", "2.0.0"))

    async def send(
        self, sender: str, *recipients: str, content: bytes | str = b"Subject: test\r\n\r\ntest\r\n"
    ) -> Reply:
        """Say MAIL, RCPT for each recipient, and DATA if any was accepted; return the last reply."""
        reply = await self.mail(sender)
        if self.flow is None:
            return reply
        for recipient in recipients:
            reply = await self.rcpt(recipient)
        return await self.data(content) if self.transaction.accepted else reply

    async def abandon(self) -> None:
        """End the transaction under way as when the client vanishes."""
        if self.flow is not None:
            flow, self.flow = self.flow, None
            await flow.end(None, Deadline.after(BUDGET_S))

    async def quit(self) -> None:
        """End the session: the disconnect hook runs, if the connect hook has."""
        await self.abandon()
        if not self.greeted:
            return
        pipeline = self.gate.pipeline
        await pipeline.ask("disconnect", self.session, self.session, deadline=Deadline.after(BUDGET_S))

    async def dialogue(self, script: str) -> None:
        """Play lines `C: COMMAND` and `S: REPLY`; AssertionError, with both, where a reply is another.

        `S: 450` wants that code, `S: 450 4.7.1 This` a reply that begins so. After `C: DATA`, `S: 354` and further `C:`
        lines are the content, ended by `C: .`; EHLO, RSET and QUIT are understood too.
        """
        reply = ""
        content: list[bytes] | None = None
        for line in filter(None, map(str.strip, script.splitlines())):
            speaker, _, said = line.partition(":")
            said = said.removeprefix(" ")
            if speaker == "S":
                assert reply.startswith(said), f"expected {said!r}, got {reply!r}"
            elif content is None:
                reply = await self._say(said.encode())
                content = [] if reply.startswith("354") else None
            elif said == ".":
                reply, content = _text(await self.data(b"".join(content))), None
            else:
                content.append(said.removeprefix(".").encode() + b"\r\n")

    async def _say(self, line: bytes) -> str:
        command = parse_command(line)
        try:
            match command.verb:
                case b"MAIL":
                    envelope = parse_path(command.argument, b"FROM")
                    return _text(await self.mail(str(envelope.address), **envelope.parameters))
                case b"RCPT":
                    envelope = parse_path(command.argument, b"TO")
                    return _text(await self.rcpt(str(envelope.address), **envelope.parameters))
                case b"DATA":
                    accepted = self.flow is not None and self.flow.transaction.accepted
                    return "354 " if accepted else "554 5.5.1 Error: no valid recipients"
                case b"EHLO" | b"HELO":
                    self.session.helo = command.argument.decode()
                    self.session.esmtp = command.verb == b"EHLO"
                    return "250 gatepost.test"
                case b"RSET":
                    await self.abandon()
                    return "250 2.0.0 Ok"
                case b"QUIT":
                    await self.quit()
                    return "221 2.0.0 Bye"
                case verb:
                    raise ValueError(f"the kit does not know the command {verb.decode()}")
        except SmtpSyntaxError as error:
            return _text(error.reply)

    async def _arrive(self) -> None:
        if not self.greeted:
            self.greeted = True
            await greet(self.gate.pipeline, self.session, Deadline.after(BUDGET_S))

    def _flow(self) -> Flow:
        if self.flow is None:
            raise ValueError("say MAIL first: there is no transaction")
        return self.flow

    async def _finish(self, reply: Reply) -> Reply:
        flow, self.flow = self._flow(), None
        await flow.end(reply.code, Deadline.after(BUDGET_S), message=self.message)
        return reply


@asynccontextmanager
async def gate(
    *classes: type[Plugin[Any]],
    directory: Path | str | None = None,
    content: Mapping[str, Any] | None = None,
    refuse: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.time,
    dns: Dns | None = None,
    **plugins: Mapping[str, Any],
) -> AsyncIterator[Gate]:
    """Make a pipeline without Postfix.

    `plugins` are loaded by name with these options, in this order, after `classes`, which have their defaults (or the
    options given under the class's name in snake_case). `directory` is searched before the bundled plugins; `content`
    are the keys of `[content]`. Raises ConfigError as the daemon would.

    `dns` is what the plugins find in DNS: a table such as `{"2.0.0.127.bl.example": {"A": ["127.0.0.2"], "TXT":
    ["why"]}, "dead.example": "servfail"}` (`gatepost.testing.dns_table` tells all of its form), the addresses of name
    servers, or a Resolver. Without it DNS is unavailable.
    """
    store = open_store("sqlite::memory:", clock)
    resolver = resolver_for_test(dns)
    try:
        given = dict(plugins)
        loaded = [plugin_of_class(cls, given.pop(snake_case(cls.__name__), {}), store, resolver) for cls in classes]
        entries = tuple(PluginEntry(name, dict(options)) for name, options in given.items())
        config = Config(hooks=HooksSection(directory=Path(directory) if directory else None), plugins=entries)
        pipeline = Pipeline([*loaded, *load_plugins(config, store, resolver)])
        await pipeline.start()
        try:
            yield Gate(pipeline, store, ContentSection.model_validate(content or {}), refuse or {})
        finally:
            await pipeline.stop()
    finally:
        if resolver is not dns:
            await resolver.close()
        await store.close()


async def run_hook(
    plugin: PluginSource,
    hook: str,
    /,
    *,
    options: Mapping[str, Any] | None = None,
    directory: Path | str | None = None,
    sender: str = "sender@example.net",
    recipients: tuple[str, ...] = ("recipient@example.org",),
    content: bytes = b"Subject: test\r\n\r\ntest\r\n",
    session: Session | None = None,
    clock: Callable[[], float] = time.time,
    dns: Dns | None = None,
    **arguments: Any,
) -> HookResult:
    """Run one hook of one plugin once; what it needs beside `arguments` (by the hook table's names) is made up.

    ValueError if the plugin has no such hook, AssertionError if the hook fails or takes longer than its `timeout`.
    """
    keywords: dict[str, Any] = {"directory": directory, "clock": clock, "dns": dns}
    given: tuple[type[Plugin[Any]], ...] = ()
    if isinstance(plugin, Path):
        keywords |= {"directory": plugin.parent, plugin.stem: options or {}}
    elif isinstance(plugin, str):
        keywords[plugin] = options or {}
    else:
        given = (plugin,)
        keywords[snake_case(plugin.__name__)] = options or {}
    async with gate(*given, **keywords) as made:
        session = session or made.client().session
        transaction = Transaction(f"{session.id}.1", session, Address.parse(sender))
        transaction.recipients = [Recipient(Address.parse(one), transaction, accepted=True) for one in recipients]
        addresses = [recipient.address for recipient in transaction.recipients]
        message = Message.parse(content, transaction.sender, addresses)
        made_up = {
            "session": session,
            "transaction": transaction,
            "recipient": transaction.recipients[-1],
            "sender": transaction.sender,
            "parameters": transaction.parameters,
            "name": session.helo,
            "value": "test",
            "verb": "BOGUS",
            "reply": Reply.of(550, "User unknown", "5.1.1"),
            "headers": message.headers,
            "chunk": bytes(message.body),
            "message": message,
            "hook": "rcpt",
            "verdict": Deny() if hook == "deny" else DECLINED,
        } | arguments
        if not made.pipeline.calls.get(hook):
            raise ValueError(f"{made.pipeline.plugins[0].name} has no hook {hook}")
        call = made.pipeline.calls[hook][0]
        timeout_s = min(call.loaded.plugin.options().timeout, BUDGET_S)
        verdict = await call(tuple(made_up[name] for name in HOOKS[hook].arguments), timeout_s)
        if not isinstance(verdict, Verdict):
            raise AssertionError(f"{call.loaded.name}.{hook} failed: {verdict.detail}")
        return HookResult(verdict, session, transaction, transaction.recipients[-1], message)


def _reply(denial: Denial) -> Reply:
    return refusal(denial.verdict, HOOKS[denial.hook])


def _text(reply: Reply) -> str:
    return reply.encode().decode("ascii", "replace").rstrip("\r\n")


def _parse_reply(line: str) -> Reply:
    if len(line) < 4 or not line[:3].isdecimal():
        raise ConfigError(f"{line!r} is no SMTP reply")
    return Reply.from_wire([line.encode()])
