"""The plugins of the demo: its own or those of a configuration file, on the demo's files and with its short periods."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gatepost.configuration.config import Config, HooksSection, PluginEntry, load_config
from gatepost.configuration.loader import DEFAULT_DIRECTORY
from gatepost.ops.assembly import load_pipeline
from gatepost.services.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gatepost.configuration.loader import LoadedPlugin

OWN: Final = ("client_options", "aliases", "greylist", "addsig", "count_denies", "loop")
"""The plugins without `--config`, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class PluginSet:
    """The `[[plugin]]` entries as the demo's daemon gets them, and the plugins that were loaded from them on trial."""

    entries: tuple[PluginEntry, ...]
    loaded: Mapping[str, LoadedPlugin]
    hooks: Path
    """The directory of the administrator's own plugins."""

    @classmethod
    def choose(cls, file: Path | None, given: Mapping[str, Mapping[str, Any]], no_hooks: Path) -> PluginSet:
        """Return the plugins of `file`, or the demo's own, with the options that the demo gives to some of them.

        Of the file, only the `[[plugin]]` tables and the directory of their hooks count. Without it the bundled plugins
        are taken, for `no_hooks` is an empty directory. The plugins are initialised once, and stopped: what is wrong
        with them raises ConfigError with the file's own lines, before anything is started.
        """
        if file is None:
            config = Config(plugins=tuple(PluginEntry(name, {}) for name in OWN))
            hooks = no_hooks
        else:
            config = load_config(file)
            hooks = config.base / (config.hooks.directory or DEFAULT_DIRECTORY)
            if config.hooks.directory is None and not hooks.is_dir():
                hooks = no_hooks
        entries = tuple(
            replace(entry, options={**entry.options, **given.get(entry.name, {})}) for entry in config.plugins
        )
        # The file's other sections are not the demo's, but `file` stays: errors and relative paths refer to it.
        trial = Config(file=config.file, hooks=HooksSection(directory=hooks), plugins=entries)
        return cls(entries, asyncio.run(_load(trial)), hooks)

    def option(self, plugin: str, name: str, default: object) -> Any:
        """Return an option's value as configured; `default` without the plugin, or if it has no such option."""
        loaded = self.loaded.get(plugin)
        return default if loaded is None else getattr(loaded.plugin.options(), name, default)

    def tables(self) -> str:
        """Return the `[[plugin]]` tables as text that means the same wherever it is put."""
        lines = []
        for entry in self.entries:
            lines += ["", "[[plugin]]", f"name = {_toml(entry.name)}"]
            for key, value in entry.options.items():
                # A relative path has been completed by the loader.
                path = self.option(entry.name, key, None)
                lines.append(f"{_toml(key)} = {_toml(str(path) if isinstance(path, Path) else value)}")
        return "\n".join([*lines, ""])


async def _load(config: Config) -> dict[str, LoadedPlugin]:
    store = open_store("sqlite::memory:")
    try:
        pipeline = await load_pipeline(config, store)
        await pipeline.stop()
    finally:
        await store.close()
    return {loaded.name: loaded for loaded in pipeline.plugins}


def _toml(value: object) -> str:
    """Write a value that tomllib has read."""
    match value:
        case str():
            # JSON's escapes are TOML's; only DEL must be escaped in TOML alone.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(map(_toml, value))}]"
        case dict():
            return "{" + ", ".join(f"{_toml(key)} = {_toml(item)}" for key, item in value.items()) + "}"
    # Numbers and dates look the same in both languages.
    return str(value)
