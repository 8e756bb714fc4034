"""Loading plugins: what is wrong with one stops the start, with its file and line and the nearest right name."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from gatepost.configuration.config import parse_config
from gatepost.configuration.loader import LoadedPlugin, bundled_directory, load_plugins
from gatepost.errors import ConfigError, ConfigErrors
from gatepost.hooks import HOOKS
from gatepost.pipeline import pipeline as pipeline_module
from gatepost.pipeline.pipeline import Pipeline
from gatepost.services.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from gatepost.services.store.store import Store

    Load = Callable[..., list[LoadedPlugin]]

HEAD = "from gatepost import Deny, DenyDisconnect, DenySoft, Ok, Plugin, PluginOptions\n"


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    store = open_store("sqlite::memory:")
    yield store
    await store.close()


@pytest.fixture
def load(tmp_path: Path, store: Store) -> Load:
    """Load `example`, a plugin of this source, with further lines of configuration."""

    def load_source(source: str, options: str = "", name: str = "example") -> list[LoadedPlugin]:
        (tmp_path / f"{name}.py").write_text(HEAD + source)
        settings = f'[hooks]\ndirectory = "."\n[[plugin]]\nname = "{name}"\n{options}'
        return load_plugins(parse_config(settings, tmp_path / "gatepost.toml"), store)

    return load_source


def errors_of(load: Load, source: str, options: str = "") -> list[str]:
    """Return what is wrong, each as `FILE:LINE: MESSAGE` without the directory."""
    with pytest.raises(ConfigError) as caught:
        load(source, options)
    errors = caught.value.errors if isinstance(caught.value, ConfigErrors) else [caught.value]
    return [str(error).rpartition("/")[2] if str(error).startswith("/") else str(error) for error in errors]


def test_a_method_named_after_a_hook_is_registered(load: Load) -> None:
    (loaded,) = load(
        "class Example(Plugin):\n    async def rcpt(self, t, r): ...\n    def connect(self, client): ...\n"
        "    def init(self): ...\n    def _own(self): ...\n"
    )

    assert loaded.hooks == ("connect", "rcpt")
    assert (loaded.name, loaded.file.name, loaded.reads_content) == ("example", "example.py", False)


@pytest.mark.parametrize("hook", ["header", "data_headers_end", "body", "data_post"])
def test_a_content_hook_makes_a_plugin_read_content(load: Load, hook: str) -> None:
    (loaded,) = load(f"class Example(Plugin):\n    def {hook}(self, *arguments): ...\n")

    assert loaded.reads_content


def test_arguments_may_have_any_name(load: Load) -> None:
    methods = "".join(
        f"    def {hook.name}(self, {', '.join('abcdef'[: len(hook.arguments)])}): ...\n" for hook in HOOKS.values()
    )

    (loaded,) = load(f"class Example(Plugin):\n{methods}")

    assert loaded.hooks == tuple(HOOKS)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "class Example(Plugin):\n    def recpt(self, t, r): ...",
            "example.py:3: recpt is no hook, and a method of your own begins with an underscore: did you mean 'rcpt'?",
        ),
        (
            "class Example(Plugin):\n\n    @staticmethod\n    def xyzzy(): ...",
            "example.py:4: xyzzy is no hook, and a method of your own begins with an underscore: there are body",
        ),
        (
            "class Example(Plugin):\n    def rcpt(self, recipient): ...",
            "example.py:3: rcpt has the wrong arguments: write def rcpt(self, transaction, recipient)",
        ),
        (
            "class Example(Plugin):\n    def rcpt(self, t, r, more): ...",
            "example.py:3: rcpt has the wrong arguments: write def rcpt(self, transaction, recipient)",
        ),
        (
            "class Example(Plugin):\n    def rcpt(self, t, r, *, more): ...",
            "example.py:3: rcpt has the wrong arguments: write def rcpt(self, transaction, recipient)",
        ),
        (
            "class Example(Plugin):\n    async def init(self, config): ...",
            "example.py:3: init has the wrong arguments: write def init(self)",
        ),
        (
            "class Example(Plugin):\n    data = {}",
            "example.py:3: data is the name of a hook, and here it is a dict: rename it",
        ),
        (
            "class Example(Plugin):\n    @classmethod\n    def rcpt(cls, t, r): ...",
            "example.py:4: rcpt is the name of a hook, and here it is a method: rename it",
        ),
        (
            "class Example(Plugin):\n    def deny(self, s, h, v):\n        return Deny('no')",
            "example.py:4: the deny hook may not answer Deny: it may answer DenyDisconnect, DenySoftDisconnect or",
        ),
        (
            "class Example(Plugin):\n    def deny(self, s, h, v):\n        return DenyDisconnect() if h else Ok",
            "example.py:4: the deny hook may not answer Ok: it may answer DenyDisconnect, DenySoftDisconnect or",
        ),
        (
            "class Example(Plugin):\n    async def disconnect(self, s):\n        if s:\n            return DenySoft()",
            "example.py:5: the disconnect hook may not answer DenySoft: it answers nothing",
        ),
        ("class Example(Plugin):\n    x = (1", "example.py:3: not Python: '(' was never closed"),
        ("x = 1\n1 / 0\nclass Example(Plugin): ...", "example.py:3: cannot be loaded: ZeroDivisionError: division by"),
        ("import not_installed_anywhere", "example.py:2: cannot be loaded: No module named"),
        ("raise SystemExit(0)", "example.py:2: cannot be loaded: SystemExit: 0"),
        ("", "example.py:1: a plugin file has one class that subclasses gatepost.Plugin; here are 0"),
        (
            "class One(Plugin): ...\nclass Two(Plugin): ...",
            "example.py:3: a plugin file has one class that subclasses gatepost.Plugin; here are 2",
        ),
        (
            "class Example(Plugin):\n    def __init__(self, *arguments):\n        raise OSError('no')",
            "example.py:4: plugin example cannot be made: OSError: no",
        ),
    ],
)
def test_a_mistake_in_a_plugin_is_told_with_its_line(load: Load, source: str, expected: str) -> None:
    (error,) = errors_of(load, source)

    assert error.startswith(expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("limt = 3", "gatepost.toml:5: example has no option 'limt': did you mean 'limit'?"),
        ("\nlimit = 'x'", "gatepost.toml:6: example.limit: Input should be a valid integer"),
        ("mode = 'on'", "gatepost.toml:5: example.mode: Input should be 'enforce', 'observe' or 'off' (given: 'on')"),
        ("timeout = 'soon'", "gatepost.toml:5: example.timeout: 'soon' is not a duration"),
        ("timeout = 0", "gatepost.toml:5: example.timeout: Input should be greater than 0"),
        ("on_error = 'allow'", "gatepost.toml:5: example.on_error: Input should be 'defer' or 'pass'"),
        ("limit = 3\nzones = ['a', 3]", "gatepost.toml:6: example.zones.1: Input should be a valid string"),
        ("limit = 7", "gatepost.toml:3: example: seven is not allowed"),
    ],
)
def test_a_mistake_in_the_options_is_told_with_its_line(load: Load, options: str, expected: str) -> None:
    source = (
        "from pydantic import model_validator\nclass Options(PluginOptions):\n"
        "    limit: int = 4\n    zones: tuple[str, ...] = ()\n"
        "    @model_validator(mode='after')\n    def _check(self):\n"
        "        if self.limit == 7: raise ValueError('seven is not allowed')\n        return self\n"
        "class Example(Plugin[Options]): ..."
    )

    (error,) = errors_of(load, source, options)

    assert error.startswith(expected)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("10.1.2.3/8", 'no network begins at this address: write "10.0.0.0/8"'),
        ("2001:db8::1/32", 'no network begins at this address: write "2001:db8::/32"'),
        ("10.0.0", 'this is no network: write one like "192.0.2.0/24" or "2001:db8::/32", or an address'),
    ],
)
def test_a_network_that_is_none_is_told_with_what_to_write(load: Load, given: str, expected: str) -> None:
    source = (
        "from pydantic import IPvAnyNetwork\n"
        "class Options(PluginOptions):\n    networks: tuple[IPvAnyNetwork, ...] = ()\n"
        "class Example(Plugin[Options]): ..."
    )

    with pytest.raises(ConfigError) as caught:
        load(source, f'networks = ["{given}"]')

    assert f"gatepost.toml:5: example.networks.0: {expected} (given: {given!r})" in str(caught.value)


def test_a_required_option_that_is_missing_is_told_with_the_line_of_the_plugin(load: Load) -> None:
    source = (
        "from pathlib import Path\nclass Options(PluginOptions):\n    file: Path\nclass Example(Plugin[Options]): ..."
    )

    assert errors_of(load, source) == ["gatepost.toml:3: example needs the option 'file'"]


def test_every_mistake_of_every_plugin_is_told_at_once(tmp_path: Path, store: Store) -> None:
    (tmp_path / "one.py").write_text(HEAD + "class One(Plugin):\n    def x(self): ...\n    def y(self): ...\n")
    (tmp_path / "two.py").write_text("class")
    settings = '[hooks]\ndirectory = "."\n' + "".join(
        f'[[plugin]]\nname = "{name}"\n' for name in ("one", "two", "looop")
    )

    with pytest.raises(ConfigErrors) as caught:
        load_plugins(parse_config(settings, tmp_path / "gatepost.toml"), store)

    assert [str(error).removeprefix(f"{tmp_path}/").partition(": ")[0] for error in caught.value.errors] == [
        "gatepost.toml:8",
        "one.py:3",
        "one.py:4",
        "two.py:1",
    ]
    assert "did you mean 'loop'?" in str(caught.value)


def test_a_missing_directory_is_told_with_its_line(tmp_path: Path, store: Store) -> None:
    config = parse_config('\n[hooks]\ndirectory = "none"\n', tmp_path / "gatepost.toml")

    with pytest.raises(ConfigError) as caught:
        load_plugins(config, store)

    assert str(caught.value).startswith(f"{tmp_path}/gatepost.toml:3: [hooks] directory {tmp_path}/none is not there")


@pytest.mark.parametrize(
    "source",
    [
        # Read alone, the method would be indented wrongly.
        "class Example(Plugin):\n    def deny(self, s, h, v):\n# commented = out\n        return None",
        'class Example(Plugin):\n    def deny(self, s, h, v):\n        x = """\nno\n"""\n        return x and None',
        # Not a return of the hook.
        "class Example(Plugin):\n    def deny(self, s, h, v):\n        def own(): return Deny()\n        return None",
        "class Example(Plugin):\n    deny = lambda self, s, h, v: None",
        "class Example(Plugin):\n    def deny(self, s, h, v): return DenyDisconnect('no') if v else None",
        "class Example(Plugin):\n    def deny(self, s, h, v):\n        '''Deny()'''\n        return # Deny()",
    ],
)
def test_what_only_looks_like_a_mistake_is_none(load: Load, source: str) -> None:
    (loaded,) = load(source)

    assert loaded.hooks == ("deny",)


def test_the_line_of_a_forbidden_verdict_is_right_below_decorators_comments_and_strings(load: Load) -> None:
    source = (
        "import functools\ndef same(f):\n    return f\nclass Example(Plugin):\n"
        "    @same\n    @same\n    def ok(self, s, h, v):\n# left\n        x = '''\nleft\n'''\n        return Deny(x)\n"
    )

    assert errors_of(load, source) == ["example.py:13: the ok hook may not answer Deny: it answers nothing"]


def test_helper_classes_base_classes_and_imported_plugins_are_not_the_plugin(load: Load) -> None:
    (loaded,) = load(
        "from gatepost import Plugin as Other\nclass Base(Plugin):\n    def rcpt(self, t, r): ...\n"
        "class Example(Base):\n    class Inner: ...\nALIAS = Example\n"
    )

    assert type(loaded.plugin).__name__ == "Example"
    assert loaded.hooks == ("rcpt",)


def test_the_administrators_own_plugin_wins_over_the_bundled_one(load: Load) -> None:
    assert (bundled_directory() / "loop.py").is_file()

    (loaded,) = load("class Mine(Plugin): ...", name="loop")

    assert type(loaded.plugin).__name__ == "Mine"


def test_a_plugin_never_shadows_a_library_of_the_same_name(load: Load) -> None:
    import pydantic

    load("class Example(Plugin): ...", name="pydantic")

    assert sys.modules["pydantic"] is pydantic


def test_every_load_sees_the_newest_version_of_the_file(load: Load) -> None:
    (first,) = load("class Example(Plugin):\n    number = 1\n")
    (second,) = load("class Example(Plugin):\n    number = 2\n")

    assert (type(first.plugin).__dict__["number"], type(second.plugin).__dict__["number"]) == (1, 2)


def test_a_plugin_that_is_off_is_loaded_because_an_override_may_switch_it_on(load: Load) -> None:
    (loaded,) = load("class Example(Plugin):\n    def rcpt(self, t, r): ...", "mode = 'off'")

    assert loaded.hooks == ("rcpt",)


def test_files_that_are_no_plugins_are_passed_by(tmp_path: Path, load: Load) -> None:
    for name in ("_private.py", "not-a-name.py", "notes.txt"):
        (tmp_path / name).write_text("syntax error here")

    assert len(load("class Example(Plugin): ...")) == 1


def test_a_relative_path_in_the_options_begins_in_the_directory_of_the_configuration(
    load: Load, tmp_path: Path
) -> None:
    source = (
        "from pathlib import Path\nclass Options(PluginOptions):\n    file: Path\nclass Example(Plugin[Options]): ..."
    )

    (loaded,) = load(source, "file = 'list'")

    assert loaded.plugin.options().file == tmp_path / "list"


WATCHING = """
from pathlib import Path
from gatepost import ConfigError
class Options(PluginOptions):
    file: Path = Path("list")
class Example(Plugin[Options]):
    def init(self):
        self._lines = self.watch(self.options().file, self._parse)
    def _parse(self, text, path):
        if "bad" in text:
            raise ConfigError("bad line", path, 2)
        return text
"""


async def start_error(loaded: list[LoadedPlugin]) -> str:
    with pytest.raises(ConfigError) as caught:
        await Pipeline(loaded).start()
    return str(caught.value)


async def test_a_missing_file_is_told_at_the_line_that_names_it(load: Load, tmp_path: Path) -> None:
    error = await start_error(load(WATCHING, "\n\nfile = 'none'"))

    assert error == (
        f"{tmp_path}/gatepost.toml:7: plugin example: cannot read {tmp_path}/none: No such file or directory: "
        "create it, or correct the path"
    )


async def test_a_missing_file_that_no_line_names_is_told_at_the_plugin(load: Load, tmp_path: Path) -> None:
    source = WATCHING.replace("self.options().file", "'fixed'")

    error = await start_error(load(source))

    assert error.startswith(f"{tmp_path}/gatepost.toml:3: plugin example: cannot read {tmp_path}/fixed: No such file")


async def test_a_bad_line_in_a_file_is_told_at_that_line(load: Load, tmp_path: Path) -> None:
    (tmp_path / "list").write_text("good\nbad\n")

    assert await start_error(load(WATCHING, "file = 'list'")) == f"{tmp_path}/list:2: bad line"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("raise ConfigError('limit and count do not go together')", "gatepost.toml:3: limit and count do not go"),
        ("raise Unavailable('redis', 'refused')", "gatepost.toml:3: plugin example cannot start: redis: refused"),
        ("raise ValueError('no')", "example.py:5: plugin example cannot start: ValueError: no"),
        ("raise SystemExit(1)", "example.py:5: plugin example cannot start: SystemExit: 1"),
    ],
)
@pytest.mark.parametrize("kind", ["def", "async def"])
async def test_an_init_that_fails_stops_the_start_with_a_place(
    load: Load, tmp_path: Path, kind: str, body: str, expected: str
) -> None:
    imports = "from gatepost import ConfigError, Unavailable\n"
    source = f"{imports}class Example(Plugin):\n    {kind} init(self):\n        {body}\n"

    error = await start_error(load(source))

    assert error.removeprefix(f"{tmp_path}/").startswith(expected)


async def test_an_init_that_does_not_end_stops_the_start_with_a_place(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "INIT_TIMEOUT_S", 0.05)
    source = "import asyncio\nclass Example(Plugin):\n    async def init(self):\n        await asyncio.Event().wait()\n"

    error = await start_error(load(source))

    assert error == f"{tmp_path}/gatepost.toml:3: plugin example cannot start: init took longer than 0.05 s"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("raise TypeError('no\\nway')", "example.py:8: the options of example cannot be used: TypeError: no way"),
        ("raise ConfigError('not these')", "gatepost.toml:3: not these"),
    ],
)
def test_a_validator_that_fails_is_told_with_a_place(load: Load, body: str, expected: str) -> None:
    source = (
        "from pydantic import model_validator\nfrom gatepost import ConfigError\nclass Options(PluginOptions):\n"
        f"    @model_validator(mode='after')\n    def _check(self):\n\n        {body}\n"
        "class Example(Plugin[Options]): ..."
    )

    assert errors_of(load, source) == [expected]


def test_a_failed_load_keeps_nothing_that_it_executed(load: Load) -> None:
    before = set(sys.modules)
    for source in ("x = (1", "1 / 0", "class Example(Plugin):\n    def recpt(self): ..."):
        errors_of(load, source)
    errors_of(load, "class Example(Plugin): ...", "limit = 3")

    assert {name for name in set(sys.modules) - before if "example" in name} == set()
