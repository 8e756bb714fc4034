"""What plugin authors subclass.

A method named after a hook (`gatepost.hooks`) is registered for it; the table says with which arguments, and what it
may answer. `async def` hooks may await; plain `def` hooks are for work under a millisecond (one that has to wait
now and then may return a coroutine), or run in a thread when the class says `blocking = True`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Generic, cast, get_args

from pydantic import ValidationError
from typing_extensions import TypeVar

from gatepost.errors import ConfigError, Unavailable
from gatepost.option import Overrides, PluginOptions
from gatepost.services.processor import in_thread
from gatepost.services.scanners.upstream import Upstreams
from gatepost.session import Recipient, Session, Transaction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Sequence
    from pathlib import Path

    import structlog.typing

    from gatepost.endpoint import Endpoint
    from gatepost.message.message import Message
    from gatepost.services.dns.resolver import Resolver
    from gatepost.services.lists.watched_file import WatchedFile
    from gatepost.services.store.store import Store

T = TypeVar("T")
O = TypeVar("O", bound=PluginOptions, default=PluginOptions)  # noqa: E741 - reads as Plugin[O]

Scope = Session | Transaction | Recipient | None

_CACHE_LIMIT = 10_000
"""Resolved option sets kept per plugin: more than a large file has distinct ones. A full cache is emptied."""


class Services:
    """What the daemon lends to a plugin: the store, DNS, watched files, a reader of overrides, a logger.

    An interface; the daemon and `gatepost.testing` each make theirs.
    """

    store: Store
    dns: Resolver
    log: structlog.typing.FilteringBoundLogger
    base: Path
    """The directory to which relative paths in options refer."""

    def watch(self, path: Path, parse: Callable[[str, Path], Any]) -> WatchedFile[Any]:
        """Return the file at `path`, parsed, and parsed again whenever it changes."""
        raise LookupError("these services watch no files")

    def parse_overrides(self, text: str, source: str) -> Overrides:
        """Parse `greylist=off, addsig.mode=observe` into checked overrides; ConfigError without a place otherwise."""
        raise LookupError("these services read no overrides")


class Plugin(Generic[O]):
    """A rule: some methods named after hooks, and options.

    `class Example(Plugin[Options])` has the options of the pydantic model `Options`; `class Example(Plugin)` has only
    the universal ones. Do work that may fail in `init`, not in `__init__`.
    """

    blocking: ClassVar[bool] = False
    """True: the plain `def` hooks run in a thread and may block."""

    threads: ClassVar[int] = 8
    """How many threads a `blocking` plugin has: enough to use the cores and to wait for a server, few enough that a
    plugin gone wrong does not eat the memory."""

    signs: ClassVar[bool] = False
    """True: it signs the message, so its edits must be the last. `gatepost check` refuses an editor after it."""

    scanner: ClassVar[bool] = False
    """True: its data_post hook judges the message as it is before the scanners next to it in the list, and runs side by
    side with them. Verdicts count in the order of the list; edits are put together in it. It must not set options or
    whitelist. One that makes no edits at all may stand after a plugin that signs."""

    after: ClassVar[tuple[str, ...]] = ()
    """Plugins whose results it reads: `gatepost check` refuses one of them, if loaded, that stands behind it."""

    needs: ClassVar[tuple[str, ...]] = ()
    """Those of `after` without each of which it does nothing: `gatepost check` warns where one is not loaded."""

    verifies: ClassVar[bool] = False
    """True: it checks signatures of the message. `gatepost check` warns of an editor before it, which may break one."""

    options_class: ClassVar[type[PluginOptions]] = PluginOptions

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Take the options class from `Plugin[Options]`."""
        super().__init_subclass__(**keywords)
        for base in getattr(cls, "__orig_bases__", ()):
            for argument in get_args(base):
                if isinstance(argument, type) and issubclass(argument, PluginOptions):
                    cls.options_class = argument

    def __init__(self, name: str, options: O, services: Services) -> None:
        self.name = name
        self.log = services.log
        self.store = services.store
        self.services = services
        self._options = options
        self._configured = options.model_dump(exclude_unset=True)
        self._resolved: dict[tuple[str, ...], O] = {}

    @property
    def dns(self) -> Resolver:
        """The DNS resolver that all plugins share."""
        return self.services.dns

    def options(self, scope: Scope = None) -> O:
        """Return the options in force for `scope`: None for the configured ones, else with what overrides change.

        A Session has those of its client; a Transaction adds those of the sender and, in the data and content hooks, of
        the recipients; a Recipient has all of its own. The later, narrower override wins. Raises ConfigError when
        overrides, each good by itself, do not go together.
        """
        chain = _chain(scope)
        if not chain:
            return self._options
        fields = [values for overrides in chain if (values := overrides.values.get(self.name))]
        if not fields:
            return self._options
        key = tuple(map(repr, fields))
        resolved = self._resolved.get(key)
        if resolved is None:
            if len(self._resolved) >= _CACHE_LIMIT:
                self._resolved.clear()
            merged = dict(self._configured)
            for values in fields:
                merged.update(values)
            resolved = self._resolved[key] = cast("O", self._validate(merged, chain))
        return resolved

    def _validate(self, fields: dict[str, Any], chain: tuple[Overrides, ...]) -> PluginOptions:
        try:
            return self.options_class.model_validate(fields, context={"base": self.services.base})
        except ValidationError as invalid:
            problems = "; ".join(error["msg"].removeprefix("Value error, ") for error in invalid.errors())
            sources = " and ".join(overrides.source for overrides in chain if overrides.source)
            by = f" by {sources}" if sources else ""
            raise ConfigError(f"the options of {self.name}, as overridden{by}, are not valid: {problems}") from invalid

    def notes(self, scope: Session | Transaction | Recipient) -> dict[str, Any]:
        """Return this plugin's own notes on `scope`, to read and write; plain data only.

        They live as long as the scope does. Another plugin's are at `scope.notes[NAME]`.
        """
        return scope.notes.setdefault(self.name, {})

    async def once(self, message: Message, work: Callable[[], Awaitable[T]], *key: Hashable) -> T:
        """Return what `work` finds in the message, which is done once for all runs and scanners that see this content.

        `key` is what the result depends on beside the content, such as the user a scanner is asked for; the plugin's
        own name is part of it. Unavailable is kept as a result is: a server that did not answer is not asked again
        about the same message. The result is shared: do not change it.
        """
        found, place = message.view.found, (self.name, *key)
        if place not in found:
            try:
                found[place] = await work()
            except Unavailable as error:
                found[place] = error
        result = found[place]
        if isinstance(result, Unavailable):
            raise result
        return cast("T", result)

    async def in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run what needs the processor for longer than a millisecond in one of the few threads kept for that.

        Give it the message that it is about as an argument: large ones have threads of their own.

        For work that ends by itself: parsing, cryptography; a thread cannot be stopped. What waits for servers belongs
        into `async def`, or into a `blocking` plugin.
        """
        return await in_thread(work, *arguments)

    def upstreams(self, endpoints: Sequence[Endpoint]) -> Upstreams:
        """Return a service that runs on one or several servers; made once, in `init`."""
        return Upstreams(self.name, endpoints, self.log)

    def watch(self, path: Path | str, parse: Callable[[str, Path], Any]) -> WatchedFile[Any]:
        """Return a text file that is parsed now and again whenever it changes; `.value` is the newest good version.

        A relative `path` begins in the directory of the configuration file.
        `parse` takes the text and the path and raises ConfigError for a bad line: at the start that stops the start,
        later it is logged and the old version stays in force.
        """
        return self.services.watch(self.services.base / path, parse)

    def parse_overrides(self, text: str, source: str) -> Overrides:
        """Parse option overrides as files write them: `greylist=off, greylist.black_timeout=5m`.

        `source` tells people where the text stands (`FILE:LINE`). Raises ConfigError without a place for a bad one; an
        option of a plugin that is not loaded is only logged.
        """
        return self.services.parse_overrides(text, source)


def _chain(scope: Scope) -> tuple[Overrides, ...]:
    match scope:
        case None:
            return ()
        case Session():
            return scope.overrides
        case Transaction():
            return scope.session.overrides + scope.overrides
        case Recipient():
            return scope.transaction.session.overrides + scope.transaction.overrides + scope.overrides
