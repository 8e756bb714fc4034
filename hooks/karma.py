"""karma: remembers how clients have behaved, and keeps those away for a while that bring mostly what is refused.

Each permanent refusal is a strike. Each message that Postfix has queued makes up for one, or for those of its own
recipients that were refused, as far as others of them were accepted. What is left at the end of a session, the next one
begins with: most spam comes in sessions of one message. The session that brings too many strikes together is a bad one,
and they begin anew; one with more messages than strikes is a good one. After a bad session, a client whose bad sessions
outnumber its good ones by `negative` has a penalty: for penalty_days it is refused. So a server with a good past can
have a bad day, a mailing list can have subscribers who have left, and a spammer unknown to every block list gets a few
tries a day. A good past is worth so much and no more (`credit`): a server that was good for years and has been broken
into is kept away all the same.

HOOKS
    connect             reads the history of the client and its network; with at = "connect", refuses. Runs at the
                        proxy, too; with the edge door strikes include the recipients that Postfix itself refused
    mail                reads that of the sender's domain; with at = "connect", refuses for that
    rcpt                with at = "rcpt", refuses each recipient
    deny, queue_post, reset_transaction     count strikes and queued messages
    disconnect          writes the histories. With the edge door the client has left by then; without it nothing was
                        heard of it for proxy.session_idle
    Put it first, after client_options and whitelist: what stands before it cannot read its notes.

OPTIONS
    strikes             3: so many more strikes than queued messages, in one session or several, make a bad one; 1: any
                        session with more strikes than queued messages is a bad one. With count_denies, 6 (its limit and
                        two) lets a mailing list that it hung up on come again at once, but not a second time
    negative            1: so many more bad sessions than good ones bring a penalty to the client; 0: never
    network_negative    0: so too for its whole network, whose other hosts may be others'; 0: never
    domain_negative     0: so too for the sender's domain. Anybody can write any sender: penalise domains only where
                        senders are checked; 0: never
    credit              30: so many good sessions at most are remembered beyond the bad ones. Large providers, whose
                        servers bring good and bad, need some; 0: good sessions only make up for bad ones before them
    penalty_days        1: how long; 0.5 is half a day
    keep                ["client", "network", "domain"]: whose history is kept, for penalties and for other plugins;
                        where network_negative or domain_negative is set, theirs is kept in any case
    history             "90d": this long after it last changed, a history is forgotten; one of strikes alone, too few
                        for a bad session, after a day
    ipv4_prefix         32: IPv4 clients of one network of this size are one client
    ipv6_prefix         64: so too IPv6 clients; one customer has a whole /64
    network_ipv4_prefix 24: the size of a network
    network_ipv6_prefix 48
    skip_networks       the private and loopback networks: clients there are neither refused nor counted. A webmail
                        server or a mailing list on this host has every mistake of its users
    action              "defer_disconnect": "defer", "deny", "deny_disconnect". The penalty ends, so that "defer" loses
                        no mail of an honest server that had a virus in the house
    text                "too much of your mail was refused lately"
    at                  "rcpt"; "connect" is sooner, but then no login and no exempt recipient is known yet
    skip_authenticated  true: a client that has logged in is neither refused nor counted (known with the edge door)
    skip_whitelisted    true: nor is one that is whitelisted

    With mode = "observe" histories are kept, and nobody is refused: a good beginning.

NOTES, for other plugins
    session.notes["karma"] has
        penalty_s       the verdict: so many seconds of a penalty are left; 0.0 if there is none
        score           good sessions less bad ones of the client, `credit` at most
        network_score   the same of its network
        good, strikes   those of this session so far. A plugin that has found something raises one of them:

        if karma := session.notes.get("karma"):
            karma["strikes"] += 3

    transaction.notes["karma"] has "penalty_s" and "score" of the sender's domain, from the hooks after mail on. Nothing
    of what is read is there while the store does not answer, no score where its history is not kept, and nothing at all
    of a client that is exempt.

REPLIES
    421 4.7.1 too much of your mail was refused lately; try again in 23 h
    At connect with the edge door, in place of the banner, Postfix says `421 HOST Service unavailable - try again
    later`.

FAILURE
    When the store does not answer, on_unavailable decides: "defer" (451) or "pass". Histories that cannot be written
    are lost. `gatepost store list karma:` shows them as [good, bad, end of the penalty, strikes left], and
    `gatepost store delete "karma:client 192.0.2.1/32"` forgives. A client, its network and its senders' domains, 20 at
    most, are an entry each, until `history` is over.
"""

from __future__ import annotations

import asyncio
import math
from ipaddress import ip_network
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias

from pydantic import Field, IPvAnyNetwork

from gatepost import (
    PRIVATE_NETWORKS,
    Action,
    Duration,
    Fixed,
    Keep,
    Plugin,
    PluginOptions,
    Put,
    Transaction,
    Unavailable,
    denial,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gatepost import Address, Entry, Recipient, Session, Verdict

Kind: TypeAlias = Literal["client", "network", "domain"]

DOMAINS_LIMIT = 20
"""Sender domains counted in one session: more come from a client whose own history says enough."""

STRIKES_ALONE_S = 86400.0
"""How long strikes are kept of who has no good and no bad session: most such entries are of hosts that never come
again, and a server unknown to us is not to be kept away for one misspelt recipient now and then."""

Ipv4Prefix: TypeAlias = Annotated[int, Field(ge=0, le=32)]
Ipv6Prefix: TypeAlias = Annotated[int, Field(ge=0, le=128)]
Count: TypeAlias = Annotated[int, Field(ge=0)]


class Options(PluginOptions):
    """What the manual above says; times in seconds, but for the days."""

    strikes: int = Field(default=3, ge=1)
    negative: Count = 1
    network_negative: Count = 0
    domain_negative: Count = 0
    credit: Count = 30
    penalty_days: float = Field(default=1, gt=0, le=3650)
    keep: tuple[Kind, ...] = ("client", "network", "domain")
    history: Annotated[Duration, Field(gt=0)] = 90 * 86400
    ipv4_prefix: Ipv4Prefix = 32
    ipv6_prefix: Ipv6Prefix = 64
    network_ipv4_prefix: Ipv4Prefix = 24
    network_ipv6_prefix: Ipv6Prefix = 48
    skip_networks: tuple[IPvAnyNetwork, ...] = PRIVATE_NETWORKS
    action: Action = "defer_disconnect"
    text: str = "too much of your mail was refused lately"
    at: Annotated[Literal["rcpt", "connect"], Fixed] = "rcpt"
    skip_authenticated: bool = True
    skip_whitelisted: bool = True

    def limit(self, kind: Kind) -> int:
        """Return how many more bad sessions than good ones bring a penalty; 0 for never."""
        return {"client": self.negative, "network": self.network_negative, "domain": self.domain_negative}[kind]

    def keeps(self, kind: Kind) -> bool:
        """Return whether a history is kept; that of a client with the default `negative` only where `keep` says so."""
        return kind in self.keep or (kind != "client" and self.limit(kind) > 0)


class History(NamedTuple):
    """What the store knows of one client, network or domain."""

    good: int = 0
    bad: int = 0
    penalty_until: float = 0.0
    strikes: float = 0
    """Those of earlier sessions that nothing has made up for, too few for a bad session."""

    @classmethod
    def read(cls, entry: Entry | None) -> History:
        match entry.value if entry else None:
            case [int() as good, int() as bad, int() | float() as until, int() | float() as strikes]:
                return cls(good, bad, until, strikes)
            case _:
                return cls()


class Karma(Plugin[Options]):
    """Reads at the beginning of a session, counts in its notes, and writes at its end."""

    async def connect(self, session: Session) -> Verdict | None:
        if _is_exempt(session, self.options(session)):
            return None
        try:
            await self._read_client(session)
        except Unavailable:
            if self.options().at == "connect":
                raise
            # Who has logged in by the first recipient need not be kept waiting; the others are asked for again there.
            return None
        at_once = self.options().at == "connect"
        return self._penalty(session, self.notes(session), self.options(session)) if at_once else None

    async def mail(
        self, transaction: Transaction, sender: Address, parameters: Mapping[str, str | None]
    ) -> Verdict | None:
        options = self.options(transaction)
        if _is_exempt(transaction, options):
            return None
        try:
            await self._read_domain(transaction, options)
        except Unavailable:
            if self.options().at == "connect":
                raise
            return None
        at_once = self.options().at == "connect"
        return self._penalty(transaction.session, self.notes(transaction), options) if at_once else None

    async def rcpt(self, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        options, session = self.options(recipient), transaction.session
        if self.options().at != "rcpt" or _is_exempt(transaction, options):
            return None
        notes, of_domain = self.notes(session), self.notes(transaction)
        if "penalty_s" not in notes:
            await self._read_client(session)
        if "score" not in of_domain:
            await self._read_domain(transaction, options)
        return self._penalty(session, notes, options) or self._penalty(session, of_domain, options)

    def deny(self, session: Session, hook: str, verdict: Verdict) -> None:
        notes, transaction = self.notes(session), session.transaction
        own = verdict.text in notes.get("said", ())
        if transaction is not None and (verdict.permanent or own):
            self.notes(transaction)["struck"] = True
        if verdict.permanent and not own:
            self._count(session, transaction, strikes=1)

    def queue_post(self, transaction: Transaction) -> None:
        if accepted := sum(recipient.outcome == "accepted" for recipient in transaction.recipients):
            # A list server that we see for the first time brings all its subscribers who have left at once.
            good = max(1, min(accepted, self.notes(transaction).get("strikes", 0)))
            self._count(transaction.session, transaction, good=good)

    def reset_transaction(self, transaction: Transaction) -> None:
        refused = any(recipient.outcome == "refused" for recipient in transaction.recipients)
        # The inner smtpd's refusals run no deny hook; a refusal that is repeated was counted when it was given.
        if refused and transaction.denial is None and not self.notes(transaction).get("struck"):
            self._count(transaction.session, transaction, strikes=1)

    async def disconnect(self, session: Session) -> None:
        options, notes = self.options(session), self.notes(session)
        if _is_exempt(session, options):
            return
        session_counts: tuple[int, int] = (notes.get("good", 0), notes.get("strikes", 0))
        counted: dict[str, tuple[Kind, tuple[int, int]]] = {
            key: (kind, session_counts) for kind, key in self._keys(session, options).items()
        }
        for domain, (good, strikes) in notes.get("domains", {}).items():
            counted[self._key("domain", domain)] = ("domain", (good, strikes))
        writes = [
            self._write(key, kind, strikes=strikes, good=good, options=options)
            for key, (kind, (good, strikes)) in counted.items()
        ]
        await asyncio.gather(*writes)

    async def _write(self, key: str, kind: Kind, *, good: int, strikes: int, options: Options) -> None:
        """Enter a session into one history."""
        if good == strikes:
            return
        penalty_s = options.penalty_days * 86400

        def enter(entry: Entry | None, now: float) -> Put[History | None]:
            known = History.read(entry)
            left = max(0, known.strikes + strikes - good)
            is_good, is_bad = good > strikes, strikes > good and left >= options.strikes
            bad = known.bad + is_bad
            credited = min(known.good + is_good, bad + options.credit)
            made = History(credited, bad, known.penalty_until, 0 if is_bad else left)
            penalised = is_bad and 0 < options.limit(kind) <= made.bad - made.good
            if penalised:
                made = made._replace(penalty_until=now + penalty_s)
            keep_s = options.history if made.good or made.bad else min(options.history, STRIKES_ALONE_S)
            return Put(list(made), max(now + keep_s, made.penalty_until), made if penalised else None)

        if penalised := await self.store.update(key, enter):
            self.log.info("penalised", who=key, good=penalised.good, bad=penalised.bad, days=options.penalty_days)

    async def _read_client(self, session: Session) -> None:
        notes = self.notes(session)
        # Others count on them, also in a session that began before this plugin was loaded.
        notes.setdefault("good", 0)
        notes.setdefault("strikes", 0)
        options = self.options(session)
        keys = self._keys(session, options)
        read = dict(zip(keys, await self._read(list(keys.values()), options), strict=True))
        notes["penalty_s"] = max((left for kind, (_, left) in read.items() if options.limit(kind)), default=0.0)
        for kind, note in (("client", "score"), ("network", "network_score")):
            if kind in read:
                notes[note] = read[kind][0]

    async def _read_domain(self, transaction: Transaction, options: Options) -> None:
        domain, notes = _domain(transaction.sender), self.notes(transaction)
        if domain and options.keeps("domain"):
            ((score, left_s),) = await self._read([self._key("domain", domain)], options)
            notes.update(score=score, penalty_s=left_s if options.domain_negative else 0.0)
        else:
            notes["penalty_s"] = 0.0

    async def _read(self, keys: list[str], options: Options) -> list[tuple[int, float]]:
        """Return for each key the score, and how many seconds of a penalty are left, in one turn of the store."""
        # What seems to last longer is the fault of a clock that is, or was, years off: some machines begin in 1970.
        longest_s = options.penalty_days * 86400 + 1

        def look(entry: Entry | None, now: float) -> Keep[tuple[int, float]]:
            known = History.read(entry)
            left_s = known.penalty_until - now
            return Keep((known.good - known.bad, left_s if 0 < left_s < longest_s else 0.0))

        return list(await asyncio.gather(*(self.store.update(key, look) for key in keys)))

    def _penalty(self, session: Session, notes: dict[str, Any], options: Options) -> Verdict | None:
        left_s: float = notes.get("penalty_s", 0.0)
        if not left_s:
            return None
        text = f"{options.text}; try again in {math.ceil(left_s / 3600)} h"
        # So that the refusal itself is no strike, or a penalty would never end.
        said = self.notes(session).setdefault("said", [])
        if text not in said:
            said.append(text)
        return denial(options.action, text, enhanced="5.7.1")

    def _count(self, session: Session, transaction: Transaction | None, *, good: int = 0, strikes: int = 0) -> None:
        options = self.options(transaction or session)
        if _is_exempt(transaction or session, options):
            return
        notes = self.notes(session)
        notes["good"] = notes.get("good", 0) + good
        notes["strikes"] = notes.get("strikes", 0) + strikes
        if transaction is not None and strikes:
            own = self.notes(transaction)
            own["strikes"] = own.get("strikes", 0) + strikes
        domain = _domain(transaction.sender) if transaction else ""
        domains = notes.setdefault("domains", {})
        if domain and options.keeps("domain") and (domain in domains or len(domains) < DOMAINS_LIMIT):
            counts = domains.setdefault(domain, [0, 0])
            counts[0] += good
            counts[1] += strikes

    def _keys(self, session: Session, options: Options) -> dict[Kind, str]:
        """Return where the histories of a client stand; nowhere if its address is unknown."""
        ip = session.ip
        if ip is None:
            return {}
        if ip.version == 4:
            prefixes = options.ipv4_prefix, options.network_ipv4_prefix
        else:
            prefixes = options.ipv6_prefix, options.network_ipv6_prefix
        kinds: tuple[Kind, Kind] = ("client", "network")
        networks = {kind: ip_network((ip, prefix), strict=False) for kind, prefix in zip(kinds, prefixes, strict=True)}
        return {kind: self._key(kind, str(network)) for kind, network in networks.items() if options.keeps(kind)}

    def _key(self, kind: Kind, who: str) -> str:
        # Bytes that are not UTF-8 are legal to Postfix, but not to a store.
        return f"{self.name}:{kind} {who.encode(errors='backslashreplace').decode()}"


def _domain(sender: Address) -> str:
    return sender.domain.lower().rstrip(".")[:255]


def _is_exempt(scope: Session | Transaction, options: Options) -> bool:
    """Return True for who is neither refused nor counted: hooks that close what was begun run for them, too."""
    session = scope.session if isinstance(scope, Transaction) else scope
    ip = session.ip
    return (
        options.mode == "off"
        or (options.skip_authenticated and session.login is not None)
        or (options.skip_whitelisted and scope.whitelisted)
        or (ip is not None and any(ip in network for network in options.skip_networks))
    )
