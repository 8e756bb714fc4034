"""What a hook may change beside its notes and the message: overrides, whitelisting, a recipient's targets.

Noted before a hook runs, so that it can be put back when the plugin is only observed, or fails half way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gatepost.session import Recipient, Session, Transaction

if TYPE_CHECKING:
    from collections.abc import Iterator

Scope = Session | Transaction | Recipient

Steering = tuple[Any, ...]
"""Overrides and whitelist_reason of session, transaction and recipient, as far as the scope goes; then the targets."""


def steering(scope: Scope) -> Steering:
    """Return what holds for `scope` now, to compare and to give to the functions below."""
    match scope:
        case Session():
            return (scope.overrides, scope.whitelist_reason)
        case Transaction(session=session):
            return (session.overrides, session.whitelist_reason, scope.overrides, scope.whitelist_reason)
        case Recipient(transaction=transaction):
            return (*steering(transaction), scope.overrides, scope.whitelist_reason, scope.targets)


def steer_back(scope: Scope, before: Steering) -> None:
    """Make everything as it was."""
    match scope:
        case Session():
            scope.overrides, scope.whitelist_reason = before
        case Transaction(session=session):
            steer_back(session, before[:2])
            scope.overrides, scope.whitelist_reason = before[2:]
        case Recipient(transaction=transaction):
            steer_back(transaction, before[:4])
            scope.overrides, scope.whitelist_reason, scope.targets = before[4:]


def newly_whitelisted(scope: Scope, before: Steering) -> Iterator[Scope]:
    """Yield those of the session, transaction and recipient of `scope` that were not whitelisted before."""
    match scope:
        case Session():
            chain: tuple[Scope, ...] = (scope,)
        case Transaction(session=session):
            chain = (session, scope)
        case Recipient(transaction=transaction):
            chain = (transaction.session, transaction, scope)
    for level, reason in zip(chain, before[1::2], strict=True):
        if reason is None and level.whitelist_reason is not None:
            yield level
