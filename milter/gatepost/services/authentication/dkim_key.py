"""Public keys of DKIM and ARC: asked of DNS before there is any work, and examined before they are used.

The owner of a key record is whoever sent the message: a number in it can keep a processor busy for hours.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dkim
from nacl.exceptions import CryptoError

from gatepost.errors import Unavailable
from gatepost.services.authentication.dkim_tags import Unverifiable, read_tags, without_space, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import TypeAlias

    from structlog.typing import FilteringBoundLogger

    from gatepost.services.dns.resolver import Resolver

    Records: TypeAlias = Mapping[str, tuple[bytes, ...] | Unavailable]

RECORD_LIMIT_BYTES = 4096
"""A key of 8,192 bits has 1,400 characters."""

RSA_LIMIT_BITS = 8192
"""RFC 8301 wants verifiers to take 4,096; each check of one with 8,192 takes a millisecond."""

EXPONENT_LIMIT_BITS = 64
"""What OpenSSL allows, too. All keys have 65,537; the time grows with this number, and the owner chooses it."""

TRIED_RECORDS = 3
"""There should be one (RFC 6376 section 3.6.2.2)."""

LIBRARY_ERRORS = (
    dkim.DKIMException,
    CryptoError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    RecursionError,
)
"""What dkimpy has been seen, or can be read, to raise for what strangers write."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that may be used."""

    kind: str
    """`rsa` or `ed25519`."""
    material: Any
    """As dkimpy has it."""
    is_test: bool
    """t=y: the domain only tries DKIM out."""
    same_domain: bool
    """t=s: signatures by this key must not speak for subdomains."""
    hashes: tuple[str, ...]
    """h=: which hashes it is for; empty for all."""


async def fetch_records(dns: Resolver, names: Iterable[str], log: FilteringBoundLogger) -> Records:
    """Return the TXT records of each name, or why there is no answer; all are asked at once."""

    async def fetch(name: str) -> tuple[bytes, ...] | Unavailable:
        try:
            return await dns.txt(name)
        except Unavailable as error:
            log.info("no answer about a key", name=name, reason=error.reason)
            return error

    unique = tuple(dict.fromkeys(names))
    return dict(zip(unique, await asyncio.gather(*map(fetch, unique)), strict=True))


def usable_keys(records: Records, name: str, min_bits: int) -> list[PublicKey]:
    """Return the keys at that name, at least one; Unverifiable says why there is none."""
    found = records[name]
    if isinstance(found, Unavailable):
        raise Unverifiable("temperror", "the key could not be looked up")
    # Other things stand in the same place when it is a wildcard.
    candidates = sorted(record for record in found if b"p=" in record.replace(b" ", b""))
    if not candidates:
        raise Unverifiable("permerror", "there is no key in DNS")
    keys: list[PublicKey] = []
    problem = Unverifiable("permerror", "the key cannot be used")
    for record in candidates[:TRIED_RECORDS]:
        try:
            keys.append(examine(record, min_bits))
        except Unverifiable as error:
            problem = error
    if not keys:
        raise problem
    return keys


def examine(record: bytes, min_bits: int) -> PublicKey:
    """Return the key of a record; Unverifiable says why it cannot be used (RFC 6376 section 6.1.2)."""
    if len(record) > RECORD_LIMIT_BYTES:
        raise Unverifiable("permerror", "the key record is too long")
    try:
        tags = read_tags(record)
    except Unverifiable:
        raise Unverifiable("permerror", "the key record is malformed") from None
    if tags.get("v", "DKIM1") != "DKIM1":
        raise Unverifiable("permerror", "the key record is of another version")
    kind = tags.get("k", "rsa")
    if kind not in {"rsa", "ed25519"}:
        raise Unverifiable("permerror", "the key is of an unknown type")
    if not {"*", "email"} & set(words(tags.get("s", "*"))):
        raise Unverifiable("permerror", "the key is not for mail")
    point = without_space(tags["p"]) if "p" in tags else None
    if not point:
        why = "the key has been revoked" if point == "" else "the key record has no key"
        raise Unverifiable("permerror", why)
    flags = words(tags.get("t", ""))
    hashes = words(tags["h"]) if "h" in tags else ()
    return PublicKey(kind, _material(kind, point, min_bits), "y" in flags, "s" in flags, hashes)


def _material(kind: str, point: str, min_bits: int) -> Any:
    try:
        material, bits, _, _ = dkim.evaluate_pk("key", f"k={kind}; p={point}".encode())
    except LIBRARY_ERRORS:
        raise Unverifiable("permerror", "the key is malformed") from None
    if kind == "ed25519":
        return material
    modulus, exponent = material["modulus"], material["publicExponent"]
    if modulus <= 0 or exponent < 3 or exponent.bit_length() > EXPONENT_LIMIT_BITS or bits > RSA_LIMIT_BITS:
        raise Unverifiable("permerror", "the key is not one that honest signers have")
    if bits < min_bits:
        raise Unverifiable("policy", f"the key has {bits} bits, which is too few")
    return material
