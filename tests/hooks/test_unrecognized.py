"""unrecognized: a client that keeps saying what is no command is hung up on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from gatepost.testing import Client, gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.hooks.conftest import Rig

TOO_MANY = "521 5.5.2 too many unrecognized commands"
OWN = "Postfix's own"


async def said(client: Client, verb: str = "BOGUS") -> str:
    """Say what is no command; return the plugin's reply."""
    reply = await client.unrecognized(verb)
    return OWN if reply.code in {500, 502} else reply.encode().decode().strip()


async def replies(count: int, **options: object) -> list[str]:
    async with gate(unrecognized=options) as postfix:
        client = postfix.client()
        return [await said(client) for _ in range(count)]


@pytest.mark.parametrize("limit", [0, 1, 4])
async def test_the_command_after_the_limit_hangs_up(limit: int) -> None:
    assert await replies(limit + 1, limit=limit) == [OWN] * limit + [TOO_MANY]


async def test_the_limit_is_four_by_default() -> None:
    assert await replies(5) == [OWN] * 4 + [TOO_MANY]


async def test_action_and_text_can_be_others() -> None:
    assert await replies(1, limit=0, action="defer-disconnect", text="bye") == ["421 4.5.2 bye"]


async def test_each_connection_has_a_count_of_its_own_which_others_can_read() -> None:
    async with gate(unrecognized={"limit": 1}) as postfix:
        first, second = postfix.client(), postfix.client()
        assert [await said(one) for one in (first, second, first)] == [OWN, OWN, TOO_MANY]
        assert (first.session.notes["unrecognized"]["count"], second.session.notes["unrecognized"]["count"]) == (2, 1)


@pytest.mark.parametrize("verb", ["", "\udcff\x00", "GET", "%s", "x" * 5000])
async def test_whatever_was_said_counts(verb: str) -> None:
    async with gate(unrecognized={"limit": 0}) as postfix:
        assert await said(postfix.client(), verb) == TOO_MANY


async def test_observed_it_only_logs() -> None:
    with capture_logs() as logs:
        assert await replies(2, limit=1, mode="observe") == [OWN, OWN]
    assert [entry["plugin"] for entry in logs if entry["event"] == "would answer"] == ["unrecognized"]


async def test_clients_can_have_a_limit_of_their_own_or_none(
    load: Callable[[str], Awaitable[Rig]], tmp_path: Path
) -> None:
    (tmp_path / "clients").write_text("192.0.2.7: unrecognized=off\n2001:db8::/32: unrecognized.limit=0\n")
    (tmp_path / "listed").write_text("192.0.2.6\n")
    rig = await load(
        '[[plugin]]\nname = "client_options"\nfile = "clients"\n[[plugin]]\nname = "whitelist"\nfile = "listed"\n'
        '[[plugin]]\nname = "unrecognized"\nlimit = 1\n'
    )

    async def twice(address: str) -> list[str]:
        client = await rig.connect(address)
        return [await said(client) for _ in range(2)]

    assert await twice("192.0.2.5") == [OWN, TOO_MANY]
    assert await twice("192.0.2.6") == [OWN, OWN]
    assert await twice("192.0.2.7") == [OWN, OWN]
    assert await twice("2001:db8::9") == [TOO_MANY, TOO_MANY]
