"""helo: which names in HELO are refused, by policy and DNS; when, and to whom not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.hooks.conftest import Rig

    from gatepost.testing.dns_table import DnsTable

DNS: DnsTable = {
    "mail.example.net": {"A": ["192.0.2.1"]},
    "neighbour.example.net": {"A": ["192.0.2.77"]},
    "six.example.net": {"AAAA": ["2001:db8::1"]},
    "mxonly.example.net": {"MX": ["10 mail.example.net."]},
    "text.example.net": {"TXT": ["no address"]},
    "elsewhere.example.org": {"A": ["198.51.100.7"]},
    "under_score.example.net": {"A": ["192.0.2.1"]},
    "dead.example.com": "servfail",
    "half.example.com": {"A": ["198.51.100.7"], "AAAA": "servfail"},
    "1.2.0.192.in-addr.arpa": {"PTR": ["host.example.net."]},
    "9.2.0.192.in-addr.arpa": "timeout",
}
TEMPORARY = "451 4.3.0 temporary failure, please try again later"


async def reply(
    helo: str | None, client: str = "192.0.2.1", *, facts: dict[str, Any] | None = None, **options: Any
) -> str:
    """Return what a client with this HELO name hears at its first recipient."""
    async with gate(dns=DNS, helo=options) as postfix:
        talker = postfix.client(client, helo=helo, **facts or {})
        answer = await talker.mail()
        if answer.code == 250:
            answer = await talker.rcpt("bob@example.org")
    return "250" if answer.code == 250 else answer.encode().decode().strip()


def refused(helo: str, problem: str) -> str:
    return f"550 5.7.1 HELO name {helo} refused: {problem}"


@pytest.mark.parametrize(
    ("helo", "problem"),
    [
        ("mail.example.net", None),
        ("pc", None),
        ("under_score", None),
        ("localhost.example.net", None),
        ("localhost", "you are not localhost"),
        ("LocalHost.LocalDomain.", "you are not localhost"),
        ("192.0.2.1", "an address without brackets"),
        ("2001:db8::1", "an address without brackets"),
        ("[192.0.2.1]", None),
        ("[::ffff:192.0.2.1]", None),
        ("[192.0.2.2]", None),
        ("[192.0.3.1]", "not your address"),
        ("[192.168.1.2]", None),
        ("[10.0.0.5]", None),
        ("[169.254.1.1]", None),
        ("[IPv6:fe80::1]", None),
        ("[IPv6:2001:db8::1]", None),
        ("[127.0.0.1]", "you are not localhost"),
        ("[IPv6:::1]", "you are not localhost"),
        ("127.0.0.1", "you are not localhost"),
        ("192.168.1.2", "an address without brackets"),
        ("EXCH01.corp.local", None),
        ("exchange", None),
        ("smtpclient.apple", None),
        ("b\u00fccher.example", None),
        ("xn--bcher-kva.example.", None),
        ("ec2_host.example.net", None),
        ("[nonsense]", None),
        ("]", None),
        ("mx.example.org", "that is this server"),
        ("MX.example.ORG.", "that is this server"),
        ("203.0.113.25", "that is this server"),
        ("[203.0.113.25]", "that is this server"),
        ("sub.mx.example.org", None),
        (None, None),
        ("", None),
    ],
)
async def test_lenient_finds_lies_only(helo: str | None, problem: str | None) -> None:
    own = ["mx.example.org", "203.0.113.25"]
    assert await reply(helo, own_names=own) == (refused(helo or "", problem) if problem else "250")


@pytest.mark.parametrize("helo", ["mx.example.org", "[203.0.113.25]"])
async def test_this_server_itself_may_say_its_names(helo: str) -> None:
    assert await reply(helo, "203.0.113.25", own_names=["mx.example.org", "203.0.113.25"]) == "250"


@pytest.mark.parametrize("helo", ["[203.0.113.25]", "203.0.113.25"])
async def test_the_address_that_the_client_came_to_is_this_servers(helo: str) -> None:
    facts = {"daemon_address": "203.0.113.25"}
    assert await reply(helo, facts=facts) == refused(helo, "that is this server")
    assert await reply("[203.0.113.25]", "203.0.113.25", facts=facts) == "250"


async def test_a_private_address_that_the_client_came_to_is_that_of_many_hosts() -> None:
    facts = {"daemon_address": "10.0.0.5"}
    assert await reply("[10.0.0.5]", facts=facts) == "250"
    assert await reply("[10.0.0.5]", facts=facts, own_names=["10.0.0.5"]) == refused(
        "[10.0.0.5]", "that is this server"
    )


@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "192.168.1.7", "fd00::7"])
async def test_a_client_of_this_site_may_say_anything(client: str) -> None:
    assert await reply("localhost", client, policy="strict") == "250"


async def test_skip_networks_names_others() -> None:
    assert await reply("localhost", "2001:db8::5", skip_networks=["2001:db8::/64"]) == "250"
    assert await reply("localhost", "127.0.0.1", skip_networks=[]) == refused("localhost", "you are not localhost")


@pytest.mark.parametrize(
    ("helo", "client", "problem"),
    [
        ("[IPv6:2001:db8::1]", "2001:db8::1", None),
        ("[ipv6:2001:DB8:0::1]", "2001:db8::1", None),
        ("[2001:db8::1]", "2001:db8::1", None),
        ("[IPv6:2001:db8::2]", "2001:db8::1", None),
        ("[IPv6:2001:db8:0:1::1]", "2001:db8::1", "not your address"),
        ("[192.0.2.1]", "2001:db8::1", None),
        ("[192.0.2.1]", "::ffff:192.0.2.1", None),
        ("[192.0.2.9]", "unknown", None),
    ],
)
async def test_an_address_in_brackets_is_compared_as_an_address(helo: str, client: str, problem: str | None) -> None:
    assert await reply(helo, client) == (refused(helo, problem) if problem else "250")


@pytest.mark.parametrize(
    ("helo", "problem"),
    [
        ("mail.example.net", None),
        ("MAIL.example.net.", None),
        ("six.example.net", None),
        ("mxonly.example.net", None),
        ("elsewhere.example.org", None),
        ("[192.0.2.1]", None),
        ("[192.0.2.2]", "not your address"),
        ("[192.168.1.2]", "not your address"),
        ("[IPv6:2001:db8::1]", "not your address"),
        ("pc", "not a fully qualified name"),
        ("pc.", "not a fully qualified name"),
        ("[nonsense]", "no address in the brackets"),
        ("[192.0.2.1", "no address in the brackets"),
        ("under_score.example.net", "not a host name"),
        ("-a.example.net", "not a host name"),
        ("a..example.net", "not a host name"),
        (f"{'a' * 64}.example.net", "not a host name"),
        ("text.example.net", "no such host"),
        ("nowhere.example.net", "no such host"),
        ("localhost", "you are not localhost"),
    ],
)
async def test_rfc_wants_a_host_name_that_exists(helo: str, problem: str | None) -> None:
    assert await reply(helo, policy="rfc") == (refused(helo, problem) if problem else "250")


async def test_rfc_wants_the_clients_address_to_have_a_name_where_it_says_one() -> None:
    problem = refused("mail.example.net", "your address 192.0.2.2 has no name")
    assert await reply("mail.example.net", "192.0.2.2", policy="rfc") == problem
    assert await reply("mail.example.net", "192.0.2.2", facts={"name": "x.example"}, policy="rfc") == "250"
    assert await reply("[192.0.2.2]", "192.0.2.2", policy="rfc") == "250"


async def test_underscores_can_be_allowed() -> None:
    assert await reply("under_score.example.net", policy="rfc", underscores=True) == "250"
    assert await reply("under_score", policy="rfc", underscores=True) == refused(
        "under_score", "not a fully qualified name"
    )


@pytest.mark.parametrize(
    ("helo", "client", "name", "problem"),
    [
        ("mail.example.net", "192.0.2.1", None, None),
        ("neighbour.example.net", "192.0.2.50", "x.example.com", None),
        ("elsewhere.example.org", "192.0.2.1", "mx0.example.org", None),
        ("six.example.net", "2001:db8::ffff", "x.example.com", None),
        (
            "six.example.net",
            "2001:db8:0:1::1",
            "x.example.com",
            "neither the address nor the name of your host fits it",
        ),
        ("elsewhere.example.org", "192.0.2.1", None, "neither the address nor the name of your host fits it"),
        ("[192.0.2.1]", "192.0.2.1", None, "an address in place of a name"),
    ],
)
async def test_strict_wants_the_clients_own_name(helo: str, client: str, name: str | None, problem: str | None) -> None:
    answer = await reply(helo, client, facts={"name": name}, policy="strict")
    assert answer == (refused(helo, problem) if problem else "250")


@pytest.mark.parametrize(
    ("helo", "client", "policy"),
    [
        ("mail.dead.example.com", "192.0.2.1", "rfc"),
        ("mail.example.net", "192.0.2.9", "rfc"),
        ("half.example.com", "192.0.2.1", "strict"),
    ],
)
async def test_dns_trouble_is_never_taken_for_no_such_host(helo: str, client: str, policy: str) -> None:
    assert await reply(helo, client, policy=policy) == TEMPORARY
    assert await reply(helo, client, policy=policy, on_unavailable="pass") == "250"


async def test_lenient_asks_dns_nothing() -> None:
    assert await reply("mail.dead.example.com") == "250"


@pytest.mark.parametrize("policy", ["lenient", "rfc", "strict"])
@pytest.mark.parametrize(
    "helo",
    ["\udcff\udcfe", "b\xfccher.example", "x\x00y", "a\tb", "%s%n", "[" * 4000, "x." * 4000, " ", ".", "..", "[]"],
)
async def test_garbage_gets_a_reply_of_plain_characters(helo: str, policy: str) -> None:
    answer = await reply(helo, policy=policy)
    assert answer.isascii()
    assert len(answer) < 250
    assert answer == "250" or answer.startswith("550 5.7.1 HELO name ")
    assert policy == "lenient" or answer != "250"


async def test_at_helo_the_greeting_is_refused_and_every_recipient_with_it() -> None:
    async with gate(helo={}) as postfix:
        client = postfix.client(helo="localhost")
        await client.mail()
        assert client.session.denial is not None
        assert client.session.denial.hook == "helo"
        assert [(await client.rcpt(f"{who}@example.org")).code for who in "ab"] == [550, 550]


async def test_at_rcpt_the_last_greeting_counts() -> None:
    async with gate(helo={"at": "rcpt"}) as postfix:
        client = postfix.client(helo="localhost")
        client.session.helo = "mail.example.net"
        await client.mail()
        assert (await client.rcpt("bob@example.org")).code == 250


async def test_the_action_can_be_another() -> None:
    problem = "HELO name localhost refused: you are not localhost"
    assert await reply("localhost", action="defer") == f"450 4.7.1 {problem}"
    assert await reply("localhost", action="deny_disconnect") == f"521 5.7.1 {problem}"
    assert await reply("localhost", action="allow") == "250"


async def test_who_has_logged_in_may_say_anything() -> None:
    assert await reply("[127.0.0.1]", facts={"login": "alice"}) == "250"
    assert await reply("[127.0.0.1]", facts={"login": "alice"}, skip_authenticated=False) != "250"


async def test_observed_it_only_logs() -> None:
    with capture_logs() as logs:
        assert await reply("localhost", mode="observe") == "250"
    assert [entry["plugin"] for entry in logs if entry["event"] == "would answer"] == ["helo"]


async def test_what_was_wrong_is_noted_for_other_plugins() -> None:
    async with gate(dns=DNS, helo={"policy": "strict", "mode": "observe"}) as postfix:
        found = []
        for helo in ("localhost", "elsewhere.example.org", "mail.example.net"):
            client = postfix.client("192.0.2.1", helo=helo)
            await client.mail()
            found.append(client.session.notes["helo"]["problem"])
    assert found == ["you are not localhost", "neither the address nor the name of your host fits it", None]


async def test_clients_and_recipients_can_have_options_of_their_own(
    load: Callable[[str], Awaitable[Rig]], tmp_path: Path
) -> None:
    (tmp_path / "clients").write_text("192.0.2.7: helo=off\n192.0.2.8: helo.action=defer\n")
    (tmp_path / "aliases").write_text("bob@example.org: bob@example.org (helo=off)\nann@example.org: ann@example.org\n")
    (tmp_path / "listed").write_text("192.0.2.6\n")
    entries = [("client_options", "clients"), ("whitelist", "listed"), ("aliases", "aliases")]
    files = "".join(f'[[plugin]]\nname = "{name}"\nfile = "{file}"\n' for name, file in entries)
    rig = await load(files + '[[plugin]]\nname = "helo"\nat = "rcpt"\n')

    async def codes(address: str) -> list[str]:
        client = await rig.connect(address)
        client.session.helo = "localhost"
        mail = await rig.mail(client)
        return [(await mail.rcpt(f"{who}@example.org"))[:3] for who in ("ann", "bob")]

    assert await codes("192.0.2.5") == ["550", "250"]
    assert await codes("192.0.2.6") == ["250", "250"]
    assert await codes("192.0.2.7") == ["250", "250"]
    assert await codes("192.0.2.8") == ["450", "250"]
