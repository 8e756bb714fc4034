"""spamassassin with a real spamd: what it is told, for whom it is asked, and what several recipients cost."""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from tests.hooks.spam_mail import FOUR, HAM, REFUSED, SIX, SPAM, header, send, sent
from tests.rigs.spamd_rig import Spamd

from gatepost.errors import ConfigError
from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping
    from pathlib import Path

    from gatepost.testing import Gate


@pytest.fixture(scope="module")
def spamd() -> Iterator[Spamd]:
    with Spamd() as running:
        yield running


# Malformed


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\r\n",
        b"no header at all",
        b"Subject: \xff\xfe\0\r\nFrom: \x80@\x81\r\n\r\n\0\0\xff" + bytes(range(256)) * 20,
        b"Subject: x\r\n" * 3000 + b"\r\nx",
        b"From: x\r\n\r\n" + b"x" * 300_000,
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 10_000 + b"--b--\r\n",
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: multipart/mixed; boundary=b\r\n" * 50,
        b"Content-type: text/plain\r\nContent-Transfer-Encoding: base64\r\n\r\n====\r\n@@@@\r\n",
        b"User: root\r\nContent-length: 3\r\n\r\nPING SPAMC/1.5\r\n\r\n",
    ],
    ids=range(10),
)
async def test_whatever_a_message_looks_like_it_is_scanned(spamd: Spamd, content: bytes) -> None:
    before = spamd.scans
    reply, client = await sent(spamd, content)
    assert (reply, spamd.scans - before) == ("250", 1)
    assert header(client)["X-Spam-Status"][:3] in {"Yes", "No,"}


# What spamd is told


async def relays(spamd: Spamd, content: bytes = HAM, **facts: Any) -> str:
    """Return what spamd made of the Received fields: untrusted ones, a slash, trusted ones."""
    async with gate(spamassassin={"server": spamd.server, "skip_authenticated": False}) as postfix:
        client = (await send(postfix, content, **facts))[1]
    return re.sub(r"\s+", " ", header(client)["X-Spam-Relays"])


async def test_spamd_knows_the_client(spamd: Spamd) -> None:
    told = await relays(spamd, name="mail.sender.example", helo="its.helo.example")
    assert told.startswith("[ ip=192.0.2.77 rdns=mail.sender.example helo=its.helo.example by=")
    assert " envfrom=alice@sender.example " in told
    assert " auth= " in told


async def test_spamd_knows_who_has_logged_in(spamd: Spamd) -> None:
    told = await relays(spamd, login="alice", tls_version="TLSv1.3", tls_cipher="X")
    assert told.startswith("/ [ ip=192.0.2.77 ")
    assert " auth=ESMTPSA " in told


async def test_what_a_stranger_writes_of_his_login_is_not_believed(spamd: Spamd) -> None:
    forged = (
        b"Received: from x (x [192.0.2.77]) (Authenticated sender: x) by mx.example.org (Postfix) with ESMTPSA"
        b" id x;\r\n\tTue, 24 Nov 2026 00:00:00 +0000\r\nX-Envelope-From: <trusted@example.org>\r\n"
    )
    told = await relays(spamd, forged + HAM, daemon_name="smtpd")
    first, second = re.findall(r"\[ (.*?) \]", told)
    assert " auth= " in first
    assert " envfrom=alice@sender.example " in first
    assert " auth=ESMTPSA " in second
    assert told.endswith("/")


async def test_the_null_sender_is_told_too(spamd: Spamd) -> None:
    async with gate(spamassassin={"server": spamd.server}) as postfix:
        client = postfix.client("192.0.2.77")
        await client.send("", "bob@example.org", content=HAM)
    assert client.transaction.notes["spamassassin"]["tests"] == ["NULL_SENDER"]


# Users


@asynccontextmanager
async def with_aliases(
    spamd: Spamd, directory: Path, aliases: str, content: Mapping[str, Any] | None = None, **options: Any
) -> AsyncIterator[Gate]:
    file = directory / "aliases"
    file.write_text(aliases)
    mine = {"server": spamd.server} | options
    async with gate(content=content, aliases={"file": str(file)}, spamassassin=mine) as postfix:
        yield postfix


@pytest.mark.parametrize(
    ("user", "recipients", "expected"),
    [
        ("", ["bob@example.org"], "(unknown)"),
        ("filter", ["bob@example.org", "carol@example.org"], "filter"),
        ("{address}", ["Bob+news@Example.ORG"], "bob@example.org"),
        ("{local}", ["bob+news@example.org"], "bob"),
        ("{domain}", ["bob@example.org", "carol@example.org"], "example.org"),
        ("@{domain}", ["bob@example.org"], "@example.org"),
        ("mail-{local}", ["bob@example.org"], "mail-bob"),
        ("{address}", ["bob@example.org", "carol@example.org"], "everybody"),
        ("{local}", ["bob@example.org", "bob+x@example.net"], "bob"),
        ("{local}", ["../../etc@example.org"], "everybody"),
        ("{local}", ['"a b"@example.org'], "everybody"),
        ("{local}", ["bücher@example.org"], "everybody"),
        ("{local}", ["root/x@example.org"], "everybody"),
        ("{address}", ["alias@example.com"], "target@example.com"),
        ("{address}", ["team@example.com"], "team@example.com"),
    ],
)
async def test_the_user_is_the_recipients_where_they_have_one_in_common(
    spamd: Spamd, tmp_path: Path, user: str, recipients: list[str], expected: str
) -> None:
    aliases = "alias@example.com: target@example.com\nteam@example.com: a@example.com, b@example.com\n"
    before = spamd.scans
    async with with_aliases(spamd, tmp_path, aliases, user=user, default_user="everybody") as postfix:
        assert (await send(postfix, HAM, *recipients))[0] == "250"
    assert spamd.users[before:] == [expected]


async def test_the_users_preferences_count(spamd: Spamd) -> None:
    spamd.prefer("strict@example.org", "required_score 0.05\nscore FOUR_POINTS 40\n")
    async with gate(spamassassin={"server": spamd.server, "user": "{address}", "reject_threshold": 10}) as postfix:
        reply, client = await send(postfix, HAM, "strict@example.org")
        assert (reply, header(client)["X-Spam-Flag"]) == ("250", "YES")
        assert (await send(postfix, FOUR, "strict@example.org"))[0] == REFUSED
        reply, client = await send(postfix, FOUR, "lenient@example.org")
        assert (reply, "X-Spam-Flag" in header(client)) == ("250", False)


# Recipients who differ

DIFFER = """
bob@example.org: bob@example.org
patient@example.org: patient@example.org (spamassassin_reject_threshold=2000)
strict@example.org: strict@example.org (spamassassin.reject_threshold=3)
marked@example.org: marked@example.org (spamassassin_reject_threshold=none, spamassassin.subject_prefix="[S]")
mine@example.org: mine@example.org (spamassassin.user=mine)
off@example.org: off@example.org (spamassassin=off)
"""


async def test_recipients_who_differ_are_asked_to_be_sent_apart(spamd: Spamd, tmp_path: Path) -> None:
    before = spamd.scans
    async with with_aliases(spamd, tmp_path, DIFFER, reject_threshold=10) as postfix:
        client = postfix.client("192.0.2.77")
        await client.mail("alice@sender.example")
        replies = [(await client.rcpt(f"{name}@example.org")).code for name in ("patient", "strict", "bob", "patient")]
        assert replies == [250, 452, 452, 250]
        assert (await client.data(SPAM)).code == 250
        assert "X-Spam-Flag" in header(client)
        # As the sender's queue then does.
        await client.mail("alice@sender.example")
        assert [(await client.rcpt(f"{name}@example.org")).code for name in ("strict", "bob")] == [250, 452]
        assert (await client.data(SPAM)).encode().decode().strip() == REFUSED
        assert (await send(postfix, SPAM, "bob@example.org"))[0] == REFUSED
    assert spamd.scans - before == 3


async def test_leniently_a_message_is_accepted_if_one_takes_it_and_costs_one_scan(spamd: Spamd, tmp_path: Path) -> None:
    before = spamd.scans
    lenient = {"disagree": "lenient"}
    async with with_aliases(spamd, tmp_path, DIFFER, lenient, reject_threshold=10, subject_prefix="[X]") as postfix:
        names = [f"{name}@example.org" for name in ("strict", "bob", "marked", "patient")]
        reply, client = await send(postfix, SPAM, *names)
        assert reply == "250"
        assert [recipient.outcome for recipient in client.transaction.recipients] == ["accepted"] * 4
        # The marks of the first who takes it.
        assert header(client)["Subject"] == "[S] offer"
        assert spamd.scans - before == 1
        assert (await send(postfix, SPAM, *names[:2]))[0] == REFUSED
        assert spamd.scans - before == 2
        assert (await send(postfix, SPAM, "bob@example.org", "off@example.org"))[0] == "250"
        assert spamd.scans - before == 3


async def test_another_user_is_another_scan(spamd: Spamd, tmp_path: Path) -> None:
    spamd.prefer("mine", "score SIX_POINTS -6\n")
    before = spamd.scans
    async with with_aliases(spamd, tmp_path, DIFFER, {"disagree": "lenient"}, reject_threshold=6) as postfix:
        assert (await send(postfix, SIX, "bob@example.org", "strict@example.org", "mine@example.org"))[0] == "250"
        assert spamd.users[before:] == ["(unknown)", "mine"]


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"server": "127.0.0.1"}, "spamassassin.server: '127.0.0.1' is no address: write HOST:PORT"),
        ({"server": []}, 'spamassassin.server: write "HOST:PORT"'),
        ({"reject_threshold": "many"}, "spamassassin.reject_threshold: "),
        ({"reject_threshold": True}, 'spamassassin.reject_threshold: write a number, or "none"'),
        ({"tag_threshold": float("nan")}, "spamassassin.tag_threshold: "),
        ({"size_limit": "1 GiB"}, "spamassassin.size_limit: "),
        ({"size_limit": 0}, "spamassassin.size_limit: "),
        ({"user": "{recipient}"}, "spamassassin.user: '{recipient}' is no user"),
        ({"user": "a b"}, "spamassassin.user: 'a b' is no user"),
        ({"default_user": "a\nb"}, "is no user"),
        ({"default_user": "{local}"}, "spamassassin.default_user: '{local}' is no user"),
        ({"headers": ["X Y"]}, "spamassassin.headers.0: 'X Y' is no field"),
        ({"subject_prefix": "a\r\nb"}, "is not one line of text"),
        ({"old_headers": "remove"}, "spamassassin.old_headers: "),
        ({"timeout": 0}, "spamassassin.timeout: "),
        ({"reject_treshold": 5}, "spamassassin has no option 'reject_treshold': did you mean 'reject_threshold'?"),
    ],
)
async def test_a_wrong_option_stops_the_start(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        async with gate(spamassassin=options):
            pass
    assert message in str(raised.value)


async def test_which_server_is_asked_cannot_be_overridden(tmp_path: Path) -> None:
    async with gate(spamassassin={}) as postfix:
        with pytest.raises(ConfigError, match="is the same for everybody"):
            postfix.plugin("spamassassin").parse_overrides("spamassassin.server=127.0.0.1:1", "test")
