"""rhsbl: refuses mail whose sender domain stands in a DNS list of domains, by one list or by the sum of several.

On request the name in HELO and the client's own name are looked up, too. All zones are asked about all names at once.

HOOKS
    rcpt        each recipient, so that `rhsbl=off` for one of them holds; a message costs one look-up for all of them

OPTIONS
    zones           required: the lists, each a name or a table of
        zone        the name of the list
        codes       []: the answers that count: "127.0.1.2", a range "127.0.1.2-99", or a bit "127.0.0.0&4" (with more
                    bits, any of them). Empty: every answer in 127.0.0.0/8; 127.0.0.1, with which some lists
                    refuse to answer, only with "allow" or a negative score
        action      what a listing means: "deny", "defer", "deny_disconnect", "defer_disconnect"; "allow": the message
                    is not refused whatever other zones say; "score": see reject_score. Unset: the plugin's action
        score       1: what a listing adds to the sum; may be negative
        text        "": the reason in the reply; empty: what the list itself says (TXT)
        name        "": what replies and the log call the list, where the zone holds your secret key; empty: the zone
    check           ["sender"]: what is looked up: "sender", the domain of MAIL FROM; "helo", the name that the client
                    gives itself; "client", its host name as Postfix has confirmed it
    action          "deny": for zones without an action, and when reject_score is reached
    reject_score    0: above 0, zones without an action only add their score (for each name listed), and from this sum
                    on the message is refused
    skip_authenticated  true: the mail of a client that has logged in is not looked up
    skip_whitelisted    true: nor what is whitelisted

    Of several zones that list a name, the first one listed here gives the verdict. A zone may stand here several times,
    with other codes and another action. In overrides zones are names only: `rhsbl.zones="a.example, b.example"`. Not
    looked up: the null sender, addresses in place of names, and names without a dot. Anybody can write any sender and
    any HELO name: an "allow" zone lets in whoever claims to be there.

REPLIES
    554 5.7.1 Service unavailable; sender domain [spam.example] blocked using dbl.example.org; reason
    554 5.7.1 Service unavailable; HELO name [...] blocked using ...; client name [...] likewise
    450 4.7.1 Service unavailable; ...  with "defer"; 421 and 521 with those that disconnect

FAILURE
    As with `dnsbl`: a zone that does not answer, refuses to, or gives an answer that no list gives is logged and never
    taken for "not listed"; where the missing answer could make the difference, on_unavailable decides: "defer" (451),
    or "pass": only the zones that did answer count.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from gatepost import Plugin, Recipient, Transaction, Verdict, ZoneInquiry, ZoneOptions, ZoneQuestion

if TYPE_CHECKING:
    from collections.abc import Coroutine


class Options(ZoneOptions):
    """What the manual above says, beside what all askers of DNS lists take."""

    check: tuple[Literal["sender", "helo", "client"], ...] = Field(default=("sender",), min_length=1)


class Rhsbl(Plugin[Options]):
    """Asks about the names that a message comes with."""

    def init(self) -> None:
        self.options().refuse_idle_scores()

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> Coroutine[None, None, Verdict | None] | None:
        options = self.options(recipient)
        session = transaction.session
        names = {
            "sender": ("sender domain", transaction.sender.domain),
            "helo": ("HELO name", session.helo or ""),
            "client": ("client name", session.name or ""),
        }
        questions = [question for part in options.check if (question := ZoneQuestion.domain(*names[part]))]
        if not questions:
            return None
        inquiry = ZoneInquiry(self.dns, self.log.bind(txn=transaction.id), self.notes(transaction))
        return inquiry.verdict(options, questions)
