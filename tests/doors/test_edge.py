"""The edge door's own pieces: replies for libmilter, Postfix's refusals as replies, macros."""

from __future__ import annotations

from typing import Any

import milter
import pytest

from gatepost.doors.edge import answer, macro, refused_by_postfix
from gatepost.smtp.reply import Reply


class Context:
    """libmilter's side: records the reply, has one macro."""

    def __init__(self, value: bytes = b"") -> None:
        self.value = value
        self.reply: tuple[Any, ...] = ()

    def setreply(self, *arguments: Any) -> None:
        self.reply = arguments

    def getsymval(self, name: str) -> str:
        return self.value.decode()


@pytest.mark.parametrize(
    ("reply", "arguments", "returned"),
    [
        (Reply.of(550, "no", "5.7.1"), ("550", "5.7.1", "no"), milter.REJECT),
        (Reply.of(450, "100% later", "4.7.1"), ("450", "4.7.1", "100%% later"), milter.TEMPFAIL),
        (Reply.of(421, "a\nb", "4.3.2"), ("421", "4.3.2", "a", "b"), milter.TEMPFAIL),
        (Reply.of(521, "tab\tand é", "5.7.1"), ("521", "5.7.1", "tab and ?"), milter.REJECT),
        (Reply.of(550, "no code of its own"), ("550", None, "no code of its own"), milter.REJECT),
        (Reply.of(550, "a\n\nb", "5.7.1"), ("550", "5.7.1", "a", "", "b"), milter.REJECT),
        (Reply.of(550, "", "5.7.1"), ("550", "5.7.1", "Refused by local policy"), milter.REJECT),
    ],
)
def test_a_reply_is_what_libmilter_takes(reply: Reply, arguments: tuple[Any, ...], returned: int) -> None:
    context = Context()
    assert answer(context, reply) == returned
    assert context.reply == arguments


def test_a_reply_of_many_lines_is_cut_to_what_libmilter_takes() -> None:
    context = Context()
    answer(context, Reply.of(550, "\n".join(map(str, range(40))), "5.7.1"))
    assert context.reply[2:] == tuple(map(str, range(32)))


def test_a_line_with_every_percent_sign_doubled_is_no_longer_than_libmilter_takes() -> None:
    context = Context()
    answer(context, Reply.of(550, f"{'%' * 600}\n{'x' * 600}\n{'%' * 480}", "5.7.1"))
    assert context.reply[2:] == ("%" * 980, "x" * 500, "%" * 960)


@pytest.mark.parametrize(
    ("enhanced", "text", "reply"),
    [
        ("5.1.1", "User unknown", Reply.of(550, "User unknown", "5.1.1")),
        ("4.2.0", "Recipient address rejected: busy", Reply.of(450, "Recipient address rejected: busy", "4.2.0")),
        ("5.1.6", "Recipient address rejected:     ", Reply.of(550, "Recipient address rejected:", "5.1.6")),
        ("5.1.6 moved", "gone@example.org", None),
        ("5.1.6", "gone@example.org", None),
        ("example.org", "gone@example.org", None),
        ("", "", None),
    ],
)
def test_postfixs_refusal_of_a_recipient_is_a_reply(enhanced: str, text: str, reply: Reply | None) -> None:
    assert refused_by_postfix(enhanced, text) == reply


@pytest.mark.parametrize(("value", "known"), [(b"x", "x"), (b"", None), (b"hj\xe4p", r"hj\xe4p")])
def test_a_macro_that_is_empty_is_unknown_and_any_bytes_are_survived(value: bytes, known: str | None) -> None:
    assert macro(Context(value), "{cert_subject}") == known
