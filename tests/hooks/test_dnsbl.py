"""dnsbl against a real rbldnsd: who is refused, with which words, and what a list that does not answer means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from tests.rigs.dns_rig import Answering, BlockList
from tests.services.dns.patient_dns import GatheringRelay, patient_resolver

from gatepost.errors import ConfigError
from gatepost.testing import Gate, gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    Refusal = Callable[..., Awaitable[str]]

ZONES = {
    "bl.example": ":127.0.0.2:Spam source, see https://bl.example/$\n192.0.2.1\n192.0.2.4 :127.0.0.4:\n127.0.0.2\n",
    "second.example": ":127.0.0.2:second\n192.0.2.1\n192.0.2.2\n",
    "bits.example": "192.0.2.5 :127.0.0.5:bits one and four\n",
    "friends.example": ":127.0.0.1:friend\n192.0.2.1\n192.0.2.9\n",
    # As HostKarma says friend and foe in one zone.
    "karma.example": "192.0.2.1 :127.0.0.2:\n192.0.2.9 :127.0.0.1:\n",
    "v6.example:ip6trie": ":127.0.0.2:Spam of the sixth kind\n2001:db8:bad::/48\n",
    # As Spamhaus answers who asks by an open resolver.
    "angry.example": ":127.255.255.254:Error: open resolver\n0.0.0.0/1\n128.0.0.0/1\n",
    # As a parked domain answers everybody.
    "parked.example": ":203.0.113.80:\n0.0.0.0/1\n128.0.0.0/1\n",
    "nasty.example": f"192.0.2.1 :127.0.0.2:100% {chr(27)}[31m %s {'long ' * 45}\n",
    "secret-key.example": "192.0.2.1 :127.0.0.2:\n",
}

LISTED = "554 5.7.1 Service unavailable; client [192.0.2.1] blocked using "
TEMPORARY = "451 4.3.0 temporary failure, please try again later"


@pytest.fixture(scope="module")
def server() -> Iterator[BlockList]:
    with BlockList(ZONES) as running:
        yield running


async def rcpt(postfix: Gate, client: str = "192.0.2.1", recipient: str = "bob@example.org", **facts: Any) -> str:
    """Return the reply to the first RCPT of a new client."""
    session = postfix.client(client, **facts)
    await session.mail()
    return (await session.rcpt(recipient)).encode().decode().strip()


@pytest.fixture
def refusal(server: BlockList) -> Refusal:
    """Ask once, with `zones` and other options; return the reply, `250` if it is one."""

    async def ask(zones: Any, client: str = "192.0.2.1", **options: Any) -> str:
        async with gate(dns=[server.address], dnsbl={"zones": zones, **options}) as postfix:
            reply = await rcpt(postfix, client)
        return "250" if reply.startswith("250 ") else reply

    return ask


@pytest.fixture
async def twice_asked(server: BlockList, tmp_path: Path) -> AsyncIterator[Gate]:
    """Exceptions for a client and for a recipient, and a plugin that knows whitelisted ones."""
    (tmp_path / "clients").write_text("192.0.2.4: dnsbl=off\n192.0.2.2: dnsbl.zones=second.example\n")
    (tmp_path / "aliases").write_text(
        "bob@example.org: bob@example.org (dnsbl=off)\n"
        "dave@example.org: dave@example.org (dnsbl.action=defer)\n"
        "*@example.org: all@example.org\n"
    )
    (tmp_path / "friends").write_text("rcpt friend@example.org\n")
    async with gate(
        dns=[server.address],
        client_options={"file": tmp_path / "clients"},
        aliases={"file": tmp_path / "aliases"},
        whitelist={"file": tmp_path / "friends"},
        dnsbl={"zones": ["bl.example"]},
    ) as postfix:
        yield postfix


async def test_a_listed_client_is_refused_with_the_lists_own_words(refusal: Refusal) -> None:
    assert await refusal(["bl.example"]) == f"{LISTED}bl.example; Spam source, see https://bl.example/192.0.2.1"


async def test_a_client_that_is_not_listed_is_accepted(refusal: Refusal) -> None:
    assert await refusal(["bl.example", "second.example", "v6.example"], "192.0.2.3") == "250"


async def test_a_loopback_client_is_looked_up_like_any_other(refusal: Refusal) -> None:
    assert (await refusal(["bl.example"], "127.0.0.2")).startswith("554 5.7.1 ")


async def test_an_ipv6_client_is_looked_up_by_nibbles(refusal: Refusal) -> None:
    expected = "client [2001:db8:bad::1] blocked using v6.example; Spam of the sixth kind"
    assert (await refusal(["v6.example"], "2001:db8:bad::1")).endswith(expected)
    assert await refusal(["v6.example"], "2001:db8:900d::1") == "250"


async def test_an_ipv4_client_mapped_into_ipv6_is_an_ipv4_client(refusal: Refusal) -> None:
    assert (await refusal(["bl.example"], "::ffff:192.0.2.1")).startswith(LISTED)


@pytest.mark.parametrize(
    ("codes", "client", "refused"),
    [
        (["127.0.0.2"], "192.0.2.1", True),
        (["127.0.0.2"], "192.0.2.4", False),
        (["127.0.0.3-4"], "192.0.2.4", True),
        (["127.0.0.3-4"], "192.0.2.1", False),
        ("127.0.0.0&4", "192.0.2.4", True),
        ("127.0.0.0&1", "192.0.2.4", False),
    ],
)
async def test_only_the_codes_asked_for_are_a_listing(refusal: Refusal, codes: Any, client: str, refused: bool) -> None:
    reply = await refusal([{"zone": "bl.example", "codes": codes}], client)
    assert reply[:3] == ("554" if refused else "250")


async def test_the_same_zone_may_mean_several_things(refusal: Refusal) -> None:
    zones = [
        {"zone": "bl.example", "codes": ["127.0.0.2"], "action": "deny"},
        {"zone": "bl.example", "codes": ["127.0.0.4"], "action": "defer"},
    ]
    assert (await refusal(zones, "192.0.2.1")).startswith("554 5.7.1 ")
    assert (await refusal(zones, "192.0.2.4")).startswith("450 4.7.1 ")


@pytest.mark.parametrize("order", [1, -1])
async def test_what_one_entry_of_a_zone_cannot_use_is_an_answer_to_another(refusal: Refusal, order: int) -> None:
    # 127.0.0.1 is a friend to the one, and no block list's answer to the other.
    zones = [{"zone": "karma.example", "codes": ["127.0.0.1"], "action": "allow"}, {"zone": "karma.example"}][::order]
    assert await refusal(zones, "192.0.2.9") == "250"
    assert (await refusal(zones, "192.0.2.1")).startswith("554 ")
    assert await refusal(["karma.example"], "192.0.2.9") == TEMPORARY


async def test_what_a_list_does_not_answer_is_logged_once_a_message(server: BlockList) -> None:
    with capture_logs() as logs:
        async with gate(
            dns=[server.address], dnsbl={"zones": ["karma.example", "angry.example"], "on_unavailable": "pass"}
        ) as postfix:
            client = postfix.client("192.0.2.9")
            for _ in range(2):
                await client.mail()
                for _ in range(3):
                    await client.rcpt("bob@example.org")
    told = [line["zone"] for line in logs if line["event"] == "a list gave no answer"]
    assert told == ["karma.example", "angry.example"] * 2


@pytest.mark.parametrize(
    ("action", "start"),
    [
        ("deny", "554 5.7.1 Service unavailable; "),
        ("reject", "554 5.7.1 Service unavailable; "),
        ("defer", "450 4.7.1 Service unavailable; "),
        ("deny_disconnect", "521 5.7.1 Service unavailable; "),
        ("defer_disconnect", "421 4.7.1 Service unavailable; "),
    ],
)
async def test_the_action_decides_the_reply(refusal: Refusal, action: str, start: str) -> None:
    assert (await refusal([{"zone": "bl.example", "action": action}])).startswith(start)
    assert (await refusal(["bl.example"], action=action)).startswith(start)


async def test_the_first_zone_in_the_configuration_gives_the_verdict(refusal: Refusal) -> None:
    soft = {"zone": "second.example", "action": "defer"}
    assert (await refusal(["bl.example", soft])).startswith(LISTED + "bl.example")
    assert (await refusal([soft, "bl.example"])).startswith("450 4.7.1 ")


async def test_an_allow_list_wins_over_every_block_list(refusal: Refusal) -> None:
    friends = {"zone": "friends.example", "action": "allow"}
    assert await refusal(["bl.example", friends]) == "250"
    assert (await refusal(["second.example", friends], "192.0.2.2")).startswith("554 ")


async def test_scores_are_summed(refusal: Refusal) -> None:
    zones = [{"zone": "bl.example", "score": 2}, {"zone": "second.example", "score": 3}]
    both = await refusal(zones, reject_score=5)
    assert both == f"{LISTED}second.example, bl.example; second"
    assert await refusal(zones, "192.0.2.2", reject_score=5) == "250"
    assert await refusal([*zones, {"zone": "friends.example", "score": -1}], reject_score=5) == "250"


async def test_a_score_that_does_not_suffice_is_logged(refusal: Refusal) -> None:
    with capture_logs() as logs:
        friends = {"zone": "friends.example", "action": "allow"}
        await refusal(["bl.example", "second.example", "bits.example", friends], reject_score=3)
    told = [line for line in logs if line["event"] == "listed, but not refused"]
    assert [(line["zones"], line["score"]) for line in told] == [("bl.example, second.example", 2)]
    assert told[0]["txn"].startswith("test")


async def test_an_action_of_its_own_counts_beside_scores(refusal: Refusal) -> None:
    zones = [{"zone": "bl.example", "action": "defer"}, "second.example"]
    assert (await refusal(zones, reject_score=9)).startswith("450 4.7.1 ")


async def test_the_reason_is_cut_and_cleaned(refusal: Refusal) -> None:
    reply = await refusal(["nasty.example"])
    reason = reply.removeprefix(f"{LISTED}nasty.example; ")
    assert reason.startswith("100% [31m %s long long")
    assert 190 < len(reason) <= 200


async def test_the_reason_may_be_given_in_the_configuration(refusal: Refusal) -> None:
    reply = await refusal([{"zone": "bl.example", "text": "call +1 555 0100"}])
    assert reply == f"{LISTED}bl.example; call +1 555 0100"


async def test_a_list_without_words_is_named_alone(refusal: Refusal) -> None:
    assert await refusal([{"zone": "bl.example", "codes": "127.0.0.4"}], "192.0.2.4") == (
        "554 5.7.1 Service unavailable; client [192.0.2.4] blocked using bl.example"
    )


async def test_a_zone_that_holds_a_key_is_called_by_its_name_only(refusal: Refusal) -> None:
    zone = {"zone": "secret-key.example", "name": "Big List"}
    assert await refusal([zone]) == f"{LISTED}Big List"
    with capture_logs() as logs:
        await refusal([{"zone": "secret-key.invalid", "name": "Big List"}])
    assert "Big List" in str(logs)
    assert "secret-key" not in str(logs)


@pytest.mark.parametrize("zone", ["angry.example", "parked.example", "not-served.example"])
async def test_a_list_that_gives_no_answer_is_never_not_listed(refusal: Refusal, zone: str) -> None:
    with capture_logs() as logs:
        assert await refusal([zone]) == TEMPORARY
        assert await refusal(["bl.example", zone], "192.0.2.3") == TEMPORARY
        assert await refusal([zone], on_unavailable="pass") == "250"
    warned = [line for line in logs if line["event"] == "a list gave no answer"]
    assert [line["zone"] for line in warned] == [zone] * 3


@pytest.mark.parametrize("zone", ["angry.example", "parked.example", "not-served.example"])
async def test_a_list_that_gives_no_answer_saves_nobody_from_another(refusal: Refusal, zone: str) -> None:
    assert (await refusal([zone, "bl.example"])).startswith(LISTED + "bl.example")


async def test_a_silent_allow_list_keeps_its_friends_from_being_refused_for_good(refusal: Refusal) -> None:
    zones = ["bl.example", {"zone": "not-served.example", "action": "allow"}]
    assert await refusal(zones) == TEMPORARY
    assert (await refusal(zones, on_unavailable="pass")).startswith(LISTED)
    # It could only have said yes to a client that nothing is held against.
    assert await refusal(zones, "192.0.2.3") == "250"


async def test_a_silent_list_is_told_once_for_a_message(server: BlockList) -> None:
    async with gate(dns=[server.address], dnsbl={"zones": ["angry.example", "not-served.example"]}) as postfix:
        client = postfix.client("192.0.2.3")
        await client.mail()
        with capture_logs() as logs:
            replies = [(await client.rcpt(f"r{number}@example.org")).code for number in range(5)]
    assert replies == [451] * 5
    assert sum(line["event"] == "a list gave no answer" for line in logs) == 2


async def test_a_reason_that_cannot_be_had_is_left_out() -> None:
    table: Any = {"1.2.0.192.bl.example": {"A": ["127.0.0.2"], "TXT": "servfail"}}
    async with gate(dns=table, dnsbl={"zones": ["bl.example"]}) as postfix:
        assert await rcpt(postfix) == f"{LISTED}bl.example"


async def test_fifty_recipients_cost_one_look_up(server: BlockList) -> None:
    before = len(server.queries())
    zones = ["bl.example", "second.example"]
    async with gate(dns=patient_resolver(server.address), dnsbl={"zones": zones}) as postfix:
        client = postfix.client("192.0.2.1")
        await client.mail()
        replies = {(await client.rcpt(f"r{number}@example.org")).code for number in range(50)}
    assert replies == {554}
    asked = server.queries()[before:]
    assert sorted(asked) == [
        "1.2.0.192.bl.example A",
        "1.2.0.192.bl.example TXT",
        "1.2.0.192.second.example A",
    ]


async def test_all_zones_are_asked_at_the_same_time() -> None:
    zones = [f"zone{number}.example" for number in range(20)]
    with BlockList({zone: "192.0.2.1\n" if zone == zones[-1] else "192.0.2.2\n" for zone in zones}) as lists:
        async with (
            GatheringRelay(lists.address, 20) as relay,
            gate(dns=patient_resolver(relay.address), dnsbl={"zones": zones}) as postfix,
        ):
            assert (await rcpt(postfix)).startswith(LISTED + "zone19.example")
    assert relay.most == 20


async def test_a_client_without_an_address_is_not_asked_about() -> None:
    async with (
        Answering(lambda _: None) as silent,
        gate(dns=[silent.address], dnsbl={"zones": ["bl.example"]}) as postfix,
    ):
        assert (await rcpt(postfix, "unknown")).startswith("250 ")
        assert silent.asked == 0


@pytest.mark.parametrize("client", ["10.1.2.3", "2001:db8:1::7", "::ffff:10.1.2.3", "192.0.2.1"])
async def test_networks_to_skip_are_not_asked_about(client: str) -> None:
    options = {"zones": ["bl.example"], "skip_networks": ["10.0.0.0/8", "2001:db8:1::/48", "192.0.2.1"]}
    async with Answering(lambda _: None) as silent, gate(dns=[silent.address], dnsbl=options) as postfix:
        assert (await rcpt(postfix, client)).startswith("250 ")
        assert silent.asked == 0


async def test_a_client_that_has_logged_in_is_not_asked_about(server: BlockList) -> None:
    before = len(server.queries())
    async with gate(dns=[server.address], dnsbl={"zones": ["bl.example"]}) as postfix:
        assert (await rcpt(postfix, login="alice")).startswith("250 ")
    assert server.queries()[before:] == []
    async with gate(dns=[server.address], dnsbl={"zones": ["bl.example"], "skip_authenticated": False}) as postfix:
        assert (await rcpt(postfix, login="alice")).startswith("554 ")


async def test_what_is_whitelisted_is_not_asked_about(twice_asked: Gate, server: BlockList) -> None:
    before = len(server.queries())
    assert (await rcpt(twice_asked, recipient="friend@example.org")).startswith("250 ")
    assert server.queries()[before:] == []


async def test_options_may_differ_by_recipient_of_a_message(twice_asked: Gate) -> None:
    client = twice_asked.client("192.0.2.1")
    await client.mail()
    codes = [(await client.rcpt(f"{name}@example.org")).code for name in ("carol", "bob", "dave", "carol")]
    assert codes == [554, 250, 450, 554]


async def test_options_may_differ_by_client(twice_asked: Gate) -> None:
    assert (await rcpt(twice_asked, "192.0.2.4", "carol@example.org")).startswith("250 ")
    assert "blocked using second.example" in await rcpt(twice_asked, "192.0.2.2", "carol@example.org")
    assert "blocked using bl.example" in await rcpt(twice_asked, "192.0.2.1", "carol@example.org")


async def test_observed_only_it_logs_what_it_would_say(refusal: Refusal) -> None:
    with capture_logs() as logs:
        assert await refusal(["bl.example"], mode="observe") == "250"
        assert await refusal(["angry.example"], mode="observe") == "250"
    (would,) = [line for line in logs if line["event"] == "would answer"]
    assert would["text"].startswith("Service unavailable; client [192.0.2.1] blocked using bl.example")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "dnsbl needs the option 'zones'"),
        ({"zones": ["bl.example"], "zone": "x"}, "dnsbl has no option 'zone': did you mean 'zones'?"),
        (
            {"zones": [{"zone": "bl.example", "codes": ["127.0.0.2", "2"]}]},
            "dnsbl.zones.0.codes.1: '2' is no return code",
        ),
        ({"zones": ["bl.example"], "skip_networks": ["10.0.0.0/33"]}, "dnsbl.skip_networks.0: "),
        ({"zones": [{"zone": "a.example", "action": "score"}]}, "set reject_score, or another action"),
    ],
)
async def test_a_wrong_option_stops_the_start(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        async with gate(dnsbl=options):
            pass
    assert message in str(raised.value)


async def test_at_connect_the_session_is_refused_and_asked_about_once(server: BlockList) -> None:
    async with gate(dns=[server.address], dnsbl={"zones": ["bl.example"], "at": "connect"}) as postfix:
        client = postfix.client("192.0.2.1")
        for _ in range(2):
            await client.mail()
            assert (await client.rcpt("bob@example.org")).code == 554
        assert client.session.denial is not None
        assert client.session.denial.hook == "connect"
        assert "dnsbl" not in client.transaction.notes
        assert (await rcpt(postfix, "192.0.2.9")).startswith("250 ")


async def test_at_connect_no_login_is_known(server: BlockList) -> None:
    options = {"zones": ["bl.example"], "at": "connect", "skip_authenticated": True}
    async with gate(dns=[server.address], dnsbl=options) as postfix:
        client = postfix.client("192.0.2.1")
        await client._arrive()
        client.session.login = "alice"
        assert client.session.denial is not None


async def test_at_connect_who_is_whitelisted_or_exempt_is_not_asked_about(server: BlockList) -> None:
    options = {"zones": ["bl.example"], "at": "connect", "skip_networks": ["192.0.2.4"]}
    async with gate(dns=[server.address], dnsbl=options) as postfix:
        assert (await rcpt(postfix, whitelist_reason="test")).startswith("250 ")
        assert (await rcpt(postfix, "192.0.2.4")).startswith("250 ")


async def test_at_connect_a_list_without_an_answer_is_not_a_no() -> None:
    for policy, code in (("defer", "451"), ("pass", "250")):
        options = {"zones": ["bl.example"], "at": "connect", "on_unavailable": policy}
        async with gate(dns={"bl.example": "servfail"}, dnsbl=options) as postfix:
            assert (await rcpt(postfix)).startswith(code)


async def test_when_it_is_asked_cannot_be_overridden() -> None:
    async with gate(dns={}, dnsbl={"zones": ["bl.example"]}) as postfix:
        with pytest.raises(ConfigError, match="at"):
            postfix.plugin("dnsbl").parse_overrides("dnsbl.at=connect", "test")
