"""What the configured plugins ask of Postfix: which recipients there are, and whether their options can disagree.

Plugins are loaded but not started: their `init` may reach services, and the doctor looks at Postfix only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from gatepost.configuration.loader import load_plugins
from gatepost.pipeline.pipeline import Pipeline
from gatepost.services.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gatepost.address import Address
    from gatepost.configuration.config import Config
    from gatepost.configuration.loader import LoadedPlugin
    from gatepost.option import Overrides


class Listing(Protocol):
    """One recipient that a plugin knows.

    `targets` are those written there, `ends` where its mail goes in the end: itself, where nothing else is said.
    """

    @property
    def address(self) -> Address:
        """The recipient; the local part `*` stands for every one of the domain."""

    @property
    def targets(self) -> tuple[Address, ...]:
        """The targets as written."""

    @property
    def ends(self) -> tuple[Address, ...]:
        """The final targets."""

    @property
    def overrides(self) -> Overrides:
        """The recipient's options; `source` is FILE:LINE."""


class KnowsRecipients(Protocol):
    """A plugin that decides which recipients there are, by a property of this name; `hooks/aliases.py` is one."""

    @property
    def recipients(self) -> Iterable[Listing]:
        """All of them, read afresh; works without `init`."""


@dataclass(frozen=True, slots=True)
class Roster:
    """What the loaded plugins know: `late` are those with data or content hooks."""

    listings: Sequence[Listing]
    late: frozenset[str]

    @property
    def disagreeing(self) -> Listing | None:
        """A recipient whose options differ in a plugin that looks at a message only once; None if there is none."""
        return next((one for one in self.listings if not self.late.isdisjoint(one.overrides.values)), None)


async def read(config: Config) -> Roster:
    """Load the plugins, on a store in memory so that a live daemon's is not touched; ConfigErrors if they are wrong."""
    store = open_store("sqlite::memory:")
    try:
        pipeline = Pipeline(load_plugins(config, store))
        listings = [listing for loaded in pipeline.plugins for listing in _listings(loaded)]
        late = frozenset(one.name for one in pipeline.plugins if one.reads_content or "data" in one.hooks)
        await pipeline.stop()
    finally:
        await store.close()
    return Roster(listings, late)


def _listings(loaded: LoadedPlugin) -> Iterable[Listing]:
    # Asked of the class: to ask the plugin would read the file. One that only observes redirects and overrides nothing.
    knows = isinstance(getattr(type(loaded.plugin), "recipients", None), property)
    if knows and loaded.plugin.options().mode == "enforce":
        return cast("KnowsRecipients", loaded.plugin).recipients
    return ()
