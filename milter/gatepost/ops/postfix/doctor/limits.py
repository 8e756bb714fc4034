"""Numbers that must fit together: processes and sessions, the size of messages, the errors that a client may make."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatepost.ops.postfix.doctor.finding import GATEPOST, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.ops.postfix.doctor.examination import Examination
    from gatepost.ops.postfix.doctor.smtpd import Smtpd

_ROOM = 12
"""How many further errors a client may make: 8 deferred recipients by default, and Postfix's own limit is 20."""


def find(facts: Examination) -> Iterator[Finding]:
    """Look at the process limits, then at the sizes, then at the error limits."""
    yield from _processes(facts)
    yield from _sizes(facts)
    listing = facts.roster.disagreeing
    content = facts.config.content
    if listing is not None and content.disagree == "defer-rest" and content.defer_limit:
        for front in facts.fronts:
            yield from _errors(facts, front, content.defer_limit, f"{listing.address}, {listing.overrides.source}")


def _processes(facts: Examination) -> Iterator[Finding]:
    sessions = facts.config.proxy.max_sessions
    limits = [front.process_limit for front in facts.fronts]
    for front in facts.fronts:
        if front.process_limit is None:
            yield Finding(
                front.key,
                "process_limit",
                f"{_column(front)}: as many clients as come, but gatepost serves proxy.max_sessions = {sessions} at "
                "once and tells the others 421",
                "limit the front, so that clients wait in the kernel's queue instead",
                facts.remedies.set_field(front.key, "process_limit", str(sessions // len(facts.fronts))),
            )
    finite = [limit for limit in limits if limit is not None]
    if len(finite) == len(limits) and sum(finite) > sessions:
        whole = " + ".join(f"{front.key} {front.process_limit}" for front in facts.fronts)
        yield Finding(
            GATEPOST,
            "proxy.max_sessions",
            f"proxy.max_sessions = {sessions} is below what the fronts may bring ({whole}, {sum(finite)} in all): the "
            "clients above it get 421",
            "allow as many sessions as there are smtpd processes, and reload gatepost",
            facts.remedies.set_key("proxy.max_sessions", str(sum(finite))),
        )
    inner = facts.inner
    if inner is None or not facts.fronts or inner.process_limit is None:
        return
    needed = min(sessions, sum(finite)) if len(finite) == len(limits) else sessions
    if inner.process_limit < needed:
        yield Finding(
            inner.key,
            "process_limit",
            f"{_column(inner)}, and gatepost may need {needed} connections: at the limit the kernel still accepts, no "
            "banner comes, and the client gets 451",
            "set no limit (0): the fronts' are enough",
            facts.remedies.apply(),
        )


def _sizes(facts: Examination) -> Iterator[Finding]:
    if not facts.config.plugins:
        return
    name, limit, remedies = "message_size_limit", facts.config.content.mime_limit, facts.remedies
    for front in facts.fronts:
        largest = front.text(name)
        if largest.isdecimal() and not 0 < int(largest) <= limit:
            yield Finding(
                front.key,
                name,
                f"{front.shown(name)}: of messages above content.mime_limit = {limit} no plugin sees the MIME parts, "
                "such as attachments and links",
                "raise content.mime_limit, or take no larger messages",
                remedies.set_key("content.mime_limit", largest)
                if int(largest)
                else remedies.set_option(front.key, name, str(limit))
                if name in front.service.options
                else remedies.set_main(name, str(limit)),
                "note",
            )


def _column(smtpd: Smtpd) -> str:
    column = smtpd.service.fields["process_limit"]
    if column == "-":
        return f"maxproc is -, which is default_process_limit = {smtpd.text('default_process_limit')}"
    return f"maxproc is {column}" + ("" if smtpd.process_limit else ", no limit")


def _errors(facts: Examination, front: Smtpd, deferred: int, who: str) -> Iterator[Finding]:
    """Our 452 to a recipient who disagrees is an error of the client's to the front (smtpd/smtpd.c, hard_error)."""
    name = "smtpd_hard_error_limit"
    usual, stressed = front.text(name), front.stressed.get(name, "")
    remedy = "raise it, or lower content.defer_limit"
    command = facts.remedies.set_option(front.key, name, str(deferred + _ROOM))
    consequence = (
        f"gatepost asks clients to send up to content.defer_limit = {deferred} recipients apart whose options differ "
        f"({who}), the front counts each as an error and hangs up with 421 before the message is sent, each time anew"
    )
    if usual.isdecimal() and int(usual) <= deferred:
        yield Finding(front.key, name, f"{front.shown(name)}: {consequence}", remedy, command)
    elif stressed.isdecimal() and int(stressed) <= deferred:
        problem = f"{name} is {stressed} under stress, while all of the front's processes are busy: {consequence}"
        yield Finding(front.key, name, problem, remedy, command, "note")
