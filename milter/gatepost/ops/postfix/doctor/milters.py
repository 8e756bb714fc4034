"""Milters: gatepost's own is on the inner service once, fails closed, is known by its name, and is nowhere else.

With milter.edge on it is on the fronts, too: `edge` looks at those.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from gatepost.ops.postfix import entry, milters, place
from gatepost.ops.postfix.doctor.finding import MAIN, Finding
from gatepost.ops.postfix.value import elements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.ops.postfix.doctor.examination import Examination
    from gatepost.ops.postfix.doctor.smtpd import Smtpd

_LISTS = ("smtpd_milters", "non_smtpd_milters")


def find(facts: Examination) -> Iterator[Finding]:
    """Look at every list of milters, then at the inner service's settings about them."""
    for service, name, value in _lists(facts):
        if place.LIBMILTER.search(value):
            yield _misspelt(facts, service, name, value)
        if service != facts.inner_key and any(map(facts.is_ours, elements(value))):
            yield from _astray(facts, service, name, value)
    if facts.inner is not None and facts.fronts:
        yield from _on_inner(facts, facts.inner)
        yield from _settings(facts, facts.inner)
    yield from _kept(facts)


def _lists(facts: Examination) -> Iterator[tuple[str, str, str]]:
    """Service, parameter and expanded value of every list of milters, where it is written."""
    for name in _LISTS:
        yield MAIN, name, facts.main.get(name, "")
    for service in facts.configuration.services:
        for name in _LISTS:
            if name in service.options:
                yield service.key, name, service.expanded.get(name, "")


def _misspelt(facts: Examination, service: str, name: str, value: str) -> Finding:
    mended = place.LIBMILTER.sub(place.postfix_spelling, value)
    found = place.LIBMILTER.search(value)
    return Finding(
        service,
        name,
        f"{name} = {value}: {found[0] if found else value} is libmilter's spelling; Postfix takes it for a host name, "
        "and smtpd dies or goes without",
        "Postfix writes inet:HOST:PORT",
        _set(facts, service, name, mended),
    )


def _astray(facts: Examination, service: str, name: str, value: str) -> Iterator[Finding]:
    edge = facts.config.milter.edge
    if edge and name == "smtpd_milters" and service in {front.key for front in facts.fronts}:
        return
    others = ", ".join(one for one in elements(value) if not facts.is_ours(one))
    place = "only fronts and the inner service pass" if edge else "only the inner service passes"
    here = "here" if edge else "here, with milter.edge off,"
    yield Finding(
        service,
        name,
        f"{name} = {value} has gatepost's milter: {place} it messages that it knows; {here} it lets everything pass "
        "unseen and costs each session a connection",
        "take gatepost's milter off this list; the inner service has its own",
        _set(facts, service, name, others),
    )


def _set(facts: Examination, service: str, name: str, value: str) -> str:
    if service == MAIN:
        return facts.remedies.set_main(name, value)
    return facts.remedies.set_option(service, name, value)


def _on_inner(facts: Examination, inner: Smtpd) -> Iterator[Finding]:
    there = elements(inner.text("smtpd_milters"))
    ours = [one for one in there if facts.is_ours(one)]
    shown, command = inner.shown("smtpd_milters"), facts.remedies.apply()
    if not ours:
        yield Finding(
            inner.key,
            "smtpd_milters",
            f"{shown} lacks gatepost's milter ({facts.config.milter.socket}): no header, body or end-of-message hook "
            "runs, and mail that needs one gets 451",
            "let apply set it",
            command,
        )
    elif len(ours) > 1:
        problem = f"{shown} has gatepost's milter {len(ours)} times: every message is read and edited as often"
        yield Finding(inner.key, "smtpd_milters", problem, "list it once", command)
    elif strangers := _strangers(facts, inner):
        yield Finding(
            inner.key,
            "smtpd_milters",
            f"{shown}: {', '.join(strangers)} comes along, and sees every client as localhost, which a signer trusts",
            "let apply take it off; apply --milters=inner puts the front's milters there on purpose",
            command,
        )
    for one in ours:
        action = re.search(r"\bdefault_action\s*=\s*(\w+)", one)
        if action and action[1] != "tempfail":
            yield _open(inner, "smtpd_milters", f"smtpd_milters has {one}", command)


def _strangers(facts: Examination, inner: Smtpd) -> list[str]:
    """Milters of the inner service that are not ours, and that apply did not move there; none where it would refuse."""
    if isinstance(facts.planned, str):
        return []
    wanted = next(one.options["smtpd_milters"] for one in facts.planned.entries if one.service == inner.key)
    # Both unexpanded: what has moved is written as it was in main.cf.
    there = elements(inner.written.get("smtpd_milters", ""))
    return [one for one in there if not facts.is_ours(one) and one not in elements(wanted or "")]


def _kept(facts: Examination) -> Iterator[Finding]:
    """Note what it means for a front's own milters that they stayed there."""
    for decision in facts.planned.applied.fronts if not isinstance(facts.planned, str) else ():
        said = milters.consequences(decision)
        if said is not None and decision.milters == "keep-front":
            yield Finding(
                decision.service,
                "smtpd_milters",
                said,
                "leave them, if they only refuse; a signer belongs behind gatepost, told that localhost is not its own",
                replace(facts.remedies, milters="inner").apply(),
                "note",
            )


def _settings(facts: Examination, inner: Smtpd) -> Iterator[Finding]:
    command = facts.remedies.apply()
    if inner.text("milter_default_action") != "tempfail":
        yield _open(inner, "milter_default_action", inner.shown("milter_default_action"), command)
    if inner.text("smtpd_milter_maps"):
        problem = f"{inner.shown('smtpd_milter_maps')}: a line for localhost there takes gatepost's milter off"
        yield Finding(inner.key, "smtpd_milter_maps", problem, "leave it empty here", command)
    if inner.text("milter_macro_daemon_name") != entry.DAEMON_NAME:
        yield Finding(
            inner.key,
            "milter_macro_daemon_name",
            f"{inner.shown('milter_macro_daemon_name')}: the content door knows the inner service's sessions by "
            f"{entry.DAEMON_NAME}, and takes others for strangers' that it has no business with",
            "let apply set it",
            command,
        )


def _open(inner: Smtpd, parameter: str, shown: str, command: str) -> Finding:
    return Finding(
        inner.key,
        parameter,
        f"{shown}: while gatepost is down or too slow, Postfix decides by this about mail that nobody has looked at; "
        "with accept it answers 250",
        "tempfail is the one value that fails closed: the client tries again",
        command,
    )
