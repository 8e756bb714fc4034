"""Verdicts: what they may carry, what their names mean, and which of several is the mildest."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from gatepost.verdict import (
    DECLINED,
    OK,
    Declined,
    Deny,
    DenyDisconnect,
    DenySoft,
    DenySoftDisconnect,
    Ok,
    Verdict,
    mildest,
)

ALL: list[type[Verdict]] = [Declined, Ok, DenySoft, Deny, DenySoftDisconnect, DenyDisconnect]


@pytest.mark.parametrize(
    ("verdict", "denies", "permanent", "disconnects"),
    [
        (Declined, False, False, False),
        (Ok, False, False, False),
        (DenySoft, True, False, False),
        (Deny, True, True, False),
        (DenySoftDisconnect, True, False, True),
        (DenyDisconnect, True, True, True),
    ],
)
def test_a_verdict_says_whether_it_refuses_for_good_and_hangs_up(
    verdict: type[Verdict], denies: bool, permanent: bool, disconnects: bool
) -> None:
    assert (verdict().denies, verdict().permanent, verdict().disconnects) == (denies, permanent, disconnects)
    assert verdict().kind == verdict.__name__


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (DenySoft, 450),
        (DenySoft, 452),
        (Deny, 550),
        (Deny, 599),
        (DenySoftDisconnect, 421),
        (DenyDisconnect, 521),
    ],
)
def test_a_code_of_the_verdicts_own_class_is_taken(verdict: type[Verdict], code: int) -> None:
    assert verdict("no", code=code).code == code


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (DenySoft, 550),
        (DenySoft, 250),
        (DenySoft, 399),
        (DenySoft, 500),
        (Deny, 450),
        (Deny, 354),
        (Deny, 600),
        (DenySoftDisconnect, 450),
        (DenySoftDisconnect, 521),
        (DenyDisconnect, 421),
        (DenyDisconnect, 550),
    ],
)
def test_a_code_that_would_mean_another_verdict_is_refused(verdict: type[Verdict], code: int) -> None:
    with pytest.raises(ValueError, match=f"{verdict.__name__}: code={code}"):
        verdict("no", code=code)


@pytest.mark.parametrize(("verdict", "code"), [(DenySoft, 421), (Deny, 521)])
def test_the_codes_on_which_postfix_hangs_up_belong_to_the_disconnect_verdicts(
    verdict: type[Verdict], code: int
) -> None:
    with pytest.raises(ValueError, match=str(code)):
        verdict(code=code)


@pytest.mark.parametrize("enhanced", ["5.7.1", "4.7", "4.7.1.", "4.7.1234", " 4.7.1", "4.7.1\n", "x"])
def test_an_enhanced_code_of_another_class_or_form_is_refused(enhanced: str) -> None:
    with pytest.raises(ValueError, match=r"4\.X\.Y"):
        DenySoft(enhanced=enhanced)


@pytest.mark.parametrize("keywords", [{"code": 250}, {"enhanced": "2.0.0"}, {"code": 550, "enhanced": "5.0.0"}])
@pytest.mark.parametrize("verdict", [Declined, Ok])
def test_what_does_not_refuse_carries_no_code(verdict: type[Verdict], keywords: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="carries no reply code"):
        verdict(**keywords)


@pytest.mark.parametrize("verdict", ALL)
@pytest.mark.parametrize("text", [None, b"no", 5, ValueError("no")])
def test_a_text_that_is_no_text_is_an_error_of_the_plugin_that_gives_it(verdict: type[Verdict], text: Any) -> None:
    with pytest.raises(TypeError, match=f"{verdict.__name__}: the text is a {type(text).__name__}"):
        verdict(text)


def test_verdicts_are_values() -> None:
    assert Deny("no", code=550) == Deny("no", code=550)
    assert Deny("no") not in [DenySoft("no"), DenyDisconnect("no")]
    assert (Declined(), Ok()) == (DECLINED, OK)
    assert len({Deny("no"), Deny("no"), Deny("never")}) == 2


def test_the_mildest_is_soft_before_permanent_then_without_hang_up() -> None:
    order = [DenySoft(), DenySoftDisconnect(), Deny(), DenyDisconnect()]
    for verdicts in permutations(order):
        assert mildest(list(verdicts)) == DenySoft()
    assert mildest(order[1:]) == DenySoftDisconnect()
    assert mildest(order[2:][::-1]) == Deny()


def test_of_equally_mild_verdicts_the_first_is_taken() -> None:
    assert mildest([Deny("worse"), DenySoft("first"), DenySoft("second")]).text == "first"
