"""loop: too many hops are refused, just enough are not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gatepost import Declined, Deny, Header, Headers, Verdict
from gatepost.deadline import Deadline
from gatepost.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.hooks.conftest import Rig

LOAD = '[[plugin]]\nname = "loop"\n'


async def verdict_on(rig: Rig, names: list[str]) -> Verdict:
    mail = await rig.mail()
    headers = Headers([Header(name, b" somewhere") for name in names])
    return await rig.pipeline.run(
        "data_headers_end", mail.transaction, mail.transaction, headers, deadline=Deadline.after(60)
    )


@pytest.mark.parametrize("names", [["Received"] * 50, ["Subject"] * 200, []])
async def test_up_to_the_limit_is_no_loop(load: Callable[[str], Awaitable[Rig]], names: list[str]) -> None:
    assert await verdict_on(await load(LOAD), names) == Declined()


@pytest.mark.parametrize("names", [["Received"] * 51, ["received", "DELIVERED-TO"] * 26])
async def test_more_hops_than_the_limit_are_refused_for_good(
    load: Callable[[str], Awaitable[Rig]], names: list[str]
) -> None:
    assert await verdict_on(await load(LOAD), names) == Deny("too many hops", enhanced="5.4.6", code=554)


async def test_the_limit_is_an_option(load: Callable[[str], Awaitable[Rig]]) -> None:
    rig = await load(LOAD + "max = 2")

    assert not (await verdict_on(rig, ["Received"] * 2)).denies
    assert (await verdict_on(rig, ["Received"] * 3)).denies


async def test_a_limit_below_one_is_a_configuration_error(load: Callable[[str], Awaitable[Rig]]) -> None:
    with pytest.raises(ConfigError, match=r"gatepost\.toml:3: loop\.max"):
        await load(LOAD + "max = 0")
