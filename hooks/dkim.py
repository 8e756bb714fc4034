"""dkim: checks the DKIM signatures of a message (RFC 6376; rsa-sha256 and ed25519-sha256) and leaves the results.

A signature proves which domain took responsibility for the message as it is now. A broken one proves nothing: mailing
lists break them. So by itself this plugin refuses nothing; `dmarc` and `authentication_results` read what it found.

HOOKS
    data_post   beside other scanners. Put it before plugins that edit the message: an edit breaks signatures

OPTIONS
    max_signatures  8: as many are checked, from the top; the others are `policy`
    min_key_bits    1024: a signature with a smaller RSA key is `policy`, even if it matches (RFC 8301)
    partial_body    "policy": what a matching signature counts as that does not cover the end of the body (l=), to which
                    anyone may have added anything; or "pass"
    fail            "allow": what is said to a message whose signatures are all broken: "deny", "defer",
                    "deny_disconnect", "defer_disconnect". RFC 6376 section 6.1 advises against all of them
    require_domains []: domains, such as ["example.org"], whose mail must be signed by them, and all below them. Meant
                    for your own, and for those who have told you: all others publish such a wish by DMARC. Where From
                    could be read in two ways, a domain that stands anywhere in it counts
    action          "deny": what is said to mail from these without a signature that passes
    skip_authenticated  true: the mail of a client that has logged in is not checked
    skip_whitelisted    true: nor what is whitelisted

RESULTS
    pass        it matches
    fail        it does not: the message has been changed, or is forged
    neutral     it is malformed; or it fails, and the domain is only testing (t=y)
    policy      it may match, but is not accepted: see the options; expired; from the future; rsa-sha1
    temperror   DNS gave no answer
    permerror   it can never match: the key is missing, revoked, malformed, or for something else; From is not signed
    none        the message has no signature

NOTES
    authentication_results: a result for each signature, with header.d, header.i, header.s, header.a and header.b, and
    why in words, where it is no plain pass.

REPLIES
    550 5.7.20 no DKIM signature of the message is valid: example.org: the signature does not match the body
    550 5.7.22 mail from example.org must have a valid DKIM signature of that domain

FAILURE
    A domain whose name servers do not answer is `temperror` for its signature alone. Where that signature could have
    saved the message from a refusal, on_unavailable decides. A key record may have 4 KB and a key 8,192 bits,
    because who sends the message chooses both. The body is read once for all signatures, in constant memory; a gigabyte
    takes seconds of a thread, and stops with the hook's time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from gatepost import (
    Action,
    Deny,
    DkimPolicy,
    DomainName,
    Plugin,
    PluginOptions,
    Unavailable,
    check_signatures,
    claimed_domain,
    denial,
    is_within,
    keep_results,
)

if TYPE_CHECKING:
    from gatepost import Message, MethodResult, Transaction, Verdict


class Options(PluginOptions):
    """What the manual above says."""

    max_signatures: Annotated[int, Field(ge=1, le=50)] = 8
    min_key_bits: Annotated[int, Field(ge=512, le=4096)] = 1024
    partial_body: Literal["policy", "pass"] = "policy"
    fail: Action = "allow"
    require_domains: tuple[DomainName, ...] = ()
    action: Action = "deny"
    skip_authenticated: bool = True
    skip_whitelisted: bool = True


class Dkim(Plugin[Options]):
    """Checks every signature once for all runs."""

    scanner = True
    verifies = True

    async def data_post(self, transaction: Transaction, message: Message) -> Verdict | None:
        options = self.options(transaction)
        policy = DkimPolicy(options.max_signatures, options.min_key_bits, options.partial_body == "pass")
        log = self.log.bind(txn=transaction.id)
        results = await self.once(message, lambda: check_signatures(self.dns, message, policy, log), policy)
        keep_results(self.notes(transaction), results)
        for result in results:
            if result["result"] not in {"pass", "none"}:
                log.info(
                    "dkim",
                    domain=result["properties"].get("header.d"),
                    selector=result["properties"].get("header.s"),
                    result=result["result"],
                    reason=result["reason"],
                )
        if options.require_domains:
            required = await self.in_thread(claimed_domain, message.headers, options.require_domains)
            if required and (verdict := _unsigned(required, results, options)):
                return verdict
        return _broken(results, options)


def _unsigned(required: str, results: list[MethodResult], options: Options) -> Verdict | None:
    """Refuse mail from a domain whose mail must be signed."""
    of_domain = [one for one in results if is_within(one["properties"].get("header.d", ""), required)]
    if any(one["result"] == "pass" for one in of_domain):
        return None
    if options.action != "allow":
        _raise_unanswered(of_domain)
    return _denial(
        options.action, f"mail from {required} must have a valid DKIM signature of that domain", enhanced="5.7.22"
    )


def _broken(results: list[MethodResult], options: Options) -> Verdict | None:
    """Refuse what has only broken signatures, if that is wanted."""
    failed = [one for one in results if one["result"] == "fail"]
    if options.fail == "allow" or not failed or any(one["result"] == "pass" for one in results):
        return None
    _raise_unanswered(results)
    domain, reason = failed[0]["properties"].get("header.d"), failed[0]["reason"]
    text = f"no DKIM signature of the message is valid: {domain}: {reason}"
    return _denial(options.fail, text, enhanced="5.7.20")


def _raise_unanswered(results: list[MethodResult]) -> None:
    for one in results:
        if one["result"] == "temperror":
            raise Unavailable("dns", f"the DKIM key of {one['properties'].get('header.d')} could not be looked up")


def _denial(action: Action, text: str, *, enhanced: str) -> Verdict | None:
    verdict = denial(action, text, enhanced=enhanced)
    return replace(verdict, code=550) if isinstance(verdict, Deny) else verdict
