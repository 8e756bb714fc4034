"""One session for edge, proxy and content: who joins what, that each hook runs once, and what outlives what."""

from __future__ import annotations

import re
import threading

import pytest
from tests.e2e.edge_rig import EDGE, NOTES, counted, put_edge_on_front, wait_until_left
from tests.e2e.gate import MESSAGE, Gate
from tests.e2e.postfix_rig import SmtpClient, queue_id, wait_until

# A session without the edge must outlive the pause between two messages on a busy machine. A reload to the second ends
# it then, within a tenth of the first, which is how often it is looked at.
LONG_IDLE = {"session_idle": "5s"}
SHORT_IDLE = {"session_idle": "0.3s"}

WAITS = """
from pathlib import Path

class Waits(Plugin):
    async def unrecognized_command(self, session, verb):
        self.log.info("begins")
        while not Path({release!r}).exists():
            await asyncio.sleep(0.02)
        self.log.info("is done")

    async def disconnect(self, session):
        await self.unrecognized_command(session, "")

    def reload(self):
        self.log.info("told to go")
"""
"""Waits until it is released."""

SESSIONS = 200
"""At once; the front gets a process for each."""


@pytest.fixture(scope="module")
def edge_gate(module_gate: Gate) -> Gate:
    """Put the edge on the front, which refuses a recipient by itself; the front at `plain_port` is without."""
    put_edge_on_front(module_gate)
    without = f"127.0.0.1:{module_gate.plain_port}/inet"
    module_gate.daemon.apply(module_gate.postfix.config_dir, without)
    module_gate.postfix.postconf_service(without, {"smtpd_milters": ""})
    module_gate.postfix.postconf("-F", f"{module_gate.postfix.front_service}/process_limit={SESSIONS + 20}")
    module_gate.postfix.reload()
    return module_gate


@pytest.fixture
def notes(edge_gate: Gate, gate: Gate) -> Gate:
    wait_until_left(gate)
    gate.use(hooks={"notes": NOTES}, milter=EDGE)
    return gate


def noted(gate: Gate, identity: str) -> list[str]:
    return re.findall(r"^X-Notes: (.*)$", gate.postfix.message(identity).decode(), re.MULTILINE)


@pytest.mark.parametrize("edge", [True, False], ids=["edge", "no edge"])
def test_each_hook_runs_once_for_each_command_that_the_client_gave(notes: Gate, edge: bool) -> None:
    notes.use(hooks={"notes": NOTES}, restart=True, milter={"edge": edge}, proxy=SHORT_IDLE if edge else LONG_IDLE)
    seen = notes.daemon.log_size()
    with notes.client() as client:
        for number in (1, 2, 3):
            identity = queue_id(client.message(MESSAGE, b"a@example.org", b"b@example.org"))
            assert noted(notes, identity) == [f"client.example.com sender@example.com {client.address[1]}"], number
    if not edge:
        notes.use(hooks={"notes": NOTES}, milter={"edge": False}, proxy=SHORT_IDLE)
    notes.daemon.wait_for_log("saw disconnect", since=seen)
    expected = {"connect": 1, "helo": 1, "mail": 3, "rcpt": 6, "reset": 3, "disconnect": 1}
    assert counted(notes, seen) == expected


def test_a_client_may_greet_three_times_and_stays_one_session(notes: Gate) -> None:
    seen = notes.daemon.log_size()
    with SmtpClient(notes.postfix.front_port, helo=None) as client:
        client.command(b"HELO client.example.com")
        queue_id(client.message())
        client.command(b"EHLO second.example.com")
        identity = queue_id(client.message())
        assert noted(notes, identity)[0].startswith("second.example.com ")
        client.command(b"EHLO second.example.com")
        client.command(b"EHLO third.example.com")
        queue_id(client.message())
    notes.daemon.wait_for_log("saw disconnect", since=seen)
    log = notes.daemon.log(seen)
    assert re.findall(r'saw helo".* who=(\w+)', log) == ["client", "second", "second", "third"]
    assert re.findall(r'saw rcpt".* esmtp=(\w+)', log) == ["false", "true", "true"]
    assert re.findall(r'saw helo".* esmtp=(\w+)', log) == ["true"] * 4, "not that of an earlier greeting"
    assert counted(notes, seen) == {"connect": 1, "helo": 4, "mail": 3, "rcpt": 3, "reset": 3, "disconnect": 1}


@pytest.mark.parametrize(
    "name", [b"<x>", b'"q q"', b"a;b@c\\(d)", b"a\x01 \x7fb", "gürtel".encode(), b"x" * 1000, b"a%b+41"]
)
def test_a_greeting_of_odd_characters_is_one_greeting(notes: Gate, name: bytes) -> None:
    seen = notes.daemon.log_size()
    with SmtpClient(notes.postfix.front_port, helo=None) as client:
        client.command(b"HELO " + name)
        queue_id(client.message())
        queue_id(client.message())
    notes.daemon.wait_for_log("saw disconnect", since=seen)
    assert counted(notes, seen) == {"connect": 1, "helo": 1, "mail": 2, "rcpt": 2, "reset": 2, "disconnect": 1}


@pytest.mark.parametrize(
    "sender",
    [
        b"<>",
        b"a@example.com",
        b'<"a b"@example.com>',
        b"<@r.example:A@Example.COM.>",
        "<ä@example.com> SMTPUTF8".encode(),
    ],
)
def test_a_sender_in_any_spelling_is_one_sender(notes: Gate, sender: bytes) -> None:
    seen = notes.daemon.log_size()
    with notes.client() as client:
        assert client.command(b"MAIL FROM:" + sender).startswith(b"250 ")
        assert client.command(b"RCPT TO:<a@example.org>").startswith(b"250 ")
        queue_id(client.content(MESSAGE))
    notes.daemon.wait_for_log("saw disconnect", since=seen)
    assert counted(notes, seen) == {"connect": 1, "helo": 1, "mail": 1, "rcpt": 1, "reset": 1, "disconnect": 1}


def test_a_front_without_the_edge_is_served_beside_one_that_has_it(notes: Gate) -> None:
    notes.use(hooks={"notes": NOTES}, restart=True, milter=EDGE, proxy=LONG_IDLE)
    seen = notes.daemon.log_size()
    with notes.client(), SmtpClient(notes.plain_port, timeout_s=30) as client:
        assert counted(notes, seen) == {"connect": 1, "helo": 1}
        for _ in range(2):
            identity = queue_id(client.message())
            assert noted(notes, identity) == [f"client.example.com sender@example.com {client.address[1]}"]
        notes.use(hooks={"notes": NOTES}, milter=EDGE, proxy=SHORT_IDLE)
        # Known only by its messages, it ends when it has been idle, while the other, which says nothing, goes on.
        notes.daemon.wait_for_log(f"saw disconnect.* port={client.address[1]}", since=seen)
    wait_until(lambda: counted(notes, seen)["disconnect"] == 2)
    assert counted(notes, seen) == {"connect": 2, "helo": 2, "mail": 2, "rcpt": 2, "reset": 2, "disconnect": 2}


def test_a_greeting_in_a_transaction_ends_it(notes: Gate) -> None:
    seen = notes.daemon.log_size()
    with notes.client() as client:
        client.transaction(b"nobody@example.org")
        client.command(b"EHLO again.example.com")
        assert re.findall(r'event="saw (\w+)"', notes.daemon.log(seen))[2:] == ["mail", "reset", "helo"]
        queue_id(client.message())


def test_two_clients_of_one_address_are_two_sessions(notes: Gate) -> None:
    with notes.client() as one, notes.client() as two:
        two.command(b"EHLO two.example.com")
        for _ in range(2):
            for client, name in ((one, "client.example.com"), (two, "two.example.com")):
                identity = queue_id(client.message())
                assert noted(notes, identity) == [f"{name} sender@example.com {client.address[1]}"]


def test_an_ipv6_client_is_one_session_at_both_doors(notes: Gate) -> None:
    seen = notes.daemon.log_size()
    with notes.client() as client:
        client.command(b"XCLIENT NAME=six.example.com ADDR=IPV6:2001:db8:0:0:0:0:0:1")
        client.command(b"EHLO six.example.com")
        queue_id(client.message())
        queue_id(client.message())
    wait_until(lambda: counted(notes, seen)["disconnect"] == 2)
    # The client is one before XCLIENT and another after it.
    assert counted(notes, seen) == {"connect": 2, "helo": 2, "mail": 2, "rcpt": 2, "reset": 2, "disconnect": 2}


def test_many_sessions_at_once_are_joined_without_a_mix_up(notes: Gate) -> None:
    expected: dict[str, str] = {}
    together = threading.Barrier(SESSIONS, timeout=60)

    def visit(number: int) -> None:
        with notes.client(timeout_s=60) as client:
            client.command(b"EHLO c%d.example.com" % number)
            together.wait()
            for turn in (1, 2):
                sender = b"s%d.%d@example.com" % (number, turn)
                client.transaction(b"nobody@example.org", b"a@example.org", sender=sender)
                identity = queue_id(client.content(MESSAGE))
                expected[identity] = f"c{number}.example.com {sender.decode()} {client.address[1]}"

    seen = notes.daemon.log_size()
    threads = [threading.Thread(target=visit, args=(number,)) for number in range(SESSIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(expected) == 2 * SESSIONS
    assert {identity: noted(notes, identity) for identity in expected} == {
        identity: [text] for identity, text in expected.items()
    }
    wait_until(lambda: counted(notes, seen)["disconnect"] == SESSIONS, 60)
    assert counted(notes, seen) == {
        "connect": SESSIONS,
        "helo": 2 * SESSIONS,
        "mail": 2 * SESSIONS,
        "rcpt": 2 * SESSIONS,
        "reset": 2 * SESSIONS,
        "disconnect": SESSIONS,
    }


@pytest.mark.parametrize("edge", [True, False], ids=["edge", "no edge"])
def test_a_proxy_connection_without_a_session_of_the_edge_runs_what_was_not_run(notes: Gate, edge: bool) -> None:
    notes.use(hooks={"notes": NOTES}, milter={"edge": edge})
    seen = notes.daemon.log_size()
    with notes.proxy_client() as client:
        port = 4000 + edge
        client.command(b"XFORWARD ADDR=192.0.2.9 PORT=%d" % port)
        client.command(b"XFORWARD NAME=[UNAVAILABLE] HELO=late.example PROTO=ESMTP SOURCE=REMOTE")
        queue_id(client.message())
    notes.daemon.wait_for_log("saw reset", since=seen)
    assert counted(notes, seen) == {"connect": 1, "helo": 1, "mail": 1, "rcpt": 1, "reset": 1}


def test_the_edge_switched_on_under_a_client_is_for_the_next_one(notes: Gate) -> None:
    notes.use(hooks={"notes": NOTES})
    seen = notes.daemon.log_size()
    with notes.client() as client:
        queue_id(client.message())
        notes.use(hooks={"notes": NOTES}, milter=EDGE)
        identity = queue_id(client.message())
        assert noted(notes, identity) == [f"client.example.com sender@example.com {client.address[1]}"]
        assert counted(notes, seen)["connect"] == 1
        with notes.client() as other:
            assert counted(notes, seen)["connect"] == 2
            queue_id(other.message())


def test_the_edge_switched_off_under_a_client_serves_it_to_its_end(notes: Gate) -> None:
    seen = notes.daemon.log_size()
    with notes.client() as client:
        queue_id(client.message())
        notes.use(hooks={"notes": NOTES})
        queue_id(client.message())
    notes.daemon.wait_for_log("saw disconnect", since=seen)
    assert counted(notes, seen) == {"connect": 1, "helo": 1, "mail": 2, "rcpt": 2, "reset": 2, "disconnect": 1}


def test_a_transaction_stays_on_the_plugins_that_it_began_with(notes: Gate) -> None:
    seen = notes.daemon.log_size()
    with notes.client() as client:
        client.command(b"MAIL FROM:<a@example.com>")
        notes.use(hooks={"notes": NOTES}, milter=EDGE)
        assert "told reload" not in notes.daemon.log(seen)
        client.command(b"RCPT TO:<a@example.org>")
        identity = queue_id(client.content(MESSAGE))
        assert noted(notes, identity) == [f"client.example.com a@example.com {client.address[1]}"]
        queue_id(client.message())
    notes.daemon.wait_for_log("told reload", since=seen)
    assert counted(notes, seen)["mail"] == 2


def test_plugins_are_not_told_to_go_while_a_hook_of_theirs_runs_in_the_midst_of_an_older_transaction(
    notes: Gate,
) -> None:
    release = notes.daemon.directory / "release"
    release.unlink(missing_ok=True)
    waits = {"waits": WAITS.format(release=str(release))}
    notes.use(hooks=waits, milter=EDGE)
    seen = notes.daemon.log_size()
    with notes.client() as client:
        client.command(b"MAIL FROM:<a@example.com>")
        notes.use(hooks=waits, milter=EDGE)
        client.send(b"BOGUS\r\n")
        notes.daemon.wait_for_log("event=begins", since=seen)
        notes.use(hooks=waits, milter=EDGE)
        with notes.client():  # the daemon has had time for what a reload leaves behind
            release.touch()
        assert client.reply().startswith(b"500 ")
        notes.daemon.wait_for_log("told to go", since=seen)
        log = notes.daemon.log(seen)
        assert log.index('event="is done"') < log.index('event="told to go"')


def test_plugins_are_not_told_to_go_while_they_say_goodbye_to_a_client(notes: Gate) -> None:
    release = notes.daemon.directory / "release"
    release.unlink(missing_ok=True)
    waits = {"waits": WAITS.format(release=str(release))}
    notes.use(hooks=waits, milter=EDGE)
    seen = notes.daemon.log_size()
    notes.client().close()
    notes.daemon.wait_for_log("event=begins", since=seen)
    notes.use(hooks=waits, milter=EDGE)
    with notes.client():  # the daemon has had time for what a reload leaves behind
        release.touch()
    notes.daemon.wait_for_log("told to go", since=seen)
    log = notes.daemon.log(seen)
    assert log.index('event="is done"') < log.index('event="told to go"')


def test_notes_of_the_session_outlive_a_reload(notes: Gate) -> None:
    with notes.client() as client:
        notes.use(hooks={"notes": NOTES}, milter=EDGE)
        identity = queue_id(client.message())
        assert noted(notes, identity) == [f"client.example.com sender@example.com {client.address[1]}"]


def test_recipients_of_all_outcomes_add_up(notes: Gate) -> None:
    notes.use(hooks={"notes": NOTES}, milter=EDGE, restart=True)
    with notes.client() as client:
        client.transaction(b"nobody@example.org", b"nobody@example.org")
        client.command(b"RSET")
        client.transaction(b"nobody@example.org", b"a@example.org")
        queue_id(client.content(MESSAGE))
        client.transaction(b"nobody@example.org", b"a@example.org")
    wait_until(lambda: not notes.connections(notes.daemon.proxy_port))
    tally = notes.tally()
    assert tally == {"offered": 6, "accepted": 1, "refused": 4, "aborted": 1}
    notes.use(hooks={"notes": NOTES}, milter=EDGE)


def test_a_plugin_that_skips_logins_is_not_asked_about_one(notes: Gate) -> None:
    notes.use('[[plugin]]\nname = "notes"\nskip_authenticated = true\n', hooks={"notes": NOTES}, milter=EDGE)
    seen = notes.daemon.log_size()
    with notes.client() as client:
        client.command(b"XCLIENT LOGIN=hjp")
        client.command(b"EHLO client.example.com")
        identity = queue_id(client.message())
    assert noted(notes, identity) == []
    assert counted(notes, seen)["mail"] == 0
