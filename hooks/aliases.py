"""aliases: which recipients exist, where their mail goes, and which plugin options they have.

An address that the file lists is delivered to its targets; any other address in a domain that the file lists is refused
while the client is still on the line; domains that the file does not list are left to Postfix. The file is read again
when it changes; a new version with an error is logged by line, and the old one stays in force.

HOOKS
    rcpt. Put it before the plugins whose options it sets.

OPTIONS
    file                the file, required
    detail_delimiter    "+": user+anything is delivered like user, unless it has an entry of its own; "" turns that off

FILE
    LOCAL,LOCAL@DOMAIN,DOMAIN: TARGET, TARGET (OPTIONS)

        # Two people in two domains, each with options for other plugins:
        hjp,peter.holzer@wsr.ac.at,wifo.at: hjp@asherah.wsr.ac.at (denysoft_greylist, spamassassin_reject_threshold=10)
        # The empty domain is the bare local part, as in RCPT TO:<postmaster>:
        postmaster@,wsr.ac.at,wifo.at: sysadm@wsr.ac.at
        sysadm@wsr.ac.at: hjp@wsr.ac.at, gina@wsr.ac.at
        # Delivered as it is, with options:
        abuse@wsr.ac.at: (greylist=off)
        # Whatever no other line of that domain takes:
        *@old.example: hjp@wsr.ac.at

    Every local part stands for itself in every domain of its line; upper and lower case are the same. Targets are
    looked up in turn. One that has no entry, or that its own line covers, is final, so that
    "gina@wsr.ac.at: gina@wsr.ac.at, archive@wsr.ac.at" keeps a copy. A target listed twice gets the mail once.
    A +detail is kept and given to the targets that have none of their own. Options stand before or after the targets;
    those of the line that takes the RCPT count, not those of lines that its targets lead to.
    "#" begins a comment, a line that begins with white space continues the one before, a local part or an option value
    with special characters stands in double quotes.

REPLIES
    550 5.1.1 no such user here     the domain is listed, the local part is not
    550 5.4.6 alias loop            its targets lead in a circle (a warning names the lines when the file is read)
    All targets are accepted by Postfix, or the recipient is refused.

FAILURE
    A missing file, a syntax error, an address listed twice or an unknown option stops the start.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

from gatepost import (
    Address,
    ConfigError,
    ConfigErrors,
    Deny,
    Fixed,
    Overrides,
    Plugin,
    PluginOptions,
    Recipient,
    Transaction,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

UNKNOWN = Deny("no such user here", enhanced="5.1.1", code=550)
LOOP = Deny("alias loop", enhanced="5.4.6", code=550)


class Options(PluginOptions):
    """What the manual above says."""

    file: Annotated[Path, Fixed]
    detail_delimiter: str = "+"


class Aliases(Plugin[Options]):
    """Refuses unknown recipients, expands and configures known ones."""

    def init(self) -> None:
        self._table = self.watch(self.options().file, self._read)

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> Deny | None:
        table: Table = self._table.value
        address = recipient.address
        if address.domain not in table.domains:
            return None
        entry, _ = table.find(address)
        if entry is None:
            return UNKNOWN
        targets, loops = table.expand(address)
        if loops:
            return LOOP
        if targets != (address,):
            recipient.deliver_to(targets)
        recipient.override(entry.overrides)
        return None

    @property
    def recipients(self) -> list[Listing]:
        """Every address of the file, read afresh; for `gatepost postfix doctor`, which runs no `init`."""
        table: Table = self.watch(self.options().file, self._read).value
        return table.listings()

    def _read(self, text: str, path: Path) -> Table:
        table, errors = _parse(text, path, self.options().detail_delimiter, self.parse_overrides)
        for lines in table.loops():
            self.log.warning("alias loop: mail to it is refused", file=str(path), lines=lines)
        if errors:
            raise errors[0] if len(errors) == 1 else ConfigErrors(errors)
        if astray := table.targets_without_entry():
            self.log.warning(
                "targets in listed domains have no entry and are delivered as they are",
                file=str(path),
                count=len(astray),
                first=", ".join(astray[:5]),
            )
        return table


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One line of the file, shared by all its addresses; without targets these are delivered as they are."""

    line: int
    targets: tuple[Address, ...]
    overrides: Overrides


class Listing(NamedTuple):
    """One address with what its line says, and where its mail goes in the end: nowhere, if that is a circle."""

    address: Address
    targets: tuple[Address, ...]
    ends: tuple[Address, ...]
    overrides: Overrides


class Expansion(NamedTuple):
    """The final targets, and each circle met on the way as the numbers of its lines."""

    targets: tuple[Address, ...]
    loops: list[tuple[int, ...]]


Key = tuple[str, str]


def _key(address: Address) -> Key:
    return (address.local.lower(), address.domain)


class Table:
    """The whole file: every address with its entry."""

    def __init__(self, delimiter: str) -> None:
        self.entries: dict[Key, Entry] = {}
        self.domains: set[str] = set()
        self._delimiter = delimiter

    def find(self, address: Address) -> tuple[Entry | None, str]:
        """Return the entry that takes the address, None if there is none, and the detail that it did not name."""
        if entry := self.entries.get(_key(address)):
            return entry, ""
        local, detail = address.split_detail(self._delimiter)
        entry = self.entries.get((local.lower(), address.domain)) if detail else None
        return entry or self.entries.get(("*", address.domain)), detail

    def expand(self, address: Address) -> Expansion:
        """Follow the targets of `address` to their ends."""
        return self._follow(address, set())

    def _follow(self, address: Address, seen: set[tuple[Entry, str]]) -> Expansion:
        """Do as `expand` does, but pass by the lines, each with its detail, in `seen`; adds to it."""
        final: dict[Key, Address] = {}
        loops: list[tuple[int, ...]] = []
        # The lines on the way here, with the targets still to follow. Not recursion: a chain may be long.
        path: dict[Entry | None, Iterator[Address]] = {None: iter((address,))}
        while path:
            line, targets = next(reversed(path.items()))
            target = next(targets, None)
            if target is None:
                path.popitem()
                continue
            entry, detail = self.find(target)
            if entry is None or entry is line or not entry.targets:
                final.setdefault(_key(target), target)
            elif entry in path:
                lines = [other.line for other in path if other]
                loops.append((*lines[lines.index(entry.line) :], entry.line))
            elif (entry, detail) not in seen:
                seen.add((entry, detail))
                path[entry] = iter([self._with_detail(further, detail) for further in entry.targets])
        return Expansion(tuple(final.values()), loops)

    def _with_detail(self, target: Address, detail: str) -> Address:
        if not detail or target.split_detail(self._delimiter)[1]:
            return target
        return Address(target.local + detail, target.domain)

    def loops(self) -> list[str]:
        """Return the lines of every circle in the file: `12, 15, 12`."""
        seen: set[tuple[Entry, str]] = set()
        loops = (loop for key in self.entries for loop in self._follow(Address(*key), seen).loops)
        return list(dict.fromkeys(", ".join(map(str, loop)) for loop in loops))

    def listings(self) -> list[Listing]:
        """Return every address; `*` for whatever else there is in its domain."""
        return [
            Listing(address, entry.targets, self.expand(address).targets, entry.overrides)
            for key, entry in self.entries.items()
            for address in (Address(*key),)
        ]

    def targets_without_entry(self) -> list[str]:
        """Return `line 12: gina@wsr.ac.at` for each target that would be refused if a client named it."""
        return [
            f"line {entry.line}: {target}"
            for entry in dict.fromkeys(self.entries.values())
            for target in entry.targets
            if target.domain and target.domain in self.domains and self.find(target)[0] is None
        ]


# The parser. Quoted strings hide the characters that separate things.
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_CONTENT = re.compile(rf"(?:{_QUOTED}|[^#]|(?<=\S)#)*")
_TOKEN = re.compile(rf"{_QUOTED}|.", re.DOTALL)
_OPTIONS = r'(?:\(((?:"[^"]*"|[^()"])*)\))?'
_RIGHT = re.compile(rf'\s*{_OPTIONS}((?:{_QUOTED}|[^()"])*){_OPTIONS}\s*', re.DOTALL)
_ADDRESS = re.compile(rf'(?:{_QUOTED}|[^\x00-\x20\x7f\s()<>\[\]:;@\\,"]+)(?:@[^\x00-\x20\x7f\s()<>:;@\\,"*]+)?')


def _parse(
    text: str, path: Path, delimiter: str, parse_overrides: Callable[[str, str], Overrides]
) -> tuple[Table, list[ConfigError]]:
    """Return the lines that are right, and what is wrong with the others."""
    table = Table(delimiter)
    read: dict[str, Overrides] = {}
    errors: list[ConfigError] = []
    for number, line in _logical_lines(text):
        try:
            addresses, targets, options = _split_line(line)
            if options not in read:
                read[options] = parse_overrides(options, f"{path}:{number}")
            entry = Entry(number, targets, Overrides(read[options].values, f"{path}:{number}"))
            for address in addresses:
                if other := table.entries.get(_key(address)):
                    raise ConfigError(f"{address} is listed twice, in lines {other.line} and {number}: delete one")
                table.entries[_key(address)] = entry
                table.domains.add(address.domain)
        except ConfigError as error:
            errors.append(error.at(path, number))
    return table, errors


def _logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield each entry with the number of its first line, comments removed and continuation lines joined."""
    number, entry = 0, ""
    for here, raw in enumerate(text.split("\n"), 1):
        match = _CONTENT.match(raw) if "#" in raw else None
        line = match[0] if match else raw
        if not line.strip():
            continue
        if line[0].isspace() and entry:
            entry += line
            continue
        if entry:
            yield number, entry
        number, entry = here, line
    if entry:
        yield number, entry


def _split_line(line: str) -> tuple[list[Address], tuple[Address, ...], str]:
    """Return the addresses, the targets and the text of the options."""
    left, *rest = _split(line, ":")
    if not rest:
        raise ConfigError("there is no colon: write LOCAL@DOMAIN: TARGET")
    right = _RIGHT.fullmatch(":".join(rest))
    if right is None:
        raise ConfigError("a parenthesis or quote is left open, or something follows the options")
    options = ", ".join(part for group in (1, 3) if (part := (right[group] or "").strip()))
    targets = _addresses(_split(right[2], ",")) if right[2].strip() else []
    if not targets and not options:
        raise ConfigError("there are neither targets nor options: write LOCAL@DOMAIN: TARGET")
    if any(target.local == "*" for target in targets):
        raise ConfigError("a target cannot be *: name the mailbox")
    locals_, *domains = _split(left, "@")
    if len(domains) > 1:
        raise ConfigError("there is more than one @ before the colon: write LOCAL,LOCAL@DOMAIN,DOMAIN: TARGET")
    domains = _split(domains[0], ",") if domains else [""]
    names = (f"{local}@{domain}" if domain else local for local in _split(locals_, ",") for domain in domains)
    return _addresses(names), tuple(targets), options


def _split(text: str, separator: str) -> list[str]:
    """Split outside quotes, without the white space around the pieces."""
    if '"' not in text:
        return [piece.strip() for piece in text.split(separator)]
    pieces = [""]
    for token in _TOKEN.findall(text):
        if token == separator:
            pieces.append("")
        else:
            pieces[-1] += token
    return [piece.strip() for piece in pieces]


def _addresses(texts: Iterable[str]) -> list[Address]:
    addresses = []
    for text in texts:
        if not _ADDRESS.fullmatch(text):
            raise ConfigError(f"{text!r} is not an address" if text else "an address is missing beside a comma")
        addresses.append(Address.parse(text))
    return addresses
