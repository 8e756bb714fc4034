"""Overrides: every spelling, checked against the plugins' own options."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, field_validator
from structlog.testing import capture_logs

from gatepost.configuration.overrides import Catalogue, parse_overrides
from gatepost.errors import ConfigError
from gatepost.option import Fixed, PluginOptions
from gatepost.quantity import Duration


class Greylist(PluginOptions):
    key: tuple[Literal["remote_ip", "sender"], ...] = ("remote_ip",)
    black_timeout: Duration = 3000.0
    deny_late: bool = False
    text: str = "later"


class Aliases(PluginOptions):
    file: Annotated[str, Fixed]
    """Required, and so missing from every override."""


class Spam(PluginOptions):
    reject_threshold: float = Field(default=5.0, ge=0)


class SpamReject(PluginOptions):
    threshold: int = 1


class Broken(PluginOptions):
    limit: str = "5"

    @field_validator("limit")
    @classmethod
    def _check(cls, value: str) -> str:
        return value + 1  # type: ignore[operator,no-any-return]


LOADED: dict[str, type[PluginOptions]] = {"greylist": Greylist, "aliases": Aliases, "spamassassin": Spam}
CATALOGUE = Catalogue(LOADED, installed=frozenset({"rhsbl"}), missing=frozenset({"own_rule"}))


def values(text: str) -> dict[str, dict[str, Any]]:
    return {plugin: dict(options) for plugin, options in parse_overrides(text, CATALOGUE).values.items()}


def problem(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_overrides(text, CATALOGUE)
    assert "\n" not in str(caught.value)
    assert caught.value.file is None
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("  ", {}),
        ("greylist", {"greylist": {"mode": "enforce"}}),
        ("greylist=on", {"greylist": {"mode": "enforce"}}),
        ("greylist=enforce", {"greylist": {"mode": "enforce"}}),
        ("greylist = OFF", {"greylist": {"mode": "off"}}),
        ("greylist=0", {"greylist": {"mode": "off"}}),
        ("greylist=observe", {"greylist": {"mode": "observe"}}),
        ("greylist.mode=testonly", {"greylist": {"mode": "observe"}}),
        ("denysoft_greylist", {"greylist": {"mode": "enforce"}}),
        ("denysoft_greylist=0", {"greylist": {"mode": "off"}}),
        ("greylist.black_timeout=5m", {"greylist": {"black_timeout": "5m"}}),
        ("greylist_black_timeout=5m", {"greylist": {"black_timeout": "5m"}}),
        ("denysoft_greylist.black_timeout=5m", {"greylist": {"black_timeout": "5m"}}),
        ("greylist.deny_late", {"greylist": {"deny_late": True}}),
        ("greylist.deny_late=no", {"greylist": {"deny_late": "no"}}),
        ('greylist.key="remote_ip, sender"', {"greylist": {"key": ["remote_ip", "sender"]}}),
        ("greylist.key=sender", {"greylist": {"key": ["sender"]}}),
        ('greylist.text="later, please = now"', {"greylist": {"text": "later, please = now"}}),
        ('greylist.text=""', {"greylist": {"text": ""}}),
        ('greylist.key=""', {"greylist": {"key": []}}),
        ("aliases=off", {"aliases": {"mode": "off"}}),
        (
            "denysoft_greylist, spamassassin_reject_threshold=10",
            {"greylist": {"mode": "enforce"}, "spamassassin": {"reject_threshold": "10"}},
        ),
        (
            "greylist=observe,greylist.black_timeout=1h",
            {"greylist": {"mode": "observe", "black_timeout": "1h"}},
        ),
    ],
)
def test_every_spelling_comes_to_plugin_option_and_value(text: str, expected: dict[str, dict[str, Any]]) -> None:
    assert values(text) == expected


def test_what_was_parsed_makes_options_with_typed_values() -> None:
    merged = Greylist.model_validate(values('greylist.key="sender,remote_ip", greylist.black_timeout=5m')["greylist"])

    assert (merged.key, merged.black_timeout) == (("sender", "remote_ip"), 300.0)


def test_the_longest_plugin_name_wins_in_the_tutorials_spelling() -> None:
    catalogue = Catalogue({**LOADED, "spamassassin_reject": SpamReject})

    parsed = parse_overrides("spamassassin_reject_threshold=10", catalogue)

    assert parsed.values == {"spamassassin_reject": {"threshold": "10"}}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("greylist.blak_timeout=5m", ["greylist", "'blak_timeout'", "did you mean 'black_timeout'"]),
        ("greylist_blak_timeout=5m", ["greylist", "'blak_timeout'", "did you mean 'black_timeout'"]),
        ("greylist.black_timeout=soon", ["greylist.black_timeout", "'soon'", "50m"]),
        ("greylist=maybe", ["greylist.mode", "'maybe'", "enforce"]),
        ("greylist=", ["greylist.mode", "enforce"]),
        ("greylist.black_timeout", ["greylist.black_timeout", "needs a value"]),
        ('greylist.key="remote_ip,colour"', ["greylist.key", "colour"]),
        ("spamassassin_reject_threshold=-1", ["spamassassin.reject_threshold", "greater than or equal to 0"]),
        ("greylst", ["'greylst'", "did you mean 'greylist'"]),
        ("denysoft_greylst", ["did you mean 'greylist'"]),
        ("greylst.black_timeout=5m", ["did you mean 'greylist'"]),
        ("greylst_black_timeout=5m", ["did you mean 'greylist'"]),
        ("greylist, greylist=off", ["greylist.mode", "twice"]),
        ("greylist.", ["names no option"]),
        ("aliases.file=other", ["aliases.file", "the same for everybody", "where aliases is configured"]),
        ("greylist.log_level=debug", ["greylist.log_level", "the same for everybody"]),
        ("greylist,,aliases=off", ["not understood"]),
        ("greylist aliases", ["not understood", "commas"]),
        ('greylist.text="open', ["not understood"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(text: str, names: list[str]) -> None:
    line = problem(text)

    assert [name for name in names if name not in line] == []


def test_a_validator_that_fails_is_a_mistake_of_its_plugin() -> None:
    catalogue = Catalogue({"broken": Broken})

    with pytest.raises(ConfigError) as caught:
        parse_overrides("broken.limit=7", catalogue)

    assert str(caught.value).startswith("broken: the options of test_overrides cannot be used: TypeError: ")


def test_every_mistake_of_a_text_is_named() -> None:
    line = problem("greylist=maybe, aliases.fil=x, spamassassin.reject_threshold=much")

    assert "greylist.mode" in line
    assert "did you mean 'file'" in line
    assert "spamassassin.reject_threshold" in line


@pytest.mark.parametrize(
    "word", ["rhsbl", "rhsbl=off", "rhsbl.zones=a", "rhsbl_zones=a", "nowhere", "nowhere_reject=5", "denysoft_rhsbl"]
)
def test_an_option_of_a_plugin_that_is_not_loaded_has_no_effect_and_is_logged(word: str) -> None:
    with capture_logs() as logs:
        assert values(f"{word}, greylist=off") == {"greylist": {"mode": "off"}}

    assert [(entry["log_level"], entry["option"]) for entry in logs] == [("warning", word.partition("=")[0])]


@pytest.mark.parametrize(
    "word", ["own_rule", "own_rule=off", "own_rule.limit=x", "own_rule_limit=3", "denysoft_own_rule"]
)
def test_an_option_of_a_plugin_that_failed_to_load_is_passed_over_in_silence(word: str) -> None:
    with capture_logs() as logs:
        assert values(f"{word}, greylist=off") == {"greylist": {"mode": "off"}}

    assert logs == []


def test_the_misspelt_name_of_a_plugin_that_failed_to_load_is_a_mistake_all_the_same() -> None:
    assert "did you mean 'own_rule'" in problem("own_rul=off")


def test_a_universal_option_of_another_plugin_is_no_misspelling_of_a_loaded_one() -> None:
    with capture_logs() as logs:
        assert values("spf_skip_authenticated=yes") == {}

    assert len(logs) == 1
