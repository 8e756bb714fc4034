"""Endpoints: Postfix's spellings, and libmilter's only on the way out."""

from __future__ import annotations

import pytest

from gatepost.endpoint import Endpoint


@pytest.mark.parametrize(
    ("text", "endpoint", "shown", "libmilter"),
    [
        ("127.0.0.1:10025", Endpoint("127.0.0.1", 10025), "127.0.0.1:10025", "inet:10025@127.0.0.1"),
        ("inet:127.0.0.1:8890", Endpoint("127.0.0.1", 8890), "127.0.0.1:8890", "inet:8890@127.0.0.1"),
        ("localhost:1", Endpoint("localhost", 1), "localhost:1", "inet:1@localhost"),
        ("[::1]:65535", Endpoint("::1", 65535), "[::1]:65535", "inet6:65535@::1"),
        ("inet:[::1]:25", Endpoint("::1", 25), "[::1]:25", "inet6:25@::1"),
        ("unix:/run/gatepost.sock", Endpoint(path="/run/gatepost.sock"), "unix:/run/gatepost.sock", None),
    ],
)
def test_postfixs_spellings_are_read_and_written(
    text: str, endpoint: Endpoint, shown: str, libmilter: str | None
) -> None:
    assert Endpoint.parse(text) == endpoint
    assert str(endpoint) == shown
    assert Endpoint.parse(shown) == endpoint
    assert endpoint.libmilter == (libmilter or shown)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10025",
        "127.0.0.1",
        "127.0.0.1:",
        ":10025",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:1000000",
        "127.0.0.1:smtp",
        "127.0.0.1:25 ",
        "127.0.0.1:25\n",
        "::1:25",
        "[::1]",
        "[localhost]:25",
        "inet:10025",
        "inet:",
        "local:/run/x",
        "/run/gatepost.sock",
    ],
)
def test_what_is_no_address_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(ValueError, match=r"write HOST:PORT, \[IPV6\]:PORT or unix:/PATH"):
        Endpoint.parse(text)


@pytest.mark.parametrize("text", ["inet:8890@127.0.0.1", "8890@127.0.0.1", "inet6:8890@::1"])
def test_libmilters_spelling_is_refused_because_postfix_dies_on_it(text: str) -> None:
    with pytest.raises(ValueError, match="write HOST:PORT"):
        Endpoint.parse(text)


@pytest.mark.parametrize("text", ["unix:", "unix:gatepost.sock", "unix:./x"])
def test_a_unix_socket_has_its_path_in_full(text: str) -> None:
    with pytest.raises(ValueError, match="in full"):
        Endpoint.parse(text)


def test_a_path_too_long_for_the_kernel_is_refused() -> None:
    assert Endpoint.parse("unix:/" + "x" * 106).path is not None
    with pytest.raises(ValueError, match="107 bytes"):
        Endpoint.parse("unix:/" + "x" * 107)
    with pytest.raises(ValueError, match="107 bytes"):
        Endpoint.parse("unix:/" + "ä" * 54)
