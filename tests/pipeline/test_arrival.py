"""Connect, greetings, unknown commands, and recipients that Postfix refused: what plugins hear, what is remembered."""

from __future__ import annotations

import pytest

from gatepost import Deny, DenyDisconnect, Plugin, Recipient, Reply, Session, Transaction, Verdict
from gatepost.deadline import Deadline
from gatepost.pipeline.arrival import connect, helo
from gatepost.testing import gate, run_hook


class Picky(Plugin):
    """Denies by name, and remembers what it was asked."""

    _asked: list[str]

    def init(self) -> None:
        self._asked = []

    def connect(self, session: Session) -> Verdict | None:
        self._asked.append("connect")
        return Deny("not you") if session.name == "bad" else None

    def helo(self, session: Session, name: str) -> Verdict | None:
        self._asked.append(f"helo {name}")
        return Deny("not so") if name == "bad" else None

    def unrecognized_command(self, session: Session, verb: str) -> Verdict | None:
        self._asked.append(verb)
        return Deny("not that") if verb == "BAD" else None

    def rcpt_refused(self, transaction: Transaction, recipient: Recipient, reply: Reply) -> None:
        self._asked.append(f"{recipient.address} {recipient.outcome} {reply.code} {reply.text}")


class HangsUp(Plugin):
    """Hangs up after any denial."""

    def deny(self, session: Session, hook: str, verdict: Verdict) -> Verdict | None:
        return DenyDisconnect(f"after {hook}")


def soon() -> Deadline:
    return Deadline.after(10)


async def test_each_greeting_is_judged_by_itself() -> None:
    async with gate(Picky) as made:
        session = Session("s", "192.0.2.1")
        denials = []
        for name in ("bad", "bad", "good", "bad"):
            session.helo = name
            denial = await helo(made.pipeline, session, soon())
            denials.append(denial and denial.hook)
            assert session.denial is denial

    assert denials == ["helo", "helo", None, "helo"]


class Hears(Plugin):
    """Remembers which denials it was told."""

    def deny(self, session: Session, hook: str, verdict: Verdict) -> None:
        self.notes(session).setdefault("heard", []).append(f"{hook}: {verdict.text}")


async def test_a_refused_greeting_is_a_denial_once_the_client_hears_it() -> None:
    async with gate(Picky, Hears) as made:
        client = made.client(helo="bad")
        await client._arrive()
        notes = client.session.notes.setdefault("hears", {})
        # STARTTLS repeats the greeting.
        await helo(made.pipeline, client.session, soon())
        assert notes == {}
        for _ in range(2):
            await client.mail()
            assert [(await client.rcpt(f"{who}@example.org")).code for who in "ab"] == [550, 550]
        assert notes == {"heard": ["helo: not so"]}


@pytest.mark.parametrize("then", ["greets better", "leaves"])
async def test_a_refused_greeting_that_the_client_never_hears_of_is_no_denial(then: str) -> None:
    async with gate(Picky, Hears) as made:
        client = made.client(helo="bad")
        await client._arrive()
        if then == "greets better":
            client.session.helo = "good"
            await helo(made.pipeline, client.session, soon())
            await client.mail()
            assert (await client.rcpt("a@example.org")).code == 250
        await client.quit()
        assert "hears" not in client.session.notes


async def test_a_greeting_that_is_judged_after_mail_is_a_denial_at_the_first_recipient() -> None:
    async with gate(Picky, Hears) as made:
        client = made.client()
        await client.mail()
        client.session.helo = "bad"
        await helo(made.pipeline, client.session, soon())
        assert [(await client.rcpt(f"{who}@example.org")).code for who in "ab"] == [550, 550]
        assert client.session.notes["hears"] == {"heard": ["helo: not so"]}


class HangsUpAtHelo(Plugin):
    def helo(self, session: Session, name: str) -> Verdict:
        return DenyDisconnect("not you")


async def test_a_greeting_that_is_hung_up_on_is_a_denial_at_once_and_once_only() -> None:
    async with gate(HangsUpAtHelo, Hears) as made:
        client = made.client()
        await client._arrive()
        assert client.session.notes["hears"] == {"heard": ["helo: not you"]}
        assert (await client.mail()).code == 521
        assert client.session.notes["hears"] == {"heard": ["helo: not you"]}


async def test_a_hang_up_after_a_refused_greeting_comes_with_it() -> None:
    async with gate(Picky, HangsUp) as made:
        assert (await made.client(helo="bad").mail()).encode() == b"521 5.7.1 after helo\r\n"


async def test_a_denial_at_connect_stands_and_no_greeting_is_judged() -> None:
    async with gate(Picky) as made:
        session = Session("s", "192.0.2.1", name="bad", helo="good")
        first = await connect(made.pipeline, session, soon())

        assert await helo(made.pipeline, session, soon()) is first is session.denial is not None
        assert made.plugin("picky")._asked == ["connect"]  # type: ignore[attr-defined]


async def test_an_unknown_command_is_postfixs_to_answer_unless_a_plugin_denies() -> None:
    async with gate(Picky) as made:
        client = made.client()

        assert (await client.unrecognized("FINE")).code == 500
        assert (await client.unrecognized("BAD")).encode() == b"500 5.7.1 not that\r\n"


async def test_a_recipient_that_postfix_refused_is_told_and_counted_with_its_outcome() -> None:
    async with gate(Picky) as made:
        client = made.client()
        await client.mail()
        await client.refused("a@example.org", "554 5.7.1 Relay access denied")
        await client.refused("b@example.org", "450 4.2.0 busy")
        await client.rcpt("c@example.org")
        await client.data()

        assert made.plugin("picky")._asked[-2:] == [  # type: ignore[attr-defined]
            "a@example.org refused 554 Relay access denied",
            "b@example.org deferred 450 busy",
        ]
        assert made.tally == {"offered": 3, "refused": 1, "deferred": 1, "accepted": 1}
        records = [(record.plugin, record.hook, record.recipient) for record in client.transaction.records]
        assert records == [("postfix", "rcpt_refused", "a@example.org"), ("postfix", "rcpt_refused", "b@example.org")]


@pytest.mark.parametrize("reply", ["550 5.1.1 unknown", "450 4.2.0 busy"])
async def test_a_hang_up_after_it_waits_for_the_next_command_that_is_answered_and_loses_no_mail(reply: str) -> None:
    async with gate(HangsUp) as made:
        client = made.client()
        await client.mail()
        await client.rcpt("before@example.org")
        await client.refused("a@example.org", reply)

        assert (await client.unrecognized()).code == 421
        assert (await client.rcpt("after@example.org")).code == 421
        assert (await client.mail()).code == 421


@pytest.mark.parametrize(("refusal", "code"), [(554, 521), (451, 421)])
async def test_a_hang_up_at_the_dot_is_for_good_only_where_the_message_was_refused_for_good(
    refusal: int, code: int
) -> None:
    async with gate(HangsUp) as made:
        client = made.client()
        await client.mail()
        assert client.flow is not None
        assert client.flow.hang_up_after(refusal) is None
        await client.refused("a@example.org")
        denial = client.flow.hang_up_after(refusal)

    assert denial is not None
    assert denial.verdict.disconnect_code == code


async def test_the_kit_runs_one_hook_of_the_edge() -> None:
    assert (await run_hook(Picky, "unrecognized_command", verb="BAD")).verdict == Deny("not that")
    await run_hook(Picky, "rcpt_refused")
