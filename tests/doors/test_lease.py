"""Leases: what the milter must negotiate, and whose decision still counts."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from gatepost import Address, Deny, Message, Plugin, Recipient, Session, Transaction
from gatepost.configuration.config import ContentSection
from gatepost.deadline import Deadline
from gatepost.doors.lease import Lease, LeaseTable, Part, parts_for
from gatepost.hooks import HOOKS
from gatepost.pipeline.flow import Flow, Tally
from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.mark.parametrize(
    ("hooks", "parts"),
    [
        (set(), set()),
        ({"header"}, {"header"}),
        ({"data_headers_end"}, {"header"}),
        ({"body"}, {"header", "body"}),
        ({"data_post"}, {"header", "body", "edit"}),
        ({"header", "body"}, {"header", "body"}),
    ],
)
def test_only_what_the_hooks_need_is_negotiated(hooks: set[str], parts: set[Part]) -> None:
    assert parts_for(frozenset(hooks)) == parts


def test_every_content_hook_says_what_it_needs() -> None:
    for hook in HOOKS.values():
        if hook.reads_content:
            assert parts_for(frozenset({hook.name}))


class Editor(Plugin):
    def data_post(self, transaction: Transaction, message: Message) -> Deny | None:
        message.add_header("X-Seen", "yes")
        return Deny("no") if transaction.sender.local == "bad" else None


class EnvelopeOnly(Plugin):
    def rcpt(self, transaction: Transaction, recipient: Recipient) -> None: ...


class Front:
    there = True


def message() -> Message:
    return Message.parse(b"Subject: x\r\n\r\ntext\r\n", Address.parse("a@b"), [Address.parse("c@example.org")])


@asynccontextmanager
async def lease_for(plugin: type[Plugin], sender: str = "a@example.net") -> AsyncIterator[tuple[Lease, Front]]:
    async with gate(plugin) as made:
        transaction = Transaction("s.1", Session("s", "192.0.2.1"), Address.parse(sender))
        flow = Flow(made.pipeline, ContentSection(), Tally(), transaction)
        recipient = Recipient(Address.parse("c@example.org"), transaction)
        assert await flow.rcpt(recipient, Deadline.after(60)) is None
        flow.answered(recipient, 250)
        assert await flow.data(Deadline.after(60)) is None
        front = Front()
        yield Lease(flow, lambda: front.there), front


@pytest.mark.parametrize(
    ("covered", "enough"),
    [
        (None, False),
        (set(), False),
        ({"header", "body"}, False),
        ({"header", "body", "edit"}, True),
    ],
)
async def test_a_message_is_covered_if_a_milter_session_joined_that_negotiated_enough(
    covered: set[Part] | None, enough: bool
) -> None:
    async with lease_for(Editor) as (lease, _):
        lease.covered = None if covered is None else frozenset(covered)

        assert lease.needs == {"header", "body", "edit"}
        assert lease.is_covered == enough


async def test_without_content_hooks_no_milter_session_is_needed() -> None:
    async with lease_for(EnvelopeOnly) as (lease, _):
        assert (lease.needs, lease.is_covered) == (frozenset(), True)


@pytest.mark.parametrize(("sender", "denied"), [("a@example.net", False), ("bad@example.net", True)])
async def test_a_decision_in_time_counts(sender: str, denied: bool) -> None:
    async with lease_for(Editor, sender) as (lease, _):
        lease.deadline = Deadline.after(60)
        decision = await lease.decide(message())

        assert decision is not None
        assert (decision.denial is not None) == denied
        assert lease.decision is decision


async def test_before_the_dot_was_forwarded_nothing_is_decided() -> None:
    async with lease_for(Editor) as (lease, _):
        assert await lease.decide(message()) is None
        assert lease.decision is None


async def test_once_the_front_has_gone_nothing_may_be_queued() -> None:
    async with lease_for(Editor) as (lease, front):
        lease.deadline = Deadline.after(60)
        front.there = False

        assert await lease.decide(message()) is None
        assert lease.decision is None


async def test_after_the_deadline_nothing_may_be_queued() -> None:
    async with lease_for(Editor) as (lease, _):
        lease.deadline = Deadline.after(-1)

        assert await lease.decide(message()) is None
        assert lease.decision is None


async def test_a_connection_is_found_while_it_is_lent_out() -> None:
    table = LeaseTable()
    async with lease_for(EnvelopeOnly) as (lease, _):
        table.add(("127.0.0.1", 40000), lease)
        assert table.find(("127.0.0.1", 40000)) is lease
        assert table.find(("127.0.0.1", 40001)) is None
        table.remove(("127.0.0.1", 40000))
        table.remove(("127.0.0.1", 40000))
        assert table.find(("127.0.0.1", 40000)) is None
