"""RFC 7208 by its own test suite, from pyspf's sdist: every case through the spf plugin and the shared resolver.

pyspf's runner counts 428: 203 cases of RFC 7208, 191 of RFC 4408, 16 of its own, and 18 tests and doctests of its own
code. Here 408 of the 410 cases are run with the zones in a table (the two others are for modes in which pyspf is
stricter or laxer than the RFC), and those of RFC 7208 once more with the zones in a real nsd.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.message
import dns.name
import dns.rdatatype
import pytest
import yaml
from tests.rigs.dns_rig import NameServer, Relay

from gatepost.address import Address
from gatepost.nameserver import Nameserver
from gatepost.services.dns.exchange import NameserverExchange
from gatepost.services.dns.resolver import Resolver
from gatepost.session import Session, Transaction
from gatepost.testing import run_hook

if TYPE_CHECKING:
    from gatepost.services.dns.answer import Answer
    from gatepost.testing.dns_table import Dns

SUITES = ("rfc7208-tests.yml", "rfc4408-tests.yml", "test.yml")

TYPES = ("A", "AAAA", "MX", "TXT", "PTR")

Zone = dict[str, dict[str, Any]]


def suite(name: str) -> list[dict[str, Any]]:
    found = sorted((Path(__file__).parents[1] / ".venv/suites").glob(f"pyspf-*/test/{name}"))
    if not found:
        pytest.skip("the suite is not there: make setup fetches it", allow_module_level=True)
    with found[-1].open("rb") as file:
        return [scenario for scenario in yaml.safe_load_all(file) if scenario]


def table(zonedata: dict[str, list[Any]]) -> Zone:
    zone: Zone = {}
    for owner, entries in zonedata.items():
        if any(len(label) > 63 for label in owner.split(".")):
            continue
        records: dict[str, Any] = {}
        given = [item for entry in entries if isinstance(entry, dict) for item in entry.items()]
        # As the suite says: what is written as SPF stands for TXT, unless TXT is written too.
        text = "TXT" if any(rdtype == "TXT" for rdtype, _ in given) else "SPF"
        for rdtype, value in given:
            if rdtype in {"TXT", "SPF"}:
                if rdtype == text and value != "NONE":
                    records.setdefault("TXT", []).append(value if isinstance(value, str) else "".join(value))
            else:
                records.setdefault(rdtype, []).append(written(rdtype, value))
        if "TIMEOUT" in entries:
            records = {rdtype: "timeout" for rdtype in TYPES if rdtype not in records} | records
        zone[owner] = records
    return zone


def written(rdtype: str, value: Any) -> str:
    match rdtype:
        case "MX":
            return f"{value[0]} {absolute(value[1])}"
        case "CNAME" | "PTR":
            return absolute(value)
    return str(value)


def absolute(name: str) -> str:
    return dns.name.Name([*(label.encode() for label in name.split(".") if label), b""]).to_text()


def cases(name: str) -> list[Any]:
    return [
        pytest.param(scenario, case, id=f"{scenario.get('description', name)}-{key}".replace(" ", "-"))
        for scenario in suite(name)
        for key, case in scenario["tests"].items()
        # pyspf has modes in which it is laxer or stricter than the RFC; gatepost uses none.
        if name != "test.yml" or "strict" not in case
    ]


class Forgetful(Relay):
    """Stands before a name server and keeps silent about what times out in the zone."""

    def __init__(self, upstream: str, zone: Zone) -> None:
        super().__init__(upstream)
        self.silent = {
            (dns.name.from_text(absolute(name)), rdtype)
            for name, records in zone.items()
            for rdtype, value in records.items()
            if value == "timeout"
        }
        self.answer = self._answer

    def _answer(self, query: bytes) -> bytes | None:
        (question,) = dns.message.from_wire(query).question
        if (question.name, dns.rdatatype.to_text(question.rdtype)) in self.silent:
            return None
        return self._ask(query)


class Impatient(NameserverExchange):
    """Gives up soon on what is never answered; what is answered may take as long as a busy machine takes."""

    def __init__(self, relay: Forgetful) -> None:
        super().__init__([Nameserver.parse(relay.address)])
        self._silent = relay.silent

    async def ask(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType) -> Answer:
        async with asyncio.timeout(0.1 if (name, dns.rdatatype.to_text(rdtype)) in self._silent else None):
            return await super().ask(name, rdtype)


def master_file(zone: Zone) -> str:
    """Return the zone as a file; the texts in two strings each, because how they are cut must not matter."""
    lines = []
    for name, records in zone.items():
        for rdtype, values in records.items():
            for value in [] if values == "timeout" else values:
                rdata = value
                if rdtype == "TXT":
                    text = value.encode()
                    strings = (text[: len(text) // 2], text[len(text) // 2 :])
                    rdata = " ".join('"' + "".join(f"\\{byte:03d}" for byte in string) + '"' for string in strings)
                lines.append(f"{absolute(name)} IN {rdtype} {rdata}")
    return "\n".join(lines)


async def findings(case: dict[str, Any], dns: Dns) -> tuple[str, str]:
    """Return the result and the explanation, as the plugin leaves them for others."""
    local, _, domain = case["mailfrom"].rpartition("@")
    session = Session("test", case["host"], helo=case["helo"])
    transaction = Transaction("test.1", session, Address(local, domain))
    options = {"skip_networks": [], "helo": False}
    await run_hook("spf", "mail", options=options, transaction=transaction, dns=dns)
    kept = transaction.notes["spf"]
    (result,) = kept["authentication_results"]
    return result["result"], kept["mailfrom"]["explanation"]


def check(case: dict[str, Any], result: str, explanation: str) -> None:
    wanted = case["result"]
    assert result in ([wanted] if isinstance(wanted, str) else wanted)
    if "explanation" in case:
        # The suite's runner sets this as what is said where a domain says nothing.
        assert (explanation or "DEFAULT") == case["explanation"]


def test_the_suite_is_complete() -> None:
    assert [len(cases(name)) for name in SUITES] == [203, 191, 14]


@pytest.mark.parametrize(("scenario", "case"), [case for name in SUITES for case in cases(name)])
async def test_zones_in_a_table(scenario: dict[str, Any], case: dict[str, Any]) -> None:
    check(case, *await findings(case, table(scenario["zonedata"])))


@pytest.mark.parametrize("scenario", [pytest.param(one, id=one["description"]) for one in suite(SUITES[0])])
async def test_zones_in_a_real_name_server(scenario: dict[str, Any]) -> None:
    zone = table(scenario["zonedata"])
    with NameServer({".": master_file(zone)}) as server:
        async with Forgetful(server.address, zone) as relay:
            resolver = Resolver(Impatient(relay), timeout_s=60)
            for case in scenario["tests"].values():
                check(case, *await findings(case, resolver))
            await resolver.close()
