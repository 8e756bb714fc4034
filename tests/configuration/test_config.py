"""The configuration file: each thing wrong in it is one line with file, line number and what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.configuration import config as config_module
from gatepost.configuration.config import Config, load_config, parse_config, read_config, read_text
from gatepost.configuration.toml_text import TomlPlaces
from gatepost.errors import ConfigError, ConfigErrors

FILE = Path("/etc/gatepost/gatepost.toml")


def errors_in(text: str) -> list[str]:
    """Return what is wrong, each as `LINE: MESSAGE`."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, FILE)
    errors = caught.value.errors if isinstance(caught.value, ConfigErrors) else [caught.value]
    assert {error.file for error in errors} == {FILE}
    assert all("\n" not in str(error) for error in errors)
    return [f"{error.line}: {error.message}" for error in errors]


def test_an_empty_file_is_the_built_in_default() -> None:
    config = parse_config("", FILE)

    assert config.proxy == Config().proxy
    assert config.plugins == ()
    assert (config.proxy.listen, config.proxy.inner) == ("127.0.0.1:10025", "127.0.0.1:10026")
    assert (config.content.disagree, config.content.defer_limit) == ("defer-rest", 8)


def test_every_key_of_the_documented_file_is_taken() -> None:
    config = parse_config(
        """
[proxy]
listen = "unix:/run/gatepost/proxy.sock"
inner = "[::1]:10026"
max_sessions = 7
front_timeout = "2m"
session_idle = "5s"
bare_newline = "normalize"
[milter]
socket = "inet:127.0.0.1:8890"
edge = false
edge_timeout = "20s"
[store]
url = "sqlite::memory:"
[hooks]
directory = "own"
[content]
disagree = "lenient"
defer_limit = 0
mime_limit = "1 MiB"
[[plugin]]
name = "loop"
[[plugin]]
name = "greylist"
black_timeout = "5m"
""",
        FILE,
    )

    assert (config.proxy.front_timeout, config.proxy.session_idle, config.proxy.max_sessions) == (120.0, 5.0, 7)
    assert (config.content.mime_limit, config.content.defer_limit) == (1 << 20, 0)
    assert [(entry.name, entry.options, entry.line) for entry in config.plugins] == [
        ("loop", {}, 21),
        ("greylist", {"black_timeout": "5m"}, 23),
    ]
    assert (config.plugins[1].lines or {})["black_timeout"] == 25
    assert config.place("hooks.directory") == (FILE, 16)
    assert config.base == Path("/etc/gatepost")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[proxy]\nlistn = 1", "2: there is no key 'listn' here: did you mean 'listen'?"),
        ("[proxi]\nlisten = 1", "1: there is no key 'proxi' here: did you mean 'proxy'?"),
        ("listen = 1", "1: there is no key 'listen' here: there are content, dns, hooks, milter, plugin, proxy, store"),
        ("file = 'x'", "1: there is no key 'file' here"),
        ("plugins = []", "1: there is no key 'plugins' here: did you mean 'plugin'?"),
        ("lines = {}", "1: there is no key 'lines' here"),
        ("proxy = 3", "1: proxy is a table: write [proxy], and its keys below that"),
        ("[[proxy]]\nlisten = '127.0.0.1:1'", "1: proxy is a table: write [proxy], and its keys below that"),
        ('\n[proxy]\n\nlisten = "here"', "4: proxy.listen: 'here' is no address: write HOST:PORT"),
        ('[proxy]\ninner = "unix:/x"', "2: proxy.inner: the inner smtpd must be reached by TCP"),
        ('[proxy]\nfront_timeout = "5s"', "2: proxy.front_timeout: Input should be greater than or equal to 20"),
        ('[proxy]\nfront_timeout = "soon"', "2: proxy.front_timeout: 'soon' is not a duration"),
        ("[proxy]\nfront_timeout = inf", "2: proxy.front_timeout: inf is not a duration"),
        ("[milter]\nedge_timeout = 0", "2: milter.edge_timeout: Input should be greater than or equal to 1 (given: 0)"),
        ("[proxy]\nmax_sessions = 0", "2: proxy.max_sessions: Input should be greater than or equal to 1 (given: 0)"),
        (
            '[proxy]\nbare_newline = "ok"',
            "2: proxy.bare_newline: Input should be 'reject' or 'normalize' (given: 'ok')",
        ),
        ('proxy.bare_newline = "ok"', "1: proxy.bare_newline: Input should be"),
        ('proxy = { bare_newline = "ok" }', "1: proxy.bare_newline: Input should be"),
        ('[milter]\nedge = "maybe"', "2: milter.edge: Input should be a valid boolean"),
        ('[milter]\nsocket = "inet:8890@localhost"', "2: milter.socket: 'inet:8890@localhost' is no address"),
        ("[content]\ndefer_limit = -1", "2: content.defer_limit: Input should be greater than or equal to 0"),
        ('[content]\nmime_limit = "much"', "2: content.mime_limit: 'much' is not a size"),
        ('[store]\nurl = "redis://localhost"', "2: store.url: Redis comes in a later version"),
        ('[store]\nurl = "sqlite:gatepost.db"', "2: store.url: 'sqlite:gatepost.db' is not understood: write"),
        ('[store]\nurl = "sqlite::memory:x"', "2: store.url: 'sqlite::memory:x' is not understood: write"),
        ("[plugin]\nname = 'x'", "1: write each plugin as a table of its own, [[plugin]]"),
        ("plugin = ['greylist']", "1: write each plugin as a table of its own, [[plugin]]"),
        ("[[plugin]]\nfile = 'x'", "1: a [[plugin]] needs a name"),
        ("[[plugin]]\nname = 1", "2: a [[plugin]] needs a name"),
        ("[[plugin]]\n\nname = 'count-denies'", "3: 'count-denies' is no plugin's name"),
        ("[[plugin]]\nname = 'a'\n[[plugin]]\nname = 'a'", "4: plugin a stands here twice, first in line 2: del"),
        ("[proxy]\nlisten = ", "2: not TOML: Invalid value"),
        ("[proxy]\nlisten = '1.2.3.4:5'\n\n[proxy]\n", "4: not TOML: Cannot declare"),
        ("a = [\n\n", "1: not TOML: "),
    ],
)
def test_a_mistake_is_one_line_with_its_place(text: str, expected: str) -> None:
    (error,) = errors_in(text)

    assert error.startswith(expected)


def test_every_mistake_is_told_in_one_pass_in_the_order_of_the_file() -> None:
    errors = errors_in(
        "[[plugin]]\nnam = 'x'\n[proxy]\nmax_sessions = 0\nlistn = 1\n[milter]\nedge = 'x'\n[[plugin]]\nname = 'a b'\n"
    )

    assert [error.partition(":")[0] for error in errors] == ["1", "4", "5", "7", "9"]


def test_what_is_right_is_read_around_what_is_wrong() -> None:
    config, errors = read_text(
        "[proxy]\nmax_sessions = 0\nfront_timeout = '50s'\n[dns]\nnameservers = ['x', '192.0.2.1', 'y']\n"
        "timeout = '2s'\n[milter]\nedge = maybe\nedge_timeout = '3s'\n[content]\nx = 1\ndefer_limit = 2\n"
        "[[plugin]]\nname = 'loop'\nmax = 3\n",
        FILE,
    )

    assert [error.line for error in errors] == [2, 5, 5, 8, 11]
    assert (config.proxy.max_sessions, config.proxy.front_timeout) == (500, 50.0)
    assert (config.dns.nameservers, config.dns.timeout) == ((), 2.0)
    assert (config.milter.edge_timeout, config.content.defer_limit) == (3.0, 2)
    assert [(entry.name, entry.options) for entry in config.plugins] == [("loop", {"max": 3})]
    assert config.left_out == {"proxy.max_sessions", "dns.nameservers", "content.x"}


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        ("", set()),
        ("[proxy\nlisten = 1\n", {"plugin", "hooks.directory"}),
        ("[hooks]\ndirectory = own\n", {"hooks.directory"}),
        ("[hooks]\ndirectory = 3\n", {"hooks.directory"}),
        ("[[plugin]]\nname = greylist\n", {"plugin"}),
        ("[[plugin]]\nname = 'a b'\n", {"plugin"}),
        ("[[plugin]]\nname = 'a'\nlimit = x\n", set()),
    ],
)
def test_what_may_be_missing_for_a_mistake_is_known(text: str, left_out: set[str]) -> None:
    assert read_text(text, FILE)[0].left_out == left_out


def test_a_name_that_is_not_toml_is_one_mistake() -> None:
    assert [error.partition(": ")[0] for error in errors_in("[[plugin]]\nname = greylist\nx = 1\n")] == ["2"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[proxy]\nlisten = "127.0.0.1:10026"', "2: proxy.inner is 127.0.0.1:10026, and so is proxy.listen"),
        ('[proxy]\nlisten = "localhost:10026"', "2: proxy.inner is 127.0.0.1:10026, and so is proxy.listen"),
        ('[proxy]\nlisten = "0.0.0.0:10026"', "2: proxy.inner is 127.0.0.1:10026, and so is proxy.listen"),
        ('[milter]\nsocket = "inet:127.0.0.1:10025"', "2: milter.socket is 127.0.0.1:10025, and so is proxy.listen"),
        ('[milter]\nsocket = "inet:[::]:10026"', "2: milter.socket is [::]:10026, and so is proxy.inner"),
        (
            '[proxy]\nlisten = "unix:/run/a"\n[milter]\nsocket = "unix:/run/a"',
            "4: milter.socket is unix:/run/a, and so is proxy.listen",
        ),
    ],
)
def test_an_address_for_two_is_a_mistake(text: str, expected: str) -> None:
    (error,) = errors_in(text)

    assert error.startswith(expected)
    assert error.endswith("give each an address of its own")


def test_addresses_that_differ_are_none() -> None:
    parse_config('[proxy]\nlisten = "127.0.0.2:10026"\n[milter]\nsocket = "unix:/run/a"\n', FILE)


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse_config("\ufeff[proxy]\nmax_sessions = 3\n", FILE).proxy.max_sessions == 3


def test_a_value_of_any_length_is_shown_in_part() -> None:
    (error,) = errors_in(f"[proxy]\nmax_sessions = {[0] * 1000}\n")

    assert len(error) < 250


def test_a_comment_with_an_exotic_line_separator_does_not_move_the_lines() -> None:
    (error,) = errors_in("# one\u2028still one\x85\n[proxy]\nlistn = 1\n")

    assert error.startswith("3: ")


def test_line_ends_of_other_systems_do_not_move_the_lines() -> None:
    (error,) = errors_in("[proxy] # here\r\n\r\nlistn = 1\r\n")

    assert error.startswith("3: ")


def test_a_missing_file_that_was_named_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot read the configuration: No such file"):
        load_config(tmp_path / "none.toml")


def test_a_missing_default_file_means_the_built_in_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_module, "DEFAULT_FILE", tmp_path / "none.toml")

    config = load_config()

    assert (config.file, config.base) == (None, Path("/etc/gatepost"))


def test_a_default_file_that_is_there_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gatepost.toml"
    file.write_text("[proxy]\nmax_sessions = 3\n")
    monkeypatch.setattr(config_module, "DEFAULT_FILE", file)

    assert load_config().proxy.max_sessions == 3


def test_a_default_file_that_cannot_be_read_is_never_taken_for_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gatepost.toml").mkdir()
    monkeypatch.setattr(config_module, "DEFAULT_FILE", tmp_path / "gatepost.toml")

    with pytest.raises(ConfigError, match=r"gatepost\.toml: cannot read the configuration: Is a directory"):
        load_config()


def test_a_file_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "gatepost.toml"
    file.write_bytes(b"# caf\xe9\n")

    with pytest.raises(ConfigError, match="toml:1: not UTF-8 text: save the file as UTF-8"):
        load_config(file)


def test_a_file_that_is_not_utf8_is_read_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "gatepost.toml"
    file.write_bytes(b"[proxy]\n# caf\xe9\nlistn = 1\n")

    _, errors = read_config(file)

    assert [error.line for error in errors] == [2, 3]


def test_relative_paths_refer_to_the_directory_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gatepost.toml").write_text("")
    monkeypatch.chdir(tmp_path)

    assert load_config(Path("gatepost.toml")).base == tmp_path
    assert os.path.isabs(load_config(Path("gatepost.toml")).base)  # noqa: PTH117 - the same, said independently


TOML_LINE = st.sampled_from(
    [
        "[proxy]",
        "[[plugin]]",
        "[plugin.sub]",
        '["a.b"]',
        "name = 1",
        'a."b c".d = 2',
        "x = [",
        "]",
        "[",
        "[[",
        "[]",
        '"""',
        "'''",
        "= 3",
        "# [x]",
        "\t",
    ]
)


@given(st.lists(TOML_LINE | st.text(max_size=20)).map("\n".join))
def test_no_text_breaks_the_search_for_places(text: str) -> None:
    places = TomlPlaces(text)
    lines = text.count("\n") + 1

    assert all(1 <= line <= lines for line in places.dotted().values())
    assert places.line(()) is None


@given(st.lists(TOML_LINE | st.text(max_size=20)).map("\n".join))
def test_any_text_is_a_configuration_or_a_configuration_error(text: str) -> None:
    try:
        parse_config(text, FILE)
    except ConfigError as error:
        assert str(FILE) in str(error)  # noqa: PT017 - either outcome is right


def test_the_place_of_a_key_that_is_not_found_is_that_of_what_is_around_it() -> None:
    places = TomlPlaces("[a]\nb = { c = 1 }\n\n[[p]]\n[[p]]\nx = 1\n")

    assert places.line(("a", "b", "c")) == 2
    assert places.line(("a", "z")) == 1
    assert places.line(("p", 0)) == 4
    assert places.line(("p", 1, "x")) == 6
    assert places.line(("p", 1, "y")) == 5
    assert places.line(("q",)) is None
