r"""whitelist: spares clients, senders and recipients that a file lists the checks of other plugins.

A plugin with skip_whitelisted = true is then not asked about them; of the bundled ones these are the checks of spam and
abuse, each says so in its manual. Nobody may send more than before: what Postfix refuses, relaying above all, it still
refuses, and so do the plugins that are no such checks (`aliases`, `hosts_allow`, `loop`).
Put it before the plugins that it is to spare: one that stands above it has been asked already.
The file is read again when it changes. A new version with an error is logged by line, and the old one stays in force.

HOOKS
    connect     the client's address and name: its whole session is whitelisted
    helo        the name in HELO or EHLO: the whole session
    mail        the sender: this message
    rcpt        the recipient, as the client names it: this recipient. With others in one message that are not listed,
                content.disagree decides, if a plugin with data or content hooks is concerned
    What a client was refused for before, at connect say, is not taken back.

OPTIONS
    file                the file, required
    detail_delimiter    "+": a listed user@example.net is also user+anything@example.net; "" turns that off

FILE
    An entry a line:

        192.0.2.1                       # the client with this address
        10.0.0.0/8                      # every client in this network
        2001:db8::/32
        mail.example.net                # clients with this name or one below it, forward-confirmed by Postfix;
                                        # and whoever says exactly this name in HELO or EHLO
        alice@example.net               # as the sender or as the recipient
        @example.net                    # every address in exactly this domain, as the sender or as the recipient
        @.example.net                   # every address in the domains below it
        /^bounces-\d+@news\.example$/   # every address in which this is found: an RE2 pattern

    With a word before it, an entry stands for that alone; a colon may follow the word:

        host mail.example.net           # the confirmed name of the client
        helo mail.example.net           # the name in HELO or EHLO
        sender bounces@example.net      # so too "sender @example.net"
        rcpt postmaster@example.org     # so too "recipient ..."

    Anybody can say any name in HELO and name any sender. An address, a network or "host" is what a stranger cannot
    forge: prefer them. Upper and lower case are the same, in local parts too; a domain may be written with or without
    A-labels (xn--...). A line may stand there twice. "#" begins a comment.

REPLIES
    None. The log says once of each client, message and recipient that it is whitelisted, and by which line.

FAILURE
    A missing file, or a line that is no entry, stops the start.
"""

from __future__ import annotations

import re
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gatepost import (
    Address,
    AddressList,
    ClientTable,
    ConfigError,
    Fixed,
    Plugin,
    PluginOptions,
    Recipient,
    Session,
    Transaction,
    parse_lines,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


class Options(PluginOptions):
    """What the manual above says."""

    file: Annotated[Path, Fixed]
    detail_delimiter: str = "+"


class Whitelist(Plugin[Options]):
    """Looks up each of them as soon as it is known."""

    def init(self) -> None:
        self._table = self.watch(self.options().file, Table)

    def connect(self, session: Session) -> None:
        table: Table = self._table.value
        if line := table.hosts.find(session.ip, session.name):
            session.whitelist(table.place(line))

    def helo(self, session: Session, name: str) -> None:
        table: Table = self._table.value
        if line := table.helos.get(_plain_name(name)):
            session.whitelist(table.place(line))

    def mail(self, transaction: Transaction, sender: Address, parameters: Mapping[str, str | None]) -> None:
        table: Table = self._table.value
        if transaction.whitelisted:
            return
        if line := _find(sender, table.senders, self.options(transaction)):
            transaction.whitelist(table.place(line))

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> None:
        table: Table = self._table.value
        if recipient.whitelisted:
            return
        if line := _find(recipient.address, table.recipients, self.options(recipient)):
            recipient.whitelist(table.place(line))


def _find(address: Address, listed: AddressList, options: Options) -> int | None:
    """Return the line of the address, or of the one without its detail."""
    listing = listed.find(address)
    if listing is None and options.detail_delimiter in address.local:
        user, _ = address.split_detail(options.detail_delimiter)
        listing = listed.find(Address(user, address.domain))
    return listing.line if listing else None


_ENTRY = re.compile(r"(?:(?P<kind>host|helo|sender|rcpt|recipient)(?::\s*|\s+))?(?P<what>\S.*)", re.IGNORECASE)
# A pattern may have blanks in it, and so may what stands in quotes.
_ONE_WORD = re.compile(r'/(?>(?:[^/\\]|\\.)*)/|(?>(?:"(?>(?:[^"\\]|\\.)*)"|\S)+)')
_HELO = re.compile(r"[^\s@/,;<>()]+")


class Table:
    """The whole file: each entry with the number of its line."""

    def __init__(self, text: str, path: Path) -> None:
        self.hosts: ClientTable[int] = ClientTable()
        self.helos: dict[str, int] = {}
        self.senders = AddressList()
        self.recipients = AddressList()
        self._path = path
        parse_lines(text, path, self._take)
        self.senders.compile(path)
        self.recipients.compile(path)

    def place(self, line: int) -> str:
        """Return `FILE:LINE`, the reason why something is whitelisted."""
        return f"{self._path}:{line}"

    def _take(self, entry: str, line: int) -> None:
        match = _ENTRY.fullmatch(entry)
        if match is None or not _ONE_WORD.fullmatch(match["what"]):
            raise ConfigError(f'{entry!r} is more than one entry: write one a line, and "#" before a comment')
        kind, what = (match["kind"] or "").lower(), match["what"]
        match kind:
            case "host":
                self.hosts.add(what, line)
            case "helo":
                self._add_helo(what, line)
            case "sender" | "rcpt" | "recipient":
                self._add_address(what, line, kind)
            case _ if "@" in what or what.startswith("/") or what == "<>":
                self._add_address(what, line, "both")
            case _:
                self._add_host_or_helo(what, line)

    def _add_address(self, what: str, line: int, kind: str) -> None:
        if what == "<>":
            raise ConfigError("the null sender <> cannot be whitelisted, anybody may say it: list hosts instead")
        if kind != "sender":
            self.recipients.add(what, line)
        if kind in {"sender", "both"}:
            self.senders.add(what, line)

    def _add_host_or_helo(self, what: str, line: int) -> None:
        if "." not in what and ":" not in what:
            # A misspelt word or a local part would whitelist a whole top-level domain.
            raise ConfigError(f"{what!r} has no dot: write host {what} or helo {what} if that is meant")
        self.hosts.add(what, line)
        if not _is_network(what):
            self._add_helo(what, line)

    def _add_helo(self, what: str, line: int) -> None:
        if not _HELO.fullmatch(what):
            raise ConfigError(f"{what!r} is no name that a client says in HELO: write helo mail.example.net")
        self.helos.setdefault(_plain_name(what), line)


def _is_network(what: str) -> bool:
    try:
        ip_network(what)
    except ValueError:
        return False
    return True


def _plain_name(name: str) -> str:
    return name.lower().removesuffix(".")
