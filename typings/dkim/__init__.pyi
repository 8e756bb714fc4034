"""What gatepost and its tests use of dkimpy, which has no types of its own."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from dkim.canonicalization import CanonicalizationPolicy

class DKIMException(Exception): ...

CV_Pass: bytes
CV_Fail: bytes
CV_None: bytes

_DnsFunc: TypeAlias = Callable[..., bytes | str | None]

class DKIM:
    headers: list[tuple[bytes, bytes]]
    body: bytes
    hasher: Callable[..., Any]
    signature_algorithm: bytes
    def __init__(self, message: bytes | None = ..., *, minkey: int = ...) -> None: ...
    def verify(self, idx: int = ..., dnsfunc: _DnsFunc = ...) -> bool: ...
    def gen_header(
        self,
        fields: list[tuple[bytes, bytes]],
        include_headers: Sequence[bytes],
        canon_policy: CanonicalizationPolicy,
        header_name: bytes,
        pk: Any,
    ) -> bytes: ...

def evaluate_pk(name: str, s: bytes | str) -> tuple[Any, int, bytes, bool]: ...
def sign(
    message: bytes,
    selector: bytes,
    domain: bytes,
    privkey: bytes,
    *,
    canonicalize: tuple[bytes, bytes] = ...,
    signature_algorithm: bytes = ...,
    include_headers: Sequence[bytes] | None = ...,
    length: bool = ...,
) -> bytes: ...
def verify(message: bytes, *, dnsfunc: _DnsFunc = ..., minkey: int = ...) -> bool: ...
def arc_sign(
    message: bytes,
    selector: bytes,
    domain: bytes,
    privkey: bytes,
    srv_id: bytes,
    *,
    include_headers: Sequence[bytes] | None = ...,
    timestamp: int | None = ...,
) -> list[bytes]: ...
def arc_verify(
    message: bytes, *, dnsfunc: _DnsFunc = ..., minkey: int = ...
) -> tuple[bytes | None, list[dict[str, Any]], str]: ...
