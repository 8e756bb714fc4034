"""Whitelisting: plugins with skip_whitelisted are not asked, for as long as what is whitelisted lasts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import pytest
from structlog.testing import capture_logs

from gatepost import Deny, Overrides, Plugin, PluginOptions, Verdict
from gatepost.deadline import Deadline
from gatepost.testing import Client, Gate, gate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gatepost import Address, Message, Recipient, Session, Transaction

asked: list[str] = []
"""Which hooks of which check ran, in order."""


@pytest.fixture(autouse=True)
def nothing_asked() -> None:
    asked.clear()


class ListerOptions(PluginOptions):
    check: str = "check"


class Lister(Plugin[ListerOptions]):
    """Whitelists what is called `listed`, at the hook where it is known; for `off` switches a check off."""

    def connect(self, session: Session) -> None:
        if session.name == "listed":
            session.whitelist("name")

    def helo(self, session: Session, name: str) -> None:
        if name == "listed":
            session.whitelist("helo")

    def mail(self, transaction: Transaction, sender: Address, parameters: Mapping[str, str | None]) -> None:
        if sender.local == "listed":
            transaction.whitelist("sender")

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> None:
        if recipient.address.local.startswith("listed"):
            recipient.whitelist("recipient")
        if recipient.address.local == "off":
            recipient.override(Overrides({self.options().check: {"mode": "off"}}))


class Failing(Lister):
    """Fails when it has whitelisted."""

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> None:
        for scope in (transaction.session, transaction, recipient):
            scope.whitelist("by mistake")
        raise ValueError("half way")


class Skipping(PluginOptions):
    skip_whitelisted: bool = True


class EarlyCheck(Plugin[Skipping]):
    """Has no data and content hooks."""

    def connect(self, session: Session) -> None:
        asked.append("connect")

    def helo(self, session: Session, name: str) -> None:
        asked.append("helo")

    def mail(self, transaction: Transaction, sender: Address, parameters: Mapping[str, str | None]) -> None:
        asked.append("mail")

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> None:
        asked.append(f"rcpt {recipient.address.local}")

    def deny(self, session: Session, hook: str, verdict: Verdict) -> None:
        asked.append(f"deny {hook}")


class Check(EarlyCheck):
    """Has them all, and may refuse at DATA."""

    _answer: ClassVar[Verdict | None] = None

    def data(self, transaction: Transaction) -> Verdict | None:
        asked.append(f"data {' '.join(recipient.address.local for recipient in transaction.accepted)}")
        return self._answer

    def data_post(self, transaction: Transaction, message: Message) -> None:
        asked.append("data_post")
        message.add_header("X-Checked", "yes")


class Refusing(Plugin):
    """Refuses `listed.refused` and `refused`, and each first DATA of a client."""

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        return Deny("no") if recipient.address.local.endswith("refused") else None

    def data(self, transaction: Transaction) -> Verdict | None:
        notes = self.notes(transaction.session)
        notes["data"] = notes.get("data", 0) + 1
        return Deny("not yet") if notes["data"] == 1 else None


async def say(client: Client, sender: str, *locals_: str) -> list[int]:
    """Send a message; return the codes of the replies to RCPT and the last one."""
    await client.mail(f"{sender}@example.net")
    codes = [(await client.rcpt(f"{local}@example.org")).code for local in locals_]
    return [*codes, (await client.data()).code]


def client_of(made: Gate, name: str = "stranger", helo: str = "stranger") -> Client:
    return made.client(name=name, helo=helo)


ALL = ["connect", "helo", "mail", "rcpt a", "data a", "data_post"]


@pytest.mark.parametrize(
    ("name", "helo", "sender", "recipient", "expected"),
    [
        ("stranger", "stranger", "stranger", "a", ALL),
        ("listed", "stranger", "stranger", "a", []),
        ("stranger", "listed", "stranger", "a", ["connect"]),
        ("stranger", "stranger", "listed", "a", ["connect", "helo"]),
        ("stranger", "stranger", "stranger", "listed", ["connect", "helo", "mail"]),
    ],
)
async def test_from_the_hook_on_that_whitelists_a_check_is_not_asked(
    name: str, helo: str, sender: str, recipient: str, expected: list[str]
) -> None:
    async with gate(Lister, Check) as made:
        client = client_of(made, name, helo)
        assert await say(client, sender, recipient) == [250, 250]

    assert asked == expected
    assert client.message is not None
    assert ("X-Checked" in [header.name for header in client.message.headers]) == (expected == ALL)


async def test_a_plugin_that_stands_before_has_been_asked() -> None:
    async with gate(Check, Lister) as made:
        await say(client_of(made, "listed"), "stranger", "a")

    assert asked == ["connect"]


async def test_a_plugin_without_the_option_is_asked_about_everybody() -> None:
    async with gate(Lister, Check, check={"skip_whitelisted": False}) as made:
        await say(client_of(made, "listed", "listed"), "listed", "a")

    assert asked == ALL


async def test_an_override_decides_whether_a_plugin_skips() -> None:
    class Asking(Plugin):
        def connect(self, session: Session) -> None:
            session.override(Overrides({"check": {"skip_whitelisted": "no"}}))

    async with gate(Asking, Lister, Check) as made:
        await say(client_of(made, "listed"), "stranger", "a")

    assert asked == ALL


async def test_it_ends_with_the_message_or_the_recipient() -> None:
    async with gate(Lister, Check) as made:
        client = client_of(made)
        await say(client, "listed", "a")
        await say(client, "stranger", "b")
        assert asked == ["connect", "helo", "mail", "rcpt b", "data b", "data_post"]
        asked.clear()
        await say(client, "stranger", "listed")
        await say(client, "stranger", "listed", "c")
        assert asked[:3] == ["mail", "mail", "rcpt c"]


class Beginning(Plugin[Skipping]):
    """Begins something at MAIL, and is to be told the end."""

    def mail(self, transaction: Transaction, sender: Address, parameters: Mapping[str, str | None]) -> None:
        asked.append("mail")

    def queue_post(self, transaction: Transaction) -> None:
        asked.append("queue_post")

    def reset_transaction(self, transaction: Transaction) -> None:
        asked.append("reset_transaction")

    def disconnect(self, session: Session) -> None:
        asked.append("disconnect")


TOLD = ["queue_post", "reset_transaction", "disconnect"]


async def send_and_leave(made: Gate, client: Client, sender: str, recipient: str) -> None:
    assert await say(client, sender, recipient) == [250, 250]
    await made.pipeline.ask("disconnect", client.session, client.session, deadline=Deadline.after(10))


@pytest.mark.parametrize("recipient", ["listed", "off"])
async def test_what_was_begun_is_ended_even_for_a_recipient_who_is_left_out(recipient: str) -> None:
    async with gate(Lister, Beginning, lister={"check": "beginning"}) as made:
        await send_and_leave(made, client_of(made), "stranger", recipient)

    assert asked == ["mail", *TOLD]


async def test_the_end_is_told_where_a_plugin_was_switched_on_for_some() -> None:
    class On(Plugin):
        def mail(self, transaction: Transaction, sender: Address, parameters: Mapping[str, str | None]) -> None:
            transaction.override(Overrides({"beginning": {"mode": "enforce"}}))

        def rcpt(self, transaction: Transaction, recipient: Recipient) -> None:
            recipient.override(Overrides({"beginning": {"mode": "off"}}))

    async with gate(On, Beginning, beginning={"mode": "off"}) as made:
        await send_and_leave(made, client_of(made), "stranger", "a")

    assert asked == ["mail", *TOLD]


@pytest.mark.parametrize(("sender", "mode", "told"), [("listed", "enforce", ["disconnect"]), ("stranger", "off", [])])
async def test_who_was_asked_nothing_is_not_told_the_end(sender: str, mode: str, told: list[str]) -> None:
    async with gate(Lister, Beginning, beginning={"mode": mode}) as made:
        await send_and_leave(made, client_of(made), sender, "a")

    assert asked == told  # of the session, which is not whitelisted


async def test_refusals_of_what_is_whitelisted_are_not_told_to_a_plugin_that_skips_it() -> None:
    async with gate(Lister, Refusing, Check) as made:
        client = client_of(made)
        await client.mail("stranger@example.net")
        await client.rcpt("listed.refused@example.org")
        await client.rcpt("refused@example.org")

    assert asked == ["connect", "helo", "mail", "deny rcpt"]


async def test_recipients_disagree_when_a_check_of_the_content_skips_one_of_them() -> None:
    async with gate(Lister, Check) as made:
        assert await say(client_of(made), "stranger", "a", "listed", "b") == [250, 452, 250, 250]
        assert await say(client_of(made), "stranger", "listed", "a", "listed.too") == [250, 452, 250, 250]

    assert [what for what in asked if what.startswith("data ")] == ["data a b"]


@pytest.mark.parametrize(
    ("kind", "options"),
    [(EarlyCheck, {}), (Check, {"skip_whitelisted": False}), (Check, {"mode": "off"})],
)
async def test_they_agree_when_no_check_of_the_content_skips_anybody(
    kind: type[EarlyCheck], options: dict[str, Any]
) -> None:
    named: dict[str, Any] = {"check": options} if options else {}
    async with gate(Lister, kind, **named) as made:
        assert await say(client_of(made), "stranger", "a", "listed") == [250, 250, 250]


async def test_they_agree_when_the_client_or_the_sender_is_whitelisted_anyway() -> None:
    async with gate(Lister, Check) as made:
        assert await say(client_of(made, "listed"), "stranger", "a", "listed") == [250, 250, 250]
        assert await say(client_of(made), "listed", "a", "listed") == [250, 250, 250]

    assert not [what for what in asked if what.startswith("data")]


@pytest.mark.parametrize("order", [("listed", "off"), ("off", "listed")])
async def test_one_who_is_whitelisted_and_one_for_whom_the_check_is_off_agree(order: tuple[str, str]) -> None:
    async with gate(Lister, Check) as made:
        client = client_of(made)
        assert await say(client, "stranger", *order) == [250, 250, 250]

    assert "data_post" not in asked
    assert not client.transaction.whitelisted


async def test_under_lenient_the_check_runs_for_those_who_are_not_whitelisted() -> None:
    async with gate(Lister, Check, content={"disagree": "lenient"}) as made:
        client = client_of(made)
        assert await say(client, "stranger", "listed", "a", "b", "listed.too") == [250] * 5

    assert asked == ["connect", "helo", "mail", "rcpt a", "rcpt b", "data a b", "data_post"]
    # The edits of the earliest recipient's run stand, and that recipient is whitelisted.
    assert client.message is not None
    assert "X-Checked" not in [header.name for header in client.message.headers]


async def test_after_a_refused_data_a_further_recipient_is_not_whitelisted_for_those_before() -> None:
    async with gate(Lister, Refusing, Check) as made:
        client = client_of(made)
        await client.mail("stranger@example.net")
        await client.rcpt("listed@example.org")
        assert client.flow is not None
        assert await client.flow.data(Deadline.after(10)) is not None
        # The front keeps the transaction open then, and its client may go on.
        assert (await client.rcpt("a@example.org")).code == 452

    assert asked == ["connect", "helo", "mail", "rcpt a"]
    assert not client.transaction.whitelisted


async def test_observed_nobody_is_whitelisted_and_the_log_says_who_would_be() -> None:
    with capture_logs() as logs:
        async with gate(Lister, Check, lister={"mode": "observe"}) as made:
            await say(client_of(made, "listed", "listed"), "listed", "listed")

    assert asked == ["connect", "helo", "mail", "rcpt listed", "data listed", "data_post"]
    assert [entry["by"] for entry in logs if entry["event"] == "would whitelist"] == [
        "name",
        "helo",
        "sender",
        "recipient",
    ]


async def test_a_plugin_that_fails_has_whitelisted_nobody() -> None:
    with capture_logs() as logs:
        async with gate(Failing, Check, failing={"on_error": "pass"}) as made:
            client = client_of(made)
            await say(client, "stranger", "a")

    assert asked == ALL
    assert not client.session.whitelisted
    assert not [entry for entry in logs if "whitelist" in entry["event"]]


async def test_each_is_logged_once_with_who_did_it_and_why() -> None:
    with capture_logs() as logs:
        async with gate(Lister) as made:
            await say(client_of(made, "listed", "listed"), "listed", "listed", "listed.too", "a")

    told = [entry for entry in logs if entry["event"] == "whitelisted"]
    assert [(entry["hook"], entry["by"]) for entry in told] == [
        ("connect", "name"),
        ("mail", "sender"),
        ("rcpt", "recipient"),
        ("rcpt", "recipient"),
    ]
    assert {entry["plugin"] for entry in told} == {"lister"}
    assert {entry["log_level"] for entry in told} == {"info"}
    assert told[0]["client"] == "192.0.2.1"
    assert told[1]["sender"] == "listed@example.net"
    assert [entry["rcpt"] for entry in told[2:]] == ["listed@example.org", "listed.too@example.org"]
    assert told[1]["txn"] == told[2]["txn"]
    assert len({entry["session"] for entry in told}) == 1
