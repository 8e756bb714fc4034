"""The pipeline: who is asked, whose word counts, and what the deny and ok hooks may do to it."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from structlog.testing import capture_logs
from tests.rigs.pipeline_rig import Scopes, answering, asked, verdict_of

from gatepost import (
    Declined,
    Deny,
    DenyDisconnect,
    DenySoft,
    DenySoftDisconnect,
    Ok,
    Overrides,
    Plugin,
    Session,
    Verdict,
)
from gatepost.deadline import Deadline
from gatepost.testing import gate
from gatepost.verdict import DECLINED


@pytest.fixture(autouse=True)
def _nobody_asked() -> None:
    asked.clear()


@pytest.mark.parametrize("last", [Ok("done"), DenySoft("later"), Deny("no"), DenySoftDisconnect(), DenyDisconnect()])
async def test_the_first_verdict_that_is_not_declined_ends_the_hook(last: Verdict) -> None:
    verdict, _ = await verdict_of(None, last, Deny("never asked"))

    assert verdict == last
    assert asked == ["first", "second"]


@pytest.mark.parametrize("nothing", [None, Declined(), Declined("with a text")])
async def test_declined_and_none_ask_the_next_and_leave_no_record(nothing: Verdict | None) -> None:
    verdict, scopes = await verdict_of(nothing, nothing, nothing)

    assert verdict is DECLINED
    assert asked == ["first", "second", "third"]
    assert scopes.records == []


async def test_the_order_is_that_of_the_configuration() -> None:
    async with gate(*answering(None, None, None)[::-1]) as made:
        await Scopes().rcpt(made.pipeline)

    assert asked == ["third", "second", "first"]


async def test_a_plugin_that_is_off_is_not_asked() -> None:
    verdict, scopes = await verdict_of(Deny("no"), Ok(), first={"mode": "off"})

    assert (verdict, asked) == (Ok(), ["second"])
    assert [record.plugin for record in scopes.records] == ["second"]


async def test_an_override_switches_a_plugin_off_or_on_for_one_recipient() -> None:
    scopes = Scopes()
    scopes.recipient.override(Overrides({"first": {"mode": "off"}, "second": {"mode": "enforce"}}))
    async with gate(*answering(Deny("no"), DenySoft("later")), second={"mode": "off"}) as made:
        assert await scopes.rcpt(made.pipeline) == DenySoft("later")
        assert await Scopes().rcpt(made.pipeline) == Deny("no")


@pytest.mark.parametrize(("login", "expected"), [("alice", DECLINED), (None, Deny("no"))])
async def test_a_plugin_that_skips_the_authenticated_is_not_asked_about_them(
    login: str | None, expected: Verdict
) -> None:
    async with gate(*answering(Deny("no")), first={"skip_authenticated": True}) as made:
        verdict = await Scopes(Session("s", "192.0.2.1", login=login)).rcpt(made.pipeline)

    assert verdict == expected


class Listener(Plugin):
    """Notes what it is told."""

    _hang_up: ClassVar[Verdict | None] = None

    def deny(self, session: Session, hook: str, verdict: Verdict) -> Verdict | None:
        asked.append(f"{self.name} {hook} {verdict.kind}")
        return self._hang_up

    def ok(self, session: Session, hook: str, verdict: Verdict) -> None:
        asked.append(f"{self.name} ok {hook} {verdict.kind}")


class Before(Listener):
    pass


class After(Listener):
    pass


def hanging_up(kind: type[Listener], verdict: Verdict) -> type[Listener]:
    return type(kind.__name__, (kind,), {"_hang_up": verdict, "__module__": __name__})


async def test_deny_runs_once_in_every_plugin_wherever_it_stands() -> None:
    async with gate(Before, *answering(Deny("no")), After) as made:
        assert await Scopes().rcpt(made.pipeline) == Deny("no")

    assert asked == ["first", "before rcpt Deny", "after rcpt Deny"]


@pytest.mark.parametrize(("answer", "told"), [(None, "Declined"), (Ok(), "Ok")])
async def test_ok_runs_in_every_plugin_when_nothing_is_denied(answer: Verdict | None, told: str) -> None:
    async with gate(Before, *answering(answer), After) as made:
        await Scopes().rcpt(made.pipeline)

    assert asked == ["first", f"before ok rcpt {told}", f"after ok rcpt {told}"]


async def test_deny_runs_after_a_failure_that_is_deferred_too() -> None:
    async with gate(*answering(ValueError("bad")), After) as made:
        await Scopes().rcpt(made.pipeline)

    assert asked == ["first", "after rcpt DenySoft"]


async def test_deny_does_not_run_after_a_denial_that_was_only_observed() -> None:
    async with gate(*answering(Deny("no")), After, first={"mode": "observe"}) as made:
        await Scopes().rcpt(made.pipeline)

    assert asked == ["first", "after ok rcpt Declined"]


@pytest.mark.parametrize("hang_up", [DenyDisconnect("bye"), DenySoftDisconnect("bye")])
async def test_a_hang_up_of_deny_replaces_the_reply(hang_up: Verdict) -> None:
    async with gate(*answering(Deny("no")), hanging_up(After, hang_up)) as made:
        assert await Scopes().rcpt(made.pipeline) == hang_up


async def test_the_first_hang_up_stands_and_all_are_told_the_verdict_that_was_given() -> None:
    plugins = [hanging_up(Before, DenyDisconnect("first")), hanging_up(After, DenySoftDisconnect("second"))]
    async with gate(*answering(Deny("no")), *plugins) as made:
        assert await Scopes().rcpt(made.pipeline) == DenyDisconnect("first")

    assert asked == ["first", "before rcpt Deny", "after rcpt Deny"]


@pytest.mark.parametrize("answer", [Deny("other"), DenySoft("other"), Ok("fine"), True])
async def test_deny_can_replace_the_reply_by_nothing_but_a_hang_up(answer: Any) -> None:
    scopes = Scopes()
    async with gate(*answering(Deny("no")), hanging_up(After, answer)) as made:
        assert await scopes.rcpt(made.pipeline) == Deny("no")

    assert [record.reason for record in scopes.records] == ["answer", "error"]


async def test_deny_of_an_observed_or_switched_off_plugin_hangs_up_on_nobody() -> None:
    for mode in ("observe", "off"):
        async with gate(*answering(Deny("no")), hanging_up(After, DenyDisconnect("bye")), after={"mode": mode}) as made:
            assert await Scopes().rcpt(made.pipeline) == Deny("no")


async def test_a_hang_up_that_only_soft_denials_led_to_is_421_and_never_521() -> None:
    scopes = Scopes()
    async with gate(*answering(DenySoft("later")), hanging_up(After, DenyDisconnect("bye", enhanced="5.7.1"))) as made:
        verdict = await scopes.rcpt(made.pipeline)

    assert verdict == DenySoftDisconnect("bye")
    assert verdict.disconnect_code == 421


async def test_a_hang_up_after_a_permanent_denial_in_the_same_session_may_be_521() -> None:
    scopes = Scopes()
    async with gate(*answering(Deny("no"))) as made:
        await scopes.rcpt(made.pipeline)
    async with gate(*answering(DenySoft("later")), hanging_up(After, DenyDisconnect("bye"))) as made:
        assert await scopes.rcpt(made.pipeline) == DenyDisconnect("bye")


async def test_a_plugins_own_521_is_not_touched() -> None:
    verdict, _ = await verdict_of(DenyDisconnect("go away"))

    assert verdict == DenyDisconnect("go away")


async def test_every_verdict_is_kept_on_the_transaction_and_logged_with_who_and_where() -> None:
    with capture_logs() as logs:
        _, scopes = await verdict_of(DenySoft("later"))

    (record,) = scopes.records
    assert (record.hook, record.plugin, record.verdict) == ("rcpt", "first", DenySoft("later"))
    assert (record.reason, record.detail, record.recipient) == ("answer", None, "b@example.org")
    (entry,) = [entry for entry in logs if entry["event"] == "verdict"]
    assert {key: entry[key] for key in ("session", "txn", "plugin", "hook", "verdict", "rcpt", "text")} == {
        "session": "s",
        "txn": "s.1",
        "plugin": "first",
        "hook": "rcpt",
        "verdict": "DenySoft",
        "rcpt": "b@example.org",
        "text": "later",
    }


async def test_outside_of_a_transaction_records_are_kept_on_the_session() -> None:
    class Connected(Plugin):
        def connect(self, session: Session) -> Deny:
            return Deny("no")

    session = Session("s", "192.0.2.1")
    async with gate(Connected) as made:
        await made.pipeline.run("connect", session, session, deadline=Deadline.after(60))

    assert [(record.hook, record.recipient) for record in session.records] == [("connect", None)]
