"""What a file says of clients, by address, network or name: the most specific entry counts.

An address comes before a network, a smaller network before a larger one, any of these before a name, a longer name
before a shorter. A name stands for itself and for every name below it.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from typing import Generic, TypeVar

from gatepost.errors import ConfigError
from gatepost.idn import to_ascii

T = TypeVar("T")

_Key = tuple[int, int, int] | str
"""A network as IP version, prefix length and prefix; or a name in lower case."""

_LINE = re.compile(r"(?P<client>\S+?)\s*:(?:\s+(?P<value>.*))?")
_NAME = re.compile(r"(?:[\w-]+\.)*(?!\d+\Z)[\w-]+", re.ASCII)

_NO_NAMES = {
    "all": "write 0.0.0.0/0 and ::/0 for every client",
    "unknown": "a client whose name is not confirmed has none; list its address or network",
}
"""Words of hosts.allow and of Postfix's log that look like names: a rule for them would be for nobody, in silence."""


class ClientTable(Generic[T]):
    """Values, never None, by client: one look-up for each prefix length or label, however many entries there are."""

    def __init__(self) -> None:
        self._values: dict[_Key, T] = {}
        self._lengths: dict[int, list[int]] = {4: [], 6: []}

    def add(self, client: str, value: T) -> T | None:
        """Enter a client; return None, or the value that it has already, which stays.

        `client` is an IP address, a network as `192.0.2.0/24`, or a host name. Raises ConfigError, without a place, for
        anything else, and for what would never match.
        """
        key = _parse_client(client)
        if (earlier := self._values.get(key)) is not None:
            return earlier
        self._values[key] = value
        if isinstance(key, tuple) and key[1] not in (lengths := self._lengths[key[0]]):
            lengths.append(key[1])
            lengths.sort(reverse=True)
        return None

    def find(self, ip: IPv4Address | IPv6Address | None, name: str | None) -> T | None:
        """Return the value of the most specific entry, None if there is none.

        `ip` and `name` are those of a Session: None for an address that is unknown, a name that is not confirmed.
        """
        if ip is not None:
            for length in self._lengths[ip.version]:
                value = self._values.get((ip.version, length, int(ip) >> (ip.max_prefixlen - length)))
                if value is not None:
                    return value
        if name is not None:
            labels = name.lower().rstrip(".").split(".")
            for first in range(len(labels)):
                value = self._values.get(".".join(labels[first:]))
                if value is not None:
                    return value
        return None


def split_client_line(line: str, value: str) -> tuple[str, str]:
    """Split `CLIENT: VALUE`; what follows the colon may be empty.

    `value` is what the file's manual calls the right side. Raises ConfigError, without a place, for another line.
    """
    match = _LINE.fullmatch(line)
    if match is None:
        raise ConfigError(f"not understood: write CLIENT: {value}, with white space after the colon")
    return match["client"], match["value"] or ""


def _parse_client(client: str) -> _Key:
    try:
        network = ip_network(client)
    except ValueError as error:
        if "has host bits set" in str(error):
            raise ConfigError(f"{client} is no network: write {ip_network(client, strict=False)}") from error
        if not _NAME.fullmatch(client):
            raise ConfigError(f"{client!r} is no address, network or host name{_remedy(client)}") from error
        name = client.lower()
        if name in _NO_NAMES:
            raise ConfigError(f"{client} never matches: {_NO_NAMES[name]}") from error
        return name
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
        raise ConfigError(f"{client} never matches: write the IPv4 address or network itself")
    shift = network.max_prefixlen - network.prefixlen
    return (network.version, network.prefixlen, int(network.network_address) >> shift)


def _remedy(client: str) -> str:
    """Return what to write instead of a name in the spelling of other programs; nothing if it is not one."""
    name = client.removeprefix("*").removeprefix(".").removesuffix(".")
    if _NAME.fullmatch(name):
        return f": write {name}, which stands for every name below it, too"
    if not client.isascii() and _NAME.fullmatch(ascii_name := to_ascii(client)):
        return f": write it as DNS has it, {ascii_name}"
    return ""
