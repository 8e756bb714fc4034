"""What the tests of Message share: a message with odd fields, and how it looks as a whole and to Postfix."""

from __future__ import annotations

from gatepost import Address, Message
from gatepost.message.edit import ReplaceBody

SENDER = Address("sender", "example.net")
ANNA, BERT = Address("anna", "example.org"), Address("bert", "example.org")
MAIL = (
    b"Received: one\r\nSubject:no space\r\nX-A:  first \r\nReceived: two\r\nx-a: second\r\n\r\nline one\r\nline two\r\n"
)


def message(data: bytes = MAIL, *, mime_limit: int = 1 << 20) -> Message:
    return Message.parse(data, SENDER, [ANNA, BERT], mime_limit=mime_limit)


def whole(mail: Message) -> bytes:
    with mail.open() as reader:
        return reader.read()


def body_after(mail: Message) -> bytes:
    """Return the body as Postfix is told to have it; fail if it is told nothing, or more than once."""
    (edit,) = (edit for edit in mail.edits if isinstance(edit, ReplaceBody))
    assert mail.edits[-1] == edit
    assert edit.body is mail.body
    return bytes(edit.body)
