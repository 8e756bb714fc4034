"""clamav: has every message scanned by ClamAV's daemon, clamd, and refuses those in which it finds a virus.

The message goes to clamd over its socket (INSTREAM), on this machine or another; nothing has to be shared with it. It
is scanned once, for all its recipients, and side by side with the scanners that stand next to this plugin.

HOOKS
    data_post

OPTIONS
    server          "unix:/run/clamav/clamd.ctl": clamd's LocalSocket, or "HOST:PORT" for its TCPSocket; or a list of
                    several: the first that answers is the one, and one that fails is left alone for a while
    size_limit      "25 MiB": a message with more bytes is not scanned; 0 is no limit but clamd's own. At most clamd's
                    StreamMaxLength, which is 25M in Debian and 100M in ClamAV's own configuration. Of what is larger
                    than its MaxFileSize or MaxScanSize, clamd says that it is clean, unless AlertExceedsMax is set
    too_large       "allow": what becomes of such a message: "allow", "deny", "defer", "deny_disconnect",
                    "defer_disconnect"
    action          "deny": what becomes of a message with a virus
                        "deny", "defer", "deny_disconnect", "defer_disconnect": it is refused
                        "tag": it is accepted with the header field X-Virus-Status: Infected (NAME)
                        "quarantine": so too, and Postfix holds it (postqueue -p, postsuper -H or -d)
                        "allow": it is accepted; the log tells
    actions         {}: other actions for some signatures, by name: { "PUA.*" = "quarantine", "Heuristics.*" = "tag" }.
                    `*` stands for anything, `?` for one character; case does not matter, the first that fits decides
    ignore          []: signatures that are no virus to you, in the same form: ["Heuristics.Encrypted.*"]. See below
    mark_all        false: the field X-Virus-Status is added to what is tagged or held; true: also to what is clean
                    ("Clean"), was not scanned ("Not scanned") or let through. Where it is added, one that came with the
                    message is removed
    text            "the message contains a virus": what the client is told, before the name
    timeout         "60s": for one message; of several servers, each has an equal share of what is left
    skip_authenticated  false: true spares clients that have logged in. Their computers catch viruses, too
    skip_whitelisted    false: so too what is whitelisted

    What else clamd takes for a finding is its own configuration: DetectPUA, AlertEncrypted, AlertExceedsMax and others
    (clamd.conf(5)). It stops at the first thing that it finds: what stands behind one that is ignored or let through is
    not seen. A signature is better left out by a file *.ign2 beside ClamAV's databases, which has no such gap.
    `server` is the same for everybody; the others can be overridden, but `actions`.

REPLIES
    554 5.7.1 the message contains a virus: Eicar-Test-Signature
    451 4.7.1 ...  with "defer"; 521 and 421 with those that disconnect
    552 5.3.4 the message is too large to be scanned    with too_large = "deny"
    554 5.6.0 too many X-Virus-Status header fields     more than 50, where they would be removed

FAILURE
    When no server answers, or the answer makes no sense, on_unavailable decides: "defer" (451), or "pass": the message
    goes on as it is, not scanned, and with the X-Virus-Status that it came with, also where mark_all would remove it.
    A server that fails three times in a row is left alone, for 5 s at first and 60 s at most; a PING that it answers
    brings it back. The log names it. A message of more than StreamMaxLength is too_large, and no failure.
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from gatepost import (
    Action,
    ClamdAnswer,
    Deny,
    Duration,
    Endpoint,
    Fixed,
    MessageAction,
    Plugin,
    PluginOptions,
    Servers,
    Size,
    clamd_ping,
    clamd_scan,
    denial,
    parse_action,
)

if TYPE_CHECKING:
    from gatepost import Message, Transaction, Verdict

FIELD = "X-Virus-Status"

OLD_FIELDS = 50
"""Such fields in a message that are removed: Postfix looks through the whole header for each, and a stranger may send
thousands. Honest mail has one for each scanner on its way."""


class Options(PluginOptions):
    """What the manual above says."""

    server: Annotated[Servers, Fixed] = (Endpoint(path="/run/clamav/clamd.ctl"),)
    size_limit: Size = 25 << 20
    too_large: Action = "allow"
    action: MessageAction = "deny"
    actions: dict[str, MessageAction] = {}  # noqa: RUF012 - pydantic copies it
    ignore: tuple[str, ...] = ()
    mark_all: bool = False
    text: str = "the message contains a virus"
    timeout: Annotated[Duration, Field(gt=0)] = 60.0


class Clamav(Plugin[Options]):
    """Asks clamd."""

    scanner = True

    def init(self) -> None:
        self._servers = self.upstreams(self.options().server)

    async def data_post(self, transaction: Transaction, message: Message) -> Verdict | None:
        options = self.options(transaction)
        answer = ClamdAnswer(too_large=True)
        if not options.size_limit or message.size <= options.size_limit:
            answer = await self.once(message, lambda: self._scan(message))
        if answer.too_large:
            return self._not_scanned(transaction, message, options)
        if answer.signature is None:
            return mark(message, "Clean") if options.mark_all else None
        return self._found(answer.signature, transaction, message, options)

    async def _scan(self, message: Message) -> ClamdAnswer:
        answer = await self._servers.ask(lambda server: clamd_scan(server, message), clamd_ping)
        if answer.too_large:
            # Clients find it out message by message, and administrators never, if nobody tells.
            self.log.warning("larger than clamd's StreamMaxLength: lower size_limit", bytes=message.size)
        return answer

    def _not_scanned(self, transaction: Transaction, message: Message, options: Options) -> Verdict | None:
        self.log.info("not scanned", txn=transaction.id, reason="too large", bytes=message.size)
        verdict = denial(options.too_large, "the message is too large to be scanned", enhanced="5.3.4")
        if verdict is None and options.mark_all:
            return mark(message, "Not scanned")
        return replace(verdict, code=552) if isinstance(verdict, Deny) else verdict

    def _found(self, signature: str, transaction: Transaction, message: Message, options: Options) -> Verdict | None:
        self.notes(transaction)["signature"] = signature
        action = action_for(signature, options)
        self.log.info("virus found", txn=transaction.id, signature=signature, action=action or "ignored")
        if action is None:
            return mark(message, "Clean") if options.mark_all else None
        if action == "quarantine":
            message.quarantine(f"virus {signature}")
        elif action not in {"tag", "allow"}:
            return denial(parse_action(action), f"{options.text}: {signature}", enhanced="5.7.1")
        if options.mark_all or action != "allow":
            return mark(message, f"Infected ({signature})")
        return None


def action_for(signature: str, options: Options) -> str | None:
    """Return what becomes of a message with that signature in it; None if the signature does not count."""
    name = signature.lower()
    if any(fnmatchcase(name, pattern.lower()) for pattern in options.ignore):
        return None
    for pattern, action in options.actions.items():
        if fnmatchcase(name, pattern.lower()):
            return action
    return options.action


def mark(message: Message, status: str) -> Verdict | None:
    """Say in the header what came of the scan; nobody else's word for it stays. A denial if there are too many."""
    if len(message.headers.fields(FIELD)) > OLD_FIELDS:
        return Deny(f"too many {FIELD} header fields", enhanced="5.6.0")
    message.delete_header(FIELD, None)
    message.add_header(FIELD, status)
    return None
