"""DNS answers from a table in memory, for the test kit: what exists is what the table says.

    {
        "2.0.0.127.bl.example": {"A": ["127.0.0.2"], "TXT": ["spam source"]},
        "example.org": {"MX": ["10 mail.example.org"]},
        "www.example.org": {"CNAME": ["example.org"]},
        "half.example.org": {"A": ["192.0.2.1"], "AAAA": "servfail"},
        "dead.example": "timeout",                                 # and every name below it that is not here
    }

Records are written as in a zone file, names in them absolute; TXT is taken as it is. A name exists when the table
has it or one below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.TXT import TXT

from gatepost.configuration.config import DnsSection
from gatepost.errors import ConfigError, Unavailable
from gatepost.services.dns.answer import Answer, to_dns_name
from gatepost.services.dns.resolver import Resolver, open_resolver

Trouble = Literal["servfail", "timeout"]
"""Why there is no answer. In a table "timeout" comes at once: waiting for it would prove nothing."""

DnsTable: TypeAlias = Mapping[str, Mapping[str, Sequence[str] | Trouble] | Trouble]

Dns: TypeAlias = DnsTable | Sequence[str] | Resolver
"""What a test may say of DNS: a table, the addresses of name servers, or a resolver."""

_TTL_S = 300
_CHAIN_LIMIT = 16
_TROUBLE = {"servfail": "answered SERVFAIL", "timeout": "gave no answer in time"}

_Records = tuple[dns.rdata.Rdata, ...]


class TableSource:
    """Answers as `table` says; ConfigError for what is no name, no type or no record."""

    def __init__(self, table: DnsTable) -> None:
        self._contents: dict[dns.name.Name, dict[dns.rdatatype.RdataType, _Records | Trouble] | Trouble] = {}
        self._existing: set[dns.name.Name] = set()
        for text, content in table.items():
            name = to_dns_name(text)
            if name is None:
                raise ConfigError(f"dns: {text!r} is no DNS name")
            if isinstance(content, str):
                self._contents[name] = _trouble(content, text)
            else:
                self._contents[name] = dict(_parsed(text, *item) for item in content.items())
                self._existing.update(_upwards(name))

    def __str__(self) -> str:
        return "the table"

    async def ask(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Answer:
        """Return what the table has; Unavailable where it has trouble."""
        for _ in range(_CHAIN_LIMIT):
            owner = next((one for one in _upwards(name) if one in self._contents), name)
            content = self._contents.get(owner, {})
            if isinstance(content, str):
                raise Unavailable("dns", _TROUBLE[content])
            if owner != name:
                content = {}
            records = content.get(rdtype, ())
            if isinstance(records, str):
                raise Unavailable("dns", _TROUBLE[records])
            match content.get(dns.rdatatype.CNAME):
                case (CNAME() as alias,) if not records:
                    name = alias.target
                case _:
                    return Answer(records, exists=name in self._existing, ttl=_TTL_S)
        raise Unavailable("dns", f"more than {_CHAIN_LIMIT} CNAMEs, one after the other")


class _Nothing:
    """A test that says nothing of DNS must not go to the network, nor take it for empty."""

    async def ask(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Answer:
        raise Unavailable("dns", "this test has none: say what is there, with dns={...}")


def resolver_for_test(given: Dns | None) -> Resolver:
    """Return the resolver that a test asks for; with None everything is unavailable."""
    match given:
        case None:
            return Resolver(_Nothing())
        case Resolver():
            return given
        case Mapping():
            return Resolver(TableSource(given))
        case _:
            return open_resolver(DnsSection(nameservers=tuple(given)))


def _upwards(name: dns.name.Name) -> list[dns.name.Name]:
    """Return the name and those above it, without the root."""
    return [dns.name.Name(name.labels[level:]) for level in range(len(name.labels) - 1)]


def _trouble(text: str, place: str) -> Trouble:
    match text:
        case "servfail" | "timeout":
            return text
    raise ConfigError(f'dns: {place}: write a list of records, "servfail" or "timeout", not {text!r}')


def _parsed(name: str, type_text: str, records: Sequence[str]) -> tuple[dns.rdatatype.RdataType, _Records | Trouble]:
    place = f"{name} {type_text}"
    try:
        rdtype = dns.rdatatype.from_text(type_text)
    except (dns.exception.DNSException, ValueError) as error:
        raise ConfigError(f"dns: {place}: there is no such record type") from error
    if isinstance(records, str):
        return rdtype, _trouble(records, place)
    return rdtype, tuple(_record(rdtype, record, place) for record in records)


def _record(rdtype: dns.rdatatype.RdataType, text: str, place: str) -> dns.rdata.Rdata:
    if rdtype == dns.rdatatype.TXT:
        # One character-string has 255 bytes at most.
        content = text.encode()
        strings = [content[start : start + 255] for start in range(0, len(content), 255)] or [b""]
        return TXT(dns.rdataclass.IN, rdtype, strings)
    try:
        return dns.rdata.from_text(dns.rdataclass.IN, rdtype, text, origin=dns.name.root, relativize=False)
    except (dns.exception.DNSException, ValueError) as error:
        raise ConfigError(f"dns: {place}: {text!r} is no such record: {error}") from error
