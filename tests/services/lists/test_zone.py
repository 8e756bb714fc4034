"""zone: which answers of a list are a listing, and what may be written in the option `zones`."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address
from typing import Any

import pytest
from pydantic import ValidationError

from gatepost import ConfigError, Unavailable
from gatepost.services.lists.zone import Zone, ZoneOptions, is_host_name, reversed_name


def lists(codes: Any, *answers: str) -> bool:
    return Zone(zone="bl.example", codes=codes).lists(map(IPv4Address, answers))


def problem(**fields: Any) -> str:
    with pytest.raises(ValidationError) as raised:
        ZoneOptions.model_validate(fields)
    return "; ".join(error["msg"].removeprefix("Value error, ") for error in raised.value.errors())


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("192.0.2.99", "99.2.0.192"),
        ("127.0.0.1", "1.0.0.127"),
        # RFC 5782 section 2.4's own example.
        ("2001:db8:1:2:3:4:567:89ab", "b.a.9.8.7.6.5.0.4.0.0.0.3.0.0.0.2.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2"),
        ("::1", "1" + ".0" * 31),
        ("fe80::1%eth0", "1" + ".0" * 28 + ".8.e.f"),
    ],
)
def test_an_address_is_asked_for_backwards(address: str, name: str) -> None:
    assert reversed_name(ip_address(address)) == name


@pytest.mark.parametrize(
    ("codes", "answer", "listed"),
    [
        ((), "127.0.0.2", True),
        ("127.0.0.1", "127.0.0.1", True),
        ((), "127.200.3.4", True),
        ("127.0.0.2", "127.0.0.2", True),
        ("127.0.0.2", "127.0.0.3", False),
        (["127.0.0.2", "127.0.0.9"], "127.0.0.9", True),
        ("127.0.0.2-11", "127.0.0.1", False),
        ("127.0.0.2-11", "127.0.0.2", True),
        ("127.0.0.2-11", "127.0.0.11", True),
        ("127.0.0.2-11", "127.0.0.12", False),
        ("127.0.0.2 - 127.0.1.3", "127.0.0.255", True),
        ("127.0.0.2-127.0.1.3", "127.0.1.4", False),
        ("127.0.0.0&4", "127.0.0.4", True),
        ("127.0.0.0&4", "127.0.0.7", True),
        ("127.0.0.0&4", "127.0.0.3", False),
        ("127.0.0.0&4", "127.0.0.0", False),
        # The mask reaches into the last octet alone: the others must be the same.
        ("127.0.0.0&4", "127.0.1.4", False),
        ("127.0.1.0 & 0x04", "127.0.1.4", True),
        ("127.0.0.0&6", "127.0.0.2", True),
        ("127.0.0.0&6", "127.0.0.8", False),
        ("127.0.0.0&0x100", "127.0.1.0", True),
        ("127.0.0.0&0x100", "127.0.2.255", False),
        ("127.0.0.0&0x10000", "127.1.9.9", True),
    ],
)
def test_the_codes_say_which_answers_are_a_listing(codes: Any, answer: str, listed: bool) -> None:
    assert lists(codes, answer) is listed


def test_one_answer_of_several_is_enough() -> None:
    assert lists("127.0.0.2", "127.0.0.10", "127.0.0.2")
    assert not lists("127.0.0.3", "127.0.0.10", "127.0.0.2")


def test_no_answer_is_no_listing() -> None:
    assert not lists(())
    assert not lists("127.0.0.2")


@pytest.mark.parametrize("codes", [(), ("127.0.0.2",), ("127.0.0.0-127.255.255.255",)])
@pytest.mark.parametrize("answer", ["127.255.255.252", "127.255.255.254", "127.255.255.255", "127.255.255.0"])
def test_an_error_answer_is_never_a_listing_but_tells_nothing(codes: Any, answer: str) -> None:
    with pytest.raises(Unavailable, match=rf"bl\.example: refuses to answer \({answer}\)"):
        lists(codes, answer)


@pytest.mark.parametrize("answer", ["203.0.113.7", "0.0.0.0", "128.0.0.0", "126.255.255.255", "127.0.0.1"])
def test_an_answer_that_no_list_gives_is_never_a_listing_but_tells_nothing(answer: str) -> None:
    with pytest.raises(Unavailable, match=rf"bl\.example: answers {answer}, which is no listing"):
        lists((), answer)


@pytest.mark.parametrize("fields", [{"action": "allow"}, {"score": -1}])
def test_a_list_of_friends_may_answer_localhost(fields: dict[str, Any]) -> None:
    assert Zone(zone="white.example", **fields).lists([IPv4Address("127.0.0.1")])


def test_a_listing_beside_an_error_answer_is_a_listing() -> None:
    assert lists((), "127.255.255.254", "127.0.0.2", "203.0.113.1")


def test_another_code_beside_an_error_answer_is_an_answer() -> None:
    assert not lists("127.0.0.3", "127.255.255.254", "127.0.0.2")
    assert not lists("127.0.0.3", "127.0.0.1")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("127.0.0", "is no return code"),
        ("127.0.0.256", "is no return code"),
        ("127.0.0.2-", "is no return code"),
        ("127.0.0.2-300", "is no return code"),
        ("127.0.0.2&", "is no return code"),
        ("listed", 'write "127.0.0.2", "127.0.0.2-11" or, for a bit, "127.0.0.0&4"'),
        ("", "is no return code"),
        (2, "2 is no return code"),
        ("10.0.0.2", "in 127.0.0.0/8"),
        ("127.0.0.2-128.0.0.2", "in 127.0.0.0/8"),
        ("127.0.0.11-2", "the larger number stands last"),
        ("127.255.255.254", "refuses to answer"),
        ("127.0.0.2&4", "the answer with no bit set"),
        ("127.0.1.0&0x100", "the answer with no bit set"),
        ("127.0.0.0&0", "a mask is a number from 1"),
        ("127.0.0.0&0x1000000", "a mask is a number from 1"),
        ("127.0.0.0&99999999999999999999", "a mask is a number from 1"),
        ("127.0.0.\uff12", "is no return code"),
    ],
)
def test_a_code_that_could_never_fit_is_refused(code: object, message: str) -> None:
    assert message in problem(zones=[{"zone": "bl.example", "codes": [code]}])


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "127.0.0.1", "http://bl.example", "bl example", "bl..example", "-bl.example", "*.bl.example"),
        *("é.example", "a" * 64 + ".example", ".".join(["a" * 60] * 5), "bl.example:53", "bl.example/127"),
    ],
)
def test_what_is_no_name_is_no_zone(name: str) -> None:
    assert "is no zone: write the name of the list alone" in problem(zones=[name])


def test_names_and_tables_may_stand_side_by_side() -> None:
    options = ZoneOptions.model_validate(
        {"zones": [" BL.Example. ", {"zone": "wl.example", "action": "OK", "codes": "127.0.0.2"}]}
    )
    assert [zone.zone for zone in options.zones] == ["bl.example", "wl.example"]
    assert [options.effect(zone) for zone in options.zones] == ["deny", "allow"]


def test_one_zone_needs_no_list() -> None:
    assert ZoneOptions.model_validate({"zones": "bl.example"}).zones == (Zone(zone="bl.example"),)
    assert ZoneOptions.model_validate({"zones": {"zone": "bl.example"}}).zones == (Zone(zone="bl.example"),)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "Field required"),
        ({"zones": []}, "at least 1 item"),
        ({"zones": [5]}, "dictionary"),
        ({"zones": [{"zone": "bl.example", "codez": []}]}, "Extra inputs"),
        ({"zones": [{"codes": []}]}, "Field required"),
        ({"zones": [{"zone": "bl.example", "action": "kill"}]}, "or score"),
        ({"zones": [{"zone": "bl.example", "score": float("nan")}]}, "finite"),
        ({"zones": ["bl.example"], "reject_score": -1}, "greater than or equal to 0"),
        ({"zones": ["bl.example"], "reject_score": float("inf")}, "finite"),
        ({"zones": ["bl.example"], "action": "allow"}, "every zone a list of friends"),
    ],
)
def test_options_that_mean_nothing_are_refused(fields: dict[str, Any], message: str) -> None:
    assert message in problem(**fields)


def test_with_a_threshold_zones_without_an_action_only_score() -> None:
    zones = ["a.example", {"zone": "b.example", "action": "defer"}]
    plain = ZoneOptions.model_validate({"zones": zones, "action": "deny_disconnect"})
    scored = ZoneOptions.model_validate({"zones": zones, "action": "deny_disconnect", "reject_score": 2})
    assert [plain.effect(zone) for zone in plain.zones] == ["deny_disconnect", "defer"]
    assert [scored.effect(zone) for zone in scored.zones] == ["score", "defer"]


def test_a_zone_that_scores_for_nothing_stops_the_start() -> None:
    zones = [{"zone": "a.example", "action": "score"}]
    with pytest.raises(ConfigError, match=r"zone a\.example has action = .score., which does nothing"):
        ZoneOptions.model_validate({"zones": zones}).refuse_idle_scores()
    ZoneOptions.model_validate({"zones": zones, "reject_score": 1}).refuse_idle_scores()


def test_options_survive_being_merged_with_overrides() -> None:
    """`Plugin.options` dumps the configured options and validates them again with what is overridden."""
    configured = ZoneOptions.model_validate(
        {"zones": [{"zone": "bl.example", "codes": ["127.0.0.2-11", "127.0.0.0&4"], "action": "score", "score": 2}]}
    )
    again = ZoneOptions.model_validate(configured.model_dump(exclude_unset=True) | {"reject_score": "5"})
    assert again.zones == configured.zones
    assert again.reject_score == 5


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("example.org", True),
        ("EXAMPLE.org", True),
        ("_dmarc.example.org", True),
        ("xn--bcher-kva.example", True),
        ("localhost", True),
        ("", False),
        ("example.org.", False),
        ("a b.example", False),
        ("a\n.example", False),
        ("a.example\n", False),
        ("a\\.example", False),
        (".".join(["a" * 63] * 4), False),
    ],
)
def test_host_names_are_told_from_other_text(name: str, good: bool) -> None:
    assert is_host_name(name) is good
