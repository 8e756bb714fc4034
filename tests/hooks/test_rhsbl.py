"""rhsbl against a real rbldnsd: which names are looked up, and what a listing means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from tests.rigs.dns_rig import BlockList
from tests.services.dns.patient_dns import patient_resolver

from gatepost.errors import ConfigError
from gatepost.testing import Gate, gate

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    Refusal = Callable[..., Awaitable[str]]

ZONES = {
    # A name alone, and (with the dot) every name below it, too.
    "dbl.example:dnset": ":127.0.1.2:Domain of a spammer\n.spam.example\nexact.example\n.xn--bse-sna.example\n"
    "phish.example :127.0.1.4:Phishing\n",
    "second.example:dnset": ":127.0.0.2:second\nspam.example\nhelo.example\n",
    "friends.example:dnset": ":127.0.0.1:\n.spam.example\n",
}

LISTED = "554 5.7.1 Service unavailable; "
TEMPORARY = "451 4.3.0 temporary failure, please try again later"


@pytest.fixture(scope="module")
def server() -> Iterator[BlockList]:
    with BlockList(ZONES) as running:
        yield running


async def rcpt(postfix: Gate, sender: str, recipient: str = "bob@example.org", **facts: Any) -> str:
    """Return the reply to the first RCPT of a new client, `250` if it is one."""
    client = postfix.client(**facts)
    await client.mail(sender)
    reply = (await client.rcpt(recipient)).encode().decode().strip()
    return "250" if reply.startswith("250 ") else reply


@pytest.fixture
def refusal(server: BlockList) -> Refusal:
    """Ask once about a sender, with `zones` and other options; `helo` and `client` are names of the client."""

    async def ask(
        sender: str, zones: Any, *, helo: str | None = None, client: str | None = None, **options: Any
    ) -> str:
        async with gate(dns=patient_resolver(server.address), rhsbl={"zones": zones, **options}) as postfix:
            return await rcpt(postfix, sender, helo=helo, name=client)

    return ask


async def test_a_listed_sender_domain_is_refused_with_the_lists_own_words(refusal: Refusal) -> None:
    expected = f"{LISTED}sender domain [spam.example] blocked using dbl.example; Domain of a spammer"
    assert await refusal("anybody@spam.example", ["dbl.example"]) == expected
    assert await refusal("anybody@SPAM.Example", ["dbl.example"]) == expected


@pytest.mark.parametrize(
    ("sender", "listed"),
    [
        ("a@mail.spam.example", True),
        ("a@exact.example", True),
        ("a@mail.exact.example", False),
        ("a@good.example", False),
        ("a@böse.example", True),
        ("a@xn--bse-sna.example", True),
        ("spam.example@good.example", False),
    ],
)
async def test_the_domain_is_looked_up_as_it_stands(refusal: Refusal, sender: str, listed: bool) -> None:
    assert (await refusal(sender, ["dbl.example"]))[:3] == ("554" if listed else "250")


@pytest.mark.parametrize("sender", ["", "postmaster", "a@[192.0.2.1]", "a@192.0.2.1", "a@spam", '"a b"@a b.example'])
async def test_what_is_no_domain_is_not_looked_up(server: BlockList, refusal: Refusal, sender: str) -> None:
    before = len(server.queries())
    assert await refusal(sender, ["dbl.example"], helo="[192.0.2.1]", check=["sender", "helo", "client"]) == "250"
    assert server.queries()[before:] == []


async def test_only_the_sender_is_looked_up_unless_told_otherwise(refusal: Refusal) -> None:
    names = {"helo": "spam.example", "client": "spam.example"}
    assert await refusal("a@good.example", ["dbl.example"], **names) == "250"


async def test_the_name_in_helo_is_looked_up_on_request(refusal: Refusal) -> None:
    reply = await refusal("a@good.example", ["dbl.example"], helo="mail.spam.example", check=["helo"])
    assert reply.startswith(f"{LISTED}HELO name [mail.spam.example] blocked using dbl.example")
    assert await refusal("a@spam.example", ["dbl.example"], helo="good.example", check=["helo"]) == "250"


async def test_the_clients_own_name_is_looked_up_on_request(refusal: Refusal) -> None:
    reply = await refusal("", ["dbl.example"], client="mx.spam.example", check=["sender", "client"])
    assert reply.startswith(f"{LISTED}client name [mx.spam.example] blocked using dbl.example")


async def test_the_same_name_twice_is_asked_for_once_and_counts_once(server: BlockList, refusal: Refusal) -> None:
    before = len(server.queries())
    names = {"helo": "spam.example", "client": "spam.example", "check": ["sender", "helo", "client"]}
    assert await refusal("a@spam.example", ["second.example"], reject_score=2, **names) == "250"
    assert server.queries()[before:] == ["spam.example.second.example A"]


async def test_several_names_add_up_in_scores(refusal: Refusal) -> None:
    reply = await refusal(
        "a@spam.example", ["second.example"], helo="helo.example", check=["sender", "helo"], reject_score=2
    )
    assert reply == f"{LISTED}sender domain [spam.example] blocked using second.example; second"


async def test_codes_and_actions_are_those_of_zones(refusal: Refusal) -> None:
    zones = [{"zone": "dbl.example", "codes": ["127.0.1.4"], "action": "defer"}]
    assert (await refusal("a@phish.example", zones)).startswith("450 4.7.1 Service unavailable; ")
    assert await refusal("a@spam.example", zones) == "250"
    friends = {"zone": "friends.example", "action": "allow"}
    assert await refusal("a@spam.example", ["dbl.example", friends]) == "250"


async def test_a_list_that_gives_no_answer_is_never_not_listed(refusal: Refusal) -> None:
    assert await refusal("a@good.example", ["not-served.example"]) == TEMPORARY
    assert await refusal("a@good.example", ["not-served.example"], on_unavailable="pass") == "250"
    assert (await refusal("a@spam.example", ["not-served.example", "dbl.example"])).startswith(LISTED)


async def test_exceptions_hold(server: BlockList, tmp_path: Path) -> None:
    (tmp_path / "aliases").write_text(
        "bob@example.org: bob@example.org (rhsbl=off)\n"
        "dave@example.org: dave@example.org (rhsbl.action=defer)\n"
        "*@example.org: all@example.org\n"
    )
    async with gate(
        dns=[server.address], aliases={"file": tmp_path / "aliases"}, rhsbl={"zones": ["dbl.example"]}
    ) as postfix:
        assert await rcpt(postfix, "a@spam.example") == "250"
        assert (await rcpt(postfix, "a@spam.example", "carol@example.org")).startswith(LISTED)
        assert (await rcpt(postfix, "a@spam.example", "dave@example.org")).startswith("450 ")
        assert await rcpt(postfix, "a@spam.example", "carol@example.org", login="carol") == "250"


async def test_observed_only_it_logs_what_it_would_say(refusal: Refusal) -> None:
    with capture_logs() as logs:
        assert await refusal("a@spam.example", ["dbl.example"], mode="observe") == "250"
    (would,) = [line for line in logs if line["event"] == "would answer"]
    assert would["text"].endswith("blocked using dbl.example; Domain of a spammer")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "rhsbl needs the option 'zones'"),
        ({"zones": ["dbl.example"], "check": []}, "rhsbl.check: "),
        ({"zones": ["dbl.example"], "check": ["recipient"]}, "rhsbl.check.0: "),
        ({"zones": [{"zone": "a.example", "action": "score"}]}, "set reject_score, or another action"),
    ],
)
async def test_a_wrong_option_stops_the_start(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        async with gate(rhsbl=options):
            pass
    assert message in str(raised.value)
