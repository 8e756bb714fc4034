"""spf: asks the domain in MAIL FROM, and the one in HELO, which clients may send its mail (SPF, RFC 7208).

Results are left for `dmarc` and `authentication_results`. A message that was forwarded comes from a host that the
sender's domain does not know of; hosts that forward to you stand in skip_networks or trusted_forwarders.

HOOKS
    mail        with hook = "mail": once for a message, before its recipients are known
    rcpt        with hook = "rcpt": asked once for a message, judged for each recipient, so that `spf=off` or
                `spf.fail=allow` for one of them holds

OPTIONS
    hook            "mail", or "rcpt"
    fail            "deny": what is said to a client that the domain does not permit: "deny", "defer",
                    "deny_disconnect", "defer_disconnect", or "allow": the result is only left to others
    softfail        "allow": so too where the domain says that it is probably not permitted (~all)
    neutral         "allow": where the domain says that it does not say (?all)
    none            "allow": where the domain has no record, or there is no domain
    permerror       "allow": where the record is wrong. Some of honest domains are
    temperror       "defer": where DNS gave no answer, or there was no result in time
    helo            true: the name in HELO is checked, too
    helo_fail       "deny": where that fails. Other results for HELO refuse nothing. The null sender's MAIL FROM is
                    postmaster at that name, and judged as any other
    explanation     true: a refused client is told the explanation that the domain has published (exp=), marked as the
                    domain's own words
    trusted_forwarders  []: domains, such as ["lists.example.net"], whose clients may bring any mail: one that their
                    own SPF record lets pass is not refused. Asked about only when a message would be refused
    skip_networks   the private and loopback networks: clients there are not asked about. A list given here takes the
                    place of these: name your own backup mail hosts, and forwarders, beside them
    time_limit      "20s": for each look-up; RFC 7208 wants no less. The universal timeout, 30 s, is for all together
    skip_authenticated  true: a client that has logged in is not asked about
    skip_whitelisted    true: nor what is whitelisted

NOTES
    authentication_results: a result for smtp.mailfrom, and one for smtp.helo, each with the domain. Nothing for
    clients that are not asked about. A result that a trusted forwarder made harmless says so in its reason.

REPLIES
    550-5.7.23 SPF check of MAIL FROM: fail: example.org does not permit 192.0.2.1 to send its mail
    550-5.7.23 The domain example.org explains:
    550 5.7.23 See https://example.org/why                  without an explanation, the first line alone
    550 5.7.23 SPF check of HELO: fail: mail.example.org does not permit 192.0.2.1 to send its mail
    550 5.7.24 SPF check of MAIL FROM: permerror: the record of example.org is wrong: Unknown mechanism found: foo
    451 4.7.24 SPF check of MAIL FROM: temperror: the record of example.org could not be looked up

FAILURE
    A domain whose name servers do not answer is `temperror`, and that option decides, not on_unavailable. The log has
    what DNS said. Look-ups are limited as RFC 7208 section 4.6.4 has it: ten terms, two without an answer.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import Field, IPvAnyNetwork

from gatepost import (
    PRIVATE_NETWORKS,
    Action,
    Deny,
    DenySoft,
    DomainName,
    Duration,
    Fixed,
    Plugin,
    PluginOptions,
    SpfFinding,
    SpfIdentity,
    check_host,
    denial,
    keep_results,
    method_result,
)

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping
    from ipaddress import IPv4Address, IPv6Address

    from gatepost import Address, Recipient, Transaction, Verdict

    Ip: TypeAlias = IPv4Address | IPv6Address

CODES = {"temperror": "5.7.24", "permerror": "5.7.24"}
"""RFC 7372 section 3.2: the record could not be judged; otherwise 5.7.23, it was."""

SAYINGS = {
    "fail": "{domain} does not permit {ip} to send its mail",
    "softfail": "{domain} does not expect {ip} to send its mail",
    "neutral": "{domain} does not say whether {ip} may send its mail",
    "none": "{domain} has no record",
    "permerror": "the record of {domain} is wrong: {reason}",
    "temperror": "the record of {domain} could not be looked up",
}


class Options(PluginOptions):
    """What the manual above says."""

    hook: Annotated[Literal["mail", "rcpt"], Fixed] = "mail"
    fail: Action = "deny"
    softfail: Action = "allow"
    neutral: Action = "allow"
    none: Action = "allow"
    permerror: Action = "allow"
    temperror: Action = "defer"
    helo: bool = True
    helo_fail: Action = "deny"
    explanation: bool = True
    trusted_forwarders: tuple[DomainName, ...] = ()
    skip_networks: tuple[IPvAnyNetwork, ...] = PRIVATE_NETWORKS
    time_limit: Annotated[Duration, Field(gt=0)] = 20.0
    skip_authenticated: bool = True
    skip_whitelisted: bool = True


class Spf(Plugin[Options]):
    """Asks once for each message."""

    def mail(
        self, transaction: Transaction, sender: Address, parameters: Mapping[str, str | None]
    ) -> Coroutine[None, None, Verdict | None] | None:
        return self._judge(transaction, self.options(transaction)) if self.options().hook == "mail" else None

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> Coroutine[None, None, Verdict | None] | None:
        return self._judge(transaction, self.options(recipient)) if self.options().hook == "rcpt" else None

    def _judge(self, transaction: Transaction, options: Options) -> Coroutine[None, None, Verdict | None] | None:
        ip = transaction.session.ip
        if ip is None or any(ip in network for network in options.skip_networks):
            return None
        return self._verdict(transaction, ip, options)

    async def _verdict(self, transaction: Transaction, ip: Ip, options: Options) -> Verdict | None:
        mail_from, helo = await self._findings(transaction, ip, options)
        self._leave_results(transaction, mail_from, helo)
        action = _action(mail_from, options)
        scope, finding = "MAIL FROM", mail_from
        if action == "allow" and helo and helo.result == "fail":
            action, scope, finding = options.helo_fail, "HELO", helo
        if action == "allow":
            return None
        if trusted := await self._trusted_forwarder(transaction, ip, options):
            self._leave_results(transaction, mail_from, helo, f"brought by the trusted forwarder {trusted}")
            return None
        return _denial(action, scope, finding, ip)

    async def _findings(
        self, transaction: Transaction, ip: Ip, options: Options
    ) -> tuple[SpfFinding, SpfFinding | None]:
        """Return what MAIL FROM and HELO came to; asked about once in a message, both at the same time."""
        sender, said = transaction.sender, transaction.session.helo
        helo = SpfIdentity("postmaster", said or "")
        # RFC 7208 section 2.4.
        mail_from = helo if sender.is_null else SpfIdentity(sender.local, sender.domain)
        notes = self.notes(transaction)

        async def finding(scope: str, identity: SpfIdentity) -> SpfFinding:
            if scope not in notes:
                found = await check_host(
                    self.dns, ip, identity, said, limit_s=options.time_limit, explain=options.explanation
                )
                notes[scope] = asdict(found)
                if found.result.endswith("error"):
                    self.log.info(
                        "spf",
                        txn=transaction.id,
                        scope=scope,
                        domain=found.domain,
                        result=found.result,
                        reason=found.reason,
                    )
            return SpfFinding(**notes[scope])

        if not options.helo:
            return await finding("mailfrom", mail_from), None
        if sender.is_null:
            found = await finding("mailfrom", mail_from)
            return found, found
        found, of_helo = await asyncio.gather(finding("mailfrom", mail_from), finding("helo", helo))
        return found, of_helo

    def _leave_results(
        self, transaction: Transaction, mail_from: SpfFinding, helo: SpfFinding | None, why: str = ""
    ) -> None:
        findings = [("smtp.mailfrom", mail_from)] + ([("smtp.helo", helo)] if helo else [])
        results = []
        for scope, found in findings:
            reason = "; ".join(filter(None, (_public_reason(found), why))) or None
            results.append(method_result("spf", found.result, {scope: found.domain or None}, reason))
        keep_results(self.notes(transaction), results)

    async def _trusted_forwarder(self, transaction: Transaction, ip: Ip, options: Options) -> str | None:
        known: dict[str, bool] = self.notes(transaction).setdefault("forwarders", {})
        for domain in options.trusted_forwarders:
            if domain not in known:
                found = await check_host(
                    self.dns,
                    ip,
                    SpfIdentity("postmaster", domain),
                    transaction.session.helo,
                    limit_s=options.time_limit,
                    explain=False,
                )
                known[domain] = found.result == "pass"
            if known[domain]:
                return domain
        return None


def _action(finding: SpfFinding, options: Options) -> Action:
    if finding.result == "pass":
        return "allow"
    action: Action = getattr(options, finding.result)
    return action


def _denial(action: Action, scope: str, finding: SpfFinding, ip: Ip) -> Verdict | None:
    saying = SAYINGS[finding.result].format(domain=finding.domain or "no domain", ip=ip, reason=finding.reason)
    text = f"SPF check of {scope}: {finding.result}: {saying}"
    if finding.explanation:
        # RFC 7208 section 6.2: nobody shall take a stranger's words for ours.
        text += f"\nThe domain {finding.domain} explains:\n{finding.explanation}"
    verdict = denial(action, text, enhanced=CODES.get(finding.result, "5.7.23"))
    match verdict:
        case Deny():
            return replace(verdict, code=550)
        case DenySoft() if finding.result == "temperror":
            # RFC 7208 section 8.6.
            return replace(verdict, code=451)
    return verdict


def _public_reason(finding: SpfFinding) -> str:
    """Return why, for a header that strangers read: not which name servers we ask."""
    return "DNS gave no answer, or not in time" if finding.result == "temperror" else finding.reason
