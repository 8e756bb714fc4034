"""Internationalised domains: one spelling to compare, another to read, and nothing that fails."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.idn import to_ascii, to_unicode


@pytest.mark.parametrize(
    ("written", "ascii_form"),
    [
        ("example.org", "example.org"),
        ("Example.ORG.", "example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.Example.", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),
        ("\u2102afé.example", "xn--caf-dma.example"),
        ("bücher。example", "xn--bcher-kva.example"),
        ("\uff45xample\uff0eorg", "example.org"),
        ("उदाहरण.परीक्षा", "xn--p1b6ci4b4b3a.xn--11b5bs3a9aj6g"),
        ("xn--BCHER-kva.example", "xn--bcher-kva.example"),
        ("", ""),
        ("[192.0.2.1]", "[192.0.2.1]"),
        ("a\udcff.example", "a\udcff.example"),
        ("ä" * 64 + ".example", "ä" * 64 + ".example"),
    ],
)
def test_every_spelling_of_a_domain_has_one_ascii_form(written: str, ascii_form: str) -> None:
    assert to_ascii(written) == ascii_form


@pytest.mark.parametrize(
    ("written", "unicode_form"),
    [
        ("xn--bcher-kva.example", "bücher.example"),
        ("www.xn--strae-oqa.example", "www.straße.example"),
        ("example.org", "example.org"),
        ("xn--99999999999.example", "xn--99999999999.example"),
        ("xn--\udcff.example", "xn--\udcff.example"),
        ("xn--" + "a" * 60, "xn--" + "a" * 60),
    ],
)
def test_a_labels_are_decoded_where_they_can_be(written: str, unicode_form: str) -> None:
    assert to_unicode(written) == unicode_form


@given(st.text(max_size=100) | st.text("xn-.aü9\udcff\u3002", max_size=80))
def test_any_text_has_both_forms(domain: str) -> None:
    ascii_form = to_ascii(domain)
    assert to_ascii(ascii_form) == ascii_form
    to_unicode(ascii_form)
    to_unicode(domain)


def test_a_long_label_costs_no_more_than_its_length() -> None:
    def cost(length: int) -> float:
        label = "".join(chr(0x4E00 + number) for number in range(length))
        times = []
        for _ in range(5):
            started = time.perf_counter_ns()
            to_ascii(label)
            times.append(time.perf_counter_ns() - started)
        return min(times)

    # By the square it would be 256 times as much.
    assert cost(16_000) < 100 * cost(1000)
