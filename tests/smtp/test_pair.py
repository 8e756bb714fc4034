"""The two machines, connected: what one says, the other understands, whatever pieces the wire makes of it."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.smtp.content import END_OF_CONTENT
from gatepost.smtp.front import (
    Aborted,
    CommandReceived,
    ContentChunk,
    ContentEnd,
    FrontMachine,
    RemoteError,
    State,
    ehlo_reply,
)
from gatepost.smtp.inner import DATA, QUIT, InnerEvent, InnerMachine, ehlo, mail, rcpt
from gatepost.smtp.reply import Reply
from gatepost.smtp.xforward import Xforward


class Server:
    """A server around a FrontMachine: accepts everything but recipients named `no`, and keeps what it was told."""

    def __init__(self) -> None:
        self.machine = FrontMachine("normalize")
        self.xforward = Xforward()
        self.commands: list[bytes] = []
        self.content = b""
        self.aborted = False

    def talk(self, data: bytes) -> bytes:
        """Take bytes, return the replies to them."""
        self.machine.receive(data)
        return self.answers()

    def leave(self) -> None:
        """Take note that the client has closed: nothing more is said."""
        self.machine.receive_eof()
        assert self.answers() == b""

    def answers(self) -> bytes:
        said = b""
        while (event := self.machine.next_event()) is not None:
            match event:
                case CommandReceived(verb=b"EHLO"):
                    self.machine.answered(250)
                    said += ehlo_reply("inner.example.org")
                case CommandReceived(verb=verb, argument=argument, line=line):
                    self.commands.append(line)
                    if verb == b"XFORWARD":
                        self.xforward = self.xforward.updated(argument)
                    said += self.answer(Reply.of(550, "no\nreally", "5.1.1") if b"<no@" in argument else GOOD[verb])
                case ContentChunk(data=chunk):
                    self.content += chunk
                case ContentEnd():
                    said += self.answer(Reply.of(250, "queued", "2.0.0"))
                case RemoteError(reply=reply):
                    said += reply.encode()
                case Aborted():
                    self.aborted = True
        return said

    def answer(self, reply: Reply) -> bytes:
        self.machine.answered(reply.code)
        return reply.encode()


GOOD = {
    b"XFORWARD": Reply.of(250, "Ok", "2.0.0"),
    b"MAIL": Reply.of(250, "Ok", "2.1.0"),
    b"RCPT": Reply.of(250, "Ok", "2.1.5"),
    b"DATA": Reply.of(354),
    b"QUIT": Reply.of(221, "Bye", "2.0.0"),
}


class Wire:
    """Carries bytes between an InnerMachine and a Server in pieces of random size."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.server = Server()
        self.client = InnerMachine()
        self.client.expect(1)
        assert len(self.client.receive(b"220 inner.example.org ESMTP\r\n")) == 1

    def send(self, data: bytes, replies: int) -> list[int]:
        """Send commands, return the codes that come back."""
        if replies:
            self.client.expect(replies)
        said = b"".join(self.server.talk(piece) for piece in self.pieces(data))
        events: list[InnerEvent] = []
        for piece in self.pieces(said):
            events += self.client.receive(piece)
        codes = [event.code for event in events if isinstance(event, Reply)]
        assert len(codes) == len(events) == replies
        if b"EHLO" in data:
            self.client.greeted(next(event for event in events if isinstance(event, Reply)))
        return codes

    def pieces(self, data: bytes) -> list[bytes]:
        pieces = []
        while data:
            cut = self.random.randint(1, len(data))
            pieces.append(data[:cut])
            data = data[cut:]
        return pieces


@given(
    st.randoms(use_true_random=False),
    st.text("az+= ü", min_size=1, max_size=20),
    st.lists(st.sampled_from([b"\r\n", b"a", b".", b"\n", b"\r"]), max_size=20).map(b"".join),
)
def test_a_message_arrives_as_it_was_sent(random: Random, helo: str, text: bytes) -> None:
    wire = Wire(random)
    assert wire.send(ehlo("gate.example.org"), 1) == [250]
    xforward = Xforward("a.example", "2001:db8::1", 25, helo, None, "ESMTP", "LOCAL")
    forward = wire.client.xforward(xforward)
    envelope = mail(b"FROM:<s@a.example>  SIZE=9") + rcpt(b"TO:<no@b>") + rcpt(b"to: r@b")
    assert wire.send(forward + envelope, forward.count(b"\r\n") + 3) == [250, 250, 550, 250]
    assert wire.server.xforward == xforward
    assert wire.send(DATA, 1) == [354]
    # A proxy in front has made the content clean; what a server in the same mode makes of that is the same again.
    clean = b"".join(b"x" + line + b"\r\n" for line in text.replace(b"\r", b"\n").split(b"\n"))
    assert wire.send(clean, 0) == []
    assert wire.send(END_OF_CONTENT, 1) == [250]
    assert wire.server.content == clean
    assert wire.client.idle
    assert wire.send(QUIT, 1) == [221]
    assert wire.server.commands[-5:] == [
        b"MAIL FROM:<s@a.example>  SIZE=9",
        b"RCPT TO:<no@b>",
        b"RCPT to: r@b",
        b"DATA",
        b"QUIT",
    ]
    assert wire.server.machine.state is State.CLOSED


@pytest.mark.parametrize("seed", range(5))
def test_a_content_cut_short_is_an_abort_on_the_other_side(seed: int) -> None:
    wire = Wire(Random(seed))
    wire.send(ehlo("gate.example.org"), 1)
    wire.send(mail(b"FROM:<>") + rcpt(b"TO:<r@b>"), 2)
    wire.send(DATA, 1)
    wire.send(b"half a message\r\n", 0)
    wire.server.leave()
    assert wire.server.aborted
    assert wire.server.machine.state is State.CLOSED
    assert wire.client.receive_eof() == []
