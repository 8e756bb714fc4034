"""What the tests of the pipeline share: plugins that answer as told at RCPT, and a recipient to ask them about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from gatepost import (
    Address,
    Plugin,
    Recipient,
    Session,
    Transaction,
    Verdict,
)
from gatepost.deadline import Deadline
from gatepost.testing import gate

if TYPE_CHECKING:
    from gatepost.pipeline.pipeline import Pipeline
    from gatepost.record import Record

asked: list[str] = []
"""Who was asked, in order."""


class Answering(Plugin):
    """Answers at RCPT what its subclass says, or raises it."""

    _answer: ClassVar[Verdict | BaseException | None] = None

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        asked.append(self.name)
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer


class First(Answering):
    pass


class Second(Answering):
    pass


class Third(Answering):
    pass


def answering(*answers: Verdict | BaseException | None) -> list[type[Answering]]:
    """Return plugins first, second, third with these answers."""
    kinds: list[type[Answering]] = [First, Second, Third]
    return [
        type(kind.__name__, (kind,), {"_answer": answer, "__module__": __name__})
        for kind, answer in zip(kinds, answers, strict=False)
    ]


@dataclass(slots=True)
class Scopes:
    """A session with one transaction and one recipient."""

    session: Session = field(default_factory=lambda: Session("s", "192.0.2.1"))
    transaction: Transaction = field(init=False)
    recipient: Recipient = field(init=False)

    def __post_init__(self) -> None:
        self.transaction = Transaction("s.1", self.session, Address.parse("a@example.net"))
        self.recipient = Recipient(Address.parse("b@example.org"), self.transaction)

    async def rcpt(self, pipeline: Pipeline, seconds: float = 10.0) -> Verdict:
        deadline = Deadline.after(seconds)
        return await pipeline.run("rcpt", self.recipient, self.transaction, self.recipient, deadline=deadline)

    @property
    def records(self) -> list[Record]:
        return self.transaction.records


async def verdict_of(*answers: Verdict | BaseException | None, **options: Any) -> tuple[Verdict, Scopes]:
    """Return what the plugins come to at RCPT, and what that left behind."""
    scopes = Scopes()
    async with gate(*answering(*answers), **options) as made:
        return await scopes.rcpt(made.pipeline), scopes
