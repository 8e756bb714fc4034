"""spf against a real nsd, and tables for what no real server says: who is refused, why, and what it costs."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from tests.rigs.dns_rig import Answering, NameServer, Relay
from tests.services.dns.patient_dns import patient_resolver

from gatepost import Address, ConfigError, results_of
from gatepost.deadline import Deadline
from gatepost.session import Session, Transaction
from gatepost.testing import gate, run_hook

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from gatepost.testing import Gate
    from gatepost.testing.dns_table import DnsTable

    Refusal = Callable[..., Awaitable[str]]

LONG = "v=spf1 " + " ".join(f"ip4:198.51.100.{number}" for number in range(100)) + " ip4:192.0.2.1 -all"

ZONE = f"""
good.example         IN TXT "v=spf1 ip4:192.0.2.0/24 ip6:2001:db8::/32 -all"
bad.example          IN TXT "v=spf1 -all"
explained.example    IN TXT "v=spf1 -all exp=why.explained.example"
why.explained.example IN TXT "See https://explained.example/why?ip=%{{i}}"
soft.example         IN TXT "v=spf1 ~all"
neutral.example      IN TXT "v=spf1 ?all"
wrong.example        IN TXT "v=spf1 moo -all"
none.example         IN A 192.0.2.25
lists.example        IN TXT "v=spf1 ip4:192.0.2.1 -all"
xn--bcher-kva.example IN TXT "v=spf1 -all"
long.example         IN TXT {" ".join(f'"{LONG[at : at + 200]}"' for at in range(0, len(LONG), 200))}
locals.example       IN TXT "v=spf1 exists:%{{l}}.users.locals.example -all"
alice.users.locals.example IN A 127.0.0.2
helo-good.example    IN TXT "v=spf1 ip4:192.0.2.1 -all"
helo-bad.example     IN TXT "v=spf1 -all"
helo-soft.example    IN TXT "v=spf1 ~all"
"""


@pytest.fixture(scope="module")
def server() -> Iterator[NameServer]:
    with NameServer({".": ZONE}) as running:
        yield running


class Reticent(Relay):
    """Answers as the real server, but for names below slow.example; `busy` once it was asked about a hundred."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self.answer = self._answer
        self.busy = asyncio.Event()
        self._names: set[bytes] = set()

    def _answer(self, query: bytes) -> bytes | None:
        if b"\x04slow\x07example" not in query:
            return self._ask(query)
        self._names.add(query[12:])
        if len(self._names) == 100:
            self.busy.set()
        return None


async def said(postfix: Gate, domain: str = "bad.example", client: str = "192.0.2.1", **facts: Any) -> str:
    """Return the reply to a new client's first RCPT, or to MAIL if that is refused; `250` if it is one."""
    session = postfix.client(client, **facts)
    reply = await session.mail(f"a@{domain}" if "@" not in domain and domain else domain)
    if reply.code == 250:
        reply = await session.rcpt("bob@example.org")
    return "250" if reply.code == 250 else reply.encode().decode().strip()


@pytest.fixture
def refusal(server: NameServer) -> Refusal:
    async def ask(domain: str, client: str = "192.0.2.1", helo: str | None = "client.example", **options: Any) -> str:
        async with gate(dns=[server.address], spf=options) as postfix:
            return await said(postfix, domain, client, helo=helo)

    return ask


async def results(sender: str, *, dns: Any, client: str = "192.0.2.1", **facts: Any) -> list[tuple[str, str, str]]:
    """Return what is left for other plugins, as (property, its value, result)."""
    transaction = Transaction("test.1", Session("test", client, **facts), Address.parse(sender))
    await run_hook("spf", "mail", transaction=transaction, dns=dns)
    return [(*pair, one["result"]) for one in results_of(transaction, "spf") for pair in one["properties"].items()]


async def result(table: DnsTable, sender: str = "a@evil.example", client: str = "192.0.2.1") -> str:
    ((_, _, found), *_) = await results(sender, dns=table, client=client)
    return found


# ---- results and replies


@pytest.mark.parametrize(
    ("domain", "option", "reply"),
    [
        ("bad", "fail", "bad.example does not permit 192.0.2.1 to send its mail"),
        ("soft", "softfail", "soft.example does not expect 192.0.2.1 to send its mail"),
        ("neutral", "neutral", "neutral.example does not say whether 192.0.2.1 may send its mail"),
        ("none", "none", "none.example has no record"),
        ("nowhere", "none", "nowhere.example has no record"),
        ("wrong", "permerror", "the record of wrong.example is wrong: Unknown mechanism found: moo"),
    ],
)
async def test_each_result_has_an_action(refusal: Refusal, domain: str, option: str, reply: str) -> None:
    enhanced = "7.24" if option == "permerror" else "7.23"
    text = f"SPF check of MAIL FROM: {option}: {reply}"
    assert await refusal(f"{domain}.example", **{option: "deny"}) == f"550 5.{enhanced} {text}"
    assert await refusal(f"{domain}.example", **{option: "defer"}) == f"450 4.{enhanced} {text}"
    assert await refusal(f"{domain}.example", **{option: "deny_disconnect"}) == f"521 5.{enhanced} {text}"
    assert await refusal(f"{domain}.example", **{option: "allow"}) == "250"


async def test_by_default_only_a_fail_is_refused(refusal: Refusal) -> None:
    replies = {name: (await refusal(f"{name}.example"))[:3] for name in ("good", "bad", "soft", "neutral", "wrong")}
    assert replies == {"good": "250", "bad": "550", "soft": "250", "neutral": "250", "wrong": "250"}


async def test_a_domain_that_dns_does_not_know_of_now_is_asked_to_come_again() -> None:
    for policy, start in (("defer", "451 4.7.24 SPF check of MAIL FROM: temperror: "), ("allow", "250")):
        async with gate(dns={"bad.example": "servfail"}, spf={"temperror": policy, "helo": False}) as postfix:
            with capture_logs() as logs:
                assert (await said(postfix)).startswith(start)
            (line,) = [one for one in logs if one["event"] == "spf"]
            assert line["reason"] == "bad.example TXT: answered SERVFAIL"


async def test_the_explanation_is_marked_as_the_domains_own_words(refusal: Refusal) -> None:
    assert (await refusal("explained.example")).split("\r\n") == [
        "550-5.7.23 SPF check of MAIL FROM: fail: explained.example does not permit 192.0.2.1 to send its mail",
        "550-5.7.23 The domain explained.example explains:",
        "550 5.7.23 See https://explained.example/why?ip=192.0.2.1",
    ]
    assert "explains" not in await refusal("explained.example", explanation=False)


@pytest.mark.parametrize(
    ("words", "heard"),
    [
        ("go away\r\n250 2.0.0 Ok", "go away??250 2.0.0 Ok"),
        ("100% \x1b[31m \x00", None),
        ("100%% \x1b[31m \x00", "100% ?[31m ?"),
        ("wéird", None),
        ("x" * 600, None),
        ("%{l}!", "a??b!"),
        ("   ", None),
    ],
)
async def test_an_explanation_can_say_nothing_but_words(words: str, heard: str | None) -> None:
    table = {"evil.example": {"TXT": ["v=spf1 -all exp=e.example"]}, "e.example": {"TXT": [words]}}
    transaction = Transaction("test.1", Session("test", "192.0.2.1"), Address("a\r\nb", "evil.example"))
    verdict = (await run_hook("spf", "mail", transaction=transaction, dns=table)).verdict
    assert verdict.text.split("\n")[1:] == (["The domain evil.example explains:", heard] if heard else [])


# ---- identities


@pytest.mark.parametrize(
    ("helo", "reply"),
    [
        ("helo-good.example", "250"),
        ("helo-soft.example", "250"),
        ("nowhere.example", "250"),
        ("[192.0.2.1]", "250"),
        ("localhost", "250"),
        (None, "250"),
        ("h\udcff.example", "250"),
        (
            "helo-bad.example",
            "550 5.7.23 SPF check of HELO: fail: helo-bad.example does not permit 192.0.2.1 to send its mail",
        ),
    ],
)
async def test_the_name_in_helo_is_checked_too(refusal: Refusal, helo: str | None, reply: str) -> None:
    assert await refusal("good.example", helo=helo) == reply


async def test_the_helo_check_can_be_left_out_or_milder(server: NameServer) -> None:
    for options, reply in (({"helo": False}, "250"), ({"helo_fail": "allow"}, "250"), ({"helo_fail": "defer"}, "450")):
        async with gate(dns=[server.address], spf=options) as postfix:
            assert (await said(postfix, "good.example", helo="helo-bad.example"))[:3] == reply


async def test_the_null_sender_is_postmaster_at_the_name_in_helo(refusal: Refusal, server: NameServer) -> None:
    assert await refusal("", helo="helo-good.example") == "250"
    assert (await refusal("", helo="helo-bad.example")).startswith("550 5.7.23 SPF check of MAIL FROM: fail: helo-bad")
    assert await results("", dns=[server.address], helo="helo-bad.example") == [
        ("smtp.mailfrom", "helo-bad.example", "fail"),
        ("smtp.helo", "helo-bad.example", "fail"),
    ]


async def test_the_results_are_left_for_others(server: NameServer) -> None:
    for sender, helo, wanted in (
        ("a@good.example", "helo-good.example", [("good.example", "pass"), ("helo-good.example", "pass")]),
        ("a@SOFT.example", "helo-bad.example", [("soft.example", "softfail"), ("helo-bad.example", "fail")]),
        ("a@bücher.example", "nowhere.example", [("xn--bcher-kva.example", "fail"), ("nowhere.example", "none")]),
        ("a@[192.0.2.1]", "[192.0.2.1]", [("[192.0.2.1]", "none"), ("[192.0.2.1]", "none")]),
        ("a@x\x01y.example", "h\r\nX: y", [("x?y.example", "none"), ("h??x: y", "none")]),
    ):
        (mail_from, result_of_sender), (name, result_of_helo) = wanted
        assert await results(sender, dns=[server.address], helo=helo) == [
            ("smtp.mailfrom", mail_from, result_of_sender),
            ("smtp.helo", name, result_of_helo),
        ]


async def test_a_result_in_a_header_does_not_name_our_name_servers() -> None:
    transaction = Transaction("test.1", Session("test", "192.0.2.1", helo="h"), Address("a", "bad.example"))
    async with Answering(lambda query: query[:2] + b"\x81\x82" + query[4:]) as refusing:
        await run_hook("spf", "mail", transaction=transaction, dns=[refusing.address])
        found = results_of(transaction, "spf")[0]
        assert (found["result"], found["reason"]) == ("temperror", "DNS gave no answer, or not in time")
        assert refusing.address in transaction.notes["spf"]["mailfrom"]["reason"]


async def test_an_at_in_a_quoted_local_part_makes_no_other_domain(refusal: Refusal) -> None:
    assert (await refusal('"x@good.example"@bad.example'))[:3] == "550"
    assert await refusal('"x@bad.example"@good.example') == "250"


async def test_a_local_part_in_a_macro(refusal: Refusal) -> None:
    assert await refusal("alice@locals.example") == "250"
    # RFC 8616 section 4: what is not ASCII matches nothing.
    for sender in ("mallory@locals.example", "ålice@locals.example", "\udcff@locals.example", '"a..b"@locals.example'):
        assert (await refusal(sender))[:3] == "550"


@pytest.mark.parametrize("client", ["::ffff:192.0.2.1", "2001:db8::1", "192.0.2.1"])
async def test_ipv4_and_ipv6_clients(refusal: Refusal, client: str) -> None:
    assert await refusal("good.example", client, softfail="deny", neutral="deny") == "250"
    assert (await refusal("bad.example", client))[:3] == "550"


async def test_a_record_that_does_not_fit_a_packet_is_read(refusal: Refusal) -> None:
    assert len(LONG) > 1500
    assert await refusal("long.example") == "250"
    assert (await refusal("long.example", "192.0.2.2"))[:3] == "550"


# ---- who is not asked about


async def test_who_is_not_asked_about() -> None:
    async with Answering(lambda _: None) as silent:
        for client, facts in (
            ("unknown", {}),
            ("127.0.0.1", {}),
            ("10.1.2.3", {}),
            ("::1", {}),
            ("::ffff:192.168.0.1", {}),
            ("192.0.2.1", {"login": "alice"}),
            ("192.0.2.1", {"whitelist_reason": "test"}),
        ):
            async with gate(dns=[silent.address], spf={}) as postfix:
                assert await said(postfix, "bad.example", client, **facts) == "250"
        async with gate(dns=[silent.address], spf={"skip_networks": ["192.0.2.0/24"]}) as postfix:
            assert await said(postfix) == "250"
        assert await results("a@bad.example", dns=[silent.address], client="127.0.0.1") == []
        assert silent.asked == 0


async def test_trusted_forwarders_may_bring_what_would_be_refused(refusal: Refusal, server: NameServer) -> None:
    options = {"trusted_forwarders": ["none.example", "lists.example"]}
    assert await refusal("bad.example", **options) == "250"
    assert (await refusal("bad.example", "192.0.2.2", **options))[:3] == "550"
    assert await refusal("good.example", helo="helo-bad.example", **options) == "250"
    async with gate(dns=[server.address], spf=options) as postfix:
        client = postfix.client()
        await client.mail("a@bad.example")
        (found, _) = results_of(client.transaction, "spf")
    assert (found["result"], found["reason"]) == ("fail", "by -all; brought by the trusted forwarder lists.example")


# ---- the rcpt hook


@pytest.fixture
async def at_rcpt(server: NameServer, tmp_path: Path) -> AsyncIterator[Gate]:
    """Exceptions for recipients and a client."""
    (tmp_path / "clients").write_text("192.0.2.4: spf.fail=allow\n")
    (tmp_path / "aliases").write_text(
        "bob@example.org: bob@example.org (spf=off)\n"
        "dave@example.org: dave@example.org (spf.fail=defer)\n"
        "erin@example.org: erin@example.org (spf.trusted_forwarders=lists.example)\n"
        "*@example.org: all@example.org\n"
    )
    async with gate(
        dns=[server.address],
        client_options={"file": tmp_path / "clients"},
        aliases={"file": tmp_path / "aliases"},
        spf={"hook": "rcpt"},
    ) as postfix:
        yield postfix


async def test_at_rcpt_options_may_differ_by_recipient_and_client(at_rcpt: Gate) -> None:
    client = at_rcpt.client("192.0.2.1")
    await client.mail("a@bad.example")
    names = ("bob", "carol", "dave", "erin", "carol")
    assert [(await client.rcpt(f"{name}@example.org")).code for name in names] == [250, 550, 450, 250, 550]
    assert len(results_of(client.transaction, "spf")) == 2
    other = at_rcpt.client("192.0.2.4")
    await other.mail("a@bad.example")
    assert (await other.rcpt("carol@example.org")).code == 250


async def test_a_message_is_asked_about_once_and_the_next_one_again() -> None:
    table = {"bad.example": {"TXT": ["v=spf1 -all"]}, "soft.example": {"TXT": ["v=spf1 ~all"]}}
    async with gate(dns=table, spf={"hook": "rcpt", "softfail": "defer"}) as postfix:
        client = postfix.client()
        for domain, code in (("bad.example", 550), ("soft.example", 450)):
            await client.mail(f"a@{domain}")
            assert {(await client.rcpt(f"r{number}@example.org")).code for number in range(20)} == {code}
            # One TXT for the sender, one for HELO: what the first recipient paid for.
            assert client.transaction.spending.dns_queries <= 2


async def test_the_hook_cannot_be_overridden() -> None:
    async with gate(dns={}, spf={}) as postfix:
        with pytest.raises(ConfigError, match="hook"):
            postfix.plugin("spf").parse_overrides("spf.hook=rcpt", "test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fail": "maybe"}, "is no action"),
        ({"pass": "deny"}, "spf has no option 'pass'"),
        ({"time_limit": 0}, "spf.time_limit"),
        ({"skip_networks": ["10.0.0.0/33"]}, "spf.skip_networks.0"),
    ],
)
async def test_a_wrong_option_stops_the_start(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        async with gate(spf=options):
            pass
    assert message in str(raised.value)


async def test_observed_only_it_leaves_its_results(server: NameServer) -> None:
    async with gate(dns=[server.address], spf={"mode": "observe"}) as postfix:
        client = postfix.client()
        assert (await client.send("a@bad.example", "bob@example.org")).code == 250
        assert [one["result"] for one in results_of(client.transaction, "spf")] == ["fail", "none"]


# ---- name servers in trouble


async def test_silence_is_a_temporary_error_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Answering(lambda _: None) as silent:
        options = {"time_limit": "200ms", "trusted_forwarders": ["lists.example"]}
        async with gate(dns=[silent.address], spf=options) as postfix:
            assert (await said(postfix))[:10] == "451 4.7.24"
        # Before the hook is given up, too: the reply then says more than "temporary failure". How long before is a
        # tenth of the time, which must not be so short that a busy machine is late.
        brief: ContextVar[Deadline | None] = ContextVar("brief")
        async with gate(dns=[silent.address], spf={"timeout": "30s"}) as postfix:
            monkeypatch.setattr("gatepost.services.authentication.spf_check.of_hook", brief)
            brief.set(Deadline.after(0.3))
            assert (await said(postfix))[:10] == "451 4.7.24"


async def test_a_hundred_slow_domains_hold_nobody_up(server: NameServer) -> None:
    async with Reticent(server.address) as relay, gate(dns=patient_resolver(relay.address), spf={}) as postfix:
        slow = [asyncio.create_task(said(postfix, f"d{number}.slow.example")) for number in range(100)]
        await asyncio.wait_for(relay.busy.wait(), 60)
        assert await said(postfix, "good.example") == "250"
        assert (await said(postfix, "bad.example"))[:3] == "550"
        assert not any(task.done() for task in slow)
        await postfix.plugin("spf").dns.close()
        assert {reply[:10] for reply in await asyncio.gather(*slow)} == {"451 4.7.24"}


async def test_garbage_from_a_name_server_is_a_temporary_error() -> None:
    async with (
        Answering(lambda query: query[:2] + b"\x81\x80" + b"\xff" * 40) as garbage,
        gate(dns=[garbage.address], spf={"time_limit": "300ms"}) as postfix,
    ):
        assert (await said(postfix))[:10] == "451 4.7.24"
