"""karma: strikes that several sessions bring together, as most spam comes: one message a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.hooks.karma_rig import BAD, DAY, PENALTY, entries, gates, reply, session

from gatepost.testing import gate

if TYPE_CHECKING:
    from tests.hooks.conftest import HandClock
    from tests.hooks.karma_rig import MakeGate

CLIENT = "karma:client 192.0.2.1/32"


@pytest.fixture
def made(clock: HandClock) -> MakeGate:
    return gates(clock)


@pytest.mark.parametrize(
    ("sessions", "penalised"),
    [
        ("bad bad", False),
        ("bad bad bad", True),
        ("bad+bad bad", True),
        ("bad bad good bad", False),
        ("bad bad good bad bad", False),
        ("bad later bad good+bad bad", True),
        ("good+good+good bad bad bad", False),
    ],
)
async def test_strikes_of_several_sessions_make_a_bad_one_and_queued_messages_make_up_for_them(
    made: MakeGate, sessions: str, *, penalised: bool
) -> None:
    async with made() as postfix:
        for names in sessions.split():
            await session(postfix, *names.split("+"))
        assert (await reply(postfix) == PENALTY) is penalised


async def test_after_a_bad_session_strikes_begin_anew(made: MakeGate, clock: HandClock) -> None:
    async with made() as postfix:
        for _ in range(3):
            await session(postfix, "bad")
        assert (await entries(postfix))[CLIENT][1:] == [1, clock.now + DAY, 0]
        clock.now += DAY + 1
        for _ in range(2):
            await session(postfix, "bad")
            assert await reply(postfix) == "250"
        await session(postfix, "bad")
        assert await reply(postfix) == PENALTY


async def test_messages_make_up_for_earlier_strikes_only_never_for_later_ones(made: MakeGate) -> None:
    async with made(credit=0) as postfix:
        await session(postfix, *["good"] * 9)
        await session(postfix, *BAD)
        assert await reply(postfix) == PENALTY


@pytest.mark.parametrize(
    ("refused", "accepted", "penalised"), [(9, 9, False), (9, 7, False), (9, 6, True), (4, 2, False), (4, 1, True)]
)
async def test_a_message_makes_up_for_as_many_of_its_refused_recipients_as_were_accepted(
    made: MakeGate, refused: int, accepted: int, *, penalised: bool
) -> None:
    async with made() as postfix:
        client = postfix.client("192.0.2.1")
        await client.mail("a@sender.example")
        for number in range(refused):
            await client.refused(f"gone{number}@example.org")
        for number in range(accepted):
            await client.rcpt(f"good{number}@example.org")
        await client.data()
        await client.quit()
        assert (await reply(postfix) == PENALTY) is penalised


async def test_accepted_recipients_of_one_message_make_up_for_no_other(made: MakeGate) -> None:
    async with made() as postfix:
        client = postfix.client("192.0.2.1")
        await client.mail("a@sender.example")
        for number in range(9):
            await client.rcpt(f"good{number}@example.org")
        await client.data()
        for _ in range(4):
            await client.send("a@sender.example", "bad@example.org")
        await client.quit()
        assert await reply(postfix) == PENALTY


async def test_strikes_alone_are_forgotten_after_a_day(made: MakeGate, clock: HandClock) -> None:
    async with made() as postfix:
        for _ in range(5):
            await session(postfix, "bad")
            assert await reply(postfix) == "250"
            clock.now += DAY + 1
        assert await entries(postfix) == {}


async def test_strikes_of_a_known_client_are_kept_with_its_history(made: MakeGate, clock: HandClock) -> None:
    async with made() as postfix:
        await session(postfix, "good")
        for _ in range(2):
            await session(postfix, "bad")
            clock.now += 80 * DAY
        assert (await entries(postfix))[CLIENT] == [1, 0, 0.0, 2]


async def test_with_one_strike_enough_each_session_of_more_strikes_than_messages_is_bad(made: MakeGate) -> None:
    async with made(strikes=1, negative=2) as postfix:
        await session(postfix, "good", "bad")
        await session(postfix, "bad")
        assert await reply(postfix) == "250"
        await session(postfix, "bad")
        assert await reply(postfix) == PENALTY


async def test_a_good_session_is_never_bad_for_what_is_left_of_a_stricter_time(made: MakeGate) -> None:
    async with made() as postfix:
        await postfix.store.put(CLIENT, [0, 0, 0.0, 9], None)
        await session(postfix, "good")
        assert await reply(postfix) == "250"
        assert (await entries(postfix))[CLIENT] == [1, 0, 0.0, 8]


@pytest.mark.parametrize(("strikes", "penalised"), [(3, True), (6, False)])
async def test_who_count_denies_hangs_up_on_comes_again_at_once_where_the_manual_says_so(
    clock: HandClock, strikes: int, *, penalised: bool
) -> None:
    async with gate(clock=clock, karma={"strikes": strikes}, count_denies={}) as postfix:
        for again in (penalised, True):
            client = postfix.client("192.0.2.1")
            await client.mail("list@sender.example")
            for number in range(5):
                await client.refused(f"gone{number}@example.org")
            assert (await client.rcpt("good@example.org")).code == 421
            await client.quit()
            assert (await reply(postfix) == PENALTY) is again
            if again:
                break
