"""Whose domains a message claims to be from: those in the one From field (RFC 9989 section 5.3.1).

What a mail program shows must be what is checked here, and mail programs do not agree on what is malformed. So what
they could read in different ways is a fault, and never the domain that suits its sender. What stands in a display name
is another matter (section 11.4): `"bank@bank.example" <a@example.org>` is from example.org.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gatepost.idn import to_ascii, to_unicode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gatepost.message.header import Headers

VALUE_LIMIT = 4096
"""Characters of a From that are read: the longest honest list of authors is a fraction of it."""

AUTHORS_LIMIT = 4
"""Domains in one From: each costs look-ups (RFC 9989 section 11.5)."""

# Every alternative takes what it begins: the time is linear.
_TOKEN = re.compile(
    r"""(?P<quoted>"(?>(?:[^"\\]|\\.)*)")
    | (?P<comment>\()
    | (?P<at>[@\uff20\ufe6b])
    | (?P<special>[<>,;:])
    | (?P<words>(?>(?:[^"(<>,;:@\uff20\ufe6b\\]|\\(?!["()<>@,;:\\]))+))""",
    re.DOTALL | re.VERBOSE,
)
_PARENTHESIS = re.compile(r"[()]|\\.?", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_DOMAIN = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*(?![0-9]+\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DOMAIN_LIMIT = 253

_Token = tuple[str, str]


class _FaultError(Exception):
    pass


def author_domains(headers: Headers) -> tuple[tuple[str, ...], str]:
    """Return the domains of the authors, each once, in lower case with A-labels, and "".

    Where they cannot be told for certain: none, and what is wrong, as a sentence.
    """
    fields = headers.fields("From")
    if len(fields) != 1:
        return (), "there is no From" if not fields else "there are several From fields"
    # A byte that is not UTF-8 becomes a surrogate, which no domain has; in a display name it may stand.
    text = fields[0].raw.replace(b"\r\n", b"").decode("utf-8", "surrogateescape")
    try:
        if len(text) > VALUE_LIMIT:
            raise _FaultError("From is too long")
        if _CONTROL.search(text):
            raise _FaultError("From holds a control character")
        domains = tuple(dict.fromkeys(_domains(_tokens(text))))
        if not domains:
            raise _FaultError("From names no address with a domain")
        if len(domains) > AUTHORS_LIMIT:
            raise _FaultError("From names too many domains")
    except _FaultError as fault:
        return (), str(fault)
    return domains, ""


def claimed_domain(headers: Headers, domains: Iterable[str]) -> str | None:
    """Return the first of `domains` that the domain of an author is, or is below; None if there is none.

    Where the authors cannot be told, one that stands anywhere in From counts: a mail program may show it.
    """
    authors, fault = author_domains(headers)
    if not fault:
        return next((one for one in domains if any(is_within(author, one) for author in authors)), None)
    text = b"\n".join(field.raw for field in headers.fields("From")).decode("utf-8", "replace").lower()
    return next((one for one in domains if one in text or to_unicode(one) in text), None)


def is_within(domain: str, parent: str) -> bool:
    """Tell whether the domain is the other one, or below it."""
    domain, parent = to_ascii(domain), to_ascii(parent)
    return domain == parent or domain.endswith("." + parent)


def _tokens(text: str) -> list[_Token]:
    tokens = []
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None or token.lastgroup is None:
            raise _FaultError("From is malformed")
        place = token.end()
        if token.lastgroup == "comment":
            end = _after_comment(text, place)
            if "@" in text[place:end] and "<" in text[place:end]:
                raise _FaultError("From hides an address in a comment")
            place = end
        else:
            tokens.append((token.lastgroup, token[0]))
    return tokens


def _after_comment(text: str, place: int) -> int:
    depth = 1
    for parenthesis in _PARENTHESIS.finditer(text, place):
        depth += {"(": 1, ")": -1}.get(parenthesis[0], 0)
        if depth == 0:
            return parenthesis.end()
    raise _FaultError("a comment in From does not end")


def _domains(tokens: list[_Token]) -> list[str]:
    """Return the domain of each mailbox; in a list, what has no @ is taken as part of a name, `Doe, Jane <a@b>`."""
    domains = []
    mailbox: list[_Token] = []
    angle: list[_Token] | None = None
    is_open = False
    for kind, text in [*tokens, ("special", ",")]:
        if kind != "special":
            (angle if is_open and angle is not None else mailbox).append((kind, text))
        elif is_open and text != ">":
            raise _FaultError("From is malformed")
        elif text == "<":
            if angle is not None:
                raise _FaultError("From is malformed")
            angle, is_open = [], True
        elif text == ">":
            if not is_open:
                mailbox.append(("words", text))
            else:
                # Nothing in front of it counts; an address behind it would.
                is_open, mailbox = False, []
        elif text == ":":
            # The end of a group's name. An address in front of it is a source route, a port, or a trick.
            if angle is not None or any(kind == "at" for kind, _ in mailbox):
                raise _FaultError("From is malformed")
            mailbox = []
        else:
            domains += _mailbox_domain(mailbox, angle)
            mailbox, angle = [], None
    return domains


def _mailbox_domain(mailbox: list[_Token], angle: list[_Token] | None) -> list[str]:
    if angle is None and not any(kind == "at" for kind, _ in mailbox):
        return []
    if angle is not None and any(kind == "at" for kind, _ in mailbox):
        raise _FaultError("From is malformed")
    address = mailbox if angle is None else angle
    places = [place for place, (kind, _) in enumerate(address) if kind == "at"]
    if len(places) != 1 or address[places[0]][1] != "@":
        raise _FaultError("From names no address with a domain")
    local, rest = address[: places[0]], address[places[0] + 1 :]
    domain = "".join(text for _, text in rest).strip(" \t")
    if not "".join(text for _, text in local).strip(" \t") or any(kind == "quoted" for kind, _ in rest):
        raise _FaultError("From names no address with a domain")
    # What nobody sees, such as a soft hyphen, would make another domain of one that looks the same.
    ascii_domain = to_ascii(domain)
    if not domain.isprintable() or len(ascii_domain) > _DOMAIN_LIMIT or not _DOMAIN.fullmatch(ascii_domain):
        raise _FaultError("From names no address with a domain")
    return [ascii_domain]
