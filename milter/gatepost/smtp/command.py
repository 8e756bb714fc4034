"""Command lines: the verb, and for MAIL and RCPT the path with its ESMTP parameters.

The front passes on its client's own bytes, so this reads whatever Postfix reads: the tokens are those of Postfix's
`smtp_next_token`, the address those of its `extract_addr` (RFC 822 comments, blanks and quoted words included), so that
a plugin and Postfix see the same recipient. Nothing is checked that Postfix does not check; the raw bytes are kept,
because it is they that go on to the inner smtpd.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from gatepost.address import Address
from gatepost.smtp.error import SmtpSyntaxError
from gatepost.smtp.reply import Reply

__all__ = ["LINE_LIMIT_BYTES", "Command", "Envelope", "SmtpSyntaxError", "parse_command", "parse_path"]

LINE_LIMIT_BYTES = 16 * 1024
"""The front takes command lines of 2,048 bytes (`line_length_limit`), and turns a HELO of that length into an XFORWARD
line of up to three times as much (xtext); RFC 5321 section 4.5.3.1.4 asks for 512. This is twice the longest that can
come, and little enough to hold for every connection. The line end counts."""

_SYNTAX = {
    b"FROM": Reply.of(501, "Syntax: MAIL FROM:<address>", "5.5.4"),
    b"TO": Reply.of(501, "Syntax: RCPT TO:<address>", "5.5.4"),
}
_BAD_ADDRESS = {
    b"FROM": Reply.of(501, "Bad sender address syntax", "5.1.7"),
    b"TO": Reply.of(501, "Bad recipient address syntax", "5.1.3"),
}
_KEYWORD = {
    b"FROM": re.compile(rb"\s*FROM:\s*", re.IGNORECASE),
    b"TO": re.compile(rb"\s*TO:\s*", re.IGNORECASE),
}
# What nearly every argument looks like, in groups: path, local part, domain, parameters. All others take the long way.
_PATH_AND_PARAMETERS = rb"[ \t]*(<([^\s<>()\[\]\"\\,;:@\x00]+)@([A-Za-z0-9_.-]*[A-Za-z0-9_-])>)((?:[ \t][^\0\r\n]*)?)\Z"
_PLAIN = {
    b"FROM": re.compile(rb"[ \t]*FROM:" + _PATH_AND_PARAMETERS, re.IGNORECASE),
    b"TO": re.compile(rb"[ \t]*TO:" + _PATH_AND_PARAMETERS, re.IGNORECASE),
}
# These would end or cut the line elsewhere (RFC 5321 section 4.1.2 wants a 501 for such characters).
_LINE_ENDS = re.compile(rb"[\0\r\n]")
_SPECIAL = re.compile(rb'[\\"<>\s]')
# In groups: a quoted string's content, an escaped character, a domain literal, a bracket, anything else but blanks.
_PIECE = re.compile(r'"((?:[^"\\]|\\.)*)"|\\(.)|(\[(?:[^\[\]\\]|\\.)*\])|([()<>])|([^"\\\[()<>\s]+)|\s+', re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)


class Command(NamedTuple):
    """A command line: the verb in upper case, and what follows it without blanks around."""

    verb: bytes
    argument: bytes = b""


class Envelope(NamedTuple):
    """What MAIL or RCPT named.

    `path` and `raw_parameters` are the exact bytes as given: the path with its angle brackets if it had any, the
    parameters with the blank before them (empty if there are none). `parameters` has the names in upper case and the
    values as given (xtext and all), None for a parameter without a value.
    """

    address: Address
    path: bytes
    parameters: dict[str, str | None]
    raw_parameters: bytes


def parse_command(line: bytes) -> Command:
    """Split a command line, with or without its line end; an empty line gives an empty verb."""
    match line.split(None, 1):
        case [verb, argument]:
            return Command(verb.upper(), argument.rstrip())
        case [verb]:
            return Command(verb.upper())
        case _:
            return Command(b"")


def parse_path(argument: bytes, keyword: Literal[b"FROM", b"TO"]) -> Envelope:
    """Parse what follows MAIL or RCPT: `FROM:<a@b> SIZE=1`.

    Raises SmtpSyntaxError, with the reply that Postfix would give, where there is no address; so too for `TO:<>`.
    """
    if plain := _PLAIN[keyword].match(argument):
        path, local, domain, raw_parameters = plain.groups()
        parameters = _parse_parameters(raw_parameters) if raw_parameters else {}
        return Envelope(Address(_text(local), domain.decode("ascii")), path, parameters, raw_parameters)
    start = _KEYWORD[keyword].match(argument)
    if start is None or start.end() == len(argument) or _LINE_ENDS.search(argument):
        raise SmtpSyntaxError(_SYNTAX[keyword])
    end = _token_end(argument, start.end())
    address = _parse_address(_text(argument[start.end() : end])) if end > 0 else None
    if address is None or (address.is_null and keyword == b"TO"):
        raise SmtpSyntaxError(_BAD_ADDRESS[keyword])
    raw_parameters = argument[end:]
    return Envelope(address, argument[start.end() : end], _parse_parameters(raw_parameters), raw_parameters)


def _parse_parameters(raw: bytes) -> dict[str, str | None]:
    parameters: dict[str, str | None] = {}
    for word in raw.split():
        name, equals, value = _text(word).partition("=")
        parameters[name.upper()] = value if equals else None
    return parameters


def _text(wire: bytes) -> str:
    """Decode as UTF-8 (RFC 6531); bytes that are not survive as surrogate escapes."""
    return wire.decode("utf-8", "surrogateescape")


def _token_end(argument: bytes, at: int) -> int:
    """Return where the token that begins at `at` ends, or -1 if a quote or bracket in it is never closed.

    As Postfix's `smtp_next_token` and `smtp_quoted`: a blank ends the token, but not between quotes or angle brackets;
    quotes stand above brackets.
    """
    depth = 0
    quoted = False
    while special := _SPECIAL.search(argument, at):
        at = special.end()
        match special[0]:
            case b"\\":
                at += 1
            case b'"':
                quoted = not quoted
            case _ if quoted:
                pass
            case b"<":
                depth += 1
            case b">":
                depth -= depth > 0
            case _ if depth == 0:
                return at - 1
    return -1 if depth or quoted or at > len(argument) else len(argument)


def _parse_address(token: str) -> Address | None:
    """Return the address in a path token, None if there is none, as Postfix's `extract_addr` takes it.

    The reading is that of RFC 822: comments and blanks go, quotes go, a phrase before angle brackets goes, the last `@`
    outside quotes parts the two. If there is none outside, the last one inside does (`resolve_dequoted_address`).
    """
    if token.startswith("<") and token.endswith(">"):
        token = token[1:-1]
    if token.startswith("@") and ":" in token:
        # A source route is dropped (RFC 5321 appendix F.2).
        token = token.partition(":")[2]
    if _PIECE.sub("", token):
        return None
    pieces: list[str] = []
    at_sign = -1
    comment_depth = 0
    for quoted, escaped, literal, bracket, plain in _PIECE.findall(token):
        if bracket == "(":
            comment_depth += 1
        elif bracket == ")" and comment_depth > 0:
            comment_depth -= 1
        elif comment_depth == 0 and bracket == "<":
            pieces, at_sign = [], -1
        elif comment_depth == 0 and bracket != ">":
            if "," in plain or ";" in plain:
                return None  # more than one address
            for number, word in enumerate(plain.split("@")):
                if number:
                    at_sign = len(pieces)
                    pieces.append("@")
                pieces.append(word)
            pieces.append(_ESCAPE.sub(r"\1", quoted) + escaped + literal + bracket)
    local, domain = "".join(pieces[: max(at_sign, 0)]), "".join(pieces[at_sign + 1 :])
    if at_sign < 0:
        local, _, domain = domain.rpartition("@") if "@" in domain else (domain, "", "")
    # Postfix takes one trailing dot away (`rewrite_tree`).
    return Address(local, domain.lower().removesuffix("."))
