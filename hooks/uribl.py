"""uribl: refuses or marks a message that links to what stands in a DNS list of domains or addresses.

Links are found in the subject, in text and in HTML (what is clicked, what is loaded, style sheets, refresh), in HTML
attachments and in attached messages; wrapped over lines, encoded, as a number, with a name in front of an @, within the
link of a redirector, and as a bare name such as example.com.

HOOKS
    data_post   a scanner: it runs side by side with those that stand next to it; links are looked for once a message

OPTIONS
    zones           required: the lists, each a name or a table of
        zone        the name of the list
        lookup      ["domain"]: what is looked up there, one or several of: "domain", the registered domain, for URIBL,
                    SURBL and others; "host", the whole host name; "ip", the address in a link without a name, which
                    URIBL and SURBL have, but Spamhaus' DBL must not be asked; "address", where a name leads to, and
                    "nameserver", where the name servers of its domain are: these two for lists of addresses
        tag         unset: what the option `tag` of the plugin says; true: a listing only marks; false: it refuses
        codes       []: the answers that count: "127.0.1.2", a range "127.0.1.2-99", or a bit "127.0.0.0&4" (with more
                    bits, any of them), by which one zone such as multi.uribl.com is several lists. Empty: every answer
                    in 127.0.0.0/8; 127.0.0.1, with which some lists refuse to answer, only with "allow" or a negative
                    score
        action      what a listing means: "deny", "defer", "deny_disconnect", "defer_disconnect"; "allow": what the list
                    has is not looked at further, but other links are; "score": see reject_score. Unset: the plugin's
        score       1: what a listing adds to the sum; may be negative
        text        "": the reason in the reply; empty: what the list itself says (TXT)
        name        "": what replies and the log call the list, where the zone holds your secret key; empty: the zone
    allow           ["w3.org", "schemas.microsoft.com"]: domains that are not looked up, nor what is below them. Your
                    own and those that all the world links to save look-ups
    tag             false: true accepts what would be refused, and adds a header field
    header          "X-URIBL": the name of that field; it holds what the reply would say. Where it is added, those of
                    that name that came with the message are removed
    max_domains     25: so many different domains of a message (hosts, with lookup "host" or "address") are looked up,
                    if [dns] max_queries_per_hook allows it. First those of disguised links, then links that are
                    clicked, then pictures, then bare names; of a surplus, half from its beginning and half spread over
                    the rest
    action          "deny": for zones without an action, and when reject_score is reached
    reject_score    0: above 0, zones without an action only add their score, and from this sum for one host on the
                    message is refused
    skip_authenticated  true: the mail of a client that has logged in is not looked at
    skip_whitelisted    true: nor what is whitelisted

    Of a host under a suffix where anybody can register (user.blogspot.com) both domains are looked up. Of a text
    longer than a megabyte the middle is not read, nor of shorter ones where there are several such; a message larger
    than content.mime_limit is not looked at. The log says so. In overrides zones are names only:
    `uribl.zones="a.example, b.example"`. `uribl=off`, `uribl.tag=true` for some recipients in the file of `aliases`.

REPLIES
    554 5.7.1 Service unavailable; linked domain [spam.example] blocked using dbl.example.org; reason
    554 5.7.1 Service unavailable; linked host [...], linked address [192.0.2.1] blocked using ...; likewise
    451 4.7.1 Service unavailable; ...  with "defer"; 421 and 521 with those that disconnect

FAILURE
    As with `dnsbl`: a zone that does not answer, refuses to, or gives an answer that no list gives is logged and never
    taken for "not listed"; where the missing answer could make the difference to a refusal, on_unavailable decides:
    "defer" (451), or "pass": only the zones that did answer count. A host in the message whose own name servers do not
    answer has no address to look up, and so too where it is only about a mark: the message goes on.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

from pydantic import Field, StringConstraints, field_validator

from gatepost import (
    Links,
    Plugin,
    Unavailable,
    Zone,
    ZoneInquiry,
    ZoneOptions,
    ZoneQuestion,
    find_links,
    registered_domains,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from ipaddress import IPv4Address, IPv6Address
    from typing import Any

    from gatepost import LinkedHost, Message, Transaction, Verdict

Lookup = Literal["domain", "host", "ip", "address", "nameserver"]

ADDRESSES_LIMIT = 4
"""So many addresses of one name are looked up: all are mostly one spammer's."""

RESERVE = 5
"""Questions that are left for the reasons (TXT) of what is refused."""


class LinkZone(Zone):
    """A list, and what it is asked about."""

    lookup: tuple[Lookup, ...] = Field(default=("domain",), min_length=1)
    tag: bool | None = None

    @field_validator("lookup", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    def takes(self, kind: str) -> bool:
        """Return True if that is looked up here."""
        return kind in self.lookup


class Options(ZoneOptions):
    """What the manual above says, beside what all askers of DNS lists take."""

    zones: tuple[LinkZone, ...] = Field(min_length=1)
    allow: tuple[str, ...] = ("w3.org", "schemas.microsoft.com")
    tag: bool = False
    header: Annotated[str, StringConstraints(pattern=r"^[!-9;-~]+$")] = "X-URIBL"
    max_domains: int = Field(default=25, ge=1)

    def halves(self) -> tuple[Options, Options]:
        """Return the options with the zones that refuse, and with those that mark; lists of friends are in both."""

        def chosen(tags: bool) -> tuple[LinkZone, ...]:
            return tuple(
                zone
                for zone in self.zones
                if zone.action == "allow" or (self.tag if zone.tag is None else zone.tag) == tags
            )

        return self.model_copy(update={"zones": chosen(False)}), self.model_copy(update={"zones": chosen(True)})


class Group(NamedTuple):
    """One host, and what is asked about it: a list of friends that has any of it speaks for all of it."""

    linked: LinkedHost
    questions: list[ZoneQuestion]


class Uribl(Plugin[Options]):
    """Asks about what a message links to."""

    scanner = True

    def init(self) -> None:
        self.options().refuse_idle_scores()
        # Reads the table of suffixes; messages are not to wait for that.
        registered_domains("example.com")

    async def data_post(self, transaction: Transaction, message: Message) -> Verdict | None:
        options = self.options(transaction)
        links = await self.once(message, lambda: self.in_thread(links_of, message))
        log = self.log.bind(txn=transaction.id)
        if links is None:
            log.info("links not looked at", reason="larger than content.mime_limit")
            return None
        groups = await self._groups(options, links, transaction)
        if not groups:
            return None
        inquiry = ZoneInquiry(self.dns, log, self.notes(transaction))
        await inquiry.ask(options.zones, [question for group in groups for question in group.questions])
        refusing, marking = options.halves()
        verdict = await first_refusal(inquiry, refusing, groups)
        if verdict is None and (mark := await self._mark(inquiry, marking, groups)):
            log.info("links to what is listed", listed=mark)
            message.delete_header(options.header, None)
            message.add_header(options.header, mark)
        return verdict

    async def _mark(self, inquiry: ZoneInquiry, options: Options, groups: Sequence[Group]) -> str:
        try:
            verdict = await first_refusal(inquiry, options, groups)
        except Unavailable:
            # Told by the inquiry; nobody's mail waits for a mark.
            return ""
        return "" if verdict is None else verdict.text.removeprefix("Service unavailable; ")

    async def _groups(self, options: Options, links: Links, transaction: Transaction) -> list[Group]:
        """Choose the hosts that are looked up, as many as may be, and what is asked about each."""
        budget = self.dns.max_queries_per_hook - RESERVE
        groups, left_out = await self.in_thread(choose, links, options, budget)
        if left_out or not links.is_complete:
            self.log.info("not all links are looked up", txn=transaction.id, asked=len(groups), left_out=left_out)
        budget -= sum(cost(group.questions, options.zones) for group in groups)
        for kind in ("address", "nameserver"):
            if any(zone.takes(kind) for zone in options.zones):
                budget = await self._add_addresses(kind, groups, options.zones, budget)
        return [group for group in groups if group.questions]

    async def _add_addresses(self, kind: str, groups: Sequence[Group], zones: Sequence[Zone], budget: int) -> int:
        """Add questions about where hosts lead to, or their name servers stand; return what is left to ask."""
        # Each costs its own look-ups, the lists', and none is left half done.
        each = (2 if kind == "address" else 5) + ADDRESSES_LIMIT * sum(zone.takes(kind) for zone in zones)
        named = [group for group in groups if group.linked.host.ip is None][: max(0, budget // each)]
        find = self._addresses if kind == "address" else self._nameservers
        what = "linked address" if kind == "address" else "linked name server"
        for group, found in zip(named, await asyncio.gather(*(find(g.linked.host.name) for g in named)), strict=True):
            usable = [ip for ip in dict.fromkeys(found) if not (ip.is_loopback or ip.is_unspecified)][:ADDRESSES_LIMIT]
            group.questions.extend(ZoneQuestion.address(what, ip, kind) for ip in usable)
        return budget - each * len(named)

    async def _addresses(self, name: str) -> list[IPv4Address | IPv6Address]:
        found: list[IPv4Address | IPv6Address] = []
        for answer in await asyncio.gather(self.dns.a(name), self.dns.aaaa(name), return_exceptions=True):
            if isinstance(answer, tuple):
                found += answer
            elif not isinstance(answer, Unavailable):
                raise answer
        return found

    async def _nameservers(self, name: str) -> list[IPv4Address | IPv6Address]:
        domains = registered_domains(name)
        try:
            answer = await self.dns.query(domains[-1], "NS") if domains else None
        except Unavailable:
            answer = None
        servers = sorted(str(record) for record in answer.records)[:2] if answer else []
        return [ip for found in await asyncio.gather(*map(self._addresses, servers)) for ip in found]


def links_of(message: Message) -> Links | None:
    """Return what a message links to; None if it is too large. For a thread."""
    root = message.structure
    return None if root is None else find_links(root)


def choose(links: Links, options: Options, budget: int) -> tuple[list[Group], int]:
    """Return the hosts that are looked up, with what is asked directly, and how many are left out. For a thread."""
    allowed = frozenset(domain.lower().strip(".") for domain in options.allow)
    by_host = any(zone.takes("host") or zone.takes("address") for zone in options.zones)
    different: dict[object, Group] = {}
    for linked in links.hosts:
        if not is_below(linked.host.name, allowed):
            questions = direct_questions(linked, options.zones)
            # Any number of names below one domain is one question, unless the names count.
            key = linked.host if by_host else registered_domains(linked.host.name) or linked.host
            different.setdefault(key, Group(linked, questions))
    chosen = []
    for group in spread(list(different.values()), options.max_domains):
        budget -= cost(group.questions, options.zones)
        if budget < 0:
            break
        chosen.append(group)
    return chosen, len(different) - len(chosen)


async def first_refusal(inquiry: ZoneInquiry, options: Options, groups: Iterable[Group]) -> Verdict | None:
    """Return the verdict on the first host that has one; Unavailable if none has, and one might have had."""
    if not options.zones:
        return None
    problem: Unavailable | None = None
    for group in groups:
        try:
            verdict = await inquiry.verdict(options, group.questions)
        except Unavailable as error:
            problem = problem or error
        else:
            if verdict is not None:
                return verdict
    if problem is not None:
        raise problem
    return None


def direct_questions(linked: LinkedHost, zones: Sequence[Zone]) -> list[ZoneQuestion]:
    """Return what can be asked about a host without looking it up."""
    host = linked.host
    if host.ip is not None:
        return [ZoneQuestion.address("linked address", host.ip, kind="ip")]
    questions = [ZoneQuestion.domain("linked domain", domain, "domain") for domain in registered_domains(host.name)]
    questions.append(ZoneQuestion.domain("linked host", host.name, "host"))
    return [one for one in questions if one is not None and any(zone.takes(one.kind) for zone in zones)]


def cost(questions: Iterable[ZoneQuestion], zones: Sequence[Zone]) -> int:
    """Return how many look-ups that makes; a zone that stands there several times is asked once."""
    return len({(zone.zone, question.name) for question in questions for zone in zones if zone.takes(question.kind)})


def is_below(name: str, domains: frozenset[str]) -> bool:
    """Return True for one of the domains, and for what is below one."""
    labels = name.split(".")
    return any(".".join(labels[place:]) in domains for place in range(len(labels)))


def spread(groups: Sequence[Group], limit: int) -> list[Group]:
    """Return at most so many: half from the beginning, the others at equal distances, so that no padding hides any."""
    if len(groups) <= limit:
        return list(groups)
    first = (limit + 1) // 2
    rest, wanted = groups[first:], limit - first
    return [*groups[:first], *(rest[(place + 1) * len(rest) // wanted - 1] for place in range(wanted))]
