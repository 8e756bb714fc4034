"""Carries out one edit of a message: one call to libmilter each, which touches nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_never

from gatepost.message.edit import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteHeader,
    DeleteRecipient,
    InsertHeader,
    Quarantine,
    ReplaceBody,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gatepost.address import Address
    from gatepost.message.edit import Edit


def apply_edit(ctx: Any, edit: Edit, spellings: Mapping[Address, str]) -> None:
    """Make the edit; milter.error when libmilter refuses, which makes the message a 451.

    `spellings` are the recipients as RCPT named them, with angle brackets: Postfix finds a recipient to delete only
    under that spelling (`cleanup_del_rcpt`).
    """
    match edit:
        case AddHeader():
            ctx.addheader(edit.name, edit.value)
        case InsertHeader():
            ctx.addheader(edit.name, edit.value, edit.position)
        case ChangeHeader():
            ctx.chgheader(edit.name, edit.occurrence, edit.value)
        case DeleteHeader():
            ctx.chgheader(edit.name, edit.occurrence, None)
        case ChangeSender():
            ctx.chgfrom(f"<{edit.sender}>")
        case AddRecipient():
            ctx.addrcpt(f"<{edit.recipient}>")
        case DeleteRecipient():
            ctx.delrcpt(spellings.get(edit.recipient, f"<{edit.recipient}>"))
        case Quarantine():
            ctx.quarantine(edit.reason)
        case ReplaceBody():
            if not edit.body:
                ctx.replacebody(b"")
            for chunk in edit.body.chunks():
                ctx.replacebody(chunk)
        case _:
            assert_never(edit)
