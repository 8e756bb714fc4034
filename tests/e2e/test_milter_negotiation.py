"""What the milter asks of an smtpd, by what is loaded and by the edge: callbacks and macros that somebody needs."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

import milter
import pytest

if TYPE_CHECKING:
    from tests.e2e.gate import Gate

ACTIONS = 0x1FF
"""All that a milter may do, SMFIF_SETSYMLIST among it (libmilter/mfdef.h)."""

OFFERED = 0x1FFFFF
"""Every SMFIP_ flag of milter protocol 6, as Postfix 3.7 offers them."""

EDITS = 0x7F
"""All of them that change the message: without SMFIF_ADDRCPT_PAR and SMFIF_SETSYMLIST."""

CONTENT = """
class Reads(Plugin):
    def data_post(self, transaction, message):
        pass
"""

HEADERS = """
class Reads(Plugin):
    def header(self, transaction, name, value):
        pass
"""

COMMANDS = """
class Reads(Plugin):
    def rcpt(self, transaction, recipient):
        pass
"""

NEVER = {"P_NODATA", "P_NOEOH"}
NO_CONTENT = {"P_NOHDRS", "P_NOBODY"}
NO_EDGE = {"P_NOHELO", "P_NORCPT", "P_NOUNKNOWN"}
NO_REPLIES = {"P_NR_HDR", "P_NR_BODY"}
ASKS = {"P_RCPT_REJ", "P_HDR_LEADSPC"}
FLAGS = NEVER | NO_CONTENT | NO_EDGE | NO_REPLIES | ASKS | {"P_NOCONNECT", "P_NOMAIL", "P_NR_CONN", "P_NR_HELO"}
FLAGS |= {"P_NR_MAIL", "P_NR_RCPT", "P_NR_UNKN"}


def negotiated(gate: Gate) -> tuple[int, set[str], list[tuple[int, str]]]:
    """Open a milter session as smtpd does; return the actions, the protocol flags and the macros that are asked for."""
    with socket.socket(socket.AF_UNIX) as smtpd:
        smtpd.settimeout(30)
        smtpd.connect(f"{gate.daemon.directory}/run/milter.sock")
        smtpd.sendall(struct.pack(">IcIII", 13, b"O", 6, ACTIONS, OFFERED))
        with smtpd.makefile("rb") as stream:
            (length,) = struct.unpack(">I", stream.read(4))
            answer = stream.read(length)
        smtpd.sendall(struct.pack(">Ic", 1, b"Q"))
    command, _, actions, protocol = struct.unpack(">cIII", answer[:13])
    assert command == b"O"
    macros, rest = [], answer[13:]
    while rest:
        (stage,), (names, _, rest) = struct.unpack(">I", rest[:4]), rest[4:].partition(b"\0")
        macros.append((stage, names.decode()))
    return actions, {name for name in FLAGS if protocol & getattr(milter, name)}, macros


@pytest.mark.parametrize(
    ("edge", "plugin", "flags", "actions"),
    [
        (False, None, NEVER | NO_CONTENT | NO_EDGE | {"P_HDR_LEADSPC"}, 0),
        (False, COMMANDS, NEVER | NO_CONTENT | NO_EDGE | {"P_HDR_LEADSPC"}, 0),
        (False, HEADERS, NEVER | {"P_NOBODY"} | NO_EDGE | NO_REPLIES | {"P_NR_CONN", "P_HDR_LEADSPC"}, 0),
        (False, CONTENT, NEVER | NO_EDGE | NO_REPLIES | {"P_NR_CONN", "P_HDR_LEADSPC"}, EDITS),
        (True, None, NEVER | NO_CONTENT | ASKS, 0),
        (True, COMMANDS, NEVER | NO_CONTENT | ASKS, 0),
        (True, CONTENT, NEVER | NO_REPLIES | ASKS, EDITS),
    ],
    ids=["empty", "commands", "header", "content", "edge", "edge commands", "edge content"],
)
def test_only_what_is_needed_is_negotiated(
    gate: Gate, edge: bool, plugin: str | None, flags: set[str], actions: int
) -> None:
    gate.use(hooks={"reads": plugin} if plugin else {}, milter={"edge": edge})
    asked, negotiated_flags, _ = negotiated(gate)
    assert negotiated_flags == flags
    assert asked & ~milter.SETSYMLIST == actions


@pytest.mark.parametrize("edge", [True, False])
def test_only_macros_that_are_read_are_sent(gate: Gate, edge: bool) -> None:
    gate.use(milter={"edge": edge})
    _, _, macros = negotiated(gate)
    names = {name for _, text in macros for name in text.split()}
    assert {"{tls_version}", "{cert_issuer}", "{auth_author}", "{rcpt_addr}"} & names == (
        {"{tls_version}", "{cert_issuer}", "{auth_author}", "{rcpt_addr}"} if edge else set()
    )
    assert "{daemon_name}" in names
    assert "i" not in names
