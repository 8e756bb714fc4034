"""karma: what counts as a strike, when a penalty begins and ends, and for whom."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from tests.hooks.karma_rig import BAD, DAY, PENALTY, entries, gates, reply, session

if TYPE_CHECKING:
    from tests.hooks.conftest import HandClock
    from tests.hooks.karma_rig import MakeGate


@pytest.fixture
def made(clock: HandClock) -> MakeGate:
    return gates(clock)


async def test_a_session_of_strikes_brings_a_penalty_that_ends(made: MakeGate, clock: HandClock) -> None:
    async with made() as postfix:
        await session(postfix, *BAD)
        assert await reply(postfix) == PENALTY
        clock.now += DAY / 2
        assert await reply(postfix) == PENALTY.replace("24", "12")
        clock.now += DAY / 2 + 1
        assert await reply(postfix) == "250"


@pytest.mark.parametrize(
    ("names", "penalised"),
    [
        (("bad", "bad"), False),
        (("bad", "bad", "bad"), True),
        (("good", "bad", "bad", "bad"), False),
        (("good", "bad", "bad", "bad", "bad"), True),
        (("later", "later", "later", "later"), False),
        (("unknown", "unknown", "unknown"), True),
        (("good", "good"), False),
        ((), False),
    ],
)
async def test_permanent_refusals_are_strikes_and_queued_messages_make_up_for_them(
    made: MakeGate, names: tuple[str, ...], *, penalised: bool
) -> None:
    async with made() as postfix:
        await session(postfix, *names)
        assert (await reply(postfix) == PENALTY) is penalised


async def test_recipients_that_postfix_itself_refused_are_strikes(made: MakeGate) -> None:
    async with made() as postfix:
        client = postfix.client("192.0.2.1")
        await client.mail("a@sender.example")
        for number in range(3):
            await client.refused(f"nobody{number}@example.org")
        await client.quit()
        assert client.session.notes["karma"]["strikes"] == 3
        assert await reply(postfix) == PENALTY


async def test_the_number_of_strikes_can_be_another(made: MakeGate) -> None:
    async with made(strikes=1) as postfix:
        await session(postfix, "bad")
        assert await reply(postfix) == PENALTY


@pytest.mark.parametrize(("negative", "sessions"), [(1, 1), (2, 2), (3, 3)])
async def test_so_many_more_bad_sessions_than_good_ones_bring_a_penalty(
    made: MakeGate, negative: int, sessions: int
) -> None:
    async with made(negative=negative) as postfix:
        for _ in range(sessions - 1):
            await session(postfix, *BAD)
            assert await reply(postfix) == "250"
        await session(postfix, *BAD)
        assert await reply(postfix) == PENALTY


async def test_a_good_past_makes_up_for_a_bad_day(made: MakeGate) -> None:
    async with made() as postfix:
        await session(postfix, "good")
        await session(postfix, *BAD)
        assert await reply(postfix) == "250"
        await session(postfix, *BAD)
        assert await reply(postfix) == PENALTY


@pytest.mark.parametrize(("credit", "bad_sessions"), [(0, 1), (2, 3), (5, 6)])
async def test_a_good_past_is_worth_so_much_and_no_more(made: MakeGate, credit: int, bad_sessions: int) -> None:
    async with made(credit=credit) as postfix:
        for _ in range(20):
            await session(postfix, "good")
        for _ in range(bad_sessions - 1):
            await session(postfix, *BAD)
            assert await reply(postfix) == "250"
        await session(postfix, *BAD)
        assert await reply(postfix) == PENALTY


async def test_thirty_good_sessions_are_remembered_by_default_and_a_longer_past_shrinks_to_that(made: MakeGate) -> None:
    async with made() as postfix:
        await postfix.store.put("karma:client 192.0.2.1/32", [5000, 7, 0.0, 0], None)
        await session(postfix, *BAD)
        assert (await entries(postfix))["karma:client 192.0.2.1/32"] == [38, 8, 0.0, 0]
        await session(postfix, "good")
        assert (await entries(postfix))["karma:client 192.0.2.1/32"] == [38, 8, 0.0, 0]


async def test_a_refusal_for_the_penalty_is_no_strike(made: MakeGate, clock: HandClock) -> None:
    async with made(action="deny", strikes=1) as postfix:
        await session(postfix, "bad")
        before = await entries(postfix)
        clock.now += DAY - 10
        for _ in range(5):
            await session(postfix, "good", "good")
        assert await entries(postfix) == before
        clock.now += 11
        assert await reply(postfix) == "250"


async def test_a_penalty_is_for_the_client_alone_by_default(made: MakeGate) -> None:
    async with made() as postfix:
        await session(postfix, *BAD)
        assert await reply(postfix, "192.0.2.2") == "250"
        assert await reply(postfix, "192.0.2.2", "a@sender.example") == "250"


@pytest.mark.parametrize(
    ("culprit", "neighbour", "stranger"),
    [("192.0.2.1", "192.0.2.200", "192.0.3.1"), ("2001:db8:0:1::1", "2001:db8:0:2::1", "2001:db8:1:1::1")],
)
async def test_a_network_can_have_a_penalty(made: MakeGate, culprit: str, neighbour: str, stranger: str) -> None:
    async with made(network_negative=1) as postfix:
        await session(postfix, *BAD, address=culprit)
        assert await reply(postfix, neighbour) == PENALTY
        assert await reply(postfix, stranger) == "250"


async def test_ipv6_clients_of_one_64_are_one_client(made: MakeGate) -> None:
    async with made() as postfix:
        await session(postfix, *BAD, address="2001:db8::1")
        assert await reply(postfix, "2001:db8::ffff:2") == PENALTY
        assert await reply(postfix, "2001:db8:0:1::1") == "250"
        assert await reply(postfix, "::ffff:192.0.2.1") == "250"


async def test_a_sender_domain_can_have_a_penalty(made: MakeGate) -> None:
    async with made(domain_negative=1, negative=0) as postfix:
        await session(postfix, *BAD, sender="x@Spam.Example")
        assert await reply(postfix, "198.51.100.9", "y@spam.example") == PENALTY
        assert await reply(postfix, "192.0.2.1", "a@other.example") == "250"
        assert await reply(postfix, "192.0.2.1", "") == "250"


async def test_a_negative_of_0_ends_a_penalty_that_was_given(made: MakeGate, clock: HandClock) -> None:
    async with made(negative=0, network_negative=0) as postfix:
        await session(postfix, *BAD)
        assert await reply(postfix) == "250"
        assert (await entries(postfix))["karma:client 192.0.2.1/32"] == [0, 1, 0.0, 0]
        for who in ("client 192.0.2.1/32", "network 192.0.2.0/24", "domain sender.example"):
            await postfix.store.put(f"karma:{who}", [0, 9, clock.now + 1000, 0], None)
        assert await reply(postfix) == "250"


async def test_a_message_that_is_held_makes_up_for_nothing(made: MakeGate) -> None:
    async with made() as postfix:
        await session(postfix, "held")
        assert await entries(postfix) == {}


async def test_so_many_sender_domains_of_one_session_are_counted(made: MakeGate) -> None:
    async with made() as postfix:
        client = postfix.client("192.0.2.1")
        for number in range(30):
            await client.send(f"a@domain{number}.example", "good@example.org")
        await client.quit()
        assert sum(key.startswith("karma:domain ") for key in await entries(postfix)) == 20


async def test_histories_are_kept_of_what_keep_names(made: MakeGate) -> None:
    async with made() as postfix:
        await session(postfix, "good")
        assert await entries(postfix) == {
            "karma:client 192.0.2.1/32": [1, 0, 0.0, 0],
            "karma:domain sender.example": [1, 0, 0.0, 0],
            "karma:network 192.0.2.0/24": [1, 0, 0.0, 0],
        }
    async with made(keep=["client"]) as postfix:
        await session(postfix, "good")
        assert list(await entries(postfix)) == ["karma:client 192.0.2.1/32"]


@pytest.mark.parametrize("kind", ["network", "domain"])
async def test_what_can_have_a_penalty_has_a_history_whatever_keep_names(made: MakeGate, kind: str) -> None:
    async with made(keep=[], **{f"{kind}_negative": 1}) as postfix:
        await session(postfix, *BAD)
        assert [key.partition(" ")[0] for key in await entries(postfix)] == [f"karma:{kind}"]
        assert await reply(postfix) == PENALTY


async def test_a_session_that_did_nothing_writes_nothing(made: MakeGate) -> None:
    async with made() as postfix:
        await session(postfix)
        await session(postfix, "later")
        assert await entries(postfix) == {}


async def test_a_history_is_forgotten(made: MakeGate, clock: HandClock) -> None:
    async with made(history="10d") as postfix:
        await session(postfix, "good")
        clock.now += 9 * DAY
        await session(postfix, "good")
        clock.now += 9 * DAY
        assert (await entries(postfix))["karma:client 192.0.2.1/32"] == [2, 0, 0.0, 0]
        clock.now += 2 * DAY
        assert await entries(postfix) == {}


@pytest.mark.parametrize("off_s", [-30 * 365 * DAY, -2 * DAY])
async def test_a_clock_that_goes_back_keeps_nobody_away(made: MakeGate, clock: HandClock, off_s: float) -> None:
    async with made() as postfix:
        await session(postfix, *BAD)
        clock.now += off_s
        assert await reply(postfix) == "250"


async def test_a_penalty_longer_than_the_history_lasts(made: MakeGate, clock: HandClock) -> None:
    async with made(history="1h", penalty_days=2) as postfix:
        await session(postfix, *BAD)
        clock.now += 1.5 * DAY
        assert await reply(postfix) == PENALTY.replace("24", "12")


async def test_a_thousand_clients_at_once_are_not_mixed_up(made: MakeGate) -> None:
    async with made() as postfix:
        addresses = [f"11.{number // 250}.{number % 250}.1" for number in range(1000)]
        names = [BAD if number % 2 else ("good",) for number in range(1000)]
        await asyncio.gather(
            *(session(postfix, *said, address=address) for address, said in zip(addresses, names, strict=True))
        )
        known = await entries(postfix)
        for address, said in zip(addresses, names, strict=True):
            assert known[f"karma:client {address}/32"][:2] == ([0, 1] if said is BAD else [1, 0])


async def test_sessions_of_one_client_at_once_are_all_counted(made: MakeGate) -> None:
    async with made(credit=100) as postfix:
        await asyncio.gather(*(session(postfix, "good") for _ in range(50)))
        assert (await entries(postfix))["karma:client 192.0.2.1/32"] == [50, 0, 0.0, 0]


async def test_at_connect_the_session_is_refused(made: MakeGate) -> None:
    async with made(at="connect", domain_negative=1) as postfix:
        await session(postfix, *BAD)
        client = postfix.client("192.0.2.1")
        assert (await client.mail()).encode().decode().strip() == PENALTY
        assert client.session.denial is not None
        assert client.session.denial.hook == "connect"
        assert await reply(postfix, "198.51.100.1") == PENALTY
        assert await reply(postfix, "198.51.100.1", "a@other.example") == "250"


async def test_action_text_and_length_can_be_others(made: MakeGate) -> None:
    async with made(action="deny", text="go away", penalty_days=0.25) as postfix:
        await session(postfix, *BAD)
        assert await reply(postfix) == "550 5.7.1 go away; try again in 6 h"


@pytest.mark.parametrize("value", ["nonsense", [1, 2], [1, 2, 0.0], {"good": 1}, None, [1, "x", 0, 0]])
async def test_an_entry_that_is_no_history_is_none(made: MakeGate, value: Any) -> None:
    async with made() as postfix:
        await postfix.store.put("karma:client 192.0.2.1/32", value, None)
        assert await reply(postfix) == "250"
        await session(postfix, *BAD)
        assert await reply(postfix) == PENALTY


@pytest.mark.parametrize("sender", ["a@b\udcff.example", f"a@{'x' * 4000}.example", "a@[192.0.2.1]", '"a b"@x.example'])
async def test_any_sender_domain_can_be_counted(made: MakeGate, sender: str) -> None:
    async with made() as postfix:
        await session(postfix, "good", sender=sender)
        assert all(value[:2] == [1, 0] for value in (await entries(postfix)).values())


async def test_a_client_without_an_address_has_no_history(made: MakeGate) -> None:
    async with made() as postfix:
        await session(postfix, *BAD, address="unknown")
        assert list(await entries(postfix)) == ["karma:domain sender.example"]
        assert await reply(postfix, "unknown") == "250"


@pytest.mark.parametrize("at", ["rcpt", "connect"])
@pytest.mark.parametrize("keep", ["client", "domain"])
async def test_without_the_store_the_policy_decides(made: MakeGate, at: str, keep: str) -> None:
    async with made(at=at, keep=[keep]) as postfix:
        await postfix.store.close()
        assert await reply(postfix) == "451 4.3.0 temporary failure, please try again later"
    async with made(at=at, on_unavailable="pass") as postfix:
        await postfix.store.close()
        assert await reply(postfix) == "250"


async def test_without_the_store_who_logs_in_is_not_kept_waiting(made: MakeGate) -> None:
    async with made() as postfix:
        await postfix.store.close()
        client = postfix.client("192.0.2.1")
        await client._arrive()
        client.session.login = "alice"
        await client.mail()
        assert (await client.rcpt("good@example.org")).code == 250
