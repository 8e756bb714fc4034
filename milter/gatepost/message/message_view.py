"""What reading a message has brought to light, kept for everybody who reads the same content.

Plugins side by side, runs with other options and copies in threads all work on branches of one message. As long as its
header and body are the same, it is parsed once and scanned once: a `Views` is shared by all branches, and has one
`MessageView` for each content.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from gatepost.message.email_view import email_view
from gatepost.message.mime import parse_structure

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from email.message import EmailMessage
    from typing import BinaryIO

    from gatepost.message.body import Body
    from gatepost.message.edit import HeaderEdit
    from gatepost.message.header import Headers
    from gatepost.message.mime import Part


class MessageView:
    """What was found in one content; for any thread."""

    __slots__ = ("_lock", "_mime", "_structure", "found")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._mime: EmailMessage | None = None
        self._structure: Part | None = None
        self.found: dict[Hashable, Any] = {}
        """What plugins found, or the exception that kept them from it; see `Plugin.once`."""

    def mime(self, open_message: Callable[[], BinaryIO]) -> EmailMessage:
        """Return the parsed message; whoever comes while another thread parses it waits for that."""
        with self._lock:
            if self._mime is None:
                self._mime = email_view(open_message)
            return self._mime

    def structure(self, headers: Headers, body: Body) -> Part:
        """Return the tree of parts; waits as `mime` does."""
        with self._lock:
            if self._structure is None:
                self._structure = parse_structure(headers, bytes(body))
            return self._structure


class Views:
    """The views of one message and all its branches, one for each content."""

    __slots__ = ("_views",)

    def __init__(self) -> None:
        self._views: dict[tuple[tuple[HeaderEdit, ...], Body], MessageView] = {}

    def of(self, header_edits: tuple[HeaderEdit, ...], body: Body) -> MessageView:
        """Return the view of the content that these edits and this body make."""
        # setdefault is one step for threads, too.
        return self._views.setdefault((header_edits, body), MessageView())
