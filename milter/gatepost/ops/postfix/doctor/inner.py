"""The inner service: is it there, does it know gatepost's word for the client, and does the site's own filter stay."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from gatepost.ops.postfix.doctor.finding import Finding
from gatepost.ops.postfix.value import elements

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.ops.postfix.doctor.examination import Examination
    from gatepost.ops.postfix.doctor.smtpd import Smtpd


def find(facts: Examination) -> Iterator[Finding]:
    """Look at the inner service."""
    if not facts.fronts:
        return  # There is nothing for an inner service to do.
    if facts.inner is None:
        refused = f" ({facts.planned})" if isinstance(facts.planned, str) else ""
        yield Finding(
            facts.inner_key,
            "proxy.inner",
            f"master.cf has no smtpd service {facts.inner_key} for proxy.inner = {facts.config.proxy.inner}: "
            f"gatepost has nowhere to pass mail to, and clients get 451{refused}",
            "mend that first, then let apply make it" if refused else "let apply make it",
            facts.remedies.apply(),
        )
        return
    yield from _settings(facts, facts.inner)


def _settings(facts: Examination, inner: Smtpd) -> Iterator[Finding]:
    command = facts.remedies.apply()
    if inner.text("smtpd_proxy_filter"):
        problem = f"{inner.shown('smtpd_proxy_filter')}: accepted mail is sent round in a circle, or past the queue"
        yield Finding(inner.key, "smtpd_proxy_filter", problem, "leave it empty here", command)
    name = "smtpd_authorized_xforward_hosts"
    if not _authorised(elements(inner.text(name)), _source(facts)):
        problem = (
            f"{inner.shown(name)} does not name {_source(facts)}: gatepost may not say who the client is (XFORWARD)"
        )
        remedy = "authorise the loopback network: the log and header rewriting depend on it"
        yield Finding(inner.key, name, problem, remedy, command)
    if "no_milters" in inner.words("receive_override_options"):
        problem = (
            f"{inner.shown('receive_override_options')}: no_milters takes gatepost's milter off, nothing reads mail"
        )
        remedy = "remove no_milters here; content hooks need the milter, and mail gets 451 without it"
        yield Finding(inner.key, "receive_override_options", problem, remedy, command)
    wanted = {front.text("content_filter") for front in facts.fronts} - {""}
    if wanted and not inner.text("content_filter"):
        problem = (
            f"{inner.shown('content_filter')}, while the front has {' and '.join(sorted(wanted))}: behind a proxy "
            "filter the front's own has no effect, so this mail bypasses the site's filter"
        )
        yield Finding(inner.key, "content_filter", problem, "let the inner service have the front's filter", command)


def _source(facts: Examination) -> str:
    """The address that gatepost's connections to the inner service come from."""
    host = facts.config.proxy.inner.rpartition(":")[0].removeprefix("inet:").strip("[]")
    return "127.0.0.1" if host == "localhost" else host


def _authorised(patterns: tuple[str, ...], address: str) -> bool:
    """Whether a list of networks names the address; tables and names are believed (postconf(5), mynetworks)."""
    ours = ipaddress.ip_address(address)
    for pattern in patterns:
        try:
            network = ipaddress.ip_network(pattern.removeprefix("!").replace("[", "").replace("]", ""), strict=False)
        except ValueError:
            return True
        if ours in network:
            return not pattern.startswith("!")
    return False
