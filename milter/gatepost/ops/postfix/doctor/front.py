"""The fronts: is there one, does it pass its mail to gatepost, and does nothing on it get in gatepost's way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatepost.ops.postfix import listener
from gatepost.ops.postfix.doctor.finding import MAIN, Finding
from gatepost.ops.postfix.value import elements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.ops.postfix.doctor.examination import Examination
    from gatepost.ops.postfix.doctor.smtpd import Smtpd


def find(facts: Examination) -> Iterator[Finding]:
    """Look at every front."""
    if not facts.fronts and not facts.misplaced:
        yield _none(facts)
    for front in facts.fronts:
        if not facts.is_proxy(front.text("smtpd_proxy_filter")):
            yield _elsewhere(facts, front)
        if "speed_adjust" in front.words("smtpd_proxy_options"):
            yield _speed_adjust(facts, front)
        if front.yes("smtpd_sasl_auth_enable") and not facts.config.milter.edge:
            remedy = (
                "turn the edge door on, by which gatepost knows who has logged in, and restart gatepost; or let users "
                "log in at a submission service without gatepost, and not here"
            )
            yield _logins(front, remedy, f"{facts.remedies.set_key('milter.edge', 'true')} && {facts.remedies.apply()}")
    for service in facts.misplaced:
        # A submission service without logins would be none: gatepost is what must go.
        yield _logins(
            service,
            "take gatepost off this service, which is for users only; or turn the edge door on",
            _take_off(facts, service),
        )


def _none(facts: Examination) -> Finding:
    refused = f" ({facts.planned})" if isinstance(facts.planned, str) else ""
    return Finding(
        MAIN,
        "smtpd_proxy_filter",
        f"no smtpd service has gatepost's proxy ({facts.config.proxy.listen}) as its smtpd_proxy_filter, "
        f"so no mail passes through gatepost{refused}",
        "put gatepost before the service that the Internet reaches; --service NAME/TYPE says which",
        facts.remedies.apply(),
    )


def _elsewhere(facts: Examination, front: Smtpd) -> Finding:
    # Chrooted or not: whether it can be reached is asked by `sockets`.
    address = listener.proxy_filter(facts.config.proxy.listen, facts.queue_directory, chrooted=False)
    return Finding(
        front.key,
        "smtpd_proxy_filter",
        f"{front.shown('smtpd_proxy_filter')}, but gatepost's proxy.listen is {facts.config.proxy.listen}: "
        "this service's mail does not pass through gatepost",
        "set it to gatepost's; a filter that is meant to stand there goes behind gatepost's inner service",
        facts.remedies.set_option(front.key, "smtpd_proxy_filter", address)
        if front.text("smtpd_proxy_filter")
        else facts.remedies.apply(),
    )


def _speed_adjust(facts: Examination, front: Smtpd) -> Finding:
    others = ",".join(one for one in elements(front.text("smtpd_proxy_options")) if one != "speed_adjust")
    return Finding(
        front.key,
        "smtpd_proxy_options",
        f"{front.shown('smtpd_proxy_options')}: with speed_adjust Postfix answers RCPT before gatepost is asked, and "
        "the first recipient that gatepost refuses refuses the whole message",
        "remove speed_adjust",
        facts.remedies.set_option(front.key, "smtpd_proxy_options", others),
    )


def _logins(smtpd: Smtpd, remedy: str, command: str) -> Finding:
    return Finding(
        smtpd.key,
        "smtpd_sasl_auth_enable",
        f"{smtpd.shown('smtpd_sasl_auth_enable')} while milter.edge is off: XFORWARD does not say who has logged in, "
        "so skip_authenticated never applies and your own users are greylisted, listed and refused like strangers",
        remedy,
        command,
    )


def _take_off(facts: Examination, smtpd: Smtpd) -> str:
    if smtpd.key not in facts.recorded:
        return facts.remedies.set_option(smtpd.key, "smtpd_proxy_filter", "")
    # apply would put it back on whatever its record names.
    left = facts.remedies.services
    return facts.remedies.revert() + (f" && {facts.remedies.apply()}" if left else "")
