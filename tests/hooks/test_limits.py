"""limits: who is limited in what, what counts and what is given back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import limits as library
import pytest

from gatepost.errors import ConfigError
from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.hooks.conftest import Rig

    from gatepost.testing import Client

    LoadRig = Callable[[str], Awaitable[Rig]]

HOUR = 3600


def config(*options: str, first: str = "") -> str:
    return "\n".join([first, '[[plugin]]\nname = "limits"', *options])


def over(what: str) -> str:
    return f"450 4.7.1 rate limit exceeded: too many {what}"


async def send(rig: Rig, client: str = "192.0.2.1", sender: str = "a@s.example", rcpt: str = "b@example.org") -> str:
    """Send one message in a session of its own; return the last reply."""
    mail = await rig.mail(await rig.connect(client), sender)
    reply = await mail.rcpt(rcpt)
    reply = await mail.data() if reply == "250" else reply
    await mail.client.quit()
    return reply


async def replies(count: int, rig: Rig, **who: str) -> list[str]:
    return [await send(rig, **who) for _ in range(count)]


async def rcpts(rig: Rig, *addresses: str, sender: str = "a@s.example") -> list[str]:
    mail = await rig.mail(sender=sender)
    return [await mail.rcpt(address) for address in addresses]


async def test_without_a_rate_nothing_is_counted(load: LoadRig) -> None:
    rig = await load(config())

    assert await replies(5, rig) == ["250"] * 5
    assert [entry async for entry in rig.store.list()] == []


async def test_messages_from_one_client_are_limited(load: LoadRig) -> None:
    rig = await load(config('client = "3/hour"'))

    assert await replies(5, rig) == ["250"] * 3 + [over("messages from this client")] * 2
    assert await send(rig, client="192.0.2.2") == "250"


async def test_room_comes_back_while_the_window_slides(load: LoadRig) -> None:
    rig = await load(config('client = "4/hour"'))
    rig.clock.now -= rig.clock.now % HOUR
    await replies(9, rig)

    rig.clock.now += 1.5 * HOUR
    assert (await replies(4, rig)).count("250") == 2
    rig.clock.now += 3 * HOUR
    assert (await replies(9, rig)).count("250") == 4


async def test_two_rates_of_one_kind_both_hold(load: LoadRig) -> None:
    rig = await load(config('client = "2/minute, 3/day"'))
    rig.clock.now -= rig.clock.now % (24 * HOUR)

    assert (await replies(3, rig)).count("250") == 2
    rig.clock.now += HOUR
    assert (await replies(3, rig)).count("250") == 1


async def test_clients_of_one_network_are_one_client(load: LoadRig) -> None:
    rig = await load(config('client = "1/hour"', "ipv4_prefix = 24"))
    for client in ("192.0.2.1", "2001:db8::1", "203.0.113.1"):
        assert await send(rig, client=client) == "250"

    assert await send(rig, client="192.0.2.200") != "250"
    assert await send(rig, client="::ffff:192.0.2.7") != "250"
    assert await send(rig, client="2001:db8::ffff:1") != "250"
    assert await send(rig, client="2001:db8:0:1::1") == "250"


async def test_clients_that_postfix_does_not_know_are_one_client(load: LoadRig) -> None:
    rig = await load(config('client = "1/hour"'))

    assert await replies(2, rig, client="unknown") == ["250", over("messages from this client")]


async def test_messages_from_one_sender_are_limited_whatever_the_case(load: LoadRig) -> None:
    rig = await load(config('sender = "1/hour"'))

    assert await send(rig, "192.0.2.1", "alice@s.example") == "250"
    assert await send(rig, "192.0.2.2", "Alice@S.example") == over("messages from this sender")
    assert await send(rig, "192.0.2.2", "bob@s.example") == "250"


async def test_bounces_are_under_no_senders_rate(load: LoadRig) -> None:
    rig = await load(config('sender = "0/hour"', 'sender_recipients = "0/hour"'))

    assert await replies(3, rig, sender="") == ["250"] * 3
    assert await send(rig) == over("messages from this sender")


def logged_in(rig: Rig, login: str | None) -> Client:
    return rig.gate.client("192.0.2.1", login=login)


async def test_messages_of_one_login_are_limited_whatever_the_case(load: LoadRig) -> None:
    rig = await load(config('login = "2/hour"'))
    sent = [await logged_in(rig, login).send("a@s.example", "b@example.org") for login in ("al", "AL", "Al", "bo")]

    assert [reply.code for reply in sent] == [250, 250, 450, 250]
    assert await replies(3, rig) == ["250"] * 3


async def test_recipients_are_limited_one_by_one(load: LoadRig) -> None:
    rig = await load(config('client_recipients = "2/hour"'))

    assert await rcpts(rig, "a@x.example", "b@x.example", "c@x.example") == [
        "250",
        "250",
        over("recipients from this client"),
    ]


@pytest.mark.parametrize("kind", ["sender", "login"])
async def test_recipients_of_senders_and_logins_are_limited(load: LoadRig, kind: str) -> None:
    rig = await load(config(f'{kind}_recipients = "1/hour"'))
    client = logged_in(rig, "alice")
    await client.mail("a@s.example")

    assert [(await client.rcpt(f"{name}@x.example")).code for name in "ab"] == [250, 450]


async def test_recipients_in_one_domain_are_limited_from_all_clients_together(load: LoadRig) -> None:
    rig = await load(config('recipient_domain = "2/hour"'))
    assert await send(rig, "192.0.2.1", rcpt="a@Example.ORG") == "250"
    assert await send(rig, "192.0.2.2", rcpt="b@example.org.") == "250"

    assert await send(rig, "192.0.2.3", rcpt="c@example.org") == over("messages to this domain")
    assert await send(rig, "192.0.2.3", rcpt="c@sub.example.org") == "250"
    assert await send(rig, "192.0.2.3", rcpt="postmaster") == "250"


async def test_transactions_at_once_get_exactly_the_rate(load: LoadRig) -> None:
    rig = await load(config('client = "7/hour"', 'client_recipients = "500/hour"'))

    sent = await asyncio.gather(*(send(rig) for _ in range(40)))

    assert sent.count("250") == 7


async def test_what_another_plugin_refuses_is_given_back(load: LoadRig) -> None:
    greylist = '[[plugin]]\nname = "greylist"\nblack_timeout = "1m"'
    rates = [f'{kind} = "2/day"' for kind in ("client", "client_recipients", "recipient_domain")]
    rig = await load(config(*rates) + "\n" + greylist)
    assert (await send(rig)).endswith("temporarily denied")
    for _ in range(5):
        await send(rig)

    rig.clock.now += 61
    assert await replies(3, rig) == ["250", "250", over("messages from this client")]


async def test_a_transaction_given_up_is_given_back(load: LoadRig) -> None:
    rig = await load(config('client = "1/hour"', 'recipient_domain = "1/hour"'))
    for _ in range(3):
        mail = await rig.mail()
        assert await mail.rcpt("b@example.org") == "250"
        await mail.client.abandon()

    assert await send(rig) == "250"
    assert await send(rig) != "250"


async def test_of_a_queued_message_the_refused_recipients_are_given_back(load: LoadRig) -> None:
    rig = await load(config('client_recipients = "3/hour"'))
    rig.gate.refuse["no@x.example"] = "550 5.1.1 unknown"
    for _ in range(2):
        mail = await rig.mail()
        assert await mail.rcpt("no@x.example") == "550 5.1.1 unknown"
        assert await mail.rcpt("yes@x.example") == "250"
        assert await mail.data() == "250"

    assert await rcpts(rig, "a@x.example", "b@x.example") == ["250", over("recipients from this client")]


async def test_while_it_is_under_way_a_message_counts(load: LoadRig) -> None:
    rig = await load(config('client = "1/hour"'))
    first = await rig.mail()
    await first.rcpt("b@example.org")

    assert await send(rig) == over("messages from this client")
    assert await first.data() == "250"


async def test_a_refusal_by_one_rate_leaves_the_others_uncounted(load: LoadRig) -> None:
    rig = await load(config('client = "5/hour"', 'sender = "1/hour"'))
    for _ in range(10):
        await send(rig, sender="busy@s.example")

    sent = [await send(rig, sender=f"{number}@s.example") for number in range(6)]
    assert sent.count("250") == 4


LISTS = "\n".join(f'[[plugin]]\nname = "{name}"\nfile = "{name}"' for name in ("aliases", "whitelist"))


def free(tmp_path: Path, *, by: str) -> str:
    """Make free@x.example a recipient without limits; return the tables that must stand before the plugin."""
    (tmp_path / "aliases").write_text("free@x.example: (limits=off)\n*@x.example: (loop)\n" if by == "aliases" else "")
    (tmp_path / "whitelist").write_text("rcpt free@x.example\n" if by == "whitelist" else "")
    return LISTS


@pytest.mark.parametrize("by", ["aliases", "whitelist"])
async def test_a_recipient_under_no_limit_is_reached_by_a_client_beyond_its_rate(
    load: LoadRig, tmp_path: Path, by: str
) -> None:
    rig = await load(config('client = "1/hour"', 'sender = "1/hour"', first=free(tmp_path, by=by)))

    assert await replies(3, rig, rcpt="free@x.example") == ["250"] * 3
    assert await replies(2, rig) == ["250", over("messages from this client")]
    assert await rcpts(rig, "b@example.org", "free@x.example") == [over("messages from this client"), "250"]


@pytest.mark.parametrize("by", ["aliases", "whitelist"])
async def test_a_message_that_only_recipients_under_no_limit_got_is_given_back(
    load: LoadRig, tmp_path: Path, by: str
) -> None:
    rig = await load(config('client = "1/hour"', first=free(tmp_path, by=by)))
    rig.gate.refuse["no@x.example"] = "550 5.1.1 unknown"
    for _ in range(2):
        mail = await rig.mail()
        assert await mail.rcpt("no@x.example") == "550 5.1.1 unknown"
        assert await mail.rcpt("free@x.example") == "250"
        assert await mail.data() == "250"


async def test_a_message_counts_once_and_for_good_if_one_of_its_recipients_was_queued(load: LoadRig) -> None:
    rig = await load(config('client = "2/hour"'))
    rig.gate.refuse["no@x.example"] = "550 5.1.1 unknown"
    for _ in range(2):
        mail = await rig.mail()
        assert [await mail.rcpt(f"{name}@x.example") for name in ("no", "a", "b")] == [
            "550 5.1.1 unknown",
            "250",
            "250",
        ]
        assert await mail.data() == "250"

    assert await send(rig) == over("messages from this client")


async def test_a_message_that_is_refused_at_its_end_is_given_back(load: LoadRig) -> None:
    refusing = '[[plugin]]\nname = "headers"\nrequire = ["X-Never"]'
    rig = await load("\n".join([config('client = "1/hour"'), refusing]))

    assert await replies(3, rig) == ["550 5.6.0 the header field X-Never is missing"] * 3


async def test_refused_mail_counts_where_that_is_asked_for(load: LoadRig) -> None:
    rig = await load(config('client = "2/hour"', "count_refused = true"))
    for _ in range(2):
        mail = await rig.mail()
        assert [await mail.rcpt("a@x.example"), await mail.rcpt("b@x.example")] == ["250", "250"]
        await mail.client.abandon()

    assert await send(rig) == over("messages from this client")


async def test_one_client_has_another_rate(load: LoadRig, tmp_path: Path) -> None:
    (tmp_path / "clients").write_text('192.0.2.9: limits.client="4/hour, 9/day"\n192.0.2.8: limits.client=none\n')
    options = '[[plugin]]\nname = "client_options"\nfile = "clients"'
    rig = await load(config('client = "1/hour"', first=options))

    for client, allowed in (("192.0.2.1", 1), ("192.0.2.9", 4), ("192.0.2.8", 6)):
        assert (await replies(6, rig, client=client)).count("250") == allowed


async def test_one_recipient_has_a_rate_of_its_own(load: LoadRig, tmp_path: Path) -> None:
    (tmp_path / "aliases").write_text("list@x.example: (limits.client_recipients=1/hour)\n*@x.example: (loop)\n")
    aliases = '[[plugin]]\nname = "aliases"\nfile = "aliases"'
    rig = await load(config('client_recipients = "2/hour"', first=aliases))

    heard = await rcpts(rig, *["list@x.example"] * 2, *["me@x.example"] * 3)
    assert [reply[:3] for reply in heard] == ["250", "450", "250", "250", "450"]


@pytest.mark.parametrize(
    ("options", "reply"),
    [
        (['action = "deny"'], "550 5.7.1 rate limit exceeded: too many messages from this client"),
        (['action = "defer_disconnect"', 'text = "enough"'], "421 4.7.1 enough"),
        (['text = "100% {enough}"'], "450 4.7.1 100% {enough}"),
        (['action = "allow"'], "250"),
        (['mode = "observe"'], "250"),
        (['mode = "off"'], "250"),
    ],
)
async def test_the_reply_is_an_option(load: LoadRig, options: list[str], reply: str) -> None:
    rig = await load(config('client = "0/hour"', *options))
    client = await rig.connect()

    refused = await client.send("a@s.example", "b@example.org")

    assert refused.encode().decode().strip().startswith(reply)


async def test_the_log_says_which_rate_of_whom(load: LoadRig, capsys: pytest.CaptureFixture[str]) -> None:
    rig = await load(config('client = "0/5 minutes"'))
    await send(rig)

    line = next(line for line in capsys.readouterr().out.splitlines() if "rate exceeded" in line)
    assert "client" in line
    assert "192.0.2.1" in line
    assert "0 per 5 minute" in line


@pytest.mark.parametrize("policy", ["defer", "pass"])
async def test_a_dead_store_is_left_to_on_unavailable(load: LoadRig, policy: str) -> None:
    rig = await load(config('client = "5/hour"', f'on_unavailable = "{policy}"'))
    await rig.store.close()

    reply = await send(rig)

    assert reply[:3] == ("451" if policy == "defer" else "250")


async def test_what_is_whitelisted_is_neither_limited_nor_counted(load: LoadRig) -> None:
    for option, codes in (("", [250, 250, 450]), ("skip_whitelisted = false", [450, 450, 450])):
        rig = await load(config('client = "0/hour"', option))
        client, other = await rig.connect(), await rig.connect()
        client.session.whitelist("a friend")
        sent = [await one.send("a@s.example", "b@example.org") for one in (client, client, other)]
        assert [reply.code for reply in sent] == codes


async def test_recipients_with_different_rates_need_not_be_sent_apart(load: LoadRig, tmp_path: Path) -> None:
    (tmp_path / "aliases").write_text("a@x.example: (limits.client_recipients=5/hour)\nb@x.example: (limits=off)\n")
    rig = await load(config('client = "9/hour"', first='[[plugin]]\nname = "aliases"\nfile = "aliases"'))

    assert await rcpts(rig, "a@x.example", "b@x.example") == ["250", "250"]


@pytest.mark.parametrize(
    ("option", "problem"),
    [
        ('client = "5/fortnight"', r"gatepost\.toml:4: limits\.client: .*write for example \"100/hour\""),
        ("sender = 5", r"gatepost\.toml:4: limits\.sender: .*write for example \"100/hour\""),
        ("ipv4_prefix = 33", r"gatepost\.toml:4: limits\.ipv4_prefix"),
        ('action = "shout"', r"gatepost\.toml:4: limits\.action"),
        ('clinet = "5/hour"', r"gatepost\.toml:4: .*client"),
    ],
)
async def test_a_wrong_option_stops_the_start(load: LoadRig, option: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        await load(config(option))


async def test_the_plugin_does_not_hide_the_library_of_its_name() -> None:
    async with gate(limits={}) as postfix:
        plugin = postfix.plugin("limits")
        assert vars(type(plugin))["rcpt"].__globals__["parse"] is library.parse
        assert type(plugin).__module__ != "limits"
