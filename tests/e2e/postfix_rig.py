"""What the tests against a real Postfix drive it with: a client, a scripted next hop and a probe milter.

They record and answer as told and judge nothing. The client and the next hop speak bytes, so that a test can send what
no library would and see exactly what arrived; the next hop is a probe of Postfix, not a stand-in for our proxy.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

_TIMEOUT_S = 30.0
"""Past this a conversation hangs: long for a busy machine, never waited for when all is well."""

XFORWARD_ALL = b"NAME ADDR PORT HELO IDENT PROTO SOURCE"


class SmtpClient:
    """A client that sends what it is given; `greeting` is the banner, b"" if the server closed instead."""

    def __init__(self, port: int, *, helo: bytes | None = b"client.example.com", timeout_s: float = _TIMEOUT_S) -> None:
        self.socket: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self._file = self.socket.makefile("rb")
        try:
            self.greeting = self.reply()
        except BaseException:
            self.close()
            raise
        if helo is not None:
            self.command(b"EHLO " + helo)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> tuple[str, int]:
        """Our own end of the connection."""
        host, port = self.socket.getsockname()
        return host, port

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def secure(self, context: ssl.SSLContext, server: str) -> None:
        """Speak TLS from now on, with a server of that name."""
        self._file.close()
        self.socket = context.wrap_socket(self.socket, server_hostname=server)
        self._file = self.socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reply(self) -> bytes:
        """Return one reply with all its lines; what came of it if the server closes; TimeoutError if it stalls."""
        lines = []
        while line := self._file.readline():
            lines.append(line)
            if line[3:4] != b"-":
                break
        return b"".join(lines)

    def line(self) -> bytes:
        """Return the next line without its CRLF, b"" if the server closes; TimeoutError if it stalls."""
        return self._file.readline().rstrip(b"\r\n")

    def command(self, line: bytes) -> bytes:
        self.send(line + b"\r\n")
        return self.reply()

    def transaction(self, *recipients: bytes, sender: bytes = b"sender@example.com") -> list[bytes]:
        """Send MAIL and RCPTs; return the replies to the RCPTs."""
        self.command(b"MAIL FROM:<" + sender + b">")
        return [self.command(b"RCPT TO:<" + recipient + b">") for recipient in recipients]

    def content(self, content: bytes) -> bytes:
        """Send DATA, then the content as it stands, its end included; return the reply to it."""
        reply = self.command(b"DATA")
        return self.command(content.removesuffix(b"\r\n")) if reply.startswith(b"354") else reply

    def message(
        self,
        content: bytes = b"Subject: probe\r\n\r\nbody\r\n.\r\n",
        *recipients: bytes,
        sender: bytes = b"sender@example.com",
    ) -> bytes:
        """Send a whole transaction and return the reply to its end."""
        self.transaction(*(recipients or (b"rcpt@example.org",)), sender=sender)
        return self.content(content)

    def hung_up(self) -> bool:
        """Tell whether the server has nothing more to say and closes; waits for it."""
        with contextlib.suppress(ConnectionResetError):
            return self._file.readline() == b""
        return True


@dataclass(frozen=True, slots=True)
class Script:
    """How the next hop answers. b"" says nothing; `hang_up` names the step after whose reply it closes."""

    banner: bytes = b"220 probe.test ESMTP\r\n"
    ehlo: bytes = b"250-probe.test\r\n250 XFORWARD " + XFORWARD_ALL + b"\r\n"
    xforward: bytes = b"250 2.0.0 Ok\r\n"
    mail: bytes = b"250 2.1.0 Ok\r\n"
    rcpt: bytes = b"250 2.1.5 Ok\r\n"
    rset: bytes = b"250 2.0.0 Ok\r\n"
    data: bytes = b"354 Go\r\n"
    content: bytes | None = None
    """What to say as soon as the first content comes, before its end."""
    dot: bytes = b"250 2.0.0 Ok: queued as PROBE\r\n"
    quit: bytes = b"221 2.0.0 Bye\r\n"
    hang_up: str = ""
    by_recipient: Mapping[bytes, bytes] = field(default_factory=dict)
    """Replies to recipients that contain these bytes, in place of `rcpt`."""


@dataclass(slots=True)
class Conversation:
    """What one connection to the next hop brought."""

    lines: list[bytes] = field(default_factory=list)
    """Command lines as they came, without CRLF."""
    content: bytes = b""
    """What followed 354, up to and with CRLF.CRLF, or up to EOF."""
    pipelined: bool = False
    """Something came before the reply to what stood before it."""
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def verbs(self) -> list[str]:
        """The commands' names in order, repeated XFORWARDs as one."""
        verbs = [line.split(b" ")[0].decode().upper() for line in self.lines]
        return [verb for n, verb in enumerate(verbs) if verb != "XFORWARD" or verbs[n - 1] != verb]

    @property
    def xforward(self) -> dict[str, str]:
        """All XFORWARD attributes, as sent (xtext)."""
        words = [word for line in self.lines if line.startswith(b"XFORWARD ") for word in line.split(b" ")[1:]]
        return dict(word.decode().split("=", 1) for word in words)


class NextHop:
    """A scripted SMTP server on a given port; set `script` before the client speaks. Records every connection."""

    def __init__(self, port: int) -> None:
        self.script = Script()
        self.port = port
        self.second_time: dict[bytes, bytes] = {}
        """Replies to RCPT lines that contain these bytes, once such a line has been answered in the same connection."""
        self._conversations: list[Conversation] = []
        self._listener = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # shutdown() wakes the thread in accept(); close() alone would leave it holding the port.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def started(self) -> int:
        """Return how many connections there have been so far."""
        return len(self._conversations)

    def conversations(self) -> list[Conversation]:
        """Return all conversations, once they have ended."""
        for conversation in self._conversations:
            assert conversation.done.wait(_TIMEOUT_S), f"still open: {conversation}"
        return list(self._conversations)

    def conversation(self) -> Conversation:
        """Return the only conversation, once it has ended."""
        (only,) = self.conversations()
        return only

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(_TIMEOUT_S)
                conversation = Conversation()
                self._conversations.append(conversation)
                threading.Thread(target=self._serve, args=(connection, conversation), daemon=True).start()

    def _serve(self, connection: socket.socket, conversation: Conversation) -> None:
        with connection, contextlib.suppress(OSError):
            self._converse(connection, conversation, self.script)
        conversation.done.set()

    def _converse(self, connection: socket.socket, conversation: Conversation, script: Script) -> None:
        connection.sendall(script.banner)
        if script.hang_up == "banner":
            return
        waiting = b""
        while True:
            while b"\r\n" not in waiting:
                more = connection.recv(65536)
                if not more:
                    return
                waiting += more
            line, waiting = waiting.split(b"\r\n", 1)
            conversation.pipelined |= bool(waiting)
            conversation.lines.append(line)
            verb = line.split(b" ")[0].decode().lower()
            reply = getattr(script, verb)
            for part, special in script.by_recipient.items():
                if verb == "rcpt" and part in line:
                    reply = special
            for part, special in self.second_time.items():
                if verb == "rcpt" and sum(part in earlier for earlier in conversation.lines) > 1:
                    reply = special if part in line else reply
            connection.sendall(reply)
            if verb in {"quit", script.hang_up}:
                return
            if reply.startswith(b"354"):
                conversation.content = waiting
                if not self._take_content(connection, conversation, script):
                    return
                waiting = b""

    @staticmethod
    def _take_content(connection: socket.socket, conversation: Conversation, script: Script) -> bool:
        # Not one growing bytes, which is copied for every piece.
        content = bytearray(b"\r\n" + conversation.content)
        try:
            while not content.endswith(b"\r\n.\r\n"):
                more = connection.recv(65536)
                if not more:
                    return False
                content += more
                if script.content is not None:
                    connection.sendall(script.content)
                    return False
        finally:
            conversation.content = bytes(content[2:])
        connection.sendall(script.dot)
        return script.hang_up != "dot"


@dataclass(frozen=True, slots=True)
class MilterEvent:
    """One callback of the probe milter."""

    session: int
    """Counts the milter sessions, from 1."""
    name: str
    arguments: list[Any]
    macros: dict[str, str]
    """Those that Postfix sent of {i}, {daemon_*}, {rcpt_*}, {auth_*}, and of those about TLS."""


class ProbeMilter:
    """A real milter in a process of its own on a loopback port; `milter_probe.py` says what it does to a message."""

    def __init__(self, port: int, *, leading_space: bool = True) -> None:
        self.port = port
        self._events: list[MilterEvent] = []
        self._process = subprocess.Popen(
            [
                sys.executable,
                Path(__file__).with_name("milter_probe.py"),
                str(port),
                "lead" if leading_space else "strip",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        wait_until(self._listens)
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        self._reader.join(_TIMEOUT_S)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()

    def end(self) -> None:
        """Kill the milter; its sessions break off."""
        self._process.kill()
        self._process.wait()

    def events(self, port: int, until: str) -> list[MilterEvent]:
        """Return the events of the session whose client has that port, once it has seen an event named `until`."""
        found: list[MilterEvent] = []

        def seen() -> bool:
            sessions = {e.session for e in self._events if e.name == "connect" and e.arguments[1] == port}
            # Ports are used again: the newest session counts.
            found[:] = [event for event in self._events if sessions and event.session == max(sessions)]
            return any(event.name == until for event in found)

        wait_until(seen)
        return found

    def knows(self, port: int) -> bool:
        """Tell whether a client with that port has been seen; ask once its session has ended."""
        return any(event.name == "connect" and event.arguments[1] == port for event in self._events)

    def _listens(self) -> bool:
        assert self._process.poll() is None, "the probe milter has ended"
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._events.append(MilterEvent(**json.loads(line)))


def wait_until(condition: Callable[[], bool], timeout_s: float = _TIMEOUT_S) -> None:
    """Poll until the condition holds; AssertionError past the limit."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the awaited event has not come"
        time.sleep(0.01)


def queue_id(reply: bytes) -> str:
    """Return the queue id in Postfix's reply to the dot."""
    found = re.fullmatch(rb"250 2\.0\.0 Ok: queued as (\w+)\r\n", reply)
    assert found, reply
    return found[1].decode()
