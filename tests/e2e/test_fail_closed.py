"""What goes wrong in a plugin, beside us or with us ends in a 4xx of ours, or passes where the policy says so."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from tests.e2e.gate import MESSAGE
from tests.e2e.postfix_rig import SmtpClient, queue_id

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.gate import Gate

OURS = b"451 4.3.0 temporary failure, please try again later\r\n"

ARGUMENTS = {
    "connect": "session",
    "helo": "session, name",
    "mail": "transaction, sender, parameters",
    "rcpt": "transaction, recipient",
    "data": "transaction",
    "header": "transaction, name, value",
    "data_headers_end": "transaction, headers",
    "body": "transaction, chunk",
    "data_post": "transaction, message",
}


def plugin(hook: str, body: str, *, arguments: str | None = None, blocking: bool = False) -> str:
    """Return a plugin with that one hook; the body is one statement."""
    kind = "async def" if body.startswith("await ") else "def"
    lead = "    blocking = True\n" if blocking else ""
    return f"class Hurt(Plugin):\n{lead}    {kind} {hook}(self, {arguments or ARGUMENTS[hook]}):\n        {body}\n"


# Plugins


@pytest.mark.parametrize("hook", ARGUMENTS)
def test_a_hook_that_raises_defers_the_mail_and_says_why_only_in_the_log(gate: Gate, hook: str) -> None:
    gate.use(hooks={"hurt": plugin(hook, 'raise ValueError("secret")')})
    seen = gate.daemon.log_size()
    assert gate.send() == OURS
    assert gate.queue() == []
    gate.daemon.wait_for_log(rf"plugin=hurt.*hook={hook}.*secret|hook={hook}.*plugin=hurt.*secret", since=seen)


@pytest.mark.parametrize("hook", ["rcpt", "data_post"])
@pytest.mark.parametrize(
    "body", ["sys.exit(3)", "await asyncio.sleep(sys.exit(3))", "await asyncio.sleep(0); raise SystemExit"]
)
def test_a_hook_that_exits_does_not_end_the_daemon(gate: Gate, hook: str, body: str) -> None:
    gate.use(hooks={"hurt": plugin(hook, body)})
    pid = gate.daemon.pid
    assert gate.send() == OURS
    assert gate.daemon.pid == pid
    gate.use()
    queue_id(gate.send())
    assert gate.daemon.pid == pid


@pytest.mark.parametrize("hook", ["queue_post", "reset_transaction", "ok"])
def test_a_hook_after_the_answer_cannot_change_it(gate: Gate, hook: str) -> None:
    arguments = "session, hook, verdict" if hook == "ok" else "transaction"
    gate.use(hooks={"hurt": plugin(hook, 'raise ValueError("late")', arguments=arguments)})
    seen = gate.daemon.log_size()
    queue_id(gate.send())
    gate.daemon.wait_for_log("late", since=seen)


@pytest.mark.parametrize(
    ("body", "policy"),
    [
        ("raise ValueError", "on_error"),
        ("return Ok", "on_error"),
        ("await asyncio.sleep(30)", "on_timeout"),
        ('raise Unavailable("scanner", "down")', "on_unavailable"),
    ],
)
@pytest.mark.parametrize("hook", ["rcpt", "data_post"])
def test_a_failure_follows_its_own_policy(gate: Gate, hook: str, body: str, policy: str) -> None:
    source = "from gatepost.errors import Unavailable\n" + plugin(hook, body)
    head = '[[plugin]]\nname = "hurt"\ntimeout = "0.2s"\n'
    gate.use(head, hooks={"hurt": source})
    assert gate.send() == OURS
    gate.use(head + f'{policy} = "pass"\n', hooks={"hurt": source})
    seen = gate.daemon.log_size()
    queue_id(gate.send())
    gate.daemon.wait_for_log("plugin=hurt", since=seen)


def test_a_hook_that_edits_and_then_fails_has_edited_nothing(gate: Gate) -> None:
    source = """
    class Hurt(Plugin):
        def data_post(self, transaction, message):
            message.add_header("X-Half", "done")
            raise ValueError
    """
    gate.use('[[plugin]]\nname = "hurt"\non_error = "pass"\n', hooks={"hurt": source})
    queue_id(gate.send())
    assert b"X-Half" not in gate.take()[1]


def test_a_blocking_hook_that_hangs_holds_up_nobody_else(gate: Gate) -> None:
    source = """
    from pathlib import Path

    class Hangs(Plugin):
        blocking = True

        def rcpt(self, transaction, recipient):
            while recipient.address.local == "slow" and not (Path(__file__).parent / "go").exists():
                time.sleep(0.01)
    """
    # Five messages may take a while.
    gate.use(hooks={"hangs": source}, proxy={"front_timeout": "70s"})
    go = gate.daemon.hooks_dir / "go"
    try:
        with gate.client(timeout_s=60) as slow:
            slow.command(b"MAIL FROM:<a@example.com>")
            slow.send(b"RCPT TO:<slow@example.org>\r\n")
            for _ in range(5):
                queue_id(gate.send())
            go.touch()
            assert slow.reply().startswith(b"250 2.1.5")
    finally:
        go.unlink(missing_ok=True)


@pytest.mark.parametrize("hook", ["rcpt", "data_post"])
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_hook_that_holds_the_event_loop_is_named(gate: Gate, hook: str, kind: str) -> None:
    gate.use(hooks={"hurt": plugin(hook, "time.sleep(0.15)").replace("    def", f"    {kind}")})
    seen, started = gate.daemon.log_size(), time.monotonic()
    queue_id(gate.send())
    took_ms = (time.monotonic() - started) * 1000
    found = gate.daemon.wait_for_log(rf"event loop held up.* plugin=hurt hook={hook} ms=(\d+)\n", since=seen)
    # A sleep may be longer than asked for.
    assert 150 <= int(found[1]) <= took_ms


# The milter


@pytest.fixture
def without_milter(gate: Gate) -> Iterator[None]:
    """The inner smtpd has lost its milter."""
    milters = gate.postfix.postconf("-Ph", f"{gate.inner_service}/smtpd_milters")
    gate.postfix.postconf_service(gate.inner_service, {"smtpd_milters": ""})
    gate.postfix.reload()
    yield
    gate.postfix.postconf_service(gate.inner_service, {"smtpd_milters": milters})
    gate.postfix.reload()


@pytest.mark.usefixtures("without_milter")
def test_a_message_that_the_content_hooks_cannot_see_is_deferred(gate: Gate) -> None:
    queue_id(gate.send())
    gate.postfix.empty_queue()
    gate.use(hooks={"reads": plugin("data_post", "pass").replace("Hurt", "Reads")})
    seen = gate.daemon.log_size()
    assert gate.send().startswith(b"451 4.3.5 ")
    assert gate.queue() == []
    gate.daemon.wait_for_log("remedy=.*gatepost postfix apply", since=seen)


@pytest.mark.parametrize("hooks", [False, True], ids=["no hooks", "content hook"])
def test_mail_that_bypasses_the_proxy_passes_only_without_content_hooks(gate: Gate, hooks: bool) -> None:
    gate.use(hooks={"hurt": plugin("data_post", "pass")} if hooks else {})
    with SmtpClient(gate.daemon.inner_port) as client:
        if hooks:
            assert client.command(b"MAIL FROM:<a@example.com>").startswith(b"451 4.7.1")
        else:
            queue_id(client.message())
    assert len(gate.queue()) == (0 if hooks else 1)


def test_content_hooks_that_are_new_see_the_next_message_of_a_pooled_connection(gate: Gate) -> None:
    with gate.client() as client:
        queue_id(client.message())
        gate.use(hooks={"hurt": plugin("data_post", 'message.add_header("X-New", "1")')})
        identity = queue_id(client.message())
    assert b"\nX-New: 1\n" in gate.postfix.message(identity)


# The daemon


def test_a_daemon_that_is_killed_in_the_middle_has_queued_nothing(gate: Gate) -> None:
    gate.use(hooks={"hurt": plugin("data_post", "pass")})
    with gate.client() as client:
        client.transaction(b"a@example.org")
        client.command(b"DATA")
        client.send(b"Subject: half\r\n\r\n" + b"text\r\n" * 20_000)
        gate.daemon.kill()
        assert client.command(b".").startswith(b"4")
    assert gate.postfix.queue() == []
    gate.use()
    queue_id(gate.send())


def test_while_the_daemon_is_down_the_client_is_asked_to_come_again(gate: Gate) -> None:
    gate.daemon.stop()
    assert gate.send().startswith(b"451 4.3.0")
    with SmtpClient(gate.daemon.inner_port) as bypass:
        assert bypass.command(b"MAIL FROM:<a@example.com>").startswith(b"451 4.7.1")
    assert gate.postfix.queue() == []


def test_more_clients_than_allowed_are_told_so(gate: Gate) -> None:
    gate.use(proxy={"max_sessions": 1})
    with gate.client() as first:
        first.transaction(b"a@example.org")
        with gate.client() as second:
            assert second.transaction(b"b@example.org") == [b"421 4.3.2 too many sessions, please try again later\r\n"]
            assert second.hung_up()
        queue_id(first.content(MESSAGE))
    gate.wait_until_idle()
    queue_id(gate.send())


# The disk


LARGE = b"Subject: large\r\n\r\n" + (b"x" * 76 + b"\r\n") * 30_000 + b".\r\n"


def test_a_message_for_which_there_is_no_place_is_deferred_and_the_log_says_so_once(gate: Gate, tmp_path: Path) -> None:
    place = tmp_path / "spool"
    place.mkdir()
    gate.daemon.stop()
    gate.daemon.environment["TMPDIR"] = str(place)
    try:
        gate.use(hooks={"reads": plugin("body", "pass")})
        queue_id(gate.send(LARGE))
        place.rmdir()
        seen = gate.daemon.log_size()
        with gate.client() as client:
            assert client.message(LARGE).startswith(b"451 ")
            queue_id(client.message())
        log = gate.daemon.log(seen)
        assert log.count("message cannot be kept, deferred") == 1
        assert f"directory={place}" in log
    finally:
        gate.daemon.stop()
        del gate.daemon.environment["TMPDIR"]
