"""The proxy's listening socket: made here, or received from systemd, which holds it while the daemon restarts.

sd_listen_fds(3): LISTEN_PID says for whom the sockets are, LISTEN_FDS how many, from descriptor 3 on; LISTEN_FDNAMES
what gatepost.socket calls them. A socket that was received is never unlinked or shut: the next daemon gets it again,
with the connections that wait in it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from gatepost.doors.milter_socket import SocketError, give_to_postfix
from gatepost.endpoint import Endpoint
from gatepost.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

BACKLOG = 512
"""More than Postfix's default_process_limit (100): a burst of front connections must not be refused, for that would be
"queue file write error" to the clients. gatepost.socket has the same."""

ACCEPT_STEPS = 5
"""Steps of asyncio's event loop after which an accepted connection has its protocol: a task, a transport and the
protocol's connection_made, each in a step of its own."""

_FIRST_FD = 3
"""SD_LISTEN_FDS_START."""

_log = structlog.get_logger("gatepost.service")


class Listener:
    """One listening socket; `is_inherited` if systemd keeps it beside us. Serves one kind of connection at a time."""

    def __init__(self, listening: socket.socket, *, is_inherited: bool) -> None:
        listening.setblocking(False)
        self._socket = listening
        self.is_inherited = is_inherited
        self._server: asyncio.Server | None = None
        self._served: socket.socket

    @property
    def address(self) -> str:
        """Where it listens, spelled as `proxy.listen` is."""
        return _address(self._socket)

    async def serve(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
        """Give every connection from now on to a new protocol, in place of what served before."""
        loop = asyncio.get_running_loop()
        await self.pause()
        # The server closes what it is given; a duplicate, so that nobody is refused between two servers.
        self._served = duplicate = self._socket.dup()
        # asyncio serves any stream socket so; uvloop's create_server takes none that is AF_UNIX.
        if self._socket.family != socket.AF_UNIX or isinstance(loop, asyncio.BaseEventLoop):
            self._server = await loop.create_server(make, sock=duplicate, backlog=BACKLOG)
        else:
            # From Python 3.13 on it would unlink the path with the server, and leave the next one none.
            keep: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
            self._server = await loop.create_unix_server(make, sock=duplicate, backlog=BACKLOG, **keep)

    async def pause(self) -> None:
        """Accept nobody; whoever connects waits. When this returns, all that were accepted have their protocols."""
        server, self._server = self._server, None
        if server is None:
            return
        if isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
            # asyncio makes a protocol of what it has accepted some steps later, and drops it if the server is closed by
            # then (Server._attach): so first it accepts no more, and is closed when it is done. uvloop does it at once.
            asyncio.get_running_loop().remove_reader(self._served.fileno())
            for _ in range(ACCEPT_STEPS):
                await asyncio.sleep(0)
        server.close()

    async def close(self) -> None:
        """Let go of the socket: one of our own is gone, with its path; one that systemd holds stays as it is."""
        await self.pause()
        address = self._socket.getsockname()
        self._socket.close()
        if not self.is_inherited and isinstance(address, str):
            Path(address).unlink(missing_ok=True)


def open_listener(endpoint: Endpoint, received: socket.socket | None) -> Listener:
    """Use the socket that systemd passed on, or else make one at `endpoint`, which is `[proxy] listen`.

    Where the two differ, systemd's is served and a warning says so: the port is open already, and a daemon that refused
    it would leave whoever connects there waiting in vain. SocketError if `endpoint` is taken or may not be made.
    """
    if received is None:
        return Listener(_bind(endpoint), is_inherited=False)
    if not _is_at(received, endpoint):
        _log.warning(
            "systemd holds another socket than [proxy] listen, and that is served",
            listen=str(endpoint),
            serving=_address(received),
            remedy="make ListenStream= and [proxy] listen the same: systemctl edit gatepost.socket",
        )
    return Listener(received, is_inherited=True)


def take_inherited() -> socket.socket | None:
    """Return the socket that systemd passed on to this process, None if there is none; ConfigError if it is no use.

    To be called once, before plugins are loaded: it and its variables are not for the programs that they start.
    """
    values = {name: os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")}
    if values["LISTEN_PID"] != str(os.getpid()) or not values["LISTEN_FDS"]:
        return None  # for the process that started us, or nobody
    if not values["LISTEN_FDS"].isdecimal():
        raise ConfigError(f"LISTEN_FDS={values['LISTEN_FDS']!r} in the environment is no number of sockets")
    count = int(values["LISTEN_FDS"])
    if count == 0:
        return None
    if count != 1:
        names = values["LISTEN_FDNAMES"].replace(":", ", ") or "unnamed"
        raise ConfigError(
            f"systemd passed on {count} sockets ({names}): leave one ListenStream= in gatepost.socket, the proxy's"
        )
    return _checked(_FIRST_FD)


def _checked(descriptor: int) -> socket.socket:
    """Return the descriptor as a socket; ConfigError unless it is a listening stream socket."""
    try:
        received = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ConfigError(f"LISTEN_FDS=1, but descriptor {descriptor} is no socket: {error.strerror}") from error
    received.set_inheritable(False)
    problem = None
    if received.family not in {socket.AF_INET, socket.AF_INET6, socket.AF_UNIX}:
        problem = f"of another family ({received.family!r})"
    elif received.type != socket.SOCK_STREAM:
        problem = f"no stream socket ({received.type!r})"
    elif not received.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        problem = "a connection, not a listening socket (Accept=yes?)"
    if problem is None:
        return received
    received.close()
    raise ConfigError(f"the socket that systemd passed on is {problem}: gatepost.socket needs a ListenStream=")


def _is_at(listening: socket.socket, endpoint: Endpoint) -> bool:
    """Tell whether the socket listens at this very address."""
    address = listening.getsockname()
    if endpoint.path is not None or listening.family == socket.AF_UNIX:
        return bool(address == endpoint.path)
    if address[1] != endpoint.port:
        return False
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, listening.family, socket.SOCK_STREAM)
    except OSError:  # a name that does not resolve, or has no address of this family
        return False
    return any(sockaddr[:2] == address[:2] for *_, sockaddr in found)


def _address(listening: socket.socket) -> str:
    address = listening.getsockname()
    if isinstance(address, tuple):
        return str(Endpoint(host=address[0], port=address[1]))
    # The name of an abstract socket, which has no path, comes as bytes.
    return f"unix:{address if isinstance(address, str) else repr(address)}"


def _bind(endpoint: Endpoint) -> socket.socket:
    """Make the listening socket; SocketError if it is taken or may not be made."""
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
        # Whoever connects from here on waits until the daemon serves.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise SocketError(f"cannot listen at {endpoint} ([proxy] listen): {error.strerror}") from error
    finally:
        os.umask(umask)
    if endpoint.path is not None:
        give_to_postfix(Path(endpoint.path))
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
