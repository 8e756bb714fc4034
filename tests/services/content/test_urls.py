"""The hosts that links lead to: as browsers read them, against parsers made by others, and in linear time."""

from __future__ import annotations

from ipaddress import IPv4Address
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from linkify_it import LinkifyIt
from selectolax.lexbor import LexborHTMLParser

from gatepost import Address, Message, find_links, registered_domains
from gatepost.services.content.html_scan import scan_html
from gatepost.services.content.part_tree import decode_base64, is_base64, text_of
from gatepost.services.content.url_host import hosts_of, parse_authority, parse_ipv4
from gatepost.services.content.urls import TEXT_LIMIT, pieces

SOMEBODY = Address.parse("a@example.org")


def linked(text: str, kind: str = "plain") -> list[str]:
    content = f"Content-Type: text/{kind}; charset=utf-8\r\n\r\n".encode() + text.encode("utf-8", "surrogatepass")
    root = Message.parse(content, SOMEBODY, [SOMEBODY]).structure
    assert root is not None
    return [one.host.name for one in find_links(root).hosts]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1.", "192.0.2.1"),
        ("0xc0.0.2.1", "192.0.2.1"),
        ("0300.0.2.01", "192.0.2.1"),
        ("3221225985", "192.0.2.1"),
        ("0xC0000201", "192.0.2.1"),
        ("030000001001", "192.0.2.1"),
        ("192.513", "192.0.2.1"),
        ("192.0.513", "192.0.2.1"),
        ("0x", "0.0.0.0"),
        ("256.1.1.1", None),
        ("1.1.1.256", None),
        ("1.1.65536", None),
        ("4294967296", None),
        ("1.2.3.4.5", None),
        ("08.1.1.1", None),
        ("1..2", None),
        ("", None),
        ("0xg", None),
        ("9" * 60, None),
    ],
)
def test_addresses_are_read_as_browsers_read_them(text: str, address: str | None) -> None:
    assert parse_ipv4(text) == (IPv4Address(address) if address else None)


@pytest.mark.parametrize(
    ("authority", "name", "is_disguised"),
    [
        ("Example.ORG", "example.org", False),
        ("example.org:80", "example.org", False),
        ("example.org.", "example.org", False),
        ("bank.example@example.org", "example.org", True),
        ("a@b@example.org", "example.org", True),
        ("ex%61mple.org", "example.org", True),
        ("b\u00fccher.example", "xn--bcher-kva.example", False),
        ("a\u3002b", "a.b", False),
        ("example.org...more", "example.org", False),
        ("example.org(see", "example.org", False),
        ("\u0939\u093f.example", "xn--22bm.example", False),
        ("a_b.example.org", "a_b.example.org", False),
        ("[2001:db8::1]:80", "[2001:db8::1]", False),
        ("0x7f000001", "127.0.0.1", True),
    ],
)
def test_a_host_has_one_spelling(authority: str, name: str, is_disguised: bool) -> None:
    host = parse_authority(authority)
    assert host is not None
    assert (host.name, host.is_disguised) == (name, is_disguised)


@pytest.mark.parametrize(
    "authority", ["", "localhost", "a..b", "..a.b", "[::1", "[x]", "a b.c", "-", "%00", "a" * 64 + ".b", "@", ":"]
)
def test_what_is_no_host_is_none(authority: str) -> None:
    assert parse_authority(authority) is None


@pytest.mark.parametrize("mark", "\u00bb\u2014\u2019\u201d\u2026\u3001\u3002\u300d\uff01\uff09\uff0c\uff1a")
def test_punctuation_of_any_language_ends_a_host(mark: str) -> None:
    assert "a.com" in linked(f"see http://a.com{mark}then")
    assert "a.com" in linked(f"see http://a.com{mark}")


@pytest.mark.parametrize("between", [",", ";", "|", ", "])
def test_urls_of_a_list_are_all_found(between: str) -> None:
    assert linked(between.join(f"http://{letter}.com" for letter in "abc")) == ["a.com", "b.com", "c.com"]


@pytest.mark.parametrize("label", ["-x", "x-", "--", "a" * 70])
def test_below_a_label_that_no_rule_allows_the_name_is_found(label: str) -> None:
    assert linked(f"http://{label}.a.com/") == ["a.com"]


@pytest.mark.parametrize(
    "content",
    ["0; http://a.com", "0;url=http://a.com", "5;URL='//a.com/x'", " 0.5 , //a.com", "x;url=//a.com", ";//a.com"],
)
def test_a_refresh_is_read_as_browsers_do(content: str) -> None:
    found = linked(f'<meta http-equiv=refresh content="{content}">', "html")
    assert found == (["a.com"] if content[0] != ";" else [])


@pytest.mark.parametrize(
    "style",
    [r"url(htt\70://a.com)", r"u\72l(//a.com)", r"url('//\61 .com')", r"url(//a\.com)", r"@import '//\000061.com'",
     r"url(http:\\a.com)", r"url(\d800\0\ffffff\) url(//a.com)"],
)  # fmt: skip
def test_escapes_in_style_sheets_hide_nothing(style: str) -> None:
    assert linked(f'<p style="{style}">', "html") == ["a.com"]
    assert linked(f"<style>p {{ background: {style} }}</style>", "html") == ["a.com"]


@pytest.mark.parametrize("kind", ["calendar", "vcard"])
def test_folded_lines_of_calendars_and_cards_are_joined(kind: str) -> None:
    assert linked("URL:http://a.exa\r\n mple.com/\r\nX:http://b.c\r\n\tom/\r\n", kind) == ["a.example.com", "b.com"]


def test_urls_within_urls_are_found_and_bounded() -> None:
    assert [host.name for host in hosts_of("http://a.b/" + "http://c.d/" * 500)][:2] == ["a.b", "c.d"]
    assert len(list(hosts_of("http://a.b/" + "http://c.d/" * 500))) < 20
    assert list(hosts_of("javascript:alert(1)")) == []
    assert [host.name for host in hosts_of("javascript:location='http://a.b/'")] == ["a.b"]


@pytest.mark.parametrize(
    ("host", "domains"),
    [
        ("www.example.co.uk", ("example.co.uk",)),
        ("a.user.blogspot.com", ("user.blogspot.com", "blogspot.com")),
        ("blogspot.com", ()),
        ("co.uk", ()),
        ("com", ()),
        ("a.b.unknown-tld-zz", ("b.unknown-tld-zz",)),
        ("www.city.kawasaki.jp", ("city.kawasaki.jp",)),
    ],
)
def test_the_registered_domain(host: str, domains: tuple[str, ...]) -> None:
    assert registered_domains(host) == domains
    if host.endswith("zz"):
        assert registered_domains(host, known=True) == ()


TEXTS = st.lists(
    st.sampled_from(
        [
            *(
                "http://",
                "https://",
                "www.",
                "example",
                ".com",
                ".org",
                "/",
                "?",
                "a",
                "-",
                " ",
                "\n",
                ",",
                "(",
                ")",
                ".",
            ),
            *(
                '"',
                "<",
                ">",
                "b\u00fccher",
                ":8080",
                "mailto:",
                "user@",
                "192.0.2.1",
                "\u3002",
                "x" * 70,
                "#",
                "&",
                "=",
            ),
        ]
    ),
    max_size=12,
).map("".join)


@settings(max_examples=500, derandomize=True)
@given(TEXTS)
def test_every_link_that_linkify_finds_is_found(text: str) -> None:
    found = set(linked(text))
    for match in LinkifyIt().match(text) or ():
        if match.schema in {"http:", "https:", ""} and "@" not in text:
            authority = match.url.partition("//")[2].partition("/")[0].partition("?")[0].partition("#")[0]
            host = parse_authority(authority)
            if host is not None and (match.schema or registered_domains(host.name, known=True)):
                assert host.name in found


TAGS = st.lists(
    st.sampled_from(
        [
            *("<a ", "<img ", "<A\n", "<p>", "</p>", ">", "/>", "text", "<b", "x=y", "=", '"', "'", "<", "/", "&amp;"),
            *('href="http://a.com/"', "href='http://b.com/'", "href=http://c.com", "src=//d.com/x", " ", "\n"),
            *("<style>", "</style>"),
        ]
    ),
    max_size=14,
).map("".join)


@settings(max_examples=500, derandomize=True)
@given(TAGS)
def test_every_link_that_a_browsers_parser_finds_is_found(source: str) -> None:
    found = {url for kind, url in scan_html(source) if kind in {"link", "resource"}}
    for node in LexborHTMLParser(source).css("[href],[src]"):
        for name in ("href", "src"):
            if value := node.attributes.get(name):
                assert value in found


@given(st.text(max_size=300))
def test_nothing_raises(text: str) -> None:
    linked(text)
    linked(text, "html")


def test_a_long_text_is_cut_where_there_is_white_space_and_nothing_is_lost() -> None:
    assert "".join(pieces("word " * 10_000)) == "word " * 10_000
    cut = list(pieces("x" * 50_000))
    assert max(map(len, cut)) <= 8192
    assert all(first[-512:] == second[:512] for first, second in pairwise(cut))


UNITS = [
    *("<div>", "<", "&", "&#1", '<a href="http://x.com/">y.com ', " x1", '<a href="', "<a x=", "<http://a", "a.a."),
    *("a.co ", "x", "http://", "/", "//", "http://a@b@", "<style>", "url(", "http://a.com/%25%32%35", "<a ====", "= "),
    *(
        '<img srcset="http://a.com,">',
        "http://a.com/aHR0cHM6Ly9h",
        "\u200b",
        "<b x=\"'",
        "http:\\\\",
        "&#x" + "1" * 5000,
    ),
]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("kind", ["plain", "html"])
def test_a_megabyte_of_anything_is_read_in_linear_time(unit: str, kind: str) -> None:
    # A tree of HTML took 167 s for the first of them; anything quadratic takes more than the limit.
    linked("<a" + unit * (TEXT_LIMIT // len(unit)), kind)


def test_base64_is_decoded_as_far_as_it_goes() -> None:
    assert decode_base64(b"QUJD\r\nREVG") == b"ABCDEF"
    assert decode_base64(b"QUI=REVG") == b"ABDEF"
    assert decode_base64(b"Q-U(J)D\xff") == b"ABC"
    assert decode_base64(b"QUJDR") == b"ABC"
    assert decode_base64(b"====") == b""
    assert decode_base64(b"QUI=" * 5000).startswith(b"AB" * 900)
    assert is_base64(b"QUI=\r\n")
    assert not is_base64(b"QUI=QUI=")
    assert not is_base64(b"QU!I")


def test_no_codec_of_python_is_taken_for_a_charset() -> None:
    for charset in ("punycode", "idna", "rot13", "zlib", "unicode_escape", "../x", "x" * 100, ""):
        assert text_of(b"a-\xff", charset) == "a-\xff"
    assert text_of(b"\xff", "utf-8") == "\ufffd"
