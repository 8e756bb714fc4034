"""loop: refuses a message that has been through too many hands, because it goes round in circles.

HOOKS
    data_headers_end    counts the fields Received and Delivered-To

OPTIONS
    max     50: so many fields are allowed, the public smtpd's own Received among them. Honest mail that is forwarded a
            few times has twenty. Postfix's hopcount_limit (50) refuses from 48 Received on and does not count
            Delivered-To: from 48 on max has an effect for these alone

REPLIES
    554 5.4.6 too many hops

FAILURE
    None: it needs no service.
"""

from __future__ import annotations

from pydantic import Field

from gatepost import Deny, Headers, Plugin, PluginOptions, Transaction


class Options(PluginOptions):
    """What the manual above says."""

    max: int = Field(default=50, ge=1)


class Loop(Plugin[Options]):
    """Counts hops."""

    def data_headers_end(self, transaction: Transaction, headers: Headers) -> Deny | None:
        hops = len(headers.fields("Received")) + len(headers.fields("Delivered-To"))
        if hops > self.options(transaction).max:
            return Deny("too many hops", enhanced="5.4.6", code=554)
        return None
