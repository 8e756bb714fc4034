"""The way of one message through the hooks: what gatepost answers at MAIL, RCPT, DATA and the dot.

Knows no sockets. The proxy and content doors call it, and so does `gatepost.testing`. The rules:

- A denial at connect, helo or mail is remembered and given at each RCPT, where no hook runs again; one that hangs up is
  given at MAIL. The front opens a new connection and says MAIL again after a MAIL refused otherwise (POSTFIX.md). The
  edge door, which answers the client's own MAIL, gives any of them there.
- Our answer to a recipient that Postfix refused is not heard: a hang-up is remembered on the session, and given at the
  next command that we answer. That is another recipient's or message's, so it is one for now, never for good.
- Recipients disagree when options of a plugin with data or content hooks differ. Then the client is asked to send them
  apart (452), up to a limit, because the front counts our refusals as client errors; or each set of options is a run.
- A message with several runs is refused only if every run refuses. Edits come from the first run that accepts.
- A header that is too large is refused before any plugin sees it.
- Every recipient offered ends with exactly one outcome.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import structlog

from gatepost.pipeline.verdict_log import in_words, keep
from gatepost.record import Outcome, Record
from gatepost.session import Denial, Recipient, Transaction
from gatepost.verdict import DECLINED, Deny, DenyDisconnect, DenySoft, DenySoftDisconnect, Verdict, mildest

if TYPE_CHECKING:
    from gatepost.configuration.config import ContentSection
    from gatepost.deadline import Deadline
    from gatepost.message.message import Message
    from gatepost.option import Overrides
    from gatepost.pipeline.pipeline import Pipeline
    from gatepost.smtp.reply import Reply

_log = structlog.get_logger("gatepost.transaction")

SEND_APART = DenySoft("please send this recipient's copy apart", enhanced="4.5.3", code=452)
"""RFC 5321 section 4.5.3.1.10: 452 asks for a further transaction for the recipients left over."""

HEADER_TOO_LARGE = Deny("the header of the message is too large", enhanced="5.3.4", code=552)
"""Nobody's good mail (`Headers.is_too_large`): it would cost the event loop seconds, and memory without bounds."""

HEADER_EDITS = 1_000
"""Edits of one header; a message that needs more, to lose what a stranger has forged, is refused. Postfix takes time by
their square, and may put the message off for ever from some 10,000 on ("too many reverse jump records")."""

TOO_MANY_EDITS = Deny("the message has too many header fields that do not stay", enhanced="5.6.0")

SMALL_BODY_BYTES = 1 << 20
"""Bodies up to this size are in memory, so reading them does not hold up the event loop."""

Tally = Counter[str]
"""Recipients by outcome, and `offered`; the outcomes of all ended transactions add up to it."""


@dataclass(slots=True)
class Run:
    """One distinct set of options among the accepted recipients, and what it said so far."""

    transaction: Transaction
    denial: Denial | None = None


@dataclass(frozen=True, slots=True)
class ContentDecision:
    """What the content hooks decided: a denial, or None and the message with the edits to make."""

    denial: Denial | None
    message: Message


@dataclass(slots=True, eq=False)
class Flow:
    """One transaction's way through one pipeline."""

    pipeline: Pipeline
    settings: ContentSection
    tally: Tally
    transaction: Transaction
    runs: list[Run] = field(default_factory=list)
    sent_apart: int = 0
    own: tuple[tuple[Overrides, ...], str | None] = ((), None)
    """The transaction's overrides and whitelist_reason before it stood for the recipients of `runs`."""
    ended: bool = False

    @property
    def needs_content(self) -> frozenset[str]:
        """The content hooks that must see this message; empty means that it may pass without the content door."""
        return self.pipeline.content_hooks

    async def mail(self, deadline: Deadline) -> Denial | None:
        """Run the mail hook; return the denial to give at once, which is one that hangs up, or None."""
        transaction = self.transaction
        transaction.denial = await self._of_session(deadline)
        if transaction.denial is None:
            verdict = await self.pipeline.run(
                "mail", transaction, transaction, transaction.sender, transaction.parameters, deadline=deadline
            )
            if verdict.denies:
                transaction.denial = Denial("mail", verdict)
        return self.hang_up

    @property
    def hang_up(self) -> Denial | None:
        """The denial that hangs up on the client and has not been given yet; None if there is none."""
        for denial in (self.transaction.session.denial, self.transaction.denial):
            if denial is not None and denial.verdict.disconnects:
                return denial
        return None

    def hang_up_after(self, code: int) -> Denial | None:
        """Return the hang-up that may stand in place of this refusal at the end of the message, None if there is none.

        It is for good where the refusal is: a message that was only put off is not to be lost by it.
        """
        denial = self.hang_up
        if denial is None:
            return None
        kind = DenyDisconnect if code // 100 == 5 else DenySoftDisconnect
        return Denial(denial.hook, kind(denial.verdict.text))

    async def rcpt(self, recipient: Recipient, deadline: Deadline) -> Denial | None:
        """Decide on a recipient, new in this transaction; None means that the inner smtpd may be asked."""
        transaction = self.transaction
        if self.runs:
            self._stand_for_nobody()
        transaction.recipients.append(recipient)
        self.tally["offered"] += 1
        denial = self.hang_up or transaction.denial or await self._of_session(deadline)
        denial = denial or await self._decide(recipient, deadline)
        if denial is not None:
            self.answered(recipient, 500 if denial.verdict.permanent else 400)
        return denial

    async def refused(self, recipient: Recipient, reply: Reply, deadline: Deadline) -> None:
        """Take note that Postfix itself refused a recipient, new in this transaction, and run the hooks for that."""
        transaction = self.transaction
        verdict = (Deny if reply.code // 100 == 5 else DenySoft)(reply.text, enhanced=reply.enhanced)
        recipient.outcome = "refused" if verdict.permanent else "deferred"
        transaction.recipients.append(recipient)
        self.tally["offered"] += 1
        if self.ended:
            self.tally[recipient.outcome] += 1
        keep(recipient, Record("rcpt_refused", "postfix", verdict, 0.0, recipient=str(recipient.address)))
        await self.pipeline.ask("rcpt_refused", recipient, transaction, recipient, reply, deadline=deadline)
        stands = await self.pipeline.conclude("rcpt_refused", recipient, verdict, deadline=deadline)
        if stands.disconnects and self.hang_up is None:
            # A list server with six subscribers who have left must not lose the seventh.
            transaction.session.denial = Denial("rcpt_refused", DenySoftDisconnect(stands.text))

    async def _of_session(self, deadline: Deadline) -> Denial | None:
        """Return the session's denial, which is given now: after the deny hooks, if it was not given before."""
        session = self.transaction.session
        denial = session.denial
        if denial is not None and not denial.given:
            verdict = await self.pipeline.conclude(denial.hook, session, denial.verdict, deadline=deadline)
            session.denial = Denial(denial.hook, verdict)
        return session.denial

    async def _decide(self, recipient: Recipient, deadline: Deadline) -> Denial | None:
        verdict = await self.pipeline.ask("rcpt", recipient, recipient.transaction, recipient, deadline=deadline)
        if not verdict.denies and self._must_be_sent_apart(recipient):
            self.sent_apart += 1
            keep(recipient, Record("rcpt", "gatepost", SEND_APART, 0.0, recipient=str(recipient.address)))
            return Denial("rcpt", SEND_APART)
        verdict = await self.pipeline.conclude("rcpt", recipient, verdict, deadline=deadline)
        return Denial("rcpt", verdict) if verdict.denies else None

    def _must_be_sent_apart(self, recipient: Recipient) -> bool:
        accepted = self.transaction.accepted
        if not accepted or self.settings.disagree == "lenient" or self.sent_apart >= self.settings.defer_limit:
            return False
        options = self.pipeline.late_options(recipient)
        return all(self.pipeline.late_options(other) != options for other in accepted)

    def answered(self, recipient: Recipient, code: int) -> None:
        """Note the reply that a recipient got at RCPT: 2xx opens its way to the content, all else is its outcome."""
        if code // 100 == 2:
            recipient.accepted = True
        else:
            recipient.outcome = "refused" if code // 100 == 5 else "deferred"

    async def data(self, deadline: Deadline) -> Denial | None:
        """Run the data hook once for each distinct set of options among the accepted recipients."""
        if self.runs:
            self._stand_for_nobody()
        self.own = (self.transaction.overrides, self.transaction.whitelist_reason)
        self.runs = [Run(transaction) for transaction in self._run_transactions()]
        for run in self.runs:
            verdict = await self.pipeline.ask("data", run.transaction, run.transaction, deadline=deadline)
            if verdict.denies:
                run.denial = Denial("data", verdict)
        return await self._conclude("data", deadline)

    def _run_transactions(self) -> list[Transaction]:
        groups: list[tuple[object, list[Recipient]]] = []
        for recipient in self.transaction.accepted:
            options = self.pipeline.late_options(recipient)
            for group_options, members in groups:
                if group_options == options:
                    members.append(recipient)
                    break
            else:
                groups.append((options, [recipient]))
        if len(groups) == 1:
            self.transaction.stand_for(groups[0][1])
            return [self.transaction]
        return [self.transaction.branch(members) for _, members in groups]

    def _stand_for_nobody(self) -> None:
        """Forget the runs: after a refused DATA come further recipients, who must not get what holds for the others."""
        self.runs = []
        self.transaction.overrides, self.transaction.whitelist_reason = self.own

    async def content(self, message: Message, deadline: Deadline) -> ContentDecision:
        """Run the content hooks for each run that the data hook did not refuse; every run sees the unedited message."""
        edited: Message | None = None
        if message.headers.is_too_large:
            self._refuse("data_headers_end", HEADER_TOO_LARGE)
        for run in self.runs:
            if run.denial is not None:
                continue
            run.denial, result = await self._content_of(run.transaction, message, deadline)
            if run.denial is None and edited is None:
                edited = result
        if edited is not None and edited.header_edits > HEADER_EDITS:
            self._refuse("data_post", TOO_MANY_EDITS)
        return ContentDecision(await self._conclude("data_post", deadline), edited or message)

    def _refuse(self, hook: str, verdict: Verdict) -> None:
        """Refuse every run that has not been refused."""
        keep(self.transaction, Record(hook, "gatepost", verdict, 0.0))
        for run in self.runs:
            run.denial = run.denial or Denial(hook, verdict)

    async def _content_of(
        self, transaction: Transaction, message: Message, deadline: Deadline
    ) -> tuple[Denial | None, Message]:
        ask, calls = self.pipeline.ask, self.pipeline.calls
        if calls["header"]:
            for header in message.headers:
                verdict = await ask("header", transaction, transaction, header.name, header.value, deadline=deadline)
                if verdict is not DECLINED:
                    if verdict.denies:
                        return Denial("header", verdict), message
                    break
        if calls["data_headers_end"]:
            verdict = await ask("data_headers_end", transaction, transaction, message.headers, deadline=deadline)
            if verdict.denies:
                return Denial("data_headers_end", verdict), message
        if calls["body"]:
            verdict = await self._body(transaction, message, deadline)
            if verdict.denies:
                return Denial("body", verdict), message
        verdict, message = await self.pipeline.edit(transaction, message, deadline=deadline)
        return (Denial("data_post", verdict) if verdict.denies else None), message

    async def _body(self, transaction: Transaction, message: Message, deadline: Deadline) -> Verdict:
        chunks = message.body.chunks()
        in_memory = message.body.size <= SMALL_BODY_BYTES
        while chunk := next(chunks, b"") if in_memory else await asyncio.to_thread(next, chunks, b""):
            verdict = await self.pipeline.ask("body", transaction, transaction, chunk, deadline=deadline)
            if verdict is not DECLINED:
                return verdict
        return DECLINED

    async def _conclude(self, hook: str, deadline: Deadline) -> Denial | None:
        """Return the denial if every run has one, after the deny hook; else None, after the ok hook."""
        denials = [run.denial for run in self.runs if run.denial is not None]
        if len(denials) < len(self.runs) or not denials:
            await self.pipeline.conclude(hook, self.transaction, DECLINED, deadline=deadline)
            return None
        verdict = mildest([denial.verdict for denial in denials])
        denial = next(denial for denial in denials if denial.verdict is verdict)
        final = await self.pipeline.conclude(denial.hook, self.transaction, verdict, deadline=deadline)
        return Denial(denial.hook, final)

    async def end(self, code: int | None, deadline: Deadline, *, message: Message | None = None) -> None:
        """Close the transaction: `code` is the reply to DATA or the dot, None when the client gave up before.

        `message` is what the content door sent on, None if it edited nothing. Runs queue_post after a 250, then
        reset_transaction, and writes the summary line, before it one of the edits. To be called once, after the client
        has its reply.
        """
        transaction = self.transaction
        self.ended = True
        for recipient in transaction.recipients:
            if recipient.outcome is None:
                recipient.outcome = self._outcome(recipient, code, message)
            self.tally[recipient.outcome] += 1
        queued = code is not None and code // 100 == 2
        if queued and message is not None and (edits := message.summary()):
            _log.info("edited", session=transaction.session.id, txn=transaction.id, edits=in_words(edits))
        self._summarise(code)
        if queued:
            await self.pipeline.ask("queue_post", transaction, transaction, deadline=deadline)
        await self.pipeline.ask("reset_transaction", transaction, transaction, deadline=deadline)
        if transaction.session.transaction is transaction:
            transaction.session.transaction = None

    @staticmethod
    def _outcome(recipient: Recipient, code: int | None, message: Message | None) -> Outcome:
        match code and code // 100:
            case 2 if message is not None:
                return fate(recipient, message)
            case 2:
                return "accepted"
            case 5:
                return "refused"
            case None:
                return "aborted"
            case _:
                return "deferred"

    def _summarise(self, code: int | None) -> None:
        transaction, session = self.transaction, self.transaction.session
        outcomes = " ".join(f"{recipient.address}={recipient.outcome}" for recipient in transaction.recipients)
        _log.info(
            "transaction",
            session=session.id,
            txn=transaction.id,
            client=session.address,
            name=session.name,
            helo=session.helo,
            sender=str(transaction.sender),
            rcpt=outcomes,
            size=transaction.size,
            reply=code,
            queue_id=transaction.queue_id,
        )


def fate(recipient: Recipient, message: Message) -> Outcome:
    """Return what the edits mean for a recipient of an accepted message: held, discarded or accepted."""
    if message.is_quarantined:
        return "held"
    targets = recipient.targets or (recipient.address,)
    return "accepted" if any(target in message.recipients for target in targets) else "discarded"
