"""DKIM and ARC for tests: keys and messages from dkimpy's own tests, read from its sdist, and signatures of any kind.

TABLE       the DNS of it, for the test kit; `zones()` is the same for a real name server
vector(n)   a message of that suite
signed(...) a message with a signature that may be as wrong as a test wants it
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dkim
import pytest
from dkim.canonicalization import CanonicalizationPolicy
from dkim.crypto import HASH_ALGORITHMS, parse_pem_private_key
from nacl.signing import SigningKey

if TYPE_CHECKING:
    from collections.abc import Sequence

MESSAGE = (
    b"From: Ada <ada@example.com>\r\nTo: bob@example.org,\r\n\tcarol@example.org\r\nSubject:  two  blanks \r\n"
    b"Date: Mon, 2 Mar 2026 12:00:00 +0000\r\nMessage-ID: <1@example.com>\r\n\r\n"
    b"Some  text \r\nwith \xfc\ttabs.\r\n\r\nThe end.\r\n\r\n\r\n"
)
NAMES = ("from", "to", "subject", "date", "message-id", "from")

GMAIL = (
    "k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA1Kd87/UeJjenpabgbFwh+eBCsSTrqmwIYYvywlbhbqoo2DymndFkbjOVIP"
    "IldNs/m40KF+yzMn1skyoxcTUGCQs8g3FgD2Ap3ZB5DekAo5wMmk4wimDO+U8QzI3SD07y2+07wlNWwIt8svnxgdxGkVbbhzY8i+RQ9DpSVpPbF"
    "7ykQxtKXkv/ahW3KjViiAH+ghvvIhkx4xYSIc9oSwVmAl5OctMEeWUwg8Istjqz8BZeTWbf41fbNhte7Y+YqZOwq1Sd0DbvYAD9NOZK9vlfuac0"
    "598HY+vtSBczUiKERHv1yRbcaQtZFh5wtiRrN04BLUTD21MycBX5jYchHjPY/wIDAQAB"
)
"""A public key of Google's from 2013, which a message of the suite is signed with."""

ED25519_PUBLIC = "k=ed25519; p=yi50DjK5O9pqbFpNHklsv9lqaS0ArSYu02qp1S0DW1Y="
RFC8032_PUBLIC = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


def vector(name: str) -> bytes:
    """Return a file of dkimpy's tests."""
    found = sorted(Path(".venv/suites").glob(f"dkimpy-*/dkim/tests/data/{name}"))
    if not found:
        pytest.skip("the suite is not there: make setup fetches it")
    return found[-1].read_bytes()


SIGNED_VECTORS = (
    "ed25519test2.msg",
    "rfc6376.signed.msg",
    "rfc6376.signed.rsa.msg",
    "rfc6376.signed.no_t.msg",
    "test2.message",
    "test.message.baddomain",
)


def table() -> dict[str, dict[str, list[str]]]:
    """Return the key records, by name."""
    rsa = "".join(vector("test.txt").decode().split("\n"))
    records = {
        "test._domainkey.example.com": rsa,
        "ed._domainkey.example.com": ED25519_PUBLIC,
        "big._domainkey.example.com": "".join(vector("2048_testkey_wo_markers.pub.txt").decode().split()),
        "test._domainkey.football.example.com": rsa,
        "brisbane._domainkey.football.example.com": RFC8032_PUBLIC,
        "sed._domainkey.test.ex": vector("eximtest.dns").decode().strip(),
        "20120113._domainkey.gmail.com": GMAIL,
    }
    return {name: {"TXT": [record]} for name, record in records.items()}


def zones() -> dict[str, str]:
    """Return the same for nsd."""
    found: dict[str, str] = {}
    for name, records in table().items():
        zone = name.partition("._domainkey.")[2]
        zone = "example.com" if zone.endswith("example.com") else zone
        text = records["TXT"][0]
        strings = " ".join(f'"{text[place : place + 200]}"' for place in range(0, len(text), 200))
        found[zone] = found.get(zone, "") + f"{name}. IN TXT {strings}\n"
    return found


def dnsfunc(name: bytes, timeout: float = 5) -> str | None:
    """Be DNS for dkimpy."""
    records = table().get(name.decode("utf-8", "replace").rstrip("."), {}).get("TXT")
    return records[0] if records else None


def verdicts(message: bytes) -> list[bool]:
    """Return what dkimpy says of each signature."""
    parsed = dkim.DKIM(message)
    found = []
    for place in range(sum(name.lower() == b"dkim-signature" for name, _ in parsed.headers)):
        try:
            found.append(parsed.verify(place, dnsfunc=dnsfunc))
        except dkim.DKIMException:
            found.append(False)
    return found


def signature(
    message: bytes = MESSAGE,
    *,
    key: str = "test.private",
    c: str = "relaxed/relaxed",
    names: Sequence[str] = NAMES,
    **tags: str | None,
) -> bytes:
    """Return a DKIM-Signature field, with its line end; `tags` change or add what stands in it, None leaves it out."""
    algorithm = "ed25519-sha256" if "ed" in key or "8032" in key else "rsa-sha256"
    given = {"v": "1", "a": algorithm, "c": c, "d": "example.com", "s": "ed" if "ed" in key else "test"} | tags
    parsed = dkim.DKIM(message)
    policy = CanonicalizationPolicy.from_c_value(c.encode())
    hasher = HASH_ALGORITHMS.get((given["a"] or "").encode(), HASH_ALGORITHMS[b"rsa-sha256"])
    body = policy.canonicalize_body(parsed.body)
    if (limit := given.get("l")) and limit.isdecimal():
        body = body[: int(limit)]
    given.setdefault("h", ":".join(names))
    given.setdefault("bh", base64.b64encode(hasher(body).digest()).decode())
    fields = [(name.encode(), value.encode()) for name, value in given.items() if value is not None]
    parsed.hasher, parsed.signature_algorithm = hasher, algorithm.encode()
    private: Any = vector(key)
    private = parse_pem_private_key(private) if algorithm.startswith("rsa") else SigningKey(base64.b64decode(private))
    covered = [name.strip().lower().encode() for name in (given["h"] or "from").split(":")]
    made = parsed.gen_header([*fields, (b"b", b"0" * 60)], covered, policy, b"DKIM-Signature", private)
    return b"DKIM-Signature: " + made.rstrip() + b"\r\n"


def signed(message: bytes = MESSAGE, **how: Any) -> bytes:
    """Return the message with such a signature on top."""
    return signature(message, **how) + message


def seal(message: bytes, found: str, *, domain: bytes = b"example.com") -> bytes:
    """Return the message as a list passes it on, which found that when it came in."""
    results = f"Authentication-Results: lists.example.org; {found}\r\n".encode()
    covered = [b"from", b"to", b"subject", b"date", b"message-id"]
    fields = dkim.arc_sign(
        results + message, b"test", domain, vector("test.private"), b"lists.example.org", include_headers=covered
    )
    assert fields
    return b"".join(field.rstrip() + b"\r\n" for field in fields) + message
