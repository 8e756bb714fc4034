"""One resolver for everybody: questions in flight are shared, many go side by side, threads have a way in."""

from __future__ import annotations

import asyncio
import threading
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pytest
from tests.rigs.dns_rig import Answering, NameServer, Relay
from tests.services.dns.patient_dns import GatheringRelay, patient_resolver

from gatepost import Deny, Plugin, Recipient, Transaction, Verdict
from gatepost.configuration.config import DnsSection
from gatepost.errors import Unavailable
from gatepost.services.dns.resolver import ON_THE_WIRE, Resolver, open_resolver
from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ADDRESS = (IPv4Address("192.0.2.1"),)
DELAY_S = 0.1


@pytest.fixture(scope="module")
def nsd() -> Iterator[NameServer]:
    with NameServer({"zone.example": '* IN A 192.0.2.1\n* IN TXT "why"\n* IN MX 10 mx.zone.example.'}) as server:
        yield server


@pytest.fixture
async def slow(nsd: NameServer) -> AsyncIterator[Relay]:
    async with Relay(nsd.address, delay_s=DELAY_S) as relay:
        yield relay


@pytest.fixture
async def dns(slow: Relay) -> AsyncIterator[Resolver]:
    resolver = patient_resolver(slow.address)
    yield resolver
    await resolver.close()


async def until_asked(server: Answering, count: int = 1) -> None:
    async with asyncio.timeout(60):
        while server.asked < count:  # noqa: ASYNC110 - it counts what comes in from outside
            await asyncio.sleep(0.001)


# --- questions in flight


async def test_a_hundred_callers_are_one_question(dns: Resolver, slow: Relay) -> None:
    found = await asyncio.gather(*(dns.a("x.zone.example") for _ in range(100)))
    assert found == [ADDRESS] * 100
    assert slow.asked == 1


async def test_a_caller_that_goes_away_leaves_the_others(dns: Resolver, slow: Relay) -> None:
    first, *others = [asyncio.create_task(dns.a("x.zone.example")) for _ in range(3)]
    await until_asked(slow)
    first.cancel()
    assert await asyncio.gather(*others) == [ADDRESS] * 2
    assert first.cancelled()
    assert slow.asked == 1


async def test_an_answer_for_which_nobody_waits_any_more_is_kept(dns: Resolver, slow: Relay) -> None:
    only = asyncio.create_task(dns.a("x.zone.example"))
    await until_asked(slow)
    only.cancel()
    while dns.in_flight:  # noqa: ASYNC110 - nobody is told
        await asyncio.sleep(0.001)
    assert await dns.a("x.zone.example") == ADDRESS
    assert slow.asked == 1


async def test_a_failure_reaches_every_caller(nsd: NameServer) -> None:
    async with Answering(lambda _: None) as silent:
        dns = open_resolver(DnsSection(nameservers=(silent.address,), timeout=0.2))
        found = await asyncio.gather(*(dns.a("x.zone.example") for _ in range(20)), return_exceptions=True)
        assert {str(one) for one in found} == {f"dns: x.zone.example A: no answer within 0.2 s from {silent.address}"}
        assert len({id(one) for one in found}) == 20, "each caller raises an exception of its own"


class Impatient(Plugin):
    """Has less time than the name server takes."""

    async def rcpt(self, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        return Deny() if await self.dns.a("x.zone.example") else None


class Patient(Impatient):
    """Asks the same."""


async def test_a_hook_whose_time_is_over_leaves_the_answer_to_others(dns: Resolver, slow: Relay) -> None:
    short = {"timeout": DELAY_S / 4}
    async with gate(Impatient, dns=dns, impatient=short) as first, gate(Patient, dns=dns) as second:
        clients = [made.client() for made in (first, second)]
        for client in clients:
            await client.mail()
        replies = await asyncio.gather(*(client.rcpt("a@example.org") for client in clients))
    assert [reply.code for reply in replies] == [451, 550]
    assert slow.asked == 1


# --- many at once


async def test_twenty_zones_cost_the_slowest_and_not_the_sum(nsd: NameServer) -> None:
    async with GatheringRelay(nsd.address, 20) as relay:
        dns = patient_resolver(relay.address)
        found = await asyncio.gather(*(dns.a(f"{number}.zone.example") for number in range(20)))
        assert found == [ADDRESS] * 20
        assert relay.asked == relay.most == 20


async def test_no_more_than_so_many_are_on_the_wire(nsd: NameServer) -> None:
    # While as many as may be are waiting there is time for one too many to come.
    async with GatheringRelay(nsd.address, ON_THE_WIRE, rounds=3, delay_s=DELAY_S) as relay:
        dns = patient_resolver(relay.address)
        await asyncio.gather(*(dns.a(f"{number}.zone.example") for number in range(3 * ON_THE_WIRE)))
        assert relay.asked == 3 * ON_THE_WIRE
        assert relay.most == ON_THE_WIRE


async def test_who_waits_for_a_turn_too_long_hears_so_in_time() -> None:
    async with Answering(lambda _: None) as silent:
        dns = open_resolver(DnsSection(nameservers=(silent.address,), timeout=0.3))
        # On a busy machine the last are asked for so much later than the first that many get a turn for a moment.
        names = (dns.a(f"{number}.zone.example") for number in range(8 * ON_THE_WIRE))
        async with asyncio.timeout(60):
            found = await asyncio.gather(*names, return_exceptions=True)
        assert all(isinstance(one, Unavailable) for one in found)
        assert silent.asked < 4 * ON_THE_WIRE, "for most the time was over before their turn came"


# --- threads


async def test_a_thread_asks_by_the_same_names(dns: Resolver) -> None:
    def ask() -> tuple[object, ...]:
        blocking = dns.blocking
        return (
            blocking.a("x.zone.example"),
            blocking.aaaa("x.zone.example"),
            blocking.addresses("x.zone.example"),
            blocking.txt("x.zone.example"),
            [mx.host for mx in blocking.mx("x.zone.example")],
            blocking.query("nowhere.zone.example", "SRV").records,
            blocking.ptr("unknown"),
        )

    assert await asyncio.to_thread(ask) == (ADDRESS, (), ADDRESS, (b"why",), ["mx.zone.example"], (), ())


async def test_a_thread_shares_questions_and_cache(dns: Resolver, slow: Relay) -> None:
    blocking = dns.blocking
    found = await asyncio.gather(
        dns.a("x.zone.example"), *(asyncio.to_thread(blocking.a, "x.zone.example") for _ in range(3))
    )
    assert found == [ADDRESS] * 4
    assert await asyncio.to_thread(blocking.a, "x.zone.example") == ADDRESS
    assert slow.asked == 1


async def test_trouble_is_unavailable_in_a_thread_too() -> None:
    async with Answering(lambda _: None) as silent:
        dns = open_resolver(DnsSection(nameservers=(silent.address,), timeout=0.2))
        with pytest.raises(Unavailable, match="no answer within"):
            await asyncio.to_thread(dns.blocking.a, "x.zone.example")


async def test_waiting_on_the_event_loop_itself_is_refused(dns: Resolver) -> None:
    with pytest.raises(RuntimeError, match="for threads"):
        dns.blocking.a("x.zone.example")


def test_a_resolver_made_in_a_thread_belongs_to_the_loop_that_uses_it(nsd: NameServer) -> None:
    dns = open_resolver(DnsSection(nameservers=(nsd.address,)))
    with pytest.raises(RuntimeError, match="not been used"):
        dns.blocking  # noqa: B018

    async def use() -> tuple[IPv4Address, ...]:
        await dns.a("x.zone.example")
        return await asyncio.to_thread(dns.blocking.a, "y.zone.example")

    assert asyncio.run(use()) == ADDRESS


def test_a_thread_outlives_the_event_loop() -> None:
    """It may sit in a plugin's library, which nothing can interrupt."""
    answers: list[str] = []
    resolvers: list[Resolver] = []
    threads: list[threading.Thread] = []

    def ask(name: str) -> None:
        with pytest.raises(Unavailable) as caught:
            resolvers[0].blocking.a(name)
        answers.append(caught.value.reason)

    async def end_early() -> None:
        async with Answering(lambda _: None) as silent:
            resolvers.append(open_resolver(DnsSection(nameservers=(silent.address,), timeout=60)))
            threads.append(threading.Thread(target=ask, args=("waiting.example",)))
            threads[0].start()
            await until_asked(silent)

    asyncio.run(end_early())
    threads[0].join(60)
    ask("late.example")
    assert answers == ["gatepost is stopping", "gatepost has stopped"]


# --- the end


async def test_at_the_end_who_waits_is_told_and_nobody_asks_any_more(dns: Resolver, slow: Relay) -> None:
    slow.delay_s = 60.0
    waiting = asyncio.create_task(dns.a("x.zone.example"))
    await until_asked(slow)
    await dns.close()
    with pytest.raises(Unavailable, match="stopping"):
        await waiting
    with pytest.raises(Unavailable, match="stopping"):
        await dns.a("y.zone.example")
    await dns.close()
    assert slow.asked == 1
