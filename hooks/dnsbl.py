"""dnsbl: refuses clients whose address stands in a DNS block list, by one list or by the sum of several.

All zones are asked at once, for IPv4 and IPv6 clients. Before you use a list, read on its site who may ask it, by which
name server, and what its answers mean.

HOOKS
    rcpt        with at = "rcpt": each recipient, so that `dnsbl=off` for one of them holds. A message costs one look-up
                for all of them. Clients that have logged in, are whitelisted or are exempt are never asked about
    connect     with at = "connect": the client, once for its session. See that option

OPTIONS
    zones           required: the lists, each a name or a table of
        zone        the name of the list
        codes       []: the answers that count: "127.0.0.2", a range "127.0.0.2-11", or a bit "127.0.0.0&4" (with more
                    bits, any of them). Empty: every answer in 127.0.0.0/8; 127.0.0.1, with which some lists
                    refuse to answer, only with "allow" or a negative score
        action      what a listing means: "deny", "defer", "deny_disconnect", "defer_disconnect"; "allow": the client is
                    not refused whatever other zones say; "score": see reject_score. Unset: the plugin's action
        score       1: what a listing adds to the sum; may be negative
        text        "": the reason in the reply; empty: what the list itself says (TXT)
        name        "": what replies and the log call the list, where the zone holds your secret key; empty: the zone
    action          "deny": for zones without an action, and when reject_score is reached
    reject_score    0: above 0, zones without an action only add their score, and from this sum on the client is refused
    skip_networks   []: addresses and networks that are not looked up, such as ["10.0.0.0/8", "2001:db8::/32"]. Private
                    and loopback addresses are looked up like all others
    at              "rcpt"; with the edge door, "connect" refuses a listed client before it has said anything, so that
                    it costs Postfix nothing more. Logins, senders and recipients are not known yet, so that none is
                    exempt: not where your users log in, from home addresses that such lists name. Without the edge
                    nothing is gained: Postfix hands a client over with its first recipient
    skip_authenticated  true: a client that has logged in is not looked up
    skip_whitelisted    true: nor one that is whitelisted

    Of several zones that list the client, the first one listed here gives the verdict. A zone may stand here several
    times, with other codes and another action. In overrides zones are names only: `dnsbl.zones="a.example, b.example"`.
    Exceptions: `dnsbl=off` in the files of `client_options` and `aliases`.

REPLIES
    554 5.7.1 Service unavailable; client [192.0.2.1] blocked using zen.example.org; reason
    450 4.7.1 Service unavailable; ...  with "defer"; 421 and 521 with those that disconnect
    At connect with the edge door, in place of the banner, Postfix says `554 HOST ESMTP not accepting connections`, or
    `421 HOST Service unavailable - try again later`; the reply above comes at MAIL, for who goes on, and in the log.

FAILURE
    A zone that does not answer (SERVFAIL, timeout), refuses to (127.255.255.0/24) or gives an answer that no list gives
    is logged, and is never taken for "not listed". If another zone decides, nothing is lost. Where the missing answer
    could make the difference, also that of an "allow" zone for a client that another one lists, on_unavailable decides:
    "defer" (451), or "pass": only the zones that did answer count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import IPvAnyNetwork

from gatepost import Fixed, Plugin, Recipient, Session, Transaction, Verdict, ZoneInquiry, ZoneOptions, ZoneQuestion

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Options(ZoneOptions):
    """What the manual above says, beside what all askers of DNS lists take."""

    skip_networks: tuple[IPvAnyNetwork, ...] = ()
    at: Annotated[Literal["rcpt", "connect"], Fixed] = "rcpt"


class Dnsbl(Plugin[Options]):
    """Asks about the client."""

    def init(self) -> None:
        self.options().refuse_idle_scores()

    def connect(self, session: Session) -> Coroutine[None, None, Verdict | None] | None:
        return self._ask(session, session) if self.options().at == "connect" else None

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> Coroutine[None, None, Verdict | None] | None:
        return self._ask(transaction.session, recipient) if self.options().at == "rcpt" else None

    def _ask(self, session: Session, scope: Session | Recipient) -> Coroutine[None, None, Verdict | None] | None:
        options = self.options(scope)
        ip = session.ip
        if ip is None or any(ip in network for network in options.skip_networks):
            return None
        # A message's answers are kept for its other recipients; a session asks once.
        holder = scope.transaction if isinstance(scope, Recipient) else scope
        log = self.log.bind(txn=holder.id) if isinstance(scope, Recipient) else self.log.bind(session=session.id)
        return ZoneInquiry(self.dns, log, self.notes(holder)).verdict(options, [ZoneQuestion.client(ip)])
