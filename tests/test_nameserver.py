"""Name servers: which spellings there are, what the configuration says to others, and what resolv.conf comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gatepost.configuration.config import DnsSection, parse_config
from gatepost.errors import ConfigError
from gatepost.nameserver import Nameserver, system_nameservers

if TYPE_CHECKING:
    from pathlib import Path

LOCAL = (Nameserver("127.0.0.1", 53),)


@pytest.mark.parametrize(
    ("text", "expected", "shown"),
    [
        ("127.0.0.1", Nameserver("127.0.0.1", 53), "127.0.0.1:53"),
        ("127.0.0.1:5353", Nameserver("127.0.0.1", 5353), "127.0.0.1:5353"),
        ("::1", Nameserver("::1", 53), "[::1]:53"),
        ("[::1]", Nameserver("::1", 53), "[::1]:53"),
        ("[2001:db8::1]:65535", Nameserver("2001:db8::1", 65535), "[2001:db8::1]:65535"),
        ("fe80::1%eth0", Nameserver("fe80::1%eth0", 53), "[fe80::1%eth0]:53"),
    ],
)
def test_an_address_with_or_without_port_is_a_name_server(text: str, expected: Nameserver, shown: str) -> None:
    assert Nameserver.parse(text) == expected
    assert str(expected) == shown
    assert Nameserver.parse(shown) == expected


NO_NAME_SERVERS = [
    "",
    "localhost",
    "ns.example.org:53",
    "127.0.0.1:",
    "127.0.0.1:0",
    "127.0.0.1:65536",
    "127.0.0.1:5353:1",
    "127.0.0.1#5353",
    "[127.0.0.1]:53",
    "[::1]53",
    "::1:65536:g",
    "1.2.3",
    " 127.0.0.1",
    "127.0.0.1\n",
]


@pytest.mark.parametrize("text", NO_NAME_SERVERS)
def test_anything_else_is_refused_with_the_right_spelling(text: str) -> None:
    with pytest.raises(ValueError, match=r'no name server: write its IP address.*"127\.0\.0\.1:5353"'):
        Nameserver.parse(text)


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        ('nameservers = ["127.0.0.1", "localhost:53"]', "dns.nameservers.1: 'localhost:53' is no name server"),
        ('nameservers = "127.0.0.1"', "dns.nameservers: this is a list: write ['127.0.0.1']"),
        ("nameservers = [53]", "dns.nameservers.0: Input should be a valid string (given: 53)"),
        ('nameserver = ["127.0.0.1"]', "there is no key 'nameserver' here: did you mean 'nameservers'?"),
        ('timeout = "0s"', "dns.timeout: Input should be greater than or equal to 0.1"),
        ('timeout = "5 minutes"', "dns.timeout: '5 minutes' is not a duration"),
        ("cache_size = -1", "dns.cache_size: Input should be greater than or equal to 0"),
        ("max_queries_per_hook = 0", "dns.max_queries_per_hook: Input should be greater than or equal to 1"),
    ],
)
def test_a_mistake_in_the_dns_section_has_its_line(section: str, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "gatepost.toml"
    with pytest.raises(ConfigError) as caught:
        parse_config(f"[dns]\n{section}\n", file)
    assert str(caught.value).startswith(f"{file}:2: {problem}")


def test_the_dns_section_as_administrators_write_it(tmp_path: Path) -> None:
    text = '[dns]\nnameservers = ["127.0.0.1:5353", "::1"]\ntimeout = "3s"\n'
    assert parse_config(text, tmp_path / "gatepost.toml").dns == DnsSection(
        nameservers=("127.0.0.1:5353", "::1"), timeout=3.0
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nameserver 192.0.2.1\nnameserver 2001:db8::1\n", (Nameserver("192.0.2.1"), Nameserver("2001:db8::1"))),
        ("search example.org\noptions edns0\n\tnameserver\t192.0.2.1 # ours\n", (Nameserver("192.0.2.1"),)),
        ("nameserver 192.0.2.1\nnameserver 192.0.2.1\n", (Nameserver("192.0.2.1"),)),
        ("; nameserver 192.0.2.1\n#nameserver 192.0.2.2\nnameserver here\nnameserver\n", LOCAL),
        ("", LOCAL),
        ("nameserver 192.0.2.1\n\x00\xff garbage", (Nameserver("192.0.2.1"),)),
    ],
)
def test_resolv_conf_gives_its_name_servers_or_this_machine(
    text: str, expected: tuple[Nameserver, ...], tmp_path: Path
) -> None:
    file = tmp_path / "resolv.conf"
    file.write_bytes(text.encode("latin-1"))
    assert system_nameservers(file) == expected


def test_without_resolv_conf_it_is_this_machine(tmp_path: Path) -> None:
    assert system_nameservers(tmp_path / "missing") == LOCAL
    assert system_nameservers(tmp_path) == LOCAL
