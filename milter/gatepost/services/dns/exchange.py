"""Questions to name servers over UDP, and TCP where an answer does not fit: several servers, lost packets, bad answers.

Theory of operation. A question goes to the first server. When nothing has come back for a second, or at once when the
server refuses or cannot be reached, it goes to the next one too, and after the last one to the silent ones again, each
round twice as patient; the earlier attempts stay open, so that a slow answer still counts. The first usable answer ends
it. A server that kept silent is asked last for a while. Each attempt has a socket, and so a source port, of its own
(RFC 5452); a packet that does not answer the question is not listened to, whoever sent it.

It goes on for as long as some server is silent: the caller sets the limit, by cancelling it.
"""

from __future__ import annotations

import asyncio
import math
import os
import socket
from dataclasses import dataclass, replace
from time import monotonic
from typing import TYPE_CHECKING

import dns.exception
import dns.inet
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdatatype
import dns.ttl

from gatepost.errors import Unavailable
from gatepost.services.dns.answer import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from gatepost.nameserver import Nameserver

PATIENCE_S = 1.0
"""A resolver nearby answers nearly everything within this; what takes longer mostly was lost."""

_ASKED_LAST_S = 30.0
"""How long a silent server stays at the end of the row: one packet in half a minute finds out that it is back."""

_EDNS_PAYLOAD_BYTES = 1232
"""The size that passes every network unfragmented (DNS flag day 2020)."""

_PACKET_BYTES = 4096
"""What is read of a packet: more than any server sends that heeds the size above."""

_ANSWER_BYTES = 16_384
"""The largest answer that is read. Who has a domain decides how large its answers are, and 64 KB of MX records keep a
processor busy for 120 ms; the largest honest ones, the TXT records of big companies, are below 10 KB."""

_THREAD_BYTES = 2048
"""Larger answers, which take milliseconds, are parsed in a thread, off the event loop."""

_CHAIN_LIMIT = 8
"""CNAMEs followed by questions of our own; resolvers mostly return the whole chain, and then none is needed."""


@dataclass(frozen=True, slots=True)
class _Alias:
    """The answer is a CNAME whose target has not been looked up: that is ours to do."""

    target: dns.name.Name
    ttl: int


class _TooLargeError(Exception):
    """The answer has more bytes than we read: `args[0]`."""


class NameserverExchange:
    """Asks `nameservers`, in this order of preference; `patience_s` is what the first round waits for each."""

    def __init__(self, nameservers: Sequence[Nameserver], *, patience_s: float = PATIENCE_S) -> None:
        self._nameservers = tuple(nameservers)
        self._patience_s = patience_s
        self._silent_at: dict[Nameserver, float] = {}

    def __str__(self) -> str:
        return ", ".join(map(str, self._nameservers))

    async def ask(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Answer:
        """Return the answer; Unavailable, with what each server did, when none gave one."""
        ttl = dns.ttl.MAX_TTL
        for _ in range(_CHAIN_LIMIT):
            match await self._race(name, rdtype):
                case _Alias(target, alias_ttl):
                    name, ttl = target, min(ttl, alias_ttl)
                case answer:
                    return replace(answer, ttl=min(ttl, answer.ttl))
        raise Unavailable("dns", f"more than {_CHAIN_LIMIT} CNAMEs, one after the other")

    async def _race(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Answer | _Alias:
        attempts: dict[asyncio.Task[Answer | _Alias | str], Nameserver] = {}
        problems: dict[Nameserver, str] = {}
        try:
            for server, patience_s in self._turns(problems):
                attempts[asyncio.create_task(_attempt(server, name, rdtype))] = server
                done, _ = await asyncio.wait(attempts, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    self._silent_at[server] = monotonic()
                for attempt in done:
                    server, result = attempts.pop(attempt), attempt.result()
                    if not isinstance(result, str):
                        self._silent_at.pop(server, None)
                        return result
                    problems[server] = f"{server} {result}"
            raise Unavailable("dns", "; ".join(problems.values()))
        finally:
            for attempt in attempts:
                attempt.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)

    def _turns(self, problems: Mapping[Nameserver, str]) -> Iterator[tuple[Nameserver, float]]:
        """Yield whom to ask next, and how long to wait before asking another one as well; ends when all have failed."""
        now = monotonic()
        row = sorted(self._nameservers, key=lambda one: now - self._silent_at.get(one, -math.inf) < _ASKED_LAST_S)
        patience_s = self._patience_s
        while len(problems) < len(row):
            for server in row:
                if server not in problems:
                    yield server, patience_s
            patience_s *= 2


async def _attempt(server: Nameserver, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Answer | _Alias | str:
    """Ask one server once; text says why it gave no answer."""
    try:
        message = await _exchange(server, dns.message.make_query(name, rdtype, use_edns=0, payload=_EDNS_PAYLOAD_BYTES))
        if message.rcode() in {dns.rcode.FORMERR, dns.rcode.NOTIMP}:
            # RFC 6891 section 7: a server that does not know EDNS.
            message = await _exchange(server, dns.message.make_query(name, rdtype))
        return _read(message)
    except OSError as error:
        # Not strerror: asyncio puts words of its own there, with the address once more.
        return f"gave no answer: {os.strerror(error.errno) if error.errno else error}"
    except _TooLargeError as error:
        return f"answered with {error.args[0]} bytes; up to {_ANSWER_BYTES} are read"
    except (dns.exception.DNSException, EOFError, ValueError) as error:
        return f"answered garbage: {type(error).__name__}"


async def _exchange(server: Nameserver, query: dns.message.QueryMessage) -> dns.message.Message:
    message = await _over_udp(server, query)
    return message or await _over_tcp(server, query)


async def _over_udp(server: Nameserver, query: dns.message.QueryMessage) -> dns.message.Message | None:
    """Return the first packet that answers the query; None if it says that the answer did not fit."""
    family = dns.inet.af_for_address(server.address)
    loop = asyncio.get_running_loop()
    # No transport of the event loop's: cancelled while it is made, uvloop's stays open, and then the loop never ends.
    with socket.socket(family, socket.SOCK_DGRAM) as udp:
        udp.setblocking(False)
        # Connected: answers from elsewhere are not even seen, and a port that is shut is heard of at once.
        udp.connect(dns.inet.low_level_address_tuple((server.address, server.port), family))
        udp.send(query.to_wire())
        while True:
            wire = await loop.sock_recv(udp, _PACKET_BYTES)
            try:
                message = dns.message.from_wire(wire, raise_on_truncation=True)
            except dns.message.Truncated as cut:
                if query.is_response(cut.message()):  # type: ignore[no-untyped-call]
                    return None
            except (dns.exception.DNSException, ValueError):
                continue
            else:
                if query.is_response(message):
                    return message


async def _over_tcp(server: Nameserver, query: dns.message.QueryMessage) -> dns.message.Message:
    """Return the answer (RFC 7766); EOFError, ValueError or DNSException when there is none that can be read."""
    question = query.to_wire()
    reader, writer = await asyncio.open_connection(server.address, server.port)
    try:
        writer.write(len(question).to_bytes(2, "big") + question)
        size = int.from_bytes(await reader.readexactly(2), "big")
        if size > _ANSWER_BYTES:
            raise _TooLargeError(size)
        wire = await reader.readexactly(size)
    finally:
        writer.close()
    parse = dns.message.from_wire
    message = parse(wire) if size <= _THREAD_BYTES else await asyncio.to_thread(parse, wire)
    if not query.is_response(message):
        raise dns.query.BadResponse
    return message


def _read(message: dns.message.Message) -> Answer | _Alias | str:
    if message.rcode() not in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
        return f"answered {dns.rcode.to_text(message.rcode())}"
    if not isinstance(message, dns.message.QueryMessage):
        return "answered garbage"
    chain = message.resolve_chaining()
    size = len(message.wire or b"")
    if chain.answer is not None:
        return Answer(tuple(chain.answer), ttl=chain.minimum_ttl, wire_bytes=size)
    authority = {rrset.rdtype for rrset in message.authority}
    proven = dns.rdatatype.SOA in authority
    if message.rcode() == dns.rcode.NXDOMAIN:
        return Answer(exists=False, ttl=chain.minimum_ttl if proven else 0, wire_bytes=size)
    if chain.cnames and not proven:
        return _Alias(chain.canonical_name, min(cname.ttl for cname in chain.cnames))
    if dns.rdatatype.NS in authority and not proven:
        # RFC 2308 section 2.2: a referral, no answer at all; taken for "no data" it would clear every listed client.
        return "answered with a referral: it resolves nothing for others"
    return Answer(ttl=chain.minimum_ttl if proven else 0, wire_bytes=size)
