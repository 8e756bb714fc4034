"""One message's way: remembered refusals, recipients who disagree, several runs, and one outcome for everybody."""

from __future__ import annotations

import pytest
from tests.rigs.flow_plugins import Chooser, Early, Late, Listener, happened

from gatepost import Address, Deny, DenyDisconnect, DenySoft, Plugin, Session, Transaction, Verdict
from gatepost.deadline import Deadline
from gatepost.testing import Client, gate

LENIENT = {"disagree": "lenient"}


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


# --- remembered refusals --------------------------------------------------------------------------------------------


class Refuser(Plugin):
    """Refuses at the hook that its subclass names."""


def refuser(hook: str, verdict: Verdict) -> type[Plugin]:
    def connect(self: Plugin, session: Session) -> Verdict:
        return verdict

    def helo(self: Plugin, session: Session, name: str) -> Verdict:
        return verdict

    def mail(self: Plugin, transaction: Transaction, sender: Address, parameters: object) -> Verdict | None:
        return verdict if sender.local == "bad" else None

    methods = {"connect": connect, "helo": helo, "mail": mail}
    return type("Refuser", (Refuser,), {hook: methods[hook], "__module__": __name__})


@pytest.mark.parametrize("hook", ["connect", "helo", "mail"])
async def test_a_denial_before_rcpt_is_given_at_each_rcpt_and_runs_no_hook_again(hook: str) -> None:
    async with gate(refuser(hook, Deny("not you")), Chooser, Late, Listener) as made:
        client = made.client()
        assert (await client.mail("bad@example.net")).code == 250
        for _ in range(3):
            reply = await client.rcpt("plain@example.org")
            assert (reply.code, reply.text) == (550, "not you")
        await client.abandon()

    assert happened == [f"deny {hook} Deny", "reset_transaction"]
    assert made.tally == {"offered": 3, "refused": 3}


@pytest.mark.parametrize("hook", ["connect", "helo"])
async def test_a_denial_at_connect_or_helo_holds_for_the_whole_session(hook: str) -> None:
    async with gate(refuser(hook, DenySoft("not yet")), Listener) as made:
        client = made.client()
        codes = [await offer(client, "plain") for _ in range(3)]

    assert codes == [[450], [450], [450]]
    assert events("deny") == [f"deny {hook} DenySoft"]


async def test_a_refused_sender_does_not_spoil_the_next_message() -> None:
    async with gate(refuser("mail", Deny("not you")), Late) as made:
        client = made.client()
        assert (await client.send("bad@example.net", "plain@example.org")).code == 550
        assert (await client.send("good@example.net", "plain@example.org")).code == 250


@pytest.mark.parametrize("hook", ["connect", "helo", "mail"])
async def test_a_hang_up_before_rcpt_is_given_at_mail(hook: str) -> None:
    async with gate(refuser(hook, DenyDisconnect("away")), Listener) as made:
        reply = await made.client().mail("bad@example.net")

    assert (reply.code, reply.text) == (521, "away")
    assert happened == [f"deny {hook} DenyDisconnect", "reset_transaction"]


async def test_the_helo_hook_does_not_run_for_a_client_without_greeting_or_refused_at_connect() -> None:
    class Greeted(Plugin):
        def helo(self, session: Session, name: str) -> None:
            happened.append(f"helo {name}")

    async with gate(Greeted) as made:
        await made.client(helo=None).mail()
        await made.client(helo="a.example").mail()
    async with gate(refuser("connect", Deny("no")), Greeted) as made:
        await made.client(helo="b.example").mail()

    assert happened == ["helo a.example"]


# --- recipients who disagree ----------------------------------------------------------------------------------------


async def test_a_recipient_whose_options_differ_is_sent_apart() -> None:
    async with gate(Chooser, Late, Listener) as made:
        client = made.client()
        assert await offer(client, "a", "a", "b", "a") == [250, 250, 452, 250]
        reply = await client.rcpt("c@example.org")
        assert (reply.code, reply.enhanced) == (452, "4.5.3")
        assert (await client.data()).code == 250

    assert events("deny") == []
    assert events("data") == ["data a"]
    assert made.tally == {"offered": 5, "accepted": 3, "deferred": 2}
    apart = [record for record in client.transaction.records if record.plugin == "gatepost"]
    assert [record.recipient for record in apart] == ["b@example.org", "c@example.org"]


async def test_a_refused_recipient_is_refused_and_not_sent_apart() -> None:
    async with gate(Chooser, Late) as made:
        assert await offer(made.client(), "a", "deny.rcpt") == [250, 550]


async def test_options_of_plugins_without_data_and_content_hooks_are_nothing_to_disagree_about() -> None:
    async with gate(Chooser, Early) as made:
        assert await offer(made.client(), "a", "b", "c") == [250, 250, 250]


async def test_a_recipient_that_the_inner_smtpd_refused_is_nobody_to_disagree_with() -> None:
    async with gate(Chooser, Late, refuse={"a@example.org": "550 5.1.1 unknown"}) as made:
        assert await offer(made.client(), "a", "b", "c") == [550, 250, 452]


@pytest.mark.parametrize("limit", [0, 2])
async def test_over_the_limit_those_who_disagree_join_as_under_lenient(limit: int) -> None:
    async with gate(Chooser, Late, content={"defer_limit": limit}) as made:
        client = made.client()
        codes = await offer(client, "a", "b", "c", "d", "e", "d")
        assert codes == [250] + [452] * limit + [250] * (5 - limit)
        assert (await client.data()).code == 250

    assert events("data") == [f"data {what}" for what in "abcde"[:1] + "bcde"[limit:]]


async def test_the_limit_counts_for_each_transaction_anew() -> None:
    async with gate(Chooser, Late, content={"defer_limit": 1}) as made:
        client = made.client()
        assert await offer(client, "a", "b", "b") == [250, 452, 250]
        assert await offer(client, "a", "b", "b") == [250, 452, 250]


# --- several runs ---------------------------------------------------------------------------------------------------


async def test_every_run_has_its_own_options_and_notes_and_the_unedited_message() -> None:
    async with gate(Chooser, Late, content=LENIENT) as made:
        client = made.client()
        await offer(client, "a", "b", "a")
        await client.data(b"Subject: test\r\n\r\ntext\r\n")

    assert events("data", "post") == [
        "data a",
        "data b",
        "post a ['a'] ['Subject']",
        "post b ['b'] ['Subject']",
    ]


async def test_what_was_noted_before_data_is_there_in_every_run() -> None:
    class Noter(Plugin):
        def mail(self, transaction: Transaction, sender: Address, parameters: object) -> None:
            self.notes(transaction)["list"] = ["mail"]

        def data(self, transaction: Transaction) -> None:
            self.notes(transaction)["list"].append(len(transaction.recipients))
            happened.append(str(self.notes(transaction)["list"]))

    async with gate(Noter, Chooser, Late, content=LENIENT) as made:
        client = made.client()
        await offer(client, "a", "b", "b")
        await client.data()

    assert [event for event in happened if event[0] == "["] == ["['mail', 1]", "['mail', 2]"]
    assert client.transaction.notes["noter"] == {"list": ["mail"]}


@pytest.mark.parametrize(
    ("whats", "edited_by"),
    [
        (["a", "b"], "a"),
        (["deny.post", "b", "c"], "b"),
        (["soft.data", "deny.header", "c"], "c"),
        (["b", "deny.data", "soft.post"], "b"),
    ],
)
async def test_a_message_is_accepted_if_one_run_accepts_and_edited_by_the_first_that_does(
    whats: list[str], edited_by: str
) -> None:
    async with gate(Chooser, Late, Listener, content=LENIENT) as made:
        client = made.client()
        await offer(client, *whats)
        assert (await client.data()).code == 250
        assert client.message is not None
        assert client.message.summary() == [f"add header X-Run: {edited_by}"]

    assert events("deny", "ok") == ["ok data", "ok data_post"]


@pytest.mark.parametrize(
    ("whats", "code", "told"),
    [
        (["deny.post", "deny.data"], 554, "deny data_post Deny"),
        (["deny.data", "soft.post"], 451, "deny data_post DenySoft"),
        (["denybye.post", "deny.body"], 554, "deny body Deny"),
        (["denybye.post", "softbye.headers"], 421, "deny data_headers_end DenySoftDisconnect"),
        (["softbye.post", "soft.header", "deny.data"], 451, "deny header DenySoft"),
        (["deny.data", "soft.data"], 451, "deny data DenySoft"),
        (["denybye.data", "denybye.data+2"], 521, "deny data DenyDisconnect"),
    ],
)
async def test_if_every_run_refuses_the_mildest_denial_counts_and_deny_runs_once(
    whats: list[str], code: int, told: str
) -> None:
    async with gate(Chooser, Late, Listener, content=LENIENT) as made:
        client = made.client()
        await offer(client, *whats)
        assert (await client.data()).code == code

    assert events("deny") == [told]
    assert events("queue_post") == []


async def test_content_hooks_do_not_run_for_a_run_that_data_refused() -> None:
    async with gate(Chooser, Late, content=LENIENT) as made:
        client = made.client()
        await offer(client, "deny.data", "b")
        await client.data()

    assert events("post") == ["post b ['b'] ['Subject']"]


async def test_one_run_for_all_sees_the_recipients_options_and_keeps_its_notes() -> None:
    async with gate(Chooser, Late) as made:
        client = made.client()
        await offer(client, "a", "a")
        await client.data()

    assert events("data", "post") == ["data a", "post a ['a'] ['Subject']"]
    assert client.transaction.notes["late"] == {"runs": ["a"]}


async def test_after_a_refused_data_further_recipients_do_not_get_the_options_of_those_before() -> None:
    async with gate(Chooser, Late) as made:
        client = made.client()
        await offer(client, "deny.data")
        assert client.flow is not None
        assert await client.flow.data(Deadline.after(10)) is not None
        assert client.transaction.overrides != ()

        await client.rcpt("rcpt@example.org")
        assert client.transaction.overrides == ()
