"""What a failure comes to, and that no change of a plugin that failed or is only observed stands."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest
from pydantic import model_validator
from structlog.testing import capture_logs
from tests.rigs.pipeline_rig import Scopes, answering, asked, verdict_of

from gatepost import (
    Address,
    ConfigError,
    Deny,
    Message,
    Ok,
    Overrides,
    Plugin,
    PluginOptions,
    Recipient,
    Transaction,
    Unavailable,
    Verdict,
)
from gatepost.deadline import Deadline
from gatepost.errors import ConfigErrors
from gatepost.pipeline.pipeline import UNAVAILABLE
from gatepost.testing import gate
from gatepost.verdict import DECLINED


@pytest.fixture(autouse=True)
def _nobody_asked() -> None:
    asked.clear()


async def test_an_observed_verdict_is_logged_and_is_declined() -> None:
    with capture_logs() as logs:
        verdict, scopes = await verdict_of(Deny("no"), Ok(), first={"mode": "observe"})

    assert verdict == Ok()
    assert [(record.plugin, record.reason, record.verdict) for record in scopes.records] == [
        ("first", "observed", Deny("no")),
        ("second", "answer", Ok()),
    ]
    (entry,) = [entry for entry in logs if entry["event"] == "would answer"]
    assert (entry["plugin"], entry["verdict"], entry["text"]) == ("first", "Deny", "no")


async def test_the_failure_of_an_observed_plugin_refuses_nothing_and_is_logged() -> None:
    verdict, scopes = await verdict_of(ValueError("bad"), None, first={"mode": "observe", "on_error": "defer"})

    assert verdict is DECLINED
    assert [(record.plugin, record.reason) for record in scopes.records] == [("first", "error")]


class Steering(Plugin):
    """Changes everything that a plugin may, then answers or fails."""

    _error: ClassVar[BaseException | None] = None

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> None:
        recipient.deliver_to([Address.parse("elsewhere@example.com")])
        for scope in (recipient, transaction, transaction.session):
            scope.override(Overrides({"other": {"mode": "off"}}))
        if self._error is not None:
            raise self._error


class FailingSteering(Steering):
    _error = ValueError("halfway")


def changed(scopes: Scopes) -> tuple[int, int, int, int]:
    return (
        len(scopes.recipient.targets),
        len(scopes.recipient.overrides),
        len(scopes.transaction.overrides),
        len(scopes.session.overrides),
    )


@pytest.mark.parametrize(
    ("kind", "options", "left"),
    [
        (Steering, {}, (1, 1, 1, 1)),
        (Steering, {"steering": {"mode": "observe"}}, (0, 0, 0, 0)),
        (FailingSteering, {"failing_steering": {"on_error": "pass"}}, (0, 0, 0, 0)),
        (FailingSteering, {"failing_steering": {"mode": "observe"}}, (0, 0, 0, 0)),
    ],
)
async def test_what_an_observed_or_a_failed_plugin_changed_is_put_back(
    kind: type[Steering], options: dict[str, Any], left: tuple[int, int, int, int]
) -> None:
    scopes = Scopes()
    async with gate(kind, **options) as made:
        assert await scopes.rcpt(made.pipeline) is DECLINED

    assert changed(scopes) == left


@pytest.mark.parametrize(
    ("error", "policy", "reason"),
    [
        (ValueError("bad"), "on_error", "error"),
        (SystemExit(1), "on_error", "error"),
        (TimeoutError(), "on_timeout", "timeout"),
        (Unavailable("clamd", "refused"), "on_unavailable", "unavailable"),
    ],
)
async def test_each_kind_of_failure_has_its_own_policy(error: BaseException, policy: str, reason: str) -> None:
    others = {name: "pass" for name in ("on_error", "on_timeout", "on_unavailable") if name != policy}

    deferred, scopes = await verdict_of(error, Deny("never asked"), first=others)
    assert deferred == UNAVAILABLE
    assert [(record.plugin, record.reason) for record in scopes.records] == [("first", reason)]

    passed, scopes = await verdict_of(error, Ok("next"), first={policy: "pass"})
    assert passed == Ok("next")
    assert [(record.plugin, record.reason) for record in scopes.records] == [("first", reason), ("second", "answer")]


async def test_internals_of_a_failure_reach_the_log_and_never_the_client() -> None:
    with capture_logs() as logs:
        verdict, scopes = await verdict_of(ValueError("password is 12345"))

    assert verdict.code == 451
    assert "12345" not in verdict.text
    assert "12345" in str(scopes.records[0].detail)
    assert [entry["log_level"] for entry in logs if "12345" in entry.get("problem", "")] == ["error"]


async def test_a_failure_where_nothing_can_be_refused_refuses_nothing() -> None:
    class Late(Plugin):
        def queue_post(self, transaction: Transaction) -> None:
            raise ValueError("bad")

    scopes = Scopes()
    async with gate(Late) as made:
        transaction = scopes.transaction
        verdict = await made.pipeline.ask("queue_post", transaction, transaction, deadline=Deadline.after(60))

    assert verdict is DECLINED
    assert [record.reason for record in scopes.records] == ["error"]


async def test_without_time_left_a_plugin_is_not_asked_and_that_is_a_timeout() -> None:
    scopes = Scopes()
    async with gate(*answering(Ok())) as made:
        assert await scopes.rcpt(made.pipeline, seconds=0) == UNAVAILABLE

    assert asked == []
    assert [(record.reason, record.detail) for record in scopes.records] == [("timeout", "no time was left")]


class Sleeper(Plugin):
    async def rcpt(self, transaction: Transaction, recipient: Recipient) -> None:
        await asyncio.Event().wait()


async def test_a_plugins_time_is_cut_to_what_is_left_of_the_replys() -> None:
    scopes = Scopes()
    async with gate(Sleeper, sleeper={"timeout": "1h"}) as made, asyncio.timeout(60):
        assert await scopes.rcpt(made.pipeline, seconds=0.05) == UNAVAILABLE

    assert scopes.records[0].reason == "timeout"


async def test_a_plugin_that_took_too_long_leaves_time_for_the_next() -> None:
    scopes = Scopes()
    in_time = {"timeout": "20ms", "on_timeout": "pass"}
    async with gate(Sleeper, *answering(Ok("next")), sleeper=in_time) as made:
        assert await scopes.rcpt(made.pipeline) == Ok("next")


class PairOptions(PluginOptions):
    low: int = 1
    high: int = 2

    @model_validator(mode="after")
    def _ordered(self) -> PairOptions:
        if self.low > self.high:
            raise ValueError("low is over high")
        return self


class Pair(Plugin[PairOptions]):
    def rcpt(self, transaction: Transaction, recipient: Recipient) -> None:
        asked.append(self.name)

    def data_post(self, transaction: Transaction, message: Message) -> None:
        asked.append(self.name)


@pytest.mark.parametrize(("policy", "expected"), [("defer", UNAVAILABLE), ("pass", DECLINED)])
@pytest.mark.parametrize("mode", ["enforce", "off"])
async def test_overrides_that_do_not_go_together_are_an_error_of_that_plugin(
    policy: str, expected: Verdict, mode: str
) -> None:
    scopes = Scopes()
    scopes.recipient.override(Overrides({"pair": {"low": 9}}, "/etc/gatepost/aliases:12"))
    async with gate(Pair, pair={"on_error": policy, "mode": mode}) as made:
        assert await scopes.rcpt(made.pipeline) == expected

    assert asked == []
    assert "/etc/gatepost/aliases:12" in str(scopes.records[0].detail)


async def test_such_overrides_agree_with_no_others_and_break_no_comparison() -> None:
    good, bad, same = Scopes(), Scopes(), Scopes()
    for scopes in (bad, same):
        scopes.recipient.override(Overrides({"pair": {"low": 9}}))
    async with gate(Pair) as made:
        late = [made.pipeline.late_options(scopes.recipient) for scopes in (good, bad, same)]

    assert late[0] != late[1]
    assert late[1] == late[2]


class Eventful(Plugin):
    async def init(self) -> None:
        asked.append(f"{self.name} init")

    def shutdown(self) -> None:
        asked.append(f"{self.name} shutdown")


class Other(Eventful):
    async def reload(self) -> None:
        asked.append(f"{self.name} reload")


async def test_events_run_in_order_whatever_kind_of_method_they_are() -> None:
    async with gate(Eventful, Other) as made:
        await made.pipeline.stop("reload")

    assert asked == ["eventful init", "other init", "other reload", "eventful shutdown", "other shutdown"]


async def test_an_event_that_fails_is_logged_and_the_others_still_run() -> None:
    class Broken(Plugin):
        def shutdown(self) -> None:
            raise ValueError("bad")

    with capture_logs() as logs:
        async with gate(Broken, Eventful):
            pass

    assert asked == ["eventful init", "eventful shutdown"]
    assert [(entry["plugin"], entry["problem"]) for entry in logs] == [("broken", "ValueError('bad')")]


async def test_a_shutdown_that_never_ends_is_given_up_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(Plugin):
        async def shutdown(self) -> None:
            # This one's time runs already; the next one's thread may take longer to begin on a busy machine.
            monkeypatch.setattr("gatepost.pipeline.pipeline.EVENT_TIMEOUT_S", 60)
            await asyncio.Event().wait()

    with capture_logs() as logs:
        async with asyncio.timeout(30), gate(Endless, Eventful):
            monkeypatch.setattr("gatepost.pipeline.pipeline.EVENT_TIMEOUT_S", 0.02)

    assert asked == ["eventful init", "eventful shutdown"]
    assert [(entry["plugin"], entry["problem"]) for entry in logs] == [("endless", "TimeoutError()")]


async def test_a_plugin_that_never_started_is_not_shut_down() -> None:
    class Unstarted(Eventful):
        async def init(self) -> None:
            raise ConfigError("no")

    class Unavailing(Eventful):
        async def init(self) -> None:
            raise Unavailable("redis", "refused")

    with pytest.raises(ConfigErrors) as caught:
        async with gate(Unstarted, Unavailing, Eventful):
            raise AssertionError("started")

    assert [error.message for error in caught.value.errors] == ["no", "plugin unavailing cannot start: redis: refused"]
    assert "unstarted shutdown" not in asked
