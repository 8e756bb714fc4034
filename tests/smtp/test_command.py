"""Command lines, read as Postfix reads them."""

from __future__ import annotations

import contextlib
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.address import Address
from gatepost.smtp.command import Command, SmtpSyntaxError, parse_command, parse_path


@pytest.mark.parametrize(
    ("line", "verb", "argument"),
    [
        (b"QUIT", b"QUIT", b""),
        (b"quit  \r\n", b"QUIT", b""),
        (b"mAiL FROM:<a@b>", b"MAIL", b"FROM:<a@b>"),
        (b"  MAIL   from: <a@b>  SIZE=1 ", b"MAIL", b"from: <a@b>  SIZE=1"),
        (b"ehlo\tmx.example.org", b"EHLO", b"mx.example.org"),
        (b"", b"", b""),
        (b" \r\n", b"", b""),
        (b"\x80\xff x", b"\x80\xff", b"x"),
    ],
)
def test_a_line_is_a_verb_in_upper_case_and_an_argument(line: bytes, verb: bytes, argument: bytes) -> None:
    assert parse_command(line) == Command(verb, argument)


ADDRESSES = [
    # What Postfix 3.7.11 put in its queue for the same RCPT (`postqueue -j`), but for the case of the domain.
    (b"<a@B.de>", "a", "b.de"),
    (b"a@b.de", "a", "b.de"),
    (b"< a@b.de >", "a", "b.de"),
    (b"<A.b@b.de.>", "A.b", "b.de"),
    (b'<"a b>@x"@C.d>', "a b>@x", "c.d"),
    (b'<"a\\"b"@c.de>', 'a"b', "c.de"),
    (b'a."b c".d@e.de', "a.b c.d", "e.de"),
    (b"<a\\@b@c.de>", "a@b", "c.de"),
    (b"<a@b@c.de>", "a@b", "c.de"),
    (b'"a@b.de"', "a", "b.de"),
    (b"<@x,@y:u@z.q>", "u", "z.q"),
    (b"<a(c)@ b.de>", "a", "b.de"),
    (b"<(((a)))x@y.de>", "x", "y.de"),
    (b"<a@b.de(>", "a", "b.de"),
    (b"<a)@b.de>", "a)", "b.de"),
    (b'<"a(b)"@c.de>', "a(b)", "c.de"),
    (b"<a@[1.2.3.4]>", "a", "[1.2.3.4]"),
    (b"<a@[IPv6:2001:DB8::1]>", "a", "[ipv6:2001:db8::1]"),
    (b"x<a@b.de>", "a", "b.de"),
    (b"<<a@b.de>>", "a", "b.de"),
    (b"<a@b.de>>", "a", "b.de"),
    (b"<g:a@b.de>", "g:a", "b.de"),
    (b"<a!b@c.de>", "a!b", "c.de"),
    (b'<a@"b.de">', "a", "b.de"),
    (b"<a@b\\.de>", "a", "b.de"),
    (b"<@b.de>", "", "b.de"),
    (b"<postmaster>", "postmaster", ""),
    ("<é@B.de>".encode(), "é", "b.de"),
    ("<a@É.de>".encode(), "a", "é.de"),
    (b"<\xff@b.de>", "\udcff", "b.de"),
]


@pytest.mark.parametrize(("path", "local", "domain"), ADDRESSES)
@pytest.mark.parametrize("parameters", [b"", b" SIZE=10", b"\t NOTIFY=NEVER"])
def test_an_address_is_what_postfix_takes_it_for(path: bytes, local: str, domain: str, parameters: bytes) -> None:
    envelope = parse_path(b"TO: " + path + parameters, b"TO")
    assert envelope.address == Address(local, domain)
    assert (envelope.path, envelope.raw_parameters) == (path, parameters)


@pytest.mark.parametrize("argument", [b"FROM:<>", b"from:  <>", b"From:< >"])
def test_the_null_sender_is_an_address_for_mail(argument: bytes) -> None:
    assert parse_path(argument, b"FROM").address.is_null


@pytest.mark.parametrize(
    ("argument", "keyword", "enhanced"),
    [
        (b"", b"FROM", "5.5.4"),
        (b"<a@b>", b"FROM", "5.5.4"),
        (b"TO:<a@b>", b"FROM", "5.5.4"),
        (b"FROM:<a@b>", b"TO", "5.5.4"),
        (b"FROM :<a@b>", b"FROM", "5.5.4"),
        (b"FROM:  ", b"FROM", "5.5.4"),
        (b"TO:<a\0@b>", b"TO", "5.5.4"),
        (b"TO:<a@b>\rRSET", b"TO", "5.5.4"),
        (b"TO:<a@b>\nRSET", b"TO", "5.5.4"),
        (b"TO:<>", b"TO", "5.1.3"),
        (b"TO:(comment)", b"TO", "5.1.3"),
        (b"TO:<a@b.de", b"TO", "5.1.3"),
        (b'TO:<"a@b.de>', b"TO", "5.1.3"),
        (b"TO:<a@b.de\\", b"TO", "5.1.3"),
        (b"TO:<a,b@c.de>", b"TO", "5.1.3"),
        (b"TO:<a;b@c.de>", b"TO", "5.1.3"),
        (b"FROM:<a@[1.2.3.4>", b"FROM", "5.1.7"),
    ],
)
def test_hopeless_input_is_501_with_postfix_own_status(
    argument: bytes, keyword: Literal[b"FROM", b"TO"], enhanced: str
) -> None:
    with pytest.raises(SmtpSyntaxError) as caught:
        parse_path(argument, keyword)
    assert (caught.value.reply.code, caught.value.reply.enhanced) == (501, enhanced)


def test_parameters_are_kept_as_given_under_names_in_upper_case() -> None:
    raw = b"  size=10  BODY=8BITMIME SMTPUTF8 ENVID=a+3Db=c AUTH=<> x="
    envelope = parse_path(b"FROM:<a@b>" + raw, b"FROM")
    assert envelope.raw_parameters == raw
    assert envelope.parameters == {
        "SIZE": "10",
        "BODY": "8BITMIME",
        "SMTPUTF8": None,
        "ENVID": "a+3Db=c",
        "AUTH": "<>",
        "X": "",
    }


@given(st.text('aB"\\<>@ ()[],;:.\té', max_size=20), st.sampled_from([b"", b" SIZE=1"]))
def test_no_path_is_lost_or_raises_anything_else(path: str, parameters: bytes) -> None:
    argument = b"TO:" + path.encode() + parameters
    with contextlib.suppress(SmtpSyntaxError):
        envelope = parse_path(argument, b"TO")
        assert argument.endswith(envelope.path + envelope.raw_parameters)
        assert not envelope.address.is_null


@given(st.text(st.characters(exclude_characters="\0\r\n"), min_size=1, max_size=30), st.sampled_from(["b.de", "[::1]"]))
def test_a_written_address_is_read_back(local: str, domain: str) -> None:
    address = Address(local, domain)
    quoted = local.replace("\\", "\\\\").replace('"', '\\"')
    path = f'<"{quoted}"@{domain}>'.encode("utf-8", "surrogatepass")
    try:
        path.decode()
    except UnicodeDecodeError:
        return  # a lone surrogate is no text that could be on the wire
    assert parse_path(b"FROM:" + path, b"FROM").address == address


@pytest.mark.parametrize("filler", [b"(", b"<", b"[", b"((((a))))", b"\\a", b'""', b"a@", b'"(', b"a "])
def test_a_hostile_line_takes_no_more_steps_than_it_is_long(filler: bytes) -> None:
    """A regular expression that goes back and forth would need hours for this; pytest's timeout would tell."""
    argument = b"TO:<" + filler * (16_000 // len(filler)) + b">"
    for end in (b"", b'"', b"\\"):
        with contextlib.suppress(SmtpSyntaxError):
            assert argument.endswith(parse_path(argument + end, b"TO").raw_parameters)
