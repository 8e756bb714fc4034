"""What a test says of DNS: a table, name servers, a resolver, or nothing, which is not "no such name"."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

import pytest
from tests.rigs.dns_rig import NameServer

from gatepost import Address, ConfigError, Deny, DenySoft, Mx, Plugin, Transaction, Unavailable, Verdict
from gatepost.testing import gate, run_hook
from gatepost.testing.dns_table import TableSource, resolver_for_test

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gatepost.services.dns.resolver import Resolver
    from gatepost.testing.dns_table import Dns, DnsTable

TABLE: DnsTable = {
    "2.0.0.127.bl.example": {"A": ["127.0.0.2", "127.0.0.9"], "TXT": ["spam; source", "x" * 300]},
    "zone.example": {"MX": ["20 b.example", "10 A.example."]},
    "www.zone.example": {"CNAME": ["zone.example"]},
    "away.zone.example": {"CNAME": ["www.dead.example."]},
    "round.zone.example": {"CNAME": ["round.zone.example"]},
    "half.zone.example": {"A": ["192.0.2.1"], "AAAA": "servfail"},
    "six.zone.example": {"AAAA": ["2001:db8::1"]},
    "dead.example": "timeout",
    "failing.example": "servfail",
    "alive.dead.example": {"A": ["192.0.2.7"]},
    "1.2.0.192.in-addr.arpa": {"PTR": ["Mail.zone.example."]},
}


@pytest.fixture
def dns() -> Resolver:
    return resolver_for_test(TABLE)


async def test_records_are_what_the_table_says(dns: Resolver) -> None:
    assert await dns.a("2.0.0.127.BL.example.") == (IPv4Address("127.0.0.2"), IPv4Address("127.0.0.9"))
    assert await dns.txt("2.0.0.127.bl.example") == (b"spam; source", b"x" * 300)
    assert await dns.mx("zone.example") == (Mx(10, "a.example"), Mx(20, "b.example"))
    assert await dns.aaaa("six.zone.example") == (IPv6Address("2001:db8::1"),)
    assert await dns.ptr("192.0.2.1") == ("mail.zone.example",)
    assert await dns.mx("www.zone.example") == await dns.mx("zone.example")


@pytest.mark.parametrize(
    ("name", "exists"),
    [("zone.example", True), ("bl.example", True), ("example", True), ("no.zone.example", False), ("other", False)],
)
async def test_a_name_exists_when_it_or_one_below_it_is_there(dns: Resolver, name: str, exists: bool) -> None:
    answer = await dns.query(name, "A")
    assert (answer.records, answer.exists) == ((), exists)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("dead.example", "gave no answer in time"),
        ("any.below.dead.example", "gave no answer in time"),
        ("away.zone.example", "gave no answer in time"),
        ("failing.example", "answered SERVFAIL"),
        ("round.zone.example", "CNAMEs"),
    ],
)
async def test_trouble_is_unavailable(dns: Resolver, name: str, reason: str) -> None:
    with pytest.raises(Unavailable, match=reason):
        await dns.a(name)


async def test_trouble_may_be_of_one_type_and_may_end_below(dns: Resolver) -> None:
    assert await dns.a("half.zone.example") == (IPv4Address("192.0.2.1"),)
    with pytest.raises(Unavailable, match="SERVFAIL"):
        await dns.aaaa("half.zone.example")
    assert await dns.a("alive.dead.example") == (IPv4Address("192.0.2.7"),)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"a..b": {}}, "dns: 'a..b' is no DNS name"),
        ({"a.example": "down"}, 'dns: a.example: write a list of records, "servfail" or "timeout", not \'down\''),
        ({"a.example": {"A": "192.0.2.1"}}, "dns: a.example A: write a list of records"),
        ({"a.example": {"A": ["mail"]}}, "dns: a.example A: 'mail' is no such record"),
        ({"a.example": {"MX": ["a.example"]}}, "dns: a.example MX: 'a.example' is no such record"),
        ({"a.example": {"NONE SUCH": ["a"]}}, "dns: a.example NONE SUCH: there is no such record type"),
    ],
)
def test_a_mistake_in_the_table_is_told(table: Mapping[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TableSource(table)
    assert str(caught.value).startswith(problem)


class Listed(Plugin):
    """Refuses senders in a list, softly when it does not know."""

    async def mail(self, transaction: Transaction, sender: Address, parameters: object) -> Verdict | None:
        try:
            return Deny() if await self.dns.a(f"{sender.domain}.bl.example") else None
        except Unavailable as unavailable:
            return DenySoft(str(unavailable))


async def verdict(dns: Dns | None) -> Verdict:
    return (await run_hook(Listed, "mail", sender="a@x.example", dns=dns)).verdict


async def test_a_hook_finds_what_the_test_says() -> None:
    assert (await verdict({"x.example.bl.example": {"A": ["127.0.0.2"]}})).kind == "Deny"
    assert (await verdict({})).kind == "Declined"
    assert (await verdict({"bl.example": "servfail"})).kind == "DenySoft"


async def test_without_a_word_of_dns_it_is_unavailable() -> None:
    assert (
        await verdict(None)
    ).text == "dns: x.example.bl.example A: this test has none: say what is there, with dns={...}"


async def test_a_hook_asks_the_name_servers_that_the_test_gives() -> None:
    with NameServer({"bl.example": "x.example IN A 127.0.0.2"}) as server:
        assert (await verdict([server.address])).kind == "Deny"


async def test_a_resolver_of_the_tests_own_is_left_open() -> None:
    dns = resolver_for_test({"x.example.bl.example": {"A": ["127.0.0.2"]}})
    for _ in range(2):
        async with gate(Listed, dns=dns) as made:
            client = made.client()
            await client.mail("a@x.example")
            assert (await client.rcpt("b@example.org")).code == 550
