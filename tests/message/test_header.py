"""Header fields: exact bytes in, readable text out, and nothing unchecked on the way back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.message.header import VALUE_LIMIT_BYTES, Header, Headers, scan_fields

PRINTABLE = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=200)


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b" plain", "plain"),
        (b"no space", "no space"),
        (b"", ""),
        (b" one\r\n two\r\n\tthree", "one two\tthree"),
        (b" =?utf-8?q?gr=C3=BC=C3=9F?= dich", "grüß dich"),
        (b" =?ISO-8859-1?B?Z3L832U=?=", "grüße"),
        (b" =?utf-8?q?a?=\r\n =?utf-8?q?b?=", "ab"),
        (b" =?utf-8?q?a?= b =?utf-8?q?c?=", "a b c"),
        # A character cut in two, as many mailers do.
        (b" =?utf-8?b?w7w=?= =?utf-8?q?=C3?= =?UTF-8?q?=BC?=", "üü"),
        (b" =?utf-8*de?q?R=C3=BCbe?=", "Rübe"),
        (b" =?utf-8?b?w7w?=", "ü"),
        (b" =?utf-8?b?A?=", "=?utf-8?b?A?="),
        (b" =?no-such-charset?q?a=FF?=", "a\ufffd"),
        (b" =?idna?q?a=FF?=", "a\ufffd"),
        (b" =?rot13?q?a?=", "a"),
        (b" =?utf-8?q?a=0D=0AEvil:_yes=00?=", "a  Evil: yes"),
        ("grüß".encode(), "grüß"),
        (b" gr\xfc\xdf", "gr\ufffd\ufffd"),
        (b" =?utf-8?q?unfinished", "=?utf-8?q?unfinished"),
    ],
)
def test_value_is_the_readable_text(raw: bytes, value: str) -> None:
    assert Header("Subject", raw).value == value


@given(st.binary(max_size=300))
def test_reading_a_value_never_raises_and_has_no_line_break(raw: bytes) -> None:
    assert not set(Header("Subject", raw).value) & set("\r\n\0")


@given(
    st.lists(st.sampled_from(["=?", "?=", "?q?", "?b?", "utf-8", "utf-16", "=FF", "A", " ", "\r\n ", "ü"]), max_size=30)
)
def test_broken_encoded_words_never_raise(pieces: list[str]) -> None:
    assert isinstance(Header("Subject", "".join(pieces).encode()).value, str)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("codec", ["punycode", "PunyCode", "idna"])
def test_a_codec_of_python_that_is_no_charset_is_not_used(codec: str) -> None:
    # Punycode takes time by the square of the length: a second for a field of 100 KB, and minutes for this one.
    field = Header("Subject", f"=?{codec}?q?a-{'b' * 2_000_000}?=".encode())
    assert field.value == f"a-{'b' * 2_000_000}"


def test_bytes_give_back_what_came() -> None:
    raw = b"a=b;\r\n\tc=d  "
    assert bytes(Header("DKIM-Signature", raw)) == b"DKIM-Signature:" + raw + b"\r\n"


@pytest.mark.parametrize("name", ["", "a b", "a:", "ü", "a\r\nb", "a\x7f"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="header field name"):
        Header.make(name, "x")


@pytest.mark.parametrize(
    "value",
    ["a\nb", "a\rb", "a\r\nb", "a\0b", "a\n", "a\r\n\r\n b", b"a\nEvil: yes", b"a\r", b"a\0", "a\n\n b"],
)
def test_a_value_that_would_end_the_field_is_refused(value: str | bytes) -> None:
    with pytest.raises(ValueError, match="the value holds"):
        Header.make("X-Test", value)


def test_bytes_that_are_not_utf8_and_lone_surrogates_are_refused() -> None:
    with pytest.raises(ValueError, match="not UTF-8"):
        Header.make("X-Test", b"\xff")
    with pytest.raises(ValueError, match="surrogate"):
        Header.make("X-Test", "\udcff")


def test_a_value_longer_than_the_limit_is_refused() -> None:
    assert len(Header.make("X", b"x" * VALUE_LIMIT_BYTES).raw) == VALUE_LIMIT_BYTES + 1
    with pytest.raises(ValueError, match="too long"):
        Header.make("X", b"x" * (VALUE_LIMIT_BYTES + 1))


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        ("yes", b" yes"),
        ("", b" "),
        (b"", b" "),
        (b"exact  ", b" exact  "),
        (b"\tx", b"\tx"),
        (b"a\n b", b" a\r\n b"),
        ("a\n\tb", b" a\r\n\tb"),
        ("grüß dich", b" =?utf-8?q?gr=C3=BC=C3=9F?= dich"),
        ("ein grüß  öder b", b" ein =?utf-8?q?gr=C3=BC=C3=9F__=C3=B6der?= b"),
        ("日本語", b" =?utf-8?b?5pel5pys6Kqe?="),
    ],
)
def test_made_raw_value(value: str | bytes, raw: bytes) -> None:
    assert Header.make("X", value).raw == raw


@pytest.mark.parametrize(
    ("value", "raw"),
    [
        ('"Jörg, Dr." <j@example.org>', b" =?utf-8?q?J=C3=B6rg=2C_Dr=2E?= <j@example.org>"),
        ("Jörg Ö <j@example.org>, a@b", b" =?utf-8?q?J=C3=B6rg_=C3=96?= <j@example.org>, a@b"),
        ('"plain" <a@b>', b' "plain" <a@b>'),
    ],
)
def test_display_names_are_encoded_without_touching_addresses(value: str, raw: bytes) -> None:
    assert Header.make("From", value).raw == raw


def test_an_address_that_is_not_ascii_is_refused_in_an_address_field() -> None:
    with pytest.raises(ValueError, match="write addresses in ASCII"):
        Header.make("To", "<jörg@example.org>")


@given(PRINTABLE.filter(lambda text: "=?" not in text))
def test_text_survives_making_and_reading(text: str) -> None:
    field = Header.make("Subject", text)
    assert field.value == text.strip()
    assert field.raw.isascii()


@given(st.lists(st.text("ab", min_size=1, max_size=60), min_size=1, max_size=40), st.sampled_from([" ", "  ", "\t"]))
def test_folding_keeps_the_text_and_the_width(words: list[str], space: str) -> None:
    text = space.join(words)
    field = Header.make("X-Long", text)
    assert field.raw.replace(b"\r\n", b"") == b" " + text.encode()
    lines = bytes(field).removesuffix(b"\r\n").split(b"\r\n")
    assert all(len(line) <= 78 for line in lines)
    assert all(line.strip() for line in lines)


@given(PRINTABLE.filter(lambda text: "=?" not in text))
def test_encoded_lines_are_at_most_78_wide(text: str) -> None:
    words = [f"ü{word}" for word in text.split()]
    lines = bytes(Header.make("Subject", " ".join(words))).splitlines()
    assert all(len(line) <= 85 for line in lines[:1])
    assert all(len(line) <= 78 for line in lines[1:])


HEADERS = Headers([Header("Received", b" one"), Header("Subject", b" x"), Header("RECEIVED", b" two")])


def test_names_are_compared_without_case() -> None:
    assert HEADERS.get("received") == "one"
    assert HEADERS.get_all("Received") == ["one", "two"]
    assert HEADERS.fields("subject") == [HEADERS[1]]
    assert "SUBJECT" in HEADERS
    assert "Date" not in HEADERS
    assert HEADERS.get("Date") is None


def test_headers_are_a_sequence() -> None:
    assert len(HEADERS) == 3
    assert [field.name for field in HEADERS] == ["Received", "Subject", "RECEIVED"]
    assert HEADERS[-1].raw == b" two"
    assert HEADERS[1:] == tuple(HEADERS)[1:]
    assert HEADERS[0] in HEADERS
    assert Headers(HEADERS) == HEADERS


@pytest.mark.parametrize(
    ("data", "names", "content"),
    [
        (b"A: 1\r\nB:2\r\n\r\nbody", ["A", "B"], b"body"),
        (b"\r\nbody", [], b"body"),
        (b"no field\r\nbody", [], b"no field\r\nbody"),
        (b"A: 1\r\nno field\r\n", ["A"], b"no field\r\n"),
        (b"A: 1", ["A"], b""),
        (b"A: 1\r\n", ["A"], b""),
        (b"A: 1\r\n \r\n\t2\r\n\r\n", ["A"], b""),
        (b"A : 1\r\n\r\nx", ["A"], b"x"),
        (b"", [], b""),
        (b" leading\r\n", [], b" leading\r\n"),
        (b"A: 1\nB: 2\r\n\r\nx", ["A"], b"x"),
    ],
)
def test_a_header_ends_where_postfix_ends_it(data: bytes, names: list[str], content: bytes) -> None:
    fields, header_end, start = scan_fields(data, 0, len(data))
    assert [field.name for field in fields] == names
    assert data[start:] == content
    assert data[header_end:start] in {b"", b"\r\n"}
    assert Headers.parse(data) == Headers(fields)


def test_a_header_field_of_megabytes_is_one_field() -> None:
    data = b"X: " + b"a\r\n " * 500_000 + b"\r\n\r\n"
    ((field,), _, start) = scan_fields(data, 0, len(data))
    assert start == len(data)
    assert len(field.raw) > 2_000_000
