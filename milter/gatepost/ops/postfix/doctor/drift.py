"""Whatever else differs from what `apply` would write, one finding a service; or why apply would refuse."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gatepost.ops.postfix import entry
from gatepost.ops.postfix.doctor.finding import MAIN, Finding
from gatepost.ops.postfix.entry import Entry

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gatepost.ops.postfix.doctor.examination import Examination
    from gatepost.ops.postfix.plan import Plan

_PARAMETER = re.compile(r"\b(?:proxy|milter)\.\w+|\b[a-z]+(?:_[a-z]+)+\b")


def find(facts: Examination, before: Sequence[Finding]) -> Iterator[Finding]:
    """Say what the findings `before` have not said already."""
    if not facts.fronts:
        return
    if isinstance(facts.planned, str):
        if not any(one.parameter in facts.planned for one in before):
            yield _refusal(facts, facts.planned)
        return
    said = {(one.service, one.parameter) for one in before if one.severity == "finding"}
    left: dict[str, list[tuple[str, str]]] = {}
    for service, name, line in _differences(facts, facts.planned):
        if (service, name) not in said:
            left.setdefault(service, []).append((name, line.removeprefix(f"{service}: ")))
    for service, settings in left.items():
        yield Finding(
            service,
            ", ".join(name for name, _ in settings),
            f"not as apply would write it, which is: {', '.join(line for _, line in settings)}",
            "let apply repair it (gatepost postfix diff shows how)",
            facts.remedies.apply(),
        )


def _differences(facts: Examination, planned: Plan) -> Iterator[tuple[str, str, str]]:
    """Service, parameter and line of every difference, in apply's own words, setting by setting."""
    misplaced = {one.key for one in facts.misplaced}
    for wanted in planned.entries:
        there = facts.configuration.service(wanted.service)
        if there is None or there.key in misplaced:
            continue  # `inner` or `front` says so.
        for name, value in wanted.fields.items():
            for line in entry.differences(Entry(wanted.service, {name: value}), there):
                yield wanted.service, name, line
        for name, option in wanted.options.items():
            if name == "smtpd_proxy_filter" and option and facts.is_proxy(there.expanded.get(name, "")):
                continue  # Only spelled in another way.
            for line in entry.differences(Entry(wanted.service, options={name: option}), there):
                yield wanted.service, name, line
    if planned.obsolete is not None and facts.configuration.service(planned.obsolete) is not None:
        yield planned.obsolete, "proxy.inner", f"{planned.obsolete}: removed, proxy.inner is another now"


def _refusal(facts: Examination, reason: str) -> Finding:
    named = _PARAMETER.search(reason)
    return Finding(
        MAIN,
        named[0] if named else "master.cf",
        f"apply would refuse: {reason}",
        "mend that, then let apply see to the rest",
        facts.remedies.apply(),
    )
