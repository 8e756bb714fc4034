"""Settings that are right each by itself, and do not do what one would think."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from gatepost.configuration.config import StoreSection
from gatepost.configuration.loader import bundled_directory
from gatepost.doors.milter_socket import directory_problem
from gatepost.endpoint import Endpoint
from gatepost.errors import ConfigError
from gatepost.ops.check.finding import Finding
from gatepost.option import NeedsEdge, Overrides
from gatepost.session import Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gatepost.configuration.config import Config
    from gatepost.configuration.loader import LoadedPlugin, Place, Usage
    from gatepost.option import PluginOptions

REPLY_MARGIN_S = 10.0
"""Every reply is given this long before proxy.front_timeout is over (docs: "Time")."""

HARD_ERROR_LIMIT = 20
"""Postfix's default smtpd_hard_error_limit, at which the front hangs up; `postfix doctor` looks at the real one."""


def store_problems(config: Config) -> list[ConfigError]:
    """Return what would keep the store's file from being opened, as far as can be told without opening it."""
    path = _store_file(config)
    # The daemon makes the default directory itself.
    if path is None or config.store.url == StoreSection().url:
        return []
    if not path.parent.is_dir():
        problem = f"[store] url: the directory {path.parent} does not exist; create it or name another"
    elif path.is_dir():
        problem = f"[store] url: {path} is a directory; name a file in it"
    else:
        return []
    return [ConfigError(problem, *config.place("store.url"))]


def store_directory(config: Config) -> Path | None:
    """Return the directory in which the store's files are, if it is there already."""
    path = _store_file(config)
    return path.parent if path and path.parent.is_dir() else None


def _store_file(config: Config) -> Path | None:
    kind, _, rest = config.store.url.partition(":")
    return Path("/", rest.lstrip("/")) if kind == "sqlite" and rest.startswith("/") else None


def findings(config: Config, plugins: Sequence[LoadedPlugin]) -> Iterator[Finding]:
    """Yield what the sections and the plugins' options come to together."""
    problem = directory_problem(Endpoint.parse(config.milter.socket))
    if problem and "milter.socket" not in config.left_out:
        yield Finding.warning(problem, _place(config, "milter.socket"))
    yield from _recipients_that_disagree(config)
    yield from _timeouts(config, plugins)
    yield from _shadows(plugins)


def _place(config: Config, key: str) -> tuple[Path | None, int | None]:
    """Return the place of a key, of its section where it is not set."""
    file, line = config.place(key)
    return file, line or config.lines.get(key.partition(".")[0])


def _recipients_that_disagree(config: Config) -> Iterator[Finding]:
    place = config.place("content.defer_limit")
    if config.content.disagree == "lenient":
        if place[1] is not None:
            yield Finding.note('content.defer_limit has no effect while content.disagree = "lenient"', place)
    elif config.content.defer_limit >= HARD_ERROR_LIMIT:
        yield Finding.warning(
            f"content.defer_limit {config.content.defer_limit}: Postfix hangs up on a client after "
            f"{HARD_ERROR_LIMIT} refusals (smtpd_hard_error_limit), deferrals too: set it well below that",
            place,
        )


def _timeouts(config: Config, plugins: Sequence[LoadedPlugin]) -> Iterator[Finding]:
    longest_s = config.proxy.front_timeout - REPLY_MARGIN_S
    for loaded in plugins:
        timeout_s = loaded.plugin.options().timeout
        line = config.lines_of(loaded.name).get("timeout")
        # The default may well be longer: nobody has asked for that.
        if line is not None and timeout_s > longest_s:
            yield Finding.note(
                f"{loaded.name}.timeout is cut to {longest_s:g} s, {REPLY_MARGIN_S:g} s before proxy.front_timeout",
                (config.file, line),
            )


def overrides_that_fail(plugins: Sequence[LoadedPlugin], usage: Usage) -> Iterator[Finding]:
    """Warn of options of a file, each good by itself, that do not go together with those of the configuration.

    The plugin fails where they are in force: its `on_error` decides what the client is told.
    """
    tried: set[tuple[str, str]] = set()
    by_name = {loaded.name: loaded.plugin for loaded in plugins}
    for _, overrides in usage.overrides:
        for name, values in overrides.values.items():
            key = (name, repr(values))
            if name not in by_name or key in tried:
                continue
            tried.add(key)
            try:
                by_name[name].options(Session("check", "unknown", overrides=(Overrides({name: values}),)))
            except ConfigError as error:
                problem = f"{error.message}: change one of them, the plugin fails where they come together"
                yield Finding.warning(problem, _place_of(overrides))


def without_edge(config: Config, plugins: Sequence[LoadedPlugin], usage: Usage) -> Iterator[Finding]:
    """Warn of options that are set and do nothing while the edge door is off; in the files of plugins, of each once."""
    if config.milter.edge:
        return
    marked = {loaded.name: _needing_edge(loaded) for loaded in plugins}
    by_name = {loaded.name: loaded.plugin for loaded in plugins}
    told: set[tuple[str, str]] = set()
    for loaded in plugins:
        lines = config.lines_of(loaded.name)
        for option in sorted(_changed(loaded.plugin.options(), marked[loaded.name]) & lines.keys()):
            yield Finding.warning(_idle(loaded.name, option), (config.file, lines[option]))
            told.add((loaded.name, option))
    for _, overrides in usage.overrides:
        for name, values in overrides.values.items():
            if not (wanted := marked.get(name, frozenset()) & values.keys()):
                continue
            with suppress(ConfigError):  # `overrides_that_fail` says so.
                options = by_name[name].options(Session("check", "unknown", overrides=(Overrides({name: values}),)))
                for option in sorted(_changed(options, wanted)):
                    if (name, option) not in told:
                        told.add((name, option))
                        yield Finding.warning(_idle(name, option), _place_of(overrides))


def _needing_edge(loaded: LoadedPlugin) -> frozenset[str]:
    fields = type(loaded.plugin.options()).model_fields
    return frozenset(name for name, field in fields.items() if NeedsEdge in field.metadata)


def _changed(options: PluginOptions, names: frozenset[str]) -> set[str]:
    fields = type(options).model_fields
    return {name for name in names if getattr(options, name) != fields[name].get_default(call_default_factory=True)}


def _idle(plugin: str, option: str) -> str:
    return f"{plugin}.{option} does nothing without the edge door: set edge = true in [milter]"


def _place_of(overrides: Overrides) -> Place:
    file, _, line = overrides.source.rpartition(":")
    return (Path(file), int(line)) if line.isdecimal() else (None, None)


def _shadows(plugins: Sequence[LoadedPlugin]) -> Iterator[Finding]:
    for loaded in plugins:
        bundled = bundled_directory() / loaded.file.name
        if loaded.file.parent != bundled.parent and bundled.is_file():
            problem = (
                f"{loaded.name} is your own {loaded.file}, which takes the place of the bundled plugin of that name"
            )
            yield Finding.note(problem, loaded.place)
