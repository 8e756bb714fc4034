"""What rspamd answers, read and taken over: nothing that it could say breaks a message or raises but Unavailable."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost import Address
from gatepost.errors import Unavailable
from gatepost.message.header import Headers
from gatepost.message.message import Message
from gatepost.services.scanners.rspamd_answer import FIELDS_LIMIT, SYMBOLS_LIMIT, RspamdAnswer

ORIGINAL = b"A: 1\r\nX-Spam: forged\r\nA: 2\r\nB: 1\r\nA: 3\r\n\r\nbody\r\n"


def message() -> Message:
    return Message.parse(ORIGINAL, Address("s", "a.example"), [Address("r", "b.example")])


def answer(**told: Any) -> RspamdAnswer:
    return RspamdAnswer.parse(json.dumps({"action": "no action", "score": 0, **told}).encode())


def header(**milter: Any) -> str:
    edited = message()
    assert answer(milter=milter).edit_header(edited) == []
    return " ".join(f"{field.name}:{field.value}" for field in edited.headers)


@pytest.mark.parametrize(
    ("remove", "left"),
    [
        ({"A": 1}, "X-Spam:forged A:2 B:1 A:3"),
        ({"a": 2}, "A:1 X-Spam:forged B:1 A:3"),
        ({"A": -1}, "A:1 X-Spam:forged A:2 B:1"),
        ({"A": [1, 2]}, "X-Spam:forged B:1 A:3"),
        ({"A": [-1, 3, 1]}, "X-Spam:forged A:2 B:1"),
        ({"A": 0, "B": 1}, "X-Spam:forged"),
        ({"A": [2, 0]}, "X-Spam:forged B:1"),
        ({"A": [4, -4, 10**30, -(10**30)], "C": 0}, "A:1 X-Spam:forged A:2 B:1 A:3"),
    ],
)
def test_fields_are_removed_by_their_place_as_rspamd_saw_them(remove: dict[str, Any], left: str) -> None:
    assert header(remove_headers=remove) == left


@pytest.mark.parametrize(
    ("add", "fields"),
    [
        ({"N": "v"}, "A:1 X-Spam:forged A:2 B:1 A:3 N:v"),
        ({"N": {"value": "v", "order": 0}}, "N:v A:1 X-Spam:forged A:2 B:1 A:3"),
        ({"N": {"value": "v", "order": 1}}, "N:v A:1 X-Spam:forged A:2 B:1 A:3"),
        ({"N": {"value": "v", "index": 2}}, "A:1 N:v X-Spam:forged A:2 B:1 A:3"),
        ({"N": {"value": "v", "order": -1}}, "A:1 X-Spam:forged A:2 B:1 A:3 N:v"),
        ({"N": {"value": "v", "order": -2}}, "A:1 X-Spam:forged A:2 B:1 N:v A:3"),
        ({"N": {"value": "v", "order": 10**30}}, "A:1 X-Spam:forged A:2 B:1 A:3 N:v"),
        ({"N": {"value": "v", "order": -(10**30)}}, "N:v A:1 X-Spam:forged A:2 B:1 A:3"),
        ({"N": ["v", {"value": "w", "order": 1}]}, "N:w A:1 X-Spam:forged A:2 B:1 A:3 N:v"),
    ],
)
def test_fields_are_added_at_their_place(add: dict[str, Any], fields: str) -> None:
    assert header(add_headers=add) == fields


def test_signatures_stand_on_top_in_their_order_and_as_they_were_folded() -> None:
    signed = RspamdAnswer.parse(
        json.dumps({"action": "no action", "score": 0, "dkim-signature": ["v=1; a=x;\r\n\tb=1", "v=1; b=2"]}).encode()
    )
    edited = message()
    assert signed.edit_header(edited) == []
    assert bytes(edited.headers).startswith(
        b"DKIM-Signature: v=1; a=x;\r\n\tb=1\r\nDKIM-Signature: v=1; b=2\r\nA: 1\r\n"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X", "a\r\nY: b"),
        ("X", "a\nb"),
        ("X", "a\rb"),
        ("X", "a\0b"),
        ("X", "\ud800"),
        ("X", "a" * 70_000),
        ("", "a"),
        ("X Y", "a"),
        ("X:", "a"),
        ("X\r\nY", "a"),
        ("\u00dc", "a"),
        ("X" * 300, "a"),
    ],
)
def test_a_field_that_would_break_the_message_is_left_out(name: str, value: str) -> None:
    edited = message()
    (problem,) = answer(milter={"add_headers": {name: value}}).edit_header(edited)
    assert problem.startswith("add_headers: ")
    assert problem.isprintable()
    assert edited.edits == ()
    (problem,) = answer(milter={"spam_header": {name or "X\0": value}}).mark_spam(edited, "X-Spam")
    assert problem.startswith("spam_header: ")
    assert edited.edits == ()


def test_long_lines_are_folded_and_short_ones_stay() -> None:
    edited = message()
    assert answer(milter={"add_headers": {"X": "a " * 600, "Y": "b " * 200}}).edit_header(edited) == []
    lines = bytes(edited.headers).split(b"\r\n")
    assert max(map(len, lines)) < 998
    assert b"Y: " + b"b " * 200 in lines


def test_envelope_edits_that_cannot_be_are_told() -> None:
    edited = message()
    told = answer(
        milter={
            "change_from": "a\r\n@b.example",
            "add_rcpt": ["", "x\r\n@y", "n@b.example"],
            "del_rcpt": ["r@b.example", "\ud800"],
        }
    )
    problems = told.edit_envelope(edited)
    assert [problem.split(":")[0] for problem in problems] == ["change_from", "add_rcpt", "add_rcpt", "del_rcpt"]
    assert edited.recipients == (Address("n", "b.example"),)


def test_texts_of_the_mail_are_one_line() -> None:
    told = answer(subject="[SPAM] a\r\nBcc: x\u2028\0y \ud800", messages={"smtp_message": "no\r\n250 Ok" + "x" * 5000})
    assert told.subject == "[SPAM] a Bcc: x y ?"
    assert told.smtp_message.startswith("no 250 Okx")
    assert len(told.smtp_message) == 200
    assert answer(subject="=?utf-8?q?=C3=BC?=").subject == "=?utf-8?q?=C3=BC?="


def test_bytes_that_are_no_utf8_do_not_spoil_an_answer() -> None:
    told = RspamdAnswer.parse(
        b'{"action":"add_header","score":-1.239,"symbols":{"A\xff\n":{"score":1}},"x":"\x01\xfe"}'
    )
    assert (told.action, told.score, told.symbols) == ("add header", -1.24, {"A\ufffd ": 1.0})


def test_what_is_too_much_is_left_out() -> None:
    told = answer(
        symbols={f"S{number}": {"score": 1} for number in range(10_000)},
        milter={
            "add_headers": {"X": ["v"] * 10_000},
            "remove_headers": {f"X{number}": 0 for number in range(10_000)},
            "add_rcpt": ["a@b.example"] * 10_000,
        },
    )
    assert len(told.symbols) == SYMBOLS_LIMIT
    assert len(answer(milter={"add_headers": {"X": ["v" * 50_000] * 10}}).added) == 4
    assert len(told.added) == len(told.removed) == len(told.added_recipients) == FIELDS_LIMIT


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
_MILTER_KEYS = (
    "add_headers",
    "remove_headers",
    "change_from",
    "add_rcpt",
    "del_rcpt",
    "reject",
    "spam_header",
    "no_action",
)
_ANSWER_KEYS = ("required_score", "is_skipped", "symbols", "subject", "messages", "dkim-signature")
_MILTER = st.fixed_dictionaries({}, optional=dict.fromkeys(_MILTER_KEYS, _JSON))
_ANSWER = st.fixed_dictionaries(
    {"action": st.just("reject") | _JSON, "score": st.just(1) | _JSON},
    optional={**dict.fromkeys(_ANSWER_KEYS, _JSON), "milter": _MILTER},
)


@given(_ANSWER)
@settings(max_examples=300)
def test_whatever_it_says_the_message_stays_one(told: dict[str, Any]) -> None:
    with contextlib.suppress(Unavailable):
        parsed = RspamdAnswer.parse(json.dumps(told).encode())
        edited = message()
        problems = [*parsed.problems, *parsed.edit_header(edited), *parsed.edit_envelope(edited)]
        problems += parsed.mark_spam(edited, "X-Spam")
        assert all(problem.isprintable() for problem in problems)
        assert edited.recipients
        data = bytes(edited.headers)
        assert bytes(Headers.parse(data)) == data


@given(st.binary(max_size=200))
def test_garbage_is_unavailable(data: bytes) -> None:
    with pytest.raises(Unavailable):
        RspamdAnswer.parse(data)
