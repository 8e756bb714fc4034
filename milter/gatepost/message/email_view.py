"""The standard library's view of a message, made so that no garbage can raise.

`email` parses header values lazily and some of its parsers fail with IndexError, AttributeError or RecursionError on
what strangers send; a plugin that only looks at a subject must not become a 451 by that.
"""

from __future__ import annotations

from email.errors import MessageError
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import EmailPolicy
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable

    _Policy = EmailPolicy[EmailMessage]
else:
    _Policy = EmailPolicy

_DEFECTS = (LookupError, AttributeError, ValueError, TypeError, AssertionError, RecursionError, MessageError)
"""All that the email package was seen to raise."""

_VALUE_LIMIT = 8192
"""Characters of one structured value that are parsed: some of the parsers take time by the square of the length."""

_UNSTRUCTURED = "X-Unparsed"


class _TolerantPolicy(_Policy):
    """The default policy, with an empty value for a structured field that cannot be parsed, plain text for another."""

    def header_fetch_parse(self, name: str, value: str) -> Any:
        if hasattr(value, "name"):
            return value
        if len(value) <= _VALUE_LIMIT:
            try:
                return super().header_fetch_parse(name, value)
            except _DEFECTS:
                pass
        try:
            return self.header_factory(name, "")
        except _DEFECTS:
            return self.header_factory(_UNSTRUCTURED, "")


_POLICY = _TolerantPolicy()


def email_view(open_message: Callable[[], BinaryIO]) -> EmailMessage:
    """Return the message parsed; with its content as one plain part where parts cannot be told apart."""
    parser: BytesParser[EmailMessage] = BytesParser(EmailMessage, policy=_POLICY)
    with open_message() as stream:
        try:
            return parser.parse(stream)
        except _DEFECTS:
            pass
    with open_message() as stream:
        try:
            return parser.parse(stream, headersonly=True)
        except _DEFECTS:
            return EmailMessage(_POLICY)
