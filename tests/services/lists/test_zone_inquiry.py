"""zone_inquiry: what is asked, what answers and missing answers come to, and which words reach the client."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from gatepost import Zone, ZoneInquiry, ZoneOptions, ZoneQuestion
from gatepost.services.lists.zone_inquiry import Finding, clean, is_certain, rule
from gatepost.testing.dns_table import resolver_for_test

QUESTION = ZoneQuestion("client [192.0.2.1]", "1.2.0.192")

DENY, DEFER, ALLOW = {"action": "deny"}, {"action": "defer"}, {"action": "allow"}


def score(value: float) -> dict[str, Any]:
    return {"action": "score", "score": value}


def ruled(*zones: tuple[dict[str, Any], bool | None], threshold: float = 0) -> tuple[ZoneOptions, list[Finding]]:
    """Return options with these zones, called a, b, c.., and what each said."""
    tables = [{"zone": name, **table} for name, (table, _) in zip("abcdefgh", zones, strict=False)]
    options = ZoneOptions.model_validate({"zones": tables, "reject_score": threshold})
    findings = [Finding(zone, QUESTION, listed) for zone, (_, listed) in zip(options.zones, zones, strict=True)]
    return options, findings


def outcome(*zones: tuple[dict[str, Any], bool | None], threshold: float = 0) -> str:
    """Return the action and the zones that led to it; `none` without a refusal."""
    options, findings = ruled(*zones, threshold=threshold)
    ruling = rule(options, [finding for finding in findings if finding.listed])
    return "none" if ruling is None else f"{ruling.action} {''.join(one.zone.zone for one in ruling.findings)}"


@pytest.mark.parametrize(
    ("zones", "threshold", "expected"),
    [
        ([(DENY, False), (DENY, False)], 0, "none"),
        ([(DENY, False), (DENY, True)], 0, "deny b"),
        ([(DEFER, True), (DENY, True)], 0, "defer a"),
        ([(DENY, True), (DEFER, True)], 0, "deny a"),
        ([(DENY, True), (ALLOW, True)], 0, "none"),
        ([(ALLOW, False), (DENY, True)], 0, "deny b"),
        ([(score(2), True), (score(3), True)], 5, "deny ba"),
        ([(score(2), True), (score(3), False)], 5, "none"),
        ([(score(7), True), (score(-3), True)], 5, "none"),
        ([(score(8), True), (score(-3), True)], 5, "deny a"),
        ([(score(1), True), (DEFER, True)], 5, "defer b"),
        ([(score(9), True), (ALLOW, True)], 5, "none"),
        # An override has taken the sum away.
        ([(score(9), True)], 0, "none"),
        # Whatever floating point makes of tenths.
        ([(score(0.1), True)] * 8, 0.8, "deny abcdefgh"),
        ([(score(0.7), True), (score(0.1), True)], 0.8, "deny ab"),
    ],
)
def test_the_zones_that_list_come_to_this(
    zones: list[tuple[dict[str, Any], bool | None]], threshold: float, expected: str
) -> None:
    assert outcome(*zones, threshold=threshold) == expected


@pytest.mark.parametrize(
    ("zones", "threshold", "certain"),
    [
        ([(DENY, None), (DENY, True)], 0, True),
        ([(DENY, None), (DENY, False)], 0, False),
        ([(ALLOW, None), (DENY, False)], 0, True),
        ([(ALLOW, None), (DENY, True)], 0, False),
        ([(ALLOW, True), (DENY, None)], 0, True),
        ([(ALLOW, None), (DENY, None)], 0, False),
        ([(score(2), None), (score(2), False)], 5, True),
        ([(score(2), None), (score(3), True)], 5, False),
        ([(score(-2), None), (score(5), True)], 5, False),
        ([(score(-2), None), (score(7), True)], 5, True),
        ([(score(2), None)], 0, True),
        # The two together would come to nothing, as if neither listed; but each for itself would not.
        ([(score(3), None), (score(-3), None)], 3, False),
    ],
)
def test_a_missing_answer_matters_only_if_it_could_make_the_difference(
    zones: list[tuple[dict[str, Any], bool | None]], threshold: float, certain: bool
) -> None:
    assert is_certain(*ruled(*zones, threshold=threshold)) is certain


TABLES = st.one_of(st.sampled_from([DENY, DEFER, ALLOW]), st.integers(-4, 4).map(score))


@given(
    zones=st.lists(st.tuples(TABLES, st.sampled_from([True, False, None])), min_size=1, max_size=6),
    threshold=st.integers(0, 6),
)
def test_it_is_certain_exactly_if_every_completion_of_the_answers_agrees(
    zones: list[tuple[dict[str, Any], bool | None]], threshold: int
) -> None:
    options, findings = ruled(*zones, threshold=threshold)
    choices = [[True, False] if finding.listed is None else [finding.listed] for finding in findings]
    outcomes = set()
    for completion in itertools.product(*choices):
        complete = [replace(one, listed=listed) for one, listed in zip(findings, completion, strict=True)]
        outcomes.add(rule(options, [one for one in complete if one.listed]) is None)
    assert is_certain(options, findings) is (len(outcomes) == 1)


@pytest.mark.parametrize(
    ("domain", "name"),
    [
        ("spam.example", "spam.example"),
        ("SPAM.example.", "spam.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("_a.spam.example", "_a.spam.example"),
        ("", None),
        ("localhost", None),
        ("[192.0.2.1]", None),
        ("[ipv6:2001:db8::1]", None),
        ("192.0.2.1", None),
        ("2001:db8::1", None),
        ("spam..example", None),
        ("a b.example", None),
        ("*.example", None),
        ("a\\.b.example", None),
        ("x" * 64 + ".example", None),
        ("x." * 200 + "example", None),
        ("\udcff.example", None),
        ("spam.example\r\nRSET", None),
    ],
)
def test_only_names_are_asked_about(domain: str, name: str | None) -> None:
    question = ZoneQuestion.domain("sender domain", domain)
    assert (question and question.name) == name


def test_a_reply_calls_the_domain_by_its_ascii_name() -> None:
    question = ZoneQuestion.domain("HELO name", "Bücher.Example")
    assert question is not None
    assert question.subject == "HELO name [xn--bcher-kva.example]"


@pytest.mark.parametrize(
    ("foreign", "fit"),
    [
        ("Spam source, see https://bl.example/?192.0.2.1", "Spam source, see https://bl.example/?192.0.2.1"),
        ("two\r\nlines\tand\x00\x1b[31m\x7fmore", "two lines and [31m more"),
        ("  https://bl.example/?ip=2001%3Adb8  100% %s ", "https://bl.example/?ip=2001%3Adb8 100% %s"),
        ("böse", "b?se"),
        ("\r\n", ""),
    ],
)
def test_foreign_text_is_made_fit_for_a_reply(foreign: str, fit: str) -> None:
    assert clean(foreign) == fit


class HostZone(Zone):
    def takes(self, kind: str) -> bool:
        return kind == "host"


async def test_a_zone_is_asked_what_it_takes_and_nothing_else() -> None:
    dns = resolver_for_test({"a.example.hosts": {"A": ["127.0.0.2"]}, "a.example.all": {"A": ["127.0.0.2"]}})
    zones = [HostZone(zone="hosts"), Zone(zone="all")]
    questions = [ZoneQuestion("host [a.example]", "a.example", kind) for kind in ("host", "domain")]
    found = await ZoneInquiry(dns, structlog.get_logger(), {}).ask(zones, questions)
    await dns.close()
    assert [(one.zone.zone, one.question.kind) for one in found] == [
        ("hosts", "host"),
        ("all", "host"),
        ("all", "domain"),
    ]
