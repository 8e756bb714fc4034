"""arc: checks the Authenticated Received Chain of a message (RFC 8617) and leaves what it finds.

A mailing list or a forwarder breaks the signatures of what it passes on. By a chain it tells, sealed, what it found
when the message came in. That is worth as much as your trust in who sealed it: `dmarc` has an option for that, and this
plugin alone lets nobody pass.

HOOKS
    data_post   beside other scanners. Put it before plugins that edit the message: an edit breaks signatures

OPTIONS
    max_sets        10: a longer chain is `fail`; RFC 8617 allows 50. Each set costs two queries and two checks
    min_key_bits    1024: a smaller RSA key makes the chain `fail`
    fail            "allow": what is said to a message whose chain is broken: "deny", "defer", "deny_disconnect",
                    "defer_disconnect". Such a message is no worse than one without a chain
    skip_authenticated  true: the mail of a client that has logged in is not checked
    skip_whitelisted    true: nor what is whitelisted

RESULTS
    pass        the newest signature and all seals hold
    fail        they do not; or a key could not be looked up, which RFC 8617 section 5.2.1 counts as the same
    none        there is no chain

NOTES
    authentication_results: one result, for a pass with header.oldest-pass (the oldest set whose signature still holds;
    0 for all), and smtp.remote-ip. For a pass there is more:
    sealers         the domains that sealed the chain, the newest first
    authserv_id     who the newest sealer says it is
    results         what it says it found, as authentication_results has it: method, result, reason, properties

REPLIES
    550 5.7.29 the ARC chain of the message is broken: the seal of instance 2 does not match

FAILURE
    None: a chain that cannot be checked is `fail`. The log has what DNS said.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from gatepost import Action, Deny, Plugin, PluginOptions, check_chain, denial, keep_results, method_result

if TYPE_CHECKING:
    from gatepost import Message, Transaction, Verdict


class Options(PluginOptions):
    """What the manual above says."""

    max_sets: Annotated[int, Field(ge=1, le=50)] = 10
    min_key_bits: Annotated[int, Field(ge=512, le=4096)] = 1024
    fail: Action = "allow"
    skip_authenticated: bool = True
    skip_whitelisted: bool = True


class Arc(Plugin[Options]):
    """Checks the chain once for all runs."""

    scanner = True
    verifies = True

    async def data_post(self, transaction: Transaction, message: Message) -> Verdict | None:
        options = self.options(transaction)
        sets, bits = options.max_sets, options.min_key_bits
        log = self.log.bind(txn=transaction.id)
        chain = await self.once(
            message, lambda: check_chain(self.dns, message, max_sets=sets, min_bits=bits, log=log), sets, bits
        )
        properties = {}
        if chain.result != "none" and transaction.session.ip is not None:
            properties["smtp.remote-ip"] = str(transaction.session.ip)
        notes = self.notes(transaction)
        if chain.result == "pass":
            properties["header.oldest-pass"] = str(chain.oldest_pass)
            notes |= {"sealers": [*chain.sealers], "authserv_id": chain.authserv_id, "results": [*chain.results]}
        keep_results(notes, [method_result("arc", chain.result, properties, chain.reason)])
        if chain.result != "fail":
            return None
        log.info("arc", result=chain.result, reason=chain.reason)
        verdict = denial(options.fail, f"the ARC chain of the message is broken: {chain.reason}", enhanced="5.7.29")
        return replace(verdict, code=550) if isinstance(verdict, Deny) else verdict
