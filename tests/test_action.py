from __future__ import annotations

import pytest

from gatepost.action import ActionWord, denial, parse_action, parse_message_action
from gatepost.verdict import Deny, DenyDisconnect, DenySoft, DenySoftDisconnect


@pytest.mark.parametrize(
    ("written", "word"),
    [
        ("deny", "deny"),
        ("Reject", "deny"),
        ("DENYSOFT", "defer"),
        ("deny_soft", "defer"),
        ("DenyDisconnect", "deny_disconnect"),
        ("disconnect", "deny_disconnect"),
        ("defer-disconnect", "defer_disconnect"),
        ("DenySoftDisconnect", "defer_disconnect"),
        ("ok", "allow"),
    ],
)
def test_every_spelling_means_one_word(written: str, word: str) -> None:
    assert parse_action(written) == word


@pytest.mark.parametrize("value", ["", "perhaps", 5, None, True])
def test_anything_else_is_refused_with_the_words_there_are(value: object) -> None:
    with pytest.raises(ValueError, match="write allow, deny, defer, deny_disconnect or defer_disconnect"):
        parse_action(value)


@pytest.mark.parametrize(
    ("written", "word"), [("Tag", "tag"), ("QUARANTINE", "quarantine"), ("reject", "deny"), ("ok", "allow")]
)
def test_a_message_may_be_marked_or_held_too(written: str, word: str) -> None:
    assert parse_message_action(written) == word


def test_the_words_for_a_message_are_named() -> None:
    with pytest.raises(ValueError, match="or defer_disconnect; or quarantine, or tag"):
        parse_message_action("hold")


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        ("deny", Deny("no", enhanced="5.7.1")),
        ("defer", DenySoft("no", enhanced="4.7.1")),
        ("deny_disconnect", DenyDisconnect("no", enhanced="5.7.1")),
        ("defer_disconnect", DenySoftDisconnect("no", enhanced="4.7.1")),
    ],
)
def test_the_enhanced_code_gets_the_class_of_the_action(action: ActionWord, verdict: object) -> None:
    assert denial(action, "no", enhanced="5.7.1") == verdict


def test_allow_is_no_denial() -> None:
    assert denial("allow", "no") is None
