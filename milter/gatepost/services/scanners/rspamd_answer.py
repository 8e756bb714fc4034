"""What rspamd answers to /checkv2, as plain values, and the edits that it asks for.

An answer comes from a server that one trusts, but much in it comes from the mail: nothing is taken over unchecked. What
has a wrong form is left out and told in `problems`; only an answer without an action is none.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from gatepost.address import Address
from gatepost.errors import Unavailable
from gatepost.message.header import Header

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.message.message import Message

SYMBOLS_LIMIT = 500
"""As many as are kept: rspamd comes with a thousand rules, of which a message meets some dozens."""

FIELDS_LIMIT = 100
"""Fields to add, and to remove, and recipients to add: rspamd's own modules come to ten."""

ADDED_LIMIT = 200_000
"""Characters of all fields to add: an ARC set and a long report have some thousands."""

TEXT_LIMIT = 200
"""Characters of a name or a text for people."""

SUBJECT_LIMIT = 2000

NAME_LIMIT = 200

LINE_LIMIT = 998
"""RFC 5322 section 2.1.1; longer lines are folded, shorter ones stay as rspamd wrote them, for they may be signed."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


@dataclass(frozen=True, slots=True)
class AddedField:
    """A header field to add: `order` as rspamd's protocol has it, None for the end."""

    name: str
    value: str
    order: int | None = None


@dataclass(slots=True)
class RspamdAnswer:
    """One answer; what rspamd did not say is empty or None."""

    action: str
    """In lower case and with blanks, `add header`; administrators may have made further ones."""
    score: float = 0.0
    required_score: float | None = None
    skipped: bool = False
    symbols: dict[str, float] = field(default_factory=dict)
    subject: str = ""
    """In place of the message's, one line."""
    smtp_message: str = ""
    """For the client, one line."""
    added: list[AddedField] = field(default_factory=list)
    removed: dict[str, list[int]] = field(default_factory=dict)
    """By name; 1 is the first of that name, -1 the last, 0 all of them."""
    sender: str | None = None
    added_recipients: list[str] = field(default_factory=list)
    deleted_recipients: list[str] = field(default_factory=list)
    on_reject: str | None = None
    """`discard` or `quarantine`: what a rule wants in place of a rejection."""
    spam_fields: dict[str, str] = field(default_factory=dict)
    """Fields that mark spam; under the empty name, the value of the usual one."""
    no_action: bool = False
    """A rule wants the action told in a field, not taken."""
    problems: list[str] = field(default_factory=list)

    @classmethod
    def parse(cls, data: bytes) -> RspamdAnswer:
        """Read the JSON; Unavailable if it is none, or has no action and score. Work for a thread if it is long."""
        try:
            # rspamd quotes the mail, which is not always UTF-8 or free of control characters.
            told = json.loads(data.decode("utf-8", "replace"), strict=False)
        except (ValueError, RecursionError) as error:
            raise Unavailable("rspamd", "its answer is no JSON") from error
        if not isinstance(told, dict) or not isinstance(action := told.get("action"), str):
            raise Unavailable("rspamd", "its answer names no action")
        answer = cls(clean(action).lower().replace("_", " "))
        if (score := _number(told.get("score"))) is None:
            raise Unavailable("rspamd", "its answer has no score")
        answer.score = score
        answer.required_score = _number(told.get("required_score"))
        answer.skipped = told.get("is_skipped") is True
        answer._read_symbols(told.get("symbols"))
        answer.subject = one_line(answer._text(told, "subject"))
        answer.smtp_message = one_line(answer._text(answer._table(told, "messages"), "smtp_message"))[:TEXT_LIMIT]
        answer._read_milter(answer._table(told, "milter"))
        for order, signature in enumerate(answer._listed(told, "dkim-signature"), 1):
            # On top, as rspamd's own milter does: a field that a relay adds stands above those that it signs.
            answer._add_field("DKIM-Signature", {"value": signature, "order": order})
        return answer

    def _read_symbols(self, told: object) -> None:
        if told is not None and not isinstance(told, dict):
            self.problems.append("symbols: not a table")
            return
        for name, symbol in (told or {}).items():
            score = _number(symbol.get("score")) if isinstance(symbol, dict) else _number(symbol)
            if score is None:
                self.problems.append(f"symbol {clean(name)}: no score")
            elif len(self.symbols) < SYMBOLS_LIMIT:
                self.symbols[clean(name)] = score

    def _read_milter(self, told: dict[str, Any]) -> None:
        for name, values in self._table(told, "add_headers").items():
            for value in values if isinstance(values, list) else [values]:
                self._add_field(name, value)
        for name, numbers in self._table(told, "remove_headers").items():
            for number in numbers if isinstance(numbers, list) else [numbers]:
                if not _is_integer(number):
                    self.problems.append(f"remove_headers: {clean(name)}: which one is no integer")
                elif sum(map(len, self.removed.values())) < FIELDS_LIMIT:
                    self.removed.setdefault(name, []).append(number)
        self.sender = self._text(told, "change_from")
        self.added_recipients = self._listed(told, "add_rcpt")
        self.deleted_recipients = self._listed(told, "del_rcpt")
        self.on_reject = self._text(told, "reject")
        self.no_action = told.get("no_action") is True
        spam = told.get("spam_header")
        for name, value in (spam if isinstance(spam, dict) else {"": spam} if spam is not None else {}).items():
            if isinstance(value, str) and len(self.spam_fields) < FIELDS_LIMIT:
                self.spam_fields[name] = value
            else:
                self.problems.append(f"spam_header: {clean(name)}: no text")

    def _add_field(self, name: str, told: object) -> None:
        if isinstance(told, str):
            told = {"value": told}
        if not isinstance(told, dict) or not isinstance(value := told.get("value"), str):
            self.problems.append(f"add_headers: {clean(name)}: no text")
            return
        order = told.get("order", told.get("index"))
        if order is not None and not _is_integer(order):
            self.problems.append(f"add_headers: {clean(name)}: its order is no integer")
            order = None
        if len(self.added) < FIELDS_LIMIT and self.added_size + len(value) <= ADDED_LIMIT:
            self.added.append(AddedField(name, value, order))
        else:
            self.problems.append(f"add_headers: {clean(name)}: too much")

    @property
    def added_size(self) -> int:
        """Characters of the fields to add."""
        return sum(len(added.value) for added in self.added)

    def _table(self, told: dict[str, Any], key: str) -> dict[str, Any]:
        # An empty Lua table has no kind: it comes as [] or {}.
        if not (value := told.get(key)):
            return {}
        if isinstance(value, dict):
            return value
        self.problems.append(f"{key}: not a table")
        return {}

    def _text(self, told: dict[str, Any], key: str) -> str | None:
        value = told.get(key)
        if value is None or isinstance(value, str):
            return value
        self.problems.append(f"{key}: not a text")
        return None

    def _listed(self, told: dict[str, Any], key: str) -> list[str]:
        values = told.get(key) or []
        values = values if isinstance(values, list) else [values]
        texts = [value for value in values if isinstance(value, str)][:FIELDS_LIMIT]
        if len(texts) < len(values):
            self.problems.append(f"{key}: {len(values) - len(texts)} left out: no text, or more than {FIELDS_LIMIT}")
        return texts

    # Edits

    def edit_header(self, message: Message) -> list[str]:
        """Remove, then add header fields; return what could not be done, in words."""
        problems = []
        for name, numbers in self.removed.items():
            if 0 in numbers:
                message.delete_header(name, None)
                continue
            count = len(message.headers.fields(name))
            # All numbers count the fields as rspamd saw them: from the last, so that those before keep theirs.
            for number in sorted({number if number > 0 else count + number + 1 for number in numbers}, reverse=True):
                if 0 < number <= count:
                    message.delete_header(name, number)
        # rspamd's answer is an object, whose members come in any order: first what goes to the end.
        for added in sorted(self.added, key=lambda field: field.order is not None):
            try:
                value = field_value(added.name, added.value)
                if (place := _place(added.order, len(message.headers))) < len(message.headers):
                    message.insert_header(place, added.name, value)
                else:
                    message.add_header(added.name, value)
            except ValueError as error:
                problems.append(f"add_headers: {clean(str(error))}")
        return problems

    def mark_spam(self, message: Message, usual_name: str) -> list[str]:
        """Write the fields that mark spam, in place of others of their names; return what could not be done."""
        problems = []
        for name, value in (self.spam_fields or {"": "Yes"}).items():
            try:
                set_field(message, name or usual_name, value)
            except ValueError as error:
                problems.append(f"spam_header: {clean(str(error))}")
        return problems

    def edit_envelope(self, message: Message) -> list[str]:
        """Change sender and recipients; return what could not be done, in words."""
        return list(self._edit_envelope(message))

    def _edit_envelope(self, message: Message) -> Iterator[str]:
        if self.sender is not None:
            try:
                message.change_sender(Address.parse(self.sender))
            except ValueError as error:
                yield f"change_from: {clean(str(error))}"
        for text in self.added_recipients:
            try:
                message.add_recipient(Address.parse(text))
            except ValueError as error:
                yield f"add_rcpt: {clean(str(error))}"
        for text in self.deleted_recipients:
            try:
                message.delete_recipient(Address.parse(text))
            except ValueError as error:
                yield f"del_rcpt: {clean(str(error))}"


def set_field(message: Message, name: str, value: str) -> None:
    """Append a field in place of all others of its name, which may be forged; ValueError, before any edit."""
    field = Header.make(name, field_value(name, value))
    message.delete_header(name, None)
    message.add_header(name, field.raw)


def field_value(name: str, value: str) -> str | bytes:
    """Return the value as it is to be written; ValueError for a name that is too long.

    ASCII stays as rspamd folded it: DKIM and ARC fields sign themselves.
    """
    if len(name) > NAME_LIMIT:
        raise ValueError(f"a name of {len(name)} characters")
    if value.isascii() and all(len(line) + len(name) < LINE_LIMIT for line in value.splitlines()):
        return value.encode()
    return value


def clean(text: str) -> str:
    """Return a text of somebody else's for people and logs: one line, short, and without what cannot be written."""
    text = text[:TEXT_LIMIT].encode("utf-8", "replace").decode()
    return "".join(char if char.isprintable() else " " for char in text)


def one_line(text: str | None) -> str:
    """Return a text without line breaks and control characters, which may come from the mail; empty for none."""
    return _CONTROL.sub(" ", (text or "")[:SUBJECT_LIMIT].encode("utf-8", "replace").decode()).strip()


def _place(order: int | None, count: int) -> int:
    """Return the place for `insert_header`: rspamd's 0 and 1 are the top, -1 is the end, -2 above the last field."""
    if order is None:
        return count
    return max(0, order - 1 if order >= 0 else count + 1 + order)


def _number(value: object) -> float | None:
    """Return a finite number, rounded to what rspamd itself shows; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = round(float(value), 2)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
