"""The public test kit: what a plugin author sees is what the daemon does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gatepost import (
    Address,
    ConfigError,
    Declined,
    Deny,
    DenyDisconnect,
    DenySoft,
    Message,
    Ok,
    Plugin,
    PluginOptions,
    Recipient,
    Session,
    Transaction,
    Verdict,
)
from gatepost.testing import gate, run_hook

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = """
from gatepost import Deny, Plugin, PluginOptions

class Options(PluginOptions):
    longest: int = 20

class ShortHelo(Plugin[Options]):
    def helo(self, session, name):
        if len(name) > self.options(session).longest:
            return Deny("too long a name")
"""


class BySender(Plugin):
    """One hook of each kind."""

    def mail(self, transaction: Transaction, sender: Address, parameters: object) -> Verdict | None:
        return Deny("not you") if sender.local == "bad" else None

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        if recipient.address.local == "list":
            recipient.deliver_to([Address.parse("one@example.org"), Address.parse("two@example.org")])
        return DenySoft("later", code=452) if recipient.address.local == "later" else None

    def data(self, transaction: Transaction) -> Verdict | None:
        return DenyDisconnect("bye") if len(transaction.accepted) > 2 else None

    def data_post(self, transaction: Transaction, message: Message) -> Verdict | None:
        message.add_header("X-Recipients", str(len(message.recipients)))
        return Deny("spam") if b"spam" in bytes(message.body) else None


class Failing(Plugin):
    async def connect(self, session: Session) -> None:
        raise ValueError("bad")


class Endless(Plugin):
    async def connect(self, session: Session) -> None:
        await asyncio.Event().wait()


# --- run_hook -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "verdict"), [("short", Declined()), ("x" * 21, Deny("too long a name"))])
async def test_a_hook_of_a_plugin_in_a_directory_is_run_by_name_or_by_file(
    tmp_path: Path, name: str, verdict: Verdict
) -> None:
    (tmp_path / "short_helo.py").write_text(SOURCE)

    by_name = await run_hook("short_helo", "helo", name=name, directory=tmp_path)
    by_file = await run_hook(tmp_path / "short_helo.py", "helo", name=name)

    assert (by_name.verdict, by_file.verdict) == (verdict, verdict)


async def test_a_hook_is_run_with_the_options_given(tmp_path: Path) -> None:
    (tmp_path / "short_helo.py").write_text(SOURCE)

    result = await run_hook(tmp_path / "short_helo.py", "helo", name="four", options={"longest": 3})

    assert result.verdict.denies


async def test_the_session_recipients_and_content_given_are_the_hooks_own() -> None:
    session = Session("s", "192.0.2.99")
    result = await run_hook(
        BySender, "data_post", session=session, recipients=("a@b", "c@d"), sender="x@y", content=b"\r\nspam\r\n"
    )

    assert result.verdict == Deny("spam")
    assert result.session is session
    assert (str(result.transaction.sender), str(result.recipient.address)) == ("x@y", "c@d")
    assert result.message.summary() == ["add header X-Recipients: 2"]
    assert len(result.edits) == 1


async def test_every_hook_can_be_run_with_nothing_given_but_its_name() -> None:
    class Everything(Plugin):
        def connect(self, session: Session) -> Ok:
            return Ok()

        def helo(self, session: Session, name: str) -> Ok:
            return Ok(name)

        def mail(self, transaction: Transaction, sender: Address, parameters: object) -> Ok:
            return Ok(str(sender))

        def rcpt(self, transaction: Transaction, recipient: Recipient) -> Ok:
            return Ok(str(recipient.address))

        def data(self, transaction: Transaction) -> Ok:
            return Ok(str(len(transaction.accepted)))

        def header(self, transaction: Transaction, name: str, value: str) -> Ok:
            return Ok(value)

        def data_headers_end(self, transaction: Transaction, headers: object) -> Ok:
            return Ok()

        def body(self, transaction: Transaction, chunk: bytes) -> Ok:
            return Ok(chunk.decode())

        def data_post(self, transaction: Transaction, message: Message) -> Ok:
            return Ok(str(message.size))

        def queue_post(self, transaction: Transaction) -> None: ...
        def reset_transaction(self, transaction: Transaction) -> None: ...
        def disconnect(self, session: Session) -> None: ...

        def deny(self, session: Session, hook: str, verdict: Verdict) -> DenyDisconnect | None:
            return DenyDisconnect(hook) if verdict.permanent else None

        def ok(self, session: Session, hook: str, verdict: Verdict) -> None:
            assert not verdict.denies

    hooks = [name for name in vars(Everything) if not name.startswith("_") and name != "options_class"]
    texts = {hook: (await run_hook(Everything, hook)).verdict.text for hook in hooks}

    assert len(hooks) == 14
    assert {hook: text for hook, text in texts.items() if text} == {
        "helo": "client.example",
        "mail": "sender@example.net",
        "rcpt": "recipient@example.org",
        "data": "1",
        "header": "test",
        "body": "test\r\n",
        "data_post": "23",
        "deny": "rcpt",
    }


async def test_the_deny_hook_is_told_the_hook_and_the_verdict_given() -> None:
    result = await run_hook("count_denies", "deny", hook="mail", verdict=DenySoft("later"), options={"limit": 0})
    assert result.verdict == Declined()
    result = await run_hook("count_denies", "deny", hook="mail", verdict=Deny("no"), options={"limit": 0})
    assert isinstance(result.verdict, DenyDisconnect)


async def test_a_hook_that_fails_fails_the_test() -> None:
    with pytest.raises(AssertionError, match=r"failing\.connect failed: ValueError: bad"):
        await run_hook(Failing, "connect")


async def test_a_hook_that_overruns_the_plugins_timeout_fails_the_test() -> None:
    with pytest.raises(AssertionError, match=r"endless\.connect failed: no answer within 0\.05 s"):
        await run_hook(Endless, "connect", options={"timeout": "50ms"})


async def test_a_hook_that_the_plugin_does_not_have_is_told() -> None:
    with pytest.raises(ValueError, match="by_sender has no hook connect"):
        await run_hook(BySender, "connect")


# --- gate -----------------------------------------------------------------------------------------------------------


async def test_a_client_hears_what_the_daemon_would_answer() -> None:
    async with gate(BySender, refuse={"unknown@example.org": "550 5.1.1 unknown"}) as made:
        client = made.client("192.0.2.1")
        assert (await client.mail("good@example.net")).encode() == b"250 2.1.0 Ok\r\n"
        assert (await client.rcpt("later@example.org")).encode() == b"452 4.7.1 later\r\n"
        assert (await client.rcpt("unknown@example.org")).encode() == b"550 5.1.1 unknown\r\n"
        assert (await client.rcpt("list@example.org")).code == 250
        reply = await client.data(b"Subject: x\n\nfine\n")

        assert reply.encode() == b"250 2.0.0 Ok: queued as TESTQUEUEID\r\n"
        assert client.message is not None
        assert client.message.summary() == ["add header X-Recipients: 2"]
        assert made.tally == {"offered": 3, "deferred": 1, "refused": 1, "accepted": 1}


async def test_one_refused_target_refuses_the_recipient() -> None:
    async with gate(BySender, refuse={"two@example.org": "450 4.2.0 busy"}) as made:
        assert (await made.client().send("good@example.net", "list@example.org")).code == 450


async def test_send_stops_where_the_client_is_told_to() -> None:
    async with gate(BySender) as made:
        client = made.client()
        three = ["a@example.org", "b@example.org", "c@example.org"]
        assert (await client.send("bad@example.net", *three)).code == 550
        assert (await client.send("good@example.net", *three)).code == 521
        assert (await client.send("good@example.net", three[0], content="\r\nspam")).code == 554
        assert (await client.send("good@example.net", three[0])).code == 250
        assert (await client.send("good@example.net")).code == 250

    assert len(client.transactions) == 5


async def test_a_new_mail_ends_the_transaction_before_so_that_the_outcomes_add_up() -> None:
    async with gate(BySender) as made:
        client = made.client()
        await client.mail()
        await client.rcpt("a@example.org")
        await client.mail()

    assert made.tally == {"offered": 1, "aborted": 1}
    assert [recipient.outcome for recipient in client.transactions[0].recipients] == ["aborted"]


async def test_without_a_transaction_the_kit_says_what_is_missing() -> None:
    async with gate(BySender) as made:
        client = made.client()
        with pytest.raises(ValueError, match="say MAIL first"):
            await client.rcpt("a@example.org")
        await client.mail()
        assert (await client.data()).code == 554


async def test_a_client_that_leaves_before_mail_was_never_greeted() -> None:
    class Gone(Plugin):
        def disconnect(self, session: Session) -> None:
            raise AssertionError("nobody was here")

    async with gate(Gone) as made:
        client = made.client()
        await client.quit()

    assert client.session.records == []


async def test_plugins_by_name_run_after_the_classes_with_their_options() -> None:
    async with gate(BySender, count_denies={"limit": 0}, loop={}) as made:
        assert [loaded.name for loaded in made.pipeline.plugins] == ["by_sender", "count_denies", "loop"]
        assert (await made.client().send("bad@example.net", "a@example.org")).code == 521
        with pytest.raises(KeyError):
            made.plugin("greylist")


class LimitOptions(PluginOptions):
    limit: int = 1


class Limited(Plugin[LimitOptions]):
    pass


async def test_a_mistake_is_the_same_error_as_the_daemons() -> None:
    with pytest.raises(ConfigError, match="limited has no option 'limt': did you mean 'limit'"):
        async with gate(Limited, limited={"limt": 3}):
            pass
    with pytest.raises(ConfigError, match="there is no plugin 'greylst': did you mean 'greylist'"):
        async with gate(greylst={}):
            pass
    with pytest.raises(ConfigError, match=r"\[hooks\] directory .* is not there"):
        async with gate(directory="/nonexistent"):
            pass


async def test_the_clock_given_is_the_stores() -> None:
    now = 1_700_000_000.0
    async with gate(greylist={"black_timeout": "5m"}, clock=lambda: now) as made:
        client = made.client()
        assert (await client.send("a@example.net", "b@example.org")).code == 450
        now += 301
        assert (await client.send("a@example.net", "b@example.org")).code == 250


# --- dialogues ------------------------------------------------------------------------------------------------------

DIALOGUE = """
    C: EHLO client.example
    S: 250
    C: MAIL FROM:<good@example.net> SIZE=100
    S: 250 2.1.0
    C: RCPT TO:<later@example.org>
    S: 452 4.7.1 later
    C: RCPT TO:<a@example.org>
    S: 250
    C: DATA
    S: 354
    C: Subject: test
    C:
    C: ..dotted
    C: .
    S: 250
    C: RSET
    S: 250
    C: MAIL FROM:bad
    S: 250
    C: RCPT TO:<a@example.org>
    S: 550 5.7.1 not you
    C: DATA
    S: 554
    C: QUIT
    S: 221
"""


async def test_a_dialogue_is_played_line_by_line() -> None:
    async with gate(BySender) as made:
        client = made.client()
        await client.dialogue(DIALOGUE)

    assert (client.session.helo, client.session.esmtp) == ("client.example", True)
    assert dict(client.transactions[0].parameters) == {"SIZE": "100"}
    assert client.transactions[0].size == len(b"Subject: test\r\n\r\n.dotted\r\n")


async def test_a_dialogue_that_goes_another_way_tells_both() -> None:
    async with gate(BySender) as made:
        with pytest.raises(AssertionError, match=r"expected '450', got '250 2\.1\.0 Ok'"):
            await made.client().dialogue("C: MAIL FROM:<a@b>\nS: 450")


async def test_a_command_that_is_no_smtp_gets_postfixs_answer_or_a_clear_error() -> None:
    async with gate(BySender) as made:
        await made.client().dialogue("C: MAIL TO:<a@b>\nS: 501")
        with pytest.raises(ValueError, match="does not know the command VRFY"):
            await made.client().dialogue("C: VRFY a")
