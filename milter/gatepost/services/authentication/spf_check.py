"""check_host() of RFC 7208: may this client send mail from this domain?

    finding = await check_host(self.dns, client, SpfIdentity("alice", "example.org"), helo)

The judgement is pyspf's; the questions are the shared resolver's. Owns neither the policy nor the reply.

Theory of operation. pyspf asks DNS in the middle of its work and waits for each answer, in a thread if it is let. A
hundred messages from a domain whose name servers are slow would hold a hundred threads, or hold up the mail of all
other domains. So nothing waits here: pyspf runs with the answers that are known; where it needs another one, the
run ends, the question goes to the resolver, and the next run gets further. A run takes a fraction of a millisecond, and
there are as many as there are questions that depend on each other: two or three, seldom ten. Runs over long records,
which take longer, are made in the processor's threads.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from time import thread_time
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import spf

from gatepost.deadline import of_hook
from gatepost.errors import Unavailable
from gatepost.idn import to_ascii
from gatepost.services.dns.answer import to_host
from gatepost.services.processor import in_thread

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address, IPv6Address

    from dns.rdtypes.ANY.PTR import PTR

    from gatepost.services.dns.resolver import Resolver

SpfResult = Literal["pass", "fail", "softfail", "neutral", "none", "temperror", "permerror"]
"""RFC 7208 section 2.6."""

RECORD_LIMIT_BYTES = 4096
"""Of one SPF record; a longer one is a permanent error. RFC 7208 section 3.4 wants 450; the largest of big companies
are below 2,000. Each word of it costs time, and a record may include ten others."""

EXPLANATION_LIMIT = 500
"""Characters of a domain's explanation that are kept: a reply has room for 2,000 with everything."""

MX_LIMIT = 10
PTR_LIMIT = 10
"""RFC 7208 section 4.6.4. More MX hosts are an error; more names of the client are not looked at."""

VOID_LIMIT = 2
"""RFC 7208 section 4.6.4: terms for which DNS has nothing."""

LOCAL_LIMIT = 256
"""Characters of a local part that macros are given: four times what RFC 5321 section 4.5.3.1.1 allows. A record can
repeat it a hundred times."""

TERM_LIMIT = 512
"""Characters of one term of a record, and of an explanation: the time for some of pyspf's searches in them grows with
the square, and 16 KB took it 17 seconds."""

WORK_LIMIT_S = 1.0
"""Processor time for one identity. Only a record made for that purpose needs more; it gets `temperror`, which section
4.6.4 has for what takes too long."""

_THREAD_BYTES = 1024
"""Of answers in all: with more, runs take milliseconds and are made off the event loop."""

_Question: TypeAlias = tuple[str, str]
_Records: TypeAlias = "Sequence[str | tuple[int, str] | tuple[bytes]]"
_Term: TypeAlias = tuple[str, str, str, int, str]


@dataclass(frozen=True, slots=True)
class SpfIdentity:
    """Who a client says that the mail is from: the mailbox of MAIL FROM, or postmaster at the name in HELO.

    The domain is made an A-label here, and the local part text that can be encoded.
    """

    local: str
    domain: str

    def __post_init__(self) -> None:
        """Bring both into the form in which they are compared and looked up."""
        local = self.local.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        object.__setattr__(self, "local", local[:LOCAL_LIMIT] or "postmaster")
        object.__setattr__(self, "domain", to_ascii(self.domain))

    @property
    def can_be_checked(self) -> bool:
        """False for what is no domain name of several labels: the result is then `none` (RFC 7208 section 4.3).

        Nor is an address, `[192.0.2.1]`, for which some name servers have a SERVFAIL.
        """
        return "." in self.domain and self.domain[0] != "[" and _could_exist(self.domain)


@dataclass(frozen=True, slots=True)
class SpfFinding:
    """What a check came to."""

    result: SpfResult
    domain: str
    """The domain that was asked about, with A-labels."""
    reason: str = ""
    """In words, for people: which term matched, what is wrong with the record, who did not answer."""
    explanation: str = ""
    """The domain's own words to who is refused (`exp=`), ASCII and printable; empty if there are none."""


async def check_host(
    resolver: Resolver,
    ip: IPv4Address | IPv6Address,
    identity: SpfIdentity,
    helo: str | None,
    *,
    limit_s: float = 20.0,
    explain: bool = True,
) -> SpfFinding:
    """Return what the domain says of this client; never an exception: what DNS does not answer makes it `temperror`.

    `explain` asks for the domain's explanation of a `fail`, which costs one more question.
    """
    domain = _printable(identity.domain)
    if not identity.can_be_checked:
        return SpfFinding("none", domain, "no domain name that could have a record")
    state = _State()
    if deadline := of_hook.get():
        # A result of our own says more than a hook that is given up.
        limit_s = min(limit_s, 0.9 * deadline.remaining())
    try:
        async with asyncio.timeout(limit_s):
            while True:
                run = _Run(state, str(ip), identity, helo or "")
                if state.answer_bytes > _THREAD_BYTES:
                    finding = await in_thread(run.finding)
                else:
                    finding = run.finding()
                if state.wanted:
                    wanted, state.wanted = state.wanted, []
                    state.known.update(zip(wanted, await _ask_all(resolver, wanted), strict=True))
                elif finding.result == "fail" and explain and not state.explain:
                    # Not sooner: nobody reads the explanation of a pass.
                    state.explain = True
                else:
                    return finding
                if state.work_s > WORK_LIMIT_S:
                    return SpfFinding("temperror", domain, "the record takes too much work")
    except TimeoutError:
        return SpfFinding("temperror", domain, f"no result within {limit_s:.3g} s")


@dataclass(slots=True)
class _State:
    """What the runs of one check have in common."""

    known: dict[_Question, _Records | Unavailable] = field(default_factory=dict)
    wanted: list[_Question] = field(default_factory=list)
    terms: dict[tuple[str, str], _Term] = field(default_factory=dict)
    """Terms by text and domain, parsed and expanded: the same in each run, and most of its work."""
    expanded: dict[tuple[str, bool, str], str] = field(default_factory=dict)
    """So too what has been expanded besides."""
    explain: bool = False
    work_s: float = 0.0

    @property
    def answer_bytes(self) -> int:
        """About how much there is to read in each run."""
        return sum(_size(records) for records in self.known.values() if not isinstance(records, Unavailable))


class _Run(spf.query):
    """One evaluation with what is known; if it leaves questions in `state.wanted`, its result means nothing.

    What is replaced here, beside DNS: void look-ups are counted by term, as the RFC has it, so that a client with IPv6
    does not make the third MX host that has only IPv4 an error; a PTR that cannot be looked up does not match (section
    5.5) and makes no `temperror`; a name that is not ASCII, by a macro and a local part, matches nothing (RFC 8616
    section 4).
    """

    def __init__(self, state: _State, ip: str, identity: SpfIdentity, helo: str) -> None:
        super().__init__(i=ip, s="", h=helo.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
        self._state = state
        # pyspf would take `"a@b"@example.org` for another domain.
        self.s = f"{identity.local}@{identity.domain}"
        self.l = identity.local
        self.o = self.d = identity.domain
        self._domain = _printable(identity.domain)
        self.set_default_explanation("")

    def finding(self) -> SpfFinding:
        """Judge."""
        started = thread_time()
        try:
            result, _, text = self.check()
        finally:
            self._state.work_s += thread_time() - started
        if result in {"temperror", "permerror"}:
            return SpfFinding(cast("SpfResult", result), self._domain, _printable(text.partition(": ")[2] or text))
        reason = f"by {self.mechanism}" if self.mechanism else ""
        explanation = text if result == "fail" else ""
        return SpfFinding(cast("SpfResult", result), self._domain, _printable(reason), _printable(explanation))

    def validate_mechanism(self, mech: str) -> _Term:
        _refuse_long(mech)
        key = (mech, self.d)
        term = self._state.terms.get(key)
        if term is None:
            term = self._state.terms[key] = super().validate_mechanism(mech)
        return term

    def expand_domain(self, arg: str) -> str:
        _refuse_long(arg)
        return super().expand_domain(arg)

    def expand(self, s: str, stripdot: bool = True) -> str:
        _refuse_long(s)
        key = (s, stripdot, self.d)
        text = self._state.expanded.get(key)
        if text is None:
            text = self._state.expanded[key] = super().expand(s, stripdot)
        return text

    def get_explanation(self, spec: str) -> str | None:
        return super().get_explanation(spec) if self._state.explain else None

    def dns(self, name: str, qtype: str, cnames: object = None, ignore_void: bool = False) -> list[object]:
        """Return the records that are known; TempError for no answer, and for a question that is still to be asked."""
        records = self._records(name, qtype)
        if not records and not ignore_void and _could_exist(name):
            self._count_void()
        return records

    def dns_mx(self, domainname: str) -> list[str]:
        hosts = [cast("tuple[int, str]", record)[1] for record in self.dns(domainname, "MX")]
        if len(hosts) > MX_LIMIT:
            raise spf.PermError(f"More than {MX_LIMIT} MX records returned")
        found: list[str] = []
        problem: spf.TempError | None = None
        for host in filter(None, hosts):
            try:
                found += cast("list[str]", self._records(host, self.A))
            except spf.TempError as error:
                problem = error  # the others all the same: then they are asked for at once
        if problem:
            raise problem
        if hosts and not found:
            self._count_void()
        return found

    def validated_ptrs(self) -> list[str]:
        names = self._records_if_any(f"{'.'.join(reversed(self.i.split('.')))}.{self.v}.arpa", "PTR")
        addresses = {name: self._records_if_any(name, self.A) for name in cast("list[str]", names)[:PTR_LIMIT]}
        if self._state.wanted:
            raise spf.TempError("not known yet")
        if not names:
            self._count_void()
        return [name for name, ips in addresses.items() if self.cidrmatch(cast("list[str]", ips), self.cidrmax)]

    def _records_if_any(self, name: str, rdtype: str) -> list[object]:
        try:
            return self._records(name, rdtype)
        except spf.TempError:
            return []

    def _records(self, name: str, rdtype: str) -> list[object]:
        name = name.removesuffix(".").lower()
        if not _could_exist(name):
            return []
        records = self._state.known.get((name, rdtype))
        if records is None:
            self._state.wanted.append((name, rdtype))
            raise spf.TempError("not known yet")
        if isinstance(records, Unavailable):
            raise spf.TempError(records.reason)
        if rdtype == "TXT" and any(_is_too_long(record) for record in records):
            raise spf.PermError(f"a record of more than {RECORD_LIMIT_BYTES} bytes")
        return list(records)

    def _count_void(self) -> None:
        self.void_lookups += 1
        if self.void_lookups > VOID_LIMIT:
            raise spf.PermError(f"Void lookup limit of {VOID_LIMIT} exceeded")


async def _ask_all(resolver: Resolver, questions: Sequence[_Question]) -> list[_Records | Unavailable]:
    return await asyncio.gather(*(_ask(resolver, name, rdtype) for name, rdtype in questions))


async def _ask(resolver: Resolver, name: str, rdtype: str) -> _Records | Unavailable:
    """Return the records as pyspf has them."""
    try:
        match rdtype:
            case "A":
                return list(map(str, await resolver.a(name)))
            case "AAAA":
                return list(map(str, await resolver.aaaa(name)))
            case "MX":
                return [(record.preference, record.host) for record in await resolver.mx(name)]
            case "TXT":
                return [(text,) for text in await resolver.txt(name)]
            case _:
                return [to_host(cast("PTR", record).target) for record in (await resolver.query(name, rdtype)).records]
    except Unavailable as problem:
        return problem


def _refuse_long(term: str) -> None:
    if len(term) > TERM_LIMIT:
        raise spf.PermError(f"a term of more than {TERM_LIMIT} characters", term[:40])


def _size(records: _Records) -> int:
    # Addresses and hosts are made into networks, and cost as much as a few words of text.
    return sum(len(record[0]) if isinstance(record, tuple) and len(record) == 1 else 10 for record in records)


def _could_exist(name: str) -> bool:
    return name.isascii() and all(0 < len(label) < 64 for label in name.removesuffix(".").split("."))


def _is_too_long(record: object) -> bool:
    # Others at the same name, for other purposes, may be as long as they like.
    (text,) = cast("tuple[bytes]", record)
    return len(text) > RECORD_LIMIT_BYTES and text[:7].lower() == b"v=spf1 "


def _printable(text: str) -> str:
    """Return the text in printable ASCII on one line: it comes from who is refused."""
    return "".join(char if " " <= char <= "~" else "?" for char in text[:EXPLANATION_LIMIT]).strip()
