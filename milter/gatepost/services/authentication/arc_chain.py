"""The Authenticated Received Chain of a message (RFC 8617 section 5.2): who had it, and what they found.

Every intermediary adds a set of three fields: what it found (AAR), a signature of the message as it sent it (AMS), and
a seal over all sets so far (AS). The newest signature and all seals must hold.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gatepost.services.authentication.arc_results import read_arc_results
from gatepost.services.authentication.dkim_body import hash_body
from gatepost.services.authentication.dkim_key import fetch_records, usable_keys
from gatepost.services.authentication.dkim_signature import (
    SignedFields,
    header_digest,
    is_signed_by,
    known_algorithm,
    read_base64,
    read_owner,
    read_signature,
)
from gatepost.services.authentication.dkim_tags import Unverifiable, read_tags
from gatepost.services.processor import in_thread

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from gatepost.authentication import MethodResult
    from gatepost.message.header import Header
    from gatepost.message.message import Message
    from gatepost.services.authentication.dkim_key import Records
    from gatepost.services.authentication.dkim_signature import Signature
    from gatepost.services.dns.resolver import Resolver

RESULTS, SIGNATURE, SEAL = "arc-authentication-results", "arc-message-signature", "arc-seal"

_INSTANCE = re.compile(rb"[ \t\r\n]*i[ \t\r\n]*=[ \t\r\n]*(\d{1,3})[ \t\r\n]*;")
_NUMBER = re.compile(r"[1-9]\d?")

SETS_ALLOWED = 50
"""RFC 8617 section 4.2.1."""


@dataclass(frozen=True, slots=True)
class ArcChain:
    """What became of a chain. Sealers and results are there only for `pass`: else they are anybody's words."""

    result: str
    """`none`, `pass` or `fail`; RFC 8617 section 5.2.1: there is nothing in between, an unanswered query is a fail."""
    reason: str | None = None
    sealers: list[str] = field(default_factory=list)
    """The domains that sealed it, the newest first."""
    oldest_pass: int = 0
    """The oldest instance whose signature still holds; 0 if all do."""
    authserv_id: str = ""
    """Who the newest sealer says it is."""
    results: list[MethodResult] = field(default_factory=list)
    """What the newest sealer found."""


@dataclass(frozen=True, slots=True)
class _Seal:
    """An ARC-Seal that can be tried."""

    field: Header
    algorithm: str
    domain: str
    selector: str
    status: str
    value: bytes


@dataclass(frozen=True, slots=True)
class _Set:
    results: Header
    signature: Signature
    seal: _Seal


async def check_chain(
    dns: Resolver, message: Message, *, max_sets: int, min_bits: int, log: FilteringBoundLogger
) -> ArcChain:
    """Return what the chain of a message is worth. `log` is told what DNS did not know."""
    try:
        sets = await in_thread(_read, message, max_sets)
        if not sets:
            return ArcChain("none")
        names = [name for one in sets for name in (one.signature.key_name, _key_name(one.seal))]
        records = await fetch_records(dns, names, log)
        oldest_pass = await in_thread(_check, message, sets, records, min_bits)
    except Unverifiable as problem:
        return ArcChain("fail", problem.reason)
    newest = sets[-1]
    authserv_id, results = read_arc_results(newest.results.raw.replace(b"\r\n", b"").decode("utf-8", "replace"))
    sealers = [one.seal.domain for one in reversed(sets)]
    return ArcChain("pass", None, sealers, oldest_pass, authserv_id, results)


def _read(message: Message, max_sets: int) -> list[_Set]:
    """Return the sets from the first on; Unverifiable if they do not make a chain (steps 1 to 3)."""
    found: dict[str, dict[int, Header]] = {RESULTS: {}, SIGNATURE: {}, SEAL: {}}
    for one in message.headers:
        kind = one.name.lower()
        if kind not in found:
            continue
        number = _instance(one, kind)
        if number in found[kind]:
            raise Unverifiable("fail", f"{one.name} stands there twice for instance {number}")
        if number > max_sets:
            raise Unverifiable("fail", f"the chain has more than {max_sets} sets")
        found[kind][number] = one
    last = max((number for numbers in found.values() for number in numbers), default=0)
    for name, numbers in found.items():
        if missing := set(range(1, last + 1)) - set(numbers):
            raise Unverifiable("fail", f"{name} is missing for instance {min(missing)}")
    sets = []
    for number in range(1, last + 1):
        seal = _read_seal(found[SEAL][number])
        signature = found[SIGNATURE][number]
        read = read_signature(signature, read_tags(signature.raw), arc=True)
        if SEAL in read.names:
            raise Unverifiable("fail", f"the signature of instance {number} covers a seal")
        sets.append(_Set(found[RESULTS][number], read, seal))
    if sets and sets[-1].seal.status == "fail":
        raise Unverifiable("fail", "the newest sealer found the chain broken")
    for number, each in enumerate(sets, 1):
        if each.seal.status != ("none" if number == 1 else "pass"):
            raise Unverifiable("fail", f"the seal of instance {number} has cv={each.seal.status}")
    return sets


def _instance(one: Header, kind: str) -> int:
    if kind == RESULTS:
        match = _INSTANCE.match(one.raw)
        text = match[1].decode() if match else ""
    else:
        text = read_tags(one.raw).get("i", "")
    if not _NUMBER.fullmatch(text) or int(text) > SETS_ALLOWED:
        raise Unverifiable("fail", f"{one.name} has no instance number")
    return int(text)


def _read_seal(one: Header) -> _Seal:
    tags = read_tags(one.raw)
    if missing := [name for name in ("a", "b", "cv", "d", "s") if not tags.get(name)]:
        raise Unverifiable("fail", f"a seal lacks {missing[0]}=")
    if "h" in tags or tags["cv"] not in {"none", "pass", "fail"}:
        raise Unverifiable("fail", "a seal is malformed")
    domain, selector = read_owner(tags)
    return _Seal(one, known_algorithm(tags["a"]), domain, selector, tags["cv"], read_base64(tags["b"]))


def _key_name(seal: _Seal) -> str:
    return f"{seal.selector}._domainkey.{seal.domain}"


def _check(message: Message, sets: list[_Set], records: Records, min_bits: int) -> int:
    """Return the oldest instance whose signature holds (steps 4 to 6); Unverifiable if the chain is broken."""
    _check_seals(sets, records, min_bits)
    fields = SignedFields(message.headers)
    bodies = hash_body(message.body.chunks(), {one.signature.body for one in sets})
    for number in range(len(sets), 0, -1):
        signature = sets[number - 1].signature
        try:
            if bodies[signature.body].digest != signature.body_digest:
                raise Unverifiable("fail", "the newest signature does not match the body")
            digest = header_digest(
                fields.select([*signature.names, "from"] if "from" in signature.names else signature.names),
                signature.field,
                relaxed=signature.relaxed_header,
                algorithm=signature.body.algorithm,
            )
            keys = usable_keys(records, signature.key_name, min_bits)
            if not any(is_signed_by(key, signature.algorithm, digest, signature.value) for key in keys):
                raise Unverifiable("fail", "the newest signature does not match the header")
        except Unverifiable:
            if number == len(sets):
                raise
            return number + 1
    return 0


def _check_seals(sets: list[_Set], records: Records, min_bits: int) -> None:
    for number in range(len(sets), 0, -1):
        seal = sets[number - 1].seal
        before = [one for each in sets[:number] for one in (each.results, each.signature.field, each.seal.field)]
        digest = header_digest(before[:-1], seal.field, relaxed=True, algorithm="sha256")
        keys = usable_keys(records, _key_name(seal), min_bits)
        if not any(is_signed_by(key, seal.algorithm, digest, seal.value) for key in keys):
            raise Unverifiable("fail", f"the seal of instance {number} does not match")
