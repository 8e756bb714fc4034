"""Scanners that stand next to each other run side by side; what they say and edit counts in the order of the list."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, ClassVar

from structlog.testing import capture_logs
from tests.rigs.pipeline_rig import Scopes

from gatepost import Address, Deny, DenySoft, Message, Ok, Overrides, Plugin, Transaction, Unavailable, Verdict
from gatepost.deadline import Deadline
from gatepost.testing import gate
from gatepost.verdict import DECLINED

if TYPE_CHECKING:
    from gatepost.record import Record

MESSAGE = b"Subject: test\r\nX-Spam: old\r\n\r\ntext\r\n"
SECONDS = 60.0


class Meeting:
    """Lets nobody go on before all of `parties` are there: only those who run side by side get past."""

    def __init__(self, parties: int) -> None:
        self._missing = parties
        self._complete = asyncio.Event()

    async def come(self) -> None:
        self._missing -= 1
        if self._missing == 0:
            self._complete.set()
        await self._complete.wait()


class Scanner(Plugin):
    """Meets the others, adds a field named like itself, and answers what its subclass says."""

    scanner = True
    _answer: ClassVar[Verdict | BaseException | None] = None
    _meeting: ClassVar[Meeting]

    async def data_post(self, transaction: Transaction, message: Message) -> Verdict | None:
        await self._meeting.come()
        message.add_header(f"X-{self.name.title()}", ",".join(field.name for field in message.headers))
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer


def scanners(*answers: Verdict | BaseException | None) -> list[type[Plugin[Any]]]:
    """Return scanners one, two, three with these answers, who wait for each other."""
    meeting = Meeting(len(answers))
    return [
        type(name, (Scanner,), {"_answer": answer, "_meeting": meeting, "__module__": __name__})
        for name, answer in zip(("One", "Two", "Three"), answers, strict=False)
    ]


async def outcome(*plugins: type[Plugin[Any]], **options: Any) -> tuple[Verdict, list[str], list[Record]]:
    """Return the verdict of data_post, the edits that stand, and the records."""
    scopes = Scopes()
    message = Message.parse(MESSAGE, scopes.transaction.sender, [Address.parse("b@example.org")])
    async with gate(*plugins, **options) as made, asyncio.timeout(SECONDS):
        verdict, edited = await made.pipeline.edit(scopes.transaction, message, deadline=Deadline.after(SECONDS))
    assert message.edits == ()
    return verdict, edited.summary(), scopes.records


async def test_neighbouring_scanners_run_at_the_same_time_on_the_same_message() -> None:
    verdict, edits, _ = await outcome(*scanners(None, None, None))

    assert verdict is DECLINED
    assert edits == [f"add header X-{name}: Subject,X-Spam" for name in ("One", "Two", "Three")]


async def test_the_first_denial_of_the_list_counts_not_the_quickest() -> None:
    class Slow(Plugin):
        scanner = True

        async def data_post(self, transaction: Transaction, message: Message) -> Deny:
            await quick_has_answered.wait()
            return Deny("slow")

    class Quick(Plugin):
        scanner = True

        async def data_post(self, transaction: Transaction, message: Message) -> DenySoft:
            quick_has_answered.set()
            return DenySoft("quick")

    quick_has_answered = asyncio.Event()
    verdict, _, records = await outcome(Slow, Quick)

    assert verdict == Deny("slow")
    assert [record.plugin for record in records] == ["slow"]


async def test_a_denial_gives_up_the_scanners_behind_it() -> None:
    class Refuses(Plugin):
        scanner = True

        async def data_post(self, transaction: Transaction, message: Message) -> Deny:
            await begun.wait()
            return Deny("no")

    class Endless(Plugin):
        scanner = True

        async def data_post(self, transaction: Transaction, message: Message) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                given_up.set()
                raise

    begun, given_up = asyncio.Event(), asyncio.Event()
    verdict, _, _ = await outcome(Refuses, Endless)

    assert verdict == Deny("no")
    async with asyncio.timeout(SECONDS):
        await given_up.wait()


async def test_ok_ends_the_hook_and_keeps_the_edits_so_far() -> None:
    verdict, edits, _ = await outcome(*scanners(None, Ok(), None))

    assert verdict == Ok()
    assert edits == ["add header X-One: Subject,X-Spam", "add header X-Two: Subject,X-Spam"]


async def test_a_scanner_that_fails_or_observes_leaves_no_edits_and_the_others_do() -> None:
    verdict, edits, records = await outcome(
        *scanners(Unavailable("scanner", "down"), None, None),
        one={"on_unavailable": "pass"},
        three={"mode": "observe"},
    )

    assert verdict is DECLINED
    assert edits == ["add header X-Two: Subject,X-Spam"]
    assert [(record.plugin, record.reason) for record in records] == [("one", "unavailable")]


async def test_a_scanner_that_is_down_defers_after_those_before_it_were_heard() -> None:
    verdict, _, records = await outcome(*scanners(None, Unavailable("scanner", "down"), Deny("later")))

    assert isinstance(verdict, DenySoft)
    assert [record.plugin for record in records] == ["two"]


async def test_edits_of_scanners_are_made_one_after_the_other() -> None:
    class Replaces(Plugin):
        scanner = True

        def data_post(self, transaction: Transaction, message: Message) -> None:
            message.delete_header("X-Spam", None)
            message.insert_header(0, "X-Spam", "new")

    class Changes(Plugin):
        scanner = True

        def data_post(self, transaction: Transaction, message: Message) -> None:
            message.change_header("Subject", "[spam] test")
            message.change_header("X-Spam", "changed")
            message.replace_body(iter([b"other", b" text"]))

    scopes = Scopes()
    message = Message.parse(MESSAGE, scopes.transaction.sender, [Address.parse("b@example.org")])
    async with gate(Replaces, Changes) as made:
        _, edited = await made.pipeline.edit(scopes.transaction, message, deadline=Deadline.after(SECONDS))

    with edited.open() as reader:
        assert reader.read() == b"X-Spam: changed\r\nSubject: [spam] test\r\n\r\nother text\r\n"


async def test_edits_that_do_not_go_together_are_the_later_scanners_failure() -> None:
    def deletes(address: str) -> type[Plugin[Any]]:
        def data_post(self: Any, transaction: Transaction, message: Message) -> None:
            message.delete_recipient(address)

        name = f"Deletes{address[0].upper()}"
        return type(name, (Plugin,), {"scanner": True, "data_post": data_post, "__module__": __name__})

    scopes = Scopes()
    both = [Address.parse("a@example.org"), Address.parse("b@example.org")]
    message = Message.parse(MESSAGE, scopes.transaction.sender, both)
    async with gate(deletes("a@example.org"), deletes("b@example.org")) as made:
        verdict, edited = await made.pipeline.edit(scopes.transaction, message, deadline=Deadline.after(SECONDS))

    assert isinstance(verdict, DenySoft)
    assert edited.recipients == (both[1],)
    assert scopes.records[0].detail is not None
    assert "last recipient" in scopes.records[0].detail


async def test_an_editor_between_scanners_separates_them() -> None:
    first, second = scanners(None), scanners(None)

    class Editor(Plugin):
        def data_post(self, transaction: Transaction, message: Message) -> None:
            message.add_header("X-Editor", "was here")

    two = type("Two", (second[0],), {"__module__": __name__})
    _, edits, _ = await outcome(first[0], Editor, two)

    assert edits[-1] == "add header X-Two: Subject,X-Spam,X-One,X-Editor"


async def test_a_scanner_may_block_in_a_thread() -> None:
    barrier = threading.Barrier(2)

    def made(name: str) -> type[Plugin[Any]]:
        def data_post(self: Any, transaction: Transaction, message: Message) -> None:
            barrier.wait(SECONDS)
            message.add_header(f"X-{name}", "yes")

        members = {"scanner": True, "blocking": True, "data_post": data_post, "__module__": __name__}
        return type(name, (Plugin,), members)

    _, edits, _ = await outcome(made("One"), made("Two"))

    assert edits == ["add header X-One: yes", "add header X-Two: yes"]


async def test_a_scanner_that_sets_options_is_told_and_undone() -> None:
    class Sets(Plugin):
        scanner = True

        def data_post(self, transaction: Transaction, message: Message) -> None:
            transaction.override(Overrides({"reads": {"mode": "off"}}))

    class Reads(Plugin):
        scanner = True

        def data_post(self, transaction: Transaction, message: Message) -> None: ...

    scopes = Scopes()
    message = Message.parse(MESSAGE, scopes.transaction.sender, [Address.parse("b@example.org")])
    async with gate(Sets, Reads) as made:
        with capture_logs() as logs:
            await made.pipeline.edit(scopes.transaction, message, deadline=Deadline.after(SECONDS))

    assert scopes.transaction.overrides == ()
    assert [entry["plugins"] for entry in logs if "undone" in entry["event"]] == ["sets, reads"]


async def test_all_scanners_together_have_the_time_of_one() -> None:
    class Endless(Plugin):
        scanner = True

        async def data_post(self, transaction: Transaction, message: Message) -> None:
            begun.append(self.name)
            await asyncio.Event().wait()

    class Hangs(Endless):
        pass

    begun: list[str] = []
    scopes = Scopes()
    message = Message.parse(MESSAGE, scopes.transaction.sender, [Address.parse("b@example.org")])
    async with gate(Endless, Hangs, endless={"on_timeout": "pass"}, hangs={"on_timeout": "pass"}) as made:
        deadline = Deadline.after(0.3)
        await made.pipeline.edit(scopes.transaction, message, deadline=deadline)

    # One after the other, no time would be left for the second, and it would not be asked.
    assert begun == ["endless", "hangs"]
    assert [(record.plugin, record.reason) for record in scopes.records] == [
        ("endless", "timeout"),
        ("hangs", "timeout"),
    ]
