"""bogus_bounce: what may come from the null sender, and what may not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gatepost import ConfigError
from gatepost.testing import gate

if TYPE_CHECKING:
    from pathlib import Path

SPAM = b"From: Lottery <win@spam.example>\r\nSubject: You have won\r\n\r\nclick\r\n"
ONE = ("bob@example.org",)
NOT_FROM_HERE = "554 5.7.1 the message that this bounce is about was not sent from here"
NO_BOUNCE = "554 5.7.1 this is no bounce and no automatic answer"


def report(original: str, kind: str = "message/rfc822") -> bytes:
    return (
        "From: MAILER-DAEMON@mx.example.net\r\nMIME-Version: 1.0\r\n"
        "Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n"
        "--b\r\n\r\nNot delivered.\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\nAction: failed\r\n"
        f"--b\r\nContent-Type: {kind}\r\n\r\n{original}\r\n--b--\r\n"
    ).encode()


async def reply(
    content: bytes = SPAM, *recipients: str, sender: str = "", login: str | None = None, **options: Any
) -> str:
    async with gate(bogus_bounce=options) as postfix:
        answer = await postfix.client(login=login).send(sender, *(recipients or ONE), content=content)
        return "250" if answer.code == 250 else answer.encode().decode().strip()


async def test_a_bounce_has_one_recipient() -> None:
    several = ("a@example.org", "b@example.org", "c@example.org")
    assert await reply(SPAM, *several) == "554 5.7.1 a bounce has one recipient, not 3"
    assert await reply(SPAM, "a@example.org") == "250"
    assert await reply(SPAM, *several, sender="x@spam.example") == "250"
    assert await reply(SPAM, *several, checks=["content"], sender="x@spam.example") == "250"


async def test_recipients_that_are_handled_apart_are_counted_together(tmp_path: Path) -> None:
    (tmp_path / "aliases").write_text(
        "a@x.example: a@x.example (bogus_bounce.checks=recipients)\n*@x.example: b@x.example\n"
    )
    async with gate(
        content={"disagree": "lenient"}, aliases={"file": tmp_path / "aliases"}, bogus_bounce={}
    ) as postfix:
        answer = await postfix.client().send("", "a@x.example", "b@x.example", content=SPAM)
    assert answer.text == "a bounce has one recipient, not 2"


@pytest.mark.parametrize(("path", "passes"), [("<>", True), (" <> ", True), ("<a@b.example>", False), ("a", False)])
async def test_a_return_path_tells_another_sender(path: str, passes: bool) -> None:
    content = f"Return-Path: {path}\r\n".encode() + SPAM
    assert await reply(content) == ("250" if passes else "554 5.7.1 this bounce has a Return-Path")
    assert await reply(content, checks=["recipients"]) == "250"
    assert await reply(content, sender="a@b.example") == "250"


SIGNS = [
    "Auto-Submitted: auto-replied",
    "Auto-Submitted: Auto-Generated; x=y",
    "Precedence: bulk",
    "Precedence: AUTO_REPLY",
    "X-Auto-Response-Suppress: All",
    "X-Failed-Recipients: x@example.net",
    "In-Reply-To: <1@example.org>",
    "References: <1@example.org>",
    "From: MAILER-DAEMON (Mail Delivery System)",
    "From: <>",
    "From:",
    "From: Postmaster <postmaster@example.net>",
    "From: no-reply@example.net",
    "Content-Type: multipart/report; boundary=none",
    "Content-Type: message/disposition-notification",
    "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n\r\n--b--",
    "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/rfc822-headers\r\n\r\nX: y\r\n--b--",
    "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nX: y\r\n--b--",
]


@pytest.mark.parametrize("header", SIGNS)
async def test_what_a_program_has_made_may_come_from_nobody(header: str) -> None:
    assert await reply(f"{header}\r\n\r\ntext\r\n".encode(), checks=["content"]) == "250"


@pytest.mark.parametrize(
    "header",
    [
        "From: Lottery <win@spam.example>",
        "From: a@b.example\r\nAuto-Submitted: no",
        "From: a@b.example\r\nPrecedence: first-class",
        "From: a@b.example\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--",
        "From: a@b.example\r\nContent-Type: text/plain; name=report",
        "X: y",
    ],
)
async def test_what_somebody_wrote_may_not(header: str) -> None:
    assert await reply(f"{header}\r\n\r\ntext\r\n".encode(), checks=["content"]) == NO_BOUNCE


OURS: dict[str, Any] = {"checks": ["original"], "own_names": ["example.org", "mx7.provider.example"]}


@pytest.mark.parametrize("kind", ["message/rfc822", "text/rfc822-headers", "message/global"])
@pytest.mark.parametrize(
    ("original", "ours"),
    [
        ("Message-ID: <1.2@example.org>\r\n\r\nx", True),
        ("Message-ID: <1.2@mail.EXAMPLE.org>\r\n\r\nx", True),
        ("Received: from pc by mx7.provider.example (Postfix)\r\nMessage-ID: <1@pc.local>\r\n\r\nx", True),
        ("Received: from pc\r\n\tby mail.example.org;\r\n\tnow\r\nMessage-ID: <1@pc.local>\r\n\r\nx", True),
        ("Subject: nothing to tell by\r\n\r\nx", True),
        ("Message-ID: <1.2@spam.example>\r\n\r\nx@example.org", False),
        ("Message-ID: <1.2@example.org.spam.example>\r\n\r\nx", False),
        ("Message-ID: <1.2@notexample.org>\r\nFrom: bob@example.org\r\n\r\nx", False),
        ("Received: from spam by relay.spam.example\r\n\r\nx", False),
    ],
)
async def test_a_bounce_is_about_a_message_that_was_sent_from_here(kind: str, original: str, ours: bool) -> None:
    assert await reply(report(original, kind), **OURS) == ("250" if ours else NOT_FROM_HERE)


async def test_a_bounce_that_brings_nothing_back_is_not_judged_by_that() -> None:
    assert await reply(SPAM, **OURS) == "250"
    assert await reply(report("Message-ID: <1@spam.example>\r\n\r\n"), sender="a@b.example", **OURS) == "250"


async def test_a_message_above_the_limit_is_judged_by_its_header() -> None:
    large = report("Message-ID: <1@spam.example>\r\n\r\n" + "x\r\n" * 3000)
    async with gate(content={"mime_limit": 2000}, bogus_bounce={**OURS, "checks": ["original", "content"]}) as postfix:
        assert (await postfix.client().send("", *ONE, content=large)).code == 250
        assert (await postfix.client().send("", *ONE, content=SPAM + b"x\r\n" * 3000)).code == 554


async def test_the_verdict_and_the_exceptions_are_options() -> None:
    several = ("a@example.org", "b@example.org")
    assert (await reply(SPAM, *several, action="defer")).startswith("451 4.7.1 a bounce")
    assert (await reply(SPAM, *several, action="deny_disconnect")).startswith("521 5.7.1 a bounce")
    assert await reply(SPAM, *several, action="allow") == "250"
    assert await reply(SPAM, *several, login="alice") == "250"
    assert await reply(SPAM, *several, login="alice", skip_authenticated=False) != "250"


@pytest.mark.parametrize(
    "options", [{"checks": ["original"]}, {"checks": ["nothing"]}, {"checks": ["original"], "own_names": [" . "]}]
)
async def test_wrong_options_stop_the_start(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        await reply(**options)


@pytest.mark.parametrize("checks", [["content"], ["original", "content"]])
async def test_garbage_is_judged_and_raises_nothing(checks: list[str]) -> None:
    for content in (b"", b"\r\n", b"From: \xff\xfe\r\n\r\n\0\xff", b"From:" + b" (" * 20_000 + b"\r\n\r\n", b"\0: x"):
        assert await reply(content, checks=checks, own_names=["example.org"]) in {"250", NO_BOUNCE}
