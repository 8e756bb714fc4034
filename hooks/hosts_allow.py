"""hosts_allow: says which clients may send at all, by address, network and name.

The file is read again when it changes; sessions that begin after that use it. A new version with an error is logged by
line, and the old one stays in force.

HOOKS
    connect     a denial is remembered, and given for every recipient of the session; one that disconnects, at MAIL

OPTIONS
    file        the file, required
    default     "allow": what is done with a client that no line names; actions as in the file
    text        "You are not allowed to send mail here": the reason for a denial that has none in the file
    skip_whitelisted    false: whom `whitelist` spares other checks must still be allowed here. An exception stands in
                        the same file, as a more specific line

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

FAILURE
    A missing file, a syntax error or a client listed twice stops the start.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NamedTuple

from gatepost import (
    Action,
    ClientTable,
    ConfigError,
    Fixed,
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
    text: str = "You are not allowed to send mail here"


class HostsAllow(Plugin[Options]):
    """Looks the client up once."""

    def init(self) -> None:
        self._rules = self.watch(self.options().file, _read)

    def connect(self, session: Session) -> Verdict | None:
        options = self.options(session)
        rules: ClientTable[Rule] = self._rules.value
        rule = rules.find(session.ip, session.name)
        action, text = (rule.action, rule.text) if rule else (options.default, "")
        return denial(action, text or options.text, enhanced="5.7.1")


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
