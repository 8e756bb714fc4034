"""Every question in its order; what two of them notice is said once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatepost.ops.postfix.doctor import (
    drift,
    edge,
    front,
    inner,
    limits,
    live,
    milters,
    recipients,
    smuggling,
    sockets,
    timeouts,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gatepost.ops.postfix.doctor.examination import Examination
    from gatepost.ops.postfix.doctor.finding import Finding


def on_paper(facts: Examination) -> list[Finding]:
    """What configuration and file system tell; nothing is connected to but look-up tables."""
    # A socket outside the chroot comes before all that apply mends: until it is moved, apply refuses.
    found: list[Finding] = []
    for concern in (front, sockets, inner, milters, edge, timeouts, limits, smuggling, recipients):
        found += concern.find(facts)
    return [*found, *drift.find(facts, found)]


def alive(facts: Examination, before: Sequence[Finding]) -> list[Finding]:
    """What the sockets tell, where gatepost and Postfix should run, without what the findings `before` say already."""
    said = {one.parameter for one in before if one.severity == "finding"}
    return [one for one in live.find(facts) if one.parameter not in said]
