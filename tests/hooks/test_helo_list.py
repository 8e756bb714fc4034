"""helo: the list badhelo, its exceptions and its mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.hooks.test_helo import refused, reply

from gatepost import ConfigError, ConfigErrors
from gatepost.testing import gate

LIST = r"""# Names that nobody has
yahoo.com
Spammer.Example. Go away   # for good
.dynamic.example.net no dynamic hosts
kept.dynamic.example.net this very one
/^user-?\d+$/ You are no mail server
/adsl/
[10.0.0.1]
"""


@pytest.mark.parametrize(
    ("helo", "problem"),
    [
        ("yahoo.com", "this name is not welcome"),
        ("YAHOO.com.", "this name is not welcome"),
        ("mta.yahoo.com", None),
        ("spammer.example", "Go away"),
        ("dynamic.example.net", None),
        ("a.b.dynamic.example.net", "no dynamic hosts"),
        ("kept.dynamic.example.net", "this very one"),
        ("User-17", "You are no mail server"),
        ("user-17.example", None),
        ("x.ADSL.example", "this name is not welcome"),
        ("[10.0.0.1]", "this name is not welcome"),
    ],
)
async def test_names_in_the_list_are_refused(tmp_path: Path, helo: str, problem: str | None) -> None:
    (tmp_path / "badhelo").write_text(LIST)
    answer = await reply(helo, badhelo=str(tmp_path / "badhelo"))
    assert answer == (refused(helo, problem) if problem else "250")


EXCEPTIONS = r"""
.pool.example.net dynamic
!mail.Pool.example.net.   # a server of friends
!.servers.pool.example.net
/^host\d+\./ numbered
!/^host7\./
"""


@pytest.mark.parametrize(
    ("helo", "problem"),
    [
        ("a.pool.example.net", "dynamic"),
        ("MAIL.pool.example.net", None),
        ("a.mail.pool.example.net", "dynamic"),
        ("mx.servers.pool.example.net", None),
        ("host8.example.com", "numbered"),
        ("host7.example.com", None),
        ("host7.pool.example.net", None),
    ],
)
async def test_the_list_can_have_exceptions(tmp_path: Path, helo: str, problem: str | None) -> None:
    (tmp_path / "badhelo").write_text(EXCEPTIONS)
    answer = await reply(helo, badhelo=str(tmp_path / "badhelo"))
    assert answer == (refused(helo, problem) if problem else "250")


async def test_an_exception_is_one_to_the_list_alone(tmp_path: Path) -> None:
    (tmp_path / "badhelo").write_text("/./ only ours\n!.example.org\n!localhost\n")
    heard = [
        await reply(helo, badhelo=str(tmp_path / "badhelo")) for helo in ("a.example.org", "a.example.net", "localhost")
    ]
    assert heard == [
        "250",
        refused("a.example.net", "only ours"),
        refused("localhost", "you are not localhost"),
    ]


async def test_a_changed_list_counts_for_the_next_greeting_and_a_broken_one_does_not(tmp_path: Path) -> None:
    listed = tmp_path / "badhelo"
    listed.write_text("one.example\n")
    async with gate(helo={"badhelo": str(listed)}) as postfix:

        async def refused_ones() -> list[str]:
            clients = {helo: postfix.client(helo=helo) for helo in ("one.example", "two.example")}
            for client in clients.values():
                await client.mail()
            return [helo for helo, client in clients.items() if (await client.rcpt("bob@example.org")).code == 550]

        assert await refused_ones() == ["one.example"]
        listed.write_text("one.example\ntwo.example\n")
        assert await refused_ones() == ["one.example", "two.example"]
        with capture_logs() as logs:
            listed.write_text("one.example\n*.broken\n")
            assert await refused_ones() == ["one.example", "two.example"]
    (problem,) = [entry["problem"] for entry in logs if entry["log_level"] == "error"]
    assert problem.startswith(f"{listed}:2: ")


async def test_the_sample_list_refuses_what_it_says() -> None:
    sample = str(Path(__file__).parents[2] / "docs" / "samples" / "badhelo")
    heard = [await reply(helo, badhelo=sample) for helo in ("yahoo.com", "a.dynamic.example.net", "mail.example.com")]
    assert [answer[:3] for answer in heard] == ["550", "550", "250"]
    assert await reply("mail.dynamic.example.net", badhelo=sample) == "250"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("! mail.example.net", "not understood"),
        ("!!mail.example.net", "not understood"),
        ("!", "not understood"),
        ("!mail.example.net a friend", "nobody would be told 'a friend'"),
        ("!/x*/", "found in every name"),
        ("!*.example.net", "is no name"),
        ("/[/", "not understood"),
        ("/abc", "not understood"),
        ("/x*/", "found in every name"),
        ("*.example.net", "is no name"),
        ("user@example.net", "is no name"),
    ],
)
async def test_a_bad_line_stops_the_start_with_its_number(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "badhelo").write_text(f"good.example\n{line}\n")
    with pytest.raises((ConfigError, ConfigErrors), match=words) as caught:
        await reply("x", badhelo=str(tmp_path / "badhelo"))
    assert "badhelo:2" in str(caught.value)
