"""The inner machine: which replies are whole, which were asked for, and which end the connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.smtp.inner import (
    REPLY_LIMIT_BYTES,
    InnerEvent,
    InnerMachine,
    LocalError,
    RemoteError,
    State,
    Unsolicited,
    ehlo,
    extensions,
    mail,
    rcpt,
)
from gatepost.smtp.reply import Reply
from gatepost.smtp.xforward import Xforward

BANNER = b"220 mx.example.org ESMTP Postfix\r\n"
HELLO = b"250-mx.example.org\r\n250-SIZE 10240000\r\n250-XFORWARD NAME ADDR PROTO SOURCE\r\n250 dsn\r\n"


def greeted() -> InnerMachine:
    machine = InnerMachine()
    machine.expect()
    machine.receive(BANNER)
    machine.expect()
    (hello,) = machine.receive(HELLO)
    assert isinstance(hello, Reply)
    machine.greeted(hello)
    return machine


def raw(events: list[InnerEvent]) -> list[bytes | None]:
    return [event.raw if isinstance(event, Reply) else None for event in events]


REPLIES = [b"250 2.0.0 Ok\r\n", b"250-a\r\n250-\r\n250 b\r\n", b"450 4.2.0 x\ty\r\n", b"354 go\r\n", b"250\r\n"]


def test_replies_come_whole_and_in_order_whatever_the_split() -> None:
    wire = b"".join(REPLIES)
    pieces = [[wire[:at], wire[at:]] for at in range(len(wire))] + [[wire[at : at + 1] for at in range(len(wire))]]
    for split in pieces:
        machine = greeted()
        machine.expect(len(REPLIES))
        events = [event for piece in split for event in machine.receive(piece)]
        assert raw(events) == REPLIES
        assert machine.idle


@given(st.lists(st.sampled_from(REPLIES), min_size=1, max_size=9), st.data())
def test_any_number_of_pipelined_replies_in_any_pieces(replies: list[bytes], data: st.DataObject) -> None:
    machine = greeted()
    machine.expect(len(replies))
    wire = b"".join(replies)
    events: list[InnerEvent] = []
    while wire:
        cut = data.draw(st.integers(1, len(wire)))
        events += machine.receive(wire[:cut])
        wire = wire[cut:]
        assert machine.expected == len(replies) - len(events)
        assert machine.idle is (not wire)
    assert raw(events) == replies


@pytest.mark.parametrize("banner_first", [True, False])
def test_the_banner_is_expected_even_when_it_comes_first(banner_first: bool) -> None:
    machine = InnerMachine()
    events = machine.receive(BANNER) if banner_first else []
    machine.expect(1)
    events += [] if banner_first else machine.receive(BANNER)
    assert raw(events) == [BANNER]
    assert machine.idle
    machine.expect(1)
    assert (machine.idle, machine.expected) == (False, 1)


def test_a_reply_that_nobody_waits_for_is_told_apart_and_ends_the_connection() -> None:
    machine = greeted()
    (event,) = machine.receive(b"421 4.4.2 mx.example.org Error: timeout exceeded\r\n")
    assert isinstance(event, Unsolicited)
    assert event.reply.code == 421
    assert (machine.state, machine.idle) == (State.CLOSED, False)


def test_one_reply_too_many_is_unsolicited() -> None:
    machine = greeted()
    machine.expect(2)
    first, second, third = machine.receive(b"250 a\r\n550 b\r\n250 c\r\n")
    assert raw([first, second]) == [b"250 a\r\n", b"550 b\r\n"]
    assert isinstance(third, Unsolicited)


def test_a_421_that_was_asked_for_is_a_reply_but_the_connection_is_not_kept() -> None:
    machine = greeted()
    machine.expect(2)
    (event,) = machine.receive(b"421 4.3.0 closing\r\n")
    assert isinstance(event, Reply)
    assert not machine.idle
    (error,) = machine.receive_eof()
    assert isinstance(error, RemoteError)
    machine = greeted()
    machine.expect(1)
    machine.receive(b"421 4.3.0 closing\r\n")
    assert not machine.idle
    assert machine.receive_eof() == []


@pytest.mark.parametrize(
    "wire",
    [
        b"\r\n",
        b"hello\r\n",
        b"25 x\r\n",
        b"2500 x\r\n",
        b"150 x\r\n",
        b"650 x\r\n",
        b"250_x\r\n",
        b"+250 x\r\n",
        b"250-a\r\n550 b\r\n",
        b"250-a\r\nb\r\n",
        b"250 a\rb\r\n",
        b"250 a\x00b\r\n",
        b"250 " + b"x" * REPLY_LIMIT_BYTES,
        b"250 " + b"x" * REPLY_LIMIT_BYTES + b"\r\n",
        b"250-" + b"x" * 60 + b"\r\n250-" * (REPLY_LIMIT_BYTES // 5),
    ],
    ids=lambda wire: repr(wire[:16]),
)
def test_what_is_no_reply_ends_the_connection(wire: bytes) -> None:
    machine = greeted()
    machine.expect(3)
    *before, error = machine.receive(b"250 fine\r\n" + wire + b"\r\n250 not looked at\r\n")
    assert raw(before) == [b"250 fine\r\n"]
    assert isinstance(error, RemoteError)
    assert error.reply.code == 451
    assert (machine.state, machine.receive(b"250 x\r\n")) == (State.CLOSED, [])


def test_a_reply_without_end_does_not_fill_the_memory() -> None:
    machine = greeted()
    machine.expect(1)
    pieces = 0
    while not (events := machine.receive(b"x" * 1000)):
        pieces += 1
        assert pieces <= REPLY_LIMIT_BYTES // 1000
    assert isinstance(events[0], RemoteError)


def test_bare_lf_ends_a_reply_line_and_is_mended_when_passed_on() -> None:
    machine = greeted()
    machine.expect(1)
    assert raw(machine.receive(b"250-a\n250 b\n")) == [b"250-a\r\n250 b\r\n"]


def test_a_close_is_an_error_only_while_replies_are_due() -> None:
    machine = greeted()
    assert machine.receive_eof() == []
    assert machine.state is State.CLOSED
    machine = greeted()
    machine.expect(1)
    machine.receive(b"250-a")
    (error,) = machine.receive_eof()
    assert isinstance(error, RemoteError)


def test_a_connection_with_half_a_reply_is_not_kept() -> None:
    for half in (b"4", b"250-x\r\n"):
        machine = greeted()
        assert machine.idle
        machine.receive(half)
        assert not machine.idle


def test_expecting_on_a_closed_connection_counts_nothing() -> None:
    machine = greeted()
    machine.receive_eof()
    machine.expect(2)
    assert machine.state is State.CLOSED


def test_a_command_without_a_reply_is_our_own_error() -> None:
    with pytest.raises(LocalError):
        greeted().expect(0)


def test_what_ehlo_offers_is_read() -> None:
    machine = greeted()
    assert machine.offered == {
        "SIZE": {"10240000"},
        "XFORWARD": {"NAME", "ADDR", "PROTO", "SOURCE"},
        "DSN": frozenset(),
    }
    assert extensions(Reply.of(250, "mx")) == {}


def test_a_refused_ehlo_greets_nobody() -> None:
    machine = InnerMachine()
    machine.greeted(Reply.of(502, "no"))
    assert not machine.is_greeted
    assert machine.xforward(Xforward()) == b""


def test_xforward_keeps_to_what_was_offered() -> None:
    sent = greeted().xforward(Xforward(name="a", addr="192.0.2.1", port=7, helo="h", proto="SMTP", source="LOCAL"))
    assert sent == b"XFORWARD NAME=a ADDR=192.0.2.1 PROTO=SMTP SOURCE=LOCAL\r\n"


def test_commands_are_the_client_s_own_bytes() -> None:
    assert ehlo("gate.example.org") == b"EHLO gate.example.org\r\n"
    assert mail(b"from: <a@b>  SIZE=1") == b"MAIL from: <a@b>  SIZE=1\r\n"
    assert rcpt(b"TO:<a@b> NOTIFY=NEVER") == b"RCPT TO:<a@b> NOTIFY=NEVER\r\n"
