"""The pipeline that a configuration asks for, or everything that is wrong with it at once.

A mistake hides no other: with one in the configuration, a plugin's file, its options or a file that it reads, all
others are still looked at as far as they can be, and what would only follow from a mistake is left out.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from gatepost.configuration.loader import collect_plugins
from gatepost.errors import ConfigError, in_order, raise_errors
from gatepost.ops.check.order import broken_signatures, missing_results
from gatepost.pipeline.pipeline import Pipeline
from gatepost.services.dns.resolver import open_resolver
from gatepost.services.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gatepost.configuration.config import Config
    from gatepost.configuration.loader import LoadedPlugin, Usage
    from gatepost.services.dns.resolver import Resolver
    from gatepost.services.store.store import Store


@dataclass(frozen=True, slots=True)
class Assembly:
    """A pipeline whose plugins' `init` has run, fit for use only if there are no `errors`."""

    pipeline: Pipeline
    errors: list[ConfigError]
    faulty: frozenset[str]
    """The plugins with a mistake; those of them that could be made are in the pipeline all the same."""


async def assemble(config: Config, store: Store, dns: Resolver | None = None, usage: Usage | None = None) -> Assembly:
    """Load the plugins and run their `init`, as far as they go; raises nothing that the administrator can mend.

    Without `dns` they share a resolver of their own. `usage` is filled with what they do with their services.
    """
    dns = dns or open_resolver(config.dns)
    # In a thread: a plugin's file may import half the world while the daemon serves.
    gathering = await asyncio.to_thread(collect_plugins, config, store, dns, usage)
    pipeline = Pipeline(gathering.plugins)
    try:
        failed = await pipeline.try_start()
    except asyncio.CancelledError:
        await pipeline.stop()
        raise
    errors = list(gathering.errors)
    for loaded in pipeline.plugins:
        # With a mistake in its options or hooks, only what it says of a further file is sure to be another one.
        uncertain = {config.file, loaded.file} if loaded.name in gathering.faulty else set()
        errors += [
            _at_its_key(error, loaded, config) for error in failed.get(loaded.name, ()) if error.file not in uncertain
        ]
    sound = [loaded for loaded in pipeline.plugins if loaded.name not in gathering.faulty]
    errors += broken_signatures(sound) + missing_results(sound)
    return Assembly(pipeline, in_order(errors), gathering.faulty | failed.keys())


def _at_its_key(error: ConfigError, loaded: LoadedPlugin, config: Config) -> ConfigError:
    """Return an error of an `init` that names its option, `addsig.directory: ...`, with the line of that option."""
    option = re.match(rf"{loaded.name}\.(\w+)\b", error.message)
    line = config.lines_of(loaded.name).get(option[1]) if option else None
    if line is None or (error.file, error.line) != loaded.place:
        return error
    return ConfigError(error.message, error.file, line)


async def load_pipeline(
    config: Config, store: Store, dns: Resolver | None = None, wrong: Iterable[ConfigError] = ()
) -> Pipeline:
    """Load every plugin and run its `init`; ConfigErrors with all that is wrong, and `wrong`, which is known already.

    Without `dns` the plugins share a resolver of their own.
    """
    assembly = await assemble(config, store, dns)
    if errors := [*wrong, *assembly.errors]:
        await assembly.pipeline.stop()
        raise_errors(errors)
    return assembly.pipeline


async def refuse(config: Config, wrong: Iterable[ConfigError]) -> NoReturn:
    """Raise what is wrong, together with whatever is wrong with the plugins; nothing is started and no store opened."""
    store = open_store("sqlite::memory:")
    try:
        await load_pipeline(config, store, wrong=wrong)
    finally:
        await store.close()
    raise AssertionError("refused without a reason")
