"""The options of one `[[plugin]]` table, checked against what its plugin declares; a line for each that is wrong."""

from __future__ import annotations

import inspect
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PydanticUserError, ValidationError

from gatepost.configuration.config import did_you_mean, explain, nearest
from gatepost.configuration.plugin_file import line_in, line_of, one_line
from gatepost.errors import ConfigError, ConfigErrors, in_order

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic_core import ErrorDetails

    from gatepost.configuration.config import PluginEntry
    from gatepost.option import PluginOptions
    from gatepost.plugin import Plugin


def validated(model: type[PluginOptions], fields: Mapping[str, Any], base: Path | None) -> PluginOptions:
    """Return the fields as a plugin's options; relative paths among them begin in `base`, None leaves them as they are.

    Raises pydantic's ValidationError for values that are wrong, and ConfigError for a model that cannot be used: then
    what is to be mended is the plugin.
    """
    try:
        return model.model_validate(fields, context={"base": base} if base else None)
    except (ConfigError, ValidationError):
        raise
    except (Exception, SystemExit) as error:
        file = Path(inspect.getfile(model))
        # An annotation that names nothing, found only now, when the model is completed; or a validator of the plugin's.
        reason = error.message.splitlines()[0] if isinstance(error, PydanticUserError) else one_line(error)
        problem = f"the options of {file.stem} cannot be used: {type(error).__name__}: {reason}"
        raise ConfigError(problem, file, line_in(error, file) or line_of(file, model.__name__)) from error


def check_options(entry: PluginEntry, plugin_class: type[Plugin[Any]], file: Path | None, base: Path) -> PluginOptions:
    """Return the entry's options, typed; ConfigErrors with a line of `file` for each that is wrong.

    Relative paths among them begin in `base`.
    """
    options, errors = examine_options(entry, plugin_class, file, base)
    if options is None or errors:
        raise errors[0] if len(errors) == 1 else ConfigErrors(errors)
    return options


def examine_options(
    entry: PluginEntry, plugin_class: type[Plugin[Any]], file: Path | None, base: Path
) -> tuple[PluginOptions | None, list[ConfigError]]:
    """Return the options, and an error for each that is wrong, in the order of the file.

    Wrong ones have their default; without one, there are no options: None.
    """
    model = plugin_class.options_class
    try:
        return validated(model, entry.options, base), []
    except ConfigError as unusable:
        return None, [unusable.at(file, entry.line)]
    except ValidationError as invalid:
        details = invalid.errors()
    wrong = {str(error["loc"][0]) for error in details if error["loc"]}
    right = {key: value for key, value in entry.options.items() if key not in wrong}
    told = (error for error in details if not _follows(error, entry, wrong) and not _sums_up(error, details))
    errors = in_order(_explain(error, entry, model, file) for error in told)
    with suppress(ConfigError, ValidationError):
        return validated(model, right, base), errors
    return None, errors


def _follows(error: ErrorDetails, entry: PluginEntry, wrong: set[str]) -> bool:
    """Return True if an option is missing only because another mistake hides it: it is misspelt, or not TOML."""
    if error["type"] != "missing" or len(error["loc"]) != 1:
        return False
    return entry.incomplete or bool(nearest(str(error["loc"][0]), wrong & entry.options.keys()))


def _sums_up(error: ErrorDetails, details: Sequence[ErrorDetails]) -> bool:
    """Return True if a list is too short only because its elements are wrong, each of which is told."""
    place = error["loc"]
    return error["type"] == "too_short" and any(
        len(other["loc"]) > len(place) and other["loc"][: len(place)] == place for other in details
    )


def _explain(error: ErrorDetails, entry: PluginEntry, model: type[PluginOptions], file: Path | None) -> ConfigError:
    key = str(error["loc"][0]) if error["loc"] else ""
    line = entry.place_of(key)
    if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
        hint = did_you_mean(key, list(model.model_fields))
        return ConfigError(f"{entry.name} has no option {key!r}{hint}", file, line)
    if error["type"] == "missing" and len(error["loc"]) == 1:
        return ConfigError(f"{entry.name} needs the option {key!r}", file, line)
    place = ".".join(map(str, (entry.name, *error["loc"])))
    return ConfigError(f"{place}: {explain(error)}", file, line)
