"""The DKIM signatures of a message (RFC 6376), each with its result as RFC 8601 has it.

First the keys of all are asked of DNS, side by side; then the work is done in one of the threads for that, on the body
as it stands in its file. However many signatures a message has and however large it is, there is a limit.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gatepost.authentication import method_result
from gatepost.services.authentication.dkim_body import hash_body
from gatepost.services.authentication.dkim_key import fetch_records, usable_keys
from gatepost.services.authentication.dkim_signature import (
    SignedFields,
    header_digest,
    is_signed_by,
    read_owner,
    read_signature,
)
from gatepost.services.authentication.dkim_tags import Unverifiable, read_tags, without_space
from gatepost.services.processor import in_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from structlog.typing import FilteringBoundLogger

    from gatepost.authentication import MethodResult
    from gatepost.message.header import Header
    from gatepost.message.message import Message
    from gatepost.services.authentication.dkim_body import BodyHash, HashedBody
    from gatepost.services.authentication.dkim_key import Records
    from gatepost.services.authentication.dkim_signature import Signature
    from gatepost.services.dns.resolver import Resolver

SHOWN_VALUE = 8
"""Characters of a signature's value, by which people and machines tell it from others (RFC 6008)."""

SHOWN_LIMIT = 320
"""Characters of what a signature says of itself in a result: an address has no more."""


@dataclass(frozen=True, slots=True)
class DkimPolicy:
    """What is acceptable."""

    max_signatures: int = 8
    min_bits: int = 1024
    allow_partial: bool = False
    """A signature whose l= leaves a part of the body to others counts as any other."""


@dataclass(slots=True)
class _Found:
    """A field, and what became of it so far."""

    field: Header
    tags: dict[str, str]
    signature: Signature | None = None
    problem: Unverifiable | None = None
    remark: str | None = None
    by_test_key: bool = False


async def check_signatures(
    dns: Resolver, message: Message, policy: DkimPolicy, log: FilteringBoundLogger
) -> list[MethodResult]:
    """Return a result for each signature, from the top; `none` if there is none. `log` learns why a key is missing."""
    found, more = await in_thread(_read_all, message, policy.max_signatures)
    if not found:
        return [method_result("dkim", "none")]
    records = await fetch_records(dns, (one.signature.key_name for one in found if one.signature is not None), log)
    results = await in_thread(_check, message, found, records, policy)
    if more:
        results.append(method_result("dkim", "policy", reason=f"{more} more signatures were not checked"))
    return results


def _read_all(message: Message, limit: int) -> tuple[list[_Found], int]:
    """Return the signatures, and how many there are beyond the limit."""
    fields = message.headers.fields("DKIM-Signature")
    return [_read(field) for field in fields[:limit]], max(0, len(fields) - limit)


def _read(field: Header) -> _Found:
    found = _Found(field, {})
    try:
        found.tags = read_tags(field.raw)
        found.signature = read_signature(field, found.tags)
    except Unverifiable as problem:
        found.problem = problem
    return found


def _check(message: Message, found: Sequence[_Found], records: Records, policy: DkimPolicy) -> list[MethodResult]:
    fields = SignedFields(message.headers)
    # First, because a signature without a key is not worth reading the body for.
    for one in found:
        _attempt(one, _check_header, fields, records, policy)
    wanted = {one.signature.body for one in found if one.signature is not None and one.problem is None}
    bodies = hash_body(message.body.chunks(), wanted)
    for one in found:
        _attempt(one, _check_body, bodies, policy)
    starts = Counter(_value(one)[:SHOWN_VALUE] for one in found)
    return [_result(one, starts) for one in found]


def _attempt(one: _Found, check: Callable[..., None], *arguments: Any) -> None:
    if one.signature is None or one.problem is not None:
        return
    try:
        check(one, one.signature, *arguments)
    except Unverifiable as problem:
        one.problem = problem


def _check_header(
    one: _Found, signature: Signature, fields: SignedFields, records: Records, policy: DkimPolicy
) -> None:
    keys = usable_keys(records, signature.key_name, policy.min_bits)
    # One From more than it covers, and the signature is of another message (RFC 6376 section 8.15).
    selected = fields.select([*signature.names, "from"])
    digest = header_digest(
        selected, signature.field, relaxed=signature.relaxed_header, algorithm=signature.body.algorithm
    )
    problem = Unverifiable("fail", "the signature does not match the header")
    for key in keys:
        try:
            if not is_signed_by(key, signature.algorithm, digest, signature.value):
                one.by_test_key = key.is_test
                continue
        except Unverifiable as other:
            problem = other
            continue
        if key.same_domain and signature.needs_same_domain:
            raise Unverifiable("permerror", "the key is not for subdomains")
        if key.is_test:
            one.remark = "the domain is only testing DKIM"
            one.by_test_key = True
        return
    raise problem


def _check_body(one: _Found, signature: Signature, bodies: Mapping[BodyHash, HashedBody], policy: DkimPolicy) -> None:
    body, limit = bodies[signature.body], signature.body.limit_bytes
    if body.digest != signature.body_digest:
        raise Unverifiable("fail", "the signature does not match the body")
    if limit is not None and limit < body.size:
        rest = f"the signature does not cover the last {body.size - limit} bytes of the body"
        if not policy.allow_partial:
            raise Unverifiable("policy", rest)
        one.remark = rest


def _result(one: _Found, starts: Mapping[str, int]) -> MethodResult:
    result, reason = (one.problem.result, one.problem.reason) if one.problem else ("pass", one.remark)
    if result == "fail" and one.by_test_key:
        # RFC 6376 section 3.6.1: such a message is no worse than one without a signature.
        result, reason = "neutral", f"{reason}, and the domain is only testing DKIM"
    start = _value(one)[:SHOWN_VALUE]
    domain, selector = _owner(one)
    properties = {
        "header.d": domain,
        "header.i": _shown(one.tags.get("i")) if domain else None,
        "header.s": selector,
        "header.a": _shown(one.tags.get("a")),
        # RFC 6008: as much as it takes to tell one from another.
        "header.b": _shown(start if starts[start] == 1 else _value(one)[: 3 * SHOWN_VALUE]) or None,
    }
    return method_result("dkim", result, properties, reason)


def _owner(one: _Found) -> tuple[str, str] | tuple[None, None]:
    try:
        return read_owner(one.tags)
    except (Unverifiable, KeyError):
        return None, None


def _value(one: _Found) -> str:
    return without_space(one.tags.get("b", ""))


def _shown(text: str | None) -> str | None:
    """Return what a stranger wrote if it can stand in a header field."""
    return text if text and text.isprintable() and len(text) <= SHOWN_LIMIT else None
