"""The plugin dmarc with SPF and DKIM results that a test chooses, and a DNS that counts: no daemon, no keys.

mail = await judge({"_dmarc.example.org": "v=DMARC1; p=reject"}, "example.org", spf="mail.example.org")
assert (mail.result, mail.reply) == ("pass", "250")
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gatepost import Plugin, PluginOptions, keep_results, method_result, results_of
from gatepost.services.dns.resolver import Resolver
from gatepost.testing import gate
from gatepost.testing.dns_table import TableSource

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import dns.name
    import dns.rdatatype

    from gatepost import Message, MethodResult, Transaction
    from gatepost.services.dns.answer import Answer
    from gatepost.testing import Client
    from gatepost.testing.dns_table import DnsTable


class StandInOptions(PluginOptions):
    """Results as `DOMAIN` for a pass, or `DOMAIN RESULT`; None leaves none at all."""

    spf: str | None = "none.invalid none"
    dkim: tuple[str, ...] | None = ("none.invalid none",)


class StandIn(Plugin[StandInOptions]):
    """What spf and dkim would have found."""

    async def data_post(self, transaction: Transaction, message: Message) -> None:
        options = self.options(transaction)
        results = []
        if options.spf is not None:
            results.append(_result("spf", "smtp.mailfrom", options.spf))
        if options.dkim is not None:
            results += [_result("dkim", "header.d", one) for one in options.dkim]
        keep_results(self.notes(transaction), results)


class ArcOptions(PluginOptions):
    """What arc would have left."""

    sealers: tuple[str, ...] = ()
    results: tuple[str, ...] = ()
    """`METHOD RESULT PROPERTY VALUE`."""


class Arc(Plugin[ArcOptions]):
    """A chain that holds."""

    async def data_post(self, transaction: Transaction, message: Message) -> None:
        options = self.options(transaction)
        found = [
            method_result(method, result, {name: value})
            for method, result, name, value in map(str.split, options.results)
        ]
        self.notes(transaction).update({"sealers": [*options.sealers], "results": found})
        keep_results(self.notes(transaction), [method_result("arc", "pass")])


def _result(method: str, name: str, said: str) -> MethodResult:
    domain, _, result = said.partition(" ")
    return method_result(method, result or "pass", {name: domain})


class CountingSource(TableSource):
    """A table that notes what it is asked, as `NAME TYPE`."""

    def __init__(self, table: DnsTable) -> None:
        super().__init__(table)
        self.asked: list[str] = []

    async def ask(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Answer:
        self.asked.append(f"{name.to_text(omit_final_dot=True)} {rdtype.name}")
        return await super().ask(name, rdtype)


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of one message."""

    client: Client
    reply: str
    asked: list[str]

    @property
    def results(self) -> list[MethodResult]:
        return results_of(self.client.transaction, "dmarc")

    @property
    def result(self) -> str:
        (result,) = self.results
        return result["result"]

    @property
    def finding(self) -> dict[str, Any]:
        (finding,) = self.client.transaction.notes["dmarc"]["findings"]
        assert isinstance(finding, dict)
        return finding

    @property
    def message(self) -> Message:
        assert self.client.message is not None
        return self.client.message


@asynccontextmanager
async def judging(
    records: Mapping[str, Any],
    *,
    stand_in: Mapping[str, Any],
    arc: Mapping[str, Any] | None = None,
    address: str = "192.0.2.1",
    **options: Any,
) -> AsyncIterator[tuple[Client, CountingSource]]:
    """Make a client of a Postfix with dmarc; a record that is text is a TXT record."""
    table = {name: {"TXT": [what]} if isinstance(what, str) and "=" in what else what for name, what in records.items()}
    source = CountingSource(table)
    resolver = Resolver(source)
    classes: list[type[Plugin[Any]]] = [StandIn, *([Arc] if arc is not None else [])]
    plugins: dict[str, Any] = {"stand_in": stand_in, **({"arc": arc} if arc is not None else {}), "dmarc": options}
    try:
        async with gate(*classes, dns=resolver, **plugins) as postfix:
            yield postfix.client(address), source
    finally:
        await resolver.close()


async def judge(
    records: Mapping[str, Any],
    author: str | bytes,
    *,
    spf: str | None = "none.invalid none",
    dkim: str | tuple[str, ...] | None = ("none.invalid none",),
    arc: Mapping[str, Any] | None = None,
    sender: str = "a@envelope.example",
    **options: Any,
) -> Judged:
    """Send one message; `author` is the domain of its author, an address, or as bytes the whole header."""
    if isinstance(author, str):
        author = f"From: {author if '@' in author else f'a@{author}'}\r\n".encode()
    stand_in = {"spf": spf, "dkim": (dkim,) if isinstance(dkim, str) else dkim}
    async with judging(records, stand_in=stand_in, arc=arc, **options) as (client, source):
        reply = await client.send(sender, "b@example.net", content=author + b"Subject: a\r\n\r\ntext\r\n")
        text = "250" if reply.code == 250 else reply.encode().decode().strip()
        return Judged(client, text, source.asked)
