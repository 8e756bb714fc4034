"""content_log: writes down what each message was: header fields, attachments, what became of it; or keeps it whole.

One line for each message whose content was seen, once its fate is known: into the log of gatepost, into a file of JSON
lines, or both. Whole messages go into a directory, the oldest of which make room for new ones.

HOOKS
    data_post           reads the message: a scanner, it runs side by side with those that stand next to it
    reset_transaction   writes the line

OPTIONS
    headers         ["From", "To", "Subject", "Message-ID"]: fields that are written down, decoded; of each 1,000
                    characters, and of one that is there several times the first 10
    attachments     true: names, declared and real type and size of each attachment, also of those in attached messages;
                    the first 100
    sha256          false: true adds the SHA-256 of each attachment's decoded content
    log             true: a line `content` in the log of gatepost
    file            "": a file of JSON lines. It is opened for each line, so that it can be rotated at any time, and
                    made with mode 0640 if it is not there; its directory must be
    directory       "": a directory in which whole messages are kept, as they came to this plugin, a file each with mode
                    0600, named after time and transaction. It must be there, and be gatepost's alone: mode 0700
    directory_limit "1 GiB": so much at most; the oldest messages are removed for new ones
    size_limit      "10 MiB": a larger message is not kept
    on_error        "pass": nobody's mail waits for its log line; so too on_timeout and on_unavailable

    What a plugin in front of this one refuses is not seen: stand it first to see all, last to see what passed. What
    later plugins edit is not seen either. Of a message larger than content.mime_limit there are no attachments in the
    line (null in JSON). All but file, directory and directory_limit can differ for clients and recipients.
    Who keeps other people's mail must be allowed to: ask.

FORMAT
    {"time": "2026-03-01T12:00:00+00:00", "session": "...", "txn": "...", "client": "192.0.2.1", "name": null, "helo":
    "...", "login": null, "sender": "...", "recipients": {"b@example.org": "accepted"}, "size": 1234, "queue_id": "...",
    "refused_by": null, "headers": {"From": ["..."]}, "attachments": [{"names": ["a.pdf"], "content_type":
    "application/pdf", "file_type": "pdf", "size": 1000, "sha256": "..."}], "kept": "20260301T120000-....eml"}

    What became of each recipient: accepted, refused, deferred, held, discarded, aborted. Everything but ASCII is
    escaped: no value can begin another line.

REPLIES
    None: it refuses nothing.

FAILURE
    What cannot be written (disk full, no permission) is lost, and the log says so, once until it is possible again.
    Mail passes.
"""

from __future__ import annotations

import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator

from gatepost import ConfigError, Fixed, MessageArchive, Plugin, PluginOptions, Size, append_line, list_contents

if TYPE_CHECKING:
    from gatepost import Message, Transaction

VALUE_LIMIT = 1000
REPEATS_LIMIT = 10
ATTACHMENTS_LIMIT = 100
LOGGED_LIMIT = 10
"""Attachments in the line of the log; the file has more."""

LIVE_LIMIT = 10_000
"""Messages that are remembered until their end; one whose end nobody tells makes room in the end."""

KEY = re.compile(r"[^a-z0-9]+")
RESERVED = frozenset({"event", "level", "time", "exc_info", "stack_info"})

OptionalPath = Annotated[Path | None, BeforeValidator(lambda value: None if value == "" else value), Fixed]


class Options(PluginOptions):
    """What the manual above says."""

    headers: tuple[str, ...] = ("From", "To", "Subject", "Message-ID")
    attachments: bool = True
    sha256: bool = False
    log: bool = True
    file: OptionalPath = None
    directory: OptionalPath = None
    directory_limit: Annotated[Size, Fixed] = 1 << 30
    size_limit: Size = 10 << 20
    on_error: Literal["defer", "pass"] = "pass"
    on_timeout: Literal["defer", "pass"] = "pass"
    on_unavailable: Literal["defer", "pass"] = "pass"


class ContentLog(Plugin[Options]):
    """Collects at the end of the message, writes at the end of the transaction."""

    scanner = True
    blocking = True  # reset_transaction writes
    threads = 1

    def init(self) -> None:
        options = self.options()
        self._seen: dict[str, dict[str, Any]] = {}
        self._problems: dict[str, object] = {}
        self._archive: MessageArchive | None = None
        # Of its own: a file system that hangs must hold up nothing else.
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="content_log")
        if options.file is not None and not options.file.parent.is_dir():
            raise ConfigError(f"content_log.file: there is no directory {options.file.parent}")
        if options.directory is not None:
            if not options.directory.is_dir():
                raise ConfigError(f"content_log.directory: {options.directory} is no directory: make it, mode 0700")
            try:
                self._archive = MessageArchive(options.directory, options.directory_limit)
            except OSError as error:
                raise ConfigError(f"content_log.directory: {error.strerror}: {options.directory}") from error

    def shutdown(self) -> None:
        self._disk.shutdown(wait=False, cancel_futures=True)

    async def data_post(self, transaction: Transaction, message: Message) -> None:
        options = self.options(transaction)
        if transaction.id in self._seen:
            return  # another run of the same message
        while len(self._seen) >= LIVE_LIMIT:
            del self._seen[next(iter(self._seen))]
        seen = self._seen[transaction.id] = {
            "headers": {name: header_values(message, name) for name in options.headers},
            "attachments": None,
            "kept": None,
        }
        if options.attachments:
            seen["attachments"] = await self.in_thread(attachments_of, message, options.sha256)
        if self._archive is not None and message.size <= options.size_limit:
            seen["kept"] = await asyncio.get_running_loop().run_in_executor(
                self._disk, self._keep, self._archive, transaction.id, message
            )

    def reset_transaction(self, transaction: Transaction) -> None:
        seen = self._seen.pop(transaction.id, None)
        if seen is None:
            return
        options = self.options(transaction)
        record = record_of(transaction) | seen
        if options.log:
            self.log.info("content", **log_fields(record))
        if options.file is not None:
            try:
                append_line(options.file, json.dumps(record).encode("ascii") + b"\n")
            except OSError as error:
                self._complain("file", error)
            else:
                self._problems.pop("file", None)

    def _keep(self, archive: MessageArchive, txn: str, message: Message) -> str | None:
        try:
            with message.open() as stream:
                kept = archive.keep(f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{txn}", stream, message.size)
        except (OSError, ValueError) as error:
            # ValueError: the message's time is over, and its body closed.
            self._complain("directory", error)
            return None
        self._problems.pop("directory", None)
        return kept or None

    def _complain(self, what: str, error: Exception) -> None:
        # Its text holds the name of the file, which is another each time.
        kind = getattr(error, "errno", None) or type(error).__name__
        if self._problems.get(what) != kind:
            self._problems[what] = kind
            self.log.error("not written", option=what, problem=str(error))


def header_values(message: Message, name: str) -> list[str]:
    """Return the fields of that name, decoded and cut."""
    return [field.value[:VALUE_LIMIT] for field in message.headers.fields(name)[:REPEATS_LIMIT]]


def attachments_of(message: Message, hashes: bool) -> list[dict[str, Any]] | None:
    """Return the attachments as plain data; None if the message is too large. For a thread."""
    root = message.structure
    if root is None:
        return None
    found = [one for one in list_contents(root, hashes=hashes, faults=False).attachments if not one.is_body]
    return [
        {
            "names": [name[:VALUE_LIMIT] for name in one.names[:REPEATS_LIMIT]],
            "content_type": one.content_type[:VALUE_LIMIT],
            "file_type": one.file_type,
            "size": one.size,
        }
        | ({"sha256": one.sha256} if hashes else {})
        for one in found[:ATTACHMENTS_LIMIT]
    ]


def record_of(transaction: Transaction) -> dict[str, Any]:
    """Return what is known of a transaction at its end, as plain data."""
    session = transaction.session
    denials = [record for record in transaction.records if record.in_force.denies and record.hook != "rcpt"]
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "session": session.id,
        "txn": transaction.id,
        "client": session.address,
        "name": session.name,
        "helo": session.helo,
        "login": session.login,
        "sender": str(transaction.sender),
        "recipients": {str(recipient.address): recipient.outcome for recipient in transaction.recipients},
        "size": transaction.size,
        "queue_id": transaction.queue_id,
        # A message that passed for one recipient passed.
        "refused_by": denials[-1].plugin if denials and transaction.queue_id is None else None,
    }


def log_fields(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as fields of a line in the log, which has the client and the recipients in lines of its own."""
    fields = {key: record[key] for key in ("session", "txn", "size", "queue_id", "refused_by")}
    fields["rcpt"] = " ".join(f"{address}={outcome}" for address, outcome in record["recipients"].items())
    for name, values in record["headers"].items():
        key = KEY.sub("_", name.lower()).strip("_")
        fields[key if key and key not in RESERVED | fields.keys() else f"header_{key}"] = ", ".join(values) or None
    if record["attachments"] is not None:
        fields["attachments"] = len(record["attachments"])
        shown = record["attachments"][:LOGGED_LIMIT]
        fields["files"] = "; ".join(_file_words(one) for one in shown) or None
    if record["kept"] is not None:
        fields["kept"] = record["kept"]
    return fields


def _file_words(attachment: dict[str, Any]) -> str:
    name = attachment["names"][0] if attachment["names"] else ""
    words = (name, attachment["content_type"], attachment["file_type"], attachment["size"], attachment.get("sha256"))
    return " ".join(str(word) for word in words if word)
