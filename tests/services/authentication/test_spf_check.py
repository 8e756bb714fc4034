"""check_host: limits that keep a record from costing others time, and what pyspf is taught beside the suite."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import spf
from hypothesis import given
from hypothesis import strategies as st

from gatepost.services import processor
from gatepost.services.authentication import spf_check
from gatepost.services.authentication.spf_check import SpfFinding, SpfIdentity, check_host
from gatepost.spending import Account, account
from gatepost.testing.dns_table import resolver_for_test

if TYPE_CHECKING:
    from collections.abc import Callable

    from gatepost.testing.dns_table import DnsTable

LONG = "v=spf1 " + " ".join(f"ip4:198.51.100.{number}" for number in range(100)) + " ip4:192.0.2.1 -all"


async def find(
    table: DnsTable, client: str = "192.0.2.1", local: str = "a", domain: str = "evil.example", helo: str = "h.example"
) -> SpfFinding:
    resolver = resolver_for_test(table)
    try:
        return await check_host(resolver, ip_address(client), SpfIdentity(local, domain), helo)
    finally:
        await resolver.close()


async def result(table: DnsTable, client: str = "192.0.2.1") -> str:
    return (await find(table, client)).result


def three_hosts(rdtype: str) -> DnsTable:
    hosts = {f"m{number}.evil.example": {rdtype: ["192.0.2.1" if rdtype == "A" else "2001:db8::1"]} for number in "123"}
    mx = [f"10 {host}" for host in hosts]
    return {"evil.example": {"TXT": ["v=spf1 mx -all"], "MX": mx}, **hosts}


async def test_mail_hosts_without_ipv6_are_no_error_for_a_client_with_it() -> None:
    assert await result(three_hosts("A"), client="2001:db8::7") == "fail"
    assert await result(three_hosts("AAAA"), client="2001:db8::1") == "pass"


async def test_the_third_term_without_an_answer_is_an_error() -> None:
    nothing = {f"{name}.example": {"TXT": ["x"]} for name in "abc"}
    for terms, wanted in (
        ("a:a.example mx:b.example", "fail"),
        ("a:a.example mx:b.example exists:c.example", "permerror"),
    ):
        assert await result({"evil.example": {"TXT": [f"v=spf1 {terms} -all"]}, **nothing}) == wanted
    empty = {f"m{number}.example": {"MX": [f"10 h{number}.example"]} for number in "123"}
    record = "v=spf1 mx:m1.example mx:m2.example mx:m3.example -all"
    assert await result({"evil.example": {"TXT": [record]}, **empty}) == "permerror"


async def test_a_ptr_that_cannot_be_looked_up_does_not_match() -> None:
    table: DnsTable = {"evil.example": {"TXT": ["v=spf1 ptr -all"]}, "1.2.0.192.in-addr.arpa": "servfail"}
    assert await result(table) == "fail"
    table = {
        "evil.example": {"TXT": ["v=spf1 ptr -all"], "A": ["192.0.2.1"]},
        "1.2.0.192.in-addr.arpa": {"PTR": ["dead.example.", "evil.example."]},
        "dead.example": "servfail",
    }
    assert await result(table) == "pass"


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("v=spf1 " + "a " * 8000, "more than 4096 bytes"),
        ("v=spf1 x=%%" + "." * 4000, "more than 512 characters"),
        ("v=spf1 x=" + "%{" * 2000, "more than 512 characters"),
        ("v=spf1 a:." + "a" * 4000 + "!", "more than 512 characters"),
        ("v=spf1 redirect=." + "a" * 4000 + "!", "more than 512 characters"),
        ("v=spf1 exp=." + "a" * 4000 + "!", "more than 512 characters"),
        ("v=spf1 include:b.example -all", "Too many DNS lookups"),
        ("v=spf1 redirect=evil.example", "Too many DNS lookups"),
    ],
)
async def test_a_record_that_is_made_to_cost_time_is_an_error(record: str, reason: str) -> None:
    found = await find({"evil.example": {"TXT": [record]}, "b.example": {"TXT": ["v=spf1 include:evil.example"]}})
    assert found.result == "permerror"
    assert reason in found.reason


async def test_long_texts_for_other_purposes_do_not_matter() -> None:
    assert await result({"evil.example": {"TXT": ["key=" + "x" * 9000, "v=spf1 ip4:192.0.2.1 -all"]}}) == "pass"


async def test_nobody_is_asked_about_an_address_in_brackets() -> None:
    assert (await find({"[192.0.2.1]": "servfail"}, domain="[192.0.2.1]")).result == "none"


async def test_work_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spf_check, "WORK_LIMIT_S", 0.0)
    assert await result({"evil.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]}}) == "temperror"


async def test_large_records_are_read_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    in_thread = processor.in_thread

    async def counted(work: Callable[[], Any]) -> Any:
        runs.append("thread")
        return await in_thread(work)

    monkeypatch.setattr(spf_check, "in_thread", counted)
    assert await result({"evil.example": {"TXT": [LONG]}}) == "pass"
    assert runs == ["thread"]
    assert await result({"evil.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all"]}}) == "pass"
    assert runs == ["thread"]


async def test_nobody_asks_for_the_explanation_of_a_pass() -> None:
    table: DnsTable = {"evil.example": {"TXT": ["v=spf1 ip4:192.0.2.1 -all exp=e.example"]}}
    asked = []
    for client in ("192.0.2.1", "192.0.2.2"):
        payer = Account()
        token = account.set(payer)
        await find(table, client)
        account.reset(token)
        asked.append(payer.hook.dns_queries)
    assert asked == [1, 2]


TOKENS = (
    *(
        "v=spf1 ",
        " ",
        "a",
        "mx",
        "ptr",
        "exists:",
        "include:",
        "redirect=",
        "exp=",
        "ip4:",
        "ip6:",
        "all",
        "-",
        "~",
        "?",
    ),
    *("%{", "}", "%", "%%", "%_", "s", "l", "o", "d", "i", "p", "v", "h", "c", "r", "t", "L", "0", "9", "r", ".", "/"),
    *("//", "32", "evil.example", ":", "=", "1.2.3.4", "::1", "\t", "\r\n", "é", ",", "x" * 70, "\0", "default="),
)


@given(
    record=st.lists(st.sampled_from(TOKENS), max_size=25).map("".join),
    local=st.text(max_size=20),
    helo=st.text(max_size=20),
)
def test_no_record_and_no_name_makes_an_exception(record: str, local: str, helo: str) -> None:
    table: DnsTable = {
        "evil.example": {"TXT": [f"v=spf1 {record}"], "A": ["192.0.2.9"], "MX": ["1 evil.example"]},
        "1.2.0.192.in-addr.arpa": {"PTR": ["evil.example", "."]},
    }
    found = asyncio.run(find(table, local=local, helo=helo))
    assert (found.reason + found.explanation + found.domain).isprintable()


@given(name=st.text(max_size=80))
def test_no_domain_makes_an_exception(name: str) -> None:
    found = asyncio.run(find({"example": {"A": ["192.0.2.1"]}}, domain=name))
    assert (found.result, found.domain.isascii()) == ("none", True)


def test_the_plugin_does_not_hide_the_library_of_its_name() -> None:
    assert Path(spf.__file__).parent.name == "site-packages"
    assert issubclass(spf_check._Run, spf.query)


def test_without_the_plugin_the_library_is_not_imported() -> None:
    code = "import sys, gatepost, gatepost.testing, gatepost.ops.service; sys.exit('spf' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
