"""Sessions that the edge door begins: who joins them, and when they end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.doors.test_session_table import CLIENT, rig

from gatepost.address import Address
from gatepost.configuration.config import Config
from gatepost.doors.switchboard import Switchboard
from gatepost.pipeline.pipeline import Pipeline
from gatepost.smtp.command import parse_path
from gatepost.smtp.xforward import Xforward

if TYPE_CHECKING:
    from gatepost.doors.session_table import Entry
    from gatepost.pipeline.flow import Flow

ADDRESS, PORT = "192.0.2.7", 40000


def begin(entry: Entry, sender: bytes = b"FROM:<a@example.net>") -> Flow:
    entry.waiting = Switchboard(Config(), Pipeline([])).begin(entry, parse_path(sender, b"FROM"))
    return entry.waiting


@pytest.mark.parametrize(
    ("edge", "forwarded"),
    [
        (ADDRESS, ADDRESS),
        ("2001:db8::1", "2001:DB8:0:0:0:0:0:1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("192.0.2.7", "::FFFF:192.0.2.7"),
    ],
)
async def test_a_proxy_connection_joins_by_address_and_port_however_they_are_written(edge: str, forwarded: str) -> None:
    async with rig() as one:
        entry = one.table.open(edge, PORT, None)

        assert one.table.join(Xforward(addr=forwarded, port=PORT), "") is entry
        assert one.table.join(Xforward(addr=forwarded, port=PORT + 1), "") is not entry


async def test_a_session_of_the_edge_ends_when_the_client_has_left_and_its_last_message_is_done() -> None:
    async with rig() as one:
        entry = one.table.open(ADDRESS, PORT, None)
        entry.pipeline = one.pipeline
        proxy = one.table.join(CLIENT, "")
        one.table.leave(entry)
        await one.settle()
        assert one.left == []
        one.table.leave(proxy)
        await one.settle()

        assert one.left == [entry.session.id]
        assert len(one.table) == 0


async def test_it_does_not_end_by_time_nor_with_its_messages() -> None:
    async with rig() as one:
        entry = one.table.open(ADDRESS, PORT, None)
        entry.pipeline = one.pipeline
        one.table.leave(one.table.join(CLIENT, ""))
        one.clock.now += 10_000
        await one.settle()

        assert one.left == []
        assert one.table.join(CLIENT, "") is entry


async def test_the_next_client_behind_the_same_port_is_another_session() -> None:
    async with rig() as one:
        without_edge = one.join()
        one.table.leave(without_edge)
        first = one.table.open(ADDRESS, PORT, None)
        first.pipeline = one.pipeline
        second = one.table.open(ADDRESS, PORT, None)
        second.pipeline = one.pipeline
        one.table.leave(first)
        await one.settle()

        assert one.left == [without_edge.session.id, first.session.id]
        assert one.table.join(CLIENT, "") is second
        for _ in range(2):
            one.table.leave(second)
        assert one.table.join(CLIENT, "") is not without_edge, "it has ended"


async def test_clients_of_one_port_at_two_services_are_told_apart_by_sender_and_greeting() -> None:
    async with rig() as one:
        entries = [one.table.open(ADDRESS, PORT, None) for _ in range(3)]
        for entry, helo in zip(entries, ("a.example", "b.example", "b.example"), strict=True):
            entry.pipeline, entry.session.helo = one.pipeline, helo
        a, b, latest = entries
        begin(a)
        begin(b)
        sender = Address.parse("a@example.net")

        def joined(helo: str, sender: Address | None) -> Entry:
            entry = one.table.join(CLIENT._replace(helo=helo), "", sender)
            one.table.leave(entry)
            return entry

        assert joined("a.example", sender) is a
        assert joined("b.example", sender) is b
        assert joined("c.example", sender) is b, "the latest that has said MAIL"
        b.session.helo = "b.example"
        assert joined("b.example", Address.parse("else@example.net")) is latest
        for entry in entries:
            one.table.leave(entry)
        await one.settle()
        assert one.left == [entry.session.id for entry in entries]
        assert len(one.table) == 0


async def test_it_is_said_goodbye_once_at_the_end_of_the_daemon_too() -> None:
    async with rig() as one:
        entries = [one.table.open(ADDRESS, PORT, None) for _ in range(2)]
        for entry in entries:
            entry.pipeline = one.pipeline
        await one.table.close()
        for entry in entries:
            one.table.leave(entry)
        await one.settle()

        assert one.left == [entry.session.id for entry in entries]


@pytest.mark.parametrize(
    ("heard", "forwarded", "is_new"),
    [
        ("mx.example", "mx.example", False),
        ("gürtel.example", "gürtel.example", False),
        ("gürtel.example", "g??rtel.example", False),
        ("a\x01b", "a?b", False),
        ('<x> "y";(z)@\\', "?x???y???z???", False),
        (None, "b?d.example", True),
        ("before.example", "b\udce4d.example", True),
        ("mx.example", None, False),
    ],
)
async def test_a_greeting_that_the_edge_did_not_hear_is_judged_at_the_proxy(
    heard: str | None, forwarded: str | None, is_new: bool
) -> None:
    async with rig() as one:
        entry = one.table.open(ADDRESS, PORT, None)
        entry.pipeline, entry.session.helo = one.pipeline, heard
        one.table.join(CLIENT._replace(helo=forwarded, proto="SMTP"), "")

        assert entry.is_on(one.pipeline) is not is_new
        assert entry.session.helo == (forwarded if is_new else heard)
        assert entry.session.esmtp is False


async def test_the_transaction_that_waits_is_taken_once_and_by_its_sender() -> None:
    async with rig() as one:
        entry = one.table.open(ADDRESS, PORT, None)
        flow = begin(entry)

        assert entry.take(Address.parse("other@example.net")) is None
        assert entry.take(Address.parse("a@example.net")) is flow
        assert entry.take(Address.parse("a@example.net")) is None
        assert flow.transaction.id == f"{entry.session.id}.1"
