"""DMARC policy records: what a domain publishes at `_dmarc` (RFC 9989 section 4.7).

The library `dmarc` is not used for them: it knows RFC 7489, which has no `np` and no `psd`, and wants a `p`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

DmarcPolicy: TypeAlias = Literal["none", "quarantine", "reject"]

_VERSION = re.compile(r"[Vv][ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_TAG = re.compile(r"[ \t]*([A-Za-z]+)[ \t]*=[ \t]*([ -:<-~]+?)[ \t]*")
_URI = re.compile(r"(?:\A|,)[ \t]*[A-Za-z][A-Za-z0-9+.-]*:[^\s,;]+")
_POLICIES = frozenset({"none", "quarantine", "reject"})
_LOWER: dict[DmarcPolicy, DmarcPolicy] = {"reject": "quarantine", "quarantine": "none", "none": "none"}


@dataclass(frozen=True, slots=True)
class DmarcRecord:
    """One record."""

    policy: DmarcPolicy = "none"
    """`p`: for the domain itself."""
    subdomains: DmarcPolicy = "none"
    """`sp`: for the domains below it; where there is none, `p`."""
    nonexistent: DmarcPolicy = "none"
    """`np`: for such as do not exist; where there is none, `sp`."""
    dkim_strict: bool = False
    spf_strict: bool = False
    psd: Literal["y", "n", "u"] = "u"
    """Whether it is that of a public suffix, of an organizational domain, or it does not say."""
    testing: bool = False
    """`t=y`: each policy is to be applied one level lower."""
    is_usable: bool = True
    """False when a policy in it is none that RFC 9989 knows, and nobody wants reports: DMARC is then not applied."""


def parse_record(data: bytes) -> DmarcRecord | None:
    """Return the record; None for what is none, and is to be passed over. What is wrong in it has its default."""
    text = data.decode("ascii", "replace")
    version = _VERSION.match(text)
    if version is None:
        return None
    tags: dict[str, str] = {}
    for spec in text[version.end() :].split(";"):
        if tag := _TAG.fullmatch(spec):
            # Of several, the first: nothing that was appended changes a record.
            tags.setdefault(tag[1].lower(), tag[2])
    policies = {name: tags[name].lower() for name in ("p", "sp", "np") if name in tags}
    is_usable = True
    if not _POLICIES.issuperset(policies.values()):
        # RFC 9989 section 4.10.1.
        is_usable = bool(_URI.search(tags.get("rua", "")))
        policies = {}
    policy = policies.get("p", "none")
    subdomains = policies.get("sp", policy)
    psd = tags.get("psd", "u").lower()
    return DmarcRecord(
        policy=cast("DmarcPolicy", policy),
        subdomains=cast("DmarcPolicy", subdomains),
        nonexistent=cast("DmarcPolicy", policies.get("np", subdomains)),
        dkim_strict=tags.get("adkim", "r").lower() == "s",
        spf_strict=tags.get("aspf", "r").lower() == "s",
        psd=cast("Literal['y', 'n', 'u']", psd if psd in {"y", "n"} else "u"),
        testing=tags.get("t", "n").lower() == "y",
        is_usable=is_usable,
    )


def lowered(policy: DmarcPolicy) -> DmarcPolicy:
    """Return what is applied in place of a policy that is only tested."""
    return _LOWER[policy]
