"""One signature of DKIM, or of ARC, which has the same form: read, and checked against a message and a key.

Whose signatures are looked at, and what follows from the results, is for `dkim_check` and `arc_chain`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dkim.canonicalization import Relaxed, Simple
from dkim.crypto import DigestTooLargeError, RSASSA_PKCS1_v1_5_verify

from gatepost.deadline import check_time
from gatepost.idn import to_ascii
from gatepost.services.authentication.dkim_body import BodyHash
from gatepost.services.authentication.dkim_key import LIBRARY_ERRORS
from gatepost.services.authentication.dkim_tags import Unverifiable, without_signature, without_space, words

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from gatepost.message.header import Header
    from gatepost.services.authentication.dkim_key import PublicKey

CLOCK_SKEW_S = 36_000
"""Ten hours: as dkimpy. A clock in the wrong time zone is no forgery."""

NAMES_LIMIT = 500
"""Fields that a signature may cover: honest ones have 10 to 60."""

_ALGORITHMS = {"rsa-sha256": ("rsa", "sha256"), "ed25519-sha256": ("ed25519", "sha256"), "rsa-sha1": ("rsa", "sha1")}
_DOMAIN = re.compile(r"[^\s.@()<>\[\]:;,\\\"]+(?:\.[^\s.@()<>\[\]:;,\\\"]+)+")
_SELECTOR = re.compile(r"[^\s.@()<>\[\]:;,\\\"]+(?:\.[^\s.@()<>\[\]:;,\\\"]+)*")
_NUMBER = re.compile(r"\d{1,76}")
_TIME = re.compile(r"\d{1,12}")
_CANON = {"simple": Simple, "relaxed": Relaxed}


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature that can be tried."""

    field: Header
    algorithm: str
    domain: str
    selector: str
    identity: str
    """i=, or what stands for it; its domain is `domain` or below it."""
    relaxed_header: bool
    names: tuple[str, ...]
    """The fields that it covers, in lower case, in the order of h=."""
    value: bytes
    body: BodyHash
    body_digest: bytes

    @property
    def key_name(self) -> str:
        """Where the key is in DNS."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def needs_same_domain(self) -> bool:
        """True if the identity is below the domain, which t=s of a key forbids."""
        return to_ascii(self.identity.rpartition("@")[2]) != to_ascii(self.domain)


def read_signature(field: Header, tags: Mapping[str, str], *, arc: bool = False) -> Signature:
    """Return the signature that these tags of a field make; Unverifiable says why it is not to be tried.

    `arc`: an ARC-Message-Signature, where v= is missing and i= is a number.
    """
    required = ("a", "b", "bh", "d", "h", "s") if arc else ("v", "a", "b", "bh", "d", "h", "s")
    if missing := [name for name in required if not tags.get(name)]:
        raise Unverifiable("neutral" if missing != ["h"] else "permerror", f"the signature lacks {missing[0]}=")
    if not arc and tags["v"] != "1":
        raise Unverifiable("neutral", "the signature is of another version")
    algorithm = known_algorithm(tags["a"])
    domain, selector = read_owner(tags)
    if {"dns/txt", "dns"}.isdisjoint(words(tags.get("q", "dns/txt"))):
        raise Unverifiable("neutral", "the signature does not have its key in DNS")
    names = words(tags["h"])
    if len(names) > NAMES_LIMIT:
        raise Unverifiable("policy", f"the signature covers more than {NAMES_LIMIT} fields")
    if "from" not in names and not arc:
        raise Unverifiable("permerror", "the signature does not cover From")
    header_form, _, body_form = tags.get("c", "simple/simple").partition("/")
    if header_form not in _CANON or (body_form or "simple") not in _CANON:
        raise Unverifiable("neutral", "the signature is of an unknown canonicalization")
    limit = tags.get("l")
    if limit is not None and not _NUMBER.fullmatch(limit):
        raise Unverifiable("neutral", "l= of the signature is no number")
    _check_times(tags)
    body = BodyHash(body_form == "relaxed", _ALGORITHMS[algorithm][1], None if limit is None else int(limit))
    return Signature(
        field,
        algorithm,
        domain,
        selector,
        f"@{domain}" if arc else _identity(tags, domain),
        header_form == "relaxed",
        names,
        read_base64(tags["b"]),
        body,
        read_base64(tags["bh"]),
    )


def known_algorithm(name: str) -> str:
    """Return the algorithm; Unverifiable if it is unknown, or no longer to be trusted."""
    if name not in _ALGORITHMS:
        raise Unverifiable("neutral", "the signature is of an unknown algorithm")
    if name == "rsa-sha1":
        # RFC 8301 section 3.1.
        raise Unverifiable("policy", "rsa-sha1 is no longer trusted")
    return name


def read_owner(tags: Mapping[str, str]) -> tuple[str, str]:
    """Return the domain (d=) and selector (s=); Unverifiable if they are not such."""
    domain, selector = tags["d"], tags["s"]
    if len(domain) > 255 or not _DOMAIN.fullmatch(domain):
        raise Unverifiable("neutral", "d= of the signature is no domain")
    if len(selector) > 255 or not _SELECTOR.fullmatch(selector):
        raise Unverifiable("neutral", "s= of the signature is no selector")
    return domain, selector


def _identity(tags: Mapping[str, str], domain: str) -> str:
    identity = tags.get("i", f"@{domain}")
    _, at, own = identity.rpartition("@")
    own, parent = to_ascii(own), to_ascii(domain)
    if not at or not (own == parent or own.endswith("." + parent)):
        raise Unverifiable("neutral", "i= of the signature is not within d=")
    return identity


def _check_times(tags: Mapping[str, str]) -> None:
    times = {name: tags[name] for name in ("t", "x") if name in tags}
    for name, value in times.items():
        if not _TIME.fullmatch(value):
            raise Unverifiable("neutral", f"{name}= of the signature is no time")
    now = time.time()
    if "t" in times and int(times["t"]) > now + CLOCK_SKEW_S:
        raise Unverifiable("policy", "the signature is from the future")
    if "x" in times and int(times["x"]) < now - CLOCK_SKEW_S:
        raise Unverifiable("policy", "the signature has expired")
    if len(times) == 2 and int(times["x"]) < int(times["t"]):
        raise Unverifiable("neutral", "the signature expires before it was made")


def read_base64(value: str) -> bytes:
    """Return the bytes; Unverifiable if there are none."""
    try:
        return base64.b64decode(without_space(value), validate=True)
    except (binascii.Error, ValueError):
        raise Unverifiable("neutral", "the signature is not base64") from None


class SignedFields:
    """The fields of a message, found by name from the last one up (RFC 6376 section 5.4.2)."""

    def __init__(self, fields: Iterable[Header]) -> None:
        self._fields: dict[str, list[Header]] = defaultdict(list)
        for field in fields:
            self._fields[field.name.lower()].append(field)

    def select(self, names: Iterable[str]) -> list[Header]:
        """Return the fields for these names, in their order; a name that is left over stands for none."""
        used: dict[str, int] = defaultdict(int)
        selected = []
        for name in names:
            used[name] += 1
            if used[name] <= len(of_name := self._fields.get(name, ())):
                selected.append(of_name[-used[name]])
        return selected


def header_digest(selected: Iterable[Header], field: Header, *, relaxed: bool, algorithm: str) -> bytes:
    """Return the hash that a signature is made of: the fields, and its own without b= and without the last line end.

    For a thread: a megabyte of header takes 70 ms. TimeoutError once the time of the hook that asked for it is over.
    """
    canon = Relaxed if relaxed else Simple
    made = hashlib.new(algorithm, usedforsecurity=False)
    own = without_signature(field.raw)
    for one in selected:
        check_time()
        made.update(_canonical(one, one.raw, canon))
    made.update(_canonical(field, own, canon).rstrip())
    return made.digest()


def _canonical(field: Header, raw: bytes, canon: type[Relaxed | Simple]) -> bytes:
    ((name, value),) = canon.canonicalize_headers([(field.name.encode("utf-8", "surrogateescape"), raw + b"\r\n")])
    return bytes(name + b":" + value)


class HashedHeader:
    """The digest of a header as dkimpy wants it."""

    def __init__(self, name: str, digest: bytes) -> None:
        self.name = name
        self._digest = digest

    def digest(self) -> bytes:
        """Return it."""
        return self._digest


def is_signed_by(key: PublicKey, algorithm: str, digest: bytes, value: bytes) -> bool:
    """Tell whether the key's owner has signed the digest; Unverifiable if the key is for something else."""
    kind, hash_name = _ALGORITHMS[algorithm]
    if key.kind != kind or (key.hashes and hash_name not in key.hashes):
        raise Unverifiable("permerror", "the key is for another algorithm")
    try:
        if kind == "ed25519":
            key.material.verify(digest, value)
            return True
        return bool(RSASSA_PKCS1_v1_5_verify(HashedHeader(hash_name, digest), value, key.material))
    except (*LIBRARY_ERRORS, DigestTooLargeError):
        return False
