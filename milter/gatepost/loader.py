"""From `[[plugin]]` entries to plugins: finds the files, runs them, checks everything that can be checked beforehand.

The administrator's own directory wins over the bundled plugins. Each file is executed under a private module name, so
that `hooks/spf.py` never shadows a library `spf`, and afresh at every load, so that a reload sees every edit.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import sys
import types
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog
from pydantic import PydanticUserError, ValidationError

from gatepost.config import did_you_mean, explain
from gatepost.errors import ConfigError, ConfigErrors
from gatepost.hooks import EVENTS, HOOKS
from gatepost.overrides import parse_overrides
from gatepost.plugin import Plugin, Services
from gatepost.returned_verdicts import forbidden_verdicts
from gatepost.services.watched_file import WatchedFile

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from gatepost.config import Config, PluginEntry
    from gatepost.option import Overrides, PluginOptions
    from gatepost.services.store import Store

DEFAULT_DIRECTORY = Path("/etc/gatepost/hooks")

Place: TypeAlias = tuple[Path | None, int | None]
"""File and line of something in the configuration; None for what is not known."""

_PACKAGE = "gatepost_hooks"
_generation = itertools.count(1)


@dataclass(frozen=True, slots=True)
class LoadedPlugin:
    """A plugin ready to run: its instance, the hooks it takes part in (in the table's order), and its file."""

    name: str
    plugin: Plugin[Any]
    hooks: tuple[str, ...]
    file: Path
    place: Place = (None, None)
    """File and line of the `[[plugin]]` that asked for it."""

    @property
    def reads_content(self) -> bool:
        """True when it has a hook that needs the message's header or body."""
        return any(HOOKS[hook].reads_content for hook in self.hooks)


class _Services(Services):
    def __init__(
        self,
        name: str,
        options: PluginOptions,
        store: Store,
        base: Path,
        catalogue: Mapping[str, type[PluginOptions]],
        known: Collection[str],
        places: Mapping[str, Place],
    ) -> None:
        self.store = store
        self.base = base
        level = logging.getLevelNamesMapping()[options.log_level.upper()]
        self.log = structlog.wrap_logger(
            None, wrapper_class=structlog.make_filtering_bound_logger(level), plugin=name
        ).bind()
        self._catalogue = catalogue
        self._known = known
        self._name = name
        self._options = options
        self._places = places

    def watch(self, path: Path, parse: Callable[[str, Path], Any]) -> WatchedFile[Any]:
        try:
            return WatchedFile(path, parse)
        except ConfigError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            # What is to be mended is the line that names the file.
            key = next((key for key, value in self._options if value == path), "")
            place = self._places.get(f"{self._name}.{key}", self._places.get(self._name, (None, None)))
            raise ConfigError(f"plugin {self._name}: {error.message}", *place) from error

    def parse_overrides(self, text: str, source: str) -> Overrides:
        return parse_overrides(text, self._catalogue, self._known, source)


def bundled_directory() -> Path:
    """Return where the plugins that come with gatepost are: in the installed package, or `hooks/` of a checkout."""
    package = Path(__file__).parent
    installed = package / "_share" / "hooks"
    return installed if installed.is_dir() else package.parents[1] / "hooks"


def plugin_files(config: Config) -> dict[str, Path]:
    """Return every plugin that the configuration could name, and its file; ConfigError for a missing directory."""
    own = config.hooks.directory
    if own is not None:
        own = config.base / own
        if not own.is_dir():
            problem = f"[hooks] directory {own} is not there: create it, or correct the path"
            raise ConfigError(problem, *config.place("hooks.directory"))
    files: dict[str, Path] = {}
    for directory in (bundled_directory(), own or DEFAULT_DIRECTORY):
        if directory.is_dir():
            files |= {
                file.stem: file
                for file in sorted(directory.glob("*.py"))
                if file.stem.isidentifier() and file.stem[0] != "_"
            }
    return files


def load_plugins(config: Config, store: Store) -> list[LoadedPlugin]:
    """Load every configured plugin, in order, also those that are off until an override says otherwise.

    Nothing is run but the files and the constructors.
    Raises ConfigErrors with everything wrong in any of them.
    """
    files = plugin_files(config)
    errors: list[ConfigError] = []
    classes: dict[str, type[Plugin[Any]]] = {}
    options: dict[str, PluginOptions] = {}
    for entry in config.plugins:
        try:
            classes[entry.name] = _load_class(entry, files, config)
            options[entry.name] = check_options(entry, classes[entry.name], config.file, config.base)
        except ConfigErrors as several:
            errors += several.errors
        except ConfigError as error:
            errors.append(error)
    if errors:
        raise errors[0] if len(errors) == 1 else ConfigErrors(errors)
    places: dict[str, Place] = {}
    for entry in config.plugins:
        places[entry.name] = (config.file, entry.line)
        places |= {f"{entry.name}.{key}": (config.file, line) for key, line in (entry.lines or {}).items()}
    return instantiate(classes, options, files, store, config.base, set(files), places)


def instantiate(
    classes: Mapping[str, type[Plugin[Any]]],
    options: Mapping[str, PluginOptions],
    files: Mapping[str, Path],
    store: Store,
    base: Path,
    known: Collection[str] = (),
    places: Mapping[str, Place] | None = None,
) -> list[LoadedPlugin]:
    """Make the plugins, in the order of `classes`; ConfigError when a constructor fails.

    `base` is where relative paths in options begin; `known` are the names of other plugins that could be loaded;
    `places` has file and line of each plugin's entry (`greylist`) and of its options (`greylist.timeout`).
    """
    places = places or {}
    catalogue = {name: plugin_class.options_class for name, plugin_class in classes.items()}
    loaded = []
    for name, plugin_class in classes.items():
        services = _Services(name, options[name], store, base, catalogue, known, places)
        file = files[name]
        try:
            plugin = plugin_class(name, options[name], services)
        except (Exception, SystemExit) as error:
            problem = f"plugin {name} cannot be made: {type(error).__name__}: {error}"
            raise ConfigError(problem, file, line_in(error, file)) from error
        place = places.get(name, (None, None))
        loaded.append(LoadedPlugin(name, plugin, _hooks_of(plugin_class), file, place))
    return loaded


def _load_class(entry: PluginEntry, files: Mapping[str, Path], config: Config) -> type[Plugin[Any]]:
    path = files.get(entry.name)
    if path is None:
        raise ConfigError(
            f"there is no plugin {entry.name!r}{did_you_mean(entry.name, list(files))}", config.file, entry.line
        )
    module = _execute(path)
    found = [
        value
        for value in dict.fromkeys(value for value in vars(module).values() if isinstance(value, type))
        if issubclass(value, Plugin) and value.__module__ == module.__name__
    ]
    leaves = [cls for cls in found if not any(other is not cls and issubclass(other, cls) for other in found)]
    if len(leaves) != 1:
        raise ConfigError(f"a plugin file has one class that subclasses gatepost.Plugin; here are {len(leaves)}", path)
    check_methods(leaves[0], path)
    return leaves[0]


def _execute(path: Path) -> types.ModuleType:
    module = types.ModuleType(f"{_PACKAGE}.g{next(_generation)}.{path.stem}")
    module.__file__ = str(path)
    # pydantic and dataclasses look annotations up in sys.modules.
    sys.modules[module.__name__] = module
    try:
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)
    except SyntaxError as error:
        raise ConfigError(f"not Python: {error.msg}", path, error.lineno) from error
    except OSError as error:
        raise ConfigError(f"cannot read the plugin: {error.strerror}", path) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"cannot be loaded: {type(error).__name__}: {error}", path, line_in(error, path)) from error
    return module


def forget_module(plugin: Plugin[Any]) -> None:
    """Let go of the module that a plugin's file was executed as, so that reloads do not pile them up."""
    name = type(plugin).__module__
    if name.startswith(_PACKAGE):
        sys.modules.pop(name, None)


def line_in(error: BaseException, path: Path) -> int | None:
    """Return the last line of `path` on the way to the error; None if it never got there."""
    lines = []
    traceback = error.__traceback__
    while traceback:
        if traceback.tb_frame.f_code.co_filename == str(path):
            lines.append(traceback.tb_lineno)
        traceback = traceback.tb_next
    return lines[-1] if lines else None


def _hooks_of(plugin_class: type[Plugin[Any]]) -> tuple[str, ...]:
    return tuple(name for name in HOOKS if hasattr(plugin_class, name))


def check_methods(plugin_class: type[Plugin[Any]], path: Path) -> None:
    """Raise ConfigErrors for public methods that are no hooks, wrong arguments, and verdicts that a hook forbids."""
    errors = []
    for name, member in inspect.getmembers(plugin_class):
        if name.startswith("_") or hasattr(Plugin, name):
            continue
        if not inspect.isfunction(member):
            if name in HOOKS or name in EVENTS:
                kind = type(member).__name__
                errors.append(ConfigError(f"{name} is the name of a hook, and here it is a {kind}: rename it", path))
            continue
        line = member.__code__.co_firstlineno
        if name not in HOOKS and name not in EVENTS:
            problem = f"{name} is no hook, and a method of your own begins with an underscore"
            errors.append(ConfigError(problem + did_you_mean(name, [*HOOKS, *EVENTS]), path, line))
            continue
        wanted = HOOKS[name].arguments if name in HOOKS else ()
        try:
            inspect.signature(member).bind(None, *wanted)
        except TypeError:
            arguments = ", ".join(("self", *wanted))
            errors.append(ConfigError(f"{name} has the wrong arguments: write def {name}({arguments})", path, line))
            continue
        if name in HOOKS:
            errors += [
                ConfigError(f"the {name} hook may not answer {verdict}: {allowed}", path, line)
                for line, verdict, allowed in forbidden_verdicts(member, HOOKS[name])
            ]
    if errors:
        raise errors[0] if len(errors) == 1 else ConfigErrors(errors)


def check_options(entry: PluginEntry, plugin_class: type[Plugin[Any]], file: Path | None, base: Path) -> PluginOptions:
    """Return the entry's options, typed; ConfigErrors with a line of `file` for each that is wrong.

    Relative paths among them begin in `base`.
    """
    model = plugin_class.options_class
    try:
        return model.model_validate(entry.options, context={"base": base})
    except PydanticUserError as unusable:
        # An annotation that names nothing: found only now, when the model is completed.
        problem = f"the options of {entry.name} cannot be used: {str(unusable.message).splitlines()[0]}"
        raise ConfigError(problem, inspect.getfile(plugin_class)) from unusable
    except ValidationError as invalid:
        errors = []
        for error in invalid.errors():
            key = str(error["loc"][0]) if error["loc"] else ""
            line = (entry.lines or {}).get(key, entry.line)
            if error["type"] == "extra_forbidden" and len(error["loc"]) == 1:
                hint = did_you_mean(key, list(model.model_fields))
                errors.append(ConfigError(f"{entry.name} has no option {key!r}{hint}", file, line))
            elif error["type"] == "missing" and len(error["loc"]) == 1:
                errors.append(ConfigError(f"{entry.name} needs the option {key!r}", file, line))
            else:
                place = ".".join(map(str, (entry.name, *error["loc"])))
                errors.append(ConfigError(f"{place}: {explain(error)}", file, line))
        errors.sort(key=lambda error: error.line or 0)
        raise errors[0] if len(errors) == 1 else ConfigErrors(errors) from invalid
