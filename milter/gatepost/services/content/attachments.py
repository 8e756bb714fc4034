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
from gatepost.services.content.part_tree import ATTACHED, message_leaves, uuencoded_files
from gatepost.services.content.tnef_names import tnef_names
from gatepost.services.content.zip_names import ZipBudget, ZipNames, zip_names

if TYPE_CHECKING:
    from gatepost.message.mime import Part
    from gatepost.services.content.file_type import FileType
    from gatepost.services.content.mime_fault import MimeFault

FAULTS_LIMIT = 20_000
"""Each of 3,000 parts may have several, and no others may hide those that count; a field could have millions."""

UUENCODED_LIMIT = 1000
"""Files in texts, all texts together: as many as parts."""


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
    archive: ZipNames | None
    """What a zip archive or a winmail.dat holds; None for what is neither."""
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
    budget, uuencoded_left = ZipBudget(), UUENCODED_LIMIT
    for part, content, level in message_leaves(root):
        attachments.append(_attachment(tuple(names_of(part)), part.content_type, content, level, budget, hashes=hashes))
        if part.content_type == "text/plain":
            for name, file in islice(uuencoded_files(content), uuencoded_left):
                attachments.append(_attachment((name,), "application/octet-stream", file, level, budget, hashes=hashes))
                uuencoded_left -= 1
    if not uuencoded_left and faults:
        found.setdefault("too_many_parts", "more files in its texts than are looked at")
    return Contents(tuple(attachments), found)


def _attachment(
    names: tuple[str, ...], content_type: str, content: bytes, level: int, budget: ZipBudget, *, hashes: bool
) -> Attachment:
    kind = file_type(content)
    held = None
    if kind == "tnef":
        held = ZipNames(dict.fromkeys(islice(tnef_names(content), max(0, budget.names))))
        budget.names -= len(held.names)
        held.is_whole = budget.names > 0
    elif kind == "zip" or b"PK\x05\x06" in content[-65_600:]:
        held = zip_names(content, budget)
        if any(name.lower().endswith("vbaproject.bin") for name in held.names):
            kind = "office_macro"
    digest = hashlib.sha256(content).hexdigest() if hashes else ""
    return Attachment(names, content_type, kind, len(content), level, held, digest)
