"""greylist: black, grey, white, and who counts as the same contact."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gatepost.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.hooks.conftest import Rig

    from gatepost import Entry

    LoadRig = Callable[[str], Awaitable[Rig]]

LATER = "450 4.7.1 This mail is temporarily denied"
TIMES = 'black_timeout = "50m"\ngrey_timeout = "3h20m"\nwhite_timeout = "36d"\n'
MINUTE, HOUR, DAY = 60, 3600, 86400


def greylist(*options: str) -> str:
    return "\n".join(['[[plugin]]\nname = "greylist"', *options])


async def contact(
    rig: Rig,
    client: str = "192.0.2.1",
    sender: str = "alice@sender.example",
    recipient: str = "bob@example.org",
) -> str:
    return await (await rig.mail(await rig.connect(client), sender)).rcpt(recipient)


async def known_after(rig: Rig) -> None:
    """Make the usual contact known."""
    assert await contact(rig) == LATER
    rig.clock.now += HOUR
    assert await contact(rig) == "250"


async def entries(rig: Rig) -> list[Entry]:
    return [entry async for entry in rig.store.list()]


async def test_a_first_contact_is_refused_until_the_black_period_is_over(load: LoadRig) -> None:
    rig = await load(greylist())

    assert await contact(rig) == LATER
    rig.clock.now += 50 * MINUTE - 1
    assert await contact(rig) == LATER
    rig.clock.now += 1
    assert await contact(rig) == "250"


async def test_a_retry_that_is_too_early_does_not_begin_the_black_period_again(load: LoadRig) -> None:
    rig = await load(greylist(TIMES))

    heard = []
    for _ in range(6):
        heard.append(await contact(rig))
        rig.clock.now += 10 * MINUTE

    assert heard == [LATER] * 5 + ["250"]


async def test_a_retry_at_the_end_of_the_grey_period_is_accepted(load: LoadRig) -> None:
    rig = await load(greylist())
    await contact(rig)
    rig.clock.now += 50 * MINUTE + 200 * MINUTE - 1

    assert await contact(rig) == "250"


async def test_a_retry_after_the_grey_period_is_a_first_contact(load: LoadRig) -> None:
    rig = await load(greylist())
    await contact(rig)
    rig.clock.now += 50 * MINUTE + 200 * MINUTE + 1

    assert await contact(rig) == LATER
    rig.clock.now += 50 * MINUTE
    assert await contact(rig) == "250"


async def test_a_known_contact_stays_known_as_long_as_mail_comes(load: LoadRig) -> None:
    rig = await load(greylist(TIMES))
    await known_after(rig)

    for _ in range(4):
        rig.clock.now += 30 * DAY
        assert await contact(rig) == "250"


async def test_a_known_contact_is_written_again_only_when_a_hundredth_of_its_time_is_gone(load: LoadRig) -> None:
    rig = await load(greylist('white_timeout = "100h"'))
    await known_after(rig)
    known_at = rig.clock.now
    (written,) = await entries(rig)

    rig.clock.now = known_at + HOUR - 1
    assert await contact(rig) == "250"
    assert await entries(rig) == [written]
    rig.clock.now = known_at + HOUR
    assert await contact(rig) == "250"
    assert [entry.expires_at for entry in await entries(rig)] == [known_at + 101 * HOUR]


async def test_a_white_period_made_shorter_holds_from_the_next_mail_on(load: LoadRig, tmp_path: Path) -> None:
    (tmp_path / "clients").write_text("192.0.2.7: greylist.white_timeout=1h\n")
    rig = await load(f'[[plugin]]\nname = "client_options"\nfile = "{tmp_path}/clients"\n' + greylist())
    await known_after(rig)

    assert await contact(rig, client="192.0.2.7") == "250"
    assert [entry.expires_at for entry in await entries(rig)] == [rig.clock.now + HOUR]


async def test_a_known_contact_is_forgotten_after_the_white_period_without_mail(load: LoadRig) -> None:
    rig = await load(greylist())
    await known_after(rig)
    rig.clock.now += 36 * DAY + 1

    assert await contact(rig) == LATER


@pytest.mark.parametrize(
    ("client", "sender", "recipient", "heard"),
    [
        ("192.0.2.1", "alice@sender.example", "bob@example.org", "250"),
        ("192.0.2.254", "alice@sender.example", "bob@example.org", "250"),
        ("::ffff:192.0.2.7", "alice@sender.example", "bob@example.org", "250"),
        ("192.0.2.1", "Alice@SENDER.example", "BOB@example.org", "250"),
        ("192.0.3.1", "alice@sender.example", "bob@example.org", LATER),
        ("2001:db8::1", "alice@sender.example", "bob@example.org", LATER),
        ("unknown", "alice@sender.example", "bob@example.org", LATER),
        ("192.0.2.1", "eve@sender.example", "bob@example.org", LATER),
        ("192.0.2.1", "alice@sender.example", "carol@example.org", LATER),
    ],
)
async def test_client_network_sender_and_recipient_together_are_a_contact(
    load: LoadRig, client: str, sender: str, recipient: str, heard: str
) -> None:
    rig = await load(greylist())
    await known_after(rig)

    assert await contact(rig, client, sender, recipient) == heard


@pytest.mark.parametrize(
    ("option", "client", "heard"),
    [
        ("", "2001:db8:0:1:ffff::1", "250"),
        ("", "2001:db8:0:2::1", LATER),
        ("ipv6_prefix = 48", "2001:db8:0:2::1", "250"),
        ("ipv6_prefix = 128", "2001:db8:0:1::2", LATER),
    ],
)
async def test_ipv6_clients_of_one_prefix_are_the_same(load: LoadRig, option: str, client: str, heard: str) -> None:
    rig = await load(greylist(option))
    await contact(rig, "2001:db8:0:1::1")
    rig.clock.now += HOUR

    assert await contact(rig, client) == heard


async def test_the_ipv4_prefix_is_an_option(load: LoadRig) -> None:
    rig = await load(greylist("ipv4_prefix = 32"))
    await known_after(rig)

    assert await contact(rig, "192.0.2.2") == LATER


@pytest.mark.parametrize(
    ("key", "same"),
    [
        ('["remote_ip"]', ("192.0.2.1", "eve@other.example", "carol@example.org")),
        ('["sender"]', ("198.51.100.1", "alice@sender.example", "carol@example.org")),
        ('["recipient"]', ("198.51.100.1", "eve@other.example", "bob@example.org")),
    ],
)
async def test_only_the_parts_of_the_key_count(load: LoadRig, key: str, same: tuple[str, str, str]) -> None:
    rig = await load(greylist(f"key = {key}"))
    await known_after(rig)

    assert await contact(rig, *same) == "250"
    assert await contact(rig, "203.0.113.1", "mallory@third.example", "dave@example.org") == LATER


async def test_the_null_sender_is_decided_at_data(load: LoadRig) -> None:
    rig = await load(greylist())

    async def bounce() -> tuple[str, str]:
        mail = await rig.mail(sender="")
        return await mail.rcpt("bob@example.org"), await mail.data()

    assert await bounce() == ("250", LATER)
    rig.clock.now += HOUR
    assert await bounce() == ("250", "250")


async def test_deny_late_decides_at_data(load: LoadRig) -> None:
    rig = await load(greylist("deny_late = true"))
    mail = await rig.mail()

    assert await mail.rcpt("bob@example.org") == "250"
    assert await mail.data() == LATER


async def test_mail_decided_at_rcpt_is_not_asked_about_again_at_data(load: LoadRig) -> None:
    rig = await load(greylist('black_timeout = "0s"'))
    await contact(rig)
    mail = await rig.mail()

    assert await mail.rcpt("bob@example.org") == "250"
    assert await mail.data() == "250"


async def test_at_data_one_recipient_who_is_too_early_holds_the_message(load: LoadRig) -> None:
    rig = await load(greylist("deny_late = true"))

    async def send(*recipients: str) -> str:
        mail = await rig.mail()
        assert [await mail.rcpt(recipient) for recipient in recipients] == ["250"] * len(recipients)
        return await mail.data()

    assert await send("bob@example.org") == LATER
    rig.clock.now += HOUR
    assert await send("bob@example.org", "carol@example.org", "dave@example.org") == LATER
    rig.clock.now += HOUR
    assert await send("dave@example.org", "carol@example.org", "bob@example.org") == "250"


async def test_it_can_be_on_for_some_recipients_only(load: LoadRig, tmp_path: Path) -> None:
    (tmp_path / "aliases").write_text("bob@example.org: (denysoft_greylist)\ncarol@example.org: (greylist=off)\n")
    rig = await load('[[plugin]]\nname = "aliases"\nfile = "aliases"\n' + greylist('mode = "off"'))

    assert await contact(rig, recipient="bob@example.org") == LATER
    assert await contact(rig, recipient="carol@example.org") == "250"
    assert await contact(rig, recipient="dave@elsewhere.example") == "250"


async def test_at_data_the_options_of_the_recipients_count(load: LoadRig, tmp_path: Path) -> None:
    (tmp_path / "aliases").write_text(
        "bob@example.org: (greylist, greylist.deny_late)\ncarol@example.org: bob@b.example"
    )
    rig = await load('[[plugin]]\nname = "aliases"\nfile = "aliases"\n' + greylist('mode = "off"'))

    answers = []
    for recipient in ("bob@example.org", "carol@example.org"):
        mail = await rig.mail()
        answers.append((await mail.rcpt(recipient), await mail.data()))

    assert answers == [("250", LATER), ("250", "250")]


async def test_periods_and_key_can_be_others_for_one_client(load: LoadRig, tmp_path: Path) -> None:
    (tmp_path / "clients").write_text('192.0.2.0/24: greylist.black_timeout=5m, greylist.key="remote_ip,sender"\n')
    rig = await load('[[plugin]]\nname = "client_options"\nfile = "clients"\n' + greylist())
    await contact(rig)
    await contact(rig, "198.51.100.1")
    rig.clock.now += 5 * MINUTE

    assert await contact(rig, recipient="carol@example.org") == "250"
    assert await contact(rig, "198.51.100.1") == LATER


async def test_observed_it_refuses_nobody_and_learns(load: LoadRig) -> None:
    rig = await load(greylist('mode = "observe"'))
    mail = await rig.mail()

    assert await mail.rcpt("bob@example.org") == "250"
    assert [record.reason for record in mail.transaction.records] == ["observed"]
    rig.clock.now += HOUR
    mail = await rig.mail()
    assert await mail.rcpt("bob@example.org") == "250"
    assert mail.transaction.records == []


async def test_a_client_that_has_logged_in_is_not_asked(load: LoadRig) -> None:
    rig = await load(greylist())
    client = await rig.connect()
    client.session.login = "alice"

    assert await (await rig.mail(client)).rcpt("bob@example.org") == "250"


async def test_the_text_is_an_option(load: LoadRig) -> None:
    rig = await load(greylist('text = "come again"'))

    assert await contact(rig) == "450 4.7.1 come again"


async def test_an_address_that_is_not_utf8_is_a_contact_like_any_other(load: LoadRig) -> None:
    rig = await load(greylist())
    sender = b"j\xf6rg@sender.example".decode(errors="surrogateescape")

    assert await contact(rig, sender=sender) == LATER
    rig.clock.now += HOUR
    assert await contact(rig, sender=sender) == "250"


async def test_the_store_holds_readable_keys_that_expire(load: LoadRig) -> None:
    rig = await load(greylist('key = ["remote_ip", "recipient"]'))
    start = rig.clock.now
    await contact(rig)

    assert [(entry.key, entry.expires_at) async for entry in rig.store.list()] == [
        ("greylist:192.0.2.0/24 * <bob@example.org>", start + 250 * MINUTE)
    ]


async def test_without_the_store_the_failure_policy_decides(load: LoadRig) -> None:
    deferring, passing = await load(greylist()), await load(greylist('on_unavailable = "pass"'))
    await deferring.store.close()
    await passing.store.close()

    assert (await contact(deferring)).startswith("451 4.3.0")
    assert await contact(passing) == "250"


@pytest.mark.parametrize(
    "option", ["key = []", 'key = ["colour"]', 'black_timeout = "soon"', "ipv4_prefix = 33", "ipv6_prefix = -1"]
)
async def test_a_bad_option_is_a_configuration_error_with_its_line(load: LoadRig, option: str) -> None:
    with pytest.raises(ConfigError, match=rf"gatepost\.toml:3: greylist\.{option.split()[0]}"):
        await load(greylist(option))
