"""Recipients that a plugin knows and Postfix does not: refused before gatepost hears of them, or lost behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatepost.address import Address
from gatepost.ops.postfix.doctor.finding import MAIN, Finding
from gatepost.ops.postfix.doctor.lookup import Tables
from gatepost.ops.postfix.doctor.remedy import edit
from gatepost.ops.postfix.doctor.routing import DOMAINS, TRANSPORTS, Routing

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from gatepost.ops.postfix.doctor.examination import Examination
    from gatepost.ops.postfix.doctor.roster import Listing
    from gatepost.ops.postfix.doctor.smtpd import Smtpd

_ANYBODY = "gatepost-doctor"
"""Stands for whoever `*` takes: an address that no table lists by name."""

_RESTRICTIONS = tuple(f"smtpd_{step}_restrictions" for step in ("client", "helo", "sender", "relay", "recipient"))
"""Where reject_unlisted_recipient may stand: all of them wait for RCPT (smtpd_delay_reject)."""

_SHOWN = 3
"""So many addresses are named; a file may have thousands."""


def find(facts: Examination) -> Iterator[Finding]:
    """Compare what the plugins' files list with Postfix's tables; nothing where no plugin lists recipients."""
    listings = facts.roster.listings
    if not listings or not facts.fronts:
        return
    domains = {one.address.domain for one in listings} | {end.domain for one in listings for end in one.ends}
    routing = Routing(Tables(facts.configuration.directory), facts.main, domains - {""})
    yield from _foreign(facts, routing, listings)
    for front in facts.fronts:
        if _refuses_unknown(front):
            yield from _hidden(facts, routing, front, listings)
    if facts.inner is not None:
        yield from _lost(facts, routing, facts.inner, listings)
    for name, reason in routing.unanswered.items():
        yield _unanswered(facts, name, reason)


def _refuses_unknown(front: Smtpd) -> bool:
    if "no_unknown_recipient_checks" in front.words("receive_override_options"):
        return False
    asked = any("reject_unlisted_recipient" in front.words(name) for name in _RESTRICTIONS)
    return asked or front.yes("smtpd_reject_unlisted_recipient")


def _foreign(facts: Examination, routing: Routing, listings: Sequence[Listing]) -> Iterator[Finding]:
    """Domains that are listed but are none of Postfix's own: relaying to them is denied to strangers."""
    # Names that other lines lead to need not be reachable from outside.
    steps = {target for one in listings for target in one.targets}
    listed = {one.address.domain for one in listings if one.address not in steps} - {""}
    foreign = sorted(domain for domain in listed if routing.class_of(domain) == "default")
    if foreign:
        # Its default, a condition on compatibility_level, need not be repeated: it is empty since 3.0.
        written = facts.postconf.written("relay_domains")
        yield Finding(
            MAIN,
            "relay_domains",
            f"{_some(foreign)} {'is' if len(foreign) == 1 else 'are'} in none of {', '.join(DOMAINS.values())}: "
            "Postfix denies strangers relaying to what the file of recipients lists, before gatepost is asked",
            "make them domains of this Postfix: relay_domains suits those whose mail gatepost sends on elsewhere",
            facts.remedies.set_main("relay_domains", ", ".join((*written.values(), *foreign))),
        )


def _hidden(facts: Examination, routing: Routing, front: Smtpd, listings: Sequence[Listing]) -> Iterator[Finding]:
    asked = {_concrete(one.address): one for one in listings}
    refused = routing.unknown(front.values, asked)
    for name, addresses in _by_parameter(refused).items():
        shown = [str(asked[address].address) for address in addresses]
        yield Finding(
            front.key,
            name,
            f"{front.shown(name)}: {_some(shown)} {'is' if len(shown) == 1 else 'are'} unknown to Postfix and refused "
            f"at RCPT, before gatepost is asked, although {_file(asked[addresses[0]])} lists "
            f"{'it' if len(shown) == 1 else 'them'}",
            *_let_through(facts, front, name, [asked[address] for address in addresses], routing.origin),
        )


def _let_through(
    facts: Examination, front: Smtpd, name: str, listed: Sequence[Listing], origin: str
) -> tuple[str, str]:
    """What to do so that Postfix does not refuse what is listed, and the command for it."""
    if name == TRANSPORTS["relay"]:
        # Debian's "Local only" sets it beside default_transport: domains to relay for have no meaning with it.
        return "let Postfix send on what it relays, as it does without that line", facts.remedies.unset_main(name)
    if not name.endswith("_maps"):
        return "let Postfix deliver to that domain, or take the line out", edit(listed[0].overrides.source)
    opened = _opened(front, name, {one.address.domain or origin for one in listed})
    return (
        "let the domains through here, for gatepost refuses their unknown recipients itself",
        facts.remedies.set_option(front.key, name, opened),
    )


def _opened(front: Smtpd, name: str, domains: Collection[str]) -> str:
    """The maps with one more, that knows everybody in these domains; in an alias map each address stands for itself."""
    entries = (
        f"@{domain}={f'@{domain}' if name == 'virtual_alias_maps' else 'gatepost'}" for domain in sorted(domains)
    )
    return ", ".join(filter(None, (front.written.get(name, ""), f"inline:{{{','.join(entries)}}}")))


def _lost(facts: Examination, routing: Routing, inner: Smtpd, listings: Sequence[Listing]) -> Iterator[Finding]:
    """Targets that the inner service accepts from gatepost, and that Postfix then does not know what to do with."""
    asked: dict[Address, Listing] = {}
    for one in listings:
        for end in one.ends:
            if end.local != "*":
                asked.setdefault(end, one)
    for name, addresses in _by_parameter(routing.unknown(inner.values, asked)).items():
        first = asked[addresses[0]]
        shown = [f"{address} ({asked[address].overrides.source})" for address in addresses]
        yield Finding(
            inner.key,
            name,
            f"{inner.shown(name)} does not know {_some(shown)}: mail that gatepost sends there is accepted and then "
            "returned, to senders who may be forged",
            "correct the target in the file, or make it known to Postfix",
            edit(first.overrides.source),
        )


def _unanswered(facts: Examination, name: str, reason: str) -> Finding:
    return Finding(
        MAIN,
        name,
        f"{name} cannot be asked, so it is not known which recipients Postfix refuses: {reason}",
        "see whether Postfix itself can ask it",
        f"postmap -c {facts.configuration.directory} -q postmaster {_first_word(reason)}",
        "note",
    )


def _first_word(reason: str) -> str:
    return reason.partition(": ")[0]


def _concrete(address: Address) -> Address:
    return Address(_ANYBODY, address.domain) if address.local == "*" else address


def _by_parameter(refused: Mapping[Address, str]) -> dict[str, list[Address]]:
    found: dict[str, list[Address]] = {}
    for address, name in sorted(refused.items(), key=lambda item: str(item[0])):
        found.setdefault(name, []).append(address)
    return found


def _file(listing: Listing) -> str:
    return listing.overrides.source.rpartition(":")[0]


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
