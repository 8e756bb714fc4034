"""What is read of a message is read once for all who see the same content, and never kept for another."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.rigs.pipeline_rig import Scopes

from gatepost import Address, Deny, Message, Plugin, Transaction, Unavailable
from gatepost.testing import gate

CONTENT = b"Subject: test\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b--\r\n"


def message() -> Message:
    return Message.parse(CONTENT, Address.parse("a@example.net"), [Address.parse("b@example.org")])


def test_branches_with_the_same_content_share_what_was_parsed() -> None:
    origin = message()
    branch = origin.copy()
    branch.add_recipient("c@example.org")

    assert branch.mime is origin.mime
    assert branch.structure is origin.structure


def test_equal_edits_of_the_header_make_the_same_content() -> None:
    one, two = (origin := message()).copy(), origin.copy()
    for branch in (one, two):
        branch.add_header("X-Test", "same")

    assert one.mime is two.mime
    assert one.mime is not origin.mime
    assert one.mime is not None
    assert one.mime["X-Test"] == "same"


def test_another_body_or_header_is_read_anew() -> None:
    origin = message()
    before = origin.mime, origin.structure
    other_body, other_header = origin.copy(), origin.copy()
    other_body.replace_body(b"--b\r\n\r\ntwo\r\n--b--\r\n")
    other_header.change_header("Subject", "other")

    assert other_body.mime is not None
    assert other_body.mime.get_payload(0).get_payload() == "two"  # type: ignore[union-attr]
    assert other_header.mime is not None
    assert other_header.mime["Subject"] == "other"
    assert (origin.mime, origin.structure) == before


def test_threads_that_come_together_parse_once() -> None:
    origin = message()
    branches = [origin.copy() for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        parsed = set(map(id, threads.map(lambda branch: branch.mime, branches)))

    assert len(parsed) == 1


class Counting(Plugin):
    """Counts its scans; refuses what the scan says."""

    scans = 0
    fails = False

    async def data_post(self, transaction: Transaction, message: Message) -> Deny:
        return Deny(await self.once(message, self._scan, transaction.notes.get("user", {}).get("name")))

    async def _scan(self) -> str:
        type(self).scans += 1
        await asyncio.sleep(0)
        if self.fails:
            raise Unavailable("scanner", f"down {self.scans}")
        return f"scan {self.scans}"


async def scanned(plugin: type[Counting], messages: list[Message], users: tuple[str | None, ...] = (None,)) -> Any:
    """Let the plugin see each message for each user; return what it said, Unavailable for a failure."""
    async with gate(plugin) as made:
        call = made.pipeline.calls["data_post"][0]
        said = []
        for seen in messages:
            for user in users:
                scopes = Scopes()
                scopes.transaction.notes["user"] = {"name": user}
                answer = await call((scopes.transaction, seen), 60)
                said.append(getattr(answer, "text", None) or getattr(answer, "detail", None))
        return said


@pytest.fixture
def counting() -> type[Counting]:
    return type("Counting", (Counting,), {"scans": 0, "__module__": __name__})


async def test_the_same_content_is_scanned_once(counting: type[Counting]) -> None:
    origin = message()

    assert await scanned(counting, [origin, origin.copy()]) == ["scan 1", "scan 1"]


async def test_another_content_or_key_is_scanned_again(counting: type[Counting]) -> None:
    origin = message()
    edited = origin.copy()
    edited.add_header("X-Test", "yes")

    said = await scanned(counting, [origin, edited, message()], ("alice", "bob"))

    assert said == [f"scan {number}" for number in range(1, 7)]


async def test_a_scanner_that_was_down_is_not_asked_again_about_the_same_content(counting: type[Counting]) -> None:
    counting.fails = True
    origin = message()

    assert await scanned(counting, [origin, origin.copy()]) == ["scanner: down 1", "scanner: down 1"]
