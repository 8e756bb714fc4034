"""whitelist: whom a line names is spared the checks, and nobody else."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from gatepost import ConfigError, ConfigErrors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.hooks.conftest import Rig

    LoadFile = Callable[..., Awaitable[Rig]]

LATER = "450 4.7.1 This mail is temporarily denied"
FILE = """\
# Comment
192.0.2.1
10.0.0.0/8          # a network
2001:db8::/32
mail.example.net
Alice@Example.Org
@friends.example
host only-host.example
helo: only-helo.example
helo [203.0.113.9]
sender: bounces@list.example
SENDER @only-sender.example
rcpt postmaster@example.com
recipient @only-rcpt.example
@.below.example
sender "john q"@example.com
/^news-\\d+ ?@/
sender @b\u00fccher.example
"""


@pytest.fixture
def load_file(load: Callable[[str], Awaitable[Rig]], tmp_path: Path) -> LoadFile:
    """Load the plugin with a file of this text and greylist behind it."""

    async def load_text(text: str = FILE, options: str = "") -> Rig:
        (tmp_path / "listed").write_text(text, encoding="utf-8")
        return await load(
            f'[[plugin]]\nname = "whitelist"\nfile = "listed"\n{options}\n[[plugin]]\nname = "greylist"\n'
        )

    return load_text


def line(reason: str | None) -> int | None:
    """Return the number of the line that a reason names."""
    return int(reason.rpartition(":")[2]) if reason else None


@pytest.mark.parametrize(
    ("address", "name", "helo", "number"),
    [
        ("192.0.2.1", None, None, 2),
        ("::ffff:192.0.2.1", None, None, 2),
        ("192.0.2.2", None, None, None),
        ("10.255.0.1", None, None, 3),
        ("2001:db8:ffff::1", None, None, 4),
        ("203.0.113.1", "mail.example.net", None, 5),
        ("203.0.113.1", "a.MAIL.example.net", None, 5),
        ("203.0.113.1", "example.net", None, None),
        ("203.0.113.1", None, "Mail.Example.Net", 5),
        ("203.0.113.1", None, "mail.example.net.", 5),
        ("203.0.113.1", None, "a.mail.example.net", None),
        ("203.0.113.1", "only-host.example", None, 8),
        ("203.0.113.1", None, "only-host.example", None),
        ("203.0.113.1", None, "only-helo.example", 9),
        ("203.0.113.1", "only-helo.example", None, None),
        ("203.0.113.1", None, "[203.0.113.9]", 10),
        ("203.0.113.1", None, "192.0.2.1", None),
        ("203.0.113.1", None, "10.0.0.0/8", None),
        ("203.0.113.1", "friends.example", "friends.example", None),
        ("192.0.2.1", None, "mail.example.net", 2),
        ("unknown", None, None, None),
    ],
)
async def test_a_client_is_whitelisted_by_address_or_confirmed_name_or_exact_helo(
    load_file: LoadFile, address: str, name: str | None, helo: str | None, number: int | None
) -> None:
    rig = await load_file()
    client = rig.gate.client(address, name=name, helo=helo)
    await client.mail("stranger@sender.example")

    assert line(client.session.whitelist_reason) == number
    assert client.transaction.whitelist_reason is None


@pytest.mark.parametrize(
    ("sender", "number"),
    [
        ("alice@example.org", 6),
        ("ALICE@EXAMPLE.ORG", 6),
        ("alice+list@example.org", 6),
        ("alice-list@example.org", None),
        ("alice@sub.example.org", None),
        ("malice@example.org", None),
        ("anybody@friends.example", 7),
        ("any+body@Friends.Example", 7),
        ("anybody@sub.friends.example", None),
        ("friends.example", None),
        ("bounces+bob=example.com@list.example", 11),
        ("anybody@only-sender.example", 12),
        ("postmaster@example.com", None),
        ("anybody@only-rcpt.example", None),
        ("postmaster", None),
        ("anybody@below.example", None),
        ("anybody@deep.below.example", 15),
        ('"john q"@example.com', 16),
        ("News-5@anywhere.example", 17),
        ("a@B\u00fccher.example", 18),
        ("a@xn--bcher-kva.example", 18),
        ("x@mail.example.net", None),
        ("x@[192.0.2.1]", None),
    ],
)
async def test_a_sender_is_whitelisted_for_one_message(load_file: LoadFile, sender: str, number: int | None) -> None:
    rig = await load_file()
    mail = await rig.mail(await rig.connect("203.0.113.1"), sender)

    assert line(mail.transaction.whitelist_reason) == number
    assert await mail.rcpt("stranger@example.com") == (LATER if number is None else "250")
    again = await rig.mail(mail.client, "stranger@sender.example")
    assert await again.rcpt("stranger@example.com") == LATER


@pytest.mark.parametrize(
    ("address", "number"),
    [
        ("alice@example.org", 6),
        ("anybody@friends.example", 7),
        ("bounces@list.example", None),
        ("anybody@only-sender.example", None),
        ("postmaster@example.com", 13),
        ("Postmaster+box@example.com", 13),
        ("anybody@only-rcpt.example", 14),
        ("postmaster", None),
        ("news-5@anywhere.example", 17),
        ("postmaster@other.example", None),
    ],
)
async def test_a_recipient_is_whitelisted_alone(load_file: LoadFile, address: str, number: int | None) -> None:
    rig = await load_file()
    mail = await rig.mail(await rig.connect("203.0.113.1"))
    recipient, reply = await mail.offer(address)

    assert line(recipient.whitelist_reason) == number
    assert reply == (LATER if number is None else "250")
    assert await mail.rcpt("stranger@example.com") == LATER


async def test_a_detail_of_its_own_is_matched_exactly(load_file: LoadFile) -> None:
    rig = await load_file("alice+box@example.org\n")
    mail = await rig.mail()

    assert await mail.rcpt("alice+BOX@example.org") == "250"
    assert await mail.rcpt("alice@example.org") == LATER
    assert await mail.rcpt("alice+other@example.org") == LATER


@pytest.mark.parametrize(("delimiter", "dashed", "plussed"), [("-", "250", LATER), ("", LATER, LATER)])
async def test_the_delimiter_is_an_option(load_file: LoadFile, delimiter: str, dashed: str, plussed: str) -> None:
    rig = await load_file(FILE, f'detail_delimiter = "{delimiter}"')
    mail = await rig.mail(await rig.connect("203.0.113.1"))

    assert await mail.rcpt("alice-x@example.org") == dashed
    assert await mail.rcpt("alice+x@example.org") == plussed


async def test_each_is_logged_once_with_its_line(load_file: LoadFile, tmp_path: Path) -> None:
    rig = await load_file("192.0.2.7\n@sender.example\nrcpt bob@example.org\nmail.example.net\n")
    with capture_logs() as logs:
        listed = await rig.connect("192.0.2.7", "mail.example.net")
        await (await rig.mail(listed)).rcpt("bob@example.org")
        mail = await rig.mail(await rig.connect("203.0.113.1"))
        await mail.rcpt("bob@example.org")
        mail = await rig.mail(mail.client, "alice@other.example")
        await mail.rcpt("bob@example.org")

    told = [entry for entry in logs if entry["event"] == "whitelisted"]
    found = [(entry["hook"], entry["by"], entry["plugin"], entry["log_level"]) for entry in told]
    assert found == [
        ("connect", f"{tmp_path / 'listed'}:1", "whitelist", "info"),
        ("mail", f"{tmp_path / 'listed'}:2", "whitelist", "info"),
        ("rcpt", f"{tmp_path / 'listed'}:3", "whitelist", "info"),
    ]
    assert (told[0]["client"], told[1]["sender"], told[2]["rcpt"]) == (
        "192.0.2.7",
        "alice@sender.example",
        "bob@example.org",
    )


async def test_observed_it_spares_nobody_and_says_whom_it_would(load_file: LoadFile) -> None:
    rig = await load_file(FILE, 'mode = "observe"')
    with capture_logs() as logs:
        client = rig.gate.client("192.0.2.1", helo="only-helo.example")
        await client.mail("alice@example.org")
        reply = await client.rcpt("postmaster@example.com")

    assert reply.code == 450
    told = [(entry["hook"], line(entry["by"])) for entry in logs if entry["event"] == "would whitelist"]
    assert told == [("connect", 2), ("helo", 9), ("mail", 6), ("rcpt", 13)]
    assert not [entry for entry in logs if entry["event"] == "whitelisted"]


async def test_an_override_takes_a_client_out(load: Callable[[str], Awaitable[Rig]], tmp_path: Path) -> None:
    (tmp_path / "clients").write_text("10.1.0.0/16: whitelist=off\n10.2.0.0/16: greylist.skip_whitelisted=no\n")
    (tmp_path / "listed").write_text("10.0.0.0/8\n")
    names = {"client_options": 'file = "clients"', "whitelist": 'file = "listed"', "greylist": ""}
    rig = await load("".join(f'[[plugin]]\nname = "{name}"\n{options}\n' for name, options in names.items()))

    clients = [await rig.connect(address) for address in ("10.1.1.1", "10.2.1.1", "10.3.1.1")]
    assert [client.session.whitelisted for client in clients] == [False, True, True]
    replies = [await (await rig.mail(client)).rcpt("bob@example.org") for client in clients]
    assert replies == [LATER, LATER, "250"]


async def test_the_null_sender_is_nobodys(load_file: LoadFile) -> None:
    rig = await load_file()

    assert not (await rig.mail(await rig.connect("203.0.113.1"), "")).transaction.whitelisted


async def test_a_changed_file_counts_for_what_begins_after_that(load_file: LoadFile, tmp_path: Path) -> None:
    rig = await load_file("10.1.2.3\n")
    before = await rig.connect("10.1.2.3")
    listed = tmp_path / "listed"
    stamp = listed.stat().st_mtime_ns + 1_000_000
    listed.write_text("@sender.example\n")
    os.utime(listed, ns=(stamp, stamp))

    assert not (await rig.session("10.1.2.3")).whitelisted
    assert (await rig.mail()).transaction.whitelisted
    assert before.session.whitelisted


@pytest.mark.parametrize(
    ("text", "number", "words"),
    [
        ("10.1.2.3/16", 1, "write 10.1.0.0/16"),
        ("\n10.1.2.300", 2, "is no address, network or host name"),
        ("*.example.net", 1, "write example.net"),
        (".example.net", 1, "write example.net"),
        ("localhost", 1, "write host localhost"),
        ("com", 1, "write host com"),
        ("10.0.0.1 our office", 1, 'one a line, and "#" before a comment'),
        ("10.0.0.1, 10.0.0.2", 1, "one a line"),
        ("10.0.0.1,10.0.0.2", 1, "is no address"),
        ("a@example.net,b@example.net", 1, "this is no address"),
        ("helo", 1, "has no dot: write host helo"),
        ("helo: ", 1, "is no address"),
        ("helo a@example.net", 1, "is no name that a client says in HELO"),
        ("helo 10.0.0.0/8", 1, "is no name that a client says"),
        ("host a@example.net", 1, "is no address"),
        ("sender example.net.example@", 1, "this is no address"),
        ("@", 1, "this is no address"),
        ("*@example.net", 1, "* means nothing here"),
        ("@*.example.net", 1, "* means nothing here"),
        ("rcpt postmaster", 1, "this is no address"),
        ("/spam(/", 1, "is not understood"),
        ("/a/b/", 1, "a pattern stands between two slashes"),
        ("/x*/", 1, "found in every address"),
        ("a@b@example.net", 1, "this is no address"),
        ("a b@example.net", 1, "one a line"),
        ("rcpt @@", 1, "this is no address"),
        ("<>", 1, "the null sender <> cannot be whitelisted"),
        ("sender: <>", 1, "the null sender <> cannot be whitelisted"),
        ('sender ""', 1, "this is no address"),
        ("10.0.0.1: greylist=off", 1, "one a line"),
        ("10.0.0.1:", 1, "is no address"),
        ("\0", 1, "has no dot"),
        ("\ud7ff.example", 1, "is no address"),
    ],
)
async def test_a_mistake_stops_the_start_with_its_line(load_file: LoadFile, text: str, number: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await load_file(text)

    assert caught.value.line == number
    assert words in str(caught.value)


async def test_all_mistakes_are_told_at_once(load_file: LoadFile) -> None:
    with pytest.raises(ConfigErrors) as caught:
        await load_file("nonsense\n10.1.2.3\n10.1.2.4/8\n")

    assert [error.line for error in caught.value.errors] == [1, 3]


async def test_a_line_may_stand_there_twice(load_file: LoadFile) -> None:
    rig = await load_file("10.1.2.3\n10.1.2.3/32\n@a.example\n@A.example\nmail.a.example\nhelo Mail.a.example\n" * 2)

    assert line((await rig.session("10.1.2.3")).whitelist_reason) == 1


async def test_an_empty_file_whitelists_nobody(load_file: LoadFile) -> None:
    rig = await load_file("# nobody\n")

    assert await (await rig.mail()).rcpt("bob@example.org") == LATER


async def test_a_missing_file_stops_the_start(load: Callable[[str], Awaitable[Rig]]) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        await load('[[plugin]]\nname = "whitelist"\nfile = "nowhere"\n')


async def test_bytes_that_are_not_utf_8_do_no_harm(load_file: LoadFile) -> None:
    rig = await load_file()
    client = rig.gate.client("203.0.113.1", name="\udcff", helo="\udcff\0")
    await client.mail("\udcff@\udcff")

    assert (await client.rcpt("\udcff@\udcff")).code == 450
