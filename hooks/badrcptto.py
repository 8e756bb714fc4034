r"""badrcptto: refuses recipients that a file lists, by address, domain or pattern.

For addresses that once were, and get nothing but spam, or that are only for mail from inside. The file is read again
when it changes; a new version with an error is logged by line, and the old one stays in force.

HOOKS
    rcpt    the address in RCPT TO, before aliases expand it

OPTIONS
    file                the file, required
    action              "deny": what is said: deny, defer, deny_disconnect, defer_disconnect
    skip_whitelisted    true: what is whitelisted is not asked about; put this plugin after whitelist

    To let a client in nevertheless, write `badrcptto=off` for it in the file of client_options.

FILE
    ENTRY REASON

        # This recipient, whatever the case; with a reason that the client is told:
        old-list@example.org The list has moved to list@lists.example.org
        # Every recipient in this domain:
        @closed.example.org
        # Every recipient in the domains below it, not in itself:
        @.closed.example.org
        # Every recipient in whose address this is found: an RE2 pattern, without regard to case
        /^trap-\d+@/
        # An address with all its details:
        /^bob(\+.*)?@example\.org$/ Bob has left us.

    The most specific entry gives the reason: the address, its domain, the nearest domain above, the first pattern. A
    reason is ASCII text; anything else is sent as "?". A user+detail is another address than user. A local part with
    special characters stands in double quotes. A domain may be written with or without A-labels (xn--...), and so it
    may be in patterns. "#" at the start of a line or after white space begins a comment, and a slash in a pattern is
    written \/.

REPLIES
    550 5.7.1 mail to old-list@example.org is not accepted here
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


class BadRcptTo(Plugin[Options]):
    """Looks the recipient up."""

    def init(self) -> None:
        self._list = self.watch(self.options().file, AddressList.parse)

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        recipients: AddressList = self._list.value
        listing = recipients.find(recipient.address)
        if listing is None:
            return None
        at = f"{self._list.path}:{listing.line}"
        self.log.info("recipient is listed", txn=transaction.id, rcpt=str(recipient.address), at=at)
        text = listing.reason or f"mail to {recipient.address} is not accepted here"
        return denial(self.options(recipient).action, text, enhanced="5.7.1")
