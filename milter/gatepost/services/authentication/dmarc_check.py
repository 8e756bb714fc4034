"""What DMARC says of a message: whether SPF or DKIM tie it to the domain of its author, and else what that wants done.

It asks DNS for records (RFC 9989), and takes the results of SPF and DKIM as given. What is done is not decided here.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from gatepost.deadline import of_hook
from gatepost.errors import Unavailable
from gatepost.idn import to_ascii
from gatepost.services.authentication.dmarc_discovery import DmarcTree
from gatepost.services.authentication.dmarc_record import DmarcPolicy, DmarcRecord, lowered

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gatepost.authentication import MethodResult
    from gatepost.services.dns.resolver import Resolver

NO_ANSWER = "DNS gave no answer"


@dataclass(frozen=True, slots=True)
class DmarcFinding:
    """What was found about one author domain; plain data."""

    domain: str
    result: Literal["none", "pass", "fail", "temperror", "permerror"]
    reason: str | None = None
    """Why, for people; None if there is nothing to say."""
    detail: str = ""
    """What DNS said, for the log alone."""
    policy_domain: str | None = None
    """Where the record was found; None if there is none, as the following."""
    organization: str | None = None
    """The organizational domain of the author; None also where it did not matter."""
    published: DmarcPolicy | None = None
    """The policy that the record has for this domain."""
    applied: DmarcPolicy | None = None
    """For a fail: the policy to apply, after `t=y`."""
    spf_aligned: bool = False
    dkim_aligned: bool = False


async def check_dmarc(
    dns: Resolver, author: str, spf: Sequence[MethodResult], dkim: Sequence[MethodResult]
) -> DmarcFinding:
    """Return the finding for `author`, in lower case with A-labels. Never raises for what is in DNS, or is not."""
    check = _Check(dns, author)
    deadline = of_hook.get()
    try:
        # A result of our own says more than a hook that is given up: a walk asks eight slow servers one by one.
        async with asyncio.timeout(0.9 * deadline.remaining() if deadline else None):
            return await check.finding(spf, dkim)
    except Unavailable as error:
        return replace(check.so_far, result="temperror", reason=NO_ANSWER, detail=error.reason)
    except TimeoutError:
        return replace(check.so_far, result="temperror", reason=NO_ANSWER, detail="not all answers came in time")


class _Check:
    def __init__(self, dns: Resolver, author: str) -> None:
        self._dns = dns
        self._tree = DmarcTree(dns)
        self._author = author
        self._problem: str | None = None
        self.so_far = DmarcFinding(author, "none")

    async def finding(self, spf: Sequence[MethodResult], dkim: Sequence[MethodResult]) -> DmarcFinding:
        found = await self._tree.policy(self._author)
        if found is None:
            return self.so_far
        place, record = found
        self.so_far = replace(self.so_far, policy_domain=place)
        if not record.is_usable:
            return replace(self.so_far, result="permerror", reason=f"the record of {place} has no valid policy")
        published = record.policy if place == self._author else record.subdomains
        self.so_far = replace(self.so_far, published=published)
        by_spf = await self._is_aligned(_identifiers(spf, "smtp.mailfrom"), strict=record.spf_strict)
        by_dkim = await self._is_aligned(_identifiers(dkim, "header.d"), strict=record.dkim_strict)
        self.so_far = replace(self.so_far, spf_aligned=by_spf, dkim_aligned=by_dkim)
        if by_spf or by_dkim:
            return replace(self.so_far, result="pass")
        if self._problem is not None:
            # What could have saved the message is not known: section 5.3.6.
            return replace(self.so_far, result="temperror", reason=NO_ANSWER, detail=self._problem)
        return await self._failure(place, record)

    async def _failure(self, place: str, record: DmarcRecord) -> DmarcFinding:
        published = record.policy
        if place != self._author:
            published = record.subdomains
            if record.nonexistent != published and not (await self._dns.query(self._author, "A")).exists:
                published = record.nonexistent
        applied = lowered(published) if record.testing else published
        reason = "the domain is testing its policy" if applied != published else None
        return replace(self.so_far, result="fail", reason=reason, published=published, applied=applied)

    async def _is_aligned(self, identifiers: Iterable[tuple[str, bool]], *, strict: bool) -> bool:
        """Tell whether one of the domains that passed is aligned; note it if that could not be found out."""
        for domain, is_known in identifiers:
            try:
                if await self._belongs(domain, strict=strict):
                    if is_known:
                        return True
                    self._problem = f"there was none for {domain}"
            except Unavailable as error:
                self._problem = error.reason
        return False

    async def _belongs(self, domain: str, *, strict: bool) -> bool:
        if domain == self._author or strict:
            return domain == self._author
        if domain.rpartition(".")[2] != self._author.rpartition(".")[2]:
            return False
        organization = await self._tree.organization(self._author)
        self.so_far = replace(self.so_far, organization=organization)
        # A domain's organization is above it: no walk, and no query, for what a stranger has signed with.
        if domain != organization and not domain.endswith(f".{organization}"):
            return False
        return await self._tree.organization(domain) == organization


def _identifiers(results: Iterable[MethodResult], name: str) -> list[tuple[str, bool]]:
    """Return the domains that a method has passed, True, then those of which DNS could not tell, False."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for one in results:
        domain = to_ascii(one["properties"].get(name, "").rpartition("@")[2])
        if domain and one["result"] in {"pass", "temperror"}:
            found[one["result"] == "pass"].append(domain)
    return [(domain, known) for known in (True, False) for domain in dict.fromkeys(found[known])]
