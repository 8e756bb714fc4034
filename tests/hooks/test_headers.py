"""headers: what must be there, what may stand once, dates, authors; and that nothing a stranger sends makes it fail."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING

import pytest
import time_machine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatepost import Header, Headers
from gatepost.deadline import Deadline
from gatepost.errors import ConfigError
from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from tests.hooks.conftest import Rig

    LoadRig = Callable[[str], Awaitable[Rig]]

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DATE = b"Date: Sun, 01 Mar 2026 12:00:00 +0000\r\n"
FROM = b"From: Alice <alice@example.org>\r\n"
GOOD = DATE + FROM
SINGLE = ["Date", "From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Message-ID", "In-Reply-To", "References", "Subject"]


@pytest.fixture(autouse=True)
def _today() -> Iterator[None]:
    with time_machine.travel(NOW, tick=False):
        yield


def config(*options: str) -> str:
    return "\n".join(['[[plugin]]\nname = "headers"', *options])


async def reply(rig: Rig, header: bytes, *, login: str | None = None, sender: str = "a@s.example") -> str:
    client = rig.gate.client("192.0.2.1", login=login)
    await client.mail(sender)
    await client.rcpt("b@example.org")
    answer = await client.data(header + b"\r\ntext\r\n")
    return "250" if answer.code == 250 else answer.encode().decode().strip()


def fault(what: str) -> str:
    return f"550 5.6.0 the header field {what}"


async def test_an_ordinary_message_passes(load: LoadRig) -> None:
    rig = await load(config())

    assert await reply(rig, GOOD + b"Subject: x\r\nReceived: a\r\nReceived: b\r\nX-Any: 1\r\nX-Any: 2\r\n") == "250"


@pytest.mark.parametrize(("header", "missing"), [(FROM, "Date"), (DATE, "From"), (b"", "From")])
async def test_a_field_that_must_be_there_is_named_when_it_is_missing(
    load: LoadRig, header: bytes, missing: str
) -> None:
    assert await reply(await load(config()), header) == fault(f"{missing} is missing")


async def test_the_required_fields_are_an_option_and_their_case_does_not_matter(load: LoadRig) -> None:
    rig = await load(config('require = ["message-id"]', "past = 0", "future = 0", "from_syntax = false"))

    assert await reply(rig, b"MESSAGE-ID: <1@x>\r\n") == "250"
    assert await reply(rig, GOOD) == fault("message-id is missing")


async def test_what_is_not_required_and_not_there_is_not_wrong(load: LoadRig) -> None:
    assert await reply(await load(config("require = []")), b"Subject: test\r\n") == "250"


@pytest.mark.parametrize(
    "name",
    ["Date", "From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Message-ID", "In-Reply-To", "References", "Subject"],
)
async def test_each_field_that_may_stand_once_is_refused_when_it_stands_twice(load: LoadRig, name: str) -> None:
    rig = await load(config())
    rest = b"".join(line for line in (DATE, FROM) if not line.startswith(name.encode()))
    once = {"Date": DATE, "From": FROM}.get(name, name.encode() + b": <x@y.example>\r\n")

    assert await reply(rig, rest + once) == "250"
    assert await reply(rig, once + rest + once.lower()) == fault(f"{name} occurs 2 times, but may stand once")


async def test_the_single_fields_are_an_option(load: LoadRig) -> None:
    rig = await load(config('single = ["List-Id"]'))

    assert await reply(rig, GOOD + b"Subject: a\r\nSubject: b\r\n") == "250"
    assert await reply(rig, GOOD + b"List-ID: a\r\n" * 3) == fault("List-Id occurs 3 times, but may stand once")


@pytest.mark.parametrize(
    ("away", "verdict"),
    [
        (timedelta(days=-364), None),
        (timedelta(days=-366), "in the past"),
        (timedelta(days=1, hours=23), None),
        (timedelta(days=2, seconds=1), "in the future"),
    ],
)
@pytest.mark.parametrize("zone", ["%z", "-0000", "GMT", ""])
async def test_a_date_outside_of_the_window_is_refused(
    load: LoadRig, away: timedelta, verdict: str | None, zone: str
) -> None:
    date = f"Date: {(NOW + away).strftime(f'%a, %d %b %Y %H:%M:%S {zone}')}\r\n".encode()

    expected = fault(f"Date is too far {verdict}") if verdict else "250"
    assert await reply(await load(config()), date + FROM) == expected


async def test_the_zone_counts(load: LoadRig) -> None:
    rig = await load(config('future = "1h"', 'past = "1h"'))

    assert await reply(rig, b"Date: Sun, 1 Mar 2026 22:00:00 +1000\r\n" + FROM) == "250"
    assert await reply(rig, b"Date: Sun, 1 Mar 2026 12:00:00 +1000\r\n" + FROM) == fault("Date is too far in the past")
    late = await reply(rig, b"Date: Sun, 1 Mar 2026 12:00:00 -1000\r\n" + FROM)
    assert late == fault("Date is too far in the future")


NO_DATES = [
    b"",
    b" yesterday",
    b" 1 2 3 4 5 6",
    b" Sun, 99 Mar 2026 12:00:00 +0000",
    b" Sun, 1 Mar 2026 99:00:00 +0000",
    b" Sun, 1 Mar 2026 12:00:00 +999999999999",
    b" Sun, 1 Mar 99999999999999 12:00:00 +0000",
    b" \xff\xfe\x00",
    b" =?utf-8?q?Sun=2C_1_Mar_2026_12:00:00_+0000?=",
    b" " + b"(" * 50_000,
]


@pytest.mark.parametrize("value", NO_DATES)
async def test_a_date_that_is_none_is_refused(load: LoadRig, value: bytes) -> None:
    assert await reply(await load(config()), b"Date:" + value + b"\r\n" + FROM) == fault("Date is not a date")


@pytest.mark.parametrize("value", [*NO_DATES, b" Thu, 1 Jan 1970 00:00:00 +0000", b" Sun, 1 Mar 9999 12:00:00 +0000"])
async def test_without_a_window_the_date_is_not_read(load: LoadRig, value: bytes) -> None:
    rig = await load(config("past = 0", 'future = "0s"'))

    assert await reply(rig, b"Date:" + value + b"\r\n" + FROM) == "250"


async def test_each_side_of_the_window_can_be_left_open(load: LoadRig) -> None:
    old, new = b"Date: 1 Jan 1970 00:00:00 +0000\r\n", b"Date: 1 Mar 2099 12:00:00 +0000\r\n"

    rig = await load(config("past = 0"))
    assert [(await reply(rig, date + FROM))[:3] for date in (old, new)] == ["250", "550"]
    rig = await load(config("future = 0"))
    assert [(await reply(rig, date + FROM))[:3] for date in (old, new)] == ["550", "250"]


NAMES_AN_AUTHOR = [
    "alice@example.org",
    "<alice@example.org>",
    "Alice <alice@example.org>",
    '"Example, Alice" <alice@example.org>',
    "Example, Alice <alice@example.org>",
    "alice@example.org <alice@example.org>",
    "Alice (my (nested) name, \\) a@b.c) <alice@example.org>",
    "alice@example.org (Alice, Bob <c@d.e>)",
    '"a@b.c, <d@e.f>" <alice@example.org>',
    '"say \\"a@b.c\\", do" <alice@example.org>',
    '"odd local"@example.org',
    "alice@[192.0.2.1]",
    "Alice <alice@[IPv6:2001:db8::1]>",
    "<@relay.example,@other.example:alice@example.org>",
    "=?utf-8?q?Alice=2C_a=40b=2Ec=2C?= <alice@example.org>",
    "Ällice <älice@bücher.example>",
    "alice@localhost",
    "alice@example.org.",
    "Alice\r\n <alice@example.org>",
    "The Team: alice@example.org;",
    "Alice <alice@example.org>, ",
    "[Project] Alice <alice@example.org>",
]

SEVERAL_AUTHORS = [
    "alice@example.org, bob@example.org",
    "Alice <alice@example.org>, Bob <bob@example.org>",
    "The Team: alice@example.org, bob@example.org;",
    "alice@example.org; bob@example.org",
    ", ".join(f"a{number}@example.org" for number in range(150)),
]

NAMES_NO_AUTHOR = [
    "",
    "   ",
    "Alice",
    "<>",
    "Alice <>",
    "Alice <alice>",
    "@example.org",
    "alice@",
    "Alice <alice@>",
    "<alice@.>",
    "<alice@example..org>",
    "<alice@exam ple.org>",
    "undisclosed-senders:;",
    "(alice@example.org)",
    '"alice@example.org"',
    "Alice <alice@example.org",
    '"Alice <alice@example.org>',
    "=?utf-8?q?alice=40example=2Eorg?=",
    "(((((" * 300 + "alice@example.org",
    "alice@example.org " + "x" * 5000,
]


@pytest.mark.parametrize("author", NAMES_AN_AUTHOR)
async def test_a_from_with_one_mailbox_passes(load: LoadRig, author: str) -> None:
    assert await reply(await load(config()), DATE + f"From: {author}\r\n".encode()) == "250"


@pytest.mark.parametrize("author", NAMES_NO_AUTHOR)
async def test_a_from_without_a_mailbox_is_refused(load: LoadRig, author: str) -> None:
    rig = await load(config())

    assert await reply(rig, DATE + f"From: {author}\r\n".encode()) == fault("From names no mailbox with a domain")


async def test_a_bounce_may_lack_what_programs_leave_out(load: LoadRig) -> None:
    rig = await load(config())

    assert await reply(rig, FROM, sender="") == await reply(rig, b"", sender="") == "250"
    for author in ("<>", "", "MAILER-DAEMON (Mail Delivery System)", "Mail Delivery Subsystem <MAILER-DAEMON>"):
        header = DATE + f"From: {author}\r\n".encode()
        assert await reply(rig, header, sender="") == "250"
        assert await reply(rig, header) == fault("From names no mailbox with a domain")
    for other in ("@", '"Bob <bob@example.org>', "a@b.example, c@d.example"):
        assert await reply(rig, DATE + f"From: {other}\r\n".encode(), sender="") != "250"


async def test_a_bounce_may_have_a_to_for_each_whom_it_tells(load: LoadRig) -> None:
    rig = await load(config())
    told = GOOD + b"To: alice@example.net\r\nTo: postmaster@example.org\r\n"

    assert await reply(rig, told, sender="") == "250"
    assert await reply(rig, told) == fault("To occurs 2 times, but may stand once")
    assert await reply(rig, GOOD + FROM, sender="") == fault("From occurs 2 times, but may stand once")


@pytest.mark.parametrize("authors", SEVERAL_AUTHORS)
async def test_several_authors_need_a_sender(load: LoadRig, authors: str) -> None:
    rig = await load(config())
    header = DATE + f"From: {authors}\r\n".encode()

    assert await reply(rig, header) == fault("From names several mailboxes, and there is no Sender")
    assert await reply(rig, header + b"Sender: alice@example.org\r\n") == "250"


async def test_the_authors_are_only_read_where_that_is_asked_for(load: LoadRig) -> None:
    rig = await load(config("from_syntax = false"))

    for author in NAMES_NO_AUTHOR + SEVERAL_AUTHORS:
        assert await reply(rig, DATE + f"From: {author}\r\n".encode()) == "250"


async def test_a_client_that_has_logged_in_is_not_asked(load: LoadRig) -> None:
    assert await reply(await load(config()), b"", login="alice") == "250"
    assert await reply(await load(config("skip_authenticated = false")), b"", login="alice") != "250"


async def test_a_whitelisted_client_is_not_asked(load: LoadRig) -> None:
    codes = []
    for option in ("", "skip_whitelisted = false"):
        client = await (await load(config(option))).connect()
        client.session.whitelist("a friend")
        codes.append((await client.send("a@s.example", "b@example.org", content=b"\r\n")).code)

    assert codes == [250, 550]


@pytest.mark.parametrize(
    ("option", "beginning"),
    [
        ('action = "defer"', "451 4.6.0 the header field From"),
        ('action = "deny_disconnect"', "521 5.6.0 the header field From"),
        ('action = "allow"', "250"),
        ('mode = "observe"', "250"),
    ],
)
async def test_the_verdict_is_an_option(load: LoadRig, option: str, beginning: str) -> None:
    assert (await reply(await load(config(option)), b"")).startswith(beginning)


async def test_one_recipient_may_have_other_rules(load: LoadRig, tmp_path: Path) -> None:
    (tmp_path / "aliases").write_text('lax@x.example: (headers.require="From", headers.past=0)\n*@x.example: (loop)\n')
    rig = await load('[[plugin]]\nname = "aliases"\nfile = "aliases"\n' + config())
    replies = []
    for recipient in ("lax@x.example", "me@x.example"):
        client = await rig.connect()
        await client.mail()
        await client.rcpt(recipient)
        replies.append((await client.data(FROM + b"\r\n")).code)

    assert replies == [250, 550]


@pytest.mark.parametrize(
    "option", ['require = ["From:"]', 'single = ["a b"]', 'past = "long"', "future = -1", 'requires = ["From"]']
)
async def test_a_wrong_option_stops_the_start(load: LoadRig, option: str) -> None:
    with pytest.raises(ConfigError, match=r"gatepost\.toml:3: "):
        await load(config(option))


GARBAGE = st.binary(max_size=200) | st.text('"\\()<>[]@,;:. a\r\n\t=?', max_size=200).map(str.encode)
DATES = st.datetimes().map(format_datetime).map(str.encode) | st.from_regex(
    rb"(Sun, )?\d{1,5} (Jan|Feb|Mar) \d{1,6} \d{1,3}:\d{1,3}(:\d{1,3})? [+-]\d{1,6}", fullmatch=True
)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=400, deadline=None
)
@given(dates=st.lists(GARBAGE | DATES, max_size=2), authors=st.lists(GARBAGE, max_size=2))
async def test_no_header_makes_it_fail(dates: list[bytes], authors: list[bytes]) -> None:
    fields = [Header("Date", value) for value in dates] + [Header("From", value) for value in authors]
    async with gate(headers={"single": []}) as postfix:
        client = postfix.client()
        await client.mail()
        await client.rcpt("b@example.org")
        answer = await postfix.pipeline.run(
            "data_headers_end", client.transaction, client.transaction, Headers(fields), deadline=Deadline.after(60)
        )

    assert not answer.denies or answer.text.startswith("the header field"), answer
    assert not any(record.is_failure for record in client.transaction.records)


@pytest.mark.parametrize(
    "piece", ['"', '\\"', "(", "(\\", "<", "a@b <", "[", ",", "a@b,", ":;", '"\\', '<"', "()", "x ", "@", "\\"]
)
async def test_the_longest_from_costs_no_more_than_its_length(load: LoadRig, piece: str) -> None:
    rig = await load(config("past = 0", "future = 0"))

    def cost(length: int) -> float:
        header = Headers.parse(DATE + b"From: " + (piece * length)[:length].encode() + b"\r\n")
        transaction = client.transaction
        times = []
        for _ in range(5):
            started = time.perf_counter_ns()
            hook(plugin, transaction, header)
            times.append(time.perf_counter_ns() - started)
        return min(times)

    client = await rig.connect()
    await client.mail()
    plugin = rig.gate.plugin("headers")
    hook = vars(type(plugin))["data_headers_end"]
    # By the square it would be 64 times as much.
    assert cost(4000) < 25 * cost(500)
