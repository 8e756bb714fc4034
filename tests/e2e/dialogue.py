"""Reads and runs the dialogue files of tests/dialogs: one rule each, on the real daemon behind a real Postfix.

A file begins with the rule in words. Then come sections, each under a line `=== NAME`:

    === gatepost.toml       `[[plugin]]` tables and more; without it each plugin of the file gets a table of its own
    === hooks/NAME.py       a plugin (`gate.PREAMBLE` stands before it)
    === ANYTHING            a file beside gatepost.toml
    === dialogue            what is said, in order; the last section

    client NAME[ADDRESS]    a new client; XCLIENT and EHLO are not shown
    C: LINE                 the client says it
    S: LINE                 the server's next line begins so; nothing else may stand between
    closed                  the server hangs up
    queued: A, B            a message for just these recipients is queued; at the end there is no other in the queue
    header: LINE            the message queued last has this header line
    no header: NAME         it has none of that name
    logged N: TEXT          the daemon's log has had TEXT so many times since the dialogue began
    log: REGEX              a line of the daemon's log matches
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.e2e.postfix_rig import SmtpClient, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.gate import Gate


@dataclass(frozen=True, slots=True)
class Dialogue:
    """One file."""

    rule: str
    toml: str
    hooks: dict[str, str]
    files: dict[str, str]
    steps: tuple[tuple[int, str], ...]
    """Each line with its number."""


def read(path: Path) -> Dialogue:
    """Read a file; ValueError when it has no dialogue."""
    sections: dict[str, list[tuple[int, str]]] = {"": []}
    section = sections[""]
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.startswith("=== "):
            section = sections[line.removeprefix("=== ").strip()] = []
        else:
            section.append((number, line))
    steps = tuple((number, line) for number, line in sections.pop("dialogue", []) if line.strip())
    if not steps:
        raise ValueError(f"{path}: no dialogue")
    texts = {name: "\n".join(line for _, line in lines) + "\n" for name, lines in sections.items()}
    rule = texts.pop("").strip()
    toml = texts.pop("gatepost.toml", "")
    hooks = {name[6:-3]: texts.pop(name) for name in tuple(texts) if re.fullmatch(r"hooks/\w+\.py", name)}
    return Dialogue(rule, toml, hooks, texts, steps)


class Performance:
    """One run of a dialogue."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._client: SmtpClient | None = None
        self._log_start = gate.daemon.log_size()
        self._claimed: set[str] = set()
        self._latest = ""
        self._handlers = {
            "client": self._new_client,
            "C": self._say,
            "S": self._hear,
            "closed": self._closed,
            "queued": self._queued,
            "header": self._header,
            "no header": self._no_header,
            "logged": self._logged,
            "log": self._log,
        }

    def run(self, dialogue: Dialogue) -> None:
        """Say and hear every line; AssertionError with the line's number for the first that is not as written."""
        try:
            for number, line in dialogue.steps:
                match = re.fullmatch(r"(client|closed|logged|C|S|queued|header|no header|log)\b:? ?(.*)", line)
                assert match, f"line {number}: {line!r} means nothing"
                try:
                    self._handlers[match[1]](match[2])
                except (AssertionError, TimeoutError) as error:
                    raise AssertionError(f"line {number}: {line}\n{error}") from error
            self._leave()
            left = [entry for entry in self._gate.queue() if entry.queue_id not in self._claimed]
            assert not left, f"in the queue beside what is expected: {left}"
        finally:
            self._leave()

    def _leave(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _new_client(self, who: str) -> None:
        match = re.fullmatch(r"(\S+)\[(\S+)\]", who)
        assert match, "write: client NAME[ADDRESS]"
        address = f"IPV6:{match[2]}" if ":" in match[2] else match[2]
        self._leave()
        self._client = client = SmtpClient(self._gate.postfix.front_port)
        assert client.command(f"XCLIENT NAME={match[1]} ADDR={address}".encode()).startswith(b"220")
        assert client.command(b"EHLO " + match[1].encode()).startswith(b"250")

    @property
    def client(self) -> SmtpClient:
        assert self._client is not None, "begin with: client NAME[ADDRESS]"
        return self._client

    def _say(self, text: str) -> None:
        self.client.send(text.encode() + b"\r\n")

    def _hear(self, expected: str) -> None:
        heard = self.client.line().decode()
        assert heard.startswith(expected), f"heard: {heard!r}"

    def _closed(self, _: str) -> None:
        assert self.client.hung_up(), "the server has something more to say"

    def _queued(self, recipients: str) -> None:
        expected = sorted(recipient.strip() for recipient in recipients.split(","))

        def found() -> bool:
            for entry in self._gate.postfix.queue():
                if entry.queue_id not in self._claimed and sorted(entry.recipients) == expected:
                    self._latest = entry.queue_id
                    self._claimed.add(entry.queue_id)
                    return True
            return False

        assert found(), f"the queue has {self._gate.postfix.queue()}"

    def _header_lines(self) -> list[str]:
        header = self._gate.postfix.message(self._latest).partition(b"\n\n")[0]
        return header.decode().split("\n")

    def _header(self, line: str) -> None:
        assert line in self._header_lines(), self._header_lines()

    def _no_header(self, name: str) -> None:
        assert not [line for line in self._header_lines() if line.lower().startswith(f"{name.lower()}:")]

    def _logged(self, expected: str) -> None:
        count, _, text = expected.partition(": ")
        try:
            wait_until(lambda: self._gate.daemon.log(self._log_start).count(text) >= int(count))
        finally:
            log = self._gate.daemon.log(self._log_start)
            assert log.count(text) == int(count), log

    def _log(self, pattern: str) -> None:
        self._gate.daemon.wait_for_log(pattern, since=self._log_start)
