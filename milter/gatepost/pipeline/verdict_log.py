"""What the pipeline writes down of its decisions: on the transaction or session, and into the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from gatepost.pipeline.steering import Scope, Steering, newly_whitelisted
from gatepost.session import Recipient, Session, Transaction

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gatepost.option import PluginOptions
    from gatepost.pipeline.hook_call import HookCall
    from gatepost.record import Record

_log = structlog.get_logger("gatepost.verdict")

EDITS_TOLD = 50
"""Edits that one line tells: journald breaks those of more than 48 KB."""

EDIT_LIMIT = 200
"""Characters of each: a stranger may write names of fields of 60,000, for plugins to remove."""


def session_of(scope: Scope) -> Session:
    """Return the session that the scope is, or is part of."""
    match scope:
        case Session():
            return scope
        case Transaction():
            return scope.session
        case Recipient():
            return scope.transaction.session


def holder_of(scope: Scope) -> Session | Transaction:
    """Return what has the records: the transaction, or the session outside of one."""
    return scope.transaction if isinstance(scope, Recipient) else scope


def recipient_of(scope: Scope) -> str | None:
    """Return the recipient's address; None if the scope is another."""
    return str(scope.address) if isinstance(scope, Recipient) else None


def log_whitelisting(call: HookCall, scope: Scope, before: Steering, options: PluginOptions) -> None:
    """Say once whom a plugin has whitelisted, so that no check is skipped unnoticed."""
    for whom in newly_whitelisted(scope, before):
        fields: dict[str, Any] = {"session": session_of(whom).id}
        match whom:
            case Session():
                fields["client"] = whom.address
            case Transaction():
                fields |= {"txn": whom.id, "sender": str(whom.sender)}
            case Recipient():
                fields |= {"txn": whom.transaction.id, "rcpt": str(whom.address)}
        fields |= {"plugin": call.loaded.name, "hook": call.hook.name, "by": whom.whitelist_reason}
        _log.info("would whitelist" if options.mode == "observe" else "whitelisted", **fields)


def in_words(edits: Sequence[str]) -> str:
    """Return what a log line tells of edits."""
    return "; ".join(edit[:EDIT_LIMIT] for edit in edits[:EDITS_TOLD])


def log_would_edit(call: HookCall, transaction: Transaction, edits: Sequence[str]) -> None:
    """Say what a plugin that only observes would have edited."""
    _log.info("would edit", txn=transaction.id, plugin=call.loaded.name, edits=in_words(edits))


def keep(scope: Scope, record: Record) -> None:
    """Put the record on the transaction (or the session, outside of one) and into the log."""
    holder = holder_of(scope)
    holder.records.append(record)
    fields: dict[str, Any] = {"session": session_of(scope).id}
    # Who is refused before MAIL may leave: then no line about a transaction will tell who that was.
    fields |= {"txn": holder.id} if isinstance(holder, Transaction) else {"client": holder.address}
    fields |= {"plugin": record.plugin, "hook": record.hook, "verdict": record.verdict.kind}
    if record.recipient is not None:
        fields["rcpt"] = record.recipient
    if record.verdict.text:
        fields["text"] = record.verdict.text
    if record.reason != "answer":
        fields["reason"] = record.reason
    if record.detail:
        fields["problem"] = record.detail
    fields["ms"] = round(record.milliseconds, 2)
    write = _log.error if record.is_failure else _log.info
    write("would answer" if record.reason == "observed" else "verdict", **fields)
