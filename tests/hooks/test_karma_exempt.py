"""karma: who is neither refused nor counted, and what other plugins read and add."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.hooks.karma_rig import BAD, PENALTY, entries, gates, reply, session

from gatepost.testing import gate

if TYPE_CHECKING:
    from tests.hooks.conftest import HandClock
    from tests.hooks.karma_rig import MakeGate


@pytest.fixture
def made(clock: HandClock) -> MakeGate:
    return gates(clock)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "192.168.1.7", "::ffff:10.0.0.1", "fd00::7", "100.64.0.1"])
async def test_a_client_of_this_site_is_neither_refused_nor_counted(made: MakeGate, address: str) -> None:
    async with made(domain_negative=1) as postfix:
        await session(postfix, *BAD, address=address)
        assert await entries(postfix) == {}
        await session(postfix, *BAD, address="198.51.100.1")
        assert await reply(postfix, address) == "250"
    async with made(skip_networks=[]) as postfix:
        await session(postfix, *BAD, address=address)
        assert await reply(postfix, address) == PENALTY


@pytest.mark.parametrize("at", ["rcpt", "connect"])
@pytest.mark.parametrize("negative", ["negative", "domain_negative"])
async def test_a_penalty_from_before_does_not_hold_for_an_exempt_client(made: MakeGate, at: str, negative: str) -> None:
    async with made(at=at, **{"negative": 0, negative: 1}) as postfix:
        await session(postfix, *BAD)
        assert await reply(postfix) == PENALTY
        exempt = postfix.plugin("karma").parse_overrides('karma.skip_networks="192.0.2.0/24"', "test")
        assert await reply(postfix, overrides=(exempt,)) == "250"


async def test_skip_networks_names_others(made: MakeGate) -> None:
    async with made(skip_networks=["192.0.2.0/28"]) as postfix:
        for address in ("192.0.2.1", "192.0.2.99"):
            await session(postfix, *BAD, address=address)
        assert await reply(postfix, "192.0.2.1") == "250"
        assert await reply(postfix, "192.0.2.99") == PENALTY


async def test_others_read_the_scores_and_add_strikes(made: MakeGate) -> None:
    async with made() as postfix:
        for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
            await session(postfix, "good", address=address)
        client = postfix.client("192.0.2.1")
        await client.mail("a@sender.example")
        notes = client.session.notes["karma"]
        assert (notes["score"], notes["network_score"], notes["strikes"]) == (2, 3, 0)
        assert client.transaction.notes["karma"]["score"] == 3
        notes["strikes"] += 3
        await client.quit()
        assert (await entries(postfix))["karma:client 192.0.2.1/32"] == [2, 1, 0.0, 0]


JUDGEMENT = """
from gatepost import Deny, Plugin

class Judgement(Plugin):
    def mail(self, transaction, sender, parameters):
        session = transaction.session
        if sender.local == "odd":
{example}

    def rcpt(self, transaction, recipient):
        of_client, of_domain = transaction.session.notes["karma"], transaction.notes["karma"]
        if of_client["penalty_s"]:
            return Deny("the client")
        if of_domain["penalty_s"]:
            return Deny("the domain")
        if of_client["score"] < 1 and recipient.address.local == "vip":
            return Deny("a stranger")
"""
EXAMPLE = re.compile(r"^        if karma := .*\n(?: {12}.*\n)+", re.MULTILINE)


async def test_another_plugin_adds_strikes_as_the_manual_shows_and_acts_by_verdict_and_score(
    clock: HandClock, tmp_path: Path
) -> None:
    manual = Path(__file__).parents[2].joinpath("hooks/karma.py").read_text(encoding="utf-8")
    (example,) = EXAMPLE.findall(manual)
    (tmp_path / "judgement.py").write_text(JUDGEMENT.format(example=textwrap.indent(example, "    ")))
    # karma itself refuses nobody here.
    options = {"mode": "observe", "domain_negative": 1, "network_negative": 0}
    async with gate(clock=clock, directory=tmp_path, karma=options, judgement={}) as postfix:

        async def heard(address: str, sender: str, recipient: str = "good") -> str:
            client = postfix.client(address)
            await client.mail(sender)
            answer = await client.rcpt(f"{recipient}@example.org")
            await client.abandon()
            return "250" if answer.code == 250 else answer.text

        assert await heard("192.0.2.1", "a@one.example", "vip") == "a stranger"
        await session(postfix, "good")
        assert await heard("192.0.2.1", "a@one.example", "vip") == "250"
        client = postfix.client("192.0.2.2")
        await client.mail("odd@one.example")
        await client.quit()
        assert await heard("192.0.2.2", "a@one.example") == "the client"
        assert await heard("192.0.2.3", "a@one.example") == "250"
        client = postfix.client("192.0.2.4")
        for _ in range(3):
            await client.mail("a@two.example")
            await client.refused("nobody@example.org")
        await client.quit()
        assert await heard("192.0.2.5", "a@two.example") == "the domain"


@pytest.mark.parametrize(("sender", "keep"), [("", ["domain"]), ("a@sender.example", ["client"])])
async def test_a_sender_without_a_history_has_a_verdict_and_no_score(
    made: MakeGate, sender: str, keep: list[str]
) -> None:
    async with made(keep=keep) as postfix:
        client = postfix.client("192.0.2.1")
        await client.mail(sender)
        assert client.transaction.notes["karma"] == {"penalty_s": 0.0}


async def test_in_a_session_that_is_older_than_the_plugin_strikes_can_be_added(made: MakeGate) -> None:
    async with made() as postfix:
        client = postfix.client("192.0.2.1")
        client.greeted = True
        await client.mail("a@sender.example")
        await client.rcpt("good@example.org")
        client.session.notes["karma"]["strikes"] += 3
        await client.quit()
        assert (await entries(postfix))["karma:client 192.0.2.1/32"][:2] == [0, 1]


async def test_who_has_logged_in_is_neither_refused_nor_counted(made: MakeGate) -> None:
    async with made() as postfix:
        await session(postfix, *BAD, login="alice")
        late = postfix.client("192.0.2.1")
        for name in BAD:
            await late.send("a@sender.example", f"{name}@example.org")
        late.session.login = "alice"
        await late.quit()
        assert await entries(postfix) == {}
        await session(postfix, *BAD)
        assert await reply(postfix, login="alice") == "250"
        assert await reply(postfix) == PENALTY


async def test_who_is_whitelisted_is_neither_refused_nor_counted(made: MakeGate) -> None:
    async with made() as postfix:
        await session(postfix, *BAD, whitelist_reason="test")
        assert await entries(postfix) == {}
        await session(postfix, *BAD)
        assert await reply(postfix, whitelist_reason="test") == "250"


async def test_observed_it_keeps_histories_and_refuses_nobody(made: MakeGate) -> None:
    async with made(mode="observe") as postfix:
        await session(postfix, *BAD)
        with capture_logs() as logs:
            assert await reply(postfix) == "250"
    assert [entry["plugin"] for entry in logs if entry["event"] == "would answer"] == ["karma"]


async def test_overrides_spare_a_client_or_make_it_strict(made: MakeGate, clock: HandClock) -> None:
    async with made() as postfix:
        await session(postfix, *BAD)
        client = postfix.client("192.0.2.1")
        client.session.override(postfix.plugin("karma").parse_overrides("karma=off", "test"))
        await client.mail()
        assert (await client.rcpt("good@example.org")).code == 250
