"""Edits of a message, as the content door gives them to Postfix: one milter call each, in the order of `Message.edits`.

What Postfix makes of header edits, read in cleanup_milter.c and seen on 3.7.11 (tests/test_edit.py):

- A milter never sees the Received field that the smtpd in front of it has just added, and `cleanup_upd_header` and
  `cleanup_del_header` do not touch it: an occurrence is counted among the fields that the milter saw.
- `cleanup_ins_header` does count it: milter position 0 is above that Received, 1 right below it, in front of the first
  field seen. After an insertion at 0 all positions are one off, so nothing here ever inserts there.
- Each edit works on what the edits before it have left: a deleted field counts no longer (`cleanup_find_header_start`
  follows the pointer that replaced it), an inserted or appended one does. A position behind the end appends.
- Changing a field to nothing deletes it (milter8_event); changing one that is not there appends it.
- Body replacement must be one uninterrupted run of calls (`cleanup_repl_body`); hence one `ReplaceBody`, at the end.
- A recipient deleted and added again is dropped by the duplicate filter (comment in `cleanup_del_rcpt`), so
  `Message.edits` never does both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from gatepost.address import Address
    from gatepost.message.body import Body


def milter_value(raw: bytes) -> str:
    """Return a field's raw value as pymilter wants it: text, and folded by LF alone.

    Postfix splits a value at LF (`cleanup_out_header`), so that the CR of a CRLF would stay in the header.
    """
    return raw.replace(b"\r\n", b"\n").decode()


@dataclass(frozen=True, slots=True)
class AddHeader:
    """Append a field at the end of the header: smfi_addheader(name, value).

    `raw` begins with white space, here and below: with SMFIP_HDR_LEADSPC Postfix adds none of its own.
    """

    name: str
    raw: bytes

    @property
    def value(self) -> str:
        """The value as pymilter wants it."""
        return milter_value(self.raw)


@dataclass(frozen=True, slots=True)
class InsertHeader:
    """Put a field in front of another: smfi_insheader(position, name, value).

    `position` is the milter's: 1 is the top of what the plugins see, right below Postfix's own Received.
    """

    position: int
    name: str
    raw: bytes

    @property
    def value(self) -> str:
        """The value as pymilter wants it."""
        return milter_value(self.raw)


@dataclass(frozen=True, slots=True)
class ChangeHeader:
    """Replace the value of the `occurrence`th field of that name, from 1: smfi_chgheader(name, occurrence, value)."""

    name: str
    occurrence: int
    raw: bytes

    @property
    def value(self) -> str:
        """The value as pymilter wants it."""
        return milter_value(self.raw)


@dataclass(frozen=True, slots=True)
class DeleteHeader:
    """Remove the `occurrence`th field of that name, from 1: smfi_chgheader(name, occurrence, NULL)."""

    name: str
    occurrence: int


@dataclass(frozen=True, slots=True)
class ReplaceBody:
    """Replace the whole body: smfi_replacebody with each chunk, or once with nothing for an empty one."""

    body: Body


@dataclass(frozen=True, slots=True)
class ChangeSender:
    """Replace the envelope sender: smfi_chgfrom, with angle brackets (the null sender is `<>`)."""

    sender: Address


@dataclass(frozen=True, slots=True)
class AddRecipient:
    """Add an envelope recipient: smfi_addrcpt, with angle brackets."""

    recipient: Address


@dataclass(frozen=True, slots=True)
class DeleteRecipient:
    """Remove an envelope recipient: smfi_delrcpt, with angle brackets.

    Postfix compares to the letter with what was said in RCPT (`cleanup_del_rcpt`), domain included, and ignores what it
    does not find: the door must give the spelling of RCPT, which an Address does not keep.
    """

    recipient: Address


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Let Postfix hold the message (`postsuper -H` lets it go on): smfi_quarantine."""

    reason: str


HeaderEdit: TypeAlias = AddHeader | InsertHeader | ChangeHeader | DeleteHeader

Edit: TypeAlias = HeaderEdit | ChangeSender | AddRecipient | DeleteRecipient | Quarantine | ReplaceBody
