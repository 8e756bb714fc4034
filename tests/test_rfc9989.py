"""The examples of RFC 9989 through our plugin: its tree walks, alignments and policies, section by section."""

from __future__ import annotations

from typing import Any

import pytest
from tests.rigs.dmarc_rig import judge

REJECT = "v=DMARC1; p=reject"


@pytest.mark.parametrize(
    ("author", "names"),
    [
        pytest.param(
            "a.b.c.d.e.f.g.h.i.j.mail.example.com",
            ["a.b.c.d.e.f.g.h.i.j.mail.example.com", "g.h.i.j.mail.example.com", "h.i.j.mail.example.com",
             "i.j.mail.example.com", "j.mail.example.com", "mail.example.com", "example.com", "com"],
            id="4.10",
        ),
        pytest.param(
            "mail.a.b.c.d.e.f.g.example.com",
            ["mail.a.b.c.d.e.f.g.example.com", "c.d.e.f.g.example.com", "d.e.f.g.example.com", "e.f.g.example.com",
             "f.g.example.com", "g.example.com", "example.com", "com"],
            id="5.1.8",
        ),
        pytest.param(
            "a.b.c.d.e.f.g.h.i.j.k.example.com",
            ["a.b.c.d.e.f.g.h.i.j.k.example.com", "g.h.i.j.k.example.com", "h.i.j.k.example.com", "i.j.k.example.com",
             "j.k.example.com", "k.example.com", "example.com", "com"],
            id="B.4.2",
        ),
        pytest.param("a.mail.example.com", ["a.mail.example.com", "mail.example.com", "example.com", "com"], id="4"),
        pytest.param(
            "1.2.3.4.5.6.example.com",
            ["1.2.3.4.5.6.example.com", "2.3.4.5.6.example.com", "3.4.5.6.example.com", "4.5.6.example.com",
             "5.6.example.com", "6.example.com", "example.com", "com"],
            id="8",
        ),
        pytest.param("localhost", ["localhost"], id="1"),
    ],
)  # fmt: skip
async def test_a_walk_asks_for_these_names_in_this_order(author: str, names: list[str]) -> None:
    mail = await judge({}, author)
    assert mail.asked == [f"_dmarc.{name} TXT" for name in names]
    assert mail.result == "none"


@pytest.mark.parametrize(
    ("author", "records", "organization"),
    [
        # Section 4.10.2, the three examples, each told by what is aligned.
        ("a.mail.example.com", {"mail.example.com": REJECT, "example.com": REJECT}, "example.com"),
        ("a.mail.example.com", {"mail.example.com": f"{REJECT}; psd=n", "example.com": REJECT}, "mail.example.com"),
        ("a.mail.example.com", {"com": f"{REJECT}; psd=y"}, "example.com"),
        # Section 5.1.8: a record that no walk finds.
        (
            "mail.a.b.c.d.e.f.g.example.com",
            {"example.com": REJECT, "b.c.d.e.f.g.example.com": f"{REJECT}; psd=n"},
            "example.com",
        ),
        # B.4.3.
        (
            "giant.bank.example",
            {"bank.example": f"{REJECT}; psd=y", "giant.bank.example": REJECT},
            "giant.bank.example",
        ),
    ],
)
async def test_the_organizational_domain_is_found(author: str, records: dict[str, str], organization: str) -> None:
    published = {f"_dmarc.{name}": record for name, record in records.items()}
    inside = await judge(published, author, spf=f"other.{organization}")
    assert (inside.result, inside.finding["organization"]) == ("pass", organization)
    outside = await judge(published, author, spf=f"other.{organization.partition('.')[2]}")
    assert outside.result == "fail"


STRICT = "v=DMARC1; p=reject; adkim=s; aspf=s"


@pytest.mark.parametrize("method", ["spf", "dkim"])
@pytest.mark.parametrize(
    ("author", "identifier", "relaxed", "strict"),
    [
        # Table 1.
        ("news.example.com", "foo.example.com", "pass", "fail"),
        ("news.example.com", "news.example.com", "pass", "pass"),
        ("news.example.com", "foo.example.net", "fail", "fail"),
        # B.1.1 and B.1.2.
        ("example.com", "example.com", "pass", "pass"),
        ("example.com", "child.example.com", "pass", "fail"),
        ("child.example.com", "example.com", "pass", "fail"),
        ("child.example.com", "example.net", "fail", "fail"),
        # Section 4.4: case does not matter.
        ("News.Example.COM", "nEWS.eXample.com", "pass", "pass"),
    ],
)
async def test_identifiers_are_aligned(method: str, author: str, identifier: str, relaxed: str, strict: str) -> None:
    chosen: dict[str, Any] = {method: identifier}
    others = {"_dmarc.example.net": REJECT}
    assert (await judge({"_dmarc.example.com": REJECT, **others}, author, **chosen)).result == relaxed
    assert (await judge({"_dmarc.example.com": STRICT, **others}, author, **chosen)).result == strict
    # Alignment is worth nothing without a pass.
    chosen = {method: f"{identifier} fail"}
    assert (await judge({"_dmarc.example.com": REJECT}, author, **chosen)).result == "fail"


B4 = {"_dmarc.example.com": REJECT, "_dmarc.signing.example.com": REJECT}
PSD = {"_dmarc.bank.example": f"{REJECT}; psd=y", "_dmarc.giant.bank.example": "v=DMARC1; p=quarantine"}


@pytest.mark.parametrize("author", ["example.com", "a.b.c.d.e.f.g.h.i.j.k.example.com"])
async def test_b41_and_b42_both_identifiers_are_aligned(author: str) -> None:
    mail = await judge(B4, author, spf="example.com", dkim="signing.example.com")
    assert (mail.result, mail.finding["spf_aligned"], mail.finding["dkim_aligned"]) == ("pass", True, True)
    failed = await judge(B4, author)
    assert (failed.result, failed.finding["policy_domain"]) == ("fail", "example.com")


async def test_b43_a_public_suffix_keeps_its_domains_apart() -> None:
    mail = await judge(PSD, "giant.bank.example", spf="mail.giant.bank.example", dkim="mail.mega.bank.example")
    assert (mail.result, mail.finding["spf_aligned"], mail.finding["dkim_aligned"]) == ("pass", True, False)
    failed = await judge(PSD, "giant.bank.example", dkim="mail.mega.bank.example")
    assert (failed.finding["policy_domain"], failed.finding["applied"]) == ("giant.bank.example", "quarantine")
    other = await judge(PSD, "mega.bank.example", dkim="mail.giant.bank.example")
    assert (other.finding["policy_domain"], other.finding["applied"]) == ("bank.example", "reject")


async def test_a_public_suffix_and_the_domains_below_it_are_not_aligned() -> None:
    for author, identifier in [("bank.example", "giant.bank.example"), ("mega.bank.example", "bank.example")]:
        assert (await judge(PSD, author, spf=identifier, dkim=identifier)).result == "fail"
    assert (await judge(PSD, "bank.example", spf="bank.example")).result == "pass"


THIRD = "rua=mailto:dmarc-feedback@example.com,mailto:tld-test@thirdparty.example.net"


@pytest.mark.parametrize(
    ("record", "author", "applied"),
    [
        # B.2.1 to B.2.3.
        ("v=DMARC1; p=none; rua=mailto:dmarc-feedback@example.com", "example.com", "none"),
        ("v=DMARC1; p=none; rua=mailto:f@example.com; ruf=mailto:auth-reports@example.com", "example.com", "none"),
        # B.2.5, at the domain of the record.
        (f"v=DMARC1; p=quarantine; {THIRD}; t=y", "example.com", "none"),
        (f"v=DMARC1; p=reject; {THIRD}", "example.com", "reject"),
        # Section 4.7, t.
        ("v=DMARC1; p=reject; t=y", "example.com", "quarantine"),
        ("v=DMARC1; p=reject; sp=quarantine; t=y", "sub.example.com", "none"),
        ("v=DMARC1; p=none; t=y", "example.com", "none"),
        # Section 4.10.1: p at home, sp below for what exists, np for what does not, and what stands in for them.
        ("v=DMARC1; p=none; sp=quarantine; np=reject", "example.com", "none"),
        ("v=DMARC1; p=none; sp=quarantine; np=reject", "sub.example.com", "quarantine"),
        ("v=DMARC1; p=none; sp=quarantine; np=reject", "gone.example.com", "reject"),
        ("v=DMARC1; p=none; sp=quarantine", "gone.example.com", "quarantine"),
        ("v=DMARC1; p=reject", "gone.example.com", "reject"),
        ("v=DMARC1; p=reject; np=none", "sub.example.com", "reject"),
        ("v=DMARC1; p=reject; np=none", "gone.example.com", "none"),
        # A name exists that has only names below it (A.4).
        ("v=DMARC1; p=reject; sp=none; np=quarantine", "empty.example.com", "none"),
        # pct is gone: A.6.
        ("v=DMARC1; p=reject; pct=0", "example.com", "reject"),
    ],
)
async def test_the_policy_that_applies(record: str, author: str, applied: str) -> None:
    existing = {"sub.example.com": {"MX": ["0 ."]}, "www.empty.example.com": {"A": ["192.0.2.1"]}}
    mail = await judge({"_dmarc.example.com": record, **existing}, author)
    assert (mail.result, mail.finding["applied"]) == ("fail", applied)


@pytest.mark.parametrize(
    ("record", "result", "applied"),
    [
        # Section 4.7: without p it is none; section 4.10.1: a wrong one is none where reports are asked for.
        ("v=DMARC1", "fail", "none"),
        ("v=DMARC1; rua=mailto:a@example.com", "fail", "none"),
        ("v=DMARC1; p=nonsense; rua=mailto:a@example.com", "fail", "none"),
        ("v=DMARC1; p=reject; sp=nonsense; rua=mailto:a@example.com", "fail", "none"),
        ("v=DMARC1; p=reject; np=nonsense; rua=not a URI", "permerror", None),
        ("v=DMARC1; p=nonsense", "permerror", None),
        # Unknown tags and other faults are passed over (section 4.8).
        ("v=DMARC1;p=reject;;x y;=;unknown=1;adkim=maybe;aspf=;psd=perhaps;t=\u00e9;", "fail", "reject"),
        ("V = DMARC1 ; P = Reject ; ", "fail", "reject"),
        ("v=DMARC1; p=reject; p=none", "fail", "reject"),
        # What is no record of this version is none at all.
        ("v=dmarc1; p=reject", "none", None),
        ("v=DMARC10; p=reject", "none", None),
        ("v=DMARC1 p=reject", "none", None),
        ("p=reject; v=DMARC1", "none", None),
        (" v=DMARC1; p=reject", "none", None),
        ("v=spf1 -all", "none", None),
    ],
)
async def test_records_are_read_as_the_grammar_says(record: str, result: str, applied: str | None) -> None:
    mail = await judge({"_dmarc.example.com": {"TXT": [record]}}, "example.com")
    assert (mail.result, mail.finding["applied"]) == (result, applied)


async def test_several_records_at_a_name_are_none_and_others_there_do_not_count() -> None:
    two = {"_dmarc.example.com": {"TXT": [REJECT, "v=DMARC1; p=none"]}}
    assert (await judge(two, "example.com")).result == "none"
    assert (await judge({**two, "_dmarc.com": REJECT}, "example.com")).finding["policy_domain"] == "com"
    one = {"_dmarc.example.com": {"TXT": ["verification=1", REJECT, "v=spf1 -all"]}}
    assert (await judge(one, "example.com")).result == "fail"


async def test_a_record_may_stand_behind_a_cname() -> None:
    records = {"_dmarc.example.com": {"CNAME": ["dmarc.host.example"]}, "dmarc.host.example": REJECT}
    assert (await judge(records, "example.com")).finding["policy_domain"] == "example.com"


async def test_a_stranger_costs_no_queries_by_what_it_signs_with() -> None:
    signed = tuple(f"a.b.c.d.e.f{number}.stranger.com" for number in range(50))
    mail = await judge({"_dmarc.example.com": REJECT}, "example.com", spf="x.y.z.com", dkim=signed)
    assert mail.asked == ["_dmarc.example.com TXT", "_dmarc.com TXT"]
    assert mail.result == "fail"
