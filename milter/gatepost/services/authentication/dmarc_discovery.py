"""Where the DMARC record of a domain is, and whose organization it belongs to: the DNS Tree Walk of RFC 9989.

No list of public suffixes is asked. A walk goes from a domain up to its top-level domain, by eight queries at most.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatepost.services.authentication.dmarc_record import DmarcRecord, parse_record

if TYPE_CHECKING:
    from gatepost.services.dns.resolver import Resolver

MOST_LABELS = 8
"""Queries of one walk (RFC 9989 section 4.10): of a longer name, the labels behind the first are skipped."""


class DmarcTree:
    """What is known of the records around the domains of one message; each name is asked about once.

    Domains are in lower case, with A-labels, without a dot at the end. Everything raises Unavailable for a record that
    may be there and could not be looked up.
    """

    def __init__(self, dns: Resolver) -> None:
        self._dns = dns
        self._known: dict[str, DmarcRecord | None] = {}

    async def record(self, domain: str) -> DmarcRecord | None:
        """Return the record at that very name; None if there is none, or several (section 4.10, step 2)."""
        if domain not in self._known:
            texts = await self._dns.txt(f"_dmarc.{domain}")
            records = [record for record in map(parse_record, texts) if record is not None]
            self._known[domain] = records[0] if len(records) == 1 else None
        return self._known[domain]

    async def policy(self, author: str) -> tuple[str, DmarcRecord] | None:
        """Return the record that holds for mail from that domain, and where it stands; None if there is none.

        Its own, else that of its organization, else that of the public suffix above (section 4.10.1).
        """
        own = await self.record(author)
        if own is not None:
            return author, own
        found = await self._walk(author)
        organization = _organization(author, found)
        # Where the organization has none, there is none, or that of the public suffix above it, the last one found.
        return next((one for one in found if one[0] == organization), found[-1] if found else None)

    async def organization(self, domain: str) -> str:
        """Return the organizational domain, which is the domain itself or one above it (section 4.10.2)."""
        return _organization(domain, await self._walk(domain))

    async def _walk(self, domain: str) -> list[tuple[str, DmarcRecord]]:
        """Return the records from the domain upwards, to the first that says what it is."""
        found = []
        for name in steps(domain):
            record = await self.record(name)
            if record is not None:
                found.append((name, record))
                if record.psd != "u":
                    break
        return found


def steps(domain: str) -> list[str]:
    """Return the names that a walk looks at, from the domain up to its top-level domain."""
    labels = domain.split(".")
    first = max(1, len(labels) - MOST_LABELS + 1)
    return [domain, *(".".join(labels[place:]) for place in range(first, len(labels)))]


def _organization(domain: str, found: list[tuple[str, DmarcRecord]]) -> str:
    if not found:
        return domain
    name, record = found[-1]
    if record.psd == "y" and name != domain:
        below = domain.removesuffix(f".{name}").rpartition(".")[2]
        return f"{below}.{name}"
    # The one that says `psd=n` ended the walk: either way it is the last.
    return name
