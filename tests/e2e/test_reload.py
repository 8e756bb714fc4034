"""SIGHUP swaps everything at once or nothing at all; SIGTERM lets the messages under way finish."""

from __future__ import annotations

import re
import signal
import socket

import pytest
from tests.e2e.gate import MESSAGE, PREAMBLE, Gate
from tests.e2e.postfix_rig import queue_id, wait_until

from gatepost.errors import ConfigError


def marks(text: str) -> str:
    return f"""
    class Marks(Plugin):
        def data_post(self, transaction, message):
            message.add_header("X-Mark", "{text}")
    """


def marked(gate: Gate, identity: str) -> list[str]:
    return re.findall(r"^X-Mark: (\w+)$", gate.postfix.message(identity).decode(), re.MULTILINE)


def test_new_plugins_see_the_next_message_of_the_same_client(gate: Gate) -> None:
    gate.use(hooks={"marks": marks("one")})
    with gate.client() as client:
        first = queue_id(client.message())
        gate.use(hooks={"marks": marks("two")})
        second = queue_id(client.message())
    assert (marked(gate, first), marked(gate, second)) == (["one"], ["two"])


@pytest.mark.parametrize("after", [{}, {"marks": marks("two")}], ids=["unloaded", "changed"])
def test_a_message_under_way_finishes_on_the_old_plugins(gate: Gate, after: dict[str, str]) -> None:
    gate.use(hooks={"marks": marks("one")})
    with gate.client() as client:
        client.transaction(b"a@example.org")
        gate.use(hooks=after)
        identity = queue_id(client.content(MESSAGE))
        assert marked(gate, identity) == ["one"]


def test_a_message_under_way_that_had_no_content_hooks_gets_none(gate: Gate) -> None:
    with gate.client() as client:
        client.transaction(b"a@example.org")
        gate.use(hooks={"marks": marks("one")})
        identity = queue_id(client.content(MESSAGE))
    assert marked(gate, identity) == []


def test_the_old_plugins_are_told_once_their_last_message_is_done(gate: Gate) -> None:
    source = """
    class Told(Plugin):
        def init(self):
            self.log.info("told init")

        def reload(self):
            self.log.info("told reload")

        def rcpt(self, transaction, recipient):
            pass
    """
    gate.use(hooks={"told": source})
    seen = gate.daemon.log_size()
    with gate.client() as client:
        client.transaction(b"a@example.org")
        gate.use(hooks={"told": source})
        assert "told reload" not in gate.daemon.log(seen)
        queue_id(client.content(MESSAGE))
    gate.daemon.wait_for_log("told reload", since=seen)
    assert gate.daemon.log(seen).count("told init") == 1


def test_notes_on_the_session_outlive_a_reload(gate: Gate) -> None:
    source = """
    class Counts(Plugin):
        def connect(self, session):
            self.log.info("connected again")

        def data_post(self, transaction, message):
            notes = self.notes(transaction.session)
            notes["messages"] = notes.get("messages", 0) + 1
            message.add_header("X-Mark", str(notes["messages"]))
    """
    gate.use(hooks={"counts": source})
    seen = gate.daemon.log_size()
    with gate.client() as client:
        first = queue_id(client.message())
        gate.use(hooks={"counts": source})
        second = queue_id(client.message())
    assert (marked(gate, first), marked(gate, second)) == (["1"], ["2"])
    assert gate.daemon.log(seen).count("connected again") == 1


@pytest.mark.parametrize(
    "broken",
    [
        '[[plugin]]\nname = "marks"\nno_such_option = 1\n',
        '[[plugin]]\nname = "no_such_plugin"\n',
        "not toml\n",
        '[[plugin]]\nname = "broken"\n',
        '[[plugin]]\nname = "unfinished"\n',
    ],
    ids=["option", "plugin", "syntax", "python", "annotation"],
)
def test_a_broken_configuration_leaves_the_old_one_in_force(gate: Gate, broken: str) -> None:
    gate.use(hooks={"marks": marks("one")})
    (gate.daemon.hooks_dir / "broken.py").write_text("this is no python\n")
    unfinished = (
        "class Options(PluginOptions):\n    limit: Missing = 1\n\nclass Unfinished(Plugin[Options]):\n    pass\n"
    )
    (gate.daemon.hooks_dir / "unfinished.py").write_text(PREAMBLE + unfinished)
    gate.daemon.configure(broken, {"proxy": {"front_timeout": "20s"}})
    seen = gate.daemon.log_size()
    with pytest.raises(ConfigError, match="old configuration stays in force"):
        gate.daemon.reload()
    assert len(gate.daemon.log(seen).splitlines()) == 1
    assert marked(gate, queue_id(gate.send())) == ["one"]


def test_what_a_reload_cannot_change_is_said(gate: Gate) -> None:
    seen = gate.daemon.log_size()
    gate.use(proxy={"inner": "127.0.0.1:9"})
    assert re.search("needs a restart.*key=proxy.inner", gate.daemon.log(seen))
    queue_id(gate.send())


def test_twenty_reloads_under_load_lose_nothing(gate: Gate) -> None:
    """Every message is seen by exactly one generation of the plugin."""
    gate.use(hooks={"marks": marks("g0")})
    identities = []
    with gate.client() as client, gate.client() as other:
        for n in range(1, 21):
            client.transaction(b"a@example.org")
            other.transaction(b"b@example.org")
            gate.use(hooks={"marks": marks(f"g{n}")})
            identities.append((n - 1, queue_id(client.content(MESSAGE))))
            identities.append((n - 1, queue_id(other.content(MESSAGE))))
    assert [marked(gate, identity) for _, identity in identities] == [[f"g{n}"] for n, _ in identities]


# The end

SLOW_END = """
class Slow(Plugin):
    async def data_post(self, transaction, message):
        self.log.info("data_post begins")
        await asyncio.sleep(0.4)
        message.add_header("X-Mark", "slow")

    async def queue_post(self, transaction):
        await asyncio.sleep(0.3)
        self.log.info("queue_post is done", queued=transaction.queue_id)

    def disconnect(self, session):
        self.log.info("disconnect is done")

    def shutdown(self):
        self.log.info("shutdown is done")
"""


@pytest.mark.parametrize("stage", ["rcpt", "content", "dot"])
def test_sigterm_lets_a_message_under_way_finish(gate: Gate, stage: str) -> None:
    gate.use(hooks={"slow": SLOW_END}, restart=True)
    seen = gate.daemon.log_size()
    with gate.client() as client:
        client.transaction(b"a@example.org")
        if stage != "rcpt":
            client.command(b"DATA")
            client.send(MESSAGE if stage == "dot" else MESSAGE[:10])
        if stage == "dot":
            gate.daemon.wait_for_log("data_post begins", since=seen)
        gate.daemon.signal(signal.SIGTERM)
        gate.daemon.wait_for_log("event=stopping messages=1", since=seen)
        match stage:
            case "rcpt":
                reply = client.content(MESSAGE)
            case "content":
                client.send(MESSAGE[10:])
                reply = client.reply()
            case _:
                reply = client.reply()
        identity = queue_id(reply)
    wait_until(lambda: not gate.is_running)
    log = gate.daemon.log(seen)
    assert marked(gate, identity) == ["slow"]
    for line in (f"queued={identity}", "disconnect is done", "shutdown is done", "event=stopped accepted=1 offered=1"):
        assert line in log, line


def test_after_sigterm_nothing_new_is_taken(gate: Gate) -> None:
    gate.use(restart=True)
    with gate.client() as first, gate.client() as second:
        first.transaction(b"a@example.org")
        gate.daemon.signal(signal.SIGTERM)
        gate.daemon.wait_for_log("event=stopping")
        wait_until(lambda: not listens(gate.daemon.proxy_port))
        assert second.transaction(b"b@example.org")[0].startswith(b"451 4.3.0")
        queue_id(first.content(MESSAGE))
    wait_until(lambda: not gate.is_running)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_the_ports_and_the_socket_can_be_taken_again_at_once(gate: Gate) -> None:
    for _ in range(2):
        gate.use(restart=True)
        queue_id(gate.send())


def test_after_a_crash_the_stale_socket_is_no_obstacle(gate: Gate) -> None:
    gate.daemon.kill()
    assert (gate.daemon.directory / "run" / "milter.sock").exists()
    gate.use(hooks={"marks": marks("one")})
    assert marked(gate, queue_id(gate.send())) == ["one"]


def test_the_tally_adds_up_over_a_mixed_run(gate: Gate) -> None:
    source = """
    class Mixed(Plugin):
        def rcpt(self, transaction, recipient):
            match recipient.address.local:
                case "no":
                    return Deny("no")
                case "later":
                    return DenySoft("later")

        def data_post(self, transaction, message):
            match transaction.sender.local:
                case "hold":
                    message.quarantine("for a look")
                case "bad":
                    return Deny("bad")
                case "soft":
                    return DenySoft("soft")
    """
    gate.use(hooks={"mixed": source}, restart=True)
    with gate.client() as client:
        for sender in (b"good", b"hold", b"bad", b"soft"):
            client.message(MESSAGE, b"yes@example.org", b"no@example.org", sender=sender + b"@example.com")
        client.transaction(b"later@example.org", b"yes@example.org", b"gone@example.net", b"busy@example.net")
    gate.wait_until_idle()
    tally = gate.tally()
    assert tally == {"offered": 12, "accepted": 1, "held": 1, "refused": 6, "deferred": 3, "aborted": 1}
    assert tally.pop("offered") == sum(tally.values())
