"""badrcptto: which recipients are refused, with which words, and who is excepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gatepost.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.hooks.conftest import Rig

    LoadRig = Callable[[str], Awaitable[Rig]]

RECIPIENTS = r"""
old-list@example.org The list has moved.
@closed.example
@.closed.example
/^trap-\d+@/
/^bob(\+.*)?@example\.org$/ Bob has left us.
"""


@pytest.fixture(autouse=True)
def recipients(tmp_path: Path) -> Path:
    file = tmp_path / "badrcptto"
    file.write_text(RECIPIENTS)
    return file


def config(*options: str, first: str = "") -> str:
    return "\n".join([first, '[[plugin]]\nname = "badrcptto"\nfile = "badrcptto"', *options])


@pytest.mark.parametrize(
    ("recipient", "reply"),
    [
        ("alice@example.org", "250"),
        ("Old-List@Example.ORG", "550 5.7.1 The list has moved."),
        ("@relay.example:old-list@example.org", "550 5.7.1 The list has moved."),
        ("a@closed.example", "550 5.7.1 mail to a@closed.example is not accepted here"),
        ("a@s.closed.example", "550 5.7.1 mail to a@s.closed.example is not accepted here"),
        ("trap-1@example.org", "550 5.7.1 mail to trap-1@example.org is not accepted here"),
        ("bob+list@example.org", "550 5.7.1 Bob has left us."),
        ("bobby@example.org", "250"),
        ("postmaster", "250"),
    ],
)
async def test_a_listed_recipient_is_refused(load: LoadRig, recipient: str, reply: str) -> None:
    mail = await (await load(config())).mail()

    assert await mail.rcpt(recipient) == reply


async def test_the_other_recipients_get_the_message(load: LoadRig) -> None:
    mail = await (await load(config())).mail()

    assert [(await mail.rcpt(f"{name}@example.org"))[:3] for name in ("alice", "bob", "carol")] == ["250", "550", "250"]
    assert await mail.data() == "250"
    assert [str(recipient.address) for recipient in mail.transaction.accepted] == [
        "alice@example.org",
        "carol@example.org",
    ]


async def test_a_bounce_to_a_listed_recipient_is_refused_too(load: LoadRig) -> None:
    mail = await (await load(config())).mail(sender="")

    assert await mail.rcpt("bob@example.org") == "550 5.7.1 Bob has left us."


@pytest.mark.parametrize(
    ("option", "reply"),
    [
        ('action = "defer"', "450 4.7.1 Bob has left us."),
        ('action = "disconnect"', "521 5.7.1 Bob has left us."),
        ('action = "allow"', "250"),
        ('mode = "observe"', "250"),
    ],
)
async def test_the_verdict_is_an_option(load: LoadRig, option: str, reply: str) -> None:
    mail = await (await load(config(option))).mail()

    assert await mail.rcpt("bob@example.org") == reply


async def test_one_client_or_recipient_may_be_excepted(load: LoadRig, tmp_path: Path) -> None:
    (tmp_path / "clients").write_text("192.0.2.9: badrcptto=off\n")
    (tmp_path / "aliases").write_text("a@closed.example: (badrcptto.action=defer)\nb@closed.example: (loop)\n")
    first = '[[plugin]]\nname = "client_options"\nfile = "clients"\n[[plugin]]\nname = "aliases"\nfile = "aliases"'
    rig = await load(config(first=first))
    heard = []
    for client in ("192.0.2.1", "192.0.2.9"):
        mail = await rig.mail(await rig.connect(client))
        heard.append([(await mail.rcpt(f"{name}@closed.example"))[:3] for name in "ab"])

    assert heard == [["450", "550"], ["250", "250"]]


async def test_mail_from_a_whitelisted_sender_is_not_asked_about(load: LoadRig) -> None:
    replies = []
    for option in ("", "skip_whitelisted = false"):
        mail = await (await load(config(option))).mail()
        mail.transaction.whitelist("a friend")
        replies.append(await mail.rcpt("bob@example.org"))

    assert replies == ["250", "550 5.7.1 Bob has left us."]


async def test_a_change_counts_from_the_next_recipient_on(load: LoadRig, recipients: Path) -> None:
    mail = await (await load(config())).mail()
    assert await mail.rcpt("new@example.org") == "250"

    recipients.write_text("new@example.org\n")
    assert (await mail.rcpt("new@example.org"))[:3] == "550"
    recipients.write_text("/(/\n")
    assert (await mail.rcpt("new@example.org"))[:3] == "550"


async def test_a_bad_file_stops_the_start(load: LoadRig, recipients: Path) -> None:
    recipients.write_text("a@x.example\nexample.org\n")

    with pytest.raises(ConfigError, match=r"badrcptto:2: 'example\.org': this is no address; write user@example\.org"):
        await load(config())
