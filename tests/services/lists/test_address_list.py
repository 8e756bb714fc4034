"""Lists of addresses: what an entry stands for, what is no entry, and what a long list costs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost import Address, AddressList, ConfigError, ConfigErrors
from gatepost.services.lists.address_list import PATTERN_LIMIT

FILE = Path("/etc/gatepost/list")


def read(*lines: str) -> AddressList:
    return AddressList.parse("\n".join(lines), FILE)


def line_of(entries: AddressList, address: str) -> int | None:
    """Return the number of the line that the address falls under."""
    listing = entries.find(Address.parse(address))
    return None if listing is None else listing.line


@pytest.mark.parametrize(
    ("entry", "listed", "not_listed"),
    [
        (
            "a@x.example",
            ["a@x.example", "A@X.Example", '"a"@x.example', "@r.example:a@x.example", "<a@x.example.>"],
            [],
        ),
        ("a@x.example", [], ["b@x.example", "a@y.example", "a+b@x.example", "a@s.x.example", "a", "ba@x.example"]),
        ("A@X.EXAMPLE.", ["a@x.example"], []),
        ("<a@x.example>", ["a@x.example"], []),
        ('"a b"@x.example', ['"a b"@x.example', '"A B"@X.example'], ["ab@x.example", "b@x.example"]),
        ('"a\\"#b c"@x.example no', ['"a\\"#b c"@x.example'], []),
        ('"a"@x.example', ["a@x.example"], []),
        ('"*"@x.example', ['"*"@x.example'], ["a@x.example"]),
        ('""@x.example', ['""@x.example'], ["a@x.example"]),
        ("a/b=c@x.example", ["a/b=c@x.example"], []),
        ("@x.example", ["a@x.example", '"a@y.example"@x.example'], ["a@s.x.example", "a@y.example", "a@xx.example"]),
        ("@.x.example", ["a@s.x.example", "a@t.s.X.example."], ["a@x.example", "a@sx.example", "a@example"]),
        ("@.example", ["a@x.example", "a@y.x.example"], ["a@example", "a@x.org"]),
        ("a@[192.0.2.1]", ["a@[192.0.2.1]"], ["a@[192.0.2.2]"]),
        ("@[IPv6:2001:db8::1]", ["a@[ipv6:2001:DB8::1]"], []),
        ("@bücher.example", ["a@BÜCHER.example", "a@xn--bcher-kva.example"], ["a@bucher.example"]),
        ("@xn--bcher-kva.example", ["a@bücher.example", "a@xn--BCHER-kva.example"], []),
        ("@.bücher.example", ["a@s.xn--bcher-kva.example"], ["a@xn--bcher-kva.example"]),
        ("ä@x.example", ["Ä@x.example", "a\u0308@x.example"], ["a@x.example"]),
        ("/^news-\\d+@/", ["news-1@x.example", "NEWS-22@y.example"], ["news-@x.example", "a@news-1@x.example"]),
        ("/@(x|y)\\.example$/", ["a@X.example", "a@y.example."], ["a@z.example", "a@x.example.org", "a@xxexample"]),
        ("/^a\\/b@/ reason", ["a/b@x.example"], []),
        ("/a b/", ['"a b"@x.example'], ["a@b.example"]),
        ("/^.*@x\\.example$/", ["a\udcff@x.example", "a\n@x.example"], []),
        ("/@bücher\\.example$/", ["a@BÜCHER.example", "a@xn--bcher-kva.example"], []),
        ("/@xn--bcher-kva\\.example$/", ["a@bücher.example"], []),
        ("/./", ["a@x.example", "postmaster"], []),
    ],
)
def test_an_entry_stands_for(entry: str, listed: list[str], not_listed: list[str]) -> None:
    entries = read(entry)
    assert {address: line_of(entries, address) for address in listed} == dict.fromkeys(listed, 1)
    assert {address: line_of(entries, address) for address in not_listed} == dict.fromkeys(not_listed)


def test_the_null_sender_is_in_no_list() -> None:
    entries = read("/./", "/^$/", "@x.example")

    assert entries.find(Address.parse("<>")) is None
    assert entries.find(Address.parse("a@b.example")) is not None


def test_the_most_specific_entry_counts() -> None:
    entries = read("/@/", "/b@/", "@.example", "@.x.example", "@s.x.example", "a@s.x.example")

    addresses = ["a@s.x.example", "b@s.x.example", "b@t.x.example", "b@t.y.example", "b@example.org", "c@example.org"]
    assert [line_of(entries, address) for address in addresses] == [6, 5, 4, 3, 1, 1]


def test_the_reason_is_what_follows_white_space() -> None:
    entries = read(
        "a@x.example", "b@x.example\t Go  away,\tplease. # says bob", "/^c/   Why? Because.", "d@x.example#no"
    )

    found = [entries.find(Address.parse(f"{name}@x.example")) for name in "abc"]
    assert [(one.reason, one.line) for one in found if one] == [("", 1), ("Go away, please.", 2), ("Why? Because.", 3)]
    assert line_of(entries, "d@x.example#no") == 4


def test_comments_blank_lines_and_duplicates_do_no_harm() -> None:
    entries = read("", "# a list", "a@x.example one", "A@x.example two", "  @y.example ", "@y.example", "/z/", "/z/")

    assert len(entries) == 4
    assert line_of(entries, "a@x.example") == 3
    assert read().find(Address.parse("a@x.example")) is None


WRONG = {
    "example.org": "this is no address; write user@example.org, @example.org",
    "user@": "this is no address",
    "@": "this is no address",
    "@.": "this is no address",
    "@..example": "this is no address",
    "a@x..example": "this is no address",
    "a@.x.example": "this is no address",
    "a@x.example,b@x.example": "this is no address",
    "a@x.example: no": "this is no address",
    "<a@x.example": "this is no address",
    "*@example.org": r"\* means nothing here; write user@example.org, @example.org",
    "@*.example.org": r"\* means nothing here",
    "*": r"\* means nothing here",
    "<>": "the null sender <> cannot be listed: .*bounces",
    "<> no bounces please": "the null sender <> cannot be listed",
    '"a b@x.example': "a quote is left open",
    "/open": "a pattern stands between two slashes",
    "/a/b/": "a pattern stands between two slashes",
    "/a/reason": "a pattern stands between two slashes",
    "/(/": r"the pattern /\(/ is not understood: missing \)",
    "/(?=a)/": r"is not understood: invalid perl operator: \(\?=",
    "/a{1001}/": r"is not understood: invalid repetition size",
    "/*@x.example/": r"is not understood: no argument for repetition operator: \*",
    "/a\\Z/": r"is not understood: invalid escape sequence: \\Z",
    "//": "the pattern is found in every address; if that is meant, write /./",
    "/spam|/": "the pattern is found in every address",
    "/x*/": "the pattern is found in every address",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_entry_is_told_by_file_and_line(line: str) -> None:
    with pytest.raises(ConfigError, match=f"^{FILE}:3: .*{WRONG[line]}"):
        read("good@x.example", "/good/", line)


def test_all_wrong_entries_are_told_at_once() -> None:
    with pytest.raises(ConfigErrors) as caught:
        read("example.org", "a@x.example", "/(/", "<>")

    assert [error.line for error in caught.value.errors] == [1, 3, 4]


def test_too_many_patterns_are_refused() -> None:
    with pytest.raises(ConfigError, match=f"^{FILE}: {PATTERN_LIMIT + 1} patterns are too many"):
        read(*(f"/p{number}/" for number in range(PATTERN_LIMIT + 1)))


HUGE = """
from pathlib import Path
from gatepost import AddressList, ConfigError
try:
    AddressList.parse("\\n".join(f"/{n}.{{900}}[a-z]{{900}}{n}/" for n in range(3000)), Path("list"))
except ConfigError as error:
    print(error)
"""


def test_patterns_that_need_too_much_memory_are_refused_without_noise() -> None:
    result = subprocess.run([sys.executable, "-c", HUGE], capture_output=True, text=True, check=True)

    assert result.stdout.startswith("list: the patterns need more than 64 MiB: write fewer")
    assert result.stderr == ""


def test_a_thousand_patterns_are_tried_in_one_pass() -> None:
    entries = read(*(rf"/^news{number}-.*@mail\d+\.example{number}\.com$/" for number in range(1000)))

    assert line_of(entries, "news77-x@mail3.example77.com") == 78
    assert line_of(entries, "news77-x@mail3.example78.com") is None


def test_a_look_up_costs_the_same_in_a_long_list() -> None:
    def cost(count: int) -> float:
        entries = read(*(f"user{number}@domain{number % 5000}.example" for number in range(count)), "@.bad.example")
        addresses = [Address(f"user{number}", f"domain{number}.example") for number in range(0, 5000, 50)]
        times = []
        for _ in range(5):
            started = time.perf_counter_ns()
            for address in addresses:
                entries.find(address)
            times.append(time.perf_counter_ns() - started)
        return min(times)

    # A search from the top would take a hundred times as long.
    assert cost(100_000) < 10 * cost(1000)


@settings(max_examples=300)
@given(
    st.lists(st.text(max_size=40) | st.text('ab@./\\"*()[]<> #|x-', max_size=30), max_size=6),
    st.text(max_size=30),
    st.text("ab.x-\udcff9ü", max_size=30),
)
def test_no_file_and_no_address_make_it_fail(lines: list[str], local: str, domain: str) -> None:
    try:
        entries = AddressList.parse("\n".join(lines), FILE)
    except ConfigError:
        entries = read("/z/", "@.example")
    entries.find(Address(local, domain))
