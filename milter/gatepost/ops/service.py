"""The daemon: starts everything in order, reloads on SIGHUP, ends on SIGTERM or SIGINT with nothing half-done.

Order of the start: configuration, store, plugins, proxy port and milter socket, and only then is anybody served. What
was opened is closed again when a later step fails. At the end, messages under way are finished first.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from gatepost.config import Config, StoreSection, load_config
from gatepost.doors.milter_socket import SocketError, give_to_postfix
from gatepost.doors.milterd import MilterDoor
from gatepost.doors.proxy import ProxyConnection
from gatepost.doors.switchboard import Switchboard
from gatepost.endpoint import Endpoint
from gatepost.errors import ConfigError
from gatepost.loader import load_plugins
from gatepost.pipeline import Pipeline
from gatepost.services.store import open_store

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from gatepost.services.store import Store

LISTEN_BACKLOG = 512
"""More than Postfix's default_process_limit (100): a burst of front connections must not be refused, for that would be
"queue file write error" to the clients."""

GREETED_S = 1.0
"""How long, at the end, a connection that has said no MAIL yet is waited for: the front says it at once."""

_log = structlog.get_logger("gatepost.service")


class Service:
    """One daemon. `start`, then `run_until_stopped` or `stop`."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._listen = Endpoint.parse(config.proxy.listen)
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        self.store: Store
        self.board: Switchboard
        self._door: MilterDoor
        self._server: asyncio.Server

    async def start(self) -> None:
        """Start; ConfigError for what the administrator wrote, SocketError for a socket that cannot be had.

        From here on SIGTERM and SIGINT end the daemon in order, and SIGHUP reloads.
        """
        self._take_signals()
        _make_state_directory(self.config)
        try:
            self.store = open_store(self.config.store.url)
        except ConfigError as error:
            raise error.at(*self.config.place("store.url")) from error
        async with AsyncExitStack() as undo:
            undo.push_async_callback(self.store.close)
            pipeline = await load_pipeline(self.config, self.store)
            undo.push_async_callback(pipeline.stop)
            self.board = Switchboard(self.config, pipeline)
            # The port first: it fails without a trace, the milter socket cannot be made twice in one process.
            listener = _listen(self._listen)
            undo.callback(listener.close)
            milter_socket = Endpoint.parse(self.config.milter.socket)
            self._door = MilterDoor(milter_socket, self.board.leases, self.board.milter_needs)
            self._door.open()
            undo.pop_all()
        self._door.start()
        loop = asyncio.get_running_loop()
        make = self._make_connection
        if listener.family == socket.AF_UNIX:
            self._server = await loop.create_unix_server(make, sock=listener, backlog=LISTEN_BACKLOG)
        else:
            self._server = await loop.create_server(make, sock=listener, backlog=LISTEN_BACKLOG)
        for forever in (self.board.sessions.expire(), self.board.pool.tend(), self.board.pool.watch()):
            self._spawn(forever)
        plugins = " ".join(loaded.name for loaded in pipeline.plugins) or "none"
        _log.info("ready", listen=self.config.proxy.listen, milter=self.config.milter.socket, plugins=plugins)

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self.reload()))

    def _make_connection(self) -> ProxyConnection:
        return ProxyConnection(self.board)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run_until_stopped(self) -> None:
        """Serve until SIGTERM or SIGINT; then end as `stop` does."""
        await self._stopping.wait()
        await self.stop()

    async def reload(self) -> None:
        """Read the configuration and the plugins again, and swap them in at once; on any error nothing changes."""
        async with self._reloading:
            if not hasattr(self, "_server"):
                return  # it is still starting, with what is new
            try:
                config = load_config(self.config.file)
                pipeline = await load_pipeline(config, self.store)
            except ConfigError as error:
                _log.error("not reloaded, the old configuration stays in force", problem=str(error))
                return
            for key in ("proxy.listen", "proxy.inner", "milter.socket", "store.url"):
                section, name = key.split(".")
                if getattr(getattr(config, section), name) != getattr(getattr(self.config, section), name):
                    _log.warning("this change needs a restart", key=key)
            old = self.board.pipeline
            self.config = config
            self.board.take_over(config, pipeline)
            self._spawn(self._retire(old))
            plugins = " ".join(loaded.name for loaded in pipeline.plugins) or "none"
            _log.info("reloaded", plugins=plugins)

    async def _retire(self, old: Pipeline) -> None:
        """End the old pipeline once the last transaction that is on it has ended."""
        while any(connection.pipeline is old for connection in self.board.connections):  # noqa: ASYNC110 - rare
            await asyncio.sleep(0.2)
        await old.stop("reload")

    async def stop(self) -> None:
        """Take no more messages, finish those under way (for front_timeout at most), and end everything."""
        _log.info("stopping", messages=sum(connection.in_transaction for connection in self.board.connections))
        self._server.close()
        await self._finish_messages()
        for task in tuple(self._tasks):
            task.cancel()
        await self.board.sessions.close()
        self.board.pool.retire_all()
        await self._door.stop()
        await self.board.pipeline.stop()
        await self.store.close()
        if self._listen.path is not None:
            Path(self._listen.path).unlink(missing_ok=True)
        _log.info("stopped", **dict(sorted(self.board.tally.items())))

    async def _finish_messages(self) -> None:
        loop = asyncio.get_running_loop()
        greeted, deadline = loop.time() + GREETED_S, loop.time() + self.config.proxy.front_timeout
        while self.board.connections and loop.time() < deadline:
            if loop.time() > greeted and not any(one.in_transaction for one in self.board.connections):
                break
            await asyncio.sleep(0.05)
        for connection in tuple(self.board.connections):
            await connection.give_up()


async def load_pipeline(config: Config, store: Store) -> Pipeline:
    """Load every plugin and run its `init`; ConfigErrors with all that is wrong."""
    # In a thread: a plugin's file may import half the world while the daemon serves.
    pipeline = Pipeline(await asyncio.to_thread(load_plugins, config, store))
    try:
        await pipeline.start()
    except ConfigError:
        await pipeline.stop()
        raise
    return pipeline


def _make_state_directory(config: Config) -> None:
    """Make /var/lib/gatepost where the configuration does not say otherwise, so that the built-in default works."""
    if config.store.url == StoreSection().url:
        # Without the right to it, opening the store says what is missing.
        with suppress(OSError):
            Path(config.store.url.removeprefix("sqlite:")).parent.mkdir(mode=0o750, exist_ok=True)


def _listen(endpoint: Endpoint) -> socket.socket:
    """Make the proxy's listening socket; SocketError if it is taken or may not be made."""
    if endpoint.path is not None:
        _remove_stale(Path(endpoint.path))
        listener = socket.socket(socket.AF_UNIX)
        address: object = endpoint.path
    else:
        listener = socket.socket(socket.AF_INET6 if ":" in (endpoint.host or "") else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        address = (endpoint.host, endpoint.port)
    umask = os.umask(0o117)
    try:
        listener.bind(address)  # type: ignore[arg-type]
    except OSError as error:
        listener.close()
        raise SocketError(f"cannot listen at {endpoint} ([proxy] listen): {error.strerror}") from error
    finally:
        os.umask(umask)
    if endpoint.path is not None:
        give_to_postfix(Path(endpoint.path))
    listener.setblocking(False)
    return listener


def _remove_stale(path: Path) -> None:
    with suppress(OSError):
        if stat.S_ISSOCK(path.lstat().st_mode):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(2)
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink(missing_ok=True)
