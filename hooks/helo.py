r"""helo: refuses clients whose name in HELO or EHLO cannot be theirs, is no host name, or stands in a list.

Three policies, each with the checks of those before it. "lenient" finds lies that no mail server tells. "rfc" wants a
host name that exists, as RFC 5321 section 2.3.5 does. "strict" wants it to be the client's own: RFC 5321 section 4.1.4
says that no mail may be refused for that alone, and honest mail is; look at the log first, with mode = "observe".

    lenient     a name in the list badhelo; one in own_names, or the address that the client has connected to (known
                with the edge door); localhost; an address without brackets; in brackets ([192.0.2.1],
                [IPv6:2001:db8::1]) one that cannot be the client's. It can be if it is private (the client may stand
                behind NAT), in the client's network (/24, /64), or IPv4 where the client comes by IPv6, and vice versa
    rfc         and: any address but the client's own in brackets; a bare name without a dot; characters that no host
                name has; brackets around what is no address; a name that has neither an address nor an MX in DNS; any
                name if the client's address has none (PTR): it can only say that address, in brackets
    strict      and: any address in brackets; a name of which neither this holds: an address of the name is the
                client's, or in its network (/24, /64); the client's own name has the same last two labels

HOOKS
    helo        with at = "helo": each greeting
    rcpt        with at = "rcpt": each recipient, by the last greeting
    Both work behind the proxy alone. A client that gives no name at all is Postfix's (smtpd_helo_required).

OPTIONS
    policy          "lenient", "rfc" or "strict"
    badhelo         "": the list of names, see FILE; beside the configuration file unless it begins with "/"
    own_names       []: names and addresses of this server, which only itself may say: ["mx.example.net", "192.0.2.25"].
                    By the addresses here it is known as itself
    underscores     false: true takes "_" as part of a host name; some Windows hosts say it
    skip_networks   the private and loopback networks: clients that may say anything
    action          "deny"; or "defer", "deny_disconnect", "defer_disconnect". The last one
                    hangs up at once with the edge door and at = "helo", also on who was about to log in
    at              "helo": a bad greeting is refused with the client's messages: at MAIL with the edge door, so that it
                    can still log in or greet better; at each recipient without. "rcpt" judges each recipient, so that
                    exceptions hold for some (`helo=off` in the file of aliases), and whitelisted senders are spared
    skip_authenticated  true: a client that has logged in may say anything (known with the edge door). Mail programs
                    say localhost, [127.0.0.1] or a bare name: without the edge, only where nobody logs in
    skip_whitelisted    true: so may one that is whitelisted

FILE
    NAME REASON; the client is told the reason, if there is one:

        yahoo.com                       # exactly this name: no host of theirs says it
        .dynamic.example.net            # every name below it
        /^user-?\d+$/ You are no mail server    # every name in which this is found: an RE2 pattern, case aside
        !mail.dynamic.example.net       # but not this one, whatever other lines say; so too !.NAME and !/PATTERN/

    So `/./` and `!.example.org` together let only the names below example.org pass. "!" is an exception to this list
    alone: one to all checks is `helo NAME` in the file of whitelist. "#" begins a comment. The file is read again when
    it changes; a version with an error is logged by line, and the old one stays in force.

NOTES
    session.notes["helo"]["problem"] tells other plugins what was wrong with the greeting that was judged last, as the
    reply says it; None if nothing was. So in mode = "observe", too.

REPLIES
    550 5.7.1 HELO name localhost refused: you are not localhost
    550 5.7.1 HELO name [192.0.2.1] refused: not your address
    550 5.7.1 HELO name pc refused: not a fully qualified name      and the like: which check it was

FAILURE
    "lenient" needs no service. With the others, when DNS gives no answer, on_unavailable decides: "defer" (451) or
    "pass". A missing file, or a bad line in it, stops the start.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import re2
from pydantic import IPvAnyNetwork

from gatepost import PRIVATE_NETWORKS, Action, ConfigError, Fixed, Plugin, PluginOptions, denial, parse_lines

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    from gatepost import Recipient, Session, Transaction, Verdict

Ip = IPv4Address | IPv6Address

Answer: TypeAlias = "Coroutine[None, None, Verdict | None] | Verdict | None"


class Options(PluginOptions):
    """What the manual above says."""

    policy: Literal["lenient", "rfc", "strict"] = "lenient"
    badhelo: Annotated[str, Fixed] = ""
    own_names: tuple[str, ...] = ()
    underscores: bool = False
    skip_networks: tuple[IPvAnyNetwork, ...] = PRIVATE_NETWORKS
    action: Action = "deny"
    at: Annotated[Literal["helo", "rcpt"], Fixed] = "helo"
    skip_authenticated: bool = True
    skip_whitelisted: bool = True


class Helo(Plugin[Options]):
    """Judges the name; what needs no DNS, first."""

    def init(self) -> None:
        file = self.options().badhelo
        self._bad = self.watch(file, NameList.parse) if file else None

    def helo(self, session: Session, name: str) -> Answer:
        return self._verdict(session, name, self.options(session)) if self.options().at == "helo" else None

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> Answer:
        session = transaction.session
        if self.options().at != "rcpt" or not session.helo:
            return None
        return self._verdict(session, session.helo, self.options(recipient))

    def _verdict(self, session: Session, helo: str, options: Options) -> Answer:
        ip = session.ip
        if ip is not None and any(ip in network for network in options.skip_networks):
            return None
        problem = self._listed(helo) or _lie(helo, session, options)
        if problem is None and options.policy != "lenient":
            literal = _literal(helo)
            problem = _no_host_name(helo, literal, options)
            if problem is None and literal is None:
                return self._ask_dns(session, helo, options)
            if problem is None and options.policy == "strict":
                problem = "an address in place of a name"
        return self._found(session, helo, problem, options)

    def _found(self, session: Session, helo: str, problem: str | None, options: Options) -> Verdict | None:
        self.notes(session)["problem"] = problem
        return _denial(helo, problem, options) if problem else None

    def _listed(self, helo: str) -> str | None:
        names: NameList | None = self._bad.value if self._bad else None
        return names.find(helo) if names else None

    async def _ask_dns(self, session: Session, helo: str, options: Options) -> Verdict | None:
        problem = await self._unknown(session, helo)
        if problem is None and options.policy == "strict" and not await self._is_the_clients(session, helo):
            problem = "neither the address nor the name of your host fits it"
        return self._found(session, helo, problem, options)

    async def _unknown(self, session: Session, helo: str) -> str | None:
        """Return what DNS lacks: the name itself, or a name for the client."""
        # Most have an IPv4 address: then that is the only question.
        if not (await self.dns.a(helo) or await self.dns.aaaa(helo) or await self.dns.mx(helo)):
            return "no such host"
        if session.name is None and session.ip is not None and not await self.dns.ptr(session.ip):
            return f"your address {session.ip} has no name"
        return None

    async def _is_the_clients(self, session: Session, helo: str) -> bool:
        ip = session.ip
        if ip is None:
            return True
        names = (session.name,) if session.name else await self.dns.ptr(ip)
        if any(_domain(name) == _domain(helo) for name in names):
            return True
        return any(_are_neighbours(found, ip) for found in await self.dns.addresses(helo))


def _lie(helo: str, session: Session, options: Options) -> str | None:
    """Return what is wrong with a name that no mail server outside says of itself; None if nothing is."""
    name = helo.lower().rstrip(".")
    literal = _literal(helo)
    address = literal or _ip(name)
    if name in {"localhost", "localhost.localdomain"} or (address is not None and address.is_loopback):
        return "you are not localhost"
    ip = session.ip
    own_ips = {_ip(own) for own in options.own_names}
    called = _ip(session.daemon_address or "")
    if called is not None and not _is_private(called):
        # A private one is that of many hosts, each behind a NAT of its own.
        own_ips.add(called)
    own_ips.discard(None)
    if ip not in own_ips and (address in own_ips or name in {own.lower().rstrip(".") for own in options.own_names}):
        return "that is this server"
    if literal is None and address is not None:
        return "an address without brackets"
    if literal is None or ip is None or literal == ip or (options.policy == "lenient" and _may_be(literal, ip)):
        return None
    return "not your address"


def _may_be(literal: Ip, ip: Ip) -> bool:
    """Return True for an address that a client at `ip` may take for its own: it stands behind NAT, or has several."""
    return literal.version != ip.version or _is_private(literal) or _are_neighbours(literal, ip)


def _is_private(ip: Ip) -> bool:
    return any(ip in network for network in PRIVATE_NETWORKS)


def _are_neighbours(one: Ip, other: Ip) -> bool:
    return one in ip_network((other, 24 if other.version == 4 else 64), strict=False)


_HOST = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)(?:\.(?!-)[a-z0-9-]{1,63}(?<!-))*", re.IGNORECASE)


def _no_host_name(helo: str, literal: Ip | None, options: Options) -> str | None:
    """Return why it is neither a host name nor an address in brackets (RFC 5321 section 4.1.3); None if it is."""
    if literal is not None:
        return None
    if helo.startswith("["):
        return "no address in the brackets"
    # U-labels are none: before the greeting nobody knows that the server takes them (RFC 6531 section 3.7.1).
    name = helo.removesuffix(".")
    if len(name) > 253 or not _HOST.fullmatch(name.replace("_", "x") if options.underscores else name):
        return "not a host name"
    return None if "." in name else "not a fully qualified name"


def _literal(helo: str) -> Ip | None:
    """Return the address in `[192.0.2.1]` or `[IPv6:2001:db8::1]`; the tag may be missing, as it often is."""
    if not (helo.startswith("[") and helo.endswith("]")):
        return None
    inside = helo[1:-1]
    return _ip(inside[5:] if inside[:5].lower() == "ipv6:" else inside)


def _ip(text: str) -> Ip | None:
    try:
        ip = ip_address(text)
    except ValueError:
        return None
    return getattr(ip, "ipv4_mapped", None) or ip


def _domain(name: str) -> list[str]:
    return name.lower().rstrip(".").split(".")[-2:]


def _denial(helo: str, problem: str, options: Options) -> Verdict | None:
    # A client may say any length, and anything.
    shown = "".join(char if char.isascii() and char.isprintable() else "?" for char in helo[:100])
    return denial(options.action, f"HELO name {shown} refused: {problem}", enhanced="5.7.1")


_LINE = re.compile(r"(?P<but>!?)(?P<what>/(?:[^/\\]|\\.)+/|[^\s!]\S*)(?:\s+(?P<reason>\S.*))?")


class NameList:
    """The file: the names that are refused, each with its reason, and the exceptions."""

    def __init__(self) -> None:
        self._bad = Names()
        self._excepted = Names()

    @classmethod
    def parse(cls, text: str, path: Path) -> NameList:
        """Read a list; ConfigErrors name every wrong line."""
        made = cls()
        parse_lines(text, path, made._add)
        made._bad.compile(path)
        made._excepted.compile(path)
        return made

    def find(self, name: str) -> str | None:
        """Return the reason to refuse a name; None if it is not listed, or an exception."""
        name = name.lower().rstrip(".")
        reason = self._bad.find(name)
        return reason if reason is not None and self._excepted.find(name) is None else None

    def _add(self, line: str, number: int) -> None:
        match = _LINE.fullmatch(line)
        if match is None or (match["what"].startswith("/") and not match["what"].endswith("/")):
            raise ConfigError(f"{line!r} is not understood: write NAME REASON, .NAME REASON or /PATTERN/ REASON")
        what, reason = match["what"], match["reason"]
        if not match["but"]:
            self._bad.add(what, reason or "this name is not welcome", number)
        elif reason:
            raise ConfigError(f"{what} is an exception, nobody would be told {reason!r}: write it as a # comment")
        else:
            self._excepted.add(what, "", number)


class Names:
    """Names, each with its reason: one look-up for each label, and one pass of all patterns."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._patterns: list[tuple[str, int]] = []
        options = re2.Options()
        options.log_errors = False
        options.case_sensitive = False
        self._matcher = re2.Set.SearchSet(options)

    def add(self, what: str, reason: str, number: int) -> None:
        """Enter what stands in line `number`; ConfigError, without a place, for what is no name and no pattern."""
        if not what.startswith("/"):
            if "@" in what or "*" in what or what == ".":
                raise ConfigError(f"{what!r} is no name: write mx.example.net, .example.net or /PATTERN/")
            self._names.setdefault(what.lower().rstrip("."), reason)
            return
        try:
            self._matcher.Add(what[1:-1])
        except re2.error:
            raise ConfigError(f"the pattern {what} is not understood: it is one of RE2") from None
        self._patterns.append((reason, number))

    def compile(self, path: Path) -> None:
        """Make the patterns ready; none may be added after this."""
        self._matcher.Compile()
        # `/dyn|/` or `/x*/` is a slip that would refuse everybody, or except everybody.
        if self._patterns and (found := self._matcher.Match("")):
            raise ConfigError("this pattern is found in every name", path, self._patterns[min(found)][1])

    def find(self, name: str) -> str | None:
        """Return the reason of a name in lower case; None if it is not listed. An entry of itself comes first."""
        reason = self._names.get(name)
        rest = name
        while reason is None and rest:
            rest = rest.partition(".")[2]
            reason = self._names.get(f".{rest}")
        # A byte that is not UTF-8 is "?" to patterns.
        if reason is None and self._patterns and (found := self._matcher.Match(name.encode("utf-8", "replace"))):
            reason, _ = self._patterns[min(found)]
        return reason
