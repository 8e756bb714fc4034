r"""badmailfrom: refuses mail from senders that a file lists, by address, domain or pattern.

The file is read again when it changes; a new version with an error is logged by line, and the old one stays in force.
Anybody can write any sender: this keeps out who does not hide. Bounces have no sender, and are never refused here.

HOOKS
    rcpt    each recipient, so that `badmailfrom=off` for one of them holds. What counts is the sender in MAIL FROM, not
            the From of the header

OPTIONS
    file                the file, required
    action              "deny": what is said: deny, defer, deny_disconnect, defer_disconnect
    skip_whitelisted    true: what is whitelisted is not asked about; put this plugin after whitelist

    Exceptions: `badmailfrom=off` for a client in the file of client_options, for a recipient in that of aliases.

FILE
    ENTRY REASON

        # This sender, whatever the case; with a reason that the client is told:
        offers@example.com Please take us off your list.
        # Every sender in this domain:
        @example.net
        # Every sender in the domains below it, not in itself:
        @.example.net
        # Every sender in whose address this is found: an RE2 pattern, without regard to case
        /^(news|info)-\d+@/ No newsletters here.
        # A local part with special characters stands in double quotes, in a pattern too:
        "odd name"@example.com

    The most specific entry gives the reason: the address, its domain, the nearest domain above, the first pattern. A
    reason is ASCII text; anything else is sent as "?". A user+detail is another address than user. A domain may be
    written with or without A-labels (xn--...), and so it may be in patterns. "#" at the start of a line or after white
    space begins a comment, a slash in a pattern is written \/, and "<>" cannot be listed.

REPLIES
    550 5.7.1 mail from offers@example.com is not accepted here
    550 5.7.1 and the entry's reason, if it has one

FAILURE
    A missing file, a wrong entry or a bad pattern stops the start.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gatepost import Action, AddressList, Fixed, Plugin, PluginOptions, denial

if TYPE_CHECKING:
    from gatepost import Recipient, Transaction, Verdict


class Options(PluginOptions):
    """What the manual above says."""

    file: Annotated[Path, Fixed]
    action: Action = "deny"
    skip_whitelisted: bool = True


class BadMailFrom(Plugin[Options]):
    """Looks the sender up."""

    def init(self) -> None:
        self._list = self.watch(self.options().file, AddressList.parse)

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        senders: AddressList = self._list.value
        sender = transaction.sender
        listing = senders.find(sender)
        if listing is None:
            return None
        at = f"{self._list.path}:{listing.line}"
        self.log.info("sender is listed", txn=transaction.id, sender=str(sender), at=at)
        text = listing.reason or f"mail from {sender} is not accepted here"
        return denial(self.options(recipient).action, text, enhanced="5.7.1")
