"""Tags, keys and signatures: whatever a stranger writes, there is an answer."""

from __future__ import annotations

from itertools import repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost.deadline import Deadline, of_hook
from gatepost.message.header import Header, Headers
from gatepost.services.authentication.author import author_domains
from gatepost.services.authentication.dkim_key import examine
from gatepost.services.authentication.dkim_signature import SignedFields, header_digest, read_signature
from gatepost.services.authentication.dkim_tags import Unverifiable, read_tags, without_signature

SOUND = b"v=1; a=rsa-sha256; d=example.com; s=test; h=from; bh=AAAA; b=AAAA"
TAG = st.sampled_from([b"v", b"a", b"c", b"d", b"s", b"h", b"i", b"l", b"q", b"t", b"x", b"b", b"bh", b"k", b"p", b"n"])
VALUE = st.one_of(
    st.binary(max_size=30), st.sampled_from([b"1", b"DKIM1", b"rsa", b"rsa-sha256", b"example.com", b"from", b"AAAA"])
)
TAGS = st.one_of(
    st.binary(max_size=100),
    st.lists(st.tuples(TAG, VALUE), max_size=12).map(lambda tags: b";".join(b"=".join(tag) for tag in tags)),
)


@given(TAGS)
def test_any_signature_is_one_that_can_be_tried_or_tells_why_not(raw: bytes) -> None:
    result, text = "", ""
    try:
        text = read_signature(Header("DKIM-Signature", raw), read_tags(raw)).key_name
    except Unverifiable as problem:
        result, text = problem.result, problem.reason
    assert result in {"", "neutral", "policy", "permerror"}
    assert text.isprintable()


@given(TAGS)
def test_any_key_record_is_a_key_or_tells_why_not(raw: bytes) -> None:
    with pytest.raises(Unverifiable) as raised:
        examine(raw, 1024)
    assert raised.value.result in {"policy", "permerror"}


@given(TAGS)
def test_only_the_value_of_b_is_taken_out(raw: bytes) -> None:
    assert without_signature(raw.replace(b"b", b"") + b";\tb = AA\r\n AA ; x=b=1") == (
        raw.replace(b"b", b"") + b";\tb =; x=b=1"
    )


@given(st.binary(max_size=200))
def test_any_from_names_domains_or_not(raw: bytes) -> None:
    domains, why_not = author_domains(Headers([Header("From", raw)]))
    assert bool(domains) != bool(why_not)
    assert all(domain.isprintable() and " " not in domain for domain in domains)


def test_fields_are_taken_from_the_bottom_up_and_a_name_left_over_is_none() -> None:
    fields = [Header("A", b"1"), Header("b", b"2"), Header("a", b"3")]
    selected = SignedFields(fields).select(["a", "none", "a", "a", "b"])
    assert [field.raw for field in selected] == [b"3", b"1", b"2"]


def test_hashing_a_header_stops_when_the_hook_has_no_time_left() -> None:
    field = Header("DKIM-Signature", SOUND)
    token = of_hook.set(Deadline.after(0))
    try:
        with pytest.raises(TimeoutError):
            header_digest(repeat(Header("To", b"x" * 65536)), field, relaxed=True, algorithm="sha256")
    finally:
        of_hook.reset(token)


def test_a_sound_signature_is_read() -> None:
    assert read_signature(Header("DKIM-Signature", SOUND), read_tags(SOUND)).key_name == "test._domainkey.example.com"
