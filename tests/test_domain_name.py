"""Domains in options: what is one, in one spelling, and what would never fit."""

from __future__ import annotations

import pytest

from gatepost.domain_name import parse_domain_name


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("example.org", "example.org"),
        (" Example.ORG. ", "example.org"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("_spf.a-b.example", "_spf.a-b.example"),
        ("localhost", "localhost"),
    ],
)
def test_a_domain_has_one_spelling(written: str, name: str) -> None:
    assert parse_domain_name(written) == name


@pytest.mark.parametrize(
    "written",
    ["", ".", "*", "*.example.org", ".example.org", "@example.org", "a@example.org", "a b.example", "a..example",
     "-a.example", "192.0.2.0/24", "a" * 64 + ".example", "a." * 127 + "a", 1, None],
)  # fmt: skip
def test_what_no_domain_is_called_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="is no name of a domain"):
        parse_domain_name(written)
