"""The daemon: starts everything in order, reloads on SIGHUP, ends on SIGTERM or SIGINT with nothing half-done.

Order of the start: configuration, store, plugins, proxy port and milter socket, and only then is anybody served. What
was opened is closed again when a later step fails, or SIGTERM comes. At the end, messages under way are finished first.
"""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from gatepost.configuration.config import Config, StoreSection, read_config
from gatepost.doors.farewell import FarewellConnection
from gatepost.doors.milter_socket import SocketError
from gatepost.doors.milterd import MilterDoor
from gatepost.doors.proxy import ProxyConnection
from gatepost.doors.switchboard import Switchboard
from gatepost.endpoint import Endpoint
from gatepost.errors import ConfigError
from gatepost.ops.assembly import load_pipeline, refuse
from gatepost.ops.listener import Listener, open_listener, take_inherited
from gatepost.ops.notification import Notifier
from gatepost.services.dns.resolver import open_resolver
from gatepost.services.store.store import open_store

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from gatepost.pipeline.pipeline import Pipeline
    from gatepost.services.dns.resolver import Resolver
    from gatepost.services.store.store import Store

GREETED_S = 1.0
"""How long, at the end, a connection that has said no MAIL yet is waited for: the front says it at once."""

_log = structlog.get_logger("gatepost.service")


class Service:
    """One daemon, to be `run` once."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._notifier = Notifier()
        self._stopping = asyncio.Event()
        self._serving = asyncio.Event()
        self._milter_is_lost = False
        self._reload_is_due = False
        """Another SIGHUP before the reload has begun asks for nothing more."""
        self._tasks: set[asyncio.Task[None]] = set()
        """Those that are cancelled at the end."""
        self._retiring: set[asyncio.Task[None]] = set()
        """Those that are awaited: an old pipeline's last message is done by then."""
        self._reloading = asyncio.Lock()
        self._farewells: set[FarewellConnection] = set()
        self.store: Store
        self.dns: Resolver
        self.board: Switchboard
        self._door: MilterDoor
        self._listener: Listener

    async def run(self) -> None:
        """Start, serve, and end in order on SIGTERM or SIGINT, also while it is still starting; SIGHUP reloads.

        ConfigError for what the administrator wrote, SocketError for a socket that cannot be had or was lost.
        """
        self._take_signals()
        with self._notifier:
            if await self._unless_stopped(self._start()):
                self._serving.set()
                self._notifier.ready(self._status("serving"))
                await self._stopping.wait()
                await self._stop()
            else:
                _log.info("stopped before it was ready")
        if self._milter_is_lost:
            raise SocketError("the milter had ended by itself: start the daemon again")

    async def _unless_stopped(self, work: Coroutine[None, None, None]) -> bool:
        """Return True once `work` is done; False if a signal ended it before. Raises what it raises."""
        task = asyncio.create_task(work)
        stopped = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        if task.cancelled():
            return False
        await task
        return True

    async def _start(self) -> None:
        received = take_inherited()
        _make_state_directory(self.config)
        try:
            self.store = open_store(self.config.store.url)
        except ConfigError as error:
            await refuse(self.config, [error.at(*self.config.place("store.url"))])
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.store.close)
            self.dns = open_resolver(self.config.dns)
            undo.push_async_callback(self.dns.close)
            pipeline = await load_pipeline(self.config, self.store, self.dns)
            undo.push_async_callback(pipeline.stop)
            self.board = Switchboard(self.config, pipeline)
            # The port first: it fails without a trace, the milter socket cannot be made twice in one process.
            self._listener = open_listener(Endpoint.parse(self.config.proxy.listen), received)
            undo.push_async_callback(self._listener.close)
            milter_socket = Endpoint.parse(self.config.milter.socket)
            self._door = MilterDoor(milter_socket, self.board, self._milter_ended)
            self._door.open()
            self._door.start()
            undo.push_async_callback(self._door.stop)
            await self._listener.serve(self._make_connection)
            undo.pop_all()
        for forever in (self.board.sessions.expire(), self.board.pool.tend(), self.board.pool.watch()):
            self._spawn(forever)
        plugins = _names(pipeline)
        _log.info("ready", listen=self._listener.address, milter=self.config.milter.socket, plugins=plugins)

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, self._told_to_reload)

    def _told_to_reload(self) -> None:
        if not self._reload_is_due:
            self._reload_is_due = True
            self._spawn(self.reload())

    def _told_to_stop(self) -> None:
        """A second signal changes nothing: messages under way are finished, in bounded time. SIGKILL does not wait."""
        if self._stopping.is_set():
            _log.info("already stopping")
        self._stopping.set()

    def _milter_ended(self) -> None:
        """End, to be started anew by the service manager: without the milter every message would be put off."""
        _log.error("the milter has ended by itself, and the daemon with it")
        self._milter_is_lost = True
        self._stopping.set()

    def _make_connection(self) -> ProxyConnection:
        return ProxyConnection(self.board)

    def _make_farewell(self) -> FarewellConnection:
        return FarewellConnection(self.board.hostname, self._farewells)

    def _spawn(self, work: Coroutine[None, None, None], among: set[asyncio.Task[None]] | None = None) -> None:
        tasks = self._tasks if among is None else among
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def reload(self) -> None:
        """Read the configuration and the plugins again, and swap them in at once; on any error nothing changes.

        While the daemon starts, it waits for that: the start may have read a file before it was changed.
        """
        async with self._reloading:
            await self._serving.wait()
            self._reload_is_due = False
            if self._stopping.is_set():
                return
            self._notifier.reloading()
            status = "not reloaded, the old configuration stays in force: see the log"
            try:
                await self._swap()
                status = self._status("reloaded, serving")
            except ConfigError as error:
                _log.error("not reloaded, the old configuration stays in force", problem=error.in_one_line)
                status = f"not reloaded, the old configuration stays in force: {error.in_one_line}"
            finally:
                # Whatever happened: systemd takes it for reloading until then.
                self._notifier.ready(status)

    async def _swap(self) -> None:
        config, wrong = read_config(self.config.file)
        # A new one each time, which also forgets: the old one lives on with the plugins that use it.
        dns = open_resolver(config.dns)
        pipeline = await load_pipeline(config, self.store, dns, wrong)
        for key in ("proxy.listen", "proxy.inner", "milter.socket", "store.url"):
            section, name = key.split(".")
            if getattr(getattr(config, section), name) != getattr(getattr(self.config, section), name):
                _log.warning("this change needs a restart", key=key)
        old = self.board.pipeline
        self.config, self.dns = config, dns
        self.board.take_over(config, pipeline)
        self._spawn(self._retire(old), self._retiring)
        _log.info("reloaded", plugins=_names(pipeline))

    def _status(self, doing: str) -> str:
        return f"{doing} {self._listener.address}; plugins: {_names(self.board.pipeline)}"

    async def _retire(self, old: Pipeline) -> None:
        """End the old pipeline once the last transaction that is on it has ended."""
        while self.board.uses(old):  # noqa: ASYNC110 - rare
            await asyncio.sleep(0.2)
        await old.stop("reload")

    async def _stop(self) -> None:
        """Take no more messages, finish those under way (for front_timeout at most), and end everything."""
        under_way = sum(connection.in_transaction for connection in self.board.connections)
        _log.info("stopping", messages=under_way)
        self._notifier.stopping(f"stopping once the messages under way are done: {under_way}")
        self.board.is_stopping = True
        await self._listener.pause()
        self._spawn(self._turn_away())
        await self._finish_messages()
        # A client that idles after MAIL would hold an old pipeline for as long as it likes.
        await asyncio.gather(*(visit.close() for visit in tuple(self.board.visits)))
        if self._retiring:
            await asyncio.wait(self._retiring)
        for task in tuple(self._tasks):
            task.cancel()
        await self._listener.close()
        await self._finish_farewells()
        await self.board.sessions.close()
        self.board.pool.retire_all()
        await self._door.stop()
        await self.board.pipeline.stop()
        await self.dns.close()
        await self.store.close()
        _log.info("stopped", **dict(sorted(self.board.tally.items())))

    async def _turn_away(self) -> None:
        """Give who connects from now on an honest 421.

        Where systemd holds the socket they wait for the next daemon instead, but not until their patience ends: a front
        awaits the greeting for front_timeout.
        """
        if self._listener.is_inherited:
            await asyncio.sleep(self.config.proxy.front_timeout / 2)
        await self._listener.serve(self._make_farewell)

    async def _finish_messages(self) -> None:
        loop = asyncio.get_running_loop()
        greeted, deadline = loop.time() + GREETED_S, loop.time() + self.config.proxy.front_timeout
        while self.board.connections and loop.time() < deadline:
            await asyncio.sleep(0.05)
            if loop.time() > greeted and not any(one.in_transaction for one in self.board.connections):
                break
        # All at once: each may take its time over the last hooks.
        await asyncio.gather(*(connection.give_up() for connection in self.board.connections))

    async def _finish_farewells(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + GREETED_S
        while self._farewells and loop.time() < deadline:  # noqa: ASYNC110 - once, and for a second at most
            await asyncio.sleep(0.02)
        for connection in tuple(self._farewells):
            connection.close()


def _names(pipeline: Pipeline) -> str:
    return " ".join(loaded.name for loaded in pipeline.plugins) or "none"


def _make_state_directory(config: Config) -> None:
    """Make /var/lib/gatepost where the configuration does not say otherwise, so that the built-in default works."""
    if config.store.url == StoreSection().url:
        # Without the right to it, opening the store says what is missing.
        with suppress(OSError):
            Path(config.store.url.removeprefix("sqlite:")).parent.mkdir(mode=0o750, exist_ok=True)
