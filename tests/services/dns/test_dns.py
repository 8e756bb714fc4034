"""The resolver with real name servers: what each question brings, and for how long an answer is kept."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.rigs.dns_rig import BlockList, NameServer, Relay
from tests.services.dns.patient_dns import patient_resolver
from tests.services.store.hand_clock import HandClock

from gatepost.configuration.config import DnsSection
from gatepost.errors import Unavailable
from gatepost.services.dns.answer import Mx, to_dns_name
from gatepost.services.dns.resolver import Resolver, open_resolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

ZONE = f"""\
$ORIGIN zone.example.
$TTL 300
@ IN SOA ns.invalid. hostmaster.invalid. 1 3600 600 86400 60
@ IN NS ns.invalid.
@ IN MX 20 second
@ IN MX 10 First
@ IN TXT "v=spf1 " "-all"
@ IN TXT "two"
mail IN A 192.0.2.1
mail IN A 192.0.2.2
mail IN AAAA 2001:db8::1
short 30 IN A 192.0.2.3
nullmx IN MX 0 .
alias IN CNAME alias2
alias2 30 IN CNAME mail
away IN CNAME far.other.example.
gone IN CNAME nowhere.other.example.
empty IN CNAME mail
loop IN CNAME loop2.other.example.
big IN TXT {" ".join('"' + "x" * 250 + '"' for _ in range(20))}
_dmarc IN TXT "v=DMARC1"
deep.below IN A 192.0.2.4
xn--strae-oqa IN A 192.0.2.5
bytes IN TXT "\\255\\000"
"""
OTHER = """\
$ORIGIN other.example.
$TTL 300
@ IN SOA ns.invalid. hostmaster.invalid. 1 3600 600 86400 60
@ IN NS ns.invalid.
far 20 IN A 192.0.2.9
loop2 IN CNAME loop.zone.example.
"""
REVERSE = "1 IN PTR mail.zone.example.\n1 IN PTR Other.zone.example.\n"
REVERSE6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0 IN PTR six.zone.example.\n"


@pytest.fixture(scope="module")
def nsd() -> Iterator[NameServer]:
    zones = {
        "zone.example": ZONE,
        "other.example": OTHER,
        "2.0.192.in-addr.arpa": REVERSE,
        "8.b.d.0.1.0.0.2.ip6.arpa": REVERSE6,
    }
    with NameServer(zones) as server:
        yield server


@pytest.fixture(scope="module")
def rbldnsd() -> Iterator[BlockList]:
    zones = {
        "bl.example": "192.0.2.1 :127.0.0.2:spam from $\n",
        "six.example:ip6trie": "2001:db8::/32 :127.0.0.4:six\n",
    }
    with BlockList(zones) as server:
        yield server


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
async def relay(nsd: NameServer) -> AsyncIterator[Relay]:
    async with Relay(nsd.address) as relay:
        yield relay


@pytest.fixture
async def dns(nsd: NameServer, clock: HandClock) -> AsyncIterator[Resolver]:
    """Asks nsd itself, so also over TCP."""
    resolver = open_resolver(DnsSection(nameservers=(nsd.address,)), clock)
    yield resolver
    await resolver.close()


@pytest.fixture
async def counted(relay: Relay, clock: HandClock) -> AsyncIterator[Resolver]:
    """Asks nsd through the relay, which counts."""
    resolver = patient_resolver(relay.address, clock=clock)
    yield resolver
    await resolver.close()


# --- what each question brings


async def test_addresses_are_of_both_kinds(dns: Resolver) -> None:
    v4, v6 = (IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")), (IPv6Address("2001:db8::1"),)
    assert set(await dns.a("mail.zone.example")) == set(v4)
    assert await dns.aaaa("mail.zone.example") == v6
    assert set(await dns.addresses("mail.zone.example")) == {*v4, *v6}


async def test_mail_exchangers_come_in_order_and_in_lower_case(dns: Resolver) -> None:
    assert await dns.mx("zone.example") == (Mx(10, "first.zone.example"), Mx(20, "second.zone.example"))


async def test_a_null_mx_is_an_exchanger_without_a_name(dns: Resolver) -> None:
    (null,) = await dns.mx("nullmx.zone.example")
    assert null == Mx(0, "")
    assert null.is_null
    assert not Mx(0, "a.example").is_null


async def test_the_strings_of_a_txt_record_are_joined(dns: Resolver) -> None:
    assert set(await dns.txt("zone.example")) == {b"v=spf1 -all", b"two"}
    assert await dns.txt("bytes.zone.example") == (b"\xff\0",)


async def test_an_address_has_the_names_of_its_reverse_zone(dns: Resolver) -> None:
    assert set(await dns.ptr("192.0.2.1")) == {"mail.zone.example", "other.zone.example"}
    assert await dns.ptr(IPv6Address("2001:db8::1")) == ("six.zone.example",)
    assert await dns.ptr("192.0.2.200") == ()
    assert await dns.ptr("unknown") == ()


async def test_any_type_can_be_asked_for(dns: Resolver) -> None:
    answer = await dns.query("zone.example", "SOA")
    assert str(answer.records[0]).startswith("ns.invalid. hostmaster.invalid. 1 ")
    assert (await dns.query("alias.zone.example", "CNAME")).records[0].to_text() == "alias2.zone.example."


@pytest.mark.parametrize("rdtype", ["ANY", "AXFR", "no such", "", "TYPE99999"])
async def test_what_is_no_type_of_data_is_the_authors_mistake(dns: Resolver, rdtype: str) -> None:
    with pytest.raises(ValueError, match="no type of DNS data"):
        await dns.query("zone.example", rdtype)


async def test_no_such_name_and_no_such_data_differ_only_in_existing(dns: Resolver) -> None:
    assert await dns.a("nowhere.zone.example") == await dns.mx("mail.zone.example") == ()
    assert not (await dns.query("nowhere.zone.example", "A")).exists
    assert (await dns.query("mail.zone.example", "MX")).exists
    assert (await dns.query("below.zone.example", "A")).exists


async def test_aliases_are_followed_also_into_another_zone(dns: Resolver) -> None:
    assert set(await dns.a("alias.zone.example")) == {IPv4Address("192.0.2.1"), IPv4Address("192.0.2.2")}
    assert await dns.a("away.zone.example") == (IPv4Address("192.0.2.9"),)


async def test_an_alias_of_nothing_is_no_such_name(dns: Resolver) -> None:
    assert not (await dns.query("gone.zone.example", "A")).exists
    assert (await dns.query("empty.zone.example", "MX")).exists


async def test_an_endless_chain_of_aliases_is_no_answer(dns: Resolver) -> None:
    with pytest.raises(Unavailable, match="ChainTooLong"):
        await dns.a("loop.zone.example")


async def test_what_does_not_fit_into_a_packet_comes_over_tcp(dns: Resolver) -> None:
    assert await dns.txt("big.zone.example") == (b"x" * 250 * 20,)


async def test_a_real_block_list_lists_and_says_why(rbldnsd: BlockList) -> None:
    dns = open_resolver(DnsSection(nameservers=(rbldnsd.address,)))
    assert await dns.a("1.2.0.192.bl.example") == (IPv4Address("127.0.0.2"),)
    assert await dns.txt("1.2.0.192.bl.example") == (b"spam from 192.0.2.1",)
    assert await dns.a("2.2.0.192.bl.example") == ()
    nibbles = IPv6Address("2001:db8::1").reverse_pointer.removesuffix(".ip6.arpa")
    assert await dns.a(f"{nibbles}.six.example") == (IPv4Address("127.0.0.4"),)


async def test_a_zone_that_the_server_does_not_serve_is_unavailable(rbldnsd: BlockList) -> None:
    dns = open_resolver(DnsSection(nameservers=(rbldnsd.address,)))
    with pytest.raises(Unavailable, match=rf"^dns: 1\.example A: {rbldnsd.address} answered REFUSED$"):
        await dns.a("1.example")


# --- names


async def test_case_and_a_final_dot_do_not_matter(counted: Resolver, relay: Relay) -> None:
    for name in ("mail.zone.example", "mail.zone.example.", "MAIL.Zone.Example"):
        assert len(await counted.a(name)) == 2
    assert relay.asked == 1


async def test_an_internationalised_name_is_asked_in_its_ascii_form(dns: Resolver) -> None:
    for name in (
        "straße.zone.example",
        "STRAßE.zone.example",
        "xn--strae-oqa.zone.example",
        "straße\u3002zone.example",
    ):
        assert await dns.a(name) == (IPv4Address("192.0.2.5"),)


IMPOSSIBLE = [
    "",
    ".",
    "..",
    "a..example",
    ".example",
    "a" * 64 + ".example",
    "a." * 127 + "aa",
    "\udcff.example",
    "ü" * 63,
]


@pytest.mark.parametrize("name", IMPOSSIBLE)
async def test_what_cannot_be_a_name_does_not_exist(counted: Resolver, relay: Relay, name: str) -> None:
    assert await counted.addresses(name) == ()
    assert not (await counted.query(name, "TXT")).exists
    assert relay.asked == 0


@pytest.mark.parametrize(
    "name", ["a b.zone.example", "a\\.zone.example", "@.zone.example", "*.zone.example", "a\0b.zone.example"]
)
async def test_odd_characters_mean_themselves(dns: Resolver, name: str) -> None:
    assert not (await dns.query(name, "A")).exists


async def test_names_are_absolute(dns: Resolver) -> None:
    with pytest.raises(Unavailable, match="REFUSED"):
        await dns.a("mail")


@given(st.text())
def test_no_text_breaks_a_name(text: str) -> None:
    name = to_dns_name(text)
    assert name is None or name.is_absolute()


# --- the cache


@pytest.mark.parametrize(
    ("name", "rdtype", "ttl"),
    [
        ("mail.zone.example", "A", 300),
        ("short.zone.example", "A", 30),
        ("alias.zone.example", "A", 30),
        ("away.zone.example", "A", 20),
        ("nowhere.zone.example", "A", 60),
        ("mail.zone.example", "MX", 60),
        ("gone.zone.example", "A", 60),
    ],
)
async def test_an_answer_is_kept_until_its_ttl_is_over(
    counted: Resolver, relay: Relay, clock: HandClock, name: str, rdtype: str, ttl: int
) -> None:
    first = await counted.query(name, rdtype)
    asked = relay.asked
    clock.now += ttl - 0.1
    assert await counted.query(name, rdtype) == first
    assert relay.asked == asked
    clock.now += 0.2
    assert await counted.query(name, rdtype) == first
    assert relay.asked == 2 * asked


async def test_types_are_kept_apart(counted: Resolver, relay: Relay) -> None:
    assert len(await counted.addresses("mail.zone.example")) == 3
    assert await counted.txt("mail.zone.example") == ()
    assert relay.asked == 3


async def test_a_cache_of_size_0_keeps_nothing(relay: Relay) -> None:
    dns = patient_resolver(relay.address, cache_size=0)
    for _ in range(3):
        await dns.a("mail.zone.example")
    assert relay.asked == 3
