"""The content hooks of one message, and what becomes of each of its recipients."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from tests.rigs.flow_plugins import VERDICTS, Chooser, Late, Listener, happened

from gatepost import Address, Message, Plugin, Recipient, Session, Transaction, Verdict
from gatepost.pipeline.flow import SMALL_BODY_BYTES, fate
from gatepost.testing import Client, gate


@pytest.fixture(autouse=True)
def _nothing_happened() -> None:
    happened.clear()


def events(*words: str) -> list[str]:
    """Return what happened that begins with one of these words."""
    return [event for event in happened if event.split()[0] in words]


async def offer(client: Client, *whats: str) -> list[int]:
    """Say MAIL and RCPT for each; return the codes."""
    await client.mail()
    return [(await client.rcpt(f"{what}@example.org")).code for what in whats]


class Reader(Plugin):
    def header(self, transaction: Transaction, name: str, value: str) -> Verdict | None:
        happened.append(f"header {name}")
        return VERDICTS["ok"] if name == "X-Stop" else None

    def data_headers_end(self, transaction: Transaction, headers: object) -> None:
        happened.append("end")

    def body(self, transaction: Transaction, chunk: bytes) -> Verdict | None:
        happened.append(f"body {len(chunk)}")
        return VERDICTS["ok"] if chunk.startswith(b"stop") else None

    def data_post(self, transaction: Transaction, message: Message) -> None:
        happened.append("post")


async def test_ok_for_one_field_or_chunk_ends_that_hook_and_no_other() -> None:
    async with gate(Reader) as made:
        client = made.client()
        await client.send(
            "a@example.net", "b@example.org", content=b"A: 1\r\nX-Stop: 1\r\nB: 2\r\n\r\nstop" + b"x" * 200_000
        )

    assert happened[:3] == ["header A", "header X-Stop", "end"]
    assert [event.split()[0] for event in happened[3:]] == ["body", "post"]


LARGE_HEADERS = {
    "fields": (b"X:\r\n", 10_000),
    "bytes": (b"X: " + b"x" * 1019 + b"\r\n", 1024),
}


@pytest.mark.parametrize("of", LARGE_HEADERS)
async def test_a_header_that_is_too_large_is_refused_before_any_content_hook(of: str) -> None:
    field, most = LARGE_HEADERS[of]
    async with gate(Chooser, Late, Listener, content={"disagree": "lenient"}) as made:
        client = made.client()
        for count, code in ((most, 250), (most + 1, 552)):
            happened.clear()
            await client.mail()
            for recipient in ("a@example.org", "b@example.org"):
                await client.rcpt(recipient)
            assert (await client.data(field * count + b"\r\nx\r\n")).code == code
            kinds = [event.split()[0] for event in happened]
            assert (kinds.count("post"), kinds.count("deny")) == ((2, 0) if code == 250 else (0, 1))


@pytest.mark.parametrize("size", [0, 100, SMALL_BODY_BYTES * 2])
async def test_the_body_hook_gets_all_of_the_body_in_pieces_of_64_kib_at_most(size: int) -> None:
    async with gate(Reader) as made:
        content = b"A: 1\r\n\r\n" + b"x" * (size - 2) + b"\r\n" * bool(size)
        await made.client().send("a@example.net", "b@example.org", content=content)

    sizes = [int(event.split()[1]) for event in events("body")]
    assert sum(sizes) == size
    assert max(sizes, default=0) <= 65536


async def test_queue_post_runs_after_a_250_and_reset_transaction_after_every_end() -> None:
    async with gate(Chooser, Late, Listener) as made:
        client = made.client()
        await offer(client, "a")
        await client.data()
        await offer(client, "deny.post")
        await client.data()
        await offer(client, "a")
        await client.quit()

    assert events("queue_post", "reset_transaction", "disconnect") == [
        "queue_post TESTQUEUEID",
        "reset_transaction",
        "reset_transaction",
        "reset_transaction",
        "disconnect",
    ]
    assert client.session.transaction is None


@pytest.mark.parametrize(
    ("whats", "refuse", "ended", "outcomes"),
    [
        (["a"], {}, "data", ["accepted"]),
        (["deny.rcpt", "soft.rcpt", "a"], {}, "data", ["refused", "deferred", "accepted"]),
        (["a", "b"], {}, "data", ["accepted", "deferred"]),
        (["deny.data", "soft.rcpt"], {}, "data", ["refused", "deferred"]),
        (["soft.post"], {}, "data", ["deferred"]),
        (["deny.rcpt", "a"], {}, "abandon", ["refused", "aborted"]),
        (["hold"], {}, "data", ["held"]),
        (["drop"], {}, "data", ["discarded"]),
        (["x", "y", "a"], {"x@example.org": "550 no", "y@example.org": "450 no"}, "data", None),
        (["x", "y"], {"x@example.org": "550 no", "y@example.org": "450 no"}, "abandon", ["refused", "deferred"]),
    ],
)
async def test_every_recipient_ends_with_one_outcome(
    whats: list[str], refuse: dict[str, str], ended: str, outcomes: list[str] | None
) -> None:
    async with gate(Chooser, Late, refuse=refuse) as made:
        client = made.client()
        await offer(client, *whats)
        await (client.data() if ended == "data" else client.abandon())

    expected = outcomes or ["refused", "deferred", "accepted"]
    assert [recipient.outcome for recipient in client.transaction.recipients] == expected
    assert sum(made.tally.values()) == 2 * len(whats)


WHAT = st.builds(
    "{}{}{}".format,
    st.sampled_from([*VERDICTS, "plain", "hold", "drop"]),
    st.sampled_from(["", ".rcpt", ".data", ".header", ".body", ".post"]),
    st.sampled_from(["", "+1", "+2"]),
)


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.lists(WHAT, max_size=5), st.booleans()), max_size=3),
    st.sampled_from(["lenient", "defer-rest"]),
    st.integers(0, 2),
)
def test_whatever_happens_the_outcomes_add_up_to_what_was_offered(
    transactions: list[tuple[list[str], bool]], disagree: str, limit: int
) -> None:
    async def run() -> None:
        content = {"disagree": disagree, "defer_limit": limit}
        async with gate(Chooser, Late, content=content) as made:
            client = made.client()
            for whats, given_up in transactions:
                await offer(client, *whats)
                await (client.abandon() if given_up else client.data())
            await client.quit()
        assert made.tally["offered"] == sum(len(whats) for whats, _ in transactions)
        assert sum(made.tally.values()) == 2 * made.tally["offered"]

    asyncio.run(run())


def test_a_recipient_with_several_targets_is_discarded_only_if_none_of_them_is_left() -> None:
    transaction = Transaction("s.1", Session("s", "192.0.2.1"), Address.parse("a@example.net"))
    targets = [Address.parse("b@example.org"), Address.parse("c@example.org")]
    recipient = Recipient(Address.parse("list@example.org"), transaction, targets=tuple(targets))
    message = Message.parse(b"\r\n", transaction.sender, [*targets, Address.parse("d@example.org")])

    message.delete_recipient(targets[0])
    assert fate(recipient, message) == "accepted"
    message.delete_recipient(targets[1])
    assert fate(recipient, message) == "discarded"


async def test_the_summary_line_tells_everything_of_the_transaction() -> None:
    with capture_logs() as logs:
        async with gate(Chooser, Late) as made:
            client = made.client("192.0.2.7", name="mx.example.net")
            await offer(client, "a", "deny.rcpt")
            await client.data(b"\r\n")

    (line,) = [entry for entry in logs if entry["event"] == "transaction"]
    del line["session"], line["txn"], line["log_level"]
    assert line == {
        "event": "transaction",
        "client": "192.0.2.7",
        "name": "mx.example.net",
        "helo": "client.example",
        "sender": "sender@example.net",
        "rcpt": "a@example.org=accepted deny.rcpt@example.org=refused",
        "size": 2,
        "reply": 250,
        "queue_id": "TESTQUEUEID",
    }


class Marker(Plugin):
    def data_post(self, transaction: Transaction, message: Message) -> Verdict | None:
        message.add_header("X-Marked", "yes")
        message.quarantine("look at it")
        return VERDICTS["deny"] if "Refuse" in message.headers else None


@pytest.mark.parametrize(
    ("content", "told"), [(b"\r\n", ["add header X-Marked: yes; quarantine: look at it"]), (b"Refuse: me\r\n\r\n", [])]
)
async def test_the_log_tells_how_a_queued_message_was_edited(content: bytes, told: list[str]) -> None:
    with capture_logs() as logs:
        async with gate(Marker) as made:
            await made.client().send("a@example.net", "b@example.org", content=content)

    assert [entry["edits"] for entry in logs if entry["event"] == "edited"] == told


class Cleaner(Plugin):
    def data_post(self, transaction: Transaction, message: Message) -> None:
        for name in {field.name for field in message.headers}:
            message.delete_header(name, None)


@pytest.mark.parametrize("mode", ["enforce", "observe"])
@pytest.mark.parametrize("name", ["X", "X" * 9_000])
async def test_no_line_of_the_log_is_longer_than_journald_takes_whatever_is_edited(mode: str, name: str) -> None:
    content = b"".join(f"{name}-{number // 9}: y\r\n".encode() for number in range(900 if name == "X" else 90))
    with capture_logs() as logs:
        async with gate(Cleaner, cleaner={"mode": mode}) as made:
            await made.client().send("a@example.net", "b@example.org", content=content + b"\r\n")

    (line,) = [entry for entry in logs if entry["event"] in {"edited", "would edit"}]
    assert 0 < len(line["edits"]) < 48_000


@pytest.mark.timeout(20)
def test_thousands_of_recipients_of_an_edited_message_do_not_hold_up_the_event_loop() -> None:
    transaction = Transaction("s.1", Session("s", "192.0.2.1"), Address.parse("a@example.net"))
    addresses = [Address.parse(f"{number}@example.org") for number in range(1500)]
    message = Message.parse(b"\r\n", transaction.sender, addresses)
    message.delete_recipient(addresses[-1])
    fates = [fate(Recipient(address, transaction), message) for address in addresses]
    assert fates == ["accepted"] * 1499 + ["discarded"]
    message.quarantine("look at it")
    assert fate(Recipient(addresses[0], transaction), message) == "held"
