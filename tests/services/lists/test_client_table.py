"""The table of clients: the most specific entry counts, and what can never match is an error."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from random import Random

import pytest

from gatepost import ClientTable, ConfigError, split_client_line


def table(*clients: str) -> ClientTable[str]:
    made: ClientTable[str] = ClientTable()
    for client in clients:
        assert made.add(client, client) is None
    return made


MIXED = table(
    *("10.1.2.3", "10.1.0.0/16", "10.0.0.0/8", "172.16.0.0/255.240.0.0", "2001:db8::/32", "2001:db8::1", "fe80::/10"),
    *("Example.net", "mail.example.net", "_spf.example.org", "localhost"),
)


@pytest.mark.parametrize(
    ("address", "name", "found"),
    [
        ("10.1.2.3", None, "10.1.2.3"),
        ("10.1.2.4", None, "10.1.0.0/16"),
        ("10.2.0.0", "mail.example.net", "10.0.0.0/8"),
        ("11.0.0.0", None, None),
        ("172.31.255.255", None, "172.16.0.0/255.240.0.0"),
        ("172.32.0.0", None, None),
        ("2001:db8::1", None, "2001:db8::1"),
        ("2001:db8::2", None, "2001:db8::/32"),
        ("fe80::1%eth0", None, "fe80::/10"),
        ("::10.1.2.3", None, None),
        ("192.0.2.1", "EXAMPLE.net", "Example.net"),
        ("192.0.2.1", "a.b.example.net.", "Example.net"),
        ("192.0.2.1", "a.mail.example.net", "mail.example.net"),
        ("192.0.2.1", "notexample.net", None),
        ("192.0.2.1", "net", None),
        ("192.0.2.1", "", None),
        ("192.0.2.1", ".", None),
        ("192.0.2.1", "10.1.2.3", None),
        (None, "localhost", "localhost"),
        (None, "_spf.example.org", "_spf.example.org"),
        (None, None, None),
    ],
)
def test_the_most_specific_entry_counts(address: str | None, name: str | None, found: str | None) -> None:
    assert MIXED.find(ip_address(address) if address else None, name) == found


@pytest.mark.parametrize("everybody", ["0.0.0.0/0", "::/0"])
def test_a_network_of_everybody_is_of_one_ip_version(everybody: str) -> None:
    found = [table(everybody).find(ip_address(address), None) for address in ("192.0.2.1", "2001:db8::1")]

    assert sorted(map(str, found)) == sorted([everybody, "None"])
    assert (found[0] is None) == (everybody == "::/0")


def test_it_finds_what_a_search_of_all_networks_finds() -> None:
    random = Random(7)
    networks = {ip_network((random.getrandbits(12) << 20, random.randint(6, 20)), strict=False) for _ in range(300)}
    made = table(*map(str, networks))

    for _ in range(300):
        address = ip_address(random.getrandbits(12) << 20)
        matching = [network for network in networks if address in network]
        smallest = max(matching, key=lambda network: network.prefixlen, default=None)
        assert made.find(address, None) == (str(smallest) if smallest else None)


@pytest.mark.parametrize(
    ("client", "again"),
    [
        ("10.1.2.3", "10.1.2.3/32"),
        ("10.0.0.0/8", "10.0.0.0/255.0.0.0"),
        ("::1", "0::1/128"),
        ("a.example", "A.EXAMPLE"),
    ],
)
def test_the_first_value_of_a_client_stays_and_is_told(client: str, again: str) -> None:
    made = table(client)

    assert made.add(again, "second") == client
    assert made.add(client, "third") == client


@pytest.mark.parametrize(
    ("client", "words"),
    [
        ("", "'' is no address, network or host name"),
        ("10.1", "is no address"),
        ("10.1.2.300", "is no address"),
        ("10.0.0.0/33", "is no address"),
        ("10.1.2.3/16", "write 10.1.0.0/16"),
        ("2001:db8::1/32", "write 2001:db8::/32"),
        ("2001:db8:::1", "is no address"),
        ("::ffff:10.0.0.0/104", "never matches: write the IPv4 address"),
        ("[192.0.2.1]", "is no address"),
        ("*.example.net", "write example.net, which stands for every name below it"),
        (".example.net", "write example.net, which"),
        ("example.net.", "write example.net, which"),
        ("*.", "'*.' is no address, network or host name"),
        ("a..example", "is no address"),
        ("a b.example", "is no address"),
        ("ALL", "ALL never matches: write 0.0.0.0/0 and ::/0"),
        ("unknown", "unknown never matches: a client whose name is not confirmed has none"),
        ("alice@example.net", "is no address"),
        ("b\u00fccher.example", "write it as DNS has it, xn--bcher-kva.example"),
        ("stra\u00dfe.example", "write it as DNS has it, xn--strae-oqa.example"),
        ("\udcff.example", "is no address"),
        ("\u0661\u0660.1.2.3", "is no address"),
    ],
)
def test_what_cannot_match_is_an_error_that_says_what_to_write(client: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        table(client)

    assert words in str(caught.value)
    assert caught.value.line is None


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("10.1.2.3: value: here", ("10.1.2.3", "value: here")),
        ("10.1.2.3:", ("10.1.2.3", "")),
        ("10.1.2.3\t:\tvalue", ("10.1.2.3", "value")),
        ("2001:db8::/32: value", ("2001:db8::/32", "value")),
        ("2001:db8::: value", ("2001:db8::", "value")),
        ("example.net: a b", ("example.net", "a b")),
    ],
)
def test_the_colon_before_white_space_ends_the_client(line: str, parts: tuple[str, str]) -> None:
    assert split_client_line(line, "VALUE") == parts


@pytest.mark.parametrize("line", ["10.1.2.3 value", "10.1.2.3:value", ": value", "two clients: value", ""])
def test_a_line_without_such_a_colon_is_an_error(line: str) -> None:
    with pytest.raises(ConfigError, match="write CLIENT: VALUE, with white space after the colon"):
        split_client_line(line, "VALUE")
