"""One SMTP session with the private Postfix, in the name of any client (XCLIENT), line by line as it is spoken.

A plain blocking client: it says one thing at a time and takes what the server does as it is. A server that hangs up
or stalls is a `Reply` like any other, because that is what some scenes are about.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, Self

from gatepost.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Past what gatepost and Postfix allow themselves for one command on a slow machine; never waited for when all is well.
_TIMEOUT_S: Final = 30.0

Side = Literal["C", "S"]


@dataclass(frozen=True, slots=True)
class Client:
    """Who the session says it is: an address, and the name that Postfix would have found for it in the DNS."""

    name: str
    ip: str

    def __str__(self) -> str:
        """Return it as Postfix's log has it."""
        return f"{self.name}[{self.ip}]"


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply, its lines joined; `code` is 0 when none came, and `text` says why."""

    code: int
    text: str
    closed: bool = False
    """True when the server has hung up, after this reply or in place of it."""

    def __str__(self) -> str:
        """Return it on one line."""
        return f"{self.code} {self.text}" if self.code else self.text

    @property
    def queue_id(self) -> str | None:
        """The queue id in Postfix's reply to the dot, None in any other."""
        found = re.search(r"queued as (\w+)", self.text)
        return found[1] if found and self.code == 250 else None


@dataclass(frozen=True, slots=True)
class Letter:
    """A message: envelope sender, recipients, and the lines of its header and body."""

    sender: str
    recipients: tuple[str, ...]
    lines: tuple[str, ...]


class Dialogue:
    """A session from the greeting on; `listen` gets each line of the client ("C") and the server ("S") as it passes.

    The XCLIENT that sets the scene is not told. As a context manager, it says QUIT in the end if it still can.
    """

    def __init__(self, port: int, client: Client, listen: Callable[[Side, str], None]) -> None:
        self._listen = listen
        self._closed = False
        try:
            self._socket = socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_S)
        except OSError as error:
            raise ConfigError(f"the private Postfix on port {port} is gone: {error.strerror}") from error
        self._file = self._socket.makefile("rb")
        self._read()
        self._send(f"XCLIENT NAME={client.name} ADDR={client.ip}")
        # Postfix answers XCLIENT with a greeting: the session begins anew.
        self._show(self._read())
        self.command(f"HELO {client.name}")

    def __enter__(self) -> Self:
        """Return the dialogue."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take leave and close."""
        if not self._closed:
            self.command("QUIT")
        self._file.close()
        self._socket.close()

    def command(self, line: str) -> Reply:
        """Say a line, with CRLF after it, and return the reply."""
        if not self._closed:
            self._listen("C", line)
            self._send(line)
        return self._show(self._read())

    def envelope(self, sender: str, recipients: Sequence[str]) -> list[Reply]:
        """Say MAIL and each RCPT; return the replies to these RCPTs, or the refusal of MAIL in their place.

        Stops early when the server has hung up.
        """
        reply = self.command(f"MAIL FROM:<{sender}>")
        if reply.code != 250:
            return [reply]
        replies = []
        for recipient in recipients:
            replies.append(self.command(f"RCPT TO:<{recipient}>"))
            if self._closed:
                break
        return replies

    def content(self, lines: Sequence[str]) -> Reply:
        """Say DATA, the lines and the dot; return the last reply, which is DATA's own if that was refused."""
        reply = self.command("DATA")
        if reply.code != 354:
            return reply
        for line in lines:
            self._listen("C", line)
            self._send("." + line if line.startswith(".") else line)
        return self.command(".")

    def deliver(self, letter: Letter) -> Reply:
        """Offer a message; return the reply that ended it: the first refusal, or the one to the dot."""
        for reply in self.envelope(letter.sender, letter.recipients):
            if reply.code != 250:
                return reply
        return self.content(letter.lines)

    def hung_up(self) -> bool:
        """Wait for the server to close; False if it says something more or stays."""
        if not self._closed:
            self._closed = self._read().closed
        return self._closed

    def _send(self, line: str) -> None:
        try:
            self._socket.sendall(line.encode() + b"\r\n")
        except OSError:
            self._closed = True

    def _read(self) -> Reply:
        lines: list[str] = []
        try:
            while not self._closed:
                line = self._file.readline().decode(errors="replace").rstrip("\r\n")
                if not line:
                    break
                lines.append(line)
                if line[3:4] != "-":
                    text = "\n".join(said[4:] for said in lines)
                    return Reply(int(line[:3]) if line[:3].isdecimal() else 0, text)
        except TimeoutError:
            return Reply(0, f"no reply within {_TIMEOUT_S:.0f} s")
        except OSError:
            pass
        self._closed = True
        return Reply(0, "the server has hung up", closed=True)

    def _show(self, reply: Reply) -> Reply:
        if not reply.code:
            self._listen("S", f"({reply.text})")
        else:
            *first, last = reply.text.split("\n")
            for text in first:
                self._listen("S", f"{reply.code}-{text}")
            self._listen("S", f"{reply.code} {last}")
        return reply
