"""authentication_results: the field that is written, and the forged ones that are not left."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import authres
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gatepost import ConfigError, Headers, Plugin, claiming, keep_results, method_result, results_field
from gatepost.services.processor import in_thread
from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import Callable

    from gatepost import Message, MethodResult, Transaction
    from gatepost.testing import Client

ID = "mx.example.org"
FIELD = "Authentication-Results"
RESULTS: list[MethodResult] = []


class Results(Plugin):
    """Leaves what a test wants."""

    async def data_post(self, transaction: Transaction, message: Message) -> None:
        keep_results(self.notes(transaction), RESULTS)


def read(value: bytes) -> Any:
    """Return the field as a library sees it that is not ours."""
    assert value.startswith(b" ")
    assert re.fullmatch(rb"[ -~]+(?:\r\n\t[ -~]+)*", value)
    return authres.AuthenticationResultsHeader.parse_value(
        value.decode().replace("\r\n", "").replace("\t", " ").strip()
    )


def shown(value: bytes) -> list[tuple[Any, ...]]:
    return [
        (one.method, one.result, one.reason, *((f"{each.type}.{each.name}", each.value) for each in one.properties))
        for one in read(value).results
    ]


async def send(*fields: bytes, client: str = "192.0.2.1", results: Any = (), **options: Any) -> Client:
    """Send one message with these header fields; returns once it was accepted."""
    facts = {name: options.pop(name) for name in ("login", "name") if isinstance(options.get(name), str)}
    RESULTS[:] = results
    content = b"".join(field + b"\r\n" for field in fields) + b"From: a@example.com\r\n\r\ntext\r\n"
    async with gate(Results, authentication_results={"authserv_id": ID, **options}) as postfix:
        sender = postfix.client(client, **facts)
        assert (await sender.send("a@example.com", "b@example.org", content=content)).code == 250
        return sender


async def fields(*given: bytes, **options: Any) -> list[bytes]:
    """Return the values of all such fields in the message that comes out."""
    message = (await send(*given, **options)).message
    assert message is not None
    assert message.headers[0].name == FIELD
    return [field.raw for field in message.headers.fields(FIELD)]


# ---- what is written


async def test_all_results_stand_in_one_field_on_top() -> None:
    results = [
        method_result("spf", "pass", {"smtp.mailfrom": "example.com"}),
        method_result("dkim", "fail", {"header.d": "example.com", "header.i": "@example.com"}, "the body was changed"),
        method_result("dmarc", "fail", {"header.from": "example.com", "policy.dmarc": "reject"}),
    ]
    (field,) = await fields(b"Received: from a", results=results)
    assert field == (
        b" mx.example.org;\r\n\tspf=pass smtp.mailfrom=example.com;\r\n"
        b'\tdkim=fail reason="the body was changed" header.d=example.com\r\n\theader.i=@example.com;\r\n'
        b"\tdmarc=fail header.from=example.com policy.dmarc=reject"
    )


async def test_the_order_is_always_the_same() -> None:
    found = ["x-own", "dmarc", "arc", "dkim", "dkim", "spf"]
    results = [method_result(method, "pass", {"header.n": str(number)}) for number, method in enumerate(found)]
    read_back = shown(*await fields(results=results, login="ada"))
    assert [one[0] for one in read_back] == ["auth", "spf", "dkim", "dkim", "arc", "dmarc", "x-own"]
    assert [one[3][1] for one in read_back[2:4]] == ["3", "4"]


async def test_nothing_found_is_said_too() -> None:
    assert await fields() == [b" mx.example.org;\r\n\tnone"]


async def test_logins_and_confirmed_names_are_written_as_chosen() -> None:
    facts = {"login": "ada", "name": "mail.example.com"}
    assert shown(*await fields(**facts)) == [("auth", "pass", None)]
    async with gate(authentication_results={"authserv_id": ID, "login": True, "iprev": True}) as postfix:
        client = postfix.client("2001:db8::1", **facts)
        await client.send("a@example.com", "b@example.org")
        assert client.message is not None
        (field,) = client.message.headers.fields(FIELD)
        assert shown(field.raw) == [
            ("auth", "pass", None, ("smtp.auth", "ada")),
            ("iprev", "pass", None, ("policy.iprev", "2001:db8::1")),
        ]
    assert await fields(auth=False, **facts) == [b" mx.example.org;\r\n\tnone"]
    assert await fields(iprev=True) == [b" mx.example.org;\r\n\tnone"]


@pytest.mark.parametrize(
    ("value", "read_as"),
    [
        ("example.com", "example.com"),
        ("@example.com", "@example.com"),
        ("a+b=c@example.com", "a+b=c@example.com"),
        ("b\u00fccher.example", "xn--bcher-kva.example"),
        ("a@b\u00fccher.example", "a@xn--bcher-kva.example"),
        ("\u00e4@b\u00fccher.example", "?@xn--bcher-kva.example"),
        ("dzdV/A+=", "dzdV/A+="),
        ("a b", "a b"),
        ("x\r\nX-Evil: 1", "x??X-Evil: 1"),
        ("x\0\x7f\udcff", "x???"),
        ("a; dmarc=pass header.from=bank.example", "a; dmarc?pass header.from=bank.example"),
        ("a; dmarc=pass@example.com", "a; dmarc?pass@example.com"),
        ("dmarc=PASS", "dmarc?PASS"),
        ("x (", "x ("),
        ("(x) y", "(x) y"),
    ],
)
def test_a_value_is_read_back_as_it_is_and_nothing_else(value: str, read_as: str) -> None:
    results = [
        method_result("dkim", "fail", {"header.i": value}, value),
        method_result("spf", "none", {"smtp.helo": "end.example"}),
    ]
    first, second = shown(results_field(ID, results))
    reason = value.replace("\u00e4", "?").replace("\u00fc", "?") if not value.isascii() else read_as
    assert first[:2] == ("dkim", "fail")
    assert (first[2] or "").isascii()
    if "\udcff" not in value:
        assert first[2] == reason
    assert first[3] == ("header.i", read_as)
    assert second == ("spf", "none", None, ("smtp.helo", "end.example"))


PIECES = [*'ab1.@;=()"\\,/ \t\r\n\0<>:\u00fc', "pass", "none", "dmarc=pass"]


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_no_value_becomes_another_result(value: str) -> None:
    results = [
        method_result("dkim", "fail", {"header.i": value, "header.d": value}, value),
        method_result("spf", "fail", {"smtp.helo": value}),
    ]
    field = results_field(ID, results)
    # Not even for who only searches, with or without the folding.
    assert not re.search(rb"(?:dkim|spf|dmarc)\W*=\W*pass", field, re.IGNORECASE)
    assert len(re.findall(r"(?:\A|;)(?=\s)", re.sub(r'"(?:[^"\\]|\\.)*"', "", field.decode()))) == 3
    assert b"\n" not in field.replace(b"\r\n\t", b"")


def test_long_values_and_many_results_stay_within_a_field() -> None:
    results = [method_result("dkim", "fail", {"header.d": "a" * 10_000}, 'x"' * 10_000)] * 1000
    field = results_field(ID, results)
    assert len(field) < 60_000
    assert max(map(len, field.split(b"\r\n"))) < 998
    assert field.count(b"dkim=fail") == 60


@pytest.mark.parametrize(
    "authserv_id", ["", "mx example", "a;b", "a\r\nb", "mx(x)", '"mx"', "b\u00fccher.example", None]
)
async def test_an_id_that_is_none_stops_the_start(authserv_id: str | None) -> None:
    options = {} if authserv_id is None else {"authserv_id": authserv_id}
    with pytest.raises(ConfigError, match="authserv_id"):
        async with gate(authentication_results=options):
            pass


# ---- what is removed

FORGED = [
    b"mx.example.org; dmarc=pass",
    b" MX.Example.ORG ; dmarc=pass",
    b" mx.example.org 1; dmarc=pass",
    b" mx.example.org\t99 ; dmarc=pass",
    b" mx.example.org",
    b" mx.example.org.; dmarc=pass",
    b' "mx.example.org"; dmarc=pass',
    b' "mx\\.example.org" ; dmarc=pass',
    b" (comment) mx.example.org (another (one)) 1 (more); dmarc=pass",
    b"\r\n\tmx.example.org;\r\n\tdmarc=pass",
    b"(x)mx.example.org; dmarc=pass",
    b" (\\)) mx.example.org; dmarc=pass",
    # Malformed, and for us:
    b" mx.example.org dmarc=pass",
    b" mx.example.org/1; dmarc=pass",
    b" mx.example.org, x; dmarc=pass",
    b" (mx.example.org; dmarc=pass",
    b" <mx.example.org>; dmarc=pass",
    b" mx.example.org=; dmarc=pass",
    b' "mx.example.org; dmarc=pass',
    b" ;mx.example.org; dmarc=pass",
    b" =?utf-8?b?bXguZXhhbXBsZS5vcmc=?=; dmarc=pass",
    b" mx.exa\0mple.org; dmarc=pass",
    b" x) mx.example.org; dmarc=pass",
    b' mx."example".org; dmarc=pass',
    "mx.exa\u00admple.org; dmarc=pass".encode(),
    "\ufeffmx.example.org; dmarc=pass".encode(),
    "mx\uff0eexample\uff0eorg; dmarc=pass".encode(),
]

OF_OTHERS = [
    b" mx.example.net; dmarc=pass",
    b" example.org; dmarc=pass",
    b" xmx.example.org; dmarc=pass",
    b" mx.example.org.evil.example; dmarc=pass",
    b" other.example (mx.example.org); dmarc=pass",
    b" other.example; dmarc=pass header.from=mx.example.org",
    b' other.example; spf=pass reason="; mx.example.org; dmarc=pass"',
    b" dmarc=pass action=none header.from=example.com",
    b"",
    b" \xff\xfe;",
]


@pytest.mark.parametrize("value", FORGED)
async def test_a_field_that_says_to_be_ours_is_removed(value: bytes) -> None:
    assert claiming(Headers.parse(FIELD.encode() + b":" + value + b"\r\n"), [ID]) == [1]
    with capture_logs() as log:
        assert len(await fields(b"AUTHENTICATION-RESULTS :" + value)) == 1
    assert [line["removed"] for line in log if line["event"] == "forged_authentication_results"] == [1]


@pytest.mark.parametrize("value", OF_OTHERS)
async def test_a_field_of_others_stays_to_the_byte(value: bytes) -> None:
    _, kept = await fields(FIELD.encode() + b":" + value)
    assert kept == value


async def test_only_the_forged_ones_go_whatever_their_order() -> None:
    mixed = [*OF_OTHERS, *FORGED, *OF_OTHERS, *FORGED[::2]]
    message = (
        await send(
            *(FIELD.encode() + b":" + value for value in mixed),
            b"ARC-Authentication-Results: i=1; mx.example.org; dmarc=pass",
            b"X-Authentication-Results: mx.example.org; dmarc=pass",
        )
    ).message
    assert message is not None
    assert [field.raw for field in message.headers.fields(FIELD)][1:] == [*OF_OTHERS, *OF_OTHERS]
    assert "ARC-Authentication-Results" in message.headers
    assert "X-Authentication-Results" in message.headers


async def test_more_names_can_be_ours() -> None:
    given = [b"Authentication-Results: mx2.example.org; spf=pass", b"Authentication-Results: b; spf=pass"]
    assert len(await fields(*given, own_ids=["MX2.example.org"])) == 2


async def test_fields_from_own_hosts_stay() -> None:
    given = b"Authentication-Results: mx.example.org; spf=pass"
    assert len(await fields(given, trusted_networks=["192.0.2.0/24"])) == 2
    assert len(await fields(given, trusted_networks=["198.51.100.0/24"], client="192.0.2.9")) == 1
    assert len(await fields(given, trusted_networks=["0.0.0.0/0", "::/0"], client="unknown")) == 1


async def test_who_has_logged_in_forges_nothing_either() -> None:
    given = b"Authentication-Results: mx.example.org; dmarc=pass"
    assert shown(*await fields(given, login="ada")) == [("auth", "pass", None)]


@pytest.mark.timeout(30)
async def test_forged_fields_are_removed_from_as_many_as_a_header_has() -> None:
    own = b"Authentication-Results: mx.example.org; dmarc=pass"
    others = [b"Authentication-Results: other; spf=pass"] * 9_900
    found = await fields(*([own] * 25), *others, *([own] * 25))
    assert found == [b" mx.example.org;\r\n\tnone", *[b" other; spf=pass"] * 9_900]


@pytest.mark.parametrize(
    ("given", "runs"),
    [([b"()" * 30_000] * 17, 1), ([b"other; spf=pass"] * 600, 1), ([b"other; spf=pass"] * 20, 0)],
)
async def test_long_fields_and_many_are_looked_through_off_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, given: list[bytes], runs: int
) -> None:
    found: list[Callable[..., Any]] = []

    async def counted(work: Callable[..., Any], *arguments: Any) -> Any:
        found.append(work)
        return await in_thread(work, *arguments)

    monkeypatch.setattr("gatepost.plugin.in_thread", counted)
    await send(*(b"Authentication-Results: " + value for value in given))
    assert len(found) == runs


async def test_more_forged_fields_than_postfix_could_remove_in_time_are_refused() -> None:
    content = b"Authentication-Results: mx.example.org; dmarc=pass\r\n" * 51 + b"From: a@example.com\r\n\r\ntext\r\n"
    async with gate(authentication_results={"authserv_id": ID}) as postfix:
        reply = await postfix.client().send("a@example.com", "b@example.org", content=content)
    assert reply.encode() == b"554 5.6.0 too many forged Authentication-Results header fields\r\n"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", [b"(", b"()", b'"', b'"\\', b"\\", b"mx.example.org ", b" \t", b"=?utf-8?q?", b"a."])
def test_hostile_fields_cost_nothing(piece: bytes) -> None:
    headers = Headers.parse(b"Authentication-Results:" + piece * (100_000 // len(piece)) + b"\r\n")
    assert claiming(headers, [ID]) in ([], [1])
