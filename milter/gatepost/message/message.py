"""A message at end of data: to read, and to edit with what a milter can do.

Reading shows what the edits so far have made of it. Edits are checked at once (ValueError) and only recorded: the
content door carries `edits` out when the message is accepted. What they mean to Postfix stands in
`gatepost.message.edit`.
"""

from __future__ import annotations

import copy
from functools import wraps
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, Concatenate, ParamSpec, TypeVar

from gatepost.address import Address
from gatepost.message.body import Body, BodyWriter, spooled
from gatepost.message.edit import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteHeader,
    DeleteRecipient,
    Edit,
    HeaderEdit,
    InsertHeader,
    Quarantine,
    ReplaceBody,
)
from gatepost.message.header import Header, Headers, scan_fields
from gatepost.message.message_view import MessageView, Views
from gatepost.message.mime import Part, parse_structure
from gatepost.message.part_edit import edit_part

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from email.message import EmailMessage

__all__ = ["Body", "BodyWriter", "Edit", "Header", "Headers", "Message", "Part"]

MIME_LIMIT_BYTES = 10 << 20
"""The default of content.mime_limit: above Postfix's own limit of messages (10,240,000), lest padding hide anything.
Parsing takes 20 ms a MiB and several times the memory."""

_SHOWN = 80
"""Characters of a value in a summary: log lines stay readable."""

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def _recorded(
    method: Callable[Concatenate[Message, _Arguments], _Result],
) -> Callable[Concatenate[Message, _Arguments], _Result]:
    """Keep each call that changed something, so that `with_edits_of` can make it again."""

    @wraps(method)
    def edit(self: Message, /, *arguments: _Arguments.args, **keywords: _Arguments.kwargs) -> _Result:
        before, calls = len(self._summary), self._calls
        result = method(self, *arguments, **keywords)
        if len(self._summary) > before:
            # In place of the calls that it made itself.
            self._calls = (*calls, (method, arguments, keywords))
        return result

    return edit


class Message:
    """One message. Not for two threads at once, but a `copy` may be edited in another thread.

    `recipients` are those that the message goes to, at least one. `mime_limit` is in bytes.
    """

    def __init__(
        self,
        headers: Iterable[Header],
        body: Body,
        sender: Address,
        recipients: Iterable[Address],
        *,
        mime_limit: int = MIME_LIMIT_BYTES,
    ) -> None:
        self._headers = Headers(headers)
        self._body = self._given_body = body
        self._sender = self._given_sender = sender
        self._recipients = self._given_recipients = tuple(dict.fromkeys(recipients))
        self._mime_limit = mime_limit
        self._header_edits: tuple[HeaderEdit, ...] = ()
        self._quarantine: Quarantine | None = None
        self._summary: tuple[str, ...] = ()
        self._calls: tuple[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]], ...] = ()
        self._views = Views()

    @classmethod
    def parse(
        cls, data: bytes, sender: Address, recipients: Iterable[Address], *, mime_limit: int = MIME_LIMIT_BYTES
    ) -> Message:
        """Return the message that stands in `data`; line ends become CRLF. Without header the fields are none."""
        body = bytes(spooled(data))
        fields, _, start = scan_fields(body, 0, len(body))
        return cls(fields, Body(body[start:]), sender, recipients, mime_limit=mime_limit)

    def copy(self) -> Message:
        """Return a branch: edits on either do not show on the other. Cheap; what is read is shared."""
        return copy.copy(self)

    def with_edits_of(self, branch: Message, origin: Message) -> Message:
        """Return a branch with the edits made again that `branch` has beyond `origin`, whose copy it was.

        So branches that were edited side by side are put together, one after the other. ValueError for an edit that
        cannot be made on top of the others.
        """
        message = self.copy()
        for method, arguments, keywords in branch._calls[len(origin._calls) :]:
            method(message, *arguments, **keywords)
        return message

    # Reading

    @property
    def headers(self) -> Headers:
        """The header, without the Received field that Postfix adds on top after the milter has seen the message."""
        return self._headers

    @property
    def body(self) -> Body:
        """The body, in constant memory whatever its size."""
        return self._body

    @property
    def sender(self) -> Address:
        """The envelope sender."""
        return self._sender

    @property
    def recipients(self) -> tuple[Address, ...]:
        """The envelope recipients, without duplicates."""
        return self._recipients

    @property
    def size(self) -> int:
        """Bytes of the whole message: header, empty line and body."""
        return len(bytes(self._headers)) + 2 + self._body.size

    def open(self) -> BinaryIO:
        """Return a reader of the whole message, at its start; use it in a `with` block."""
        return self._body.open(preceded_by=bytes(self._headers) + b"\r\n")

    @property
    def mime(self) -> EmailMessage | None:
        """The message as the standard library sees it, to read only: changing it changes nothing. Parsed once.

        None when the message is larger than content.mime_limit. Parsing takes 20 ms a MiB: ask from a plugin with
        `blocking = True`, or as `await asyncio.to_thread(lambda: message.mime)`. Never raises: a header field that
        cannot be parsed has an empty value here.
        """
        return self.view.mime(self.open) if self.size <= self._mime_limit else None

    @property
    def structure(self) -> Part | None:
        """The tree of MIME parts, for `replace_part`; found once, a millisecond a MiB.

        None when the message is larger than content.mime_limit.
        """
        return self.view.structure(self._headers, self._body) if self.size <= self._mime_limit else None

    @property
    def view(self) -> MessageView:
        """What was found out about this content, by whichever branch of the message; see `Plugin.once`."""
        return self._views.of(self._header_edits, self._body)

    # Editing the header

    @_recorded
    def add_header(self, name: str, value: str | bytes) -> None:
        """Append a field at the end of the header. Text is encoded and folded as needed (`Header.make`)."""
        field = Header.make(name, value)
        edit = AddHeader(name, field.raw)
        self._edit_header(edit, [*self._headers, field], f"add header {_shown(field)}")

    @_recorded
    def insert_header(self, position: int, name: str, value: str | bytes) -> None:
        """Put a field in front of `headers[position]`: 0 is the top, beyond the end appends.

        In the queue file Postfix's own Received stands above it. ValueError for a negative position.
        """
        if position < 0:
            raise ValueError(f"{name}: position {position} is negative; 0 is the top")
        field = Header.make(name, value)
        fields = [*self._headers]
        position = min(position, len(fields))
        fields.insert(position, field)
        self._edit_header(InsertHeader(position + 1, name, field.raw), fields, f"insert header {_shown(field)}")

    @_recorded
    def change_header(self, name: str, value: str | bytes, occurrence: int = 1) -> bool:
        """Give the `occurrence`th `name` field, from 1, another value; return False, unchanged, if there is none."""
        field = Header.make(name, value)
        places = self._places(name, occurrence)
        if len(places) < occurrence:
            return False
        fields = [*self._headers]
        fields[places[occurrence - 1]] = field
        edit = ChangeHeader(name, occurrence, field.raw)
        self._edit_header(edit, fields, f"change header {_shown(field)}")
        return True

    @_recorded
    def delete_header(self, name: str, occurrence: int | Collection[int] | None = 1) -> int:
        """Remove `name` fields; return how many were removed.

        `occurrence` is one of them, from 1, several, or None for all.
        """
        wanted = None if occurrence is None else frozenset([occurrence] if isinstance(occurrence, int) else occurrence)
        places = self._places(name, min(wanted or {1}))
        numbers = range(1, len(places) + 1)
        gone = {number: places[number - 1] for number in numbers if wanted is None or number in wanted}
        if gone:
            # All in one step, because a stranger can send thousands. From the last: those before keep their numbers.
            removed = set(gone.values())
            self._headers = Headers(field for place, field in enumerate(self._headers) if place not in removed)
            self._header_edits = (*self._header_edits, *(DeleteHeader(name, number) for number in reversed(gone)))
            self._summary = (*self._summary, *(f"delete header {name}" for _ in gone))
        return len(gone)

    def _places(self, name: str, occurrence: int) -> list[int]:
        if occurrence < 1:
            raise ValueError(f"{name}: occurrence {occurrence} is below 1, the first")
        return [place for place, field in enumerate(self._headers) if field.is_named(name)]

    def _edit_header(self, edit: HeaderEdit, fields: list[Header], summary: str) -> None:
        self._headers = Headers(fields)
        self._header_edits = (*self._header_edits, edit)
        self._changed(summary)

    # Editing the body

    def replace_body(self, data: bytes | BinaryIO | Iterable[bytes]) -> None:
        """Replace the whole body; line ends become CRLF. A file or a generator is read to its end, in constant memory.

        The header stays: MIME fields that no longer fit are the caller's to change.
        """
        self._replace_body(spooled(data))

    @_recorded
    def _replace_body(self, body: Body) -> None:
        self._set_body(body, "replace the body")

    @_recorded
    def append_to_body(self, data: bytes) -> None:
        """Append to the body as it stands, MIME or not; line ends become CRLF. For text, `replace_part` is safer."""
        body = spooled(chain(self._lines_of_body(), (data,)))
        self._set_body(body, f"append {len(data)} bytes to the body")

    @_recorded
    def replace_part(self, part: Part, content: bytes, *, charset: str | None = None) -> None:
        """Give one part of `structure` another content, as it is before transfer encoding; the rest of the body stays.

        `charset` relabels the part. The part's header, or the message's for the root, changes only where the content
        needs it. A part from before other edits is found again by its path. ValueError when it is gone or is a
        multipart, when its transfer encoding is unknown, when the content would break the structure, or when the
        message is too large.
        """
        root = self.structure
        if root is None:
            raise ValueError(f"the message has {self.size} bytes: too large to edit its parts")
        current = next((found for found in root.walk() if found.path == part.path), None)
        if current is None:
            raise ValueError(f"the message has no part {part.path} any more")
        edit = edit_part(current, content, charset)
        body = edit.spliced(bytes(self._body), current)
        if part.path and _shape(parse_structure(self._headers, body)) != _shape(root):
            raise ValueError(f"the new content of part {part.path} would break the message: it holds a boundary line")
        self._set_body(spooled(body), f"replace part {'.'.join(str(n + 1) for n in part.path) or 'text'}")
        if not part.path:
            self._set_mime_fields(edit.fields)

    def _lines_of_body(self) -> Iterator[bytes]:
        """Yield the body, its last line ended."""
        last = b"\n"
        for chunk in self._body.chunks():
            yield chunk
            last = chunk[-1:]
        if last != b"\n":
            yield b"\r\n"

    def _set_body(self, body: Body, summary: str) -> None:
        self._body = body
        self._changed(summary)

    def _set_mime_fields(self, fields: Iterable[Header]) -> None:
        for field in fields:
            if not self.change_header(field.name, field.raw):
                self.add_header(field.name, field.raw)
            if "MIME-Version" not in self._headers:
                self.add_header("MIME-Version", "1.0")

    # Editing the envelope

    @_recorded
    def change_sender(self, sender: Address | str) -> None:
        """Change the envelope sender; the empty string is the null sender."""
        self._sender = _checked(sender)
        self._changed(f"change sender to <{self._sender}>")

    @_recorded
    def add_recipient(self, recipient: Address | str) -> None:
        """Add an envelope recipient, which no header field shows; nothing happens if the message goes there anyway."""
        address = _checked(recipient)
        if address.is_null:
            raise ValueError("the empty address cannot be a recipient")
        if address not in self._recipients:
            self._recipients = (*self._recipients, address)
            self._changed(f"add recipient <{address}>")

    @_recorded
    def delete_recipient(self, recipient: Address | str) -> bool:
        """Remove an envelope recipient, who gets nothing and is told nothing; return False if there is none such.

        ValueError for the last one: Postfix would lose the mail behind a 250. To redirect, add first, then delete.
        """
        address = _checked(recipient)
        if address not in self._recipients:
            return False
        if len(self._recipients) == 1:
            raise ValueError(f"<{address}> is the last recipient: refuse the message, or add another recipient first")
        self._recipients = tuple(other for other in self._recipients if other != address)
        self._changed(f"delete recipient <{address}>")
        return True

    @_recorded
    def quarantine(self, reason: str) -> None:
        """Let Postfix hold the message until an administrator releases it; `reason`, one line, is for its log."""
        if not reason.strip() or not reason.isprintable():
            raise ValueError(f"{reason!r}: a reason is one line of text")
        self._quarantine = Quarantine(reason)
        self._changed(f"quarantine: {reason}")

    # What came of it

    @property
    def is_quarantined(self) -> bool:
        """True when Postfix is to hold the message."""
        return self._quarantine is not None

    @property
    def header_edits(self) -> int:
        """How many of the edits are the header's."""
        return len(self._header_edits)

    @property
    def edits(self) -> tuple[Edit, ...]:
        """What is to be done to the message that Postfix holds, in order: header, envelope, hold, body.

        Envelope and body edits that cancel each other are not there, of several only the outcome.
        """
        edits: list[Edit] = [*self._header_edits]
        if self._sender != self._given_sender:
            edits.append(ChangeSender(self._sender))
        # Sets: a message may have thousands.
        given, wanted = frozenset(self._given_recipients), frozenset(self._recipients)
        edits += [AddRecipient(one) for one in self._recipients if one not in given]
        edits += [DeleteRecipient(one) for one in self._given_recipients if one not in wanted]
        if self._quarantine is not None:
            edits.append(self._quarantine)
        if self._body is not self._given_body:
            edits.append(ReplaceBody(self._body))
        return tuple(edits)

    def summary(self) -> list[str]:
        """Return every edit in words, in the order in which they were made: `add header X-Spam: yes`."""
        return list(self._summary)

    def _changed(self, summary: str) -> None:
        self._summary = (*self._summary, summary)


def _checked(address: Address | str) -> Address:
    if isinstance(address, str):
        address = Address.parse(address)
    if not str(address).isprintable():
        raise ValueError(f"{str(address)!r} cannot be written to the queue: control character, or no UTF-8")
    return address


def _shown(field: Header) -> str:
    value = field.value
    return f"{field.name}: {value if len(value) <= _SHOWN else value[: _SHOWN - 1] + '…'}"


def _shape(root: Part) -> list[tuple[tuple[int, ...], str]]:
    return [(part.path, part.content_type) for part in root.walk()]
