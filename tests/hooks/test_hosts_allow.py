"""hosts_allow: the most specific line says whether a client may send."""

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

    from gatepost.testing import Client

    LoadFile = Callable[..., Awaitable[Rig]]

DEFAULT = "You are not allowed to send mail here"
FILE = """\
# Comment: deny
10.0.0.0/8: allow
10.1.0.0/16: deny We do not talk to you   # nor they to us
10.1.2.3: allow
192.0.2.0/24: DenySoft
2001:db8::/32: defer Come again tomorrow: then
203.0.113.7: deny_disconnect\tGo away
203.0.113.8: defer-disconnect
203.0.113.9: reject "Ask # 5" # not shown
bad.example.net: deny by name
good.bad.example.net: ok
"""


@pytest.fixture
def load_file(load: Callable[[str], Awaitable[Rig]], tmp_path: Path) -> LoadFile:
    """Load the plugin with a file of this text."""

    async def load_text(text: str = FILE, options: str = "", before: str = "") -> Rig:
        (tmp_path / "hosts").write_text(text, encoding="utf-8")
        return await load(f'{before}[[plugin]]\nname = "hosts_allow"\nfile = "hosts"\n{options}\n')

    return load_text


@pytest.mark.parametrize(
    ("address", "name", "reply"),
    [
        ("10.9.9.9", None, "250"),
        ("10.1.1.1", None, "550 5.7.1 We do not talk to you"),
        ("::ffff:10.1.1.1", None, "550 5.7.1 We do not talk to you"),
        ("10.1.2.3", None, "250"),
        ("10.1.2.3", "bad.example.net", "250"),
        ("192.0.2.1", None, f"450 4.7.1 {DEFAULT}"),
        ("2001:db8::1", None, "450 4.7.1 Come again tomorrow: then"),
        ("203.0.113.9", None, "550 5.7.1 Ask # 5"),
        ("198.51.100.1", None, "250"),
        ("198.51.100.1", "bad.example.net", "550 5.7.1 by name"),
        ("198.51.100.1", "very.BAD.example.net", "550 5.7.1 by name"),
        ("198.51.100.1", "a.good.bad.example.net", "250"),
        ("unknown", "bad.example.net", "550 5.7.1 by name"),
        ("unknown", None, "250"),
    ],
)
async def test_the_most_specific_line_decides(load_file: LoadFile, address: str, name: str | None, reply: str) -> None:
    rig = await load_file()
    client = await rig.connect(address, name)

    assert [await (await rig.mail(client)).rcpt("bob@example.org") for _ in range(2)] == [reply, reply]


@pytest.mark.parametrize(
    ("address", "reply"), [("203.0.113.7", "521 5.7.1 Go away"), ("203.0.113.8", f"421 4.7.1 {DEFAULT}")]
)
async def test_one_that_disconnects_does_so_at_mail(load_file: LoadFile, address: str, reply: str) -> None:
    rig = await load_file()
    client = await rig.connect(address)

    assert (await client.mail()).encode().decode().strip() == reply


@pytest.mark.parametrize(
    ("options", "listed", "other"),
    [
        ("", "250", "250"),
        ('default = "deny"', "250", f"550 5.7.1 {DEFAULT}"),
        ('default = "defer"\ntext = "closed today"', "250", "450 4.7.1 closed today"),
    ],
)
async def test_the_default_is_for_clients_that_no_line_names(
    load_file: LoadFile, options: str, listed: str, other: str
) -> None:
    rig = await load_file("192.0.2.1: allow\n", options)

    assert await (await rig.mail(await rig.connect("192.0.2.1"))).rcpt("bob@example.org") == listed
    assert await (await rig.mail(await rig.connect("192.0.2.2"))).rcpt("bob@example.org") == other
    assert await (await rig.mail(await rig.connect("unknown"))).rcpt("bob@example.org") == other


async def test_overrides_change_the_default_and_the_text_for_a_client(load_file: LoadFile, tmp_path: Path) -> None:
    (tmp_path / "clients").write_text(
        '10.0.0.0/8: hosts_allow.default=defer, hosts_allow.text="not you"\n192.0.2.0/24: hosts_allow=off\n'
    )
    before = '[[plugin]]\nname = "client_options"\nfile = "clients"\n'
    rig = await load_file("192.0.2.1: deny\n", before=before)

    assert await (await rig.mail(await rig.connect("10.1.1.1"))).rcpt("bob@example.org") == "450 4.7.1 not you"
    assert await (await rig.mail(await rig.connect("192.0.2.1"))).rcpt("bob@example.org") == "250"


async def test_observed_it_refuses_nobody_and_says_whom_it_would(load_file: LoadFile) -> None:
    rig = await load_file(FILE, 'mode = "observe"')
    with capture_logs() as logs:
        assert await (await rig.mail(await rig.connect("203.0.113.7"))).rcpt("bob@example.org") == "250"

    told = [entry for entry in logs if entry["event"] == "would answer"]
    assert [(entry["plugin"], entry["verdict"], entry["text"]) for entry in told] == [
        ("hosts_allow", "DenyDisconnect", "Go away")
    ]


@pytest.mark.parametrize(
    ("options", "reply"), [("", f"550 5.7.1 {DEFAULT}"), ("skip_whitelisted = true", "250")], ids=["asked", "skips"]
)
async def test_who_is_whitelisted_must_still_be_allowed(
    load_file: LoadFile, tmp_path: Path, options: str, reply: str
) -> None:
    (tmp_path / "listed").write_text("192.0.2.1\n")
    before = '[[plugin]]\nname = "whitelist"\nfile = "listed"\n'
    rig = await load_file("192.0.2.0/24: deny\n", options, before=before)
    client = await rig.connect("192.0.2.1")

    assert client.session.whitelisted
    assert await (await rig.mail(client)).rcpt("bob@example.org") == reply


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("10.1.2.3 deny", 1, "write CLIENT: ACTION TEXT"),
        ("\n10.1.2.3:deny", 2, "white space after the colon"),
        ("10.1.2.3:", 1, "10.1.2.3 has no action: write 10.1.2.3: deny"),
        ("10.1.2.3: # deny", 1, "10.1.2.3 has no action"),
        ("10.1.2.3: denied", 1, "'denied' is no action: write allow, deny, defer"),
        ("10.1.2.3: deny: no", 1, "'deny:' is no action"),
        ("10.1.2.3: allow our office", 1, "write it as a # comment"),
        ("10.1.2.3/16: deny", 1, "write 10.1.0.0/16"),
        ("*.example.net: deny", 1, "write example.net"),
        ("@example.net: deny", 1, "is no address, network or host name"),
        ("10.1.2.3: deny\n\n10.1.2.3/32: allow", 3, "lines 1 and 3"),
    ],
)
async def test_a_mistake_stops_the_start_with_its_line(load_file: LoadFile, text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await load_file(text)

    assert caught.value.line == line
    assert words in str(caught.value)


async def test_all_mistakes_are_told_at_once(load_file: LoadFile) -> None:
    with pytest.raises(ConfigErrors) as caught:
        await load_file("nonsense\n10.1.2.3: deny\n10.1.2.4: maybe\n")

    assert [error.line for error in caught.value.errors] == [1, 3]


@pytest.mark.parametrize(
    ("options", "words"), [('file = "nowhere"', "cannot read"), ('file = "hosts"\ndefault = "maybe"', "is no action")]
)
async def test_bad_options_stop_the_start(
    load: Callable[[str], Awaitable[Rig]], tmp_path: Path, options: str, words: str
) -> None:
    (tmp_path / "hosts").write_text("")
    with pytest.raises(ConfigError, match=words):
        await load(f'[[plugin]]\nname = "hosts_allow"\n{options}\n')


async def test_a_changed_file_counts_for_new_sessions(load_file: LoadFile, tmp_path: Path) -> None:
    rig = await load_file("10.1.2.3: deny\n")
    before = await rig.connect("10.1.2.3")
    hosts = tmp_path / "hosts"
    stamp = hosts.stat().st_mtime_ns + 1_000_000
    hosts.write_text("10.1.2.3: allow\n")
    os.utime(hosts, ns=(stamp, stamp))
    after = await rig.connect("10.1.2.3")

    replies = [await (await rig.mail(client)).rcpt("bob@example.org") for client in (before, after)]
    assert replies == [f"550 5.7.1 {DEFAULT}", "250"]


async def at_edge(rig: Rig, address: str = "192.0.2.1", name: str | None = None) -> Client:
    """Return a client that the edge door has heard of."""
    return await rig.connect(address, name, daemon_name="mx.example.org")


async def test_so_many_connections_of_one_client_and_no_more(load_file: LoadFile) -> None:
    rig = await load_file("203.0.113.9: deny\n", "max_connections = 2")
    clients = [await at_edge(rig, "192.0.2.1") for _ in range(3)]

    assert [(await client.mail()).encode().decode().strip() for client in clients] == [
        "250 2.1.0 Ok",
        "250 2.1.0 Ok",
        "421 4.7.0 too many connections from 192.0.2.1",
    ]
    assert (await (await at_edge(rig, "192.0.2.2")).mail()).code == 250


async def test_without_the_edge_door_which_hears_when_a_client_leaves_nobody_is_counted(load_file: LoadFile) -> None:
    rig = await load_file("", "max_connections = 1")

    assert [(await (await rig.connect()).mail()).code for _ in range(3)] == [250] * 3
    assert [(await (await at_edge(rig)).mail()).code for _ in range(2)] == [250, 421]


async def test_who_leaves_makes_room_and_one_too_many_does_not(load_file: LoadFile) -> None:
    rig = await load_file("", "max_connections = 1")
    first, refused = await at_edge(rig, "192.0.2.1"), await at_edge(rig, "192.0.2.1")

    await refused.quit()
    assert (await (await at_edge(rig, "192.0.2.1")).mail()).code == 421
    await first.quit()
    await first.quit()
    assert (await (await at_edge(rig, "192.0.2.1")).mail()).code == 250
    assert (await (await at_edge(rig, "192.0.2.1")).mail()).code == 421


@pytest.mark.parametrize(
    ("options", "first", "second", "code"),
    [
        ("", "2001:db8::1", "2001:db8::2", 421),
        ("", "2001:db8::1", "2001:db8:0:1::1", 250),
        ("", "::ffff:192.0.2.1", "192.0.2.1", 421),
        ("", "192.0.2.1", "192.0.2.2", 250),
        ("ipv4_prefix = 24", "192.0.2.1", "192.0.2.2", 421),
        ("ipv6_prefix = 128", "2001:db8::1", "2001:db8::2", 250),
        ("", "unknown", "unknown", 250),
        ('busy_action = "deny"', "192.0.2.1", "192.0.2.1", 550),
    ],
)
async def test_a_network_can_be_one_client(
    load_file: LoadFile, options: str, first: str, second: str, code: int
) -> None:
    rig = await load_file("", f"max_connections = 1\n{options}")
    await at_edge(rig, first)
    client = await at_edge(rig, second)

    replies = [(await client.mail()).code]
    if replies == [250]:
        replies = [(await client.rcpt("bob@example.org")).code]
    assert replies == [code]


async def test_a_client_that_is_refused_by_name_is_not_counted(load_file: LoadFile) -> None:
    rig = await load_file("bad.example.net: deny\n", "max_connections = 1")
    await at_edge(rig, "192.0.2.1", "bad.example.net")

    assert (await (await at_edge(rig, "192.0.2.1")).mail()).code == 250


async def test_overrides_change_how_many_connections_a_client_may_have(load_file: LoadFile, tmp_path: Path) -> None:
    (tmp_path / "clients").write_text("10.0.0.0/8: hosts_allow.max_connections=3\n192.0.2.0/24: hosts_allow=off\n")
    rig = await load_file("", "max_connections = 1", before='[[plugin]]\nname = "client_options"\nfile = "clients"\n')

    async def codes(address: str) -> list[int]:
        return [(await (await at_edge(rig, address)).mail()).code for _ in range(4)]

    assert await codes("10.1.1.1") == [250, 250, 250, 421]
    assert await codes("192.0.2.1") == [250] * 4
    assert await codes("198.51.100.1") == [250, 421, 421, 421]


async def test_many_clients_come_and_go_and_leave_nothing(load_file: LoadFile) -> None:
    rig = await load_file("", "max_connections = 3")
    addresses = [f"10.0.{number % 50}.1" for number in range(200)]
    clients = [await at_edge(rig, address) for address in addresses]
    assert sum(client.session.denial is None for client in clients) == 150

    for client in clients:
        await client.quit()
    again = [await at_edge(rig, address) for address in addresses]
    assert sum(client.session.denial is None for client in again) == 150


async def test_observed_it_tells_of_each_connection_too_many(load_file: LoadFile) -> None:
    rig = await load_file("", 'max_connections = 1\nmode = "observe"')
    with capture_logs() as logs:
        assert [(await (await at_edge(rig)).mail()).code for _ in range(3)] == [250] * 3

    assert [entry["text"] for entry in logs if entry["event"] == "would answer"] == [
        "too many connections from 192.0.2.1"
    ] * 2
