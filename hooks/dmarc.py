"""dmarc: checks by SPF and DKIM that mail is from the domain in its From, else does what that domain asks for.

It reads what `spf`, `dkim` and `arc` have found, which stand before it, and asks DNS for the policy: RFC 9989 of 2026,
whose tree walk has taken the place of lists of public suffixes. Mailing lists that change messages break SPF and DKIM:
where users read some, see trusted_arc_sealers. Begin with mode = "observe".

HOOKS
    data_post   after spf, dkim and arc; before authentication_results

OPTIONS
    reject          "deny": what becomes of mail that fails, if its domain asks for "reject"
                        "deny", "defer", "deny_disconnect", "defer_disconnect": it is refused
                        "quarantine": it is accepted, and Postfix holds it (postqueue -p, postsuper -H or -d)
                        "tag": it is accepted with the header field tag_field: a filter can sort it out
                        "allow": it is accepted; the log tells, and so does authentication_results
    quarantine      "tag": so too if it asks for "quarantine". With "none", nothing is ever done
    temperror       "defer": what is said when DNS gave no answer: "deny", "defer", "deny_disconnect",
                    "defer_disconnect", or "allow"
    invalid_from    "deny": what becomes of mail whose author cannot be told: no From, several, malformed, or with more
                    than four domains. Mail programs may show any domain there, and no policy would be asked for. A
                    bounce (from <>) may come from MAILER-DAEMON without a domain, from postmaster at an IP address, or
                    have no From
    skip_networks   the private and loopback networks: from there invalid_from refuses nothing. A scanner on the second
                    floor that sends "From: scanner" is no forgery; no policy is applied to it, since spf skips it, too
    tag_field       "X-DMARC-Failed": the field for "tag", X- in front. What came with the message under that name is
                    removed
    exempt          []: domains, such as ["example.org"], whose mail may fail, and all below them: such as your own
                    while devices send as it without DKIM
    trusted_arc_sealers  []: domains, such as ["lists.example.org"], whose word is taken for what the message was before
                    they changed it. The newest seal must be theirs (d=), arc=pass, and their
                    ARC-Authentication-Results must say dmarc=pass for this author, or SPF or DKIM that fit it
    skip_authenticated  true: the mail of a client that has logged in is not checked
    skip_whitelisted    true: nor what is whitelisted

RESULTS
    pass        SPF or DKIM passed for the domain, or for another of its organization, where the policy is not strict
    fail        neither did
    none        the domain has no policy
    temperror   DNS could not tell
    permerror   the policy makes no sense, and is not applied; or the author cannot be told: invalid_from
    Of a From with several domains, each is checked, and the severest thing is done.

NOTES
    authentication_results: for each domain dmarc, with header.from, and policy.dmarc for a fail: what was to be applied
    findings: for each domain: domain, result, reason, policy_domain, organization, published, applied, spf_aligned,
    dkim_aligned; and override: why it was not applied, or None

REPLIES
    550 5.7.1 rejected by the DMARC policy of example.org: neither SPF nor DKIM shows that the message is from there
    550 5.7.1 DMARC cannot be checked: there are several From fields
    451 4.7.1 DMARC cannot be checked: the policy of example.org could not be looked up
    554 5.6.0 too many X-DMARC-Failed header fields         more than 50 that would have to be removed

FAILURE
    A domain whose name servers do not answer is `temperror`, and that option decides, not on_unavailable. What fails
    is only called so if both spf and dkim have left a result: without one, also where spf skips a network, nothing is
    done, and the log tells. Reports, for which domains ask with rua and ruf, are not sent.
"""

from __future__ import annotations

import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

from pydantic import IPvAnyNetwork, StringConstraints

from gatepost import (
    PRIVATE_NETWORKS,
    Action,
    Deny,
    DmarcFinding,
    DomainName,
    MessageAction,
    Plugin,
    PluginOptions,
    author_domains,
    check_dmarc,
    denial,
    is_within,
    keep_results,
    method_result,
    results_of,
)

if TYPE_CHECKING:
    from gatepost import Message, MethodResult, Transaction, Verdict

OLD_TAGS = 50
"""Fields named tag_field that are removed: Postfix looks through the header for each, which takes by the square."""

MANY_FIELDS = 500
"""A message with more is looked through in a thread: a stranger can send ten thousand."""

NO_DOMAIN = re.compile(r"[^@\uff20]*+(?:@\[?[0-9]{1,3}(?:\.[0-9]{1,3}){3}\]?\s*+>?\s*+)?")

SEVERITY = ("allow", "tag", "quarantine", "defer", "defer_disconnect", "deny", "deny_disconnect")


class Options(PluginOptions):
    """What the manual above says."""

    reject: MessageAction = "deny"
    quarantine: MessageAction = "tag"
    temperror: Action = "defer"
    invalid_from: MessageAction = "deny"
    skip_networks: tuple[IPvAnyNetwork, ...] = PRIVATE_NETWORKS
    tag_field: Annotated[str, StringConstraints(pattern=r"^[Xx]-[A-Za-z0-9-]{1,58}$")] = "X-DMARC-Failed"
    exempt: tuple[DomainName, ...] = ()
    trusted_arc_sealers: tuple[DomainName, ...] = ()
    skip_authenticated: bool = True
    skip_whitelisted: bool = True


class Dmarc(Plugin[Options]):
    """Asks about each author domain, and does the severest thing."""

    after = ("spf", "dkim", "arc")
    needs = ("spf", "dkim")

    async def data_post(self, transaction: Transaction, message: Message) -> Verdict | None:
        options = self.options(transaction)
        if len(message.headers) > MANY_FIELDS:
            read = await self.in_thread(_read, message, options.tag_field)
        else:
            read = _read(message, options.tag_field)
        if read is None:
            return Deny(f"too many {options.tag_field} header fields", enhanced="5.6.0")
        domains, fault = read
        spf, dkim = results_of(transaction, "spf"), results_of(transaction, "dkim")
        if fault:
            self.log.info("dmarc", txn=transaction.id, result="permerror", reason=fault)
            keep_results(self.notes(transaction), [method_result("dmarc", "permerror", None, fault)])
            ip = transaction.session.ip
            if ip is not None and any(ip in network for network in options.skip_networks):
                return None
            if transaction.sender.is_null and _claims_nothing(message):
                return None
            return _consequence(options.invalid_from, message, options, f"DMARC cannot be checked: {fault}", fault)
        results: list[MethodResult] = []
        findings = []
        worst: tuple[MessageAction, DmarcFinding] | None = None
        for domain in domains:
            finding = await check_dmarc(self.dns, domain, spf, dkim)
            if finding.result == "fail" and self._is_incomplete(transaction, domain):
                continue
            override = await self._override(transaction, finding, options) if finding.result == "fail" else None
            findings.append({**asdict(finding), "override": override})
            results.append(_as_result(finding, override))
            word = "allow" if override else _word_for(finding, options)
            self._tell(transaction, finding, override, word)
            if worst is None or SEVERITY.index(word) > SEVERITY.index(worst[0]):
                worst = word, finding
        notes = self.notes(transaction)
        notes["findings"] = findings
        keep_results(notes, results)
        return _do(*worst, message, options) if worst else None

    def _is_incomplete(self, transaction: Transaction, domain: str) -> bool:
        """Tell, and log, when a method was not asked that might have saved the message."""
        missing = [method for method in ("spf", "dkim") if not results_of(transaction, method)]
        if missing:
            self.log.warning(
                "dmarc", txn=transaction.id, domain=domain, problem=f"not judged: no result of {' and '.join(missing)}"
            )
        return bool(missing)

    async def _override(self, transaction: Transaction, finding: DmarcFinding, options: Options) -> str | None:
        """Return why a failure does not count; None if it does."""
        if any(is_within(finding.domain, domain) for domain in options.exempt):
            return "the domain is exempt"
        if not options.trusted_arc_sealers or finding.applied == "none":
            return None
        arc = transaction.notes.get("arc", {})
        sealer = next(iter(arc.get("sealers", ())), "")
        # Also below a trusted domain there may be others' domains: it must be this very one.
        if not any(is_within(sealer, domain) and is_within(domain, sealer) for domain in options.trusted_arc_sealers):
            return None
        found: list[MethodResult] = arc.get("results", [])
        said = any(
            one["method"] == "dmarc"
            and one["result"] == "pass"
            and one["properties"].get("header.from", "").lower().rstrip(".") == finding.domain
            for one in found
        )
        if not said:
            spf, dkim = ([one for one in found if one["method"] == method] for method in ("spf", "dkim"))
            said = (await check_dmarc(self.dns, finding.domain, spf, dkim)).result == "pass"
        return f"it was in order before {sealer}, a trusted ARC sealer, changed it" if said else None

    def _tell(self, transaction: Transaction, finding: DmarcFinding, override: str | None, word: MessageAction) -> None:
        if finding.result in {"fail", "temperror", "permerror"}:
            self.log.info(
                "dmarc",
                txn=transaction.id,
                domain=finding.domain,
                result=finding.result,
                reason=finding.detail or override or finding.reason,
                policy=finding.applied,
                policy_domain=finding.policy_domain,
                action=word,
            )


def _read(message: Message, tag_field: str) -> tuple[tuple[str, ...], str] | None:
    """Return whom the message is from, without fields of that name any more; None if these are too many."""
    if len(message.headers.fields(tag_field)) > OLD_TAGS:
        return None
    message.delete_header(tag_field, None)
    return author_domains(message.headers)


def _claims_nothing(message: Message) -> bool:
    """Tell whether nobody could read a domain in From: MAILER-DAEMON, <>, an IP address; or there is none."""
    fields = message.headers.fields("From")
    return not fields or (len(fields) == 1 and NO_DOMAIN.fullmatch(fields[0].value) is not None)


def _as_result(finding: DmarcFinding, override: str | None) -> MethodResult:
    properties: dict[str, str | None] = {"header.from": finding.domain}
    if finding.result == "fail":
        # RFC 9989 section 9.1: what is applied once all options have had their say.
        properties["policy.dmarc"] = "none" if override else finding.applied
    return method_result("dmarc", finding.result, properties, override or finding.reason)


def _word_for(finding: DmarcFinding, options: Options) -> MessageAction:
    if finding.result == "temperror":
        return options.temperror
    if finding.result != "fail":
        return "allow"
    match finding.applied:
        case "reject":
            return options.reject
        case "quarantine":
            return options.quarantine
        case _:
            return "allow"


def _do(word: MessageAction, finding: DmarcFinding, message: Message, options: Options) -> Verdict | None:
    if finding.result == "temperror":
        text = f"DMARC cannot be checked: the policy of {finding.domain} could not be looked up"
    else:
        text = (
            f"rejected by the DMARC policy of {finding.domain}: "
            "neither SPF nor DKIM shows that the message is from there"
        )
    return _consequence(word, message, options, text, f"{finding.domain}; policy={finding.applied}")


def _consequence(word: MessageAction, message: Message, options: Options, text: str, tag: str) -> Verdict | None:
    if word == "tag":
        message.add_header(options.tag_field, tag)
        return None
    if word == "quarantine":
        message.quarantine(f"DMARC: {tag}")
        return None
    verdict = denial(word, text, enhanced="5.7.1")
    # RFC 9989 section 7.2, and RFC 5321 section 4.3.2: 550 is the refusal for reasons of policy.
    return replace(verdict, code=550) if isinstance(verdict, Deny) else verdict
