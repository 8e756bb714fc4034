"""spamassassin: asks SpamAssassin's spamd about each message; refuses, holds or marks what it says is spam.

spamd is told what a mail server knows: client, HELO, TLS and login in a Received field on top, and the envelope sender.
A message is scanned once for all of its recipients, who may still have thresholds of their own.

HOOKS
    data_post   reads the message; adds and removes header fields, changes Subject

OPTIONS
    server      "127.0.0.1:783": where spamd listens: "HOST:PORT", "[IPV6]:PORT" or "unix:/PATH"; or a list of several,
                of which the first that answers is the one
    reject_threshold    "none": a message with this score or more is refused. SpamAssassin is made for a tag_threshold
                of 5; refuse from 8 or 10 on
    quarantine_threshold    "none": with this score or more Postfix holds it (`postsuper -H` releases it), for all
                recipients
    tag_threshold   "none": with this score or more it is marked as spam; none: when spamd says so, by the
                required_score of its own configuration, and the user's
    action      "deny": what is said at reject_threshold: deny, defer, deny_disconnect, defer_disconnect
    text        "This message looks like spam": with {score}, {threshold} and {tests} in it, the client is told these; a
                sender of spam learns from them
    subject_prefix  "": put before the Subject of a message that is marked: "***SPAM***", or "[spam {score}]"
    headers     ["*"]: which X-Spam fields are added: "*" for all that spamd makes (its option add_header), or names:
                ["Flag", "Status", "Level"]; [] for none. X-Spam-Flag: YES is for marked messages only; Status says Yes
                or No, and required=, by tag_threshold
    old_headers "drop": what becomes of X-Spam fields that the message has already, which say what a stranger or another
                server thinks of it: "drop", "rename" (to X-Old-Spam-...) or "keep". So too in messages over size_limit
    size_limit  "512 KiB": larger messages are not scanned, and the log says so; at most 32 MiB, and spamd takes minutes
                for those
    user        "": whose preferences and Bayes data spamd uses: a name, or one for each recipient by "{address}",
                "{local}" and "{domain}", in lower case and without detail: where the message goes, also
                behind an alias. Empty: those of the user that spamd runs as
    default_user    "": the user for a message whose recipients have different ones, or none with a name that is fit
    detail_delimiter    "+": user+anything is user; "" turns that off
    timeout     "60s": for one message, all servers together; SpamAssassin asks the network, too
    skip_authenticated  true: mail of a client that has logged in is not scanned
    skip_whitelisted    true: nor is what is whitelisted

    For some recipients, in the file of `aliases`: `spamassassin_reject_threshold=10`, `spamassassin.subject_prefix=""`,
    `spamassassin=off`. Recipients who differ are asked to be sent apart; with content.disagree = "lenient" the
    message is refused if it has too much for all of them, and the marks are those of the first who takes it.

NOTES
    score       the score; so too required (spamd's own threshold), spam (whether it is marked), tests (rule names).
                Nothing is left for a message that was not scanned

REPLIES
    554 5.7.1 This message looks like spam
    554 5.6.0 too many X-Spam header fields     more than 50; not with "keep"

FAILURE
    A spamd that is down, takes too long, hangs up, answers with an error (EX_TEMPFAIL) or with what is no answer: the
    next server is asked; when there is none, on_unavailable decides: "defer" (451), or "pass": the message goes on as
    it is, with the X-Spam fields it has. After three failures in a row a server is left alone for a while, and asked
    for a sign of life (PING) before it is trusted again. Each step is logged.
"""

from __future__ import annotations

import re
import socket
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from gatepost import (
    Action,
    Duration,
    Endpoint,
    Fixed,
    Header,
    Plugin,
    PluginOptions,
    Servers,
    Size,
    denial,
    spamd_ping,
    spamd_scan,
    with_envelope,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost import Message, Recipient, SpamReport, Transaction, Verdict

OLD_FIELDS = 50
"""X-Spam fields in a message that are dropped or renamed, one edit each: several scanners on its way leave twenty."""

TOO_MANY = "too many X-Spam header fields"

SUBJECTS = 5
"""Subject fields that get the prefix: there may be one, but programs show the first or the last of several."""

OLD_FIELD = re.compile(r"x-spam-", re.IGNORECASE)
# Of what could become part of a path, or of a query, in a spamd that keeps its users there.
USER = re.compile(r"[a-z0-9_](?:[a-z0-9_.+=-]{0,62}[a-z0-9_+=-])?(?:@[a-z0-9.-]{1,253})?|@?[a-z0-9][a-z0-9.-]{0,252}")
PLACEHOLDER = re.compile(r"\{(\w*)\}")


def _threshold(value: object) -> object:
    if isinstance(value, bool):
        # Which would count as a number: true as 1, by which good mail is refused.
        raise ValueError('write a number, or "none"')
    return None if isinstance(value, str) and value.strip().lower() == "none" else value


def _field_name(value: object) -> object:
    """Take `X-Spam-Level` for `level`, and `*`."""
    name = str(value).strip().lower().removeprefix("x-spam-")
    if not re.fullmatch(r"\*|[a-z0-9-]+", name):
        raise ValueError(f"{value!r} is no field: write a name such as Status, or * for all")
    return name


Threshold = Annotated[Annotated[float, Field(allow_inf_nan=False)] | None, BeforeValidator(_threshold)]
FieldName = Annotated[str, BeforeValidator(_field_name)]


class Options(PluginOptions):
    """What the manual above says."""

    server: Annotated[Servers, Fixed] = (Endpoint("127.0.0.1", 783),)
    reject_threshold: Threshold = None
    quarantine_threshold: Threshold = None
    tag_threshold: Threshold = None
    action: Action = "deny"
    text: str = "This message looks like spam"
    subject_prefix: str = ""
    headers: tuple[FieldName, ...] = ("*",)
    old_headers: Literal["drop", "rename", "keep"] = "drop"
    size_limit: Annotated[Size, Field(gt=0, le=32 << 20)] = 512 << 10
    user: str = ""
    default_user: str = ""
    detail_delimiter: str = "+"
    timeout: Annotated[Duration, Field(gt=0)] = 60.0
    skip_authenticated: bool = True
    skip_whitelisted: bool = True

    @field_validator("user", "default_user")
    @classmethod
    def _user(cls, value: str, info: ValidationInfo) -> str:
        known = {"address", "local", "domain"} if info.field_name == "user" else set()
        if set(PLACEHOLDER.findall(value)) - known or not re.fullmatch(r"[!-~]*", value):
            raise ValueError(
                f"{value!r} is no user: a name without blanks, in user with {{address}}, {{local}}, {{domain}}"
            )
        return value

    @field_validator("text", "subject_prefix")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError(f"{value!r} is not one line of text")
        return value


class SpamAssassin(Plugin[Options]):
    """Scans once, judges for each run."""

    scanner = True

    def init(self) -> None:
        self.servers = self.upstreams(self.options().server)
        self.hostname = socket.gethostname()

    async def data_post(self, transaction: Transaction, message: Message) -> Verdict | None:
        options = self.options(transaction)
        report = None
        if message.size > options.size_limit:
            self.log.info("too large to be scanned", txn=transaction.id, size=message.size, limit=options.size_limit)
        else:
            user = _user(options, transaction)
            report = await self.once(message, partial(self._scan, transaction, message, user), user)
            tagged = _reaches(report.score, options.tag_threshold, otherwise=report.is_spam)
            self.notes(transaction).update(
                score=report.score, required=report.required, spam=tagged, tests=list(report.tests)
            )
            if _reaches(report.score, options.reject_threshold):
                text = _filled(options.text, report, options.reject_threshold)
                if refusal := denial(options.action, text, enhanced="5.7.1"):
                    return refusal
        # In a thread: a header may have any number of fields.
        return await self.in_thread(_edit, message, report, options)

    async def _scan(self, transaction: Transaction, message: Message, user: str) -> SpamReport:
        started = perf_counter()
        content = await self.in_thread(with_envelope, transaction, message, self.hostname)
        report = await self.servers.ask(lambda server: spamd_scan(server, content, user), probe=spamd_ping)
        self.log.info(
            "scanned",
            txn=transaction.id,
            score=report.score,
            required=report.required,
            tests=",".join(report.tests),
            user=user or None,
            size=message.size,
            ms=round((perf_counter() - started) * 1000),
        )
        return report


def _edit(message: Message, report: SpamReport | None, options: Options) -> Verdict | None:
    if refusal := _put_away_old(message, options):
        return refusal
    if report is None:
        return None
    tagged = _reaches(report.score, options.tag_threshold, otherwise=report.is_spam)
    for field in reversed([*_wanted(report, options, tagged=tagged)]):
        message.insert_header(0, field.name, field.raw)
    if tagged and options.subject_prefix:
        _mark_subject(message, _filled(options.subject_prefix, report, options.tag_threshold))
    if _reaches(report.score, options.quarantine_threshold):
        message.quarantine(f"spam score {report.score:g}")
    return None


def _put_away_old(message: Message, options: Options) -> Verdict | None:
    if options.old_headers == "keep":
        return None
    old = [field for field in message.headers if OLD_FIELD.match(field.name)]
    names = dict.fromkeys(field.name.lower() for field in old)
    if len(old) > OLD_FIELDS:
        # To pass them by would leave a stranger's X-Spam-Flag: NO in force.
        return denial("deny" if options.action == "allow" else options.action, TOO_MANY, enhanced="5.6.0")
    for name in names:
        message.delete_header(name, None)
    if options.old_headers == "rename":
        for field in reversed(old):
            _insert(message, f"X-Old-{field.name[2:]}", field)
    return None


def _insert(message: Message, name: str, field: Header) -> None:
    try:
        message.insert_header(0, name, field.raw)
    except ValueError:
        # Not UTF-8, NUL, or longer than Postfix keeps.
        message.insert_header(0, name, field.value[:1000])


def _wanted(report: SpamReport, options: Options, *, tagged: bool) -> Iterator[Header]:
    """Yield the fields to add, from the top."""

    def wants(name: str) -> bool:
        return "*" in options.headers or name in options.headers

    if tagged and wants("flag"):
        yield Header.make("X-Spam-Flag", "YES")
    for field in report.fields:
        name = field.name.lower().removeprefix("x-spam-")
        if name == "status" and wants(name):
            yield Header.make(field.name, _restated(field.raw, options.tag_threshold, tagged=tagged))
        elif name != "flag" and wants(name):
            yield field


def _restated(status: bytes, threshold: float | None, *, tagged: bool) -> bytes:
    """Return spamd's X-Spam-Status by our threshold, where we have one."""
    if threshold is None:
        return status
    status = re.sub(rb"\A\s*(?:Yes|No)\b", b" Yes" if tagged else b" No", status, count=1)
    return re.sub(rb"(?<![\w-])required=[-\d.]+", b"required=%b" % f"{threshold:.1f}".encode(), status, count=1)


def _mark_subject(message: Message, prefix: str) -> None:
    subjects = message.headers.fields("Subject")
    if not subjects:
        message.add_header("Subject", prefix)
    for occurrence, field in enumerate(subjects[:SUBJECTS], 1):
        if field.value.startswith(prefix):
            continue
        start, rest = Header.make("Subject", prefix).raw, field.raw.lstrip()
        # The blank between two encoded words is not shown (RFC 2047 section 6.2).
        blank = b" =?utf-8?q?_?= " if start.endswith(b"?=") and rest.startswith(b"=?") else b" "
        try:
            # The rest stays as it is, encoded words and folding included.
            message.change_header("Subject", start + blank + rest, occurrence)
        except ValueError:
            message.change_header("Subject", f"{prefix} {field.value[:1000]}", occurrence)


def _user(options: Options, transaction: Transaction) -> str:
    """Return the user for this run; empty for none."""
    if not PLACEHOLDER.search(options.user):
        return options.user
    users = {_user_of(recipient, options) for recipient in transaction.accepted}
    user = users.pop() if len(users) == 1 else ""
    return user if USER.fullmatch(user) and ".." not in user else options.default_user


def _user_of(recipient: Recipient, options: Options) -> str:
    address = recipient.targets[0] if len(recipient.targets) == 1 else recipient.address
    local, _ = address.split_detail(options.detail_delimiter)
    values = {"address": f"{local}@{address.domain}", "local": local, "domain": address.domain}
    return PLACEHOLDER.sub(lambda match: values[match[1]], options.user).lower()


def _reaches(score: float, threshold: float | None, *, otherwise: bool = False) -> bool:
    return otherwise if threshold is None else score >= threshold


def _filled(text: str, report: SpamReport, threshold: float | None) -> str:
    limit = report.required if threshold is None else threshold
    values = {"score": f"{report.score:g}", "threshold": f"{limit:g}", "tests": ", ".join(report.tests[:20])}
    return PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)
