"""rspamd: has each message judged by rspamd, and does what it says: refuse, defer, hold, mark, change header fields.

gatepost asks rspamd's normal worker (port 11333) or its proxy in HTTP mode; the milter of rspamd is not needed, and
must not be configured in Postfix beside this plugin. Rules, scores and thresholds are rspamd's own business, where
they are configured as always; here stands what its actions mean.

HOOKS
    data_post   a scanner: it runs side by side with those that stand next to it. A message costs one scan, however many
                recipients and option sets it has, unless these differ in settings_id

OPTIONS
    server          "127.0.0.1:11333": "HOST:PORT" or "unix:/PATH", or a list of several, the preferred one first. One
                    that does not answer is left alone for a while (see FAILURE)
    password        "": sent as Password; the controller (port 11334) wants one, the normal worker does not
    size_limit      "50 MiB": larger messages are not scanned, and are let through; 0 is no limit. Not more than
                    rspamd's max_message, which is the same without configuration
    settings_id     "": the id of settings that rspamd has (Settings-ID), for some recipients by the file of `aliases`:
                    `rspamd.settings_id=strict`
    mta_name        "": the name that rspamd is to write in Authentication-Results (MTA-Name); empty: its host's
    mta_tag         "": a word for rspamd's settings to match (MTA-Tag)

    What is done for each action that rspamd may say. One of: "deny", "defer", "deny_disconnect", "defer_disconnect";
    "quarantine": Postfix holds the message; "tag": it is marked and goes on; "allow": it goes on.
    reject          "deny"
    soft_reject     "defer": also rspamd's own greylisting and rate limits
    greylist        "allow": the score is in the range for greylisting. rspamd's greylist module, where it is enabled,
                    has then made a soft reject of what must wait. "defer" here remembers nothing: such mail never comes
    add_header      "tag"
    rewrite_subject "tag": gets the Subject that rspamd gives
    quarantine      "quarantine"; what a rule wants with milter.reject = "quarantine", too
    discard         "deny": nobody loses mail unknowingly; so too with milter.reject = "discard"
    other           "allow": actions that rspamd's administrator has made

    text            "": what the client is told; empty: what rspamd says, else "Spam message rejected" or "Try again
                    later"
    spam_header     "X-Spam": the field that marks, with "Yes", in place of those that are there; rspamd's spam_header
                    is stronger
    headers         []: further fields to write on every scanned message that goes on, in place of those of the same
                    name: "X-Spam-Score" (12.30), "X-Spam-Level" (a star for each point, 50 at most), "X-Spam-Status"
                    (Yes, score=12.30 required=15.00), "X-Spam-Symbols" (names with scores), "X-Spam-Action"; one
                    that would be empty is only removed
    milter_headers  true: header fields that rspamd adds and removes are taken over, DKIM and ARC signatures among
                    them; a signature holds only if no plugin behind changes what it covers
    milter_envelope true: so are sender and recipients
    skip_authenticated  false: rspamd is told the login (User), and by itself spares who has one most checks
    skip_whitelisted    true: what is whitelisted is not scanned

    rspamd is told: From, Rcpt (where aliases lead), Deliver-To of a single recipient, IP, Hostname, Helo, User,
    TLS-Version, TLS-Cipher, and as Queue-Id the transaction, by which its log and ours are brought together. At most
    64 KB of recipients: with more, rspamd breaks off. User and TLS are known only with the edge door.

REPLIES
    554 5.7.1 Spam message rejected         (or the message of a rule)
    451 4.7.1 Try again later               with "defer"; 421 and 521 with those that disconnect

NOTES
    Of the transaction, for other plugins: action, score, required_score (or None), skipped, symbols (score by name).
    The log has a line `scanned` with the same, but for symbols without weight.
    rspamd's milter_headers module, told to write Authentication-Results, has all others removed, those of plugins
    above this one, too: let one of the two write that field.

FAILURE
    A server that is down, silent, answers nonsense or with an error (429, 500, 503 and the like) has failed, and the
    next one is asked; each gets an equal share of the time. After three failures in a row a server is left alone for
    5 s, later up to 60 s, until it answers a ping again. When none answers, on_unavailable decides: "defer" (451) or
    "pass". So too for a message that a server which is well does not take or dies of; that server is not left alone.
    What rspamd wants added but would break the message is left out, and the log says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import StringConstraints

from gatepost import (
    Endpoint,
    Fixed,
    MessageAction,
    Plugin,
    PluginOptions,
    RspamdAnswer,
    Servers,
    Size,
    Unavailable,
    Unscannable,
    denial,
    parse_action,
    rspamd_check,
    rspamd_ping,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost import Message, Transaction, Verdict

    Fields = tuple[tuple[str, str], ...]

RECIPIENTS_LIMIT_BYTES = 64 << 10
"""Of all Rcpt fields: rspamd 3.4 took 75 KB of header, and reset the connection at 227 KB."""

VALUE_LIMIT = 1000
"""Characters of one field of the request: the longest address has 320, and a HELO may be a book."""

LONG_ANSWER_BYTES = 32 << 10
"""An answer longer than this is read in a thread: it takes more than a millisecond."""

MANY_FIELDS = 1000
LONG_FIELDS = 4096
"""So many fields of a message, or characters to add to it, are edited in a thread: it takes some milliseconds."""

SYMBOLS_SHOWN = 30


class Options(PluginOptions):
    """What the manual above says; size_limit in bytes."""

    server: Annotated[Servers, Fixed] = (Endpoint("127.0.0.1", 11333),)
    password: str = ""
    size_limit: Size = 50 << 20
    settings_id: str = ""
    mta_name: str = ""
    mta_tag: str = ""
    reject: MessageAction = "deny"
    soft_reject: MessageAction = "defer"
    greylist: MessageAction = "allow"
    add_header: MessageAction = "tag"
    rewrite_subject: MessageAction = "tag"
    quarantine: MessageAction = "quarantine"
    discard: MessageAction = "deny"
    other: MessageAction = "allow"
    text: str = ""
    spam_header: Annotated[str, StringConstraints(pattern=r"^[!-9;-~]{1,200}$")] = "X-Spam"
    headers: tuple[
        Literal["X-Spam-Score", "X-Spam-Level", "X-Spam-Status", "X-Spam-Symbols", "X-Spam-Action"], ...
    ] = ()
    milter_headers: bool = True
    milter_envelope: bool = True
    skip_whitelisted: bool = True

    def consequence(self, answer: RspamdAnswer) -> MessageAction:
        """Return what is to be done."""
        if answer.no_action or answer.action == "no action":
            return "allow"
        action = answer.action
        if action == "reject" and answer.on_reject in {"discard", "quarantine"}:
            action = answer.on_reject
        words: dict[str, MessageAction] = {
            "reject": self.reject,
            "soft reject": self.soft_reject,
            "greylist": self.greylist,
            "add header": self.add_header,
            "rewrite subject": self.rewrite_subject,
            "quarantine": self.quarantine,
            "discard": self.discard,
        }
        return words.get(action, self.other)


class Rspamd(Plugin[Options]):
    """Asks, and does what the answer means."""

    scanner = True

    def init(self) -> None:
        self._servers = self.upstreams(self.options().server)

    async def data_post(self, transaction: Transaction, message: Message) -> Verdict | None:
        options = self.options(transaction)
        if options.size_limit and message.size > options.size_limit:
            self.log.info("not scanned", txn=transaction.id, reason=f"{message.size} bytes are over size_limit")
            return None
        fields = tuple(request_fields(transaction, message, options))
        answer = await self.once(message, lambda: self._scan(transaction, message, fields), fields)
        self._tell(transaction, answer)
        word = options.consequence(answer)
        if word in {"allow", "tag", "quarantine"}:
            is_long = len(message.headers) > MANY_FIELDS or answer.added_size > LONG_FIELDS
            work = (message, answer, options, word)
            for problem in await self.in_thread(edit, *work) if is_long else edit(*work):
                self.log.warning("left out", txn=transaction.id, what=problem)
            return None
        text = options.text or (answer.smtp_message if answer.action in {"reject", "soft reject"} else "")
        default = "Spam message rejected" if word.startswith("deny") else "Try again later"
        return denial(parse_action(word), text or default, enhanced="5.7.1")

    async def _scan(
        self, transaction: Transaction, message: Message, fields: tuple[tuple[str, str], ...]
    ) -> RspamdAnswer:
        async def ask(server: Endpoint) -> RspamdAnswer:
            body = await rspamd_check(server, message, fields)
            if len(body) > LONG_ANSWER_BYTES:
                return await self.in_thread(RspamdAnswer.parse, body)
            return RspamdAnswer.parse(body)

        try:
            answer = await self._servers.ask(ask, probe=rspamd_ping)
        except Unscannable as error:
            raise Unavailable(self.name, str(error)) from error
        for problem in answer.problems[:SYMBOLS_SHOWN]:
            self.log.warning("left out", txn=transaction.id, what=problem)
        return answer

    def _tell(self, transaction: Transaction, answer: RspamdAnswer) -> None:
        self.notes(transaction).update(
            action=answer.action,
            score=answer.score,
            required_score=answer.required_score,
            skipped=answer.skipped,
            symbols=dict(answer.symbols),
        )
        self.log.info(
            "scanned",
            txn=transaction.id,
            action=answer.action,
            score=answer.score,
            required=answer.required_score,
            symbols=symbols_text(answer),
        )


def request_fields(transaction: Transaction, message: Message, options: Options) -> Iterator[tuple[str, str]]:
    """Yield what rspamd is told beside the message, in HTTP fields."""
    session = transaction.session
    recipients = list(map(str, message.recipients))
    told = {
        "From": f"<{transaction.sender}>",
        "Deliver-To": recipients[0] if len(recipients) == 1 else None,
        "IP": session.ip and str(session.ip),
        "Hostname": session.name,
        "Helo": session.helo,
        "User": session.login,
        "Queue-Id": transaction.id,
        "TLS-Version": session.tls_version,
        "TLS-Cipher": session.tls_cipher,
        "MTA-Name": options.mta_name,
        "MTA-Tag": options.mta_tag,
        "Settings-ID": options.settings_id,
        "Password": options.password,
    }
    yield from ((name, _safe(value)) for name, value in told.items() if value)
    left = RECIPIENTS_LIMIT_BYTES
    for recipient in map(_safe, recipients):
        # More than rspamd takes: those who come last.
        left -= len(recipient.encode()) + len("Rcpt: <>\r\n")
        if left < 0:
            return
        yield "Rcpt", f"<{recipient}>"


def _safe(value: str) -> str:
    """Return what a client said as the value of an HTTP field: no line break, no control character, and UTF-8."""
    value = value[:VALUE_LIMIT].encode("utf-8", "replace").decode()
    return "".join(char if char.isprintable() else "?" for char in value)


def edit(message: Message, answer: RspamdAnswer, options: Options, word: MessageAction) -> list[str]:
    """Make the edits of a message that goes on; return what could not be done, in words."""
    problems = []
    if options.milter_headers:
        problems += answer.edit_header(message)
    if options.milter_envelope:
        problems += answer.edit_envelope(message)
    if answer.no_action:
        # As rspamd's own milter does.
        _replace(message, "X-Rspamd-Action", answer.action)
    if word == "quarantine":
        message.quarantine(f"rspamd: {answer.action}, score {answer.score:.2f}")
    if word == "tag" and answer.action == "rewrite subject" and answer.subject:
        if not message.change_header("Subject", answer.subject):
            message.add_header("Subject", answer.subject)
    elif word == "tag":
        problems += answer.mark_spam(message, options.spam_header)
    for name in options.headers:
        _replace(message, name, header_text(name, answer, is_spam=word != "allow"))
    return problems


def _replace(message: Message, name: str, text: str) -> None:
    message.delete_header(name, None)
    if text:
        message.add_header(name, text)


def header_text(name: str, answer: RspamdAnswer, *, is_spam: bool) -> str:
    """Return the value of one of the fields that `headers` may name."""
    match name:
        case "X-Spam-Score":
            return f"{answer.score:.2f}"
        case "X-Spam-Level":
            return "*" * max(0, min(50, int(answer.score)))
        case "X-Spam-Status":
            required = "" if answer.required_score is None else f" required={answer.required_score:.2f}"
            return f"{'Yes' if is_spam else 'No'}, score={answer.score:.2f}{required}"
        case "X-Spam-Symbols":
            return symbols_text(answer)
        case _:
            return answer.action


def symbols_text(answer: RspamdAnswer) -> str:
    """Return the symbols that weigh most, with their scores: `BAYES_SPAM(5.10) MIME_GOOD(-0.10)`."""
    heaviest = sorted(answer.symbols.items(), key=lambda symbol: -abs(symbol[1]))
    shown = [(name, score) for name, score in heaviest if score] or heaviest
    return " ".join(f"{name}({score:.2f})" for name, score in shown[:SYMBOLS_SHOWN])
