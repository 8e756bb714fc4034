"""client_options: plugin options for some clients, or for mail from some sender domains.

The file is read again when it changes; sessions that begin after that use it. A new version with an error is logged by
line, and the old one stays in force.

HOOKS
    connect     options for the client's whole session
    mail        options for one message, by its sender; they win over those of the client
    Put it before the plugins whose options it sets.

OPTIONS
    file        the file, required

FILE
    CLIENT: OPTIONS

        10.1.2.3: greylist=off
        10.1.0.0/16: greylist.black_timeout=5m, count_denies.limit=10
        2001:db8::/32: greylist=observe
        # The client's name, forward-confirmed by Postfix, and every name below it:
        example.net: greylist=off
        # The domain of the sender, exactly. Anybody can write any sender: switch nothing off here that you rely on.
        @example.org: greylist=off
        # An exception, with nothing changed:
        10.1.9.9:

    One line counts for a client, the most specific: an address before a network, a smaller network before a larger one,
    any of these before a name, a longer name before a shorter. After the colon comes white space. "#" begins a comment.

REPLIES
    None.

FAILURE
    A missing file, a syntax error, a client listed twice or an unknown option stops the start.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from gatepost import Address, ConfigError, ConfigErrors, Overrides, Plugin, PluginOptions, Session, Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

NOTHING = Overrides()


class Options(PluginOptions):
    """What the manual above says."""

    file: Path


class ClientOptions(Plugin[Options]):
    """Sets the options of the line that fits best."""

    def init(self) -> None:
        self._table = self.watch(self.options().file, self._read)

    def connect(self, session: Session) -> None:
        table: Table = self._table.value
        session.override(table.for_client(session.ip, session.name))

    def mail(self, transaction: Transaction, sender: Address, parameters: Mapping[str, str | None]) -> None:
        table: Table = self._table.value
        transaction.override(table.for_sender(sender))

    def _read(self, text: str, path: Path) -> Table:
        return Table(_parse(text, path, self.parse_overrides))


Key = tuple[int, int, int] | str
"""A network as IP version, prefix length and prefix; a client's name; or a sender domain with its @."""


class Table:
    """The whole file, by client: one look-up for each prefix length or label, however long the file is."""

    def __init__(self, lines: Mapping[Key, Overrides]) -> None:
        self._lines = lines
        networks = {key[:2] for key in lines if isinstance(key, tuple)}
        self._lengths = {
            version: sorted((length for of, length in networks if of == version), reverse=True) for version in (4, 6)
        }

    def for_client(self, ip: IPv4Address | IPv6Address | None, name: str | None) -> Overrides:
        """Return the options of the most specific line; of none, the empty ones."""
        if ip is not None:
            for length in self._lengths[ip.version]:
                key = (ip.version, length, int(ip) >> (ip.max_prefixlen - length))
                if key in self._lines:
                    return self._lines[key]
        labels = (name or "").lower().rstrip(".").split(".")
        names = (".".join(labels[first:]) for first in range(len(labels)))
        return next((self._lines[name] for name in names if name in self._lines), NOTHING)

    def for_sender(self, sender: Address) -> Overrides:
        """Return the options for the sender's domain; if there are none, the empty ones."""
        return self._lines.get(f"@{sender.domain}", NOTHING)


_LINE = re.compile(r"(?P<client>\S+?)\s*:(?:\s+(?P<options>.*))?")
_NAME = re.compile(r"@?(?:[\w-]+\.)*(?!\d+\Z)[\w-]+")


def _parse(text: str, path: Path, parse_overrides: Callable[[str, str], Overrides]) -> dict[Key, Overrides]:
    lines: dict[Key, Overrides] = {}
    numbers: dict[Key, int] = {}
    errors: list[ConfigError] = []
    for number, raw in enumerate(text.split("\n"), 1):
        # A "#" inside a word or in quotes is no comment.
        line = re.sub(r'("[^"]*")|(?:^|(?<=\s))#.*', r"\1", raw).strip()
        if not line:
            continue
        try:
            match = _LINE.fullmatch(line)
            if match is None:
                raise ConfigError("not understood: write CLIENT: OPTIONS, with white space after the colon")
            key = _key(match["client"])
            if numbers.setdefault(key, number) != number:
                raise ConfigError(
                    f"{match['client']} is listed twice, in lines {numbers[key]} and {number}: delete one"
                )
            lines[key] = parse_overrides(match["options"] or "", f"{path}:{number}")
        except ConfigError as error:
            errors.append(error.at(path, number))
    if errors:
        raise errors[0] if len(errors) == 1 else ConfigErrors(errors)
    return lines


def _key(client: str) -> Key:
    try:
        network = ip_network(client)
    except ValueError as error:
        if "has host bits set" in str(error):
            raise ConfigError(f"{client} is no network: write {ip_network(client, strict=False)}") from error
        if not _NAME.fullmatch(client):
            raise ConfigError(f"{client!r} is no address, network, host name or @domain") from error
        return client.lower()
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped:
        raise ConfigError(f"{client} never matches: write the IPv4 address or network itself")
    shift = network.max_prefixlen - network.prefixlen
    return (network.version, network.prefixlen, int(network.network_address) >> shift)
