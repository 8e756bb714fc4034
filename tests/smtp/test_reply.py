"""Replies: safe bytes whatever the text, and the inner smtpd's own bytes untouched."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.hooks import HOOKS
from gatepost.smtp.reply import LINE_LIMIT_BYTES, REPLY_LIMIT_BYTES, Reply, refusal
from gatepost.verdict import Declined, Deny, DenyDisconnect, DenySoft, DenySoftDisconnect, Verdict


@pytest.mark.parametrize(
    ("reply", "wire"),
    [
        (Reply.of(250, "Ok"), b"250 Ok\r\n"),
        (Reply.of(250, "Ok", "2.1.0"), b"250 2.1.0 Ok\r\n"),
        (Reply.of(550, "one\ntwo", "5.7.1"), b"550-5.7.1 one\r\n550 5.7.1 two\r\n"),
        (Reply.of(550, "one\r\ntwo\rthree\n"), b"550-one\r\n550-two\r\n550 three\r\n"),
        (Reply(550, ("a", "", " ")), b"550 a\r\n"),
        (Reply.of(550, "a\n\nb"), b"550-a\r\n550-\r\n550 b\r\n"),
        (Reply.of(450, "a\tb\x00c\x7fd"), b"450 a b c d\r\n"),
        (Reply(450, ("a\r\n250 forged",)), b"450 a  250 forged\r\n"),
        (Reply.of(450, "grüß\udcff"), b"450 gr???\r\n"),
        (Reply.of(250), b"250 Ok\r\n"),
        (Reply.of(451, " \n "), b"451 Try again later\r\n"),
        (Reply.of(554, "", "5.7.1"), b"554 5.7.1 Refused by local policy\r\n"),
        (Reply.of(354), b"354 End data with <CR><LF>.<CR><LF>\r\n"),
        (Reply(250, ()), b"250 Ok\r\n"),
    ],
)
def test_a_reply_is_one_code_on_every_line_and_printable_ascii(reply: Reply, wire: bytes) -> None:
    assert reply.encode() == wire


@given(st.sampled_from([250, 354, 421, 450, 554]), st.lists(st.text(), max_size=60), st.booleans())
def test_no_text_breaks_a_reply(code: int, lines: list[str], enhanced: bool) -> None:
    status = f"{code // 100}.0.0" if enhanced and code != 354 else None
    wire = Reply(code, tuple(lines), status).encode()
    *before, last, end = wire.split(b"\r\n")
    assert end == b""
    assert len(wire) <= REPLY_LIMIT_BYTES
    assert all(re.fullmatch(rb"%d-[ -~]*" % code, line) for line in before)
    assert re.fullmatch(rb"%d [ -~]*" % code, last)
    assert all(len(line) + 2 <= LINE_LIMIT_BYTES for line in [*before, last])
    if status is not None:
        assert all(line[4:].startswith(status.encode()) for line in [*before, last])


def test_a_long_line_is_cut_and_lines_too_many_are_dropped() -> None:
    wire = Reply.of(550, "\n".join(f"{number}" * 600 for number in range(9)), "5.7.1").encode()
    lines = wire.splitlines(keepends=True)
    assert [line[:11] for line in lines] == [b"550-5.7.1 0", b"550-5.7.1 1", b"550 5.7.1 2"]
    assert [len(line) for line in lines] == [512, 512, 512]


@pytest.mark.parametrize(
    ("code", "enhanced"), [(199, None), (600, None), (250, "5.0.0"), (354, "3.0.0"), (550, "5.7"), (550, "5.7.1 x")]
)
def test_a_code_that_means_something_else_is_refused(code: int, enhanced: str | None) -> None:
    with pytest.raises(ValueError, match="repl"):
        Reply(code, ("x",), enhanced)


@pytest.mark.parametrize(
    ("wire", "lines", "enhanced"),
    [
        (b"250 2.0.0 Ok: queued as 4ABC\r\n", ("Ok: queued as 4ABC",), "2.0.0"),
        (b"550-5.1.1 <x@y>: unknown\r\n550 5.1.1 really\r\n", ("<x@y>: unknown", "really"), "5.1.1"),
        (b"250-mx.example.org\r\n250-SIZE 100\r\n250 DSN\r\n", ("mx.example.org", "SIZE 100", "DSN"), None),
        (b"250 4.0.0 is no status of this class\r\n", ("4.0.0 is no status of this class",), None),
        (b"550 tab\tand \xff stay\r\n", ("tab\tand \ufffd stay",), None),
        (b"250\r\n", ("",), None),
    ],
)
def test_a_reply_of_the_inner_is_read_and_passed_on_to_the_byte(
    wire: bytes, lines: tuple[str, ...], enhanced: str | None
) -> None:
    reply = Reply.from_wire(wire.removesuffix(b"\r\n").split(b"\r\n"))
    assert (reply.code, reply.lines, reply.enhanced) == (int(wire[:3]), lines, enhanced)
    assert reply.encode() == reply.raw == wire


def test_a_reply_of_the_inner_that_the_front_would_cut_is_cut_to_whole_lines() -> None:
    reply = Reply.from_wire([b"550-" + b"%d" % number * 90 for number in range(10, 50)])
    wire = reply.encode()
    *before, last = wire.removesuffix(b"\r\n").split(b"\r\n")
    assert len(wire) <= REPLY_LIMIT_BYTES < len(wire) + 186
    assert all(line == b"550-" + b"%d" % number * 90 for number, line in enumerate(before, 10))
    assert last == b"550 " + b"%d" % (10 + len(before)) * 90


def test_one_overlong_line_of_the_inner_is_cut_within() -> None:
    wire = Reply.from_wire([b"550 " + b"x" * 5000]).encode()
    assert wire == b"550 " + b"x" * (REPLY_LIMIT_BYTES - 6) + b"\r\n"


@pytest.mark.parametrize(
    ("verdict", "hook", "wire"),
    [
        (Deny("no"), "rcpt", b"550 5.7.1 no\r\n"),
        (DenySoft("wait"), "rcpt", b"450 4.7.1 wait\r\n"),
        (Deny("no"), "data_post", b"554 5.7.1 no\r\n"),
        (DenySoft("wait"), "data_post", b"451 4.7.1 wait\r\n"),
        (DenyDisconnect("bye"), "mail", b"521 5.7.1 bye\r\n"),
        (DenySoftDisconnect("bye"), "mail", b"421 4.7.1 bye\r\n"),
        (Deny("who?", code=553, enhanced="5.1.1"), "rcpt", b"553 5.1.1 who?\r\n"),
        (Deny(), "rcpt", b"550 5.7.1 Refused by local policy\r\n"),
        (DenySoft(), "rcpt", b"450 4.7.1 Try again later\r\n"),
        (DenySoft("100%\nsure"), "rcpt", b"450-4.7.1 100%\r\n450 4.7.1 sure\r\n"),
    ],
)
def test_a_refusal_takes_its_codes_from_the_verdict_then_the_hook(verdict: Verdict, hook: str, wire: bytes) -> None:
    assert refusal(verdict, HOOKS[hook]).encode() == wire


def test_what_does_not_deny_is_no_refusal() -> None:
    with pytest.raises(ValueError, match="Declined"):
        refusal(Declined(), HOOKS["rcpt"])


@pytest.mark.parametrize(
    ("code", "positive", "hangs_up"),
    [(250, True, False), (354, False, False), (421, False, True), (450, False, False), (521, False, True)],
)
def test_what_a_code_means(code: int, positive: bool, hangs_up: bool) -> None:
    reply = Reply.of(code, "x")
    assert (reply.is_positive, reply.hangs_up) == (positive, hangs_up)
