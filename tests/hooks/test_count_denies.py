"""count_denies: hangs up on a client refused too often, and never for good on one that was only asked to wait."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.hooks.conftest import Rig

    LoadRig = Callable[[str], Awaitable[Rig]]

REFUSER = """
from gatepost import Deny, DenyDisconnect, DenySoft, Plugin

class Refuser(Plugin):
    def rcpt(self, transaction, recipient):
        match recipient.address.local:
            case "hard":
                return Deny("no")
            case "soft":
                return DenySoft("later")
            case "away":
                return DenyDisconnect("go away")
"""


async def answers(load: LoadRig, tmp_path: Path, options: str, recipients: str) -> list[str]:
    """Return what a client hears that offers recipients, each in a transaction of its own."""
    (tmp_path / "refuser.py").write_text(REFUSER)
    rig = await load(
        f'[hooks]\ndirectory = "."\n[[plugin]]\nname = "count_denies"\n{options}\n[[plugin]]\nname = "refuser"\n'
    )
    client = await rig.connect()
    return [await (await rig.mail(client)).rcpt(f"{local}@example.org") for local in recipients.split()]


async def test_the_fifth_permanent_refusal_hangs_up(load: LoadRig, tmp_path: Path) -> None:
    heard = await answers(load, tmp_path, "", "hard hard hard hard hard")

    assert heard == ["550 5.7.1 no"] * 4 + ["521 5.7.1 too many refused commands"]


async def test_accepted_and_soft_refused_recipients_do_not_count(load: LoadRig, tmp_path: Path) -> None:
    heard = await answers(load, tmp_path, "limit = 1", "soft soft fine hard soft fine hard")

    assert heard == [
        "450 4.7.1 later",
        "450 4.7.1 later",
        "250",
        "550 5.7.1 no",
        "450 4.7.1 later",
        "250",
        "521 5.7.1 too many refused commands",
    ]


async def test_a_limit_of_none_hangs_up_at_once(load: LoadRig, tmp_path: Path) -> None:
    assert await answers(load, tmp_path, "limit = 0", "hard") == ["521 5.7.1 too many refused commands"]


async def test_counting_all_soft_refusals_alone_lead_to_421_never_521(load: LoadRig, tmp_path: Path) -> None:
    heard = await answers(load, tmp_path, 'limit = 2\ncount = "all"', "soft soft soft")

    assert heard == ["450 4.7.1 later", "450 4.7.1 later", "421 4.7.1 too many refused commands"]


async def test_counting_all_a_greylisted_recipient_is_never_lost_for_good(load: LoadRig, tmp_path: Path) -> None:
    heard = await answers(load, tmp_path, 'limit = 2\ncount = "all"', "hard hard soft")

    assert heard == ["550 5.7.1 no", "550 5.7.1 no", "421 4.7.1 too many refused commands"]


async def test_counting_all_a_permanent_refusal_over_the_limit_is_521(load: LoadRig, tmp_path: Path) -> None:
    heard = await answers(load, tmp_path, 'limit = 2\ncount = "all"', "soft soft hard")

    assert heard == ["450 4.7.1 later", "450 4.7.1 later", "521 5.7.1 too many refused commands"]


async def test_recipients_that_postfix_refused_count_and_the_next_that_it_accepts_is_hung_up_on(
    load: LoadRig,
) -> None:
    rig = await load('[[plugin]]\nname = "count_denies"\nlimit = 1\n')
    mail = await rig.mail()

    await mail.client.refused("a@example.org", "450 4.2.0 busy")
    await mail.client.refused("b@example.org", "550 5.1.1 unknown")
    assert await mail.rcpt("c@example.org") == "250"
    await mail.client.refused("d@example.org", "550 5.1.1 unknown")
    # It is not the recipient that was refused: it must not be lost for good.
    assert await mail.rcpt("e@example.org") == "421 4.7.1 too many refused commands"


async def test_a_client_over_the_limit_is_hung_up_on_at_its_next_mail_or_unknown_command(load: LoadRig) -> None:
    rig = await load('[[plugin]]\nname = "count_denies"\nlimit = 0\n')
    mail = await rig.mail()
    await mail.client.refused("a@example.org")

    assert (await mail.client.unrecognized()).code == 421
    assert (await mail.client.mail()).code == 421


async def test_each_connection_is_counted_by_itself(load: LoadRig, tmp_path: Path) -> None:
    (tmp_path / "refuser.py").write_text(REFUSER)
    rig = await load(
        '[hooks]\ndirectory = "."\n[[plugin]]\nname = "count_denies"\nlimit = 1\n[[plugin]]\nname = "refuser"\n'
    )

    heard = [await (await rig.mail()).rcpt("hard@example.org") for _ in range(3)]

    assert heard == ["550 5.7.1 no"] * 3


async def test_the_limit_can_be_another_for_one_client(load: LoadRig, tmp_path: Path) -> None:
    (tmp_path / "refuser.py").write_text(REFUSER)
    (tmp_path / "clients").write_text("10.0.0.0/8: count_denies.limit=0\n")
    rig = await load(
        '[hooks]\ndirectory = "."\n[[plugin]]\nname = "client_options"\nfile = "clients"\n'
        '[[plugin]]\nname = "refuser"\n[[plugin]]\nname = "count_denies"\n'
    )
    ours, other = await rig.connect("10.1.1.1"), await rig.connect("192.0.2.1")

    assert await (await rig.mail(ours)).rcpt("hard@example.org") == "521 5.7.1 too many refused commands"
    assert await (await rig.mail(other)).rcpt("hard@example.org") == "550 5.7.1 no"
