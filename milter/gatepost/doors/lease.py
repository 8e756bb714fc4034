"""Joins the content door to the proxy door: which transaction a milter session on the inner smtpd belongs to.

The milter's connect address and port are our own end of the connection to the inner smtpd (POSTFIX.md). CONNECT may
reach the milter before our `connect()` returns, so the two are joined at MAIL.

The table is read from libmilter's threads and written from the event loop's: single dict operations only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from gatepost.address import Address
    from gatepost.deadline import Deadline
    from gatepost.message.message import Message
    from gatepost.pipeline.flow import ContentDecision, Flow

Part: TypeAlias = Literal["header", "body", "edit"]
"""A part of the milter protocol that costs something and is only negotiated when a plugin needs it."""

Key: TypeAlias = tuple[str, int]
"""Address and port of our end of a connection to the inner smtpd."""

_PARTS: dict[str, frozenset[Part]] = {
    "header": frozenset({"header"}),
    "data_headers_end": frozenset({"header"}),
    "body": frozenset({"header", "body"}),
    "data_post": frozenset({"header", "body", "edit"}),
}


@lru_cache
def parts_for(content_hooks: frozenset[str]) -> frozenset[Part]:
    """Return what the milter must negotiate for these hooks; empty when there are none."""
    return frozenset[Part]().union(*(_PARTS[hook] for hook in content_hooks))


@dataclass(slots=True, eq=False)
class Lease:
    """A connection to the inner smtpd, lent to one transaction."""

    flow: Flow
    front_is_there: Callable[[], bool]
    spellings: dict[Address, str] = field(default_factory=dict)
    """Each accepted target as RCPT named it, with angle brackets."""
    deadline: Deadline | None = None
    """When the reply to the dot must be given; None until the dot."""
    covered: frozenset[Part] | None = None
    """What the milter session that joined has negotiated; None as long as none has."""
    decision: ContentDecision | None = None
    """What the content hooks decided; None before, and where there are none."""

    @property
    def needs(self) -> frozenset[Part]:
        """What must be negotiated for this transaction."""
        return parts_for(self.flow.needs_content)

    @property
    def is_covered(self) -> bool:
        """True when the content door will see all of this message that its hooks need."""
        return not self.needs or (self.covered is not None and self.needs <= self.covered)

    async def decide(self, message: Message) -> ContentDecision | None:
        """Run the content hooks; None when nobody waits for the answer any more, so that nothing may be queued."""
        if self.deadline is None:
            return None
        decision = await self.flow.content(message, self.deadline)
        if not self.front_is_there() or self.deadline.remaining() <= 0:
            return None
        self.decision = decision
        return decision


class LeaseTable:
    """Every connection to the inner smtpd that is lent out."""

    def __init__(self) -> None:
        self._leases: dict[Key, Lease] = {}

    def add(self, key: Key, lease: Lease) -> None:
        """Lend the connection; to be called before MAIL is sent on it."""
        self._leases[key] = lease

    def remove(self, key: Key) -> None:
        """End the loan; no error if there is none."""
        self._leases.pop(key, None)

    def find(self, key: Key) -> Lease | None:
        """Return the loan of the connection, None if it is idle or not ours."""
        return self._leases.get(key)
