"""A milter that reports every callback on stdout, one JSON object a line, and does what the sender's local part says.

Run as `milter_probe.py PORT lead|strip`: `lead` negotiates SMFIP_HDR_LEADSPC. A process of its own, because
libmilter can be run only once in a process. It ends when its standard input does.

Senders with a meaning, at the end of the message: `percent@` and `lines@` are refused with a `%` and with two lines,
`nobody@` loses all its recipients, `subject@` gets another Subject. At RCPT: `discard@` is discarded.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
from typing import Any

import Milter  # type: ignore[import-untyped]

_MACROS = (
    "i",
    "{daemon_name}",
    "{daemon_addr}",
    "{rcpt_mailer}",
    "{rcpt_host}",
    "{rcpt_addr}",
    "{auth_type}",
    "{auth_authen}",
    "{auth_author}",
    "{tls_version}",
    "{cipher}",
    "{cert_subject}",
    "{cert_issuer}",
)
_numbers = itertools.count(1)


class Probe(Milter.Base):  # type: ignore[misc]  # pymilter has no types
    """One SMTP session."""

    def __init__(self) -> None:
        self.number = next(_numbers)
        self.sender = ""
        self.recipients: list[str] = []

    def tell(self, name: str, *arguments: Any) -> int:
        macros = {macro: value for macro in _MACROS if (value := self.getsymval(macro)) is not None}
        event = {"session": self.number, "name": name, "arguments": arguments, "macros": macros}
        os.write(1, json.dumps(event).encode() + b"\n")  # one write: sessions run in threads
        return int(Milter.CONTINUE)

    def connect(self, hostname: str, family: int, hostaddr: Any) -> int:
        return self.tell("connect", hostaddr[0], hostaddr[1], hostname)

    def hello(self, hostname: str) -> int:
        return self.tell("helo", hostname)

    def unknown(self, command: str) -> int:
        return self.tell("unknown", command)

    def envfrom(self, sender: str, *parameters: str) -> int:
        self.sender, self.recipients = sender.strip("<>").split("@")[0], []
        return self.tell("mail", sender, *parameters)

    def envrcpt(self, recipient: str, *parameters: str) -> int:
        self.recipients.append(recipient)
        self.tell("rcpt", recipient, *parameters)
        return int(Milter.DISCARD if self.sender == "discard" else Milter.CONTINUE)

    def data(self) -> int:
        return self.tell("data")

    def header(self, name: str, value: str) -> int:
        return self.tell("header", name, value)

    def eoh(self) -> int:
        return self.tell("eoh")

    def body(self, chunk: bytes) -> int:
        return self.tell("body", chunk.decode("latin-1"))

    def eom(self) -> int:
        self.tell("eom")
        match self.sender:
            case "percent":
                self.setreply("550", "5.7.1", "100%% sure")
                return int(Milter.REJECT)
            case "lines":
                self.setreply("550", "5.7.1", "first line", "second line")
                return int(Milter.REJECT)
            case "nobody":
                for recipient in self.recipients:
                    self.delrcpt(recipient)
            case "subject":
                self.chgheader("Subject", 1, " changed")
        return int(Milter.CONTINUE)

    def abort(self) -> int:
        return self.tell("abort")

    def close(self) -> int:
        return self.tell("close")


def _end_with_standard_input() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    """Serve until standard input ends."""
    port, spaces = sys.argv[1:]
    wanted = Milter.P_RCPT_REJ | (Milter.P_HDR_LEADSPC if spaces == "lead" else 0)
    Milter.factory = Milter.enable_protocols(Probe, wanted)
    Milter.set_flags(Milter.CHGHDRS | Milter.DELRCPT)
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    Milter.runmilter("probe", f"inet:{port}@127.0.0.1", 300)


if __name__ == "__main__":
    main()
