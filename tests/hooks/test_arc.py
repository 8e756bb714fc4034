"""arc: chains that dkimpy makes, whole and broken in every way; and what the newest sealer found, as plain data."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import dkim
import pytest
from tests.rigs.dkim_rig import MESSAGE, dnsfunc, seal, table

from gatepost.services.authentication.arc_results import read_arc_results
from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gatepost.testing import Client

KEY = "test._domainkey.example.com"


ONE = seal(MESSAGE, "arc=none; spf=pass smtp.mailfrom=d1.example; dkim=pass (good) header.i=@d1.example; dmarc=pass")
TWO = seal(ONE, 'arc=pass; spf=fail reason="not this one" smtp.mailfrom=d2.example; dmarc=fail header.from=example.com')
THREE = seal(b"X-List: c\r\n" + TWO, "arc=pass; spf=none", domain=b"football.example.com")


async def check(content: bytes, dns: Mapping[str, Any] | None = None, **options: Any) -> tuple[str, Client]:
    async with gate(arc=options, dns={**table(), **(dns or {})}) as postfix:
        client = postfix.client()
        reply = await client.send("a@example.net", "b@example.org", content=content)
        return reply.encode().decode().strip(), client


async def notes(content: bytes, dns: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    reply, client = await check(content, dns, **options)
    assert reply.startswith("250"), reply
    return client.transaction.notes["arc"]


async def verdict(content: bytes, dns: Mapping[str, Any] | None = None, **options: Any) -> tuple[str, str | None]:
    (result,) = (await notes(content, dns, **options))["authentication_results"]
    return result["result"], result["reason"]


async def test_a_message_without_chain_has_the_result_none() -> None:
    none: dict[str, Any] = {"method": "arc", "result": "none", "reason": None, "properties": {}}
    assert await notes(MESSAGE) == {"authentication_results": [none]}


async def test_a_whole_chain_tells_who_sealed_it_and_what_the_newest_found() -> None:
    properties = {"smtp.remote-ip": "192.0.2.1", "header.oldest-pass": "0"}
    assert await notes(TWO) == {
        "authentication_results": [{"method": "arc", "result": "pass", "reason": None, "properties": properties}],
        "sealers": ["example.com", "example.com"],
        "authserv_id": "lists.example.org",
        "results": [
            {"method": "arc", "result": "pass", "reason": None, "properties": {}},
            {
                "method": "spf",
                "result": "fail",
                "reason": "not this one",
                "properties": {"smtp.mailfrom": "d2.example"},
            },
            {"method": "dmarc", "result": "fail", "reason": None, "properties": {"header.from": "example.com"}},
        ],
    }
    assert (await notes(THREE))["sealers"] == ["football.example.com", "example.com", "example.com"]


@pytest.mark.parametrize("content", [ONE, TWO, THREE], ids=["one", "two", "three"])
async def test_a_chain_breaks_with_what_it_covers(content: bytes) -> None:
    changed = {
        "nothing": content,
        "another field": b"X-New: 1\r\n" + content,
        "the body": content.replace(b"The end", b"the end"),
        "the Subject": content.replace(b"two", b"2"),
        "a second From": b"From: eve@example.net\r\n" + content,
        "what the first found": content.replace(b"spf=pass", b"spf=fail"),
        "the first signature": re.sub(rb"(ARC-Message-Signature: i=1;.*?)bh=\w", rb"\1bh=x", content, flags=re.DOTALL),
        "a set is gone": re.sub(rb"ARC-Seal: i=1;.*?\r\n(?!\s)", b"", content, flags=re.DOTALL),
        "a set stands there twice": re.sub(rb"(ARC-Seal: i=1;.*?\r\n(?!\s))", rb"\1\1", content, flags=re.DOTALL),
        "cv of the first": content.replace(b"cv=none", b"cv=pass"),
    }
    assert changed["a set is gone"] != content != changed["a set stands there twice"]
    for name, message in changed.items():
        theirs = dkim.arc_verify(message, dnsfunc=dnsfunc)[0]
        assert (await verdict(message))[0] == ("pass" if theirs == dkim.CV_Pass else "fail"), name
        assert (theirs == dkim.CV_Pass) == (name in {"nothing", "another field"})


async def test_the_oldest_signature_that_still_holds_is_told() -> None:
    changed = MESSAGE.replace(b"two", b"[list] two")
    chain = seal(ONE.replace(MESSAGE, changed), "arc=pass; dmarc=pass")
    found = await notes(seal(chain, "arc=pass"))
    assert found["authentication_results"][0]["properties"]["header.oldest-pass"] == "2"


def with_seal(content: bytes, old: bytes, new: bytes) -> bytes:
    """Change the newest seal."""
    head, name, rest = content.partition(b"ARC-Seal:")
    assert old in rest
    return head + name + rest.replace(old, new, 1)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (with_seal(TWO, b"cv=pass", b"cv=fail"), "the newest sealer found the chain broken"),
        (with_seal(TWO, b"cv=pass", b"cv=none"), "the seal of instance 2 has cv=none"),
        (with_seal(ONE, b"cv=none", b"cv=maybe"), "a seal is malformed"),
        (with_seal(ONE, b"cv=none", b"cv=none; h=from"), "a seal is malformed"),
        (with_seal(ONE, b"a=rsa-sha256", b"a=rsa-sha1"), "rsa-sha1 is no longer trusted"),
        (with_seal(ONE, b"d=example.com", b"d=("), "d= of the signature is no domain"),
        (with_seal(ONE, b"s=test", b"s=other"), "there is no key in DNS"),
        (ONE.replace(b"i=1;", b"i=0;"), "ARC-Seal has no instance number"),
        (ONE.replace(b"i=1;", b"i=51;"), "ARC-Seal has no instance number"),
        (ONE.replace(b"i=1;", b"i=" + b"9" * 5000 + b";"), "ARC-Seal has no instance number"),
        (ONE.replace(b"i=1;", b"i=\xff;"), "the signature is not UTF-8"),
        (ONE.replace(b"i=1;", b"i=2;"), "arc-authentication-results is missing for instance 1"),
        (b"ARC-Authentication-Results: i=2; x; none\r\n" + ONE, "arc-message-signature is missing for instance 2"),
        (b"ARC-Seal: i=1\r\n" * 9_900 + MESSAGE, "ARC-Seal stands there twice for instance 1"),
        (
            b"ARC-Authentication-Results:" + b" \t" * 50_000 + b"\r\n" + MESSAGE,
            "ARC-Authentication-Results has no instance number",
        ),
    ],
)
async def test_what_is_no_chain_is_a_fail(content: bytes, reason: str) -> None:
    assert await verdict(content) == ("fail", reason)
    assert (await notes(content)).keys() == {"authentication_results"}


async def test_a_chain_has_so_many_sets_and_no_more() -> None:
    assert await verdict(TWO, max_sets=2) == ("pass", None)
    assert await verdict(THREE, max_sets=2) == ("fail", "the chain has more than 2 sets")


async def test_keys_that_cannot_be_had_or_are_too_small_break_the_chain() -> None:
    assert await verdict(ONE, {KEY: "servfail"}) == ("fail", "the key could not be looked up")
    assert await verdict(ONE, min_key_bits=2048) == ("fail", "the key has 1024 bits, which is too few")


async def test_a_broken_chain_refuses_nothing_unless_that_is_wanted() -> None:
    broken = TWO.replace(b"The end", b"the end")
    told = "the ARC chain of the message is broken: the newest signature does not match the body"
    assert (await check(broken))[0].startswith("250")
    assert (await check(broken, fail="deny"))[0] == f"550 5.7.29 {told}"
    assert (await check(TWO, fail="deny"))[0].startswith("250")
    assert (await check(MESSAGE, fail="deny"))[0].startswith("250")


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "found",
    [
        "arc=none; " + "(" * 3000,
        "arc=none; dkim=pass " + "header.d=x " * 500,
        "arc=none" + "; spf=pass" * 600,
        'arc=none; spf=pass reason="' + "\\" * 2000,
        "arc=none; spf=pass smtp.mailfrom=",
        "arc=none; spf=pass x.y=z; =; ;;",
    ],
)
def test_whatever_a_sealer_says_it_found_is_read_without_a_fault(found: str) -> None:
    _, results = read_arc_results(f" i=1; lists.example.org; {found}")
    assert len(results) <= 50
    assert all(value.isprintable() for one in results for value in one["properties"].values())


def test_what_a_sealer_found_may_be_folded_by_tabs_and_hold_comments() -> None:
    value = (
        "\ti=3; mx.example.net;\tdkim=pass (2048-bit key; \\) ok) header.i=@d.example header.s=s;\tdmarc=pass (p=NONE)"
    )
    assert read_arc_results(value) == (
        "mx.example.net",
        [
            {
                "method": "dkim",
                "result": "pass",
                "reason": None,
                "properties": {"header.i": "@d.example", "header.s": "s"},
            },
            {"method": "dmarc", "result": "pass", "reason": None, "properties": {}},
        ],
    )
