"""addsig: appends a signature, a disclaimer or an address block to the mail of a domain's own senders.

The text for mail from anyone@example.org is the file DIRECTORY/example.org. It goes below the first text of a message,
into its HTML version as well; attachments and all else stay as they are, byte for byte.

HOOKS
    data_post

OPTIONS
    directory   the directory of signatures, required
    separator   true: the line "-- " comes first, by which mail programs know a signature; not doubled where the file
                begins with it. false: an empty line
    html        "lines": each line ends with <br>; "pre": <pre>, which keeps the file's spacing; "off": HTML is left
                alone, its plain text version is not
    authenticated_only  false. true: only for clients that have logged in (known with the edge door), so that no
                stranger who uses your domain gets your signature

    For some clients only: mode = "off" here, and `addsig` as an option in the file of `client_options`.

FILES
    UTF-8 text, named like the sender domain in lower case, and read again when it changes. No file, or an empty one: no
    signature. A domain with other than letters, digits, dots and hyphens has none.

    A text part whose charset lacks a letter of the signature becomes UTF-8; in HTML such letters are written &#...;.
    The transfer encoding stays, but for a 7bit part that has to become quoted-printable.

    Left alone: what is signed or encrypted (DKIM, ARC, S/MIME, PGP), since it would be broken; delivery reports;
    messages above content.mime_limit, or with their text in more than eight forms; texts that cannot be decoded; texts
    that end with the signature already; messages of which a line of the signature is a boundary. The log says which
    and why.

REPLIES
    None.

FAILURE
    A missing directory or a file that is not UTF-8 stops the start. Later such a file is logged by line, and its last
    good version stays in use.
"""

from __future__ import annotations

import codecs
import html
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from gatepost import ConfigError, Message, Plugin, PluginOptions, Transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost import Headers, Part, WatchedFile

# What may become a file name: no slash, no dot at the start, no two dots.
DOMAIN = re.compile(r"(?=.{1,253}\Z)[^\W_](?:-*[^\W_])*(?:\.[^\W_](?:-*[^\W_])*)*")
SEPARATOR = "-- "
SIGNED_FIELDS = ("DKIM-Signature", "ARC-Seal", "ARC-Message-Signature")
SEALED_TYPES = {
    *("multipart/signed", "multipart/encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime"),
    *("application/pgp-encrypted", "application/pgp", "multipart/report"),
}
PGP = re.compile(rb"^-----BEGIN PGP (?:SIGNED )?MESSAGE-----", re.MULTILINE)
HTML_ENDS = (re.compile("</body", re.IGNORECASE), re.compile("</html", re.IGNORECASE))
# Plain, HTML and a few more. Each edit looks at the whole message again: four hundred would take two seconds.
MAX_TEXTS = 8
# Codecs of Python that no mail has; they take time by the square of the length.
NO_CHARSETS = {"punycode", "idna"}
PRINTABLE = "".join(map(chr, range(32, 127))) + "\r\n\t"


class Options(PluginOptions):
    """What the manual above says."""

    directory: Path
    separator: bool = True
    html: Literal["lines", "pre", "off"] = "lines"
    authenticated_only: bool = False


class Addsig(Plugin[Options]):
    """Knows the signatures by file."""

    blocking = True
    threads = 2  # it computes: more would only take turns with all that the daemon does

    def init(self) -> None:
        self._files: dict[Path, WatchedFile[str]] = {}
        self._refused: dict[Path, int] = {}
        directory = self.options().directory
        if not directory.is_dir():
            raise ConfigError(f"addsig.directory: {directory} is no directory: make it, with a file per sender domain")
        for path in sorted(directory.iterdir()):
            if DOMAIN.fullmatch(path.name) and path.is_file():
                self._files[path] = self.watch(path, parse_signature)

    def data_post(self, transaction: Transaction, message: Message) -> None:
        options = self.options(transaction)
        if options.authenticated_only and not transaction.authenticated:
            return
        signature = self._signature(options.directory, message.sender.domain)
        if not signature:
            return
        root = message.structure
        reason = "larger than content.mime_limit" if root is None else why_sealed(message.headers, root)
        if root is None or reason:
            self.log.info("left unsigned", txn=transaction.id, reason=reason)
            return
        parts = list(text_parts(root))
        if len(parts) > MAX_TEXTS:
            self.log.info("left unsigned", txn=transaction.id, reason=f"its text comes in {len(parts)} forms")
            return
        for part in parts:
            if part.content_type == "text/html" and options.html == "off":
                continue
            if problem := add(message, part, signature, options):
                self.log.info("text left unsigned", txn=transaction.id, type=part.content_type, reason=problem)
        if not parts:
            self.log.info("left unsigned", txn=transaction.id, reason="no text in it")

    def _signature(self, directory: Path, domain: str) -> str | None:
        """Return the text for a sender domain; None where there is none."""
        if not DOMAIN.fullmatch(domain):
            return None
        path = directory / domain
        try:
            changed = path.stat().st_mtime_ns
        except OSError:
            self._files.pop(path, None)
            return None
        watched = self._files.get(path)
        if watched is not None:
            return watched.value
        if self._refused.get(path) == changed:
            return None
        try:
            watched = self._files[path] = self.watch(path, parse_signature)
        except ConfigError as error:
            # Once for each version of a new file that was never good.
            self._refused[path] = changed
            self.log.error("no signature for this domain", problem=str(error))
            return None
        return watched.value


def parse_signature(text: str, path: Path) -> str:
    """Return a file's text with LF line ends, without empty lines around it."""
    if "\0" in text:
        raise ConfigError("NUL in a text file", path, text[: text.index("\0")].count("\n") + 1)
    return "\n".join(line.rstrip() for line in text.removeprefix("\ufeff").splitlines()).strip("\n")


def why_sealed(headers: Headers, root: Part) -> str | None:
    """Return why the message must not be changed, in words; None if it may be."""
    for name in SIGNED_FIELDS:
        if name in headers:
            return f"it has a {name} field"
    for part in root.walk():
        if part.content_type in SEALED_TYPES:
            return f"it is {part.content_type}"
        if part.content_type.startswith("text/") and PGP.search(part.content() or b""):
            return "it holds a PGP message"
    return None


def text_parts(part: Part) -> Iterator[Part]:
    """Find the first text of a message, in all its alternative forms."""
    if part.content_type.startswith("multipart/"):
        for child in part.children:
            found = list(text_parts(child))
            yield from found
            # Only alternatives say the same thing several times.
            if part.content_type == "multipart/related" or (found and part.content_type != "multipart/alternative"):
                return
    elif part.content_type in {"text/plain", "text/html"} and not part.is_attachment:
        yield part


def add(message: Message, part: Part, signature: str, options: Options) -> str | None:
    """Put the signature into one text; return why it could not be done, or None."""
    content = part.content()
    if content is None:
        return f"its transfer encoding {part.encoding!r} cannot be undone"
    decoded = decode(content, part.charset)
    if decoded is None:
        return f"it is not in its charset, {part.charset!r}"
    text, codec, errors = decoded
    is_html = part.content_type == "text/html"
    place = html_end(text) if is_html else len(text)
    before, after = text[:place], text[place:]
    block = html_block(signature, codec, options) if is_html else plain_block(signature, part, options)
    line_end = "\n" if "\n" in text and "\r\n" not in text else "\r\n"
    block = block.replace("\n", line_end)
    if before.rstrip().endswith(block.strip()):
        return "it ends with the signature already"
    joint = line_end if before and not before.endswith("\n") else ""
    if before and not is_html and not block.startswith(SEPARATOR):
        joint += line_end
    # The line end before a MIME boundary is not the text's.
    ends = line_end if after or not part.path or before.endswith("\n") else ""
    whole = before + joint + block + ends + after
    for encoding, label in ((codec, None), ("utf-8", "utf-8")):
        try:
            written = whole.encode(encoding, errors)
            if label is not None:
                written.decode(label)  # foreign bytes may be UTF-8 as they are
        except UnicodeError:
            continue
        try:
            message.replace_part(part, written, charset=label)
        except ValueError as error:  # such as a line of the signature that is a boundary of this message
            return str(error)
        return None
    return f"its charset {part.charset!r} cannot hold the signature"


def decode(content: bytes, charset: str) -> tuple[str, str, str] | None:
    """Return a text, and the codec and error handler that make the same bytes of it again; None if there are none.

    What is not in its charset, or in one that Python does not know, is taken as ASCII with foreign bytes in it.
    """
    holds_ascii = True
    try:
        if codecs.lookup(charset).name in NO_CHARSETS:
            raise LookupError
        holds_ascii = PRINTABLE.encode(charset) == PRINTABLE.encode()
        text = content.decode(charset)
        if text.encode(charset) == content:
            return text, charset, "strict"
    except (LookupError, ValueError):
        pass
    return (content.decode("ascii", "surrogateescape"), "ascii", "surrogateescape") if holds_ascii else None


def plain_block(signature: str, part: Part, options: Options) -> str:
    """Return the signature as lines of plain text, without the last line end."""
    lines = signature.split("\n")
    if part.parameters.get("format", "").lower() == "flowed":
        # RFC 3676 section 4.4: otherwise taken as a quote, or lost.
        lines = [f" {line}" if line.startswith((" ", ">", "From ")) else line for line in lines]
    if lines[0] == SEPARATOR.rstrip():
        lines[0] = SEPARATOR
    elif options.separator:
        lines.insert(0, SEPARATOR)
    return "\n".join(lines)


def html_block(signature: str, codec: str, options: Options) -> str:
    """Return the signature as HTML, without a line end at its end; letters that the codec lacks as references."""
    lines = signature.split("\n")
    if lines[0] == SEPARATOR.rstrip():
        lines[0] = SEPARATOR
    elif options.separator:
        lines.insert(0, SEPARATOR)
    escaped = [html.escape(line).encode(codec, "xmlcharrefreplace").decode(codec) for line in lines]
    if options.html == "pre":
        return "<pre>" + "\n".join(escaped) + "</pre>"
    return "<div>" + "<br>\n".join(escaped) + "</div>"


def html_end(text: str) -> int:
    """Return where HTML ends for its reader: before the last </body>, else before </html>, else the end."""
    for tag in HTML_ENDS:
        last = None
        for found in tag.finditer(text):
            last = found.start()
        if last is not None:
            return last
    return len(text)
