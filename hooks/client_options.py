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
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from gatepost import (
    Address,
    ClientTable,
    ConfigError,
    Fixed,
    Overrides,
    Plugin,
    PluginOptions,
    Session,
    Transaction,
    parse_lines,
    split_client_line,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class Options(PluginOptions):
    """What the manual above says."""

    file: Annotated[Path, Fixed]


class ClientOptions(Plugin[Options]):
    """Sets the options of the line that fits best."""

    def init(self) -> None:
        self._table = self.watch(self.options().file, self._read)

    def connect(self, session: Session) -> None:
        table: Table = self._table.value
        if entry := table.clients.find(session.ip, session.name):
            session.override(entry.overrides)

    def mail(self, transaction: Transaction, sender: Address, parameters: Mapping[str, str | None]) -> None:
        table: Table = self._table.value
        if entry := table.senders.get(sender.domain):
            transaction.override(entry.overrides)

    def _read(self, text: str, path: Path) -> Table:
        return Table(text, path, self.parse_overrides)


class Entry(NamedTuple):
    """The options of one line."""

    line: int
    overrides: Overrides


_SENDER = re.compile(r"@((?:[\w-]+\.)*(?!\d+\Z)[\w-]+)")


class Table:
    """The whole file: by client, and by the domain of the sender."""

    def __init__(self, text: str, path: Path, parse_overrides: Callable[[str, str], Overrides]) -> None:
        self.clients: ClientTable[Entry] = ClientTable()
        self.senders: dict[str, Entry] = {}

        def take(line: str, number: int) -> None:
            client, options = split_client_line(line, "OPTIONS")
            entry = Entry(number, parse_overrides(options, f"{path}:{number}"))
            if earlier := self._add(client, entry):
                raise ConfigError(f"{client} is listed twice, in lines {earlier.line} and {number}: delete one")

        parse_lines(text, path, take)

    def _add(self, client: str, entry: Entry) -> Entry | None:
        """Enter a line; return the one that has the same client or domain, if there is one."""
        if sender := _SENDER.fullmatch(client):
            known = self.senders.setdefault(sender[1].lower(), entry)
            return None if known is entry else known
        return self.clients.add(client, entry)
