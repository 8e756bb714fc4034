"""What gatepost knows of a client: Session, Transaction, Recipient.

One Session for each client connection, one Transaction for each MAIL, one Recipient for each RCPT. Plugins read them,
keep notes on them and, through the few methods below, change what happens next. Nothing here does I/O.
"""

from __future__ import annotations

import copy
import ipaddress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from gatepost.spending import Spending

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from gatepost.address import Address
    from gatepost.option import Overrides
    from gatepost.record import Outcome, Record
    from gatepost.verdict import Verdict

Notes: TypeAlias = dict[str, dict[str, Any]]
"""Notes by plugin name. Plain data: strings, numbers, lists, dicts, None."""


@lru_cache(maxsize=4096)
def _parse_ip(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


@dataclass(slots=True, eq=False)
class Session:
    """One connection of one client to Postfix, from its greeting until it leaves."""

    id: str
    """Short and unique in this process; in every log line of the session."""
    address: str
    """The client's IP address as text, IPv6 without brackets or prefix; `unknown` if Postfix does not know it."""
    port: int | None = None
    """The client's TCP port; None if Postfix does not know it."""
    name: str | None = None
    """The client's host name, forward-confirmed by Postfix (XFORWARD NAME); None if there is none."""
    helo: str | None = None
    """What the client said in HELO or EHLO; None if it gave none."""
    esmtp: bool = True
    """True when the client greeted with EHLO. The edge door is not told: until the proxy door is, True."""
    login: str | None = None
    """The SASL login, as of the latest greeting or MAIL; None if the client had not logged in by then, and without the
    edge door."""
    sasl_method: str | None = None
    """The SASL mechanism of the login (`PLAIN`); known and None as `login` is."""
    sasl_sender: str | None = None
    """The AUTH= of the latest MAIL, for whom the client says that it submits (RFC 4954); None if it gave none or had
    not logged in, and without the edge door."""
    tls_version: str | None = None
    """`TLSv1.3`, known from the first HELO or MAIL under TLS on; None without TLS, and without the edge door."""
    tls_cipher: str | None = None
    """The cipher, as OpenSSL names it; known and None as `tls_version` is."""
    cert_subject: str | None = None
    """The common name in the client's certificate, if Postfix found that trusted; known as `tls_version` is."""
    cert_issuer: str | None = None
    """The common name of who issued that certificate; known and None as `cert_subject` is."""
    daemon_name: str | None = None
    """Postfix's milter_macro_daemon_name for the service that the client came to; None without the edge door."""
    daemon_address: str | None = None
    """The IP address that the client came to; None without the edge door."""
    daemon_port: int | None = None
    """The port that the client came to; None without the edge door."""
    notes: Notes = field(default_factory=dict)
    overrides: tuple[Overrides, ...] = ()
    """Option overrides for this client, the later ones stronger."""
    whitelist_reason: str | None = None
    """Why the client is whitelisted; None if it is not."""
    transaction: Transaction | None = None
    """The transaction under way; None between transactions."""
    denial: Denial | None = None
    """A denial that every later command repeats: at connect or helo, or a hang-up after a recipient that Postfix itself
    refused; None as long as there is none."""
    denied_for_good: bool = False
    """True once anything was refused for good (5xx); until then a hang-up is a 421."""
    records: list[Record] = field(default_factory=list)
    """What was decided outside transactions."""
    asked: set[str] = field(default_factory=set)
    """The plugins that were asked anything in this session, by name: they are told when it ends."""

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The client's address, an IPv4 one mapped into IPv6 as IPv4; None when it is unknown."""
        return _parse_ip(self.address)

    def override(self, overrides: Overrides) -> None:
        """Change plugin options for everything that this client does from now on."""
        if overrides:
            self.overrides = (*self.overrides, overrides)

    @property
    def whitelisted(self) -> bool:
        """True when plugins with `skip_whitelisted` are not asked about this client."""
        return self.whitelist_reason is not None

    def whitelist(self, reason: str) -> None:
        """Whitelist everything that this client does from now on; the first `reason` stays. It is for the log."""
        if self.whitelist_reason is None:
            self.whitelist_reason = reason


@dataclass(frozen=True, slots=True)
class Denial:
    """A denial that is repeated: the hook that gave it, and its verdict."""

    hook: str
    verdict: Verdict
    given: bool = True
    """False for one of a greeting that the client has not heard yet: before MAIL it may log in or greet better."""


@dataclass(slots=True, eq=False)
class Transaction:
    """One message on its way: from MAIL until it is queued, refused or given up."""

    id: str
    """The session's id, a dot, and a number."""
    session: Session
    sender: Address
    parameters: Mapping[str, str | None] = field(default_factory=dict)
    """ESMTP parameters of MAIL, names in upper case (`SIZE`, `BODY`); None for one without a value."""
    recipients: list[Recipient] = field(default_factory=list)
    """Every recipient offered so far, in order, refused ones too."""
    notes: Notes = field(default_factory=dict)
    overrides: tuple[Overrides, ...] = ()
    """Option overrides beside the session's, the later ones stronger: those of the sender, and in the data and content
    hooks those of the recipients that this run stands for."""
    whitelist_reason: str | None = None
    """Why the sender is whitelisted, or in the data and content hooks the recipients that this run stands for; None if
    they are not. The session may be, nevertheless: see `whitelisted`."""
    denial: Denial | None = None
    """The refusal of the sender that each RCPT repeats; None as long as there is none."""
    queue_id: str | None = None
    """Postfix's queue id; known in the queue_post hook, None before."""
    size: int | None = None
    """Bytes of content as received, dot-stuffing and all; None before the message has ended."""
    records: list[Record] = field(default_factory=list)
    spending: Spending = field(default_factory=Spending)
    """What hooks have asked other servers for this message, all runs together."""
    asked: set[str] = field(default_factory=set)
    """The plugins that were asked anything in this transaction, by all runs together: they are told when it ends."""

    @property
    def accepted(self) -> list[Recipient]:
        """The recipients that were answered 250 so far."""
        return [recipient for recipient in self.recipients if recipient.accepted]

    @property
    def authenticated(self) -> bool:
        """True when the client has logged in; always False without the edge door."""
        return self.session.login is not None

    def override(self, overrides: Overrides) -> None:
        """Change plugin options for the rest of this transaction."""
        if overrides:
            self.overrides = (*self.overrides, overrides)

    @property
    def whitelisted(self) -> bool:
        """True when this transaction or its client is whitelisted."""
        return self.whitelist_reason is not None or self.session.whitelist_reason is not None

    def whitelist(self, reason: str) -> None:
        """Whitelist the rest of this transaction; the first `reason` stays. It is for the log."""
        if self.whitelist_reason is None:
            self.whitelist_reason = reason

    def branch(self, recipients: Iterable[Recipient]) -> Transaction:
        """Return the transaction as one run sees it: its own copy of the notes, and what holds for its recipients."""
        run = copy.copy(self)
        run.recipients = list(recipients)
        run.notes = copy.deepcopy(self.notes)
        run.stand_for(run.recipients)
        return run

    def stand_for(self, recipients: Sequence[Recipient]) -> None:
        """Take over the options of these recipients, who agree; and if all of them are whitelisted, that."""
        # Where whitelisting makes no difference, they may agree with one of them whitelisted and another not.
        typical = next((recipient for recipient in recipients if not recipient.whitelisted), recipients[0])
        self.overrides += typical.overrides
        if typical.whitelist_reason is not None:
            self.whitelist(typical.whitelist_reason)


@dataclass(slots=True, eq=False)
class Recipient:
    """One RCPT: the address as the client gave it, and what becomes of it."""

    address: Address
    transaction: Transaction
    parameters: Mapping[str, str | None] = field(default_factory=dict)
    """ESMTP parameters of RCPT, names in upper case (`NOTIFY`, `ORCPT`)."""
    targets: tuple[Address, ...] = ()
    """Where the message goes instead of `address`; empty means `address` itself. All or nothing: if Postfix refuses one
    of them, the recipient is refused."""
    overrides: tuple[Overrides, ...] = ()
    """Option overrides for this recipient alone, the later ones stronger."""
    whitelist_reason: str | None = None
    """Why this recipient itself is whitelisted; None if it is not."""
    notes: Notes = field(default_factory=dict)
    outcome: Outcome | None = None
    """How it ended; None while that is open."""
    accepted: bool = False
    """True from the 250 to RCPT on."""

    def deliver_to(self, targets: Iterable[Address]) -> None:
        """Send the message to `targets` in place of `address`; duplicates are dropped, the first stays.

        ValueError for the null address, and for one with a control character: it would be a command of its own.
        """
        unique = tuple(dict.fromkeys(targets))
        for target in unique:
            if target.is_null or any(char < " " or char == "\x7f" for char in str(target)):
                raise ValueError(f"{str(target)!r} cannot be a recipient")
        self.targets = unique

    def override(self, overrides: Overrides) -> None:
        """Change plugin options for this recipient."""
        if overrides:
            self.overrides = (*self.overrides, overrides)

    @property
    def whitelisted(self) -> bool:
        """True when this recipient, its transaction or its client is whitelisted."""
        return self.whitelist_reason is not None or self.transaction.whitelisted

    def whitelist(self, reason: str) -> None:
        """Whitelist this recipient alone; the first `reason` stays. It is for the log."""
        if self.whitelist_reason is None:
            self.whitelist_reason = reason
