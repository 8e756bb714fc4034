"""check_dmarc beside the plugin: what becomes of name servers that take their time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gatepost.deadline import Deadline, of_hook
from gatepost.services.authentication.dmarc_check import check_dmarc
from gatepost.services.dns.resolver import Resolver
from gatepost.testing.dns_table import TableSource

if TYPE_CHECKING:
    import dns.name
    import dns.rdatatype

    from gatepost.services.dns.answer import Answer


class Slow(TableSource):
    """Answers what it is asked first, then nothing."""

    def __init__(self) -> None:
        super().__init__({})
        self._asked = 0

    async def ask(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Answer:
        self._asked += 1
        if self._asked > 1:
            await asyncio.Event().wait()
        return await super().ask(name, rdtype)


async def test_a_walk_that_takes_longer_than_the_hook_has_is_a_temporary_error() -> None:
    resolver = Resolver(Slow(), timeout_s=60)
    token = of_hook.set(Deadline.after(0.3))
    try:
        finding = await check_dmarc(resolver, "a.b.example.org", [], [])
    finally:
        of_hook.reset(token)
        await resolver.close()
    assert (finding.result, finding.detail) == ("temperror", "not all answers came in time")
