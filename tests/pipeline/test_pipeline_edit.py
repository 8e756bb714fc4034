"""Edits of several plugins: which stand, and that a plugin which fails or is late has changed nothing."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from structlog.testing import capture_logs
from tests.rigs.pipeline_rig import Scopes, asked

from gatepost import (
    Address,
    Message,
    Ok,
    Plugin,
    Transaction,
    Verdict,
)
from gatepost.deadline import Deadline
from gatepost.testing import gate
from gatepost.verdict import DECLINED

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture(autouse=True)
def _nobody_asked() -> None:
    asked.clear()


MESSAGE = b"Subject: test\r\n\r\ntext\r\n"


class Editor(Plugin):
    """Adds a header field, then does what `_then` says."""

    _then: ClassVar[Any] = staticmethod(lambda: None)

    def data_post(self, transaction: Transaction, message: Message) -> Verdict | None:
        message.add_header(f"X-{self.name.title()}", "yes")
        answer: Verdict | None = self._then()
        return answer


class Later(Editor):
    pass


def failing() -> None:
    raise ValueError("halfway")


def editor(then: Callable[[], Verdict | None]) -> type[Editor]:
    return type("Editor", (Editor,), {"_then": staticmethod(then), "__module__": __name__})


async def edits_of(*plugins: type[Plugin[Any]], **options: Any) -> tuple[Verdict, list[str]]:
    """Return the verdict of data_post and the edits that stand."""
    transaction = Scopes().transaction
    message = Message.parse(MESSAGE, transaction.sender, [Address.parse("b@example.org")])
    async with gate(*plugins, **options) as made:
        verdict, edited = await made.pipeline.edit(transaction, message, deadline=Deadline.after(10))
    assert message.edits == ()
    return verdict, edited.summary()


async def test_edits_of_every_plugin_add_up() -> None:
    verdict, edits = await edits_of(Editor, Later)

    assert verdict is DECLINED
    assert edits == ["add header X-Editor: yes", "add header X-Later: yes"]


async def test_a_plugin_sees_what_the_one_before_has_edited() -> None:
    class Reader(Plugin):
        def data_post(self, transaction: Transaction, message: Message) -> Ok:
            return Ok(", ".join(header.name for header in message.headers))

    verdict, _ = await edits_of(Editor, Reader)

    assert verdict == Ok("Subject, X-Editor")


async def test_ok_keeps_the_edits_and_asks_no_further() -> None:
    assert await edits_of(editor(lambda: Ok()), Later) == (Ok(), ["add header X-Editor: yes"])


@pytest.mark.parametrize("mode", ["observe", "off"])
async def test_edits_of_an_observed_plugin_are_logged_as_would_be_and_dropped(mode: str) -> None:
    with capture_logs() as logs:
        _, edits = await edits_of(Editor, Later, editor={"mode": mode})

    assert edits == ["add header X-Later: yes"]
    would_be = [entry["edits"] for entry in logs if entry["event"] == "would edit"]
    assert would_be == (["add header X-Editor: yes"] if mode == "observe" else [])


async def test_edits_of_a_plugin_that_failed_halfway_are_dropped() -> None:
    verdict, edits = await edits_of(editor(failing), Later, editor={"on_error": "pass"})

    assert verdict is DECLINED
    assert edits == ["add header X-Later: yes"]


async def test_a_plugin_that_goes_on_after_its_time_changes_nothing() -> None:
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    class Late(Plugin):
        blocking = True

        def data_post(self, transaction: Transaction, message: Message) -> None:
            begun.set()
            release.wait(60)
            message.add_header("X-Late", "yes")
            message.add_recipient("late@example.org")
            message.replace_body(b"late")
            ended.set()

    transaction = Scopes().transaction
    message = Message.parse(MESSAGE, transaction.sender, [Address.parse("b@example.org")])
    async with gate(Late, Later, late={"timeout": "20ms", "on_timeout": "pass"}) as made:
        # Mostly once: on a busy machine the time may be over before the thread has begun, and then it never does.
        while not begun.is_set():
            _, edited = await made.pipeline.edit(transaction, message, deadline=Deadline.after(60))
        release.set()
        assert await asyncio.to_thread(ended.wait, 60)

    assert edited.summary() == ["add header X-Later: yes"]
    assert bytes(edited.body) == b"text\r\n"
