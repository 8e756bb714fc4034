"""One hook call: whatever a plugin does, the caller gets a verdict or a failure, in time, and never an exception."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from gatepost import Declined, Deny, DenyDisconnect, Ok, Plugin, Session, Unavailable, Verdict
from gatepost.pipeline.hook_call import Failure
from gatepost.testing import gate
from gatepost.verdict import DECLINED

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT_S = 60.0
"""Longer than any hook here takes that is not meant to take too long."""


class Kind(Plugin):
    """The same hook as a plain, an asynchronous, and a blocking plugin; `_act` is what it does."""

    _act: Callable[[], Any] = staticmethod(lambda: None)


class Plain(Kind):
    def connect(self, session: Session) -> Any:
        return self._act()


class Asynchronous(Kind):
    async def connect(self, session: Session) -> Any:
        await asyncio.sleep(0)
        return self._act()


class Blocking(Kind):
    blocking = True

    def connect(self, session: Session) -> Any:
        return self._act()


KINDS: list[type[Kind]] = [Plain, Asynchronous, Blocking]
every_kind = pytest.mark.parametrize("kind", KINDS)


async def answer_of(kind: type[Kind], act: Callable[[], Any]) -> Verdict | Failure:
    doing = type(kind.__name__, (kind,), {"_act": staticmethod(act), "__module__": kind.__module__})
    async with gate(doing) as made:
        return await made.pipeline.calls["connect"][0]((Session("s", "192.0.2.1"),), TIMEOUT_S)


def raising(error: BaseException) -> Callable[[], NoReturn]:
    def act() -> NoReturn:
        raise error

    return act


@every_kind
@pytest.mark.parametrize(
    ("returned", "verdict"),
    [(None, DECLINED), (Declined(), DECLINED), (Ok("yes"), Ok("yes")), (Deny("no", code=553), Deny("no", code=553))],
)
async def test_a_verdict_comes_back_as_it_is_and_none_is_declined(
    kind: type[Kind], returned: Verdict | None, verdict: Verdict
) -> None:
    assert await answer_of(kind, lambda: returned) == verdict


class BrokenRepr:
    def __repr__(self) -> str:
        raise RuntimeError("not even this")


class OwnVerdict(Deny):
    pass


@every_kind
@pytest.mark.parametrize(
    ("returned", "detail"),
    [
        (True, "answered True, which is no verdict"),
        (0, "answered 0, which is no verdict"),
        ("550 no", "answered '550 no', which is no verdict"),
        (Deny, "Deny'>, which is no verdict"),
        (Verdict("no"), "answered Verdict, which the connect hook does not allow"),
        (OwnVerdict("no"), "answered OwnVerdict, which the connect hook does not allow"),
        (BrokenRepr(), "which is no verdict"),
    ],
)
async def test_what_is_no_verdict_of_this_hook_is_an_error(kind: type[Kind], returned: object, detail: str) -> None:
    failure = await answer_of(kind, lambda: returned)

    assert isinstance(failure, Failure)
    assert failure.reason == "error"
    assert detail in failure.detail


async def test_a_huge_answer_does_not_end_up_in_the_log() -> None:
    failure = await answer_of(Plain, lambda: b"x" * 10_000_000)

    assert isinstance(failure, Failure)
    assert len(failure.detail) < 200


async def test_a_verdict_that_the_hook_does_not_allow_is_an_error() -> None:
    class Denier(Plugin):
        async def deny(self, session: Session, hook: str, verdict: Verdict) -> Verdict:
            return verdict

    async with gate(Denier) as made:
        call = made.pipeline.calls["deny"][0]
        session = Session("s", "192.0.2.1")

        assert await call((session, "rcpt", DenyDisconnect("go")), TIMEOUT_S) == DenyDisconnect("go")
        assert await call((session, "rcpt", Deny("no")), TIMEOUT_S) == Failure(
            "error", "answered Deny, which the deny hook does not allow"
        )


class BrokenTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


class OwnBase(BaseException):
    pass


@every_kind
@pytest.mark.parametrize(
    ("error", "reason", "detail"),
    [
        (ValueError("bad value"), "error", "ValueError: bad value"),
        (ValueError(), "error", "ValueError"),
        (KeyError("key"), "error", "KeyError: 'key'"),
        (AssertionError(), "error", "AssertionError"),
        (Unavailable("clamd", "refused"), "unavailable", "clamd: refused"),
        (TimeoutError("scanner"), "timeout", "TimeoutError: scanner"),
        (SystemExit(3), "error", ""),
        (asyncio.CancelledError(), "error", ""),
        (concurrent.futures.CancelledError(), "error", ""),
        (StopIteration(1), "error", ""),
        (StopAsyncIteration(), "error", "StopAsyncIteration"),
        (GeneratorExit(), "error", ""),
        (OwnBase("odd"), "error", "OwnBase: odd"),
        (BrokenTextError(), "error", "BrokenTextError: (no text)"),
        (RecursionError("deep"), "error", "RecursionError: deep"),
        (MemoryError(), "error", "MemoryError"),
    ],
)
async def test_whatever_a_hook_raises_is_a_failure_with_its_reason(
    kind: type[Kind], error: BaseException, reason: str, detail: str
) -> None:
    failure = await answer_of(kind, raising(error))

    assert isinstance(failure, Failure)
    assert failure.reason == reason
    assert failure.detail.startswith(detail)


async def test_a_keyboard_interrupt_is_the_administrators_and_not_the_plugins() -> None:
    with pytest.raises(KeyboardInterrupt):
        await answer_of(Plain, raising(KeyboardInterrupt()))


@every_kind
@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(1)])
async def test_an_error_is_told_with_the_plugins_own_line(kind: type[Kind], error: BaseException) -> None:
    failure = await answer_of(kind, raising(error))

    line = raising.__code__.co_firstlineno + 2
    assert isinstance(failure, Failure)
    assert failure.detail.endswith(f"({__file__}:{line})")
