"""An inner smtpd that is gone, full, slow or odd: the client gets a 4xx of ours in time, and the next mail passes."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.gate import MESSAGE
from tests.e2e.postfix_rig import NextHop, Script, SmtpClient, queue_id, wait_until

from gatepost.ops.private_daemon import PrivateDaemon
from gatepost.ops.private_postfix import free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.gate import Gate

OURS = b"451 4.3.0 temporary failure, please try again later\r\n"


@pytest.fixture
def scripted(gate: Gate) -> Iterator[NextHop]:
    """A scripted server in the place of the inner smtpd."""
    port = free_loopback_port()
    with NextHop(port) as hop:
        gate.use(restart=True, proxy={"inner": f"127.0.0.1:{port}"})
        yield hop
    gate.use(restart=True)


def test_nothing_listens(gate: Gate) -> None:
    gate.use(restart=True, proxy={"inner": f"127.0.0.1:{free_loopback_port()}"})
    with gate.client() as client:
        assert client.transaction(b"a@example.org", b"b@example.org") == [OURS, OURS]
    gate.use(restart=True)
    queue_id(gate.send())


@pytest.mark.parametrize(
    "script",
    [
        Script(banner=b"554 no\r\n"),
        Script(banner=b"421 busy\r\n", hang_up="banner"),
        Script(banner=b"", hang_up="banner"),
        Script(ehlo=b"", hang_up="ehlo"),
        Script(mail=b"", hang_up="mail"),
        Script(rcpt=b"", hang_up="rcpt"),
        Script(data=b"", hang_up="data"),
        Script(data=b"250 what\r\n"),
        Script(dot=b"", hang_up="dot"),
        Script(dot=b"354 more\r\n"),
        Script(dot=b"nonsense\r\n"),
        Script(content=b"421 closing\r\n"),
        Script(content=b"250 too early\r\n"),
    ],
    ids=str,
)
def test_whatever_the_inner_smtpd_does_wrong_is_a_451_of_ours(gate: Gate, scripted: NextHop, script: Script) -> None:
    scripted.script = script
    with gate.client() as client:
        (reply,) = client.transaction(b"a@example.org")
        if reply.startswith(b"250"):
            reply = client.command(b"DATA")
        if reply.startswith(b"354"):
            client.send(b"Subject: long\r\n\r\n" + b"text\r\n" * 30_000)
            if script.content is not None:
                scripted.conversations()  # said and closed: with the dot under way it would be the answer to that
            reply = client.command(b".")
        assert reply == OURS
        scripted.script = Script()
        client.command(b"RSET")
        assert client.message() == scripted.script.dot


@pytest.mark.parametrize(
    ("script", "reply"),
    [
        (Script(mail=b"452 4.3.1 Insufficient system storage\r\n"), b"452 4.3.1 Insufficient system storage\r\n"),
        (Script(rcpt=b"451-4.3.0 two\r\n451 4.3.0 lines\r\n"), b"451-4.3.0 two\r\n451 4.3.0 lines\r\n"),
        (Script(data=b"454 4.7.0 no data\r\n"), b"454 4.7.0 no data\r\n"),
        (Script(dot=b"552 5.3.4 too big\r\n"), b"552 5.3.4 too big\r\n"),
    ],
    ids=["mail", "rcpt", "data", "dot"],
)
def test_a_refusal_of_the_inner_smtpd_is_passed_on_as_it_is(
    gate: Gate, scripted: NextHop, script: Script, reply: bytes
) -> None:
    scripted.script = script
    with gate.client() as client:
        (said,) = client.transaction(b"a@example.org")
        assert (client.content(MESSAGE) if said.startswith(b"250") else said) == reply


def test_an_inner_that_answers_otherwise_when_the_envelope_is_sent_again_breaks_the_transaction(
    gate: Gate, scripted: NextHop
) -> None:
    """A recipient that was told 250 must not be lost: all of it is tried again."""
    aliases = "first@example.org: first@example.org\nteam@example.org: x@example.net, gone@example.net\n"
    gate.use(
        '[[plugin]]\nname = "aliases"\nfile = "aliases"\n',
        files={"aliases": aliases},
        proxy={"inner": f"127.0.0.1:{scripted.port}"},
    )
    scripted.script = Script(by_recipient={b"gone": b"550 5.1.1 gone\r\n"})
    with gate.client() as client:
        assert client.transaction(b"first@example.org")[0].startswith(b"250")
        scripted.second_time[b"first"] = b"450 4.2.0 not again\r\n"
        assert client.command(b"RCPT TO:<team@example.org>") == OURS
        assert client.command(b"RCPT TO:<first@example.org>") == OURS
        assert client.command(b"DATA") == OURS
    assert scripted.conversations()[-1].verbs[-6:] == ["RCPT", "RCPT", "RSET", "XFORWARD", "MAIL", "RCPT"]


class BlackHole:
    """An inner smtpd that falls silent where the sender's local part says: mail, data, dot; `content` reads no more."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            connection.close()

    def _accept(self) -> None:
        try:
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        except OSError:
            return

    @staticmethod
    def _serve(connection: socket.socket) -> None:
        stop = b""
        # Whoever gives up waiting may leave with a reset.
        with contextlib.suppress(OSError), connection.makefile("rb") as lines:
            connection.sendall(b"220 hole ESMTP\r\n")
            while line := lines.readline():
                verb = line.split()[0].upper() if line.split() else b""
                if verb == b"MAIL":
                    stop = line.partition(b"<")[2].partition(b"@")[0]
                if stop.upper() == verb:
                    continue
                if verb == b"DATA":
                    connection.sendall(b"354 go\r\n")
                    if stop == b"content":
                        return
                    while line.rstrip() != b".":
                        line = lines.readline()
                    if stop != b"dot":
                        connection.sendall(b"250 ok\r\n")
                else:
                    connection.sendall(b"250 ok\r\n")


def test_a_silent_inner_smtpd_costs_the_client_no_more_than_the_budget(gate: Gate) -> None:
    """Every stage at once, because each takes the whole budget of 10 s; Postfix's own limit is 100 s."""
    hole = BlackHole()
    # The kernel accepts, nobody greets: as an smtpd whose process limit is reached.
    full = socket.create_server(("127.0.0.1", 0), backlog=8)
    gate.use(restart=True, proxy={"inner": f"127.0.0.1:{hole.port}"})
    other = PrivateDaemon(Path(tempfile.mkdtemp(dir=gate.daemon.directory)))
    other.configure(
        more={"proxy": {"inner": f"127.0.0.1:{full.getsockname()[1]}", "front_timeout": "20s"}},
    )

    def attempt(stage: str) -> bytes:
        if stage == "banner":
            with SmtpClient(other.proxy_port, timeout_s=40) as front:
                return front.transaction(b"a@example.org")[0]
        with gate.client(timeout_s=40) as client:
            (reply,) = client.transaction(b"a@example.org", sender=stage.encode() + b"@example.com")
            if reply.startswith(b"250"):
                reply = client.command(b"DATA")
            if reply.startswith(b"354"):
                client.send(b"Subject: long\r\n\r\n" + b"0123456789abcdef\r\n" * 500_000 + b".\r\n")
                reply = client.reply()
            return reply

    stages = ("banner", "mail", "rcpt", "data", "content", "dot")
    try:
        with other, ThreadPoolExecutor(len(stages)) as pool:
            replies = dict(zip(stages, pool.map(attempt, stages), strict=True))
        assert replies == dict.fromkeys(stages, OURS)
        assert "is its process limit in master.cf reached?" in other.log()
    finally:
        hole.close()
        full.close()
        gate.use(restart=True)


@contextlib.contextmanager
def impatience(gate: Gate) -> Iterator[None]:
    """An smtpd that is started meanwhile as the inner one closes its connection after an idle second."""
    gate.postfix.postconf_service(gate.inner_service, {"smtpd_timeout": "1s"})
    gate.postfix.reload()
    try:
        yield
    finally:
        gate.postfix.postconf_service(gate.inner_service, {"smtpd_timeout": "3600s"})
        gate.postfix.reload()


def test_a_pooled_connection_that_was_closed_for_idleness_is_not_used(gate: Gate) -> None:
    gate.daemon.reload()
    with impatience(gate):
        seen = len(gate.postfix.log())
        # On a busy machine that second may be over in the middle of a message: such a message does not count.
        wait_until(lambda: gate.send().startswith(b"250 2.0.0 Ok: queued as "))
    # Said by the inner smtpd alone, of a connection that was kept after its message.
    wait_until(lambda: "timeout after END-OF-MESSAGE from " in gate.postfix.log()[seen:])
    gate.wait_until_pool_is_empty()
    queue_id(gate.send())


def test_postfix_may_restart_in_between(gate: Gate) -> None:
    gate.use(hooks={"adds": "class Adds(Plugin):\n    def data_post(self, transaction, message):\n        pass\n"})
    queue_id(gate.send())
    gate.postfix.stop()
    gate.postfix.start()
    queue_id(gate.send())


def test_connections_to_the_inner_smtpd_are_kept(gate: Gate) -> None:
    gate.daemon.reload()
    gate.wait_until_pool_is_empty()
    with gate.client() as client:
        used = []
        for _ in range(3):
            queue_id(client.message())
            gate.wait_until_idle()
            used.append(gate.peers(gate.daemon.inner_port))
    assert len(used[0]) == 1
    assert used == [used[0]] * 3


def test_a_refused_message_costs_its_connection(gate: Gate) -> None:
    """An error of a milter is sticky for its SMTP session."""
    source = """
    class Refuses(Plugin):
        def data_post(self, transaction, message):
            if transaction.sender.local == "no":
                return Deny("no")
    """
    gate.use(hooks={"refuses": source})
    with gate.client() as client:
        assert client.message(sender=b"no@example.com").startswith(b"554 5.7.1 no")
        # Kept, it would be there for MAX_AGE_S, a minute.
        gate.wait_until_pool_is_empty()
        queue_id(client.message())
