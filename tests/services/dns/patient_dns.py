"""A resolver and a relay with which no test hangs on how quick a busy machine is."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import TYPE_CHECKING

from tests.rigs.dns_rig import Relay

from gatepost.nameserver import Nameserver
from gatepost.services.dns.exchange import NameserverExchange
from gatepost.services.dns.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 60.0


def patient_resolver(*addresses: str, cache_size: int = 10_000, clock: Callable[[], float] = monotonic) -> Resolver:
    """Ask these name servers, and none a second time because its answer is late: for tests that count questions."""
    exchange = NameserverExchange([Nameserver.parse(address) for address in addresses], patience_s=PATIENCE_S)
    return Resolver(exchange, timeout_s=PATIENCE_S, cache_size=cache_size, clock=clock)


class GatheringRelay(Relay):
    """Answers nobody before `count` are waiting, and all of them `delay_s` later: who asks one by one waits in vain.

    So `rounds` times; after that it answers at once.
    """

    def __init__(self, upstream: str, count: int, *, rounds: int = 1, delay_s: float = 0.0) -> None:
        super().__init__(upstream, delay_s=delay_s)
        self._count = count
        self._rounds = rounds
        self._held: list[tuple[bytes, tuple[str, int]]] = []

    def _received(self, query: bytes, sender: tuple[str, int]) -> None:
        if not self._rounds:
            super()._received(query, sender)
            return
        self.asked += 1
        self._waiting += 1
        self.most = max(self.most, self._waiting)
        self._held.append((query, sender))
        if len(self._held) == self._count:
            asyncio.get_running_loop().call_later(self.delay_s, self._answer_all)

    def _answer_all(self) -> None:
        held, self._held = self._held, []
        self._rounds -= 1
        for query, sender in held:
            self._send(self._ask(query), sender)
