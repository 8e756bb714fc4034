"""Envelope addresses: every spelling of one is equal, and what is written can be read back."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepost.address import Address

LOCAL = st.text(st.characters(exclude_categories=()), max_size=20)
DOMAIN = st.from_regex(r"[A-Za-z0-9ÄÖÜß]{1,8}(\.[A-Za-z0-9-]{1,8}){0,2}", fullmatch=True) | st.sampled_from(
    ["[192.0.2.1]", "[IPv6:2001:DB8::1]"]
)


@pytest.mark.parametrize(
    ("text", "local", "domain"),
    [
        ("user@example.org", "user", "example.org"),
        ("<user@example.org>", "user", "example.org"),
        ("  user@example.org  ", "user", "example.org"),
        ("< user@example.org >", "user", "example.org"),
        ("User@EXAMPLE.org", "User", "example.org"),
        ("user@ÄRGER.example", "user", "ärger.example"),
        ("user+box@example.org", "user+box", "example.org"),
        ('"user"@example.org', "user", "example.org"),
        (r'"a \"b\" \\c"@example.org', r'a "b" \c', "example.org"),
        ('"a@b"@example.org', "a@b", "example.org"),
        ('""@example.org', "", "example.org"),
        ("a@b@example.org", "a@b", "example.org"),
        ("@relay.example:user@example.org", "user", "example.org"),
        ("<@one.example,@two.example:user@example.org>", "user", "example.org"),
        ("user@[192.0.2.1]", "user", "[192.0.2.1]"),
        ("user@[IPv6:2001:DB8::1]", "user", "[ipv6:2001:db8::1]"),
        ("postmaster", "postmaster", ""),
        ("<postmaster>", "postmaster", ""),
        ('"post master"', "post master", ""),
        ("", "", ""),
        ("<>", "", ""),
        (" <> ", "", ""),
    ],
)
def test_each_spelling_gives_local_part_and_domain(text: str, local: str, domain: str) -> None:
    address = Address.parse(text)

    assert (address.local, address.domain) == (local, domain)


@pytest.mark.parametrize(
    "text",
    [
        "<user@example.org",
        "@example.org",
        "user@",
        "user@ ",
        "@",
        '"user@example.org',
        '"user"example.org',
        '"user"@',
        '"user"@ ',
        '"user\\"@example.org',
        '""',
        "@relay.example:",
        "<@relay.example:>",
    ],
)
def test_what_is_no_address_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|missing"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (Address("user", "example.org"), "user@example.org"),
        (Address("a b", "example.org"), '"a b"@example.org'),
        (Address('a"b', "example.org"), r'"a\"b"@example.org'),
        (Address("a\\b", "example.org"), r'"a\\b"@example.org'),
        (Address("a@b", "example.org"), '"a@b"@example.org'),
        (Address(".a", "example.org"), '".a"@example.org'),
        (Address("a.", "example.org"), '"a."@example.org'),
        (Address("a..b", "example.org"), '"a..b"@example.org'),
        (Address("", "example.org"), '""@example.org'),
        (Address("postmaster"), "postmaster"),
        (Address(""), ""),
    ],
)
def test_a_local_part_is_quoted_where_it_must_be(address: Address, text: str) -> None:
    assert str(address) == text
    assert bytes(address) == text.encode()


@given(local=LOCAL, domain=DOMAIN)
@example(local="\udcff", domain="example.org")
@example(local="\n", domain="a")
def test_what_is_written_reads_back_as_the_same_address(local: str, domain: str) -> None:
    address = Address(local, domain)

    assert Address.parse(str(address)) == address
    assert Address.parse(f"<{address}>") == address


@given(local=LOCAL.filter(bool))
def test_a_bare_local_part_reads_back_as_the_same_address(local: str) -> None:
    assert Address.parse(str(Address(local))) == Address(local)


@given(st.text())
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError as error:
        assert str(error)  # noqa: PT017 - either outcome is right
    else:
        assert Address.parse(str(address)) == address


def test_addresses_are_equal_when_only_the_case_of_the_domain_differs() -> None:
    assert Address("user", "Example.ORG") == Address.parse("user@example.org")
    assert len({Address("user", "Example.ORG"), Address("user", "example.org")}) == 1
    assert Address("User", "example.org") != Address("user", "example.org")


def test_bytes_that_are_not_utf8_survive() -> None:
    wire = b"us\xe9r@example.org"

    assert bytes(Address.parse(wire.decode("utf-8", "surrogateescape"))) == wire


def test_only_the_empty_address_is_the_null_sender() -> None:
    assert Address.parse("<>").is_null
    assert not Address("postmaster").is_null
    assert not Address("", "example.org").is_null


@pytest.mark.parametrize(
    ("local", "delimiter", "parts"),
    [
        ("user+box", "+", ("user", "+box")),
        ("user+a+b", "+", ("user", "+a+b")),
        ("user", "+", ("user", "")),
        ("user+", "+", ("user", "+")),
        ("+box", "+", ("+box", "")),
        ("+a+b", "+", ("+a", "+b")),
        ("user-box", "-", ("user", "-box")),
        ("user+box", "", ("user+box", "")),
        ("", "+", ("", "")),
    ],
)
def test_the_detail_is_what_follows_the_first_delimiter(local: str, delimiter: str, parts: tuple[str, str]) -> None:
    assert Address(local, "example.org").split_detail(delimiter) == parts
