"""fcrdns: refuses clients whose address has no name, one that does not lead back to it, or one that providers generate.

Postfix looks up each client's name itself, and hands over what it could confirm; only for the others DNS is asked here.
Whoever sets up a mail server sets its name; nobody sets the names of machines that were broken into.

HOOKS
    connect     with at = "connect": the client (with the edge: before it has said anything)
    rcpt        with at = "rcpt": each recipient
    Both work behind the proxy alone.

OPTIONS
    missing         "defer": what a client hears whose address has no name (PTR) at all; "deny", "deny_disconnect",
                    "defer_disconnect"; "allow": that does not matter
    unconfirmed     "defer": so too where none of the names has this address
    generic         "allow": so too where the name is made from the address, as ip-192-0-2-1.pool.example.net: it has
                    all its numbers in it, decimal or hexadecimal, in either order, or its last two and a word such as
                    dyn, dhcp, dsl, pool. Much honest mail comes from rented servers with such names
    generic_words   ["adsl", "broadband", "cable", "cust", "customer", "dhcp", "dial", "dialin", "dialup", "dsl", "dyn",
                    "dynamic", "dynip", "ftth", "pool", "ppp", "pppoe", "res", "vdsl"]: these words, of letters
                    alone, in any case
    skip_networks   the private and loopback networks: clients there are not asked about
    at              "rcpt"; "connect" is sooner, but knows no login and no exempt recipient yet: only where nobody logs
                    in, since at home few have a name of their own
    skip_authenticated  true: a client that has logged in is not asked about (known with the edge door, at "rcpt")
    skip_whitelisted    true: nor is one that is whitelisted

NOTES
    session.notes["fcrdns"]["finding"] tells other plugins: "confirmed", "missing" or "unconfirmed"; once it was asked.

REPLIES
    450 4.7.25 your address 192.0.2.1 has no name
    450 4.7.25 none of the names of your address 192.0.2.1 leads back to it
    450 4.7.25 the name of your address 192.0.2.1, ip-192-0-2-1.pool.example.net, is that of no mail server
    At connect with the edge door they come at MAIL: Postfix greets whom "defer" concerns, and says to others, in place
    of the banner, `554 HOST ESMTP not accepting connections` or `421 HOST Service unavailable - try again later`.

FAILURE
    When DNS gives no answer that would confirm a name or prove that there is none, on_unavailable decides: "defer"
    (451) or "pass". Half an answer is never taken for "unconfirmed".
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

from pydantic import AfterValidator, IPvAnyNetwork, StringConstraints

from gatepost import PRIVATE_NETWORKS, Action, Fixed, Plugin, PluginOptions, denial

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from ipaddress import IPv4Address, IPv6Address

    from gatepost import Recipient, Session, Transaction, Verdict

Ip: TypeAlias = "IPv4Address | IPv6Address"

Word: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z]+$"), AfterValidator(str.lower)]
"""Digits and hyphens end a word in a name: what has them would never be found."""

WORDS = (
    "adsl", "broadband", "cable", "cust", "customer", "dhcp", "dial", "dialin", "dialup", "dsl", "dyn", "dynamic",
    "dynip", "ftth", "pool", "ppp", "pppoe", "res", "vdsl",
)  # fmt: skip

NAMES_LIMIT = 10
"""So many names of one address are looked up: some have hundreds, and each is two questions."""


class Options(PluginOptions):
    """What the manual above says."""

    missing: Action = "defer"
    unconfirmed: Action = "defer"
    generic: Action = "allow"
    generic_words: tuple[Word, ...] = WORDS
    skip_networks: tuple[IPvAnyNetwork, ...] = PRIVATE_NETWORKS
    at: Annotated[Literal["rcpt", "connect"], Fixed] = "rcpt"
    skip_authenticated: bool = True
    skip_whitelisted: bool = True


class Fcrdns(Plugin[Options]):
    """Asks once for each client; notes what it found."""

    def connect(self, session: Session) -> Coroutine[None, None, Verdict | None] | None:
        return self._judge(session, self.options(session)) if self.options().at == "connect" else None

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> Coroutine[None, None, Verdict | None] | None:
        return self._judge(transaction.session, self.options(recipient)) if self.options().at == "rcpt" else None

    def _judge(self, session: Session, options: Options) -> Coroutine[None, None, Verdict | None] | None:
        ip = session.ip
        if ip is None or any(ip in network for network in options.skip_networks):
            return None
        return self._verdict(session, ip, options)

    async def _verdict(self, session: Session, ip: Ip, options: Options) -> Verdict | None:
        notes = self.notes(session)
        if "finding" not in notes:
            notes["finding"], notes["name"] = await self._find(session, ip)
        match notes["finding"]:
            case "missing":
                return denial(options.missing, f"your address {ip} has no name", enhanced="5.7.25")
            case "unconfirmed":
                text = f"none of the names of your address {ip} leads back to it"
                return denial(options.unconfirmed, text, enhanced="5.7.25")
        name: str = notes["name"]
        if options.generic == "allow" or not is_generic(name, ip, options.generic_words):
            return None
        text = f"the name of your address {ip}, {name}, is that of no mail server"
        return denial(options.generic, text, enhanced="5.7.25")

    async def _find(self, session: Session, ip: Ip) -> tuple[str, str]:
        """Return the finding and the confirmed name; Unavailable when nobody knows."""
        if session.name:
            return "confirmed", session.name
        # Postfix names no client whose look-up failed, nor any with smtpd_peername_lookup = no.
        names = await self.dns.ptr(ip)
        if not names:
            return "missing", ""
        problem: BaseException | None = None
        answers = await asyncio.gather(*(self._has(name, ip) for name in names[:NAMES_LIMIT]), return_exceptions=True)
        for name, answer in zip(names, answers, strict=False):
            if answer is True:
                return "confirmed", name
            if isinstance(answer, BaseException):
                problem = answer
        if problem:
            raise problem
        return "unconfirmed", ""

    async def _has(self, name: str, ip: Ip) -> bool:
        # Only the kind of address that can be the client's.
        return ip in (await self.dns.a(name) if ip.version == 4 else await self.dns.aaaa(name))


def is_generic(name: str, ip: Ip, words: tuple[str, ...]) -> bool:
    """Return True if the name looks made from the address, or is one of many by its words."""
    name = name.lower()
    if ip.version == 6:
        digits = f"{int(ip):032x}"
        groups = [group.lstrip("0") or "0" for group in ip.exploded.split(":")]
        plain = re.sub(r"[^0-9a-f]", "", name)
        written = re.split(r"[^0-9a-f]+", name)
        return (
            digits in plain
            or digits[::-1] in plain
            or _in_a_row(groups[-4:], [part.lstrip("0") or "0" for part in written if part])
        )
    octets = [str(octet) for octet in ip.packed]
    numbers = [number.lstrip("0") or "0" for number in re.findall(r"\d+", name)]
    padded = "".join(octet.zfill(3) for octet in octets)
    if _in_a_row(octets, numbers) or ip.packed.hex() in name or padded in name:
        return True
    its_words = set(re.split(r"[^a-z]+", name))
    return not its_words.isdisjoint(words) and _in_a_row(octets[2:], numbers)


def _in_a_row(wanted: list[str], found: list[str]) -> bool:
    """Return True if the wanted pieces stand next to each other, in their order or the opposite one."""
    length = len(wanted)
    rows = [found[start : start + length] for start in range(len(found) - length + 1)]
    return wanted in rows or wanted[::-1] in rows
