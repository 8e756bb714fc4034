"""SMTP smuggling: a lone line feed must end no message, on the front and behind it, whoever the client is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatepost.ops.postfix.doctor.finding import MAIN, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.ops.postfix.doctor.examination import Examination
    from gatepost.ops.postfix.doctor.smtpd import Smtpd

_STRICT = frozenset({"normalize", "yes", "reject"})


def find(facts: Examination) -> Iterator[Finding]:
    """Look at fronts and inner service."""
    if not facts.fronts:
        return
    if "smtpd_forbid_bare_newline" not in facts.configuration.known:
        yield Finding(
            MAIN,
            "smtpd_forbid_bare_newline",
            f"Postfix {facts.main['mail_version']} does not have it: gatepost refuses smuggled messages, but mail that "
            "does not pass through gatepost is not protected",
            "update to Postfix 3.5.24, 3.6.14, 3.7.10, 3.8.5, 3.9 or later",
            "postconf -h mail_version",
            "note",
        )
        return
    for smtpd in (*facts.fronts, *((facts.inner,) if facts.inner is not None else ())):
        yield from _service(facts, smtpd)


def _service(facts: Examination, smtpd: Smtpd) -> Iterator[Finding]:
    where = "the front passes on" if smtpd.key != facts.inner_key else "the inner service takes"
    if smtpd.text("smtpd_forbid_bare_newline") not in _STRICT:
        yield Finding(
            smtpd.key,
            "smtpd_forbid_bare_newline",
            f"{smtpd.shown('smtpd_forbid_bare_newline')}: {where} a line feed without carriage return as the end of a "
            "line, by which a second message can be smuggled in under another sender",
            "let apply set it",
            facts.remedies.apply(),
        )
    name = "smtpd_forbid_bare_newline_exclusions"
    if smtpd.text(name):
        yield Finding(
            smtpd.key,
            name,
            f"{smtpd.shown(name)}: {where} lone line feeds from these clients"
            + (", and gatepost is one of them" if smtpd.key == facts.inner_key else ""),
            "exempt nobody",
            facts.remedies.apply(),
        )
