"""limits: so many messages and recipients an hour from one client, sender or login, or for one recipient domain.

Only mail that Postfix has queued counts, and mail that is under way: what is refused or given up, by whatever rule, is
given back when the transaction ends. Counts are kept in the store, through a restart too. The window slides: after
"100/hour" was reached, there is room again bit by bit, not at the full hour. A message that is refused here is not
counted either: a client that keeps trying gets through as soon as there is room.

HOOKS
    rcpt                messages and recipients from the client, the sender and the login, and recipients in a domain.
                        A message counts with its first recipient that is limited: one that is whitelisted or has
                        `limits=off` in the file of aliases gets through, and counts for nobody
    reset_transaction   gives back what was not queued
    Put it after the plugins that refuse senders and recipients, so that these take no room even for a moment; after
    client_options and aliases, which can set its options; and after whitelist.

OPTIONS
    A rate is "100/hour" or "10 per 5 minutes"; "20/minute, 500/day" is both; "0/hour" is nothing at all, "none" no
    limit. The words are second, minute, hour, day, month (30 days) and year (360 days).
    client              "none": messages from one client
    client_recipients   "none": recipients from one client
    sender              "none": messages from one sender address. The null sender <> is never limited: bounces come
                        from everywhere. Anybody can write any sender, and so use up its rate: trust this only where
                        senders are checked
    sender_recipients   "none": recipients from one sender address
    login               "none": messages from one SASL login (known with the edge door)
    login_recipients    "none": recipients from one SASL login
    recipient_domain    "none": recipients in one domain, from all clients together
    ipv4_prefix         32: IPv4 clients of one network of this size are one client
    ipv6_prefix         64: so too IPv6 clients; one customer has a whole /64
    count_refused       false: true counts what was refused or given up as well
    action              "defer": what is said beyond the rate: defer, deny, defer_disconnect, deny_disconnect
    text                "": what is said in place of the text below
    skip_whitelisted    true: what is whitelisted is neither limited nor counted

    For one client: `limits.client=1000/hour` in the file of client_options. For one recipient:
    `limits.client_recipients=5/hour` in the file of aliases. Each different rate has a count of its own: with this
    line a client has 5 an hour for that recipient, beside what it has for others.

REPLIES
    450 4.7.1 rate limit exceeded: too many messages from this client
    450 4.7.1 rate limit exceeded: too many recipients from this client     (so too: sender, login)
    450 4.7.1 rate limit exceeded: too many messages to this domain
    A log line says which rate of whom it was.

FAILURE
    When the store does not answer, on_unavailable decides: "defer" (451) or "pass". After a crash, and where the store
    fails between the two, mail that was not queued stays counted until its window is over.
    `gatepost store list limits:` shows the counts; `gatepost store delete --prefix limits:` forgets them.
"""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING, Annotated

from limits import parse
from pydantic import Field

from gatepost import Action, Charge, NeedsEdge, Plugin, PluginOptions, RateLimiter, Rates, denial

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from gatepost import Recipient, Session, Transaction, Verdict


class Options(PluginOptions):
    """What the manual above says."""

    client: Rates = ()
    client_recipients: Rates = ()
    sender: Rates = ()
    sender_recipients: Rates = ()
    login: Annotated[Rates, NeedsEdge] = ()
    login_recipients: Annotated[Rates, NeedsEdge] = ()
    recipient_domain: Rates = ()
    ipv4_prefix: int = Field(default=32, ge=0, le=32)
    ipv6_prefix: int = Field(default=64, ge=0, le=128)
    count_refused: bool = False
    action: Action = "defer"
    text: str = ""
    skip_whitelisted: bool = True


WHAT = {
    "client": "messages from this client",
    "client_recipients": "recipients from this client",
    "sender": "messages from this sender",
    "sender_recipients": "recipients from this sender",
    "login": "messages from this login",
    "login_recipients": "recipients from this login",
    "recipient_domain": "messages to this domain",
}

QUEUED = {"accepted", "held", "discarded"}
"""The outcomes of recipients whose message Postfix has answered 250."""


class Limits(Plugin[Options]):
    """Counts in the store; notes what it has counted until it knows whether that stays."""

    def init(self) -> None:
        self._limiter = RateLimiter(self.store, self.name)

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> Coroutine[None, None, Verdict | None] | None:
        options = self.options(recipient)
        message = _charges(options, _messages(options, transaction))
        own = _charges(options, _recipients(options, recipient))
        # Most mail is under no rate: then there is nothing to wait for.
        return self._count(recipient, message, own, options) if message or own else None

    def reset_transaction(self, transaction: Transaction) -> Coroutine[None, None, None] | None:
        lost: list[tuple[str, str, str]] = []
        message_lost, message_kept = set(), set()
        for recipient in transaction.recipients:
            notes = recipient.notes.get(self.name, {})
            message = set(map(tuple, notes.pop("message", ())))
            if recipient.outcome in QUEUED:
                message_kept |= message
            else:
                message_lost |= message
                lost += map(tuple, notes.pop("recipient", ()))
        # What several recipients share stays counted if one of them was queued.
        lost += message_lost - message_kept
        if not lost:
            return None
        return self._limiter.give_back(Charge(parse(rate), kind, who) for rate, kind, who in lost)

    async def _count(
        self, recipient: Recipient, message: list[Charge], own: list[Charge], options: Options
    ) -> Verdict | None:
        transaction = recipient.transaction
        counted = self.notes(transaction).setdefault("counted", [])
        new = [one for one in message if _plain(one) not in counted]
        over = await self._limiter.take(new + own)
        if over is None:
            counted += map(_plain, new)
            if not options.count_refused:
                self.notes(recipient).update(message=[*map(_plain, message)], recipient=[*map(_plain, own)])
            return None
        self.log.info("rate exceeded", txn=transaction.id, limit=over.kind, of=over.who, rate=str(over.rate))
        return denial(
            options.action, options.text or f"rate limit exceeded: too many {WHAT[over.kind]}", enhanced="5.7.1"
        )


def _plain(charge: Charge) -> list[str]:
    """Return a charge as notes can have it."""
    return [str(charge.rate), charge.kind, charge.who]


def _charges(options: Options, subjects: dict[str, str]) -> list[Charge]:
    return [Charge(rate, kind, who) for kind, who in subjects.items() for rate in getattr(options, kind)]


def _messages(options: Options, transaction: Transaction) -> dict[str, str]:
    """Return who stands for a message, by the option that limits them."""
    who = {"client": _network(options, transaction.session)}
    if not transaction.sender.is_null:
        who["sender"] = str(transaction.sender).lower()
    if transaction.session.login:
        # Many a password database takes a login in any case: each would else have a rate of its own.
        who["login"] = transaction.session.login.lower()
    return who


def _recipients(options: Options, recipient: Recipient) -> dict[str, str]:
    """Return who stands for a recipient, by the option that limits them."""
    who = {f"{kind}_recipients": one for kind, one in _messages(options, recipient.transaction).items()}
    return who | {"recipient_domain": recipient.address.domain.rstrip(".") or "(local)"}


def _network(options: Options, session: Session) -> str:
    ip = session.ip
    if ip is None:
        return "unknown"
    prefix = options.ipv4_prefix if ip.version == 4 else options.ipv6_prefix
    return str(ip) if prefix == ip.max_prefixlen else str(ip_network((ip, prefix), strict=False))
