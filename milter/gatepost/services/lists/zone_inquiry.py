"""Asking DNS lists: every zone about everything at once, what the answers come to, and what the client is told.

Theory of operation. `ZoneInquiry` asks; its memo keeps each answer for the message, also that there was none: fifty
recipients cost one look-up, and a dead name server one timeout. `verdict` then rules, for the options of one recipient:

- A listing in an allow-list ends it: no refusal. Otherwise the first zone that lists and has a verdict of its own
  gives it; otherwise the scores of all that list are summed.
- A zone without an answer matters only if it could change the outcome. Two rulings tell: with every such zone at its
  kindest and at its worst. If they agree, that is certain, whatever the zone would have said. If not, the plugin's
  on_unavailable decides: `defer` is a 451; `pass` goes by the zones that did answer.

So one dead list does not save a client that another one lists; and while an allow-list is silent no client is refused
for good that may stand there, unless the administrator has said `pass`.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from gatepost.action import denial
from gatepost.errors import Unavailable
from gatepost.services.dns.answer import to_dns_name, to_host
from gatepost.services.lists.zone import Zone, ZoneOptions, is_host_name, reversed_name
from gatepost.verdict import Deny

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from ipaddress import IPv6Address

    import structlog.typing

    from gatepost.action import ActionWord, Denial
    from gatepost.services.dns.resolver import Resolver

REASON_LIMIT = 200
"""Characters of a list's TXT in a reply, whose lines end at 512; a reason of a list is a sentence and an address."""

NAMES_LIMIT = 4
"""So many lists are named in a reply; the log of scores has them all."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NOT_ASCII = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True, slots=True)
class ZoneQuestion:
    """One thing that lists are asked about: `subject` as replies name it, `name` as it stands before the zone.

    `kind` chooses the lists that are asked, those whose `takes` says so.
    """

    subject: str
    name: str
    kind: str = ""

    @classmethod
    def client(cls, ip: IPv4Address | IPv6Address) -> ZoneQuestion:
        """Ask about a client's address."""
        return cls.address("client", ip)

    @classmethod
    def address(cls, what: str, ip: IPv4Address | IPv6Address, kind: str = "") -> ZoneQuestion:
        """Ask about an address, which replies call `what`."""
        return cls(f"{what} [{ip}]", reversed_name(ip), kind)

    @classmethod
    def domain(cls, what: str, domain: str, kind: str = "") -> ZoneQuestion | None:
        """Ask about a domain, which replies call `what`; None for what no list of domains has.

        That is no name at all, one of a single label, and an address: some lists answer any question about one with a
        listing, so that people notice their mistake.
        """
        dns_name = to_dns_name(domain)
        name = to_host(dns_name) if dns_name else ""
        if not is_host_name(name) or "." not in name or name.rpartition(".")[2].isdigit():
            return None
        return cls(f"{what} [{name}]", name, kind)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one zone said about one question: `listed` is None when it gave no answer, and `problem` tells why."""

    zone: Zone
    question: ZoneQuestion
    listed: bool | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Ruling:
    """A refusal: with which verdict, and on account of which findings; the first gives the reason."""

    action: ActionWord
    findings: tuple[Finding, ...]


class ZoneInquiry:
    """Asks zones for one message. `memo` is a dict of the plugin's own notes on the transaction."""

    def __init__(self, dns: Resolver, log: structlog.typing.FilteringBoundLogger, memo: dict[str, Any]) -> None:
        self._dns = dns
        self._log = log
        self._answers: dict[str, list[str]] = memo.setdefault("answers", {})
        self._problems: dict[str, str] = memo.setdefault("problems", {})
        self._told: list[str] = memo.setdefault("told", [])
        self._reasons: dict[str, str] = memo.setdefault("reasons", {})

    async def verdict(self, options: ZoneOptions, questions: Iterable[ZoneQuestion]) -> Denial | None:
        """Return the refusal that the zones come to; None for none.

        Raises Unavailable when zones that gave no answer could change that, as the module says.
        """
        # The same name twice, as sender and as HELO name, is one question.
        unique = {(question.name, question.kind): question for question in reversed(list(questions))}
        findings = await self.ask(options.zones, list(reversed(unique.values())))
        ruling = rule(options, [finding for finding in findings if finding.listed])
        silent = [finding for finding in findings if finding.listed is None]
        if silent and not is_certain(options, findings) and (ruling is None or options.on_unavailable == "defer"):
            raise Unavailable("dns", "; ".join(dict.fromkeys(finding.problem for finding in silent)))
        if ruling is None:
            self._tell_scores(options, findings)
            return None
        return await self._refusal(ruling)

    async def ask(self, zones: Iterable[Zone], questions: Sequence[ZoneQuestion]) -> list[Finding]:
        """Ask every zone about all it takes, side by side; the findings come zone by zone, in the order given."""
        pairs = [(zone, question) for zone in zones for question in questions if zone.takes(question.kind)]
        async with asyncio.TaskGroup() as group:
            for name in dict.fromkeys(_full_name(zone, question) for zone, question in pairs):
                if name not in self._answers and name not in self._problems:
                    group.create_task(self._look_up(name))
        return [self._finding(zone, question) for zone, question in pairs]

    async def _look_up(self, name: str) -> None:
        try:
            self._answers[name] = [str(address) for address in await self._dns.a(name)]
        except Unavailable as error:
            self._problems[name] = error.reason

    def _finding(self, zone: Zone, question: ZoneQuestion) -> Finding:
        name = _full_name(zone, question)
        try:
            if name not in self._problems:
                return Finding(zone, question, zone.lists(map(IPv4Address, self._answers[name])))
            # A customer's key in the zone is a secret in the log, too.
            problem = self._problems[name].replace(zone.zone, zone.label)
        except Unavailable as error:
            problem = str(error)
        if problem not in self._told:
            self._told.append(problem)
            self._log.warning("a list gave no answer", zone=zone.label, problem=problem)
        return Finding(zone, question, None, problem)

    async def _refusal(self, ruling: Ruling) -> Denial | None:
        first = ruling.findings[0]
        labels = list(dict.fromkeys(finding.zone.label for finding in ruling.findings))
        names = ", ".join(labels[:NAMES_LIMIT]) + (" and others" if len(labels) > NAMES_LIMIT else "")
        text = f"Service unavailable; {first.question.subject} blocked using {names}"
        if reason := clean(first.zone.text) or await self._reason(first):
            text = f"{text}; {reason}"
        refusal = denial(ruling.action, text, enhanced="5.7.1")
        # 554, as Postfix answers for its own lists (maps_rbl_reject_code).
        return replace(refusal, code=554) if isinstance(refusal, Deny) else refusal

    async def _reason(self, finding: Finding) -> str:
        """Return the list's own words, fit for a reply; empty if it has none or does not say them now."""
        name = _full_name(finding.zone, finding.question)
        if name not in self._reasons:
            try:
                records = await self._dns.txt(name)
            except Unavailable:
                # That it is listed is certain.
                records = ()
            # In an order of their own, whatever the name server's is.
            text = "; ".join(sorted({clean(record.decode("ascii", "replace")) for record in records} - {""}))
            self._reasons[name] = text[:REASON_LIMIT].rstrip()
        return self._reasons[name]

    def _tell_scores(self, options: ZoneOptions, findings: Iterable[Finding]) -> None:
        scoring = [one for one in findings if one.listed and options.effect(one.zone) == "score"]
        if scoring:
            zones = ", ".join(dict.fromkeys(one.zone.label for one in scoring))
            score = _sum(scoring)
            self._log.info("listed, but not refused", zones=zones, score=score, reject_score=options.reject_score)


def rule(options: ZoneOptions, listed: Sequence[Finding]) -> Ruling | None:
    """Return what follows if exactly these zones list; None: no refusal. `listed` is in the order of configuration."""
    effects = [(options.effect(finding.zone), finding) for finding in listed]
    if any(effect == "allow" for effect, _ in effects):
        return None
    for effect, finding in effects:
        if effect != "score":
            return Ruling(effect, (finding,))
    if not options.reject_score or _sum(listed) < options.reject_score:
        return None
    # The heaviest one's reason is told.
    against = [finding for finding in listed if finding.zone.score > 0]
    return Ruling(options.action, tuple(sorted(against, key=lambda one: -one.zone.score)))


def is_certain(options: ZoneOptions, findings: Iterable[Finding]) -> bool:
    """Return True if the zones without an answer cannot change whether there is a refusal."""
    kindest, worst = [], []
    for finding in findings:
        effect = options.effect(finding.zone)
        kind = effect == "allow" or (effect == "score" and finding.zone.score < 0)
        if finding.listed or (finding.listed is None and kind):
            kindest.append(finding)
        if finding.listed or (finding.listed is None and not kind):
            worst.append(finding)
    return (rule(options, kindest) is None) == (rule(options, worst) is None)


def clean(text: str) -> str:
    """Return foreign text on one line, fit for a reply: printable ASCII, single spaces."""
    return " ".join(_NOT_ASCII.sub("?", _CONTROL.sub(" ", text)).split())


def _sum(findings: Iterable[Finding]) -> float:
    """Return the sum of the scores as people reckon: 0.7 and 0.1 reach 0.8."""
    return round(sum(finding.zone.score for finding in findings), 6)


def _full_name(zone: Zone, question: ZoneQuestion) -> str:
    return f"{question.name}.{zone.zone}"
