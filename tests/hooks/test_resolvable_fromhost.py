"""resolvable_fromhost against a real nsd: which sender domains could get an answer."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from tests.rigs.dns_rig import Answering, NameServer, Relay
from tests.services.dns.patient_dns import patient_resolver

from gatepost.errors import ConfigError
from gatepost.testing import Gate, gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    Refusal = Callable[..., Awaitable[str]]

ZONE = """
mx          IN MX 10 mail.zone.example.
mail        IN A 192.0.2.25
address     IN A 192.0.2.80
six         IN AAAA 2001:db8::80
mxsix       IN MX 10 six.zone.example.
alias       IN CNAME mx.zone.example.
wild.any    IN A 192.0.2.1
backup      IN MX 10 loop.zone.example.
            IN MX 20 nowhere.zone.example.
            IN MX 30 mail.zone.example.
text        IN TXT "no mail here"
null        IN MX 0 .
            IN A 192.0.2.80
half        IN MX 0 .
            IN MX 10 mail.zone.example.
lost        IN MX 10 nowhere.zone.example.
            IN A 192.0.2.80
loop        IN A 127.0.0.1
mxloop      IN MX 10 loop.zone.example.
private     IN A 10.1.2.3
            IN A 192.168.1.1
            IN AAAA fd00::1
mapped      IN AAAA ::ffff:10.1.2.3
mixed       IN A 10.1.2.3
            IN A 192.0.2.80
outside     IN MX 10 mail.not-served.example.
outside2    IN MX 10 mail.not-served.example.
            IN MX 20 mail.zone.example.
outside3    IN MX 10 loop.zone.example.
            IN MX 20 mail.not-served.example.
xn--bcher-kva IN A 192.0.2.80
"""
MANY = "many IN MX 0 loop.zone.example.\n" + "".join(f"many IN MX 1 h{number}.zone.example.\n" for number in range(25))

NOT_THERE = "450 4.1.8 sender domain {} does not exist"
TEMPORARY = "451 4.3.0 temporary failure, please try again later"


@pytest.fixture(scope="module")
def server() -> Iterator[NameServer]:
    with NameServer({"zone.example": ZONE + MANY}) as running:
        yield running


async def rcpt(postfix: Gate, sender: str, recipient: str = "bob@example.org", **facts: Any) -> str:
    """Return the reply to the first RCPT of a new client, `250` if it is one."""
    client = postfix.client(**facts)
    await client.mail(sender)
    reply = (await client.rcpt(recipient)).encode().decode().strip()
    return "250" if reply.startswith("250 ") else reply


@pytest.fixture
def refusal(server: NameServer) -> Refusal:
    """Ask once about a sender, with options; return the reply."""

    async def ask(sender: str, **options: Any) -> str:
        async with gate(dns=[server.address], resolvable_fromhost=options) as postfix:
            return await rcpt(postfix, sender)

    return ask


@pytest.mark.parametrize(
    "host",
    [
        *("mx", "address", "six", "mxsix", "alias", "backup", "half", "mixed", "outside2"),
        *("MX", "bücher", "xn--bcher-kva"),
    ],
)
async def test_a_domain_that_can_get_mail_may_send_it(refusal: Refusal, host: str) -> None:
    assert await refusal(f"alice@{host}.zone.example") == "250"


async def test_a_dot_at_the_end_of_a_domain_does_not_matter(refusal: Refusal) -> None:
    assert await refusal("alice@mx.zone.example.") == "250"


async def test_a_domain_that_does_not_exist_is_asked_to_come_again(refusal: Refusal) -> None:
    assert await refusal("a@nowhere.zone.example") == NOT_THERE.format("nowhere.zone.example")


async def test_the_action_decides_the_reply(refusal: Refusal) -> None:
    expected = "550 5.1.8 sender domain nowhere.zone.example does not exist"
    assert await refusal("a@nowhere.zone.example", action="deny") == expected
    assert (await refusal("a@nowhere.zone.example", action="deny_disconnect")).startswith("521 5.1.8 ")
    assert await refusal("a@nowhere.zone.example", action="allow") == "250"


@pytest.mark.parametrize("host", ["text", "any"])
async def test_a_domain_without_mx_and_address_is_refused(refusal: Refusal, host: str) -> None:
    expected = f"450 4.1.8 sender domain {host}.zone.example has neither MX nor address"
    assert await refusal(f"a@{host}.zone.example") == expected


async def test_a_null_mx_is_refused_for_good(refusal: Refusal) -> None:
    expected = "sender domain null.zone.example does not accept mail (null MX)"
    assert await refusal("a@null.zone.example") == f"550 5.7.27 {expected}"
    assert await refusal("a@null.zone.example", null_mx_action="defer") == f"450 4.7.27 {expected}"
    assert await refusal("a@null.zone.example", null_mx_action="allow") == "250"


async def test_an_address_does_not_replace_mail_hosts_that_have_none(refusal: Refusal) -> None:
    assert (
        await refusal("a@lost.zone.example")
        == "450 4.1.8 no mail host of sender domain lost.zone.example has an address"
    )


@pytest.mark.parametrize(
    ("host", "where"),
    [
        ("loop", "127.0.0.1"),
        ("mxloop", "127.0.0.1"),
        ("private", "10.1.2.3, 192.168.1.1, fd00::1"),
        ("mapped", str(IPv6Address("::ffff:10.1.2.3"))),  # which Python 3.13 writes otherwise than those before
        ("many", "127.0.0.1"),
    ],
)
async def test_a_domain_whose_hosts_nobody_can_reach_is_refused(refusal: Refusal, host: str, where: str) -> None:
    expected = f"450 4.1.8 sender domain {host}.zone.example has no mail host with a public address: {where}"
    assert await refusal(f"a@{host}.zone.example") == expected


async def test_the_networks_that_nobody_can_reach_may_be_given(refusal: Refusal) -> None:
    networks = ["192.0.2.0/24", "2001:db8::/32"]
    assert await refusal("a@private.zone.example", invalid_networks=networks) == "250"
    assert (await refusal("a@mx.zone.example", invalid_networks=networks)).endswith("public address: 192.0.2.25")
    assert (await refusal("a@six.zone.example", invalid_networks=networks)).endswith("public address: 2001:db8::80")
    assert await refusal("a@loop.zone.example", invalid_networks=[]) == "250"


@pytest.mark.parametrize(
    ("literal", "heard"),
    [
        ("[192.0.2.1]", "250"),
        ("[IPv6:2001:db8::1]", "250"),
        ("[10.1.2.3]", "450 4.1.8 sender domain [10.1.2.3] is no public address"),
        ("[IPv6:::1]", "450 4.1.8 sender domain [ipv6:::1] is no public address"),
        ("[IPv6:::ffff:127.0.0.1]", "450 4.1.8 sender domain [ipv6:::ffff:127.0.0.1] is no public address"),
        ("[192.0.2.300]", "450 4.1.8 sender domain [192.0.2.300] is no address"),
        ("[mail.example]", "450 4.1.8 sender domain [mail.example] is no address"),
        ("[]", "450 4.1.8 sender domain [] is no address"),
    ],
)
async def test_an_address_in_place_of_a_domain_must_be_public(literal: str, heard: str) -> None:
    async with Answering(lambda _: None) as silent, gate(dns=[silent.address], resolvable_fromhost={}) as postfix:
        assert await rcpt(postfix, f"a@{literal}") == heard
        assert silent.asked == 0


@pytest.mark.parametrize("sender", ["", "root"])
async def test_a_sender_without_a_domain_is_not_asked_about(sender: str) -> None:
    async with Answering(lambda _: None) as silent, gate(dns=[silent.address], resolvable_fromhost={}) as postfix:
        assert await rcpt(postfix, sender) == "250"
        assert silent.asked == 0


@pytest.mark.parametrize("domain", ["a..example", "x" * 64 + ".example", "a b.example", "x." * 200 + "example"])
async def test_what_cannot_be_a_domain_does_not_exist(refusal: Refusal, domain: str) -> None:
    assert (await refusal(f"a@zone.{domain}.zone.example")).startswith("450 4.1.8 sender domain zone.")


@pytest.mark.parametrize(
    ("domain", "shown"),
    [(".", "."), ("...", "..."), ("\udcff.example", "?.example"), ("a\n421 b.zone.example", "a?421 b.zone.example")],
)
async def test_what_a_client_says_makes_no_reply_of_its_own(refusal: Refusal, domain: str, shown: str) -> None:
    assert await refusal(f"a@{domain}") == NOT_THERE.format(shown)


async def test_when_dns_does_not_answer_the_policy_decides(refusal: Refusal) -> None:
    assert await refusal("a@not-served.example") == TEMPORARY
    assert await refusal("a@not-served.example", on_unavailable="pass") == "250"
    # The MX is known, where its host is is not; or one of its hosts could be reached.
    assert await refusal("a@outside.zone.example") == TEMPORARY
    assert await refusal("a@outside3.zone.example") == TEMPORARY


async def test_a_broken_aaaa_does_not_hide_an_address() -> None:
    table: Any = {
        "good.example": {"MX": ["10 one.good.example", "20 two.good.example"]},
        "one.good.example": {"A": ["10.0.0.1"], "AAAA": "servfail"},
        "two.good.example": {"A": ["192.0.2.1"], "AAAA": "servfail"},
        "bad.example": {"A": [], "AAAA": "servfail"},
    }
    async with gate(dns=table, resolvable_fromhost={}) as postfix:
        assert await rcpt(postfix, "a@good.example") == "250"
        assert await rcpt(postfix, "a@bad.example") == TEMPORARY


def asking(counting: Relay) -> AbstractAsyncContextManager[Gate]:
    return gate(dns=patient_resolver(counting.address), resolvable_fromhost={})


async def test_a_common_message_costs_two_questions(server: NameServer) -> None:
    async with Relay(server.address) as counting, asking(counting) as postfix:
        client = postfix.client()
        await client.mail("alice@mx.zone.example")
        replies = {(await client.rcpt(f"r{number}@example.org")).code for number in range(10)}
        assert replies == {250}
        assert counting.asked == 2


async def test_many_mail_hosts_cost_a_bounded_number_of_questions(server: NameServer) -> None:
    async with Relay(server.address) as counting, asking(counting) as postfix:
        await rcpt(postfix, "a@many.zone.example")
        # The MX, then A and AAAA of ten hosts.
        assert counting.asked == 21


async def test_exceptions_hold(server: NameServer, tmp_path: Path) -> None:
    (tmp_path / "clients").write_text("10.0.0.0/8: resolvable_fromhost=off\n")
    (tmp_path / "aliases").write_text(
        "bob@example.org: bob@example.org (resolvable_fromhost=off)\n"
        "dave@example.org: dave@example.org (resolvable_fromhost.action=deny)\n"
        "*@example.org: all@example.org\n"
    )
    async with gate(
        dns=[server.address],
        client_options={"file": tmp_path / "clients"},
        aliases={"file": tmp_path / "aliases"},
        resolvable_fromhost={},
    ) as postfix:
        sender, carol = "a@loop.zone.example", "carol@example.org"
        assert (await rcpt(postfix, sender, carol)).startswith("450 ")
        assert (await rcpt(postfix, sender, "dave@example.org")).startswith("550 ")
        assert await rcpt(postfix, sender) == "250"
        assert await rcpt(postfix, sender, carol, address="10.1.2.3") == "250"
        assert await rcpt(postfix, sender, carol, login="carol") == "250"


async def test_observed_only_it_logs_what_it_would_say(refusal: Refusal) -> None:
    with capture_logs() as logs:
        assert await refusal("a@nowhere.zone.example", mode="observe") == "250"
    (would,) = [line for line in logs if line["event"] == "would answer"]
    assert would["text"] == "sender domain nowhere.zone.example does not exist"


async def test_a_wrong_network_stops_the_start() -> None:
    with pytest.raises(ConfigError, match=r"resolvable_fromhost\.invalid_networks\.0: .*10\.0\.0\.0/33"):
        async with gate(resolvable_fromhost={"invalid_networks": ["10.0.0.0/33"]}):
            pass
