"""Plugins for the tests of the flow: the local part of a recipient says what becomes of it.

`deny.data` is refused by the data hook, `soft.post` for now by data_post, and so on; `plain` and the like are accepted.
What follows a plus sign (`plain+2`) only makes options differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gatepost import (
    Deny,
    DenyDisconnect,
    DenySoft,
    DenySoftDisconnect,
    Ok,
    Overrides,
    Plugin,
    PluginOptions,
    Session,
    Transaction,
    Verdict,
)

if TYPE_CHECKING:
    from gatepost import Headers, Message, Recipient

happened: list[str] = []
"""What the plugins saw, in order."""

VERDICTS: dict[str, Verdict] = {
    "ok": Ok(),
    "soft": DenySoft("later"),
    "deny": Deny("no"),
    "softbye": DenySoftDisconnect("later, bye"),
    "denybye": DenyDisconnect("no, bye"),
}


def said(what: str, stage: str) -> Verdict | None:
    """Return the verdict that `deny.data` and the like mean at a stage."""
    verdict, _, at = what.partition("+")[0].partition(".")
    return VERDICTS.get(verdict) if at == stage else None


class Chooser(Plugin):
    """Gives each recipient its local part as an option of `late`; refuses at rcpt what says so."""

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> Verdict | None:
        what = recipient.address.local
        happened.append(f"rcpt {what}")
        recipient.override(Overrides({"late": {"what": what}, "early": {"what": what}}))
        return said(what, "rcpt")


class WhatOptions(PluginOptions):
    what: str = ""


class Early(Plugin[WhatOptions]):
    """Has options, but no data or content hook: recipients cannot disagree about it."""

    def rcpt(self, transaction: Transaction, recipient: Recipient) -> None:
        self.options(recipient)


class Late(Plugin[WhatOptions]):
    """Does at data and in the content hooks what the options of its run say."""

    def data(self, transaction: Transaction) -> Verdict | None:
        what = self.options(transaction).what
        happened.append(f"data {what}")
        self.notes(transaction).setdefault("runs", []).append(what)
        return said(what, "data")

    def header(self, transaction: Transaction, name: str, value: str) -> Verdict | None:
        return said(self.options(transaction).what, "header")

    def data_headers_end(self, transaction: Transaction, headers: Headers) -> Verdict | None:
        return said(self.options(transaction).what, "headers")

    def body(self, transaction: Transaction, chunk: bytes) -> Verdict | None:
        return said(self.options(transaction).what, "body")

    def data_post(self, transaction: Transaction, message: Message) -> Verdict | None:
        what = self.options(transaction).what
        happened.append(f"post {what} {self.notes(transaction)['runs']} {[header.name for header in message.headers]}")
        message.add_header("X-Run", what)
        if what == "hold":
            message.quarantine("held by a test")
        if what == "drop":
            message.add_recipient("else@example.com")
            message.delete_recipient("drop@example.org")
        return said(what, "post")


class Listener(Plugin):
    """Notes every event."""

    def deny(self, session: Session, hook: str, verdict: Verdict) -> None:
        happened.append(f"deny {hook} {verdict.kind}")

    def ok(self, session: Session, hook: str, verdict: Verdict) -> None:
        if hook in {"data", "data_post"}:
            happened.append(f"ok {hook}")

    def queue_post(self, transaction: Transaction) -> None:
        happened.append(f"queue_post {transaction.queue_id}")

    def reset_transaction(self, transaction: Transaction) -> None:
        happened.append("reset_transaction")

    def disconnect(self, session: Session) -> None:
        happened.append("disconnect")
