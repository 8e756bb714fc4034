"""From `[[plugin]]` entries to plugins: finds the files, runs them, checks everything that can be checked beforehand.

The administrator's own directory wins over the bundled plugins. A mistake keeps nothing else from being looked at.
"""

from __future__ import annotations

import inspect
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog

from gatepost.configuration.config import PluginEntry, did_you_mean, nearest
from gatepost.configuration.overrides import Catalogue, parse_overrides
from gatepost.configuration.plugin_file import check_methods, forget_module, hooks_of, line_in, load_class, one_line
from gatepost.configuration.plugin_options import check_options, examine_options
from gatepost.errors import ConfigError, in_order, raise_errors
from gatepost.hooks import HOOKS
from gatepost.plugin import Plugin, Services
from gatepost.services.dns.resolver import open_resolver
from gatepost.services.lists.watched_file import WatchedFile

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gatepost.configuration.config import Config
    from gatepost.option import Overrides, PluginOptions
    from gatepost.services.dns.resolver import Resolver
    from gatepost.services.store.store import Store

DEFAULT_DIRECTORY = Path("/etc/gatepost/hooks")

Place: TypeAlias = tuple[Path | None, int | None]
"""File and line of something in the configuration; None for what is not known."""


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


@dataclass(frozen=True, slots=True)
class _Shared:
    """What the services of all plugins have in common; `base` is where relative paths in options begin."""

    store: Store
    dns: Resolver
    base: Path
    catalogue: Catalogue
    places: Mapping[str, Place] = field(default_factory=dict)
    usage: Usage | None = None


class _Services(Services):
    def __init__(self, name: str, options: PluginOptions, shared: _Shared) -> None:
        self.store = shared.store
        self.dns = shared.dns
        self.base = shared.base
        level = logging.getLevelNamesMapping()[options.log_level.upper()]
        self.log = structlog.wrap_logger(
            None, wrapper_class=structlog.make_filtering_bound_logger(level), plugin=name
        ).bind()
        self._name = name
        self._options = options
        self._shared = shared

    def watch(self, path: Path, parse: Callable[[str, Path], Any]) -> WatchedFile[Any]:
        if self._shared.usage:
            self._shared.usage.files.append((self._name, path))
        try:
            return WatchedFile(path, parse)
        except ConfigError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            # What is to be mended is the line that names the file.
            key = next((key for key, value in self._options if value == path), "")
            places = self._shared.places
            place = places.get(f"{self._name}.{key}", places.get(self._name, (None, None)))
            missing = isinstance(error.__cause__, FileNotFoundError)
            remedy = "create it, or correct the path" if missing else "let the daemon's user read it"
            raise ConfigError(f"plugin {self._name}: {error.message}: {remedy}", *place) from error

    def parse_overrides(self, text: str, source: str) -> Overrides:
        overrides = parse_overrides(text, self._shared.catalogue, source)
        if self._shared.usage and overrides:
            self._shared.usage.overrides.append((self._name, overrides))
        return overrides


def bundled_directory() -> Path:
    """Return where the plugins that come with gatepost are: in the installed package, or `hooks/` of a checkout."""
    package = Path(__file__).parents[1]
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
        files |= _python_files(directory)
    return files


def _python_files(directory: Path) -> dict[str, Path]:
    return {
        file.stem: file
        for file in sorted(directory.glob("*.py") if directory.is_dir() else ())
        if file.stem.isidentifier() and file.stem[0] != "_"
    }


@dataclass(slots=True)
class Usage:
    """What plugins do with their services, by their names: kept for `gatepost check`, not by the daemon."""

    files: list[tuple[str, Path]] = field(default_factory=list)
    """The files that they watch."""
    overrides: list[tuple[str, Overrides]] = field(default_factory=list)
    """The options that they set for others, as far as their files do now."""


@dataclass(frozen=True, slots=True)
class Gathering:
    """The plugins as far as they can be made, in order, and everything wrong with any of them.

    `faulty` names those with a mistake. They are here, if they can be made at all, only so that their `init` can tell
    of more mistakes; what it says of its own plugin may be due to the mistake.
    """

    plugins: list[LoadedPlugin]
    errors: list[ConfigError]
    faulty: frozenset[str]

    def forget(self) -> None:
        """Let go of what was executed."""
        for loaded in self.plugins:
            forget_module(type(loaded.plugin))


def load_plugins(config: Config, store: Store, dns: Resolver | None = None) -> list[LoadedPlugin]:
    """Load every configured plugin, in order, also those that are off until an override says otherwise.

    Without `dns` they share a resolver of their own, made as `[dns]` says.
    Nothing is run but the files and the constructors.
    Raises ConfigErrors with everything wrong in any of them.
    """
    gathering = collect_plugins(config, store, dns)
    if gathering.errors:
        gathering.forget()
    raise_errors(gathering.errors)
    return gathering.plugins


def collect_plugins(config: Config, store: Store, dns: Resolver | None = None, usage: Usage | None = None) -> Gathering:
    """Load as `load_plugins` does, but return what can be made together with everything that is wrong."""
    wrong: list[ConfigError] = []
    try:
        files = plugin_files(config)
    except ConfigError as error:
        wrong.append(error)
        files = _python_files(bundled_directory())
    # With a wrong directory, a plugin that is not found may well be in the right one.
    are_files_known = not wrong and "hooks.directory" not in config.left_out
    candidates = [_examine(entry, files, config, are_files_known=are_files_known) for entry in config.plugins]
    missing = {name for one in candidates if one.plugin_class is None for name in one.possible_names(files)}
    catalogue = {one.name: one.plugin_class.options_class for one in candidates if one.plugin_class}
    shared = _Shared(
        store,
        dns or open_resolver(config.dns),
        config.base,
        Catalogue(catalogue, frozenset(files), frozenset(missing)),
        _places(config),
        usage,
    )
    plugins = []
    for one in candidates:
        if one.plugin_class is None:
            continue
        try:
            if one.options is not None:
                plugins.append(_make(one.name, one.plugin_class, one.options, files[one.name], shared))
                continue
        except ConfigError as error:
            # With another mistake in it, this may follow from that.
            one.errors += () if one.errors else error.each
        forget_module(one.plugin_class)
    errors = [*wrong, *(error for one in candidates for error in one.errors)]
    return Gathering(plugins, in_order(errors), frozenset(one.name for one in candidates if one.errors))


@dataclass(slots=True)
class _Candidate:
    """A plugin that the configuration names, as far as it is there, and what is wrong with it."""

    name: str
    plugin_class: type[Plugin[Any]] | None = None
    options: PluginOptions | None = None
    errors: list[ConfigError] = field(default_factory=list)

    def possible_names(self, files: Mapping[str, Path]) -> list[str]:
        """Return its name, and the one that was probably meant."""
        return [self.name, *nearest(self.name, files)]


def _examine(entry: PluginEntry, files: Mapping[str, Path], config: Config, *, are_files_known: bool) -> _Candidate:
    """Execute the plugin's file, and check its methods and options, each whatever is wrong with the other."""
    one = _Candidate(entry.name)
    file = files.get(entry.name)
    if file is None:
        problem = f"there is no plugin {entry.name!r}{did_you_mean(entry.name, list(files))}"
        one.errors += [ConfigError(problem, config.file, entry.place_of("name"))] if are_files_known else []
        return one
    try:
        one.plugin_class = load_class(file)
        check_methods(one.plugin_class, file)
    except ConfigError as error:
        one.errors += error.each
    if one.plugin_class is not None:
        one.options, invalid = examine_options(entry, one.plugin_class, config.file, config.base)
        one.errors += invalid
    return one


def _places(config: Config) -> dict[str, Place]:
    """Return where each entry (`greylist`) and each of its options (`greylist.timeout`) stands."""
    places: dict[str, Place] = {}
    for entry in config.plugins:
        places[entry.name] = (config.file, entry.line)
        places |= {f"{entry.name}.{key}": (config.file, line) for key, line in (entry.lines or {}).items()}
    return places


def plugin_of_class(
    plugin_class: type[Plugin[Any]], options: Mapping[str, Any], store: Store, dns: Resolver
) -> LoadedPlugin:
    """Make a plugin from a class, named after it in snake_case; ConfigError as for a file. For the test kit."""
    name, path = snake_case(plugin_class.__name__), Path(inspect.getfile(plugin_class))
    check_methods(plugin_class, path)
    checked = check_options(PluginEntry(name, dict(options)), plugin_class, None, Path.cwd())
    return make_plugin(name, plugin_class, checked, path, store, dns)


def snake_case(name: str) -> str:
    """Return a class's name as a plugin's: `CountDenies` is `count_denies`."""
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in name).lstrip("_")


def make_plugin(
    name: str, plugin_class: type[Plugin[Any]], options: PluginOptions, file: Path, store: Store, dns: Resolver
) -> LoadedPlugin:
    """Make one plugin by itself, of a class that is there already; ConfigError when its constructor fails."""
    catalogue = Catalogue({name: plugin_class.options_class})
    return _make(name, plugin_class, options, file, _Shared(store, dns, Path.cwd(), catalogue))


def _make(
    name: str, plugin_class: type[Plugin[Any]], options: PluginOptions, file: Path, shared: _Shared
) -> LoadedPlugin:
    try:
        plugin = plugin_class(name, options, _Services(name, options, shared))
    except (Exception, SystemExit) as error:
        problem = f"plugin {name} cannot be made: {type(error).__name__}: {one_line(error)}"
        raise ConfigError(problem, file, line_in(error, file)) from error
    return LoadedPlugin(name, plugin, hooks_of(plugin_class), file, shared.places.get(name, (None, None)))
