"""client_options: the most specific line sets the options, of a session by client, of a message by sender domain."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from gatepost.errors import ConfigError, ConfigErrors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.hooks.conftest import Rig

    from gatepost import Overrides

    LoadRig = Callable[[str], Awaitable[Rig]]
    Flatten = Callable[[tuple[Overrides, ...]], dict[str, dict[str, object]]]

SAMPLE = Path(__file__).parents[2] / "docs" / "samples" / "client_options"
LATER = "450 4.7.1 This mail is temporarily denied"
PLUGINS = '[[plugin]]\nname = "client_options"\nfile = "{}"\n[[plugin]]\nname = "greylist"\n'

FILE = """\
# Comment: text
10.1.2.3: greylist.text=address
10.1.0.0/16: greylist.text=network16   # smaller
10.0.0.0/8: greylist.text=network8
10.1.9.9:
0.0.0.0/0: greylist.text=everybody4
2001:db8::/32: greylist.text=network32
2001:db8::1: greylist.text=address6

Example.net: greylist.text=name
mail.example.net: greylist.text="longer # name: 1"
"""


@pytest.fixture
def load_file(load: LoadRig, tmp_path: Path) -> LoadRig:
    """Load the plugin with a file of this text."""

    async def load_text(text: str) -> Rig:
        (tmp_path / "clients").write_text(text, encoding="utf-8")
        return await load(PLUGINS.format("clients") + '[[plugin]]\nname = "count_denies"\n')

    return load_text


def change(path: Path, text: str) -> None:
    """Save a new version; its time stamp differs even where the clock is coarse."""
    before = path.stat().st_mtime_ns
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


@pytest.mark.parametrize(
    ("address", "name", "text"),
    [
        ("10.1.2.3", None, "address"),
        ("::ffff:10.1.2.3", None, "address"),
        ("10.1.2.3", "mail.example.net", "address"),
        ("10.1.2.4", None, "network16"),
        ("10.2.0.1", "mail.example.net", "network8"),
        ("10.1.9.9", None, None),
        ("192.0.2.1", None, "everybody4"),
        ("2001:db8::1", None, "address6"),
        ("2001:db8:ffff::1", None, "network32"),
        ("2001:db9::1", None, None),
        ("2001:db9::1", "example.net", "name"),
        ("2001:db9::1", "other.EXAMPLE.net.", "name"),
        ("2001:db9::1", "mail.example.net", "longer # name: 1"),
        ("2001:db9::1", "a.b.mail.example.net", "longer # name: 1"),
        ("2001:db9::1", "notexample.net", None),
        ("2001:db9::1", "net", None),
        ("unknown", "mail.example.net", "longer # name: 1"),
        ("unknown", None, None),
    ],
)
async def test_the_most_specific_line_alone_counts(
    load_file: LoadRig, overrides_of: Flatten, address: str, name: str | None, text: str | None
) -> None:
    rig = await load_file(FILE)
    session = await rig.session(address, name)

    assert overrides_of(session.overrides) == ({"greylist": {"text": text}} if text else {})


async def test_lines_are_not_merged(load_file: LoadRig, overrides_of: Flatten) -> None:
    rig = await load_file("10.0.0.0/8: greylist=off, greylist.deny_late\n10.1.0.0/16: count_denies.limit=9\n")
    session = await rig.session("10.1.1.1")

    assert overrides_of(session.overrides) == {"count_denies": {"limit": "9"}}


async def test_options_are_in_force_for_every_message_of_the_client(load_file: LoadRig) -> None:
    rig = await load_file("10.1.2.3: greylist=off\n")
    ours, other = await rig.connect("10.1.2.3"), await rig.connect("10.1.2.4")

    assert [await (await rig.mail(ours)).rcpt("bob@example.org") for _ in range(2)] == ["250", "250"]
    assert await (await rig.mail(other)).rcpt("bob@example.org") == LATER


@pytest.mark.parametrize(
    ("sender", "reply"),
    [
        ("alice@example.org", "250"),
        ("alice@EXAMPLE.ORG", "250"),
        ("alice@sub.example.org", LATER),
        ("alice@example.net", LATER),
        ("alice", LATER),
    ],
)
async def test_a_line_for_a_sender_domain_means_exactly_that_domain(
    load_file: LoadRig, sender: str, reply: str
) -> None:
    rig = await load_file("@Example.org: greylist=off\nexample.net: greylist=off\n")

    assert await (await rig.mail(sender=sender)).rcpt("bob@example.com") == reply


async def test_the_senders_options_end_with_the_message_and_win_over_the_clients(load_file: LoadRig) -> None:
    rig = await load_file("10.1.2.3: greylist=off\n@example.org: greylist=on\n")
    client = await rig.connect("10.1.2.3")

    assert await (await rig.mail(client, "alice@example.org")).rcpt("bob@example.com") == LATER
    assert await (await rig.mail(client, "alice@example.net")).rcpt("bob@example.com") == "250"


async def test_the_null_sender_has_no_domain(load_file: LoadRig) -> None:
    rig = await load_file("@example.org: greylist=off\n")

    assert (await rig.mail(sender="")).transaction.overrides == ()


async def test_overrides_tell_where_they_come_from(load_file: LoadRig, tmp_path: Path) -> None:
    rig = await load_file("\n10.1.2.3: greylist=off\n")

    assert [overrides.source for overrides in (await rig.session("10.1.2.3")).overrides] == [
        f"{tmp_path / 'clients'}:2"
    ]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("10.1.2.3 greylist=off", 1, "write CLIENT: OPTIONS"),
        ("\n10.1.2.3:greylist=off", 2, "white space after the colon"),
        ("10.1.2.3/16: greylist=off", 1, "write 10.1.0.0/16"),
        ("2001:db8::1/32: greylist=off", 1, "write 2001:db8::/32"),
        ("10.1: greylist=off", 1, "'10.1' is no address"),
        ("10.1.2.300: greylist=off", 1, "'10.1.2.300' is no address"),
        ("2001:db8:::1: greylist=off", 1, "is no address"),
        ("*.example.net: greylist=off", 1, "'*.example.net' is no address"),
        ("alice@example.net: greylist=off", 1, "'alice@example.net' is no address"),
        ("@: greylist=off", 1, "'@' is no address"),
        ("::ffff:10.0.0.0/104: greylist=off", 1, "IPv4"),
        ("10.1.2.3: greylist=off\n10.1.2.3/32: greylist=on", 2, "lines 1 and 2"),
        ("example.net: greylist=off\n\nEXAMPLE.net: greylist=on", 3, "lines 1 and 3"),
        ("10.1.2.3: greylst=off", 1, "did you mean 'greylist'"),
        ("10.1.2.3: count_denies.limit=many", 1, "count_denies.limit"),
    ],
)
async def test_a_mistake_stops_the_start_with_its_line(load_file: LoadRig, text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await load_file(text)

    assert caught.value.line == line
    assert words in str(caught.value)


async def test_all_mistakes_are_told_at_once(load_file: LoadRig) -> None:
    with pytest.raises(ConfigErrors) as caught:
        await load_file("nonsense\n10.1.2.3: greylist=off\n10.1.2.4: greylist=maybe\n")

    assert [error.line for error in caught.value.errors] == [1, 3]


async def test_a_missing_file_stops_the_start(load: LoadRig) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        await load(PLUGINS.format("nowhere"))


async def test_a_changed_file_counts_for_new_sessions(
    load_file: LoadRig, overrides_of: Flatten, tmp_path: Path
) -> None:
    rig = await load_file("10.1.2.3: greylist=off\n")
    before = await rig.session("10.1.2.3")
    change(tmp_path / "clients", "10.1.2.3: greylist=observe\n")
    after = await rig.session("10.1.2.3")

    assert overrides_of(before.overrides) == {"greylist": {"mode": "off"}}
    assert overrides_of(after.overrides) == {"greylist": {"mode": "observe"}}


async def test_a_broken_new_version_is_told_by_line_and_the_old_one_stays(
    load_file: LoadRig, overrides_of: Flatten, tmp_path: Path
) -> None:
    rig = await load_file("10.1.2.3: greylist=off\n")
    change(tmp_path / "clients", "10.1.2.3: greylist=observe\nnonsense\n")

    with capture_logs() as logs:
        session = await rig.session("10.1.2.3")
        await rig.connect("10.1.2.3")

    assert overrides_of(session.overrides) == {"greylist": {"mode": "off"}}
    problems = [entry["problem"] for entry in logs if entry["log_level"] == "error"]
    assert len(problems) == 1
    assert problems[0].startswith(f"{tmp_path / 'clients'}:2: ")


async def test_the_sample_file_loads(load: LoadRig, overrides_of: Flatten) -> None:
    rig = await load(PLUGINS.format(SAMPLE) + '[[plugin]]\nname = "count_denies"\n')

    assert overrides_of((await rig.session("10.1.1.1")).overrides) == {"count_denies": {"limit": "2"}}
    assert overrides_of((await rig.session("10.1.9.9")).overrides) == {}
    assert overrides_of((await rig.session("2001:db8:1::5")).overrides) == {"greylist": {"mode": "off"}}
