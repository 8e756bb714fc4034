"""fcrdns: clients without a name, with one that does not lead back, or with one made from the address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from gatepost import ConfigError
from gatepost.testing import gate

if TYPE_CHECKING:
    from gatepost.testing.dns_table import DnsTable

SIX = "{}.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa"
DNS: DnsTable = {
    "1.2.0.192.in-addr.arpa": {"PTR": ["wrong.example.net.", "mail.example.net."]},
    "2.2.0.192.in-addr.arpa": {"PTR": ["wrong.example.net.", "nowhere.example.net."]},
    "4.2.0.192.in-addr.arpa": {"PTR": ["dead.example.com."]},
    "5.2.0.192.in-addr.arpa": "servfail",
    "6.2.0.192.in-addr.arpa": {"PTR": ["dead.example.com.", "right.example.net."]},
    "7.2.0.192.in-addr.arpa": {"PTR": ["192-0-2-7.pool.example.net."]},
    "8.2.0.192.in-addr.arpa": {"PTR": [f"h{number}.example.net." for number in range(40)]},
    SIX.format(1): {"PTR": ["six.example.net."]},
    SIX.format(2): {"PTR": ["six.example.net."]},
    "h39.example.net": {"A": ["192.0.2.8"]},
    "mail.example.net": {"A": ["198.51.100.1", "192.0.2.1"]},
    "wrong.example.net": {"A": ["198.51.100.1"]},
    "right.example.net": {"A": ["192.0.2.6"]},
    "192-0-2-7.pool.example.net": {"A": ["192.0.2.7"]},
    "six.example.net": {"AAAA": ["2001:db8::1"]},
    "dead.example.com": "servfail",
}
TEMPORARY = "451 4.3.0 temporary failure, please try again later"
MISSING = "450 4.7.25 your address {} has no name"
UNCONFIRMED = "450 4.7.25 none of the names of your address {} leads back to it"


async def reply(client: str, *, facts: dict[str, Any] | None = None, **options: Any) -> str:
    """Return what a client hears at its first recipient."""
    async with gate(dns=DNS, fcrdns=options) as postfix:
        talker = postfix.client(client, **facts or {})
        await talker.mail()
        answer = await talker.rcpt("bob@example.org")
    return "250" if answer.code == 250 else answer.encode().decode().strip()


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("192.0.2.1", "250"),
        ("::ffff:192.0.2.1", "250"),
        ("192.0.2.2", UNCONFIRMED),
        ("192.0.2.3", MISSING),
        ("192.0.2.8", UNCONFIRMED),
        ("2001:db8::1", "250"),
        ("2001:db8::2", UNCONFIRMED),
        ("2001:db8::3", MISSING),
        ("unknown", "250"),
    ],
)
async def test_a_name_must_lead_back_to_the_address(client: str, expected: str) -> None:
    assert await reply(client) == expected.format(client)


async def test_a_name_that_postfix_has_confirmed_is_not_looked_up() -> None:
    assert await reply("192.0.2.5", facts={"name": "mail.example.net"}) == "250"


@pytest.mark.parametrize("client", ["127.0.0.1", "10.1.2.3", "192.168.1.1", "100.64.0.1", "::1", "fd00::1"])
async def test_private_clients_are_not_asked_about(client: str) -> None:
    assert await reply(client) == "250"
    assert await reply(client, skip_networks=[]) == MISSING.format(client)


@pytest.mark.parametrize("client", ["192.0.2.4", "192.0.2.5"])
async def test_dns_trouble_is_not_a_missing_name(client: str) -> None:
    assert await reply(client) == TEMPORARY
    assert await reply(client, on_unavailable="pass") == "250"


async def test_one_name_that_leads_back_is_enough_whatever_the_others_do() -> None:
    assert await reply("192.0.2.6") == "250"


async def test_each_finding_has_an_action_of_its_own() -> None:
    assert (await reply("192.0.2.3", missing="deny")).startswith("550 5.7.25 ")
    assert (await reply("192.0.2.3", missing="deny_disconnect")).startswith("521 5.7.25 ")
    assert await reply("192.0.2.3", missing="allow") == "250"
    assert (await reply("192.0.2.2", unconfirmed="deny")).startswith("550 5.7.25 ")
    assert await reply("192.0.2.2", unconfirmed="allow") == "250"


async def test_generic_names_are_refused_where_that_is_wanted() -> None:
    said = "your address 192.0.2.7, 192-0-2-7.pool.example.net, is that of no mail server"
    assert await reply("192.0.2.7") == "250"
    assert await reply("192.0.2.7", generic="deny") == f"550 5.7.25 the name of {said}"
    assert await reply("192.0.2.1", generic="deny") == "250"


@pytest.mark.parametrize(
    ("name", "ip", "generic"),
    [
        ("ip-192-0-2-17.example.net", "192.0.2.17", True),
        ("17.2.0.192.example.net", "192.0.2.17", True),
        ("host192000002017.example.net", "192.0.2.17", True),
        ("c0000211.example.net", "192.0.2.17", True),
        ("dyn-2-17.example.net", "192.0.2.17", True),
        ("2-17.POOL.example.net", "192.0.2.17", True),
        ("mx-2-17.example.net", "192.0.2.17", False),
        ("pool.example.net", "192.0.2.17", False),
        ("mail17.example.net", "192.0.2.17", False),
        ("spool-2-17.example.net", "192.0.2.17", False),
        ("20010db8000000000000000000000001.v6.example.net", "2001:db8::1", True),
        ("2001-db8-0-0-1-2-3-4.v6.example.net", "2001:db8::1:2:3:4", True),
        ("mail.example.net", "2001:db8::1", False),
    ],
)
async def test_a_generic_name_has_the_address_in_it(name: str, ip: str, *, generic: bool) -> None:
    answer = await reply(ip, facts={"name": name}, generic="deny")
    assert answer.startswith("550 5.7.25 the name of ") is generic


async def test_generic_words_are_words_in_any_case() -> None:
    facts = {"name": "Kunde-2-17.example.net"}
    assert await reply("192.0.2.17", facts=facts, generic="deny") == "250"
    assert (await reply("192.0.2.17", facts=facts, generic="deny", generic_words=["KUNDE"])).startswith("550 5.7.25 ")


@pytest.mark.parametrize("word", ["", "dyn-ip", "ip4", "*dsl"])
async def test_a_generic_word_that_no_name_could_have_is_an_error(word: str) -> None:
    with pytest.raises(ConfigError, match=r"fcrdns\.generic_words"):
        await reply("192.0.2.17", generic_words=[word])


async def test_at_connect_the_session_is_refused() -> None:
    async with gate(dns=DNS, fcrdns={"at": "connect"}) as postfix:
        client = postfix.client("192.0.2.3")
        await client.mail()
        assert client.session.denial is not None
        assert client.session.denial.hook == "connect"
        assert (await client.rcpt("bob@example.org")).code == 450


async def test_the_finding_is_noted_for_other_plugins_and_asked_once() -> None:
    async with gate(dns=DNS, fcrdns={}) as postfix:
        client = postfix.client("192.0.2.2")
        await client.mail()
        assert "fcrdns" not in client.session.notes
        assert [(await client.rcpt(f"{who}@example.org")).code for who in "ab"] == [450, 450]
        assert client.session.notes["fcrdns"]["finding"] == "unconfirmed"
        client.session.notes["fcrdns"]["finding"] = "confirmed"
        assert (await client.rcpt("c@example.org")).code == 250


async def test_who_has_logged_in_is_not_asked_about() -> None:
    assert await reply("192.0.2.3", facts={"login": "alice"}) == "250"


async def test_observed_it_only_logs() -> None:
    with capture_logs() as logs:
        assert await reply("192.0.2.3", mode="observe") == "250"
    assert [entry["plugin"] for entry in logs if entry["event"] == "would answer"] == ["fcrdns"]


async def test_a_name_of_any_bytes_is_refused_in_plain_characters() -> None:
    table: DnsTable = {"9.2.0.192.in-addr.arpa": {"PTR": ["b\\195\\188\\000.example.net."]}}
    async with gate(dns=table, fcrdns={}) as postfix:
        client = postfix.client("192.0.2.9")
        await client.mail()
        assert (await client.rcpt("bob@example.org")).encode().decode().strip() == UNCONFIRMED.format("192.0.2.9")
