"""SIGHUP swaps everything at once or nothing at all; SIGTERM lets the messages under way finish."""

from __future__ import annotations

import re
import signal
import threading
from functools import partial
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest
from tests.e2e.gate import MESSAGE, PREAMBLE, Gate
from tests.e2e.postfix_rig import queue_id, wait_until

from gatepost.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def release(gate: Gate) -> Path:
    """A file for which a hook waits, so that what is to happen meanwhile has happened however busy the machine is."""
    release = gate.daemon.directory / "release"
    release.unlink(missing_ok=True)
    return release


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


def test_options_of_a_client_that_the_new_plugins_do_not_have_are_left_out_for_its_session(gate: Gate) -> None:
    source = """
    class Options(PluginOptions):
        text: str = "none"
        {name}: int = 0

    class Marks(Plugin[Options]):
        def data_post(self, transaction, message):
            options = self.options(transaction)
            message.add_header("X-Mark", f"{{options.text}}_{{options.{name}}}")

        def disconnect(self, session):
            self.log.info("left", text=self.options(session).text)
    """
    tables = '[[plugin]]\nname = "client_options"\nfile = "clients-{name}"\n[[plugin]]\nname = "marks"\n'

    def use(name: str) -> None:
        files = {f"clients-{name}": f"127.0.0.1: marks.text=mine, marks.{name}=7\n"}
        gate.use(tables.format(name=name), files=files, hooks={"marks": source.format(name=name)})

    use("one")
    seen = gate.daemon.log_size()
    with gate.client() as client, gate.client() as silent:
        first, _ = queue_id(client.message()), queue_id(silent.message())
        use("two")
        second = queue_id(client.message())
    assert (marked(gate, first), marked(gate, second)) == (["mine_7"], ["mine_0"])
    assert queue_id(gate.send())
    gate.tally()
    log = gate.daemon.log(seen)
    assert re.search(r'"left out since the reload" at=\S+/clients-one:1 problem="marks.one: ', log)
    assert log.count("event=left plugin=marks text=mine") == 3


@pytest.mark.parametrize("blocking", [False, True])
def test_a_client_that_is_just_being_greeted_finishes_with_the_old_plugins(
    gate: Gate, release: Path, blocking: bool
) -> None:
    sleep = "time.sleep" if blocking else "await asyncio.sleep"
    source = f"""
    class Greets(Plugin):
        blocking = {blocking}
        over = False

        {"" if blocking else "async "}def connect(self, session):
            self.log.info("connect begins")
            while not Path({str(release)!r}).exists():
                {sleep}(0.02)
            {sleep}(0.2)
            if self.over:
                return Deny("asked after its end")

        {"" if blocking else "async "}def helo(self, session, name):
            pass

        async def reload(self):
            self.over = True
    """
    gate.use(hooks={"greets": "from pathlib import Path\n" + dedent(source)})
    seen = gate.daemon.log_size()
    with gate.client() as client:
        client.command(b"MAIL FROM:<sender@example.com>")
        client.send(b"RCPT TO:<a@example.org>\r\n")
        gate.daemon.wait_for_log("connect begins", since=seen)
        gate.use(hooks={"marks": marks("two")})
        release.touch()
        assert client.reply().startswith(b"250 ")
        assert marked(gate, queue_id(client.content(MESSAGE))) == ["two"]


@pytest.mark.parametrize(
    "broken",
    [
        '[[plugin]]\nname = "marks"\nno_such_option = 1\n',
        '[[plugin]]\nname = "no_such_plugin"\n',
        "not toml\n",
        '[[plugin]]\nname = "broken"\n',
        '[[plugin]]\nname = "unfinished"\n',
        '[[plugin]]\nname = "aliases"\nfile = "no_such_file"\n',
        '[[plugin]]\nname = "raises"\n',
        None,
    ],
    ids=["option", "plugin", "syntax", "python", "annotation", "file", "init", "gone"],
)
def test_a_broken_configuration_leaves_the_old_one_in_force_until_it_is_mended(gate: Gate, broken: str | None) -> None:
    gate.use(hooks={"marks": marks("one")})
    (gate.daemon.hooks_dir / "broken.py").write_text("this is no python\n")
    unfinished = (
        "class Options(PluginOptions):\n    limit: Missing = 1\n\nclass Unfinished(Plugin[Options]):\n    pass\n"
    )
    (gate.daemon.hooks_dir / "unfinished.py").write_text(PREAMBLE + unfinished)
    raises = "class Raises(Plugin):\n    def init(self):\n        raise OSError('no scanner')\n"
    (gate.daemon.hooks_dir / "raises.py").write_text(PREAMBLE + raises)
    if broken is None:
        gate.daemon.config_file.unlink()
    else:
        gate.daemon.configure(broken, {"proxy": {"front_timeout": "20s"}})
    seen = gate.daemon.log_size()
    with pytest.raises(ConfigError, match="old configuration stays in force"):
        gate.daemon.reload()
    assert len(gate.daemon.log(seen).splitlines()) == 1
    assert marked(gate, queue_id(gate.send())) == ["one"]
    gate.use(hooks={"marks": marks("two")})
    assert marked(gate, queue_id(gate.send())) == ["two"]


def test_what_a_reload_cannot_change_is_said(gate: Gate) -> None:
    seen = gate.daemon.log_size()
    gate.use(proxy={"inner": "127.0.0.1:9"})
    assert re.search("needs a restart.*key=proxy.inner", gate.daemon.log(seen))
    queue_id(gate.send())


# Under load

GENERATION = """
class Generation(Plugin):
    def mail(self, transaction, sender, parameters):
        self.notes(transaction)["seen"] = ["{name}"]

    def rcpt(self, transaction, recipient):
        self.notes(transaction)["seen"].append("{name}")
        if recipient.address.local == "refused":
            return {verdict}("by {name}")

    async def data(self, transaction):
        self.notes(transaction)["seen"].append("{name}")
        await asyncio.sleep(0.01)

    async def data_post(self, transaction, message):
        await asyncio.sleep(0.01)
        message.add_header("X-Seen", " ".join([*self.notes(transaction)["seen"], "{name}"]))
"""

RELOADS = 20
CLIENTS = 6


class Load(threading.Thread):
    """Sends one message after the other until told to stop; `sent` has what the client heard of each, by subject."""

    def __init__(self, gate: Gate, number: int, stop: threading.Event) -> None:
        super().__init__()
        self._gate = gate
        self._number = number
        self._stop_sending = stop
        self.sent: dict[str, tuple[bytes, bytes, bytes]] = {}

    def run(self) -> None:
        while not self._stop_sending.is_set():
            with self._gate.client() as client:
                # The front hangs up after twenty refusals in one session.
                for _ in range(5):
                    subject = f"{self._number}-{len(self.sent)}"
                    refusal, accepted = client.transaction(b"refused@example.org", b"taken@example.org")
                    end = client.content(f"Subject: {subject}\r\n\r\nload\r\n.\r\n".encode())
                    self.sent[subject] = (refusal, accepted, end)


def test_twenty_reloads_under_load_and_every_transaction_is_wholly_old_or_wholly_new(gate: Gate) -> None:
    even = {"generation": GENERATION.format(name="even", verdict="Deny")}
    odd = {"generation": GENERATION.format(name="odd", verdict="DenySoft")}
    gate.use(hooks=even)
    seen = gate.daemon.log_size()
    enough = threading.Event()
    load = [Load(gate, number, enough) for number in range(CLIENTS)]
    try:
        for client in load:
            client.start()
        for n in range(1, RELOADS + 1):
            enough_sent = messages(load) + CLIENTS
            gate.use(hooks=odd if n % 2 else even)
            wait_until(partial(at_least, enough_sent, load), 60)
    finally:
        enough.set()
        for client in load:
            client.join()

    assert gate.daemon.log(seen).count("event=reloaded") == RELOADS
    sent = {subject: replies for client in load for subject, replies in client.sent.items()}
    headers = headers_of_queue(gate)
    # None lost, none twice, none deferred.
    assert sorted(subject for subject, _ in headers) == sorted(sent)
    assert {end[:4] for _, _, end in sent.values()} == {b"250 "}
    assert {accepted[:4] for _, accepted, _ in sent.values()} == {b"250 "}
    wholly = {"even even even even even": b"550 5.7.1 by even\r\n", "odd odd odd odd odd": b"450 4.7.1 by odd\r\n"}
    wrong = [(subject, seen, sent[subject]) for subject, seen in headers if wholly.get(seen) != sent[subject][0]]
    assert wrong == []
    assert {seen for _, seen in headers} == set(wholly)


def messages(load: list[Load]) -> int:
    return sum(len(client.sent) for client in load)


def at_least(count: int, load: list[Load]) -> bool:
    return messages(load) >= count


def headers_of_queue(gate: Gate) -> list[tuple[str, str]]:
    """Return Subject and X-Seen of every message in the queue."""
    text = b"".join(gate.postfix.message(entry.queue_id) for entry in gate.queue()).decode()
    subjects, seen = (re.findall(rf"^{name}: (.*)$", text, re.MULTILINE) for name in ("Subject", "X-Seen"))
    return list(zip(subjects, seen, strict=True))


# The end

SLOW_END = """
from pathlib import Path

class Slow(Plugin):
    async def data_post(self, transaction, message):
        self.log.info("data_post begins")
        while not Path("RELEASE").exists():
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.2)
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
def test_sigterm_lets_a_message_under_way_finish(gate: Gate, release: Path, stage: str) -> None:
    gate.use(hooks={"slow": SLOW_END.replace("RELEASE", str(release))}, restart=True)
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
        release.touch()
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


def test_the_ports_and_the_socket_can_be_taken_again_at_once(gate: Gate) -> None:
    for _ in range(2):
        gate.use(restart=True)
        queue_id(gate.send())


def test_plugins_from_before_a_reload_are_told_even_if_the_daemon_ends_first(gate: Gate) -> None:
    source = """
    class Told(Plugin):
        blocking = True

        def rcpt(self, transaction, recipient):
            pass

        def reload(self):
            self.log.info("told reload")

        def shutdown(self):
            self.log.info("told shutdown")
    """
    gate.use(hooks={"told": source}, restart=True)
    seen = gate.daemon.log_size()
    with gate.client() as client:
        client.transaction(b"a@example.org")
        gate.use(hooks={"told": source})
        gate.daemon.signal(signal.SIGTERM)
        gate.daemon.wait_for_log("event=stopping", since=seen)
        queue_id(client.content(MESSAGE))
    assert gate.daemon.wait() == 0
    log = gate.daemon.log(seen)
    assert log.index("told reload") < log.index("told shutdown")
    # Its threads are gone with it.
    assert "left behind" not in log


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
