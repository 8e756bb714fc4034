"""What a message carries: each part's names, real type and size, what archives hold, and where MIME is ambiguous.

Facts only; what is refused is the business of plugins. All of it is work for a thread, and bounded.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from gatepost.services.content.file_name import names_of
from gatepost.services.content.file_type import file_type
from gatepost.services.content.mime_fault import mime_faults
from gatepost.services.content.part_tree import ATTACHED, message_leaves
from gatepost.services.content.zip_names import ZipBudget, ZipNames, zip_names

if TYPE_CHECKING:
    from gatepost.message.mime import Part
    from gatepost.services.content.file_type import FileType
    from gatepost.services.content.mime_fault import MimeFault

FAULTS_LIMIT = 1000
"""A message can have one for each of its parts, again and again."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """One part with content; texts that are no file are there, too, without a name."""

    names: tuple[str, ...]
    """All that the header gives, decoded."""
    content_type: str
    """As declared."""
    file_type: FileType | None
    """As it is; None for text, and for what is not told apart."""
    size: int
    """Bytes, decoded."""
    level: int
    """How many attached messages it stands in."""
    zipped: ZipNames | None
    """What a zip archive holds; None for what is none."""
    sha256: str
    """Of the decoded content; empty where that was not asked for."""

    @property
    def is_body(self) -> bool:
        """True for text that is shown, and is no file."""
        return not self.names and self.content_type.startswith(("text/", "multipart/"))

    @property
    def is_message(self) -> bool:
        """True for an attached message, whose name is mostly its subject."""
        return self.content_type in ATTACHED


@dataclass(frozen=True, slots=True)
class Contents:
    """What a message carries."""

    attachments: tuple[Attachment, ...]
    faults: dict[MimeFault, str]
    """Each once, with words about the first place."""


def list_contents(root: Part, *, hashes: bool = False, faults: bool = True) -> Contents:
    """Return what the message with that structure carries."""
    found: dict[MimeFault, str] = {}
    for fault, words in islice(mime_faults(root), FAULTS_LIMIT) if faults else ():
        found.setdefault(fault, words)
    attachments = []
    budget = ZipBudget()
    for part, content, level in message_leaves(root):
        kind = file_type(content)
        zipped = zip_names(content, budget) if kind == "zip" or b"PK\x05\x06" in content[-65_600:] else None
        if zipped is not None and any(name.lower().endswith("vbaproject.bin") for name in zipped.names):
            kind = "office_macro"
        digest = hashlib.sha256(content).hexdigest() if hashes else ""
        attachments.append(
            Attachment(tuple(names_of(part)), part.content_type, kind, len(content), level, zipped, digest)
        )
    return Contents(tuple(attachments), found)
