"""Option overrides as people write them in files: `greylist=off, addsig.mode=observe`, checked before they are used.

A text is words with commas between them. `PLUGIN` switches a plugin on (`mode = "enforce"`), `PLUGIN=off` and
`PLUGIN=observe` set its mode, `PLUGIN.OPTION=VALUE` sets any of its options. The spellings of qpsmtpd's tutorial mean
the same: `denysoft_PLUGIN` and `PLUGIN_OPTION=VALUE`. A value with a comma in it stands in double quotes; a list is
written `"a, b"`, an empty one `""`; a bare `PLUGIN.OPTION` sets an option that is yes or no to yes.

A word for a plugin that is not loaded has no effect and is only logged, so that a plugin can be taken out of the
configuration for a while. One that merely looks like a loaded plugin is an error: it would be missed in silence.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, get_origin

import structlog
from pydantic import ValidationError

from gatepost.configuration.config import did_you_mean, explain
from gatepost.configuration.plugin_options import validated
from gatepost.errors import ConfigError
from gatepost.option import Fixed, Overrides

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from gatepost.option import PluginOptions

NOT_LOADED = "no such plugin is loaded: the option has no effect"
"""What is logged of an option for a plugin that the configuration does not name."""

MISSPELLING_CUTOFF = 0.8
"""How alike (difflib's ratio) an unknown word and a loaded plugin must be to be an error; `greylst` is 0.93."""

_WORD = re.compile(r'\s*(?P<name>[^\s,="]+)\s*(?:=\s*(?P<value>"[^"]*"|[^,"]*?)\s*)?(?:,|\Z)')
_MODES = {
    **dict.fromkeys(("on", "enforce", "denysoft", "yes", "true", "1"), "enforce"),
    **dict.fromkeys(("observe", "testonly"), "observe"),
    **dict.fromkeys(("off", "no", "false", "0"), "off"),
}
_TUTORIAL_PREFIX = "denysoft_"
_LISTS = (list, tuple, set, frozenset)

_log = structlog.get_logger("gatepost.overrides")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The plugins whose options a text may change.

    `loaded` has their options, `installed` are the names of all that could be loaded. `missing` are those that should
    be loaded and cannot be, which has been told already: words for them are passed over in silence.
    """

    loaded: Mapping[str, type[PluginOptions]]
    installed: frozenset[str] = frozenset()
    missing: frozenset[str] = frozenset()

    @property
    def names(self) -> frozenset[str]:
        """Every name that a word may begin with."""
        return self.installed | self.missing | self.loaded.keys()


class _Option(NamedTuple):
    """One word resolved: the plugin that it is for, the option, and the value (None: none given)."""

    plugin: str
    name: str
    value: str | None


def parse_overrides(text: str, catalogue: Catalogue, source: str = "") -> Overrides:
    """Return what `text` changes; an empty text changes nothing.

    `source` is where the text stands, for people. Raises one ConfigError without a place that names everything wrong in
    the text. Only what concerns a single option is checked: a rule of a plugin about several of its options together is
    left to the moment they are used.
    """
    values: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for word, value in _words(text):
        try:
            option = _resolve(word, value, catalogue)
            if option.plugin not in catalogue.loaded:
                if option.plugin not in catalogue.missing:
                    _log.warning(NOT_LOADED, option=word, at=source)
                continue
            own = values.setdefault(option.plugin, {})
            if option.name in own:
                raise ConfigError(f"{option.plugin}.{option.name} is given twice")
            own[option.name] = _value(option, catalogue.loaded[option.plugin])
        except ConfigError as error:
            problems.append(error.message)
    for plugin, own in values.items():
        problems += _invalid(plugin, own, catalogue.loaded[plugin])
    if problems:
        raise ConfigError("; ".join(problems))
    return Overrides(values, source)


def still_good(overrides: Overrides, models: Mapping[str, type[PluginOptions]]) -> Overrides:
    """Return the overrides without what the plugins' options, which have changed since, do not take any more."""
    values: dict[str, dict[str, Any]] = {}
    for plugin, own in overrides.values.items():
        values[plugin] = {}
        for name, value in own.items():
            if plugin in models and (problems := _invalid(plugin, {name: value}, models[plugin])):
                _log.info("left out since the reload", at=overrides.source, problem="; ".join(problems))
            else:
                values[plugin][name] = value
    return Overrides({plugin: own for plugin, own in values.items() if own}, overrides.source)


def _words(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield each word's name and its value without quotes, None if it has none."""
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _WORD.match(text, at)
        if match is None:
            raise ConfigError(f"{text[at:].strip()!r} is not understood: write OPTION=VALUE, commas between them")
        value = match["value"]
        yield match["name"], value.strip('"') if value else value
        at = match.end()


def _resolve(word: str, value: str | None, catalogue: Catalogue) -> _Option:
    """Find the plugin and the option that a word means; unchecked if its plugin is not loaded."""
    names = catalogue.names
    if word not in names and word.startswith(_TUTORIAL_PREFIX):
        word = word.removeprefix(_TUTORIAL_PREFIX)
    plugin, dot, option = word.partition(".")
    if not dot and plugin not in names:
        # The longest name wins: with plugins `ident` and `ident_geo`, ident_geo_distance is the second one's.
        plugin = max((name for name in names if word.startswith(name + "_")), key=len, default=word)
        option = word[len(plugin) + 1 :]
    if plugin not in catalogue.loaded:
        if plugin not in names:
            _refuse_misspelling(word, plugin, catalogue)
        return _Option(plugin, option, value)
    if not option and word != plugin:
        raise ConfigError(f"{word!r} names no option: write {plugin}.OPTION=VALUE")
    if not option:
        return _Option(plugin, "mode", "on" if value is None else value)
    fields = catalogue.loaded[plugin].model_fields
    if option not in fields:
        raise ConfigError(f"{plugin} has no option {option!r}{did_you_mean(option, list(fields))}")
    if Fixed in fields[option].metadata:
        raise ConfigError(f"{plugin}.{option} is the same for everybody: set it where {plugin} is configured")
    return _Option(plugin, option, value)


def _refuse_misspelling(word: str, plugin: str, catalogue: Catalogue) -> None:
    """Raise ConfigError if `plugin`, or `word` without the name of an option, looks like a loaded plugin."""
    options = {option for model in catalogue.loaded.values() for option in model.model_fields}
    heads = [plugin, *(word.removesuffix(f"_{option}") for option in options if word.endswith(f"_{option}"))]
    expected = catalogue.missing | catalogue.loaded.keys()
    for head in heads:
        if near := difflib.get_close_matches(head, expected, n=1, cutoff=MISSPELLING_CUTOFF):
            raise ConfigError(f"there is no plugin {head!r}: did you mean {near[0]!r}?")


def _value(option: _Option, model: type[PluginOptions]) -> str | bool | list[str]:
    """Return the value as the plugin's model takes it: text, a list for a list, True for a bare yes-or-no option."""
    annotation = model.model_fields[option.name].annotation
    if option.value is None:
        if annotation is bool:
            return True
        raise ConfigError(f"{option.plugin}.{option.name} needs a value: write {option.plugin}.{option.name}=VALUE")
    if option.name == "mode":
        return _MODES.get(option.value.lower(), option.value)
    if get_origin(annotation) in _LISTS:
        return [item.strip() for item in option.value.split(",")] if option.value.strip() else []
    return option.value


def _invalid(plugin: str, values: Mapping[str, Any], model: type[PluginOptions]) -> list[str]:
    """Return what is wrong with the values, a line each; options that are merely not given are not."""
    try:
        validated(model, values, None)
    except ConfigError as unusable:
        return [f"{plugin}: {unusable.message}"]
    except ValidationError as invalid:
        return [
            f"{'.'.join(map(str, (plugin, *error['loc'])))}: {explain(error)}"
            for error in invalid.errors()
            if error["loc"] and error["loc"][0] in values
        ]
    return []
