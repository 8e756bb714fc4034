"""The resolver for code that runs in a thread: the same questions, cache and limits, with calls that wait."""

from __future__ import annotations

import asyncio
import concurrent.futures
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from gatepost.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from ipaddress import IPv4Address, IPv6Address

    from gatepost.services.dns.answer import Answer, Mx
    from gatepost.services.dns.resolver import Resolver

T = TypeVar("T")

_SLACK_S = 5.0
"""What a thread waits beyond the resolver's own limit, for an event loop that is held up. One that is gone answers
never, and a thread that waits for it would keep the process from ending."""


@dataclass(frozen=True, slots=True)
class BlockingResolver:
    """The methods of `Resolver`, for `blocking = True` hooks and libraries that call back from them.

    RuntimeError on the event loop's own thread, where waiting would be for ever.
    """

    _resolver: Resolver
    _loop: asyncio.AbstractEventLoop

    def a(self, name: str) -> tuple[IPv4Address, ...]:
        """See Resolver."""
        return self._wait(self._resolver.a, name)

    def aaaa(self, name: str) -> tuple[IPv6Address, ...]:
        """See Resolver."""
        return self._wait(self._resolver.aaaa, name)

    def addresses(self, name: str) -> tuple[IPv4Address | IPv6Address, ...]:
        """See Resolver."""
        return self._wait(self._resolver.addresses, name)

    def txt(self, name: str) -> tuple[bytes, ...]:
        """See Resolver."""
        return self._wait(self._resolver.txt, name)

    def mx(self, name: str) -> tuple[Mx, ...]:
        """See Resolver."""
        return self._wait(self._resolver.mx, name)

    def ptr(self, ip: IPv4Address | IPv6Address | str) -> tuple[str, ...]:
        """See Resolver."""
        return self._wait(self._resolver.ptr, ip)

    def query(self, name: str, rdtype: str) -> Answer:
        """See Resolver."""
        return self._wait(self._resolver.query, name, rdtype)

    def _wait(self, ask: Callable[..., Coroutine[Any, Any, T]], *arguments: Any) -> T:
        if running_loop() is self._loop:
            raise RuntimeError("dns.blocking is for threads: on the event loop write await self.dns.txt(...)")
        question = ask(*arguments)
        try:
            future = asyncio.run_coroutine_threadsafe(question, self._loop)
        except RuntimeError as error:
            question.close()
            raise Unavailable("dns", "gatepost has stopped") from error
        try:
            return future.result(self._resolver.timeout_s + _SLACK_S)
        except TimeoutError as error:
            future.cancel()
            raise Unavailable("dns", "the event loop does not answer") from error
        except concurrent.futures.CancelledError as error:
            raise Unavailable("dns", "gatepost is stopping") from error


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread; None if there is none."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
