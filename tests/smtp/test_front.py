"""The front machine: which commands come out, in which order, whatever the pieces they came in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.smtp.command import LINE_LIMIT_BYTES
from gatepost.smtp.front import (
    Aborted,
    CommandReceived,
    ContentChunk,
    ContentEnd,
    FrontEvent,
    FrontMachine,
    LocalError,
    RemoteError,
    State,
    ehlo_reply,
)

if TYPE_CHECKING:
    from gatepost.smtp.content import BareNewline

GOOD = {b"DATA": 354, b"QUIT": 221}


class Door:
    """Answers every event of a machine with success, except the verbs in `refused`, and writes down what it saw."""

    def __init__(self, refused: dict[bytes, int] | None = None, bare_newline: BareNewline = "reject") -> None:
        self.machine = FrontMachine(bare_newline)
        self.refused = refused or {}
        self.seen: list[str] = []
        self.content = b""

    def receive(self, data: bytes) -> None:
        self.machine.receive(data)
        self.run()

    def receive_eof(self) -> None:
        self.machine.receive_eof()
        self.run()

    def run(self) -> None:
        while (event := self.machine.next_event()) is not None:
            self.handle(event)

    def handle(self, event: FrontEvent) -> None:
        match event:
            case CommandReceived(verb=verb, argument=argument):
                code = self.refused.get(verb, GOOD.get(verb, 250))
                self.seen.append(f"{verb.decode()} {argument.decode()}".strip() + f" {code}")
                self.machine.answered(code)
            case ContentChunk(data=data):
                self.content += data
            case ContentEnd(size=size, stray=stray):
                code = self.refused.get(b".", 250)
                self.seen.append(f". {size} {stray} {code}")
                self.machine.answered(code)
            case Aborted(state=state):
                self.seen.append(f"aborted in {state.value}")
            case RemoteError(reply=reply):
                self.seen.append(f"! {reply.code} {reply.enhanced}")


FRONT_SESSION = (
    b"EHLO mx.example.org\r\n"
    b"XFORWARD NAME=a.example ADDR=192.0.2.1 PORT=1025\r\n"
    b"XFORWARD HELO=a PROTO=ESMTP SOURCE=REMOTE\r\n"
    b"mail from:<s@a.example>  SIZE=10\r\n"
    b"RCPT TO:<r@b.example>\r\n"
    b"DATA\r\n"
    b"Subject: x\r\n\r\n..y\r\n.\r\n"
    b"QUIT\r\n"
)
FRONT_EVENTS = [
    "EHLO mx.example.org 250",
    "XFORWARD NAME=a.example ADDR=192.0.2.1 PORT=1025 250",
    "XFORWARD HELO=a PROTO=ESMTP SOURCE=REMOTE 250",
    "MAIL from:<s@a.example>  SIZE=10 250",
    "RCPT TO:<r@b.example> 250",
    "DATA 354",
    ". 19 None 250",
    "QUIT 221",
]


def test_every_split_of_a_session_makes_the_same_events() -> None:
    for at in range(len(FRONT_SESSION) + 1):
        door = Door()
        door.receive(FRONT_SESSION[:at])
        door.receive(FRONT_SESSION[at:])
        assert (door.seen, door.content) == (FRONT_EVENTS, b"Subject: x\r\n\r\n..y\r\n")
        assert (door.machine.state, door.machine.buffered) == (State.CLOSED, 0)
    door = Door()
    for byte in FRONT_SESSION:
        door.receive(bytes([byte]))
    assert (door.seen, door.content) == (FRONT_EVENTS, b"Subject: x\r\n\r\n..y\r\n")


DIALOGUES: list[tuple[str, dict[bytes, int], bytes, list[str]]] = [
    ("mail before ehlo", {}, b"MAIL FROM:<>\r\n", ["! 503 5.5.1"]),
    ("rcpt before mail", {}, b"EHLO a\r\nRCPT TO:<b>\r\n", ["EHLO a 250", "! 503 5.5.1"]),
    ("data before mail", {}, b"EHLO a\r\nDATA\r\n", ["EHLO a 250", "! 503 5.5.1"]),
    (
        "data after only refused recipients",
        {b"RCPT": 450},
        b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<b>\r\nDATA\r\n",
        ["EHLO a 250", "MAIL FROM:<> 250", "RCPT TO:<b> 450", "! 554 5.5.1"],
    ),
    (
        "nested mail and xforward in a transaction",
        {},
        b"HELO a\r\n%bRCPT TO:<b>\r\n%b" % (b"MAIL FROM:<>\r\n" * 2 + b"XFORWARD A=x\r\n", b"MAIL\r\nXFORWARD A=x\r\n"),
        [
            "HELO a 250",
            "MAIL FROM:<> 250",
            "! 503 5.5.1",
            "! 503 5.5.1",
            "RCPT TO:<b> 250",
            "! 503 5.5.1",
            "! 503 5.5.1",
        ],
    ),
    (
        "a refused mail starts no transaction",
        {b"MAIL": 421},
        b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<b>\r\nQUIT\r\n",
        ["EHLO a 250", "MAIL FROM:<> 421", "! 503 5.5.1", "QUIT 221"],
    ),
    (
        "a refused data leaves the transaction open, with nothing taken for content",
        {b"DATA": 451},
        b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<b>\r\nDATA\r\nRCPT TO:<c>\r\nDATA\r\nRSET\r\n",
        [
            *("EHLO a 250", "MAIL FROM:<> 250", "RCPT TO:<b> 250"),
            *("DATA 451", "RCPT TO:<c> 250", "DATA 451", "RSET 250"),
        ],
    ),
    (
        "rset and ehlo end a transaction",
        {},
        b"EHLO a\r\nMAIL FROM:<>\r\nRSET\r\nRCPT TO:<b>\r\nMAIL FROM:<>\r\nEHLO b\r\nRCPT TO:<b>\r\n",
        [
            *("EHLO a 250", "MAIL FROM:<> 250", "RSET 250", "! 503 5.5.1"),
            *("MAIL FROM:<> 250", "EHLO b 250", "! 503 5.5.1"),
        ],
    ),
    ("rset is no ehlo", {}, b"RSET\r\nMAIL FROM:<>\r\n", ["RSET 250", "! 503 5.5.1"]),
    ("noop and vrfy change nothing", {b"VRFY": 252}, b"NOOP x\r\nVRFY y\r\n", ["NOOP x 250", "VRFY y 252"]),
    ("unknown commands", {}, b"BDAT 3\r\n\r\nSTARTTLS\r\n\x00\r\n", ["! 502 5.5.2"] * 4),
    (
        "arguments to data and rset",
        {},
        b"EHLO a\r\nRSET x\r\nMAIL FROM:<>\r\nRCPT TO:<b>\r\nDATA x\r\n",
        ["EHLO a 250", "! 501 5.5.4", "MAIL FROM:<> 250", "RCPT TO:<b> 250", "! 501 5.5.4"],
    ),
    ("a bare lf ends a command, as in Postfix's smtp_get", {}, b"EHLO a\nNOOP\r\r\n", ["EHLO a 250", "NOOP 250"]),
    ("nothing is read after quit", {}, b"QUIT\r\nNOOP\r\n", ["QUIT 221"]),
    (
        "two messages in one connection, pipelined",
        {},
        2 * b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<b>\r\nDATA\r\nx\r\n.\r\n",
        2 * ["EHLO a 250", "MAIL FROM:<> 250", "RCPT TO:<b> 250", "DATA 354", ". 3 None 250"],
    ),
    (
        "a refused message ends its transaction too",
        {b".": 554},
        b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<b>\r\nDATA\r\n.\r\nRCPT TO:<b>\r\n",
        ["EHLO a 250", "MAIL FROM:<> 250", "RCPT TO:<b> 250", "DATA 354", ". 0 None 554", "! 503 5.5.1"],
    ),
]


@pytest.mark.parametrize(("refused", "sent", "seen"), [row[1:] for row in DIALOGUES], ids=[row[0] for row in DIALOGUES])
def test_dialogue(refused: dict[bytes, int], sent: bytes, seen: list[str]) -> None:
    for pieces in ([sent], [sent[at : at + 1] for at in range(len(sent))]):
        door = Door(refused)
        for piece in pieces:
            door.receive(piece)
        assert door.seen == seen


def start_content(bare_newline: BareNewline = "reject") -> Door:
    door = Door(bare_newline=bare_newline)
    door.receive(b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<b>\r\nDATA\r\n")
    door.seen.clear()
    return door


def test_nothing_more_is_given_out_before_an_answer() -> None:
    machine = FrontMachine()
    machine.receive(b"EHLO a\r\nNOOP\r\n")
    assert machine.next_event() == CommandReceived(b"EHLO", b"a", b"EHLO a")
    assert machine.next_event() is None
    assert machine.buffered == len(b"NOOP\r\n")
    assert machine.receive(b"QUIT") == machine.buffered == len(b"NOOP\r\nQUIT")
    machine.answered(250)
    assert machine.next_event() == CommandReceived(b"NOOP", b"", b"NOOP")


def test_content_waits_for_the_354_and_what_follows_it_for_the_answer() -> None:
    machine = FrontMachine()
    machine.receive(b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<b>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n")
    for code in (250, 250, 250):
        machine.next_event()
        machine.answered(code)
    assert machine.next_event() == CommandReceived(b"DATA", b"", b"DATA")
    assert (machine.next_event(), machine.state) == (None, State.DATA_SENT)
    machine.answered(354)
    assert [machine.next_event() for _ in range(3)] == [ContentChunk(b"x\r\n"), ContentEnd(3, None), None]
    assert (machine.state, machine.buffered) == (State.ANSWER, len(b"QUIT\r\n"))
    machine.answered(451)
    assert machine.next_event() == CommandReceived(b"QUIT", b"", b"QUIT")


@pytest.mark.parametrize(
    ("verb", "code"), [(b"NOOP", 354), (b"NOOP", 334), (b"DATA", 250), (b"DATA", 355), (b".", 354)]
)
def test_an_answer_that_the_front_would_take_for_a_broken_filter_is_our_own_error(verb: bytes, code: int) -> None:
    machine = FrontMachine()
    machine.receive(b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<b>\r\nDATA\r\n.\r\n" if verb != b"NOOP" else b"NOOP\r\n")
    good = [250, 250, 250] + ([354] if verb == b"." else [])
    for earlier in good if verb != b"NOOP" else []:
        machine.next_event()
        machine.answered(earlier)
    assert machine.next_event() is not None
    state = machine.state
    with pytest.raises(LocalError):
        machine.answered(code)
    assert machine.state is state
    machine.answered(451)


def test_answering_nothing_is_our_own_error() -> None:
    with pytest.raises(LocalError):
        FrontMachine().answered(250)


def test_a_line_up_to_the_limit_is_a_command_and_a_longer_one_is_thrown_away_whole() -> None:
    for split in (1, 1000, LINE_LIMIT_BYTES, 3 * LINE_LIMIT_BYTES):
        door = Door()
        sent = b"NOOP " + b"x" * (LINE_LIMIT_BYTES - 7) + b"\r\n"
        sent += b"NOOP " + b"x" * (LINE_LIMIT_BYTES - 6) + b"\r\n" + b"y" * 2 * LINE_LIMIT_BYTES + b"\r\nNOOP\r\n"
        for at in range(0, len(sent), split):
            door.receive(sent[at : at + split])
            assert door.machine.buffered <= LINE_LIMIT_BYTES + split
        assert [word[-12:] for word in door.seen] == ["xxxxxxxx 250", "! 500 5.5.2", "! 500 5.5.2", "NOOP 250"]


@pytest.mark.parametrize(
    ("before", "seen"),
    [
        (b"", []),
        (b"EHLO a\r\n", ["EHLO a 250"]),
        (b"EHLO a\r\nMAIL FROM:<>\r\n", ["EHLO a 250", "MAIL FROM:<> 250", "aborted in mail"]),
        (b"EHLO a\r\nMAIL FROM:<>\r\nRSET\r\n", ["EHLO a 250", "MAIL FROM:<> 250", "RSET 250"]),
        (b"NOOP\r\nQUIT", ["NOOP 250"]),
    ],
)
def test_a_peer_that_leaves_aborts_only_a_transaction(before: bytes, seen: list[str]) -> None:
    door = Door()
    door.receive(before)
    door.receive_eof()
    assert (door.seen, door.machine.state, door.machine.eof_received) == (seen, State.CLOSED, True)
    with pytest.raises(LocalError):
        door.receive(b"x")


@pytest.mark.parametrize("tail", [b"QUIT\r\n", b"x\r\n.\r", b"", b"x"])
def test_a_peer_that_leaves_in_the_content_aborts_even_after_a_quit_in_it(tail: bytes) -> None:
    door = start_content()
    door.receive(b"a\r\n" + tail)
    door.receive_eof()
    assert door.seen == ["aborted in content"]


def test_what_came_before_the_peer_left_is_still_given_out() -> None:
    door = Door()
    door.machine.receive(b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<b>\r\nDATA\r\nx\r\n.\r\n")
    door.receive_eof()
    assert door.seen[-1] == ". 3 None 250"


def test_the_first_stray_is_told_at_once_and_the_end_still_comes() -> None:
    door = start_content()
    door.machine.receive(b"a\nb")
    assert door.machine.next_event() == ContentChunk(b"")
    assert door.machine.stray == "bare LF at byte 1 of the content"
    door.receive(b"c\nd\r\n.\r\nNOOP\r\n")
    assert door.seen == [". 8 bare LF at byte 1 of the content 250", "NOOP 250"]
    assert door.machine.stray is None


def test_normalized_content_is_told_its_stray_at_the_end() -> None:
    door = start_content("normalize")
    door.receive(b"a\n.\nb\r\n.\r\n")
    assert door.content == b"a\r\n..\r\nb\r\n"
    assert door.seen == [". 7 bare LF at byte 1 of the content 250"]


verbs = st.sampled_from(
    [b"EHLO a", b"XFORWARD NAME=x", b"MAIL FROM:<>", b"RCPT TO:<b>", b"DATA", b"RSET", b"x", b".", b"QUIT", b"NOOP"]
)


@given(st.lists(verbs, max_size=25), st.data())
def test_no_order_of_commands_and_no_split_upsets_the_machine(lines: list[bytes], data: st.DataObject) -> None:
    sent = b"".join(line + b"\r\n" for line in lines)
    whole, pieced = Door(), Door()
    whole.receive(sent)
    while sent:
        cut = data.draw(st.integers(1, len(sent)))
        pieced.receive(sent[:cut])
        sent = sent[cut:]
    whole.receive_eof()
    pieced.receive_eof()
    assert (whole.seen, whole.content) == (pieced.seen, pieced.content)
    assert whole.machine.state is pieced.machine.state is State.CLOSED


def test_our_ehlo_asks_for_every_xforward_attribute() -> None:
    lines = ehlo_reply("gate.example.org").splitlines()
    assert lines[0] == b"250-gate.example.org"
    assert [line[:4] for line in lines[1:]] == [b"250-"] * (len(lines) - 2) + [b"250 "]
    assert lines[-1] == b"250 XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"
    assert {line[4:] for line in lines[1:-1]} == {
        *(b"PIPELINING", b"SIZE", b"8BITMIME", b"SMTPUTF8", b"ENHANCEDSTATUSCODES", b"DSN")
    }
