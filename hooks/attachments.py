"""attachments: refuses messages with files that are dangerous by name or by what they are, and with ambiguous MIME.

All names that a part has are looked at, decoded; what a file is, by its first bytes; and the names inside of zip
archives, archives in them, winmail.dat (TNEF), and attached messages. Files that stand uuencoded in a text, without any
MIME, are attachments to many mail programs, and so they are here. Ambiguous MIME is what two programs read differently:
it is how attachments get past virus scanners.

HOOKS
    data_post   a scanner: it runs side by side with those that stand next to it

OPTIONS
    extensions      refused as the last extension of a name, in lower case and without the dot. What Gmail refuses, and
                    what Windows runs when it is opened: ade adp apk application appref-ms appx appxbundle bat cab chm
                    cmd com cpl diagcab diagcfg diagpkg dll dmg ex_ exe gadget hlp hta img ins iso isp jar jnlp js jse
                    lib library-ms lnk mde mjs msc msi msix msixbundle msp mst msu nsh pif ps1 reg scf scr sct search-ms
                    settingcontent-ms shb shs sys vb vbe vbs vhd vhdx vxd website wsc wsf wsh xll
    names           []: further names that are refused, with * and ?, without regard to case: "invoice*.htm"
    types           ["executable", "shortcut"]: refused for what they are, whatever they are called. Of: executable,
                    script, shortcut, java, installer, disk_image, zip, rar, 7z, ace, arj, lzh, cab, gzip, bzip2, xz,
                    zstd, tar, tnef, ole, office_macro, onenote, help, pdf, rtf, html, message
    archives        true: the same holds for the names within zip archives, Office documents with them, and
                    winmail.dat; what they are is not looked at there. Names in other archives are not seen: refuse
                    their types, if that counts
    encrypted       "allow": a zip archive that needs a password
    unlisted        "allow": a zip archive with more in it than is looked at: 10,000 names and 16 MiB, of all archives
                    of a message together, archives 5 deep; or with one in it that is packed in an unusual way
    deceptive       "deny": a name with characters that turn the direction of writing (U+202D, U+202E), a NUL, a class
                    identifier or a long gap before its extension
    max_size        0: above 0, an attachment with more bytes, decoded, is refused
    ambiguous       "deny": what is said to ambiguous MIME
    faults          what counts as that. By itself:
        repeated_field      two different Content-Type, -Transfer-Encoding or -Disposition fields; neither 7bit beside
                            8bit counts, nor a Content-Disposition that gives no name
        repeated_parameter  boundary, charset, name or filename twice, and different
        type_syntax         a Content-Type, perhaps of a multipart, with a comment or without semicolon
        boundary_syntax     a boundary with text behind its quotes, a quote that is left open, a backslash
        missing_boundary    a multipart without a boundary, or in which it does not stand; but for a signed message
                            that is attached as a file, smime.p7m, as Exchange does it
        repeated_boundary   a boundary that is also one of the parts around it
        boundary_prefix     one that begins as a boundary around it, or the other way round; or a line that begins as
                            one and goes on
        late_parts          parts behind the last boundary
        encoded_multipart   a multipart in base64, or in quoted-printable that hides a boundary
        broken_header       a line in a part's header that is no field, with Content- fields behind
        nul_in_header       a NUL in one of the three fields
        unknown_encoding    an attachment in an encoding that no program knows
        too_deep            multiparts 30 deep, or messages attached to attached ones 9 deep
        too_many_parts      1,000 parts, or 2,000 with those of attached messages
        partial             a piece of a message (message/partial), which only its reader puts together
                    Not by itself, because careless programs make it, too:
        names_differ        names of one part with different extensions (each is looked at anyway)
        broken_base64       foreign characters, or text behind the end (decoded in spite of it)
        not_closed          a multipart without its last boundary
        external_body       a part that says where its content is (message/external-body)
    too_large       "allow": a message larger than content.mime_limit, of which nothing is seen
    action          "deny": for names, types and sizes. Here as above: "allow", "deny", "defer", "deny_disconnect",
                    "defer_disconnect"
    skip_authenticated  false: true spares clients that have logged in
    skip_whitelisted    true: what is whitelisted is not looked at

    Some old scripts make broken MIME all the time: look with mode = "observe" first.
    In the name of an attached message, which is its subject, neither the extension com nor a gap is refused. Other
    rules for some recipients, in the file of `aliases`: `attachments.extensions="exe, scr"`, `attachments.faults=""`.

REPLIES
    554 5.7.1 the attachment "invoice.exe" is of a kind that is not accepted here (exe)
    554 5.7.1 the archive "a.zip" holds "invoice.exe", which is of a kind that is not accepted here (exe)
    554 5.7.1 the attachment "picture.jpg" is of a kind that is not accepted here (executable)
    554 5.7.1 the name of the attachment "x" is deceptive: a gap before the extension
    554 5.7.1 the archive "a.zip" is encrypted;   ... cannot be looked through
    552 5.3.4 the attachment "x" is too large;   the message is too large to be looked at
    554 5.6.0 the message is ambiguous: a boundary within itself
    451 4.x.x ...  with "defer"; 521 and 421 with those that disconnect

FAILURE
    None: it needs no service.
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from pydantic import field_validator

from gatepost import (
    SERIOUS_FAULTS,
    Action,
    Deny,
    FileType,
    MimeFault,
    Plugin,
    PluginOptions,
    Size,
    deception,
    denial,
    extensions,
    list_contents,
    plain_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gatepost import Attachment, Contents, Message, Transaction, Verdict

EXTENSIONS = (
    *("ade", "adp", "apk", "application", "appref-ms", "appx", "appxbundle", "bat", "cab", "chm", "cmd", "com"),
    *("cpl", "diagcab", "diagcfg", "diagpkg", "dll", "dmg", "ex_", "exe", "gadget", "hlp", "hta", "img", "ins"),
    *("iso", "isp", "jar", "jnlp", "js", "jse", "lib", "library-ms", "lnk", "mde", "mjs", "msc", "msi", "msix"),
    *("msixbundle", "msp", "mst", "msu", "nsh", "pif", "ps1", "reg", "scf", "scr", "sct", "search-ms"),
    *("settingcontent-ms", "shb", "shs", "sys", "vb", "vbe", "vbs", "vhd", "vhdx", "vxd", "website"),
    *("wsc", "wsf", "wsh", "xll"),
)

SHOWN = 100
"""Characters of a name in a reply."""

PLAIN_TYPES = frozenset({"script", "shortcut", "html", "rtf"})
"""What can be told of a text: not looked for in what is only shown."""


class Options(PluginOptions):
    """What the manual above says."""

    extensions: tuple[str, ...] = EXTENSIONS
    names: tuple[str, ...] = ()
    types: tuple[FileType, ...] = ("executable", "shortcut")
    archives: bool = True
    encrypted: Action = "allow"
    unlisted: Action = "allow"
    deceptive: Action = "deny"
    max_size: Size = 0
    ambiguous: Action = "deny"
    faults: tuple[MimeFault, ...] = SERIOUS_FAULTS
    too_large: Action = "allow"
    action: Action = "deny"
    skip_whitelisted: bool = True

    @field_validator("extensions", mode="after")
    @classmethod
    def _bare(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(one.lower().lstrip("*").lstrip(".") for one in given)


class Finding(NamedTuple):
    """Something wrong: what is to be said to it, in words, with a status code, and a reply code in place of 554."""

    action: Action
    text: str
    enhanced: str = "5.7.1"
    code: int | None = None


class Attachments(Plugin[Options]):
    """Looks at what messages carry."""

    scanner = True

    async def data_post(self, transaction: Transaction, message: Message) -> Verdict | None:
        options = self.options(transaction)
        contents = await self.once(message, lambda: self.in_thread(contents_of, message))
        if contents is None:
            self.log.info("attachments not looked at", txn=transaction.id, reason="larger than content.mime_limit")
            found = [Finding(options.too_large, "the message is too large to be looked at", "5.3.4", 552)]
        else:
            found = await self.in_thread(judge, contents, options)
        for finding in found:
            verdict = denial(finding.action, finding.text, enhanced=finding.enhanced)
            if verdict is not None:
                return replace(verdict, code=finding.code) if isinstance(verdict, Deny) else verdict
        return None


def contents_of(message: Message) -> Contents | None:
    """Return what a message carries; None if it is too large. For a thread."""
    root = message.structure
    return None if root is None else list_contents(root)


def judge(contents: Contents, options: Options) -> list[Finding]:
    """Return the first thing of each part that is to be refused, and what is ambiguous. For a thread."""
    found = [
        Finding(options.ambiguous, f"the message is ambiguous: {contents.faults[fault]}", "5.6.0")
        for fault in options.faults
        if fault in contents.faults
    ]
    for attachment in contents.attachments:
        found += [finding for finding in _judge(attachment, options) if finding.action != "allow"][:1]
    return found


def _judge(attachment: Attachment, options: Options) -> Iterator[Finding]:
    shown = _shown(attachment.names[0] if attachment.names else attachment.content_type)
    for name in attachment.names:
        # The name of a message is its subject, which may be folded, or have columns.
        if (how := deception(" ".join(name.split()) if attachment.is_message else name)) is not None:
            yield Finding(options.deceptive, f"the name of the attachment {_shown(name)} is deceptive: {how}")
        kind = _refused(name, options)
        if kind and not (kind == "com" and attachment.is_message):
            yield Finding(options.action, f"the attachment {_shown(name)} is {_KIND} ({kind})")
    real = attachment.file_type
    if real in options.types and not (attachment.is_body and real in PLAIN_TYPES):
        yield Finding(options.action, f"the attachment {shown} is {_KIND} ({real})")
    if attachment.is_message and "message" in options.types:
        yield Finding(options.action, f"the attachment {shown} is {_KIND} (message)")
    if attachment.archive is not None:
        if options.archives:
            yield from _judge_archived(shown, attachment.archive.names, options)
        if attachment.archive.is_encrypted:
            yield Finding(options.encrypted, f"the archive {shown} is encrypted")
        if not attachment.archive.is_whole:
            yield Finding(options.unlisted, f"the archive {shown} cannot be looked through")
    if options.max_size and attachment.size > options.max_size and not attachment.is_message:
        yield Finding(options.action, f"the attachment {shown} is too large", "5.3.4", 552)


def _judge_archived(archive: str, names: Iterable[str], options: Options) -> Iterator[Finding]:
    for name in names:
        if kind := _refused(name, options):
            text = f"the archive {archive} holds {_shown(name)}, which is {_KIND} ({kind})"
            yield Finding(options.action, text)
            return


_KIND = "of a kind that is not accepted here"


def _refused(name: str, options: Options) -> str | None:
    """Return by which extension or pattern a name is refused; None if it is not."""
    kinds = extensions(name).intersection(options.extensions)
    if kinds:
        return min(kinds)
    plain = plain_name(name)
    return next((pattern for pattern in options.names if fnmatchcase(plain, pattern.lower())), None)


def _shown(name: str) -> str:
    """Return a name as a reply can have it: printable ASCII, in quotes."""
    text = "".join(char if " " <= char <= "~" and char != '"' else "?" for char in name[:SHOWN])
    return f'"{text}"' + ("..." if len(name) > SHOWN else "")
