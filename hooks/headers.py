"""headers: refuses a message whose header lacks From or Date, repeats what may stand once, or makes no sense.

These are rules of RFC 5322 that a mail program keeps without effort and that programs for spam and fraud often break: a
second From shows the reader another author than the one that was checked.

HOOKS
    data_headers_end    reads the header; changes nothing

OPTIONS
    require         ["From", "Date"]: fields that must be there (RFC 5322 section 3.6), but for bounces (from <>): those
                    of a large provider have no Date, and who gets no bounce never knows
    single          ["Date", "From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Message-ID", "In-Reply-To",
                    "References", "Subject"]: fields that may be there once, and no more (the table there). A bounce may
                    have several To: Sendmail writes one for each that it tells, such as the postmaster
    past            "365d": a Date longer ago than this is refused; 0 is no check. Mail that was held by a moderator
                    or sent on later is days or weeks old; a clock that was never set says 1970
    future          "2d": so too a Date further ahead than this; a wrong time zone makes up to a day
    from_syntax     true: From must name a mailbox with a domain; if it names several, there must be a Sender (RFC
                    5322 section 3.6.2): mail programs and DMARC then know whom to believe. A bounce may come
                    from MAILER-DAEMON without a domain
    action          "deny": what is said: deny, defer, deny_disconnect, defer_disconnect
    skip_authenticated  true: a client that has logged in is not asked: its mail program may leave a Date to be added
                    by the server. Without the edge door nobody is known to have logged in: there, and for devices in
                    one's own network, write `headers=off` for these clients in the file of client_options
    skip_whitelisted    true: so too what is whitelisted

    A Date that is no date is refused with either past or future, a From longer than 4,096 characters with from_syntax.

REPLIES
    550 5.6.0 the header field Date is missing
    550 5.6.0 the header field From occurs 2 times, but may stand once
    550 5.6.0 the header field Date is not a date
    550 5.6.0 the header field Date is too far in the past                  (so too: in the future)
    550 5.6.0 the header field From names no mailbox with a domain
    550 5.6.0 the header field From names several mailboxes, and there is no Sender

FAILURE
    None: it needs no service.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import TYPE_CHECKING, Annotated

from pydantic import StringConstraints

from gatepost import Action, Address, Deny, Duration, Header, Plugin, PluginOptions, denial

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost import Headers, Transaction, Verdict

FieldName = Annotated[str, StringConstraints(pattern=r"^[!-9;-~]+$")]

VALUE_LIMIT = 4096
"""Characters of a From or Date that are read: the longest honest list of authors is a fraction of it."""


class Options(PluginOptions):
    """What the manual above says; times in seconds."""

    require: tuple[FieldName, ...] = ("From", "Date")
    single: tuple[FieldName, ...] = (
        "Date",
        "From",
        "Sender",
        "Reply-To",
        "To",
        "Cc",
        "Bcc",
        "Message-ID",
        "In-Reply-To",
        "References",
        "Subject",
    )
    past: Duration = 365 * 86400
    future: Duration = 2 * 86400
    from_syntax: bool = True
    action: Action = "deny"
    skip_authenticated: bool = True
    skip_whitelisted: bool = True


class HeaderRules(Plugin[Options]):
    """Tells the first thing that is wrong."""

    def data_headers_end(self, transaction: Transaction, headers: Headers) -> Verdict | None:
        options = self.options(transaction)
        fault = _fault(headers, options, is_bounce=transaction.sender.is_null)
        if fault is None:
            return None
        verdict = denial(options.action, f"the header field {fault}", enhanced="5.6.0")
        # RFC 5321 section 4.3.2: 550 is the refusal for reasons of policy.
        return replace(verdict, code=550) if isinstance(verdict, Deny) else verdict


def _fault(headers: Headers, options: Options, *, is_bounce: bool) -> str | None:
    """Return what is wrong, beginning with the field's name; None if nothing is."""
    counts = Counter(field.name.lower() for field in headers)
    for name in () if is_bounce else options.require:
        if name.lower() not in counts:
            return f"{name} is missing"
    for name in options.single:
        if (count := counts[name.lower()]) > 1 and not (is_bounce and name.lower() == "to"):
            return f"{name} occurs {count} times, but may stand once"
    if (options.past or options.future) and "date" in counts:
        fault = _date_fault(_text(headers.fields("Date")[0]), options)
        if fault is not None:
            return f"Date is {fault}"
    if options.from_syntax and "from" in counts:
        text = _text(headers.fields("From")[0])
        # Some programs write MAILER-DAEMON alone, or <>.
        return None if is_bounce and "@" not in text else _from_fault(text, has_sender="sender" in counts)
    return None


def _text(field: Header) -> str:
    # Not `field.value`: an encoded word may decode to "<", "," or "@", which are then no syntax.
    return field.raw.replace(b"\r\n", b"").decode("utf-8", "replace")


def _date_fault(text: str, options: Options) -> str | None:
    try:
        date = parsedate_to_datetime(text[:VALUE_LIMIT])
        # A zone of -0000 says that the time is UTC, and the zone not known (RFC 5322 section 3.3).
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, LookupError, OverflowError):
        return "not a date"
    ahead = seconds - time.time()
    if options.past and -ahead > options.past:
        return "too far in the past"
    if options.future and ahead > options.future:
        return "too far in the future"
    return None


def _from_fault(text: str, *, has_sender: bool) -> str | None:
    mailboxes = list(islice(_mailboxes(text), 2)) if len(text) <= VALUE_LIMIT else []
    if not mailboxes:
        return "From names no mailbox with a domain"
    if len(mailboxes) > 1 and not has_sender:
        return "From names several mailboxes, and there is no Sender"
    return None


# One mailbox list (RFC 5322 section 3.4) in pieces. Every alternative takes what it begins: the time is linear. The
# standard library's parsers are not used: of "a@b <a@b>", which is frequent, they make two mailboxes or, since the
# correction of CVE-2023-27043, none.
_QUOTED = r'"(?>(?:[^"\\]|\\.?)*)(?:"|\Z)'
_TOKEN = re.compile(
    rf"""(?P<words>(?>(?:{_QUOTED}|\[[^\]]*+\]?|[^"\[(<,;:]++)+))
    | <(?P<angle>(?>(?:{_QUOTED}|[^">]++)*))(?P<closed>>|\Z)
    | (?P<separator>[,;:])
    | (?P<comment>\()""",
    re.DOTALL | re.VERBOSE,
)
_PARENTHESIS = re.compile(r"[()]|\\.?", re.DOTALL)
_DOMAIN = re.compile(r"""(?>(?:[^\s.@<>()\[\],;:\\"]++\.?)+)|\[[^\s\[\]]++\]""")


def _mailboxes(text: str) -> Iterator[Address]:
    """Yield the mailboxes that have a local part and a domain; whatever else stands there is passed by."""
    words, angle = "", None
    place = 0
    while token := _TOKEN.match(text, place):
        place = token.end()
        match token.lastgroup:
            case "words":
                words += token["words"]
            case "closed":
                angle = token["angle"] if token["closed"] else angle
            case "comment":
                place = _after_comment(text, place)
            case _:
                # After a colon there is the first member of a group: what stood before was the group's name.
                if token["separator"] != ":":
                    yield from _mailbox(words if angle is None else angle)
                words, angle = "", None
    yield from _mailbox(words if angle is None else angle)


def _after_comment(text: str, place: int) -> int:
    """Return the place after the comment that was opened just before `place`; comments may hold comments."""
    depth = 1
    for parenthesis in _PARENTHESIS.finditer(text, place):
        depth += {"(": 1, ")": -1}.get(parenthesis[0], 0)
        if depth == 0:
            return parenthesis.end()
    return len(text)


def _mailbox(text: str) -> Iterator[Address]:
    try:
        address = Address.parse(text)
    except ValueError:
        return
    if address.local and _DOMAIN.fullmatch(address.domain):
        yield address
