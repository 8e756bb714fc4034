"""DNS for plugins: one resolver for the whole daemon, with a cache, and questions in flight that are shared.

    addresses = await self.dns.a("2.0.0.127.zen.example")     # () when it is not listed
    answer = await self.dns.query("example.org", "TLSA")      # answer.records, answer.exists
    keys = self.dns.blocking.txt("s._domainkey.example.org")  # in a thread, for blocking = True

An empty tuple means that DNS knows: no such name, or nothing of this type. `Unavailable` means that nobody knows: the
name servers fail, refuse, keep silent or talk nonsense, or the limit of the hook or the message is reached. The two are
never mixed up. Names are taken as absolute; nothing is searched in other domains.
"""

from __future__ import annotations

import asyncio
import ipaddress
from contextvars import Context
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING, Protocol, cast

import dns.exception
import dns.name
import dns.rdatatype

from gatepost.errors import Unavailable
from gatepost.nameserver import Nameserver, system_nameservers
from gatepost.services.dns.answer import NO_SUCH_NAME, Answer, Mx, to_dns_name, to_host
from gatepost.services.dns.blocking import BlockingResolver, running_loop
from gatepost.services.dns.cache import AnswerCache, Failed
from gatepost.services.dns.exchange import NameserverExchange
from gatepost.spending import account

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Address, IPv6Address

    from dns.rdtypes.ANY.MX import MX
    from dns.rdtypes.ANY.PTR import PTR
    from dns.rdtypes.ANY.TXT import TXT
    from dns.rdtypes.IN.A import A
    from dns.rdtypes.IN.AAAA import AAAA

    from gatepost.configuration.config import DnsSection
    from gatepost.services.dns.cache import Question

ON_THE_WIRE = 128
"""Questions asked at once, each with a socket or two; more wait, within their time. Half of what a process may have
open by default (1,024) is left to connections, and a resolver that drowns answers nobody."""

_STOPPING = "gatepost is stopping"


class Source(Protocol):
    """Where answers come from; `str()` names it for the log."""

    async def ask(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Answer:
        """Return the answer; Unavailable when there is none. Cancelled when it takes too long."""


class Resolver:
    """Answers about names, from the cache or from `source`; used from one event loop, see `blocking` for threads.

    `timeout_s` is for one question, with all its repetitions. `clock` returns seconds and never goes back.
    """

    def __init__(
        self,
        source: Source,
        *,
        timeout_s: float = 5.0,
        cache_size: int = 10_000,
        max_queries_per_hook: int = 100,
        max_queries_per_message: int = 400,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.timeout_s = timeout_s
        self._source = source
        self._cache = AnswerCache(cache_size, clock)
        self._max_per_hook = max_queries_per_hook
        self._max_per_message = max_queries_per_message
        self._in_flight: dict[Question, asyncio.Task[Answer | Failed]] = {}
        self._slots = asyncio.Semaphore(ON_THE_WIRE)
        self._closed = False
        self._loop = running_loop()

    @property
    def max_queries_per_hook(self) -> int:
        """How many questions one hook call may ask; a plugin that could ask more chooses."""
        return self._max_per_hook

    @property
    def in_flight(self) -> int:
        """How many questions are being asked, or wait for their turn."""
        return len(self._in_flight)

    @property
    def blocking(self) -> BlockingResolver:
        """The same resolver for code in threads; RuntimeError when this one has no event loop yet.

        It has the one in which it was made, else the first that asked it.
        """
        if self._loop is None:
            raise RuntimeError("this resolver has not been used from an event loop yet")
        return BlockingResolver(self, self._loop)

    async def a(self, name: str) -> tuple[IPv4Address, ...]:
        """Return the IPv4 addresses."""
        answer = await self.query(name, "A")
        return tuple(ipaddress.IPv4Address(cast("A", record).address) for record in answer.records)

    async def aaaa(self, name: str) -> tuple[IPv6Address, ...]:
        """Return the IPv6 addresses."""
        answer = await self.query(name, "AAAA")
        return tuple(ipaddress.IPv6Address(cast("AAAA", record).address) for record in answer.records)

    async def addresses(self, name: str) -> tuple[IPv4Address | IPv6Address, ...]:
        """Return both kinds, IPv4 first; Unavailable if one of them is, for half an answer looks like a whole one."""
        v4, v6 = await asyncio.gather(self.a(name), self.aaaa(name))
        return (*v4, *v6)

    async def txt(self, name: str) -> tuple[bytes, ...]:
        """Return each TXT record as one piece, its character-strings joined (RFC 7208 section 3.3)."""
        answer = await self.query(name, "TXT")
        return tuple(b"".join(cast("TXT", record).strings) for record in answer.records)

    async def mx(self, name: str) -> tuple[Mx, ...]:
        """Return the mail exchangers, the preferred first."""
        records = (cast("MX", record) for record in (await self.query(name, "MX")).records)
        return tuple(sorted(Mx(record.preference, to_host(record.exchange)) for record in records))

    async def ptr(self, ip: IPv4Address | IPv6Address | str) -> tuple[str, ...]:
        """Return the names that the address claims, unconfirmed, as `Mx.host` is written; () for no address at all."""
        try:
            name = ipaddress.ip_address(ip).reverse_pointer
        except ValueError:
            return ()
        answer = await self.query(name, "PTR")
        return tuple(to_host(cast("PTR", record).target) for record in answer.records)

    async def query(self, name: str, rdtype: str) -> Answer:
        """Return the records of any type, such as "TLSA"; ValueError for what is no type of data."""
        question = (name.removesuffix(".").lower(), rdtype)
        result = self._cache.get(question)
        if result is None:
            dns_name, number = to_dns_name(name), _type_number(rdtype)
            if dns_name is None:
                return NO_SUCH_NAME
            result = await asyncio.shield(self._in_flight.get(question) or self._start(question, dns_name, number))
        if isinstance(result, Failed):
            raise Unavailable("dns", f"{name} {rdtype}: {result.reason}")
        return result

    def _start(
        self, question: Question, name: dns.name.Name, rdtype: dns.rdatatype.RdataType
    ) -> asyncio.Task[Answer | Failed]:
        """Put a question on the wire, in a task that is nobody's: a caller that goes away leaves it to the others."""
        if self._closed:
            raise Unavailable("dns", _STOPPING)
        self._charge(question)
        loop = asyncio.get_running_loop()
        self._loop = self._loop or loop
        # A context of its own, too, or the answer would be made on the account of whoever came first.
        task = loop.create_task(self._ask(name, rdtype), context=Context())
        self._in_flight[question] = task

        def keep(done: asyncio.Task[Answer | Failed]) -> None:
            del self._in_flight[question]
            if not done.cancelled() and done.exception() is None:
                self._cache.put(question, done.result())

        task.add_done_callback(keep)
        return task

    def _charge(self, question: Question) -> None:
        payer = account.get()
        if payer is None:
            return
        for spending, limit, whose in (
            (payer.hook, self._max_per_hook, "hook"),
            (payer.message, self._max_per_message, "message"),
        ):
            if spending is not None and spending.dns_queries >= limit:
                what = " ".join(question)
                raise Unavailable("dns", f"{what} not asked: max_queries_per_{whose} ({limit}) is reached")
        payer.hook.dns_queries += 1
        if payer.message is not None:
            payer.message.dns_queries += 1

    async def _ask(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Answer | Failed:
        try:
            async with asyncio.timeout(self.timeout_s), self._slots:
                return await self._source.ask(name, rdtype)
        except TimeoutError:
            return Failed(f"no answer within {self.timeout_s:.3g} s from {self._source}")
        except Unavailable as error:
            return Failed(error.reason)
        except asyncio.CancelledError:
            if not self._closed:
                raise
            return Failed(_STOPPING)

    async def close(self) -> None:
        """Give up what is in flight; it is Unavailable to those who wait for it. Closing twice is harmless."""
        self._closed = True
        tasks = tuple(self._in_flight.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def open_resolver(settings: DnsSection, clock: Callable[[], float] = monotonic) -> Resolver:
    """Make the resolver that `[dns]` describes; no socket is opened, and nothing is asked."""
    nameservers = tuple(map(Nameserver.parse, settings.nameservers)) or system_nameservers()
    return Resolver(
        NameserverExchange(nameservers),
        timeout_s=settings.timeout,
        cache_size=settings.cache_size,
        max_queries_per_hook=settings.max_queries_per_hook,
        max_queries_per_message=settings.max_queries_per_message,
        clock=clock,
    )


@lru_cache
def _type_number(rdtype: str) -> dns.rdatatype.RdataType:
    try:
        number = dns.rdatatype.from_text(rdtype)
    except (dns.exception.DNSException, ValueError):
        number = dns.rdatatype.ANY
    if dns.rdatatype.is_metatype(number):
        raise ValueError(f"{rdtype!r} is no type of DNS data: write for example TXT")
    return number
