"""One edited field, whichever it is, in the oddest messages: nothing else differs in the queue.

The messages are those of test_mime_fidelity, each compared with what a Postfix without gatepost queues.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import pytest
from tests.e2e.postfix_rig import SmtpClient, queue_id
from tests.e2e.test_mime_fidelity import MESSAGES, POSTFIXS_OWN

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.gate import Gate

# The recipient says what is to be done to which field; the first is the public smtpd's Received.
PLUGIN: Final = """
class Edits(Plugin):
    def data_post(self, transaction, message):
        what, _, number = message.recipients[0].local.partition("-")
        fields = list(message.headers)
        if len(fields) < 2:
            return
        place = int(number) % (len(fields) - 1) + 1
        name = fields[place].name
        occurrence = sum(field.is_named(name) for field in fields[: place + 1])
        if what == "delete":
            message.delete_header(name, occurrence)
        elif what == "change":
            message.change_header(name, "changed", occurrence)
        else:
            message.insert_header(place, "X-Inserted", "inserted")
"""

FIELD: Final = re.compile(rb"[!-9;-~]+[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*")

NAMES: Final = [name for name, content in MESSAGES.items() if len(content) < 500_000]


def changed(field: bytes) -> list[bytes]:
    return [field.partition(b":")[0].rstrip() + b": changed\n"]


EDITS: Final[dict[str, Callable[[bytes], list[bytes]]]] = {
    "delete": lambda _: [],
    "change": changed,
    "insert": lambda field: [b"X-Inserted: inserted\n", field],
}


def queued(gate: Gate, recipient: bytes, *, plain: bool = False) -> list[bytes]:
    port, hops = (gate.plain_port, 1) if plain else (gate.postfix.front_port, 2)
    found = []
    with SmtpClient(port, timeout_s=60) as client:
        for name in NAMES:
            content = MESSAGES[name]
            lines = content if content.endswith(b"\r\n") or not content else content + b"\r\n"
            wire = re.sub(rb"(?m)^\.", b"..", lines) + b".\r\n"
            text = gate.postfix.message(queue_id(client.message(wire, recipient)))
            found.append(POSTFIXS_OWN.sub(b"", text, count=hops))
    return found


def edited(text: bytes, what: str, number: int) -> bytes:
    """Return what is to be in the queue."""
    fields = []
    place = 0
    while match := FIELD.match(text, place):
        fields.append(match[0])
        place = match.end()
    if fields:
        number %= len(fields)
        fields[number : number + 1] = EDITS[what](fields[number])
    return b"".join(fields) + text[place:]


@pytest.mark.parametrize("what", EDITS)
def test_an_edit_of_any_field_leaves_all_others_and_the_body(gate: Gate, what: str) -> None:
    gate.use(hooks={"edits": PLUGIN}, proxy={"front_timeout": "100s"})
    plain = queued(gate, b"plain-0@example.org", plain=True)
    for number in (0, 1, -1):
        ours = queued(gate, f"{what}-{number}@example.org".encode())
        expected = [edited(text, what, number) for text in plain]
        differ = [name for name, one, other in zip(NAMES, ours, expected, strict=True) if one != other]
        assert differ == [], (what, number)
