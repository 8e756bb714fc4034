"""Who gives up first: gatepost must answer before Postfix loses patience, wherever that waits for gatepost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatepost.doors.crossing import LATE_ANSWER_S
from gatepost.doors.inner import GREETING_TIMEOUT_S, MAX_AGE_S
from gatepost.doors.switchboard import ANSWER_MARGIN_S
from gatepost.ops.postfix.doctor.finding import GATEPOST, Finding
from gatepost.ops.postfix.value import elements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.ops.postfix.doctor.examination import Examination
    from gatepost.ops.postfix.doctor.smtpd import Smtpd


def find(facts: Examination) -> Iterator[Finding]:
    """Compare the times of fronts and inner service with proxy.front_timeout, and with each other."""
    if not facts.fronts:
        return
    budget = facts.config.proxy.front_timeout
    yield from _proxy(facts, budget)
    if facts.inner is not None:
        yield from _milter(facts, facts.inner, budget)
        yield from _connection(facts, facts.inner)
        yield from _others(facts, facts.inner, budget)


def _proxy(facts: Examination, budget: float) -> Iterator[Finding]:
    limits = [(one, limit) for one in facts.fronts if (limit := one.seconds("smtpd_proxy_timeout")) is not None]
    for front, limit in limits:
        if limit < budget:
            yield Finding(
                front.key,
                "smtpd_proxy_timeout",
                f"{front.shown('smtpd_proxy_timeout')} is below proxy.front_timeout = {budget:g}s: Postfix hangs up on "
                "gatepost while a message is being looked at, the client gets 451, and its next try may be a duplicate",
                "give both the same value",
                facts.remedies.set_option(front.key, "smtpd_proxy_timeout", f"{budget:g}s"),
            )
    least = min((limit for _, limit in limits), default=0)
    if least > budget:
        yield Finding(
            GATEPOST,
            "proxy.front_timeout",
            f"proxy.front_timeout = {budget:g}s is below smtpd_proxy_timeout, {least}s at least: gatepost answers 451 "
            "although Postfix would wait longer",
            "give both the same value, and reload gatepost",
            facts.remedies.set_key("proxy.front_timeout", f'"{least}s"'),
            "note",
        )


def _milter(facts: Examination, inner: Smtpd, budget: float) -> Iterator[Finding]:
    # At the dot the hooks have until the margin, and their verdict that much longer to come across.
    content = budget - ANSWER_MARGIN_S + LATE_ANSWER_S
    # What gatepost itself allows the inner service for connection and banner, the milter's connection included.
    for name, least, why in (
        ("milter_content_timeout", content, "Postfix gives the milter up while content hooks are still at work"),
        ("milter_command_timeout", GREETING_TIMEOUT_S, "a busy moment of gatepost's is enough for a 451"),
        ("milter_connect_timeout", GREETING_TIMEOUT_S, "a busy moment of gatepost's is enough for a 451"),
    ):
        limit = inner.seconds(name)
        if limit is not None and limit < least:
            yield Finding(
                inner.key,
                name,
                f"{inner.shown(name)} is below {least:g}s (proxy.front_timeout is {budget:g}s): {why}",
                f"allow at least {least:g}s",
                facts.remedies.set_option(inner.key, name, "300s" if least < 300 else f"{least:g}s"),
            )


def _connection(facts: Examination, inner: Smtpd) -> Iterator[Finding]:
    slowest = max(front.seconds("smtpd_timeout") or 0 for front in facts.fronts)
    least = max(slowest, facts.config.proxy.front_timeout, MAX_AGE_S)
    limit = inner.seconds("smtpd_timeout")
    if limit is not None and limit <= least:
        yield Finding(
            inner.key,
            "smtpd_timeout",
            f"{inner.shown('smtpd_timeout')} is not above {least:g}s: the inner service hangs up between messages, or "
            f"on a client that pauses within one, which the front allows for {slowest}s",
            "let apply set it to an hour; the front ends clients that are too slow",
            facts.remedies.apply(),
        )


def _others(facts: Examination, inner: Smtpd, budget: float) -> Iterator[Finding]:
    """Note other milters behind ours: one that takes long leaves a 451 for the client and a message in the queue."""
    limit = inner.seconds("milter_content_timeout") or 0
    there = elements(inner.text("smtpd_milters"))
    patient = [one for one in there if not facts.is_ours(one) and "content_timeout" not in one]
    if patient and any(map(facts.is_ours, there)) and limit > budget - ANSWER_MARGIN_S:
        yield Finding(
            inner.key,
            "milter_content_timeout",
            f"{inner.shown('milter_content_timeout')} holds for {', '.join(patient)}, too: if it takes longer than "
            f"{budget - ANSWER_MARGIN_S:g}s, the client gets 451 and tries again, and the message may be queued twice",
            "give that milter a time of its own where it is listed: { ADDRESS, content_timeout=60s }",
            facts.remedies.apply(),
            "note",
        )
