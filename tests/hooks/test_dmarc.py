"""dmarc: whose domain a message claims, what becomes of it, and who is let through all the same."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from tests.rigs.dmarc_rig import StandIn, judge

from gatepost import ConfigError, Headers, author_domains
from gatepost.message.edit import Quarantine
from gatepost.ops.check.order import missing_results
from gatepost.services.processor import in_thread
from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import Callable

REJECT = "v=DMARC1; p=reject"
DNS = {"_dmarc.bank.example": REJECT, "_dmarc.shop.example": "v=DMARC1; p=quarantine", "_dmarc.example.org": REJECT}
REFUSED = (
    "550 5.7.1 rejected by the DMARC policy of bank.example: neither SPF nor DKIM shows that the message is from there"
)


# ---- what is done


async def test_each_published_policy_has_its_consequence() -> None:
    assert (await judge(DNS, "bank.example")).reply == REFUSED
    tagged = await judge(DNS, "shop.example")
    assert tagged.reply == "250"
    assert tagged.message.headers.get_all("X-DMARC-Failed") == ["shop.example; policy=quarantine"]
    watched = await judge({"_dmarc.bank.example": "v=DMARC1; p=none"}, "bank.example")
    assert (watched.reply, watched.message.edits, watched.result) == ("250", (), "fail")
    assert (await judge(DNS, "bank.example", dkim="bank.example")).message.edits == ()


@pytest.mark.parametrize(
    ("action", "reply"),
    [
        ("deny", REFUSED),
        ("DENYSOFT", "451 4.7.1" + REFUSED[9:]),
        ("deny_disconnect", "521" + REFUSED[3:]),
        ("defer_disconnect", "421 4.7.1" + REFUSED[9:]),
        ("quarantine", "250"),
        ("tag", "250"),
        ("allow", "250"),
    ],
)
async def test_the_consequence_can_be_chosen(action: str, reply: str) -> None:
    mail = await judge(DNS, "bank.example", reject=action)
    assert mail.reply == reply
    held = any(isinstance(edit, Quarantine) for edit in mail.message.edits)
    assert (held, "X-DMARC-Failed" in mail.message.headers) == (action == "quarantine", action == "tag")
    assert mail.result == "fail"


@pytest.mark.parametrize(
    "options",
    [
        {"reject": "explode"},
        {"temperror": "tag"},
        {"tag_field": "X: y"},
        {"tag_field": "From"},
        {"exempt": ["*.example.org"]},
        {"trusted_arc_sealers": [""]},
        {"pct": 1},
    ],
)
async def test_a_wrong_option_stops_the_start(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        async with gate(dmarc=options):
            pass


async def test_a_tag_that_came_with_the_message_is_removed() -> None:
    header = b"X-DMARC-Failed: a\r\nx-dmarc-failed: b\r\nFrom: a@bank.example\r\n"
    mail = await judge(DNS, header, spf="bank.example")
    assert "X-DMARC-Failed" not in mail.message.headers


async def test_more_tags_than_postfix_could_remove_in_time_are_refused() -> None:
    many = b"X-DMARC-Failed: a\r\n" * 50
    assert (await judge(DNS, many + b"From: a@bank.example\r\n", spf="bank.example")).reply == "250"
    more = await judge(DNS, many + b"x-dmarc-failed: b\r\nFrom: a@bank.example\r\n", spf="bank.example")
    assert more.reply == "554 5.6.0 too many X-DMARC-Failed header fields"


async def test_in_observe_mode_all_is_left_as_it_is() -> None:
    mail = await judge(DNS, "bank.example", mode="observe")
    assert (mail.reply, mail.message.edits) == ("250", ())


async def test_results_are_left_for_the_field_and_notes_for_other_plugins() -> None:
    mail = await judge(DNS, "sub.bank.example", spf="bank.example", reject="allow")
    assert mail.results[0]["properties"] == {"header.from": "sub.bank.example"}
    failed = await judge({"_dmarc.bank.example": f"{REJECT}; t=y"}, "sub.bank.example")
    assert failed.results == [
        {
            "method": "dmarc",
            "result": "fail",
            "reason": "the domain is testing its policy",
            "properties": {"header.from": "sub.bank.example", "policy.dmarc": "quarantine"},
        }
    ]
    assert failed.finding == {
        "domain": "sub.bank.example",
        "result": "fail",
        "reason": "the domain is testing its policy",
        "detail": "",
        "policy_domain": "bank.example",
        "organization": None,
        "published": "reject",
        "applied": "quarantine",
        "spf_aligned": False,
        "dkim_aligned": False,
        "override": None,
    }


# ---- who is let through


async def test_exempt_domains_may_fail() -> None:
    for author in ("bank.example", "sub.BANK.example"):
        mail = await judge(DNS, author, exempt=["bank.example"])
        assert (mail.reply, mail.result) == ("250", "fail")
        assert mail.results[0]["properties"]["policy.dmarc"] == "none"
    assert (await judge(DNS, "bank.example", exempt=["ank.example", "sub.bank.example"])).reply == REFUSED


TRUSTED: dict[str, Any] = {"trusted_arc_sealers": ["Lists.example.org"]}


@pytest.mark.parametrize(
    "said",
    [
        "dmarc pass header.from bank.example",
        "dmarc pass header.from BANK.example.",
        "spf pass smtp.mailfrom a@mail.bank.example",
        "dkim pass header.d bank.example",
    ],
)
async def test_a_trusted_sealer_is_believed(said: str) -> None:
    arc = {"sealers": ["lists.example.org"], "results": ["spf fail smtp.mailfrom x.example", said]}
    mail = await judge(DNS, "bank.example", arc=arc, **TRUSTED)
    assert mail.reply == "250"
    reason = "it was in order before lists.example.org, a trusted ARC sealer, changed it"
    assert [(one["result"], one["reason"]) for one in mail.results] == [("fail", reason)]
    assert (await judge(DNS, "bank.example", arc=arc)).reply == REFUSED


@pytest.mark.parametrize(
    ("sealers", "said"),
    [
        (["evil.example", "lists.example.org"], "dmarc pass header.from bank.example"),
        (["sub.lists.example.org"], "dmarc pass header.from bank.example"),
        (["example.org"], "dmarc pass header.from bank.example"),
        ([], "dmarc pass header.from bank.example"),
        (["lists.example.org"], "dmarc pass header.from evil.example"),
        (["lists.example.org"], "dmarc pass header.d bank.example"),
        (["lists.example.org"], "dmarc fail header.from bank.example"),
        (["lists.example.org"], "spf pass smtp.helo bank.example"),
        (["lists.example.org"], "dkim pass header.d evil.example"),
        (["lists.example.org"], "dkim fail header.d bank.example"),
    ],
)
async def test_nobody_else_is_believed_nor_anything_else(sealers: list[str], said: str) -> None:
    arc = {"sealers": sealers, "results": [said]}
    assert (await judge(DNS, "bank.example", arc=arc, **TRUSTED)).reply == REFUSED


# ---- DNS and missing results


@pytest.mark.parametrize("trouble", ["servfail", "timeout"])
@pytest.mark.parametrize("name", ["_dmarc.sub.bank.example", "_dmarc.bank.example", "_dmarc.example"])
async def test_dns_that_gives_no_answer_defers(name: str, trouble: str) -> None:
    records = {**DNS, name: {"TXT": trouble}}
    mail = await judge(records, "sub.bank.example", spf="other.bank.example")
    assert mail.reply == "451 4.7.1 DMARC cannot be checked: the policy of sub.bank.example could not be looked up"
    assert (mail.result, mail.results[0]["reason"]) == ("temperror", "DNS gave no answer")
    assert (await judge(records, "sub.bank.example", temperror="allow")).reply == "250"


async def test_what_dns_does_not_tell_is_not_asked_where_it_does_not_matter() -> None:
    records = {**DNS, "_dmarc.example": "servfail"}
    assert (await judge(records, "bank.example", dkim="bank.example")).result == "pass"
    assert (await judge(records, "bank.example", dkim="stranger.com")).result == "fail"


async def test_whether_a_domain_exists_may_be_unknown() -> None:
    records = {"_dmarc.bank.example": f"{REJECT}; np=none", "sub.bank.example": {"A": "servfail"}}
    assert (await judge(records, "sub.bank.example")).result == "temperror"
    assert (await judge({**records, "_dmarc.bank.example": REJECT}, "sub.bank.example")).result == "fail"


async def test_an_identifier_that_could_not_be_checked_may_have_saved_the_message() -> None:
    assert (await judge(DNS, "bank.example", dkim="mail.bank.example temperror")).result == "temperror"
    assert (await judge(DNS, "bank.example", spf="bank.example temperror")).result == "temperror"
    # Not so a stranger's, or where another one passed.
    assert (await judge(DNS, "bank.example", dkim="evil.example temperror")).reply == REFUSED
    both = ("bank.example temperror", "mail.bank.example")
    assert (await judge(DNS, "bank.example", dkim=both)).result == "pass"


async def test_nothing_fails_without_a_result_of_both_methods() -> None:
    cases: list[tuple[dict[str, Any], str]]
    cases = [({"spf": None}, "spf"), ({"dkim": None}, "dkim"), ({"spf": None, "dkim": None}, "spf and")]
    for chosen, missing in cases:
        with capture_logs() as log:
            mail = await judge(DNS, "bank.example", **chosen)
        assert (mail.reply, mail.results) == ("250", [])
        assert any(line.get("problem", "").startswith(f"not judged: no result of {missing}") for line in log)
    assert (await judge(DNS, "bank.example", spf="bank.example", dkim=None)).result == "pass"


async def test_check_refuses_it_in_front_of_what_it_reads() -> None:
    async with gate(dmarc={}, dkim={}) as postfix:
        (error,) = missing_results(postfix.pipeline.plugins)
        assert "dmarc reads what dkim finds: put it behind dkim" in str(error)
    async with gate(StandIn, arc={}, dkim={}, dmarc={}, authentication_results={"authserv_id": "mx"}) as postfix:
        assert missing_results(postfix.pipeline.plugins) == []


# ---- authors


def authors(raw: bytes) -> tuple[str, ...] | str:
    domains, fault = author_domains(Headers.parse(raw))
    return domains or fault


@pytest.mark.parametrize(
    "value",
    [
        b"a@bank.example",
        b"<a@bank.example>",
        b"  <a@bank.example>  ",
        b"Bank <a@BANK.Example>",
        b'"Bank, the; <first>: @best" <a@bank.example>',
        b'"a \\" <x@evil.example>" <a@bank.example>',
        b"a@bank.example <a@bank.example>",
        b"x@evil.example <a@bank.example>",
        b"a@bank.example (The Bank)",
        b"(The (inner) Bank) a@bank.example (and \\) more)",
        b"<a@bank.example(comment)>",
        b"a@bank.example.",
        b'"odd local@part"@bank.example',
        b"Bank\r\n <a@bank.example>",
        b"=?utf-8?q?x=40evil=2Eexample?= <a@bank.example>",
        b"[Bank] Q. Smith :) <a@bank.example>",
        b"Doe, Jane <a@bank.example>",
        b"Bank: a@bank.example;",
        b"Staff: <a@bank.example>, b@bank.example;",
        b"DOMAIN\\user <a@bank.example>",
        b"B\xfcro <a@bank.example>",
        "Büro <a@bank.example>".encode(),
        "a@\uff42\uff41\uff4e\uff4b\uff0eexample".encode(),
        b"a -> b <a@bank.example>",
    ],
)
def test_the_author_is_found(value: bytes) -> None:
    assert authors(b"From:" + value + b"\r\n") == ("bank.example",)


def test_an_internationalised_domain_is_found_in_a_labels() -> None:
    assert authors("From: a@Bücher.example\r\n".encode()) == ("xn--bcher-kva.example",)
    assert authors(b"From: a@xn--bcher-kva.EXAMPLE\r\n") == ("xn--bcher-kva.example",)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"From:\r\n",
        b"From: <>\r\n",
        b"From: undisclosed:;\r\n",
        b"From: root\r\n",
        b'From: "a@bank.example"\r\n',
        b"From: =?utf-8?q?a=40bank=2Eexample?=\r\n",
        b"From: a@bank.example\r\nFrom: b@bank.example\r\n",
        b"From: a@evil.example\r\nFROM : a@bank.example\r\n",
        b"From: <a@bank.example\r\n",
        b"From: <a@evil.example> <a@bank.example>\r\n",
        b"From: <a@evil.example> a@bank.example\r\n",
        b"From: <<a@evil.example>a@bank.example>\r\n",
        b"From: a@bank.example@evil.example\r\n",
        b"From: <@bank.example,@x.example:a@evil.example>\r\n",
        b"From: <a@bank.example:25>\r\n",
        b"From: a@bank.example:25\r\n",
        b"From: a@bank.example: b@evil.example;\r\n",
        b"From: a@[192.0.2.1]\r\n",
        b"From: a@[IPv6:2001:db8::1]\r\n",
        b"From: a@192.0.2.1\r\n",
        b"From: @bank.example\r\n",
        b"From: a@\r\n",
        b"From: a@bank..example\r\n",
        b"From: a@-bank-.example\r\n",
        b"From: a@bank.example evil\r\n",
        b"From: a@bank example\r\n",
        b'From: a@"bank.example"\r\n',
        b'From: \\" <a@bank.example> " <a@evil.example>\r\n',
        b'From: "unclosed <a@bank.example>\r\n',
        b"From: (unclosed <a@bank.example>\r\n",
        b"From: (<a@bank.example>) a@evil.example\r\n",
        b"From: a@evil.example\0, a@bank.example\r\n",
        b"From: a@evil.example\x0b<a@bank.example>\r\n",
        "From: a\uff20bank.example <>\r\n".encode(),
        "From: a\uff20bank.example, b@evil.example\r\n".encode(),
        "From: a@ba\u00adnk.example\r\n".encode(),
        "From: a@ba\u200dnk.example\r\n".encode(),
        "From: a@bank.example\u2100\r\n".encode(),
        "From: a@bank.example\u202e\r\n".encode(),
        b"From: a@b\xfcnk.example\r\n",
        b"From: a@" + b"a" * 64 + b".example\r\n",
        b"From: a@" + b"a." * 130 + b"example\r\n",
        b"From: " + b", ".join(b"a@d%d.example" % number for number in range(5)) + b"\r\n",
        b"From: " + b"x" * 5000 + b" <a@bank.example>\r\n",
    ],
)
async def test_what_could_be_read_in_two_ways_or_in_none_is_refused(header: bytes) -> None:
    mail = await judge(DNS, header, spf="bank.example")
    assert mail.reply.startswith("550 5.7.1 DMARC cannot be checked: ")
    assert (mail.result, mail.asked) == ("permerror", [])
    assert (await judge(DNS, header, invalid_from="allow")).reply == "250"
    tagged = await judge(DNS, header, invalid_from="tag")
    assert len(tagged.message.headers.get_all("X-DMARC-Failed")) == 1


async def test_from_private_networks_a_device_may_send_with_an_author_that_cannot_be_told() -> None:
    for address in ("10.1.2.3", "::1"):
        mail = await judge(DNS, b"From: scanner\r\n", spf=None, address=address)
        assert (mail.reply, mail.result) == ("250", "permerror")
    assert (await judge(DNS, b"From: scanner\r\n", address="10.1.2.3", skip_networks=[])).reply.startswith("550")
    assert (await judge(DNS, "bank.example", address="10.1.2.3")).reply == REFUSED


@pytest.mark.parametrize(
    ("sender", "header", "reply"),
    [
        ("", "From: MAILER-DAEMON", "250"),
        ("", "From: Mail Delivery System <>", "250"),
        ("", "From: <MAILER-DAEMON> (Postmaster)", "250"),
        ("", "From: a\uff20bank.example", "550"),
        ("", "From: =?utf-8?q?a=40bank.example?= <>", "550"),
        ("", "From: <a@bank example>", "550"),
        ("", "From: MAILER-DAEMON\r\nFrom: MAILER-DAEMON", "550"),
        ("", "X-None: MAILER-DAEMON", "250"),
        ("a@envelope.example", "X-None: MAILER-DAEMON", "550"),
        ("a@envelope.example", "From: MAILER-DAEMON", "550"),
        ("", "From: postmaster@[192.0.2.7]", "250"),
        ("", 'From: "Postmaster" <postmaster@192.0.2.7>', "250"),
        ("", "From: <postmaster@192.0.2.7.>", "550"),
        ("", "From: <postmaster@192.0.2.7> <a@bank.example>", "550"),
        ("", "From: a@bank.example <postmaster@192.0.2.7>", "550"),
        ("", "From: <postmaster@192.0.2.7>, bank.example", "550"),
        ("a@envelope.example", "From: <postmaster@192.0.2.7>", "550"),
    ],
)
async def test_a_bounce_need_not_say_a_domain_that_it_is_from(sender: str, header: str, reply: str) -> None:
    mail = await judge(DNS, f"{header}\r\n".encode(), sender=sender)
    assert (mail.reply[:3], mail.result) == (reply, "permerror")


async def test_of_several_domains_each_is_checked_and_the_severest_thing_is_done() -> None:
    both = b"From: a@shop.example, b@bank.example, c@none.example, d@shop.example\r\n"
    mail = await judge(DNS, both, spf="shop.example")
    assert [one["result"] for one in mail.results] == ["pass", "fail", "none"]
    assert mail.reply == REFUSED
    mail = await judge(DNS, both, spf="bank.example")
    assert mail.message.headers.get("X-DMARC-Failed") == "shop.example; policy=quarantine"


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece", [b'"', b"(", b"(a@<", b"<", b",", b":", b"@", b"\\", b'"\\', b"a@b.example,", b"a-.", b"\xff", b"<>"]
)
def test_hostile_authors_cost_nothing(piece: bytes) -> None:
    started = time.process_time()
    for length in (4000, 400_000):
        author_domains(Headers.parse(b"From: " + piece * (length // len(piece)) + b"\r\n"))
    # Quadratic time would be minutes.
    assert time.process_time() - started < 2


async def test_a_header_of_many_fields_is_looked_through_off_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []

    async def counted(work: Callable[..., Any], *arguments: Any) -> Any:
        runs.append("thread")
        return await in_thread(work, *arguments)

    monkeypatch.setattr("gatepost.plugin.in_thread", counted)
    assert (await judge(DNS, b"a:\r\n" * 600 + b"From: a@bank.example\r\n")).reply == REFUSED
    assert runs == ["thread"]
    assert (await judge(DNS, b"From: a@bank.example\r\n")).reply == REFUSED
    assert runs == ["thread"]


def test_plugins_that_are_not_configured_cost_no_import() -> None:
    script = "import sys, gatepost; sys.exit(any('dmarc' in n or 'authentication_field' in n for n in sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
