"""Name servers that fail, lie, lag or are dead: another one answers, or it is Unavailable, and never "no such name"."""

from __future__ import annotations

import asyncio
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from tests.rigs.dns_rig import Answering, NameServer, Relay, free_port
from tests.services.store.hand_clock import HandClock

from gatepost.errors import Unavailable
from gatepost.nameserver import Nameserver
from gatepost.services.dns.exchange import NameserverExchange
from gatepost.services.dns.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

NAME = "x.zone.example"
ADDRESS = (IPv4Address("192.0.2.1"),)


LONG_S = 60.0
"""What no answer here takes, on the busiest machine."""

SOON_S = 0.05


class SoonOnce(NameserverExchange):
    """Asks on soon after the first attempt of all; every other one may take as long as it takes."""

    _asked_on = False

    def _turns(self, problems: Mapping[Nameserver, str]) -> Iterator[tuple[Nameserver, float]]:
        for server, patience_s in super()._turns(problems):
            yield server, patience_s if self._asked_on else SOON_S
            self._asked_on = True


def resolver(
    *addresses: str,
    timeout_s: float = LONG_S,
    patience_s: float = LONG_S,
    clock: HandClock | None = None,
    exchange: type[NameserverExchange] = NameserverExchange,
) -> Resolver:
    """A server is asked again, or the next one as well, after `patience_s`; after `timeout_s` it is over."""
    nameservers = [Nameserver.parse(address) for address in addresses]
    return Resolver(exchange(nameservers, patience_s=patience_s), timeout_s=timeout_s, clock=clock or HandClock())


def response(wire: bytes, *, rcode: str = "NOERROR", answer: str = "", authority: str = "") -> dns.message.Message:
    """Return a response to the query; answer and authority are `TTL TYPE DATA` about the name asked for."""
    query = dns.message.from_wire(wire)
    made = dns.message.make_response(query)
    made.set_rcode(dns.rcode.from_text(rcode))
    for section, text in ((made.answer, answer), (made.authority, authority)):
        if text:
            ttl, rdtype, data = text.split(" ", 2)
            section.append(dns.rrset.from_text(query.question[0].name, int(ttl), "IN", rdtype, data))
    return made


def good(wire: bytes) -> bytes:
    return response(wire, answer="300 A 192.0.2.1").to_wire()


def failing(rcode: str) -> Callable[[bytes], bytes]:
    return lambda wire: response(wire, rcode=rcode).to_wire()


def silent(wire: bytes) -> None:
    return None


def in_turn(*answers: Callable[[bytes], bytes | None]) -> Callable[[bytes], bytes | None]:
    """Answer the first query with the first, and so on; the last one goes on."""
    rest = list(answers)
    return lambda wire: (rest.pop(0) if len(rest) > 1 else rest[0])(wire)


async def problem(dns_resolver: Resolver, name: str = NAME) -> str:
    with pytest.raises(Unavailable) as caught:
        await dns_resolver.a(name)
    assert caught.value.service == "dns"
    return caught.value.reason


@pytest.fixture(scope="module")
def nsd() -> Iterator[NameServer]:
    text = " ".join('"' + "x" * 250 + '"' for _ in range(20))
    with NameServer({"zone.example": f"x IN A 192.0.2.1\nbig IN TXT {text}"}) as server:
        yield server


# --- one server


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED", "FORMERR", "NOTIMP", "YXDOMAIN"])
async def test_a_failing_server_is_unavailable_and_named(rcode: str) -> None:
    async with Answering(failing(rcode)) as server:
        assert await problem(resolver(server.address)) == f"{NAME} A: {server.address} answered {rcode}"


async def test_a_server_that_keeps_silent_is_unavailable_when_the_time_is_over() -> None:
    async with Answering(silent) as server:
        reason = await problem(resolver(server.address, timeout_s=0.3))
        assert reason == f"{NAME} A: no answer within 0.3 s from {server.address}"


async def test_a_server_that_keeps_silent_is_asked_again_and_again() -> None:
    async with Answering(in_turn(silent, silent, silent, good)) as server:
        assert await resolver(server.address, patience_s=SOON_S).a(NAME) == ADDRESS
        assert server.asked > 3


async def test_a_dead_port_is_unavailable_long_before_the_time_is_over() -> None:
    address = f"127.0.0.1:{free_port()}"
    async with asyncio.timeout(LONG_S / 2):
        assert "Connection refused" in await problem(resolver(address))


def wrong_id(wire: bytes) -> bytes:
    return bytes([wire[0] ^ 0xFF]) + good(wire)[1:]


def wrong_question(wire: bytes) -> bytes:
    other = dns.message.make_query("y.zone.example", "A", id=int.from_bytes(wire[:2], "big"))
    return good(other.to_wire())


def cut(wire: bytes) -> bytes:
    return good(wire)[:-3]


GARBAGE: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda _: b"",
    "a word": lambda _: b"garbage",
    "the query": lambda wire: wire,
    "zeros": lambda wire: wire[:2] + bytes(500),
    "ones": lambda wire: wire[:2] + b"\xff" * 500,
    "another id": wrong_id,
    "another question": wrong_question,
    "cut short": cut,
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_garbage_is_not_listened_to(kind: str) -> None:
    async with Answering(GARBAGE[kind]) as server:
        assert "no answer within" in await problem(resolver(server.address, timeout_s=0.2))
    async with Answering(in_turn(GARBAGE[kind], good)) as server:
        assert await resolver(server.address, patience_s=SOON_S).a(NAME) == ADDRESS


async def test_a_name_that_does_not_exist_and_has_an_address_is_garbage() -> None:
    def contradiction(wire: bytes) -> bytes:
        return response(wire, rcode="NXDOMAIN", answer="300 A 192.0.2.1").to_wire()

    async with Answering(contradiction) as server:
        assert "garbage: AnswerForNXDOMAIN" in await problem(resolver(server.address))


async def test_a_referral_is_not_taken_for_no_data() -> None:
    async with Answering(lambda wire: response(wire, authority="300 NS ns.example.").to_wire()) as server:
        assert "referral" in await problem(resolver(server.address))


async def test_a_server_that_does_not_know_edns_is_asked_without() -> None:
    def old(wire: bytes) -> bytes:
        return good(wire) if dns.message.from_wire(wire).edns < 0 else failing("FORMERR")(wire)

    async with Answering(old) as server:
        assert await resolver(server.address).a(NAME) == ADDRESS


async def test_a_lost_packet_is_sent_again() -> None:
    async with Answering(in_turn(silent, good)) as server:
        assert await resolver(server.address, exchange=SoonOnce).a(NAME) == ADDRESS
        assert server.asked == 2


async def test_a_slow_answer_counts_although_the_question_was_repeated() -> None:
    async with Answering(in_turn(good, silent), delay_s=0.2) as server:
        assert await resolver(server.address, patience_s=SOON_S).a(NAME) == ADDRESS
        assert server.asked > 1


async def test_half_an_answer_without_tcp_is_no_answer(nsd: NameServer) -> None:
    async with Relay(nsd.address) as udp_only:
        dns_resolver = resolver(udp_only.address)
        assert await dns_resolver.a(NAME) == ADDRESS
        with pytest.raises(Unavailable, match="Connection refused"):
            await dns_resolver.txt("big.zone.example")


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\0",
        b"\0\x10short",
        b"\0\x0cxxxxxxxxxxxx",
        b"\0\0",
        b"\x10\0" + b"\xff" * 4096,
        b"\xff\xff" + b"\xff" * 65535,
    ],
    ids=["closed", "half a length", "cut", "garbage", "empty", "4 KiB", "64 KiB"],
)
async def test_a_broken_answer_over_tcp_is_no_answer(reply: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(512)
        writer.write(reply)
        writer.close()

    def truncated(wire: bytes) -> bytes:
        made = response(wire)
        made.flags |= dns.flags.TC
        return made.to_wire()

    port = free_port()
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    async with server, Answering(truncated, port=port) as udp:
        expected = "answered with 65535 bytes" if len(reply) > 65_535 else "answered garbage"
        assert expected in await problem(resolver(udp.address))


# --- aliases that the server leaves to us


async def test_an_alias_without_its_target_is_followed() -> None:
    def answer(wire: bytes) -> bytes:
        if dns.message.from_wire(wire).question[0].name.to_text() == f"{NAME}.":
            return response(wire, answer="20 CNAME target.example.").to_wire()
        return good(wire)

    async with Answering(answer) as server:
        found = await resolver(server.address).query(NAME, "A")
        assert ([record.to_text() for record in found.records], found.ttl) == (["192.0.2.1"], 20)
        assert server.asked == 2


async def test_a_chain_of_aliases_without_end_is_given_up() -> None:
    def answer(wire: bytes) -> bytes:
        name = dns.message.from_wire(wire).question[0].name
        return response(wire, answer=f"20 CNAME n{name}").to_wire()

    async with Answering(answer) as server:
        assert "more than 8 CNAMEs" in await problem(resolver(server.address))


# --- several servers


async def test_a_dead_first_server_leaves_it_to_the_second() -> None:
    async with Answering(good) as second:
        dns_resolver = resolver(f"127.0.0.1:{free_port()}", second.address)
        async with asyncio.timeout(LONG_S / 2):
            assert await dns_resolver.a(NAME) == ADDRESS


@pytest.mark.parametrize("rcode", ["SERVFAIL", "REFUSED"])
async def test_a_failing_first_server_leaves_it_to_the_second(rcode: str) -> None:
    async with Answering(failing(rcode)) as first, Answering(good) as second:
        dns_resolver = resolver(first.address, second.address)
        async with asyncio.timeout(LONG_S / 2):
            assert await dns_resolver.a(NAME) == ADDRESS
        assert await dns_resolver.a("y.zone.example") == ADDRESS
        assert first.asked == 2, "it failed for this name only, for all we know"


async def test_a_silent_server_is_asked_last_from_then_on() -> None:
    async with Answering(silent) as first, Answering(good) as second:
        dns_resolver = resolver(first.address, second.address, exchange=SoonOnce)
        for number in range(5):
            assert await dns_resolver.a(f"{number}.zone.example") == ADDRESS
        assert (first.asked, second.asked) == (1, 5)


async def test_no_such_name_is_an_answer_and_asks_nobody_else() -> None:
    async with Answering(failing("NXDOMAIN")) as first, Answering(good) as second:
        assert await resolver(first.address, second.address).a(NAME) == ()
        assert second.asked == 0


async def test_what_every_server_did_is_told() -> None:
    async with Answering(failing("SERVFAIL")) as first, Answering(failing("REFUSED")) as second:
        reason = await problem(resolver(first.address, second.address))
        assert reason == f"{NAME} A: {first.address} answered SERVFAIL; {second.address} answered REFUSED"


# --- what is kept


async def test_a_failure_is_kept_for_five_seconds() -> None:
    clock = HandClock()
    async with Answering(in_turn(failing("SERVFAIL"), good)) as server:
        dns_resolver = resolver(server.address, clock=clock)
        assert "SERVFAIL" in await problem(dns_resolver)
        clock.now += 4.9
        assert "SERVFAIL" in await problem(dns_resolver)
        assert server.asked == 1
        clock.now += 0.2
        assert await dns_resolver.a(NAME) == ADDRESS


@pytest.mark.parametrize("rcode", ["NXDOMAIN", "NOERROR"])
async def test_a_negative_answer_without_soa_is_not_kept(rcode: str) -> None:
    async with Answering(in_turn(failing(rcode), good)) as server:
        dns_resolver = resolver(server.address)
        assert await dns_resolver.a(NAME) == ()
        assert await dns_resolver.a(NAME) == ADDRESS


async def test_half_of_the_addresses_are_not_taken_for_all() -> None:
    def only_v4(wire: bytes) -> bytes:
        return (good if b"\0\x01\0\x01" in wire else failing("SERVFAIL"))(wire)

    async with Answering(only_v4) as server:
        dns_resolver = resolver(server.address)
        assert await dns_resolver.a(NAME) == ADDRESS
        with pytest.raises(Unavailable, match=f"{NAME} AAAA: .*SERVFAIL"):
            await dns_resolver.addresses(NAME)
