"""badmailfrom: which senders are refused, with which words, and what happens to its file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gatepost.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.hooks.conftest import Rig

    LoadRig = Callable[[str], Awaitable[Rig]]

SENDERS = r"""
# unwanted
offers@example.com  Please take us off your list.
@spam.example
@.spam.example Not from there.
/^(news|info)-\d+@/ No newsletters here.
"""


@pytest.fixture(autouse=True)
def senders(tmp_path: Path) -> Path:
    file = tmp_path / "badmailfrom"
    file.write_text(SENDERS)
    return file


def config(*options: str, first: str = "") -> str:
    return "\n".join([first, '[[plugin]]\nname = "badmailfrom"\nfile = "badmailfrom"', *options])


async def rcpt(rig: Rig, sender: str, recipient: str = "b@example.org", client: str = "192.0.2.1") -> str:
    mail = await rig.mail(await rig.connect(client), sender)
    return await mail.rcpt(recipient)


@pytest.mark.parametrize(
    ("sender", "reply"),
    [
        ("alice@example.com", "250"),
        ("OFFERS@Example.Com", "550 5.7.1 Please take us off your list."),
        ('"offers"@example.com', "550 5.7.1 Please take us off your list."),
        ("x@spam.example", "550 5.7.1 mail from x@spam.example is not accepted here"),
        ("x@mail.spam.example", "550 5.7.1 Not from there."),
        ("news-12@example.net", "550 5.7.1 No newsletters here."),
        ("x\ud83d\ude00@example.net", "250"),
        ("", "250"),
    ],
)
async def test_a_listed_sender_is_refused_at_each_recipient(load: LoadRig, sender: str, reply: str) -> None:
    rig = await load(config())
    mail = await rig.mail(sender=sender)

    assert [await mail.rcpt("a@example.org"), await mail.rcpt("b@example.org")] == [reply, reply]


async def test_whatever_the_sender_is_the_reply_is_one_short_line(load: LoadRig) -> None:
    reply = await rcpt(await load(config()), f'"x\t250 Ok \u00fc{"y" * 700}"@spam.example')

    assert reply.startswith('550 5.7.1 mail from "x 250 Ok ?yyy')
    assert len(reply.splitlines()) == 1
    assert len(reply) <= 510


@pytest.mark.parametrize(
    ("option", "reply"),
    [
        ('action = "defer"', "450 4.7.1 Not from there."),
        ('action = "reject"', "550 5.7.1 Not from there."),
        ('action = "allow"', "250"),
        ('mode = "observe"', "250"),
        ('mode = "off"', "250"),
    ],
)
async def test_the_verdict_is_an_option(load: LoadRig, option: str, reply: str) -> None:
    assert await rcpt(await load(config(option)), "x@y.spam.example") == reply


@pytest.mark.parametrize(("action", "code"), [("deny_disconnect", 521), ("defer_disconnect", 421)])
async def test_a_hang_up_comes_at_the_first_recipient(load: LoadRig, action: str, code: int) -> None:
    assert (await rcpt(await load(config(f'action = "{action}"')), "x@spam.example"))[:3] == str(code)


async def test_a_change_counts_from_the_next_message_on(load: LoadRig, senders: Path) -> None:
    rig = await load(config())
    assert await rcpt(rig, "new@example.com") == "250"

    senders.write_text("new@example.com\n")
    assert (await rcpt(rig, "new@example.com"))[:3] == "550"
    assert await rcpt(rig, "offers@example.com") == "250"


async def test_after_a_bad_change_the_old_list_stays(load: LoadRig, senders: Path) -> None:
    rig = await load(config())

    senders.write_text("no address\n")
    assert (await rcpt(rig, "offers@example.com"))[:3] == "550"
    senders.unlink()
    assert (await rcpt(rig, "offers@example.com"))[:3] == "550"


async def test_one_client_may_be_excepted(load: LoadRig, tmp_path: Path) -> None:
    (tmp_path / "clients").write_text("192.0.2.9: badmailfrom=off\n192.0.2.8: badmailfrom.action=defer\n")
    rig = await load(config(first='[[plugin]]\nname = "client_options"\nfile = "clients"'))

    codes = [(await rcpt(rig, "x@spam.example", client=f"192.0.2.{last}"))[:3] for last in (1, 8, 9)]
    assert codes == ["550", "450", "250"]


async def test_one_recipient_may_be_excepted(load: LoadRig, tmp_path: Path) -> None:
    (tmp_path / "aliases").write_text("abuse@example.org: (badmailfrom=off)\n*@example.org: (loop)\n")
    (tmp_path / "whitelist").write_text("rcpt postmaster@example.org\n")
    first = "\n".join(f'[[plugin]]\nname = "{name}"\nfile = "{name}"' for name in ("aliases", "whitelist"))
    rig = await load(config(first=first))

    locals_ = ("b", "abuse", "postmaster", "c")
    codes = [(await rcpt(rig, "x@spam.example", f"{local}@example.org"))[:3] for local in locals_]
    assert codes == ["550", "250", "250", "550"]


async def test_a_whitelisted_client_is_not_asked(load: LoadRig) -> None:
    codes = []
    for option in ("", "skip_whitelisted = false"):
        client = await (await load(config(option))).connect()
        client.session.whitelist("a friend")
        codes.append((await client.send("x@spam.example", "b@example.org")).code)

    assert codes == [250, 550]


async def test_the_log_names_the_line(load: LoadRig, senders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    await rcpt(await load(config()), "info-7@example.net")

    assert f"at={senders}:6" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a@x.example\n<>\n", r"badmailfrom:2: the null sender <> cannot be listed"),
        ("/(/\n", r"badmailfrom:1: the pattern /\(/ is not understood: missing \)"),
    ],
)
async def test_a_bad_file_stops_the_start(load: LoadRig, senders: Path, text: str, problem: str) -> None:
    senders.write_text(text)

    with pytest.raises(ConfigError, match=problem):
        await load(config())


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ('[[plugin]]\nname = "badmailfrom"\n', r"badmailfrom.*file"),
        ('[[plugin]]\nname = "badmailfrom"\nfile = "missing"\n', r"cannot read .*missing: No such file"),
        (config('action = "shout"'), r"badmailfrom\.action"),
    ],
)
async def test_a_bad_option_stops_the_start(load: LoadRig, settings: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        await load(settings)
