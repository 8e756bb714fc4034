"""dnsbl: refuses clients whose address stands in a DNS block list, by one list or by the sum of several.

All zones are asked at once, for IPv4 and IPv6 clients. Before you use a list, read on its site who may ask it, by which
name server, and what its answers mean.

HOOKS
    rcpt        each recipient, so that `dnsbl=off` for one of them holds. A message costs one look-up for all of them.
                Not earlier: Postfix hands a client over with its first recipient, so nothing would be gained, and
                clients that have logged in, are whitelisted or are exempt are never asked about

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
    skip_authenticated  true: a client that has logged in is not looked up
    skip_whitelisted    true: nor one that is whitelisted

    Of several zones that list the client, the first one listed here gives the verdict. A zone may stand here several
    times, with other codes and another action. In overrides zones are names only: `dnsbl.zones="a.example, b.example"`.
    Exceptions: `dnsbl=off` in the files of `client_options` and `aliases`.

REPLIES
    554 5.7.1 Service unavailable; client [192.0.2.1] blocked using zen.example.org; reason
    450 4.7.1 Service unavailable; ...  with "defer"; 421 and 521 with those that disconnect

FAILURE
    A zone that does not answer (SERVFAIL, timeout), refuses to (127.255.255.0/24) or gives an answer that no list gives
    is logged, and is never taken for "not listed". If another zone decides, nothing is lost. Where the missing answer
    could make the difference, also that of an "allow" zone for a client that another one lists, on_unavailable decides:
    "defer" (451), or "pass": only the zones that did answer count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import IPvAnyNetwork

from gatepost import Plugin, Recipient, Transaction, Verdict, ZoneInquiry, ZoneOptions, ZoneQuestion

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Options(ZoneOptions):
    """What the manual above says, beside what all askers of DNS lists take."""

    skip_networks: tuple[IPvAnyNetwork, ...] = ()


class Dnsbl(Plugin[Options]):
    """Asks about the client."""

    def init(self) -> None:
        self.options().refuse_idle_scores()

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> Coroutine[None, None, Verdict | None] | None:
        options = self.options(recipient)
        ip = transaction.session.ip
        if ip is None or any(ip in network for network in options.skip_networks):
            return None
        inquiry = ZoneInquiry(self.dns, self.log.bind(txn=transaction.id), self.notes(transaction))
        return inquiry.verdict(options, [ZoneQuestion.client(ip)])
