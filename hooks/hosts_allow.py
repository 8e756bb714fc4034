"""hosts_allow: says which clients may send at all, by address, network and name, and how many at once.

The file is read again when it changes; sessions that begin after that use it. A new version with an error is logged by
line, and the old one stays in force.

HOOKS
    connect     a denial is remembered, and given for every recipient of the session; one that disconnects, at MAIL.
                With the edge door it is given in place of the banner
    disconnect  one connection less

OPTIONS
    file        the file, required
    default     "allow": what is done with a client that no line names; actions as in the file
    max_connections     0: no limit. Above it, so many connections one client may have at once. Only with the edge
                door, which hears when a client leaves; whom it has not heard of is not counted
    ipv4_prefix 32: IPv4 clients of one network of this size are one client
    ipv6_prefix 64: so too IPv6 clients; one customer has a whole /64
    busy_action "defer_disconnect": what a connection too many hears; actions as in the file
    text        "You are not allowed to send mail here": the reason for a denial that has none in the file
    skip_whitelisted    false: whom `whitelist` spares other checks must still be allowed here. An exception stands in
                        the same file, as a more specific line

    For one client: `hosts_allow.max_connections=50` in the file of client_options, which stands before this plugin.
    The count is this process's own. It begins anew with a reload: who is connected then, is not counted any more. A
    client whose address is unknown is not counted; nor is one that a line of the file refuses.

FILE
    CLIENT: ACTION TEXT

        10.0.0.0/8: allow
        192.0.2.0/24: deny We do not talk to you
        192.0.2.25: allow
        2001:db8::/32: defer Please come again tomorrow
        203.0.113.7: deny_disconnect
        # The client's name, forward-confirmed by Postfix, and every name below it. A client that does not want to be
        # known by its name has none: deny by network.
        bad.example.net: defer

    One line counts for a client, the most specific: an address before a network, a smaller network before a larger one,
    any of these before a name, a longer name before a shorter. After the colon comes white space. "#" begins a comment;
    in a text with " #" in it, put the whole text in double quotes.

    allow               later plugins are asked as ever
    deny                refused for good (550)
    defer               refused for now (450)
    deny_disconnect     refused for good, and hung up on (521)
    defer_disconnect    refused for now, and hung up on (421)

REPLIES
    550 5.7.1 We do not talk to you     the text of the line, else the option text; 450, 521 or 421 by the action
    421 4.7.0 too many connections from 192.0.2.1       or the network that counts as one client
    With the edge door, in place of the banner, Postfix says `554 HOST ESMTP not accepting connections` or `421 HOST
    Service unavailable - try again later`; the replies above come at MAIL, for who goes on, and in the log.

FAILURE
    A missing file, a syntax error or a client listed twice stops the start.
"""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field

from gatepost import (
    Action,
    ClientTable,
    ConfigError,
    Fixed,
    NeedsEdge,
    Plugin,
    PluginOptions,
    Session,
    Verdict,
    denial,
    parse_action,
    parse_lines,
    split_client_line,
)


class Options(PluginOptions):
    """What the manual above says."""

    file: Annotated[Path, Fixed]
    default: Action = "allow"
    max_connections: Annotated[int, NeedsEdge, Field(ge=0)] = 0
    ipv4_prefix: int = Field(default=32, ge=0, le=32)
    ipv6_prefix: int = Field(default=64, ge=0, le=128)
    busy_action: Action = "defer_disconnect"
    text: str = "You are not allowed to send mail here"


class HostsAllow(Plugin[Options]):
    """Looks the client up once."""

    def init(self) -> None:
        self._rules = self.watch(self.options().file, _read)
        self._connected: dict[str, set[str]] = {}
        """The sessions of each client that is counted, by their ids: to end one twice, or one unknown, is harmless."""

    def connect(self, session: Session) -> Verdict | None:
        options = self.options(session)
        rules: ClientTable[Rule] = self._rules.value
        rule = rules.find(session.ip, session.name)
        action, text = (rule.action, rule.text) if rule else (options.default, "")
        return denial(action, text or options.text, enhanced="5.7.1") or self._count(session, options)

    def disconnect(self, session: Session) -> None:
        client = self.notes(session).get("client", "")
        sessions = self._connected.get(client, set())
        sessions.discard(session.id)
        if not sessions:
            self._connected.pop(client, None)

    def _count(self, session: Session, options: Options) -> Verdict | None:
        """Count the connection, unless it is one too many."""
        ip = session.ip
        # Without the edge door a session goes on for proxy.session_idle: who sends often would be there several times.
        if ip is None or not options.max_connections or session.daemon_name is None:
            return None
        prefix = options.ipv4_prefix if ip.version == 4 else options.ipv6_prefix
        client = str(ip) if prefix == ip.max_prefixlen else str(ip_network((ip, prefix), strict=False))
        sessions = self._connected.setdefault(client, set())
        if len(sessions) >= options.max_connections:
            return denial(options.busy_action, f"too many connections from {client}", enhanced="5.7.0")
        sessions.add(session.id)
        self.notes(session)["client"] = client
        return None


class Rule(NamedTuple):
    """One line of the file; an empty text stands for the option."""

    line: int
    action: Action
    text: str


def _read(content: str, path: Path) -> ClientTable[Rule]:
    rules: ClientTable[Rule] = ClientTable()

    def take(line: str, number: int) -> None:
        client, right = split_client_line(line, "ACTION TEXT")
        word, text = (*right.split(None, 1), "", "")[:2]
        try:
            action = parse_action(word)
        except ValueError as error:
            raise ConfigError(
                f"{client}: {error}" if word else f"{client} has no action: write {client}: deny"
            ) from error
        if text[:1] == text[-1:] == '"' and len(text) > 1:
            text = text[1:-1]
        if action == "allow" and text:
            raise ConfigError(f"{client} is allowed, nobody would be told {text!r}: write it as a # comment")
        if earlier := rules.add(client, Rule(number, action, text)):
            raise ConfigError(f"{client} is listed twice, in lines {earlier.line} and {number}: delete one")

    parse_lines(content, path, take)
    return rules
