"""What a hook call and a message have cost so far in questions to other servers, so that there can be a limit.

The pipeline opens an account around each hook call; the DNS service charges it and knows the limits. The account
follows the call into its tasks and threads (contextvars). Work that no hook started has none, and no limit.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass(slots=True)
class Spending:
    """What was asked on behalf of one hook call, or of one message by all its hooks."""

    dns_queries: int = 0
    """Questions that went to a name server; what the cache answered, or another had just asked, is free."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who pays for what is asked now; `message` is None in hooks outside of a transaction."""

    message: Spending | None = None
    hook: Spending = field(default_factory=Spending)


account: ContextVar[Account | None] = ContextVar("gatepost_account", default=None)
"""The account of the hook call that is running; None outside of any."""
