"""dkim: each signature with its result, the same that dkimpy gives where both have one; and what strangers try."""

from __future__ import annotations

import base64
import re
import time
from typing import TYPE_CHECKING, Any

import dkim
import pytest
from tests.rigs.dkim_rig import (
    ED25519_PUBLIC,
    GMAIL,
    MESSAGE,
    NAMES,
    SIGNED_VECTORS,
    dnsfunc,
    signature,
    signed,
    table,
    vector,
    verdicts,
)

from gatepost.option import Overrides
from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gatepost import MethodResult
    from gatepost.testing import Client

FORMS = ["simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed"]
KEYS = ["test.private", "ed25519test.key"]
NOW = int(time.time())


async def check(
    content: bytes, dns: Mapping[str, Any] | None = None, *, login: str | None = None, **options: Any
) -> tuple[str, Client]:
    """Return the reply to a message and who sent it; `dns` changes the table."""
    async with gate(dkim=options, dns={**table(), **(dns or {})}) as postfix:
        client = postfix.client(login=login)
        reply = await client.send("a@example.net", "b@example.org", content=content)
        return reply.encode().decode().strip(), client


def results_of(client: Client) -> list[MethodResult]:
    results: list[MethodResult] = client.transaction.notes["dkim"]["authentication_results"]
    return results


async def results(content: bytes, dns: Mapping[str, Any] | None = None, **options: Any) -> list[MethodResult]:
    reply, client = await check(content, dns, **options)
    assert reply.startswith("250"), reply
    return results_of(client)


async def result(content: bytes, dns: Mapping[str, Any] | None = None, **options: Any) -> tuple[str, str | None]:
    """Return what became of the one signature, and why."""
    (one,) = await results(content, dns, **options)
    return one["result"], one["reason"]


async def test_a_message_without_signature_has_the_result_none() -> None:
    assert await results(MESSAGE) == [{"method": "dkim", "result": "none", "reason": None, "properties": {}}]


async def test_a_result_says_which_signature_it_is_of() -> None:
    content = signed(i="@mail.example.com")
    start = re.findall(rb"\sb=(.{8})", content)[0].decode()
    assert await results(content) == [
        {
            "method": "dkim",
            "result": "pass",
            "reason": None,
            "properties": {
                "header.d": "example.com",
                "header.i": "@mail.example.com",
                "header.s": "test",
                "header.a": "rsa-sha256",
                "header.b": start,
            },
        }
    ]


@pytest.mark.parametrize("name", SIGNED_VECTORS)
async def test_messages_of_dkimpys_suite_have_the_verdict_that_dkimpy_gives(name: str) -> None:
    content = vector(name)
    assert [one["result"] == "pass" for one in await results(content)] == verdicts(content)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("key", KEYS)
async def test_what_dkimpy_signs_passes_and_what_is_changed_does_not(form: str, key: str) -> None:
    content = signed(c=form, key=key)
    changed = {
        "nothing": content,
        "another field": b"X-New: 1\r\n" + content,
        "a second From": content.replace(b"\r\nTo:", b"\r\nFrom: eve@example.net\r\nTo:"),
        "a From on top": b"From: eve@example.net\r\n" + content,
        "the Subject": content.replace(b"two", b"2"),
        "a second Subject": content.replace(b"\r\nSubject:", b"\r\nSubject: new\r\nSubject:"),
        "the body": content.replace(b"The end", b"the end"),
        "more body": content + b"more\r\n",
        "empty lines": content + b"\r\n\r\n",
        "white space of the header": content.replace(b"two  blanks ", b"two blanks"),
        "white space of the body": content.replace(b"Some  text ", b"Some text"),
    }
    expected = {name: verdicts(message) for name, message in changed.items()}
    assert expected["nothing"] == [True]
    assert expected["the body"] == expected["a From on top"] == [False]
    for name, message in changed.items():
        (one,) = await results(message)
        assert (one["result"] == "pass", name) == (expected[name][0], name)
        assert one["result"] in {"pass", "fail"}


FROM_NOW = {"past": str(NOW - 90_000), "before": str(NOW - 90_100), "future": str(NOW + 90_000)}

TAGS: list[tuple[dict[str, Any], str, str | None]] = [
    ({"x": FROM_NOW["future"]}, "pass", None),
    ({"t": FROM_NOW["past"], "x": FROM_NOW["future"]}, "pass", None),
    ({"x": FROM_NOW["past"]}, "policy", "the signature has expired"),
    ({"t": FROM_NOW["future"]}, "policy", "the signature is from the future"),
    ({"t": str(NOW + 60), "x": str(NOW - 60)}, "neutral", "the signature expires before it was made"),
    ({"t": "yesterday"}, "neutral", "t= of the signature is no time"),
    ({"x": "9" * 5000}, "neutral", "x= of the signature is no time"),
    ({"v": "2"}, "neutral", "the signature is of another version"),
    ({"v": None}, "neutral", "the signature lacks v="),
    ({"d": None}, "neutral", "the signature lacks d="),
    ({"d": "example"}, "neutral", "d= of the signature is no domain"),
    ({"d": "exam ple.com"}, "neutral", "d= of the signature is no domain"),
    ({"d": "a@example.com"}, "neutral", "d= of the signature is no domain"),
    ({"d": "example.com" + ".x" * 200}, "neutral", "d= of the signature is no domain"),
    ({"s": "te st"}, "neutral", "s= of the signature is no selector"),
    ({"s": ""}, "neutral", "the signature lacks s="),
    ({"i": "ada@example.com"}, "pass", None),
    ({"i": "ada@sub.EXAMPLE.com"}, "pass", None),
    ({"i": "ada@example.net"}, "neutral", "i= of the signature is not within d="),
    ({"i": "ada@notexample.com"}, "neutral", "i= of the signature is not within d="),
    ({"i": "example.com"}, "neutral", "i= of the signature is not within d="),
    ({"q": "dns/txt"}, "pass", None),
    ({"q": "http"}, "neutral", "the signature does not have its key in DNS"),
    ({"a": "rsa-sha512"}, "neutral", "the signature is of an unknown algorithm"),
    ({"a": "rsa-sha1"}, "policy", "rsa-sha1 is no longer trusted"),
    ({"h": "to:subject"}, "permerror", "the signature does not cover From"),
    ({"h": "From : To\r\n\t:subject"}, "pass", None),
    ({"h": ""}, "permerror", "the signature lacks h="),
    ({"h": "from:" + ":".join(f"x{n}" for n in range(600))}, "policy", "the signature covers more than 500 fields"),
    ({"bh": "===="}, "neutral", "the signature is not base64"),
    ({"bh": base64.b64encode(bytes(32)).decode()}, "fail", "the signature does not match the body"),
    ({"l": "10"}, "policy", "the signature does not cover the last 27 bytes of the body"),
    ({"l": "0"}, "policy", "the signature does not cover the last 37 bytes of the body"),
    ({"l": "37"}, "pass", None),
    ({"l": "-1"}, "neutral", "l= of the signature is no number"),
    ({"z": "From:ada@example.com|To:x"}, "pass", None),
    ({"Unknown_9": "anything=1"}, "pass", None),
    ({"x-new": "1"}, "pass", None),
    ({"d ": "example.com"}, "neutral", "the tag d= stands there twice"),
    ({"9": "x"}, "neutral", "the signature is no list of tags"),
    ({"n": "\xe9".encode("latin-1").decode("latin-1") + "\x85"}, "neutral", "the signature holds a control character"),
    ({"n": "x" * 17_000}, "neutral", "the signature is too long"),
]


@pytest.mark.parametrize(("tags", "expected", "reason"), TAGS)
async def test_what_stands_in_a_signature_decides(tags: dict[str, Any], expected: str, reason: str | None) -> None:
    assert await result(signed(**tags)) == (expected, reason)


async def test_of_several_ways_to_the_key_one_must_be_known() -> None:
    # dkimpy takes no list, but RFC 6376 section 3.5 does.
    assert await result(signed(q="http : dns/txt")) == ("pass", None)


def test_dkimpy_agrees_about_what_passes_and_what_fails() -> None:
    for tags, expected, _ in TAGS:
        if expected in {"pass", "fail"}:
            assert verdicts(signed(**tags)) == [expected == "pass"], tags


async def test_a_signature_for_a_part_of_the_body_may_pass_if_that_is_wanted() -> None:
    content = signed(l="10") + b"or else\r\n"
    wanted = ("pass", "the signature does not cover the last 40 bytes of the body")
    assert await result(content, partial_body="pass") == wanted


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        (b"v=1; a", "the signature is no list of tags"),
        (b"", "the signature lacks v="),
        (b"\xff\xfe", "the signature is not UTF-8"),
        (b"v=1; a=rsa-sha256; b=\x00", "the signature holds a control character"),
        (b"v=1; b=(comment", "the signature lacks a="),
    ],
)
async def test_what_is_no_signature_is_neutral(field: bytes, reason: str) -> None:
    assert await result(b"DKIM-Signature: " + field + b"\r\n" + MESSAGE) == ("neutral", reason)


def der(modulus: int, exponent: int) -> str:
    """Return an RSA key as p= has it."""

    def element(tag: int, data: bytes) -> bytes:
        size = len(data)
        return bytes([tag]) + (bytes([size]) if size < 128 else b"\x83" + size.to_bytes(3, "big")) + data

    numbers = b"".join(
        element(2, number.to_bytes(number.bit_length() // 8 + 1, "big")) for number in (modulus, exponent)
    )
    return base64.b64encode(element(0x30, numbers)).decode()


RSA = table()["test._domainkey.example.com"]["TXT"][0] if vector("test.txt") else ""
KEY_RECORDS: list[tuple[list[str] | str, str, str | None]] = [
    ([], "permerror", "there is no key in DNS"),
    ("servfail", "temperror", "the key could not be looked up"),
    (["v=spf1 -all"], "permerror", "there is no key in DNS"),
    (["v=DKIM1; p="], "permerror", "the key has been revoked"),
    (["v=DKIM1; n=p="], "permerror", "the key record has no key"),
    (
        [RSA.replace("v=DKIM1", "v=DKIM2") if "v=" in RSA else "v=DKIM2; " + RSA],
        "permerror",
        "the key record is of another version",
    ),
    (
        [f"{RSA}; k=dsa" if "k=" not in RSA else RSA.replace("k=rsa", "k=dsa")],
        "permerror",
        "the key is of an unknown type",
    ),
    ([f"{RSA}; s=tlsrpt"], "permerror", "the key is not for mail"),
    ([f"{RSA}; s=x:email"], "pass", None),
    ([f"{RSA}; h=sha1"], "permerror", "the key is for another algorithm"),
    ([f"{RSA}; h=sha1:sha256"], "pass", None),
    ([f"{RSA}; t=y"], "pass", "the domain is only testing DKIM"),
    ([f"{RSA}; p=again"], "permerror", "the key record is malformed"),
    ([f"{RSA}; n=" + "x" * 5000], "permerror", "the key record is too long"),
    ([ED25519_PUBLIC], "permerror", "the key is for another algorithm"),
    (["k=ed25519; p=AAAA"], "permerror", "the key is malformed"),
    (["k=rsa; p=AAAA"], "permerror", "the key is malformed"),
    (["k=rsa; p=!!!"], "permerror", "the key is malformed"),
    ([f"p={der(1 << 511 | 1, 65537)}"], "policy", "the key has 512 bits, which is too few"),
    ([f"p={der(1 << 9000 | 1, 65537)}"], "permerror", "the key is not one that honest signers have"),
    ([f"p={der(1 << 2047 | 1, (1 << 2040) | 1)}"], "permerror", "the key is not one that honest signers have"),
    ([f"p={der(0, 65537)}"], "permerror", "the key is not one that honest signers have"),
    ([f"p={der(1 << 2047, 1)}"], "permerror", "the key is not one that honest signers have"),
    ([GMAIL], "fail", "the signature does not match the header"),
    ([GMAIL, RSA], "pass", None),
    (["some=p=rose", RSA], "pass", None),
    (["p=", "p=", "p=", "p=", RSA], "permerror", "the key has been revoked"),
]


@pytest.mark.parametrize(("records", "expected", "reason"), KEY_RECORDS)
async def test_what_stands_in_the_key_record_decides(
    records: list[str] | str, expected: str, reason: str | None
) -> None:
    dns = {"test._domainkey.example.com": records if isinstance(records, str) else {"TXT": records}}
    assert await result(signed(), dns) == (expected, reason)


async def test_a_failure_of_a_domain_that_is_only_testing_is_neutral() -> None:
    dns = {"test._domainkey.example.com": {"TXT": [f"{RSA}; t=y"]}}
    for changed in (b"Subject: new\r\n" + signed(), signed() + b"more\r\n"):
        found, reason = await result(changed.replace(b"two", b"2"), dns, fail="deny")
        assert (found, str(reason).endswith("the domain is only testing DKIM")) == ("neutral", True)


async def test_a_key_for_the_domain_itself_does_not_sign_for_subdomains() -> None:
    dns = {"test._domainkey.example.com": {"TXT": [f"{RSA}; t=s"]}}
    assert await result(signed(i="a@example.com"), dns) == ("pass", None)
    assert await result(signed(i="a@m.example.com"), dns) == ("permerror", "the key is not for subdomains")


async def test_the_smallest_key_is_an_option() -> None:
    assert await result(signed(), min_key_bits=2048) == ("policy", "the key has 1024 bits, which is too few")
    assert await result(signed(key="2048_testkey.key", s="big"), min_key_bits=2048) == ("pass", None)


async def test_signatures_beyond_the_limit_are_not_looked_at() -> None:
    content = b"".join(signature(s=f"s{number}") for number in range(20)) + signed()
    found = await results(content, max_signatures=3)
    assert [one["result"] for one in found] == ["permerror"] * 3 + ["policy"]
    assert found[-1]["reason"] == "18 more signatures were not checked"


async def test_a_name_server_that_is_down_is_the_trouble_of_its_own_signature() -> None:
    down = signature(s="down")
    found = await results(down + signed(), {"down._domainkey.example.com": "timeout"})
    assert [one["result"] for one in found] == ["temperror", "pass"]


async def test_signatures_that_begin_alike_can_be_told_apart_or_are_the_same() -> None:
    one = signed()
    found = [each["properties"]["header.b"] for each in await results(one.partition(b"From:")[0] + one)]
    assert len(found[0]) == 24
    assert found[0] == found[1]


async def test_what_a_stranger_writes_does_not_get_into_a_result_unchecked() -> None:
    hostile = "x\r\n\tInjected: yes"
    (found,) = await results(signed(d=f"a.example({hostile}", i=f"a{hostile}@example.com", s=f"t;{hostile}"))
    assert all(value.isprintable() for value in found["properties"].values())
    assert "header.d" not in found["properties"]


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "content",
    [
        signature(h="from:" + ":".join(f"x{n % 7}" for n in range(480))) + b"X1: a\r\n" * 9_900 + MESSAGE,
        b"DKIM-Signature: v=1; b" + b" " * 16_000 + b"x; a=rsa-sha256\r\n" + MESSAGE,
        b"DKIM-Signature: v=1; b=" + b"\r\n " * 5_000 + b"\xc3\xa9; a=rsa-sha256\r\n" + MESSAGE,
        b"DKIM-Signature: " + b";" * 16_000 + b"\r\n" + MESSAGE,
        b"DKIM-Signature: v=1\r\n" * 9_900 + MESSAGE,
        signature(h="from" + " " * 15_000 + ":to") + MESSAGE,
        signature(names=("from",)) + MESSAGE[:30] + b"X:" + b" \t" * 40_000 + b"\r\n\r\n" + b" \t" * 500_000,
    ],
    ids=["many-fields", "blanks", "folds", "semicolons", "many-signatures", "blanks-in-h", "white"],
)
async def test_hostile_signatures_take_no_time(content: bytes) -> None:
    assert await results(content)


async def test_mail_of_users_and_of_the_whitelisted_is_not_checked() -> None:
    cases: list[tuple[dict[str, Any], str | None, bool]] = [
        ({}, "ada", False),
        ({"skip_authenticated": False}, "ada", True),
        ({}, None, True),
    ]
    for options, login, asked in cases:
        _, client = await check(signed(), login=login, **options)
        assert ("authentication_results" in client.transaction.notes.get("dkim", {})) is asked


async def test_a_broken_signature_refuses_nothing_unless_that_is_wanted() -> None:
    broken = signed().replace(b"The end", b"the end")
    assert (await check(broken))[0].startswith("250")
    told = "no DKIM signature of the message is valid: example.com: the signature does not match the body"
    assert (await check(broken, fail="deny"))[0] == f"550 5.7.20 {told}"
    assert (await check(broken, fail="defer"))[0] == f"451 4.7.20 {told}"
    assert (await check(signature() + broken.replace(b"the end", b"The end"), fail="deny"))[0].startswith("250")
    assert (await check(MESSAGE, fail="deny"))[0].startswith("250")


async def test_a_refusal_waits_for_a_key_that_could_prevent_it() -> None:
    broken = signature(s="down") + signed().replace(b"The end", b"the end")
    dns = {"down._domainkey.example.com": "servfail"}
    assert (await check(broken, dns, fail="deny"))[0].startswith("451 4.3.0")
    assert (await check(broken, dns, fail="deny", on_unavailable="pass"))[0].startswith("250")
    assert (await check(signed(s="down"), dns, require_domains=["example.com"]))[0].startswith("451 4.3.0")


@pytest.mark.parametrize(
    ("content", "domains", "is_refused"),
    [
        (MESSAGE, ["example.com"], True),
        (MESSAGE, ["EXAMPLE.com"], True),
        (MESSAGE.replace(b"@example.com", b"@sub.example.com"), ["example.com"], True),
        (MESSAGE.replace(b"@example.com", b"@notexample.com"), ["example.com"], False),
        (MESSAGE, ["sub.example.com"], False),
        (signed(), ["example.com"], False),
        (signed().replace(b"two", b"2"), ["example.com"], True),
        (vector("test2.message").replace(b"From: ", b"From: x@example.com, "), ["example.com"], True),
        # What some mail program may show as that domain, whatever else stands in From.
        (MESSAGE.replace(b"Ada <", b"eve@example.net, Ada <"), ["example.com"], True),
        (MESSAGE.replace(b"Ada <", b"<eve@example.net> <"), ["example.com"], True),
        (b"From: eve@example.net\r\n" + MESSAGE, ["example.com"], True),
        (MESSAGE.replace(b"Ada <ada@example.com>", "<ada@bücher.example>>".encode()), ["bücher.example"], True),
        (MESSAGE.replace(b"Ada <ada@example.com>", b"<eve@example.net>>"), ["example.com"], False),
        (MESSAGE.replace(b"From:", b"X-From:"), ["example.com"], False),
        (signed(d="football.example.com"), ["example.com"], False),
        (signed(vector("test.message"), d="football.example.com"), ["example.com"], False),
        (vector("ed25519test2.msg"), ["strace.org", "test.ex"], False),
        (signed(MESSAGE.replace(b"ada@example.com", b"x@bank.example")), ["bank.example"], True),
    ],
)
async def test_mail_of_some_domains_must_be_signed_by_them(
    content: bytes, domains: list[str], is_refused: bool
) -> None:
    reply, _ = await check(content, require_domains=domains)
    assert reply.startswith("550 5.7.22 mail from " if is_refused else "250")


async def test_recipients_with_other_options_cost_no_second_check() -> None:
    async with gate(dkim={}, dns=table(), content={"disagree": "lenient"}) as postfix:
        client = postfix.client()
        await client.mail("a@example.net")
        for name, fail in (("b", "allow"), ("c", "deny")):
            await client.rcpt(f"{name}@example.org")
            client.transaction.recipients[-1].override(Overrides({"dkim": {"fail": fail}}))
        reply = await client.data(signed().replace(b"The end", b"the end"))
        assert reply.code == 250
        assert client.message is not None
        assert len([key for key in client.message.view.found if "dkim" in str(key)]) == 1


def test_the_rig_signs_what_dkimpy_accepts() -> None:
    for form in FORMS:
        for key in KEYS:
            assert dkim.verify(signed(c=form, key=key, names=NAMES), dnsfunc=dnsfunc)
