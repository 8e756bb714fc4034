"""The doctor's commands and the values in them, by themselves."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from gatepost.configuration.config import Config, load_config
from gatepost.ops.postfix.doctor.remedy import Remedies
from gatepost.ops.postfix.value import elements, seconds, without_blanks

if TYPE_CHECKING:
    from pathlib import Path

SOCKET = '"unix:/var/spool/postfix/a~b&c/milter.sock"'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[proxy]\nmax_sessions = 7",
        '[milter]\n# nothing yet\n[proxy]\nlisten = "127.0.0.1:1"\n',
        '[milter]\nsocket = "unix:/run/old.sock" # of old, and "quoted"\nedge = false\n',
        "[milter]\nsocket='unix:/run/old.sock'\n",
        '[[plugin]]\nname = "greylist"\n\n[milter]\nsocket = "unix:/run/old.sock"\n[proxy]\n',
        "[milter]\nsocket\t=\t'unix:/run/old.sock'\n",
        'milter = { edge = false, socket = "unix:/run/old.sock" } # of old\n[proxy]\nmax_sessions = 7\n',
        "milter = { edge = false }\nproxy = { max_sessions = 7 }\n",
        "proxy.max_sessions = 7\nmilter = {}\n",
        'proxy.max_sessions = 7\nmilter.edge = false\n[[plugin]]\nname = "greylist"\n',
        'milter.socket = "unix:/run/old.sock" # of old\n',
    ],
)
def test_a_key_is_set_wherever_the_file_has_it_or_not(tmp_path: Path, text: str) -> None:
    file = tmp_path / "gate post.toml"
    file.write_text(text)
    before = load_config(file)
    command = Remedies(before, file, tmp_path, ()).set_key("milter.socket", SOCKET)
    subprocess.run(["sh", "-ec", command], check=True)
    after = load_config(file)
    assert f'"{after.milter.socket}"' == SOCKET
    assert (after.proxy, after.plugin, after.milter.edge) == (before.proxy, before.plugin, before.milter.edge)
    assert ("# of old" in file.read_text()) == ("# of old" in text)


def test_without_a_file_the_default_one_is_made(tmp_path: Path) -> None:
    command = Remedies(Config(), None, tmp_path, ()).set_key("proxy.max_sessions", "600")
    assert command == (
        "mkdir -p /etc/gatepost && printf '\\n%s\\n' '[proxy]' 'max_sessions = 600' >> /etc/gatepost/gatepost.toml"
    )


@pytest.mark.parametrize(
    ("value", "expected", "tight"),
    [
        ("", (), ""),
        (" a, b\tc ", ("a", "b", "c"), "a,b,c"),
        ("{ inet:a:1, x = y } unix:/z", ("{ inet:a:1, x = y }", "unix:/z"), "{inet:a:1,x=y},unix:/z"),
        ("inline:{ {a = b}, {c=d} } hash:/x", ("inline:{ {a = b}, {c=d} }", "hash:/x"), "inline:{{a=b},{c=d}},hash:/x"),
        ("${stress?{1}:{20}}s", ("${stress?{1}:{20}}s",), "${stress?{1}:{20}}s"),
        ("left {open", ("left", "{open"), "left,{open"),
        ("a} b", ("a}", "b"), "a},b"),
    ],
)
def test_a_list_is_split_outside_braces(value: str, expected: tuple[str, ...], tight: str) -> None:
    assert elements(value) == expected
    assert without_blanks(value) == tight


@pytest.mark.parametrize(
    ("value", "expected"),
    [("100s", 100), ("5m", 300), ("1h", 3600), (" 7 ", 7), ("1d", 86400), ("", None), ("1.5s", None)],
)
def test_a_time_is_read_with_its_unit(value: str, expected: int | None) -> None:
    assert seconds(value) == expected
