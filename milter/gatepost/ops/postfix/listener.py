"""Addresses of gatepost's configuration, compared with master.cf's listeners and written as smtpd understands them.

smtpd changes its directory to the queue directory before anything else, and a chrooted one has its root there
(global/mail_params.h, master/event_server.c), so a socket below the queue directory is written relative to it.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from gatepost.endpoint import Endpoint
from gatepost.errors import ConfigError

_WILDCARDS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "*": "127.0.0.1"}
"""Where to connect to a listener on every address."""

_IN_LIST = re.compile(r"[\s,{}$]")
"""What parts the elements of smtpd_milters, and their settings, or begins a `$name` (milter/milter.c, milter_new)."""


@dataclass(frozen=True, slots=True)
class Inet:
    """HOST:PORT; an IPv6 host keeps its brackets, `port` may be a service name such as `smtp`."""

    host: str
    port: str

    def __str__(self) -> str:
        """Return HOST:PORT."""
        return f"{self.host}:{self.port}"

    def collides(self, other: Inet) -> bool:
        """Whether both cannot be listened on at once."""
        if _port_number(self.port) != _port_number(other.port):
            return False
        return self.host == other.host or not {"", *_WILDCARDS}.isdisjoint((self.host, other.host))


def parse(text: str, setting: str) -> Endpoint:
    """Parse an address of gatepost's configuration; the error names the setting."""
    try:
        return Endpoint.parse(text)
    except ValueError as error:
        raise ConfigError(f"{setting} = {error}") from error


def of_endpoint(endpoint: Endpoint) -> Inet | None:
    """Where this endpoint listens, None if it is a UNIX-domain socket."""
    if endpoint.path is not None:
        return None
    host, _, port = str(endpoint).rpartition(":")
    return Inet(host, port)


def of_service(key: str) -> Inet | None:
    """Where Postfix's service NAME/TYPE listens, None if it is no inet service. An empty host is inet_interfaces."""
    name, _, kind = key.rpartition("/")
    if kind != "inet":
        return None
    host, _, port = name.rpartition(":")
    return Inet(host, port)


def proxy_filter(listen: str, queue_directory: Path, *, chrooted: bool) -> str:
    """proxy.listen as the value of smtpd_proxy_filter (smtpd/smtpd_proxy.c: `unix:PATH` or `HOST:PORT`)."""
    return _reached(parse(listen, "proxy.listen"), "proxy.listen", queue_directory, chrooted=chrooted)


def milter(socket_address: str, queue_directory: Path, *, chrooted: bool) -> str:
    """milter.socket as an element of smtpd_milters: `unix:PATH` or `inet:HOST:PORT`, not libmilter's PORT@HOST."""
    endpoint = parse(socket_address, "milter.socket")
    reached = _reached(endpoint, "milter.socket", queue_directory, chrooted=chrooted)
    if odd := _IN_LIST.search(reached):
        raise ConfigError(
            f"milter.socket = {socket_address!r}: {odd[0]!r} means something else in a list of milters; smtpd would "
            "not start with it: give the socket another path"
        )
    return reached if endpoint.path is not None else f"inet:{reached}"


def inner_service(inner: str) -> Inet:
    """proxy.inner as the name of an inet service; only loopback, because that service accepts mail for anywhere."""
    address = of_endpoint(parse(inner, "proxy.inner"))
    if address is None:
        raise ConfigError(f"proxy.inner = {inner!r}: the inner smtpd is an inet service, write 127.0.0.1:10026")
    if address.host != "localhost" and not _is_loopback(address.host):
        raise ConfigError(
            f"proxy.inner = {inner!r} is no loopback address: the inner smtpd accepts mail for any destination, "
            "so nobody else may reach it; write 127.0.0.1:10026"
        )
    return address


def networks(inner: Inet) -> str:
    """The networks that gatepost's connections to the inner service can come from."""
    if inner.host == "localhost":
        return "127.0.0.0/8,[::1]/128"
    return "[::1]/128" if inner.host.startswith("[") else "127.0.0.0/8"


def _reached(endpoint: Endpoint, setting: str, queue_directory: Path, *, chrooted: bool) -> str:
    address = of_endpoint(endpoint)
    if address is not None:
        return str(Inet(_WILDCARDS.get(address.host, address.host), address.port))
    path = Path(endpoint.path or "")
    if relative := _below(path, queue_directory):
        return f"unix:{relative}"
    if chrooted:
        raise ConfigError(
            f"{setting} = {str(endpoint)!r} is outside {queue_directory}, which a chrooted smtpd cannot leave: "
            f"put the socket below it, for instance 'unix:{queue_directory}/gatepost/{path.name}'"
        )
    return f"unix:{path}"


def _below(path: Path, queue_directory: Path) -> Path | None:
    """The path as seen from the queue directory, None if it is not below it."""
    for candidate, queue in ((path, queue_directory), (path.resolve(), queue_directory.resolve())):
        if candidate.is_relative_to(queue):
            return candidate.relative_to(queue)
    return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _port_number(port: str) -> int | str:
    if port.isdecimal():
        return int(port)
    try:
        return socket.getservbyname(port, "tcp")
    except OSError:
        return port
