"""aliases: who is known, where the mail goes, which options it takes along, and what is wrong with a file."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from gatepost.errors import ConfigError, ConfigErrors

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.hooks.conftest import Rig

    from gatepost import Overrides

    LoadRig = Callable[..., Awaitable[Rig]]
    Flatten = Callable[[tuple[Overrides, ...]], dict[str, dict[str, object]]]

UNKNOWN = "550 5.1.1 no such user here"
LOOP = "550 5.4.6 alias loop"
SAMPLE = Path(__file__).parents[2] / "docs" / "samples" / "aliases"

TUTORIAL = """\
hjp,peter.holzer@wsr.ac.at,wifo.at: hjp@asherah.wsr.ac.at (denysoft_greylist, spamassassin_reject_threshold=10)
postmaster@,wsr.ac.at,wifo.at: sysadm@wsr.ac.at
sysadm@wsr.ac.at: hjp@wsr.ac.at,gina@wsr.ac.at
"""


@pytest.fixture
def load_file(load: LoadRig, tmp_path: Path) -> LoadRig:
    """Load the plugin with a file of this text."""

    async def load_text(text: str, options: str = "") -> Rig:
        (tmp_path / "aliases").write_text(text, encoding="utf-8")
        return await load(
            f'[[plugin]]\nname = "aliases"\nfile = "aliases"\n{options}\n[[plugin]]\nname = "greylist"\nmode = "off"\n'
        )

    return load_text


async def delivered(rig: Rig, address: str) -> str:
    """Return where the mail goes, or the reply if the recipient is refused for good (greylisting is another's)."""
    recipient, reply = await (await rig.mail()).offer(address)
    if reply.startswith("5"):
        return reply
    return " ".join(map(str, recipient.targets)) or "as it is"


async def options(rig: Rig, address: str, overrides_of: Flatten) -> dict[str, dict[str, object]]:
    recipient, _ = await (await rig.mail()).offer(address)
    return overrides_of(recipient.overrides)


def change(path: Path, text: str) -> None:
    """Save a new version; its time stamp differs even where the clock is coarse."""
    before = path.stat().st_mtime_ns
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(before + 1_000_000, before + 1_000_000))


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("hjp@wsr.ac.at", "hjp@asherah.wsr.ac.at"),
        ("hjp@wifo.at", "hjp@asherah.wsr.ac.at"),
        ("peter.holzer@wsr.ac.at", "hjp@asherah.wsr.ac.at"),
        ("Peter.Holzer@WIFO.at", "hjp@asherah.wsr.ac.at"),
        ("postmaster", "hjp@asherah.wsr.ac.at gina@wsr.ac.at"),
        ("Postmaster@wifo.at", "hjp@asherah.wsr.ac.at gina@wsr.ac.at"),
        ("sysadm@wsr.ac.at", "hjp@asherah.wsr.ac.at gina@wsr.ac.at"),
        ("hjp+list@wsr.ac.at", "hjp+list@asherah.wsr.ac.at"),
        ("sysadm@wifo.at", UNKNOWN),
        ("nobody@wsr.ac.at", UNKNOWN),
        ("nobody", UNKNOWN),
        ("hjp@asherah.wsr.ac.at", "as it is"),
        ("anybody@elsewhere.example", "as it is"),
    ],
)
async def test_the_tutorials_file_means_what_it_says(load_file: LoadRig, address: str, expected: str) -> None:
    assert await delivered(await load_file(TUTORIAL), address) == expected


async def test_options_belong_to_the_address_given_in_rcpt(load_file: LoadRig, overrides_of: Flatten) -> None:
    rig = await load_file(TUTORIAL)

    assert await options(rig, "hjp@wifo.at", overrides_of) == {"greylist": {"mode": "enforce"}}
    assert await options(rig, "sysadm@wsr.ac.at", overrides_of) == {}


async def test_overrides_tell_where_they_come_from(load_file: LoadRig, tmp_path: Path) -> None:
    rig = await load_file("# first\n\na@x.example: (greylist)\n")
    recipient, _ = await (await rig.mail()).offer("a@x.example")

    assert [overrides.source for overrides in recipient.overrides] == [f"{tmp_path / 'aliases'}:3"]


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ("a@x.example: b@y.example (greylist=observe)", "b@y.example"),
        ("a@x.example: (greylist=observe) b@y.example", "b@y.example"),
        ("a@x.example: (greylist=observe)", "as it is"),
        ("a@x.example:(greylist=observe)b@y.example", "b@y.example"),
        ("a@x.example: b@y.example ( greylist = observe ) # (greylist=off)", "b@y.example"),
        ("a @ x.example : b@y.example\n  (greylist=observe)", "b@y.example"),
        ('a@x.example: "(b)"@y.example (greylist=observe, greylist.text="say: no) # now")', '"(b)"@y.example'),
    ],
)
async def test_options_stand_before_or_after_the_targets(
    load_file: LoadRig, overrides_of: Flatten, line: str, target: str
) -> None:
    rig = await load_file(line)

    assert await delivered(rig, "a@x.example") == target
    assert (await options(rig, "a@x.example", overrides_of))["greylist"]["mode"] == "observe"


async def test_comments_blank_lines_and_continuations(load_file: LoadRig) -> None:
    rig = await load_file(
        "# a: comment\r\n"
        "\r\n"
        "a,\r\n"
        "  b@x.example:   # one more\r\n"
        "# between\r\n"
        "\r\n"
        "\tc@y.example,\r\n"
        "\td#e@y.example\r\n"
        "f@x.example: g@y.example"
    )

    assert await delivered(rig, "b@x.example") == "c@y.example d#e@y.example"
    assert await delivered(rig, "f@x.example") == "g@y.example"


@pytest.mark.parametrize(
    ("text", "address", "expected"),
    [
        ("a@x.example: a@x.example", "a@x.example", "as it is"),
        ("a@x.example: a@x.example", "A@X.example", "a@x.example"),
        ("a@x.example: a@x.example, b@y.example", "a@x.example", "a@x.example b@y.example"),
        ("a,b@x.example: b@x.example", "a@x.example", "b@x.example"),
        ("*@x.example: a@x.example, b@x.example", "c@x.example", "a@x.example b@x.example"),
        ("a@x.example: b@x.example\nb@x.example: b@x.example, c@y.example", "a@x.example", "b@x.example c@y.example"),
    ],
)
async def test_a_target_that_its_own_line_covers_is_final(
    load_file: LoadRig, text: str, address: str, expected: str
) -> None:
    assert await delivered(await load_file(text), address) == expected


async def test_a_wildcard_takes_what_no_other_line_of_its_domain_takes(load_file: LoadRig) -> None:
    rig = await load_file("*@x.example: rest@y.example\na@x.example: b@y.example\nc@z.example: b@y.example")

    assert await delivered(rig, "a@x.example") == "b@y.example"
    assert await delivered(rig, "a+detail@x.example") == "b+detail@y.example"
    assert await delivered(rig, "anybody@x.example") == "rest@y.example"
    assert await delivered(rig, "anybody@z.example") == UNKNOWN


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("a+box@x.example", "b+box@y.example c+own@y.example root+box"),
        ("A+Box@x.example", "b+Box@y.example c+own@y.example root+Box"),
        ("a+two@x.example", "two@y.example"),
        ("via+box@x.example", "b+box@y.example c+own@y.example root+box"),
        ("+a@x.example", UNKNOWN),
    ],
)
async def test_a_detail_is_kept_and_given_to_targets_without_one(
    load_file: LoadRig, address: str, expected: str
) -> None:
    rig = await load_file(
        "a@x.example: b@y.example, c+own@y.example, root\na+two@x.example: two@y.example\nvia@x.example: a@x.example\n"
    )

    assert await delivered(rig, address) == expected


async def test_without_a_delimiter_a_detail_is_part_of_the_name(load_file: LoadRig) -> None:
    rig = await load_file("a@x.example: b@y.example", 'detail_delimiter = ""')

    assert await delivered(rig, "a+box@x.example") == UNKNOWN


async def test_the_delimiter_is_an_option(load_file: LoadRig) -> None:
    rig = await load_file("a@x.example: b@y.example", 'detail_delimiter = "-"')

    assert await delivered(rig, "a-box@x.example") == "b-box@y.example"


async def test_a_target_reached_twice_gets_the_mail_once(load_file: LoadRig) -> None:
    rig = await load_file(
        "all@x.example: a@x.example, b@x.example, C@y.example, c@Y.example\na,b@x.example: c@y.example, d@y.example\n"
    )

    assert await delivered(rig, "all@x.example") == "c@y.example d@y.example"


async def test_a_circle_is_refused_at_rcpt_and_told_with_its_lines_at_load(load_file: LoadRig, tmp_path: Path) -> None:
    with capture_logs() as logs:
        rig = await load_file(
            "# circle\n"
            "a@x.example: b@x.example\n"
            "b@x.example: c@x.example, fine@y.example\n"
            "c@x.example: a@x.example\n"
            "into@x.example: fine@y.example, b@x.example\n"
            "fine@x.example: fine@y.example\n"
        )

    assert [(entry["lines"], entry["file"]) for entry in logs if "loop" in entry["event"]] == [
        ("2, 3, 4, 2", str(tmp_path / "aliases"))
    ]
    for address in ("a@x.example", "b+box@x.example", "c@x.example", "into@x.example"):
        assert await delivered(rig, address) == LOOP
    assert await delivered(rig, "fine@x.example") == "fine@y.example"


async def test_a_chain_may_be_longer_than_python_recurses(load_file: LoadRig) -> None:
    lines = [f"a{n}@x.example: a{n + 1}@x.example" for n in range(1500)]
    rig = await load_file("\n".join([*lines, "a1500@x.example: end@y.example"]))

    assert await delivered(rig, "a0@x.example") == "end@y.example"


async def test_a_target_in_a_listed_domain_without_an_entry_is_delivered_and_told(load_file: LoadRig) -> None:
    with capture_logs() as logs:
        rig = await load_file(TUTORIAL)

    assert [entry["first"] for entry in logs if "no entry" in entry["event"]] == ["line 3: gina@wsr.ac.at"]
    assert await delivered(rig, "gina@wsr.ac.at") == UNKNOWN


async def test_quoted_and_utf8_local_parts(load_file: LoadRig) -> None:
    rig = await load_file(
        '"John Doe","a,b:c@d#e"@x.example: "very \\"odd\\""@y.example\njürgen@bücher.example: grün@y.example\n'
    )

    assert await delivered(rig, '"john doe"@x.example') == '"very \\"odd\\""@y.example'
    assert await delivered(rig, '"a,b:c@d#e"@x.example') == '"very \\"odd\\""@y.example'
    assert await delivered(rig, "JÜRGEN@Bücher.example") == "grün@y.example"


async def test_a_later_check_still_decides_on_a_known_recipient(load_file: LoadRig) -> None:
    rig = await load_file(TUTORIAL)

    assert await (await rig.mail()).rcpt("hjp@wsr.ac.at") == "450 4.7.1 This mail is temporarily denied"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a@x.example b@y.example", 1, "no colon"),
        ("\n\na@x.example:", 3, "neither targets nor options"),
        ("a@x.example: ()", 1, "neither targets nor options"),
        ("a@x.example, b@y.example: c@z.example", 1, "more than one @"),
        ("a b@x.example: c@z.example", 1, "'a b@x.example' is not an address"),
        ("a,@x.example: c@z.example", 1, "'@x.example' is not an address"),
        ("a@*: c@z.example", 1, "'a@*' is not an address"),
        ("a@x.example: b@y.example,", 1, "missing beside a comma"),
        ("a@x.example: b@y.example c@y.example", 1, "is not an address"),
        ("a@x.example: b@", 1, "'b@' is not an address"),
        ("a@x.example: *@y.example", 1, "a target cannot be *"),
        ("a@x.example: b@y.example (greylist", 1, "left open"),
        ("a@x.example: b@y.example (greylist) c@y.example", 1, "something follows"),
        ('a@x.example: "b@y.example', 1, "left open"),
        ("a@x.example: b@y.example (greylist.blak_timeout=5m)", 1, "did you mean 'black_timeout'"),
        ("a@x.example: b@y.example (greylist.black_timeout=soon)", 1, "'soon' is not a duration"),
        ("\na@x.example: b@y.example,\n  c@y.example (greylst)\n", 2, "did you mean 'greylist'"),
        ("a@x.example: b@y.example\nc,A@X.example: d@y.example", 2, "a@x.example is listed twice, in lines 1 and 2"),
        ("a,a@x.example: b@y.example", 1, "listed twice"),
    ],
)
async def test_a_mistake_stops_the_start_with_its_line(load_file: LoadRig, text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        await load_file(text)

    assert not isinstance(caught.value, ConfigErrors)
    assert caught.value.line == line
    assert words.lower() in str(caught.value).lower()


async def test_all_mistakes_are_told_at_once(load_file: LoadRig) -> None:
    with pytest.raises(ConfigErrors) as caught:
        await load_file("a@x.example\nb@x.example: c@y.example\nd@x.example: (greylst)\nb@x.example: e@y.example\n")

    assert [error.line for error in caught.value.errors] == [1, 3, 4]


async def test_a_missing_file_and_a_missing_option_stop_the_start(load: LoadRig) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        await load('[[plugin]]\nname = "aliases"\nfile = "nowhere"')
    with pytest.raises(ConfigError, match="aliases needs the option 'file'"):
        await load('[[plugin]]\nname = "aliases"')


async def test_the_file_is_read_again_when_it_changes(load_file: LoadRig, tmp_path: Path) -> None:
    rig = await load_file("a@x.example: b@y.example")
    change(tmp_path / "aliases", "a@x.example: c@y.example\nnew@x.example: d@y.example")

    assert await delivered(rig, "a@x.example") == "c@y.example"
    assert await delivered(rig, "new@x.example") == "d@y.example"


async def test_a_broken_new_version_is_told_by_line_and_the_old_one_stays(load_file: LoadRig, tmp_path: Path) -> None:
    rig = await load_file("a@x.example: b@y.example")
    change(tmp_path / "aliases", "a@x.example: c@y.example\n\nbroken (greylst)\n")

    with capture_logs() as logs:
        assert await delivered(rig, "a@x.example") == "b@y.example"
        assert await delivered(rig, "a@x.example") == "b@y.example"

    problems = [entry["problem"] for entry in logs if entry["log_level"] == "error"]
    assert len(problems) == 1
    assert problems[0].startswith(f"{tmp_path / 'aliases'}:3: ")


async def test_the_sample_file_loads(load: LoadRig) -> None:
    rig = await load(f'[[plugin]]\nname = "aliases"\nfile = "{SAMPLE}"\n[[plugin]]\nname = "greylist"\nmode = "off"\n')

    assert await delivered(rig, "anybody@old.wifo.at") == "hjp@asherah.wsr.ac.at gina@wsr.ac.at"
    assert await delivered(rig, "everybody+news@wifo.at") == "hjp+news@asherah.wsr.ac.at gina+news@wsr.ac.at"
    assert await delivered(rig, "abuse@wifo.at") == "as it is"


async def test_lookup_does_not_grow_with_the_file(load_file: LoadRig) -> None:
    """A ratio within one run, ten times the lines: a scan of the file would cost ten times as much."""

    async def cost(lines: int) -> float:
        rig = await load_file("".join(f"user{n}@x.example: box{n}@y.example (greylist)\n" for n in range(lines)))
        last = f"user{lines - 1}@x.example"
        mail = await rig.mail()
        best = float("inf")
        for _ in range(20):
            started = time.perf_counter()
            await mail.offer(last)
            best = min(best, time.perf_counter() - started)
        return best

    assert await cost(10_000) < 5 * await cost(1_000)
