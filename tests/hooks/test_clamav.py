"""clamav, with a real clamd: what it finds, what becomes of it, and what is too large."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs
from tests.hooks.clamav_mail import CLEAN, DEFERRED, FIELD, INFECTED, NOWHERE, edits, mail, outcome, plain, send, zipped
from tests.rigs.clamd_rig import EICAR, STREAM_LIMIT_BYTES, VIRUSES, Clamd

from gatepost import ConfigError, Overrides, Plugin
from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost import Transaction

PUA, TRICK = VIRUSES["PUA.Test.Tool"], VIRUSES["Heuristics.Test.Trick"]


@pytest.fixture(scope="module")
def clamd() -> Iterator[Clamd]:
    with Clamd() as running:
        yield running


# What it finds


@pytest.mark.parametrize(
    "content",
    [plain(EICAR), mail(EICAR), mail(zipped(EICAR)), mail(zipped(zipped(EICAR)))],
    ids=["plain", "attached", "zipped", "zipped twice"],
)
@pytest.mark.parametrize("way", ["unix", "tcp", "tcp6"])
async def test_a_virus_is_refused_by_name(clamd: Clamd, content: bytes, way: str) -> None:
    assert (await outcome(getattr(clamd, way), content))[0] == INFECTED


@pytest.mark.parametrize("way", ["unix", "tcp", "tcp6"])
async def test_a_clean_message_passes_untouched(clamd: Clamd, way: str) -> None:
    reply, message = await outcome(getattr(clamd, way), mail(b"nothing"))
    assert (reply, edits(message)) == ("250", [])


@pytest.mark.parametrize("name", [b"MZ", b"%PDF-1.4", b"PK\x03\x04", b"Abc", b"<html>"])
async def test_a_first_field_that_looks_like_another_kind_of_file_hides_no_virus(clamd: Clamd, name: bytes) -> None:
    assert (await outcome(clamd.unix, mail(EICAR, first=name + b": x\r\n")))[0] == INFECTED


@pytest.mark.parametrize(
    "content",
    [
        b"\r\n" + EICAR,
        EICAR,
        b"Subject: \xff\xfe\r\n\r\n\xff\x00\xfe" + EICAR,
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n\r\nx\r\n" * 10_000 + EICAR,
        b"X: " + b"y" * 100_000 + b"\r\n\r\n" + EICAR,
    ],
    ids=["no header", "nothing but it", "not UTF-8", "10,000 parts", "a long field"],
)
async def test_malformed_mail_is_scanned(clamd: Clamd, content: bytes) -> None:
    assert (await outcome(clamd.unix, content))[0] == INFECTED


# What becomes of it


@pytest.mark.parametrize(
    ("action", "code"),
    [("deny", "554 5.7.1"), ("defer", "451 4.7.1"), ("denyhard", "521 5.7.1"), ("defer-disconnect", "421 4.7.1")],
)
async def test_the_refusal_is_an_option(clamd: Clamd, action: str, code: str) -> None:
    reply, _ = await outcome(clamd.unix, plain(EICAR), action=action, text="no, thanks")
    assert reply == f"{code} no, thanks: Eicar-Test-Signature.UNOFFICIAL"


STATUS = "Infected (Eicar-Test-Signature.UNOFFICIAL)"


async def test_a_virus_can_be_tagged(clamd: Clamd) -> None:
    forged = b"X-Virus-Status: Clean\r\nx-virus-status: Clean\r\n" + plain(EICAR)
    reply, message = await outcome(clamd.unix, forged, action="tag")
    assert reply == "250"
    assert message is not None
    assert message.headers.get_all(FIELD) == [STATUS]


async def test_a_virus_can_be_held(clamd: Clamd) -> None:
    reply, message = await outcome(clamd.unix, plain(EICAR), action="Quarantine")
    assert reply == "250"
    assert edits(message) == [
        "quarantine: virus Eicar-Test-Signature.UNOFFICIAL",
        f"add header {FIELD}: {STATUS}",
    ]


async def test_a_virus_can_be_let_through_and_is_told_to_others_and_to_the_log(clamd: Clamd) -> None:
    with capture_logs() as logged:
        async with gate(clamav={"server": str(clamd.unix), "action": "allow"}) as postfix:
            reply, client = await send(postfix, plain(EICAR))
            assert (reply, edits(client.message)) == ("250", [])
            assert client.transaction.notes["clamav"] == {"signature": "Eicar-Test-Signature.UNOFFICIAL"}
    (line,) = [line for line in logged if line["event"] == "virus found"]
    assert (line["signature"], line["action"]) == ("Eicar-Test-Signature.UNOFFICIAL", "allow")


@pytest.mark.parametrize(
    ("content", "options", "status"),
    [
        (CLEAN, {}, "Clean"),
        (plain(EICAR), {"action": "allow"}, STATUS),
        (plain(EICAR), {"action": "tag"}, STATUS),
        (plain(EICAR), {"ignore": ["eicar*"]}, "Clean"),
        (CLEAN, {"size_limit": 10}, "Not scanned"),
    ],
)
async def test_every_message_can_be_marked_and_forged_marks_go(
    clamd: Clamd, content: bytes, options: dict[str, Any], status: str
) -> None:
    forged = b"X-Virus-Status: Clean, says the virus\r\n" + content
    reply, message = await outcome(clamd.unix, forged, mark_all=True, **options)
    assert reply == "250"
    assert message is not None
    assert message.headers.get_all(FIELD) == [status]


@pytest.mark.parametrize(("count", "expected"), [(50, "250"), (51, "554 5.6.0 too many X-Virus-Status header fields")])
@pytest.mark.parametrize("content", [CLEAN, plain(EICAR)])
async def test_forged_marks_without_end_are_refused_where_they_would_be_removed(
    clamd: Clamd, count: int, expected: str, content: bytes
) -> None:
    options = {"action": "quarantine", "mark_all": content is CLEAN}
    assert (await outcome(clamd.unix, b"x-virus-STATUS: Clean\r\n" * count + content, **options))[0] == expected
    assert (await outcome(clamd.unix, b"X-Virus-Status: Clean\r\n" * 60 + CLEAN))[0] == "250"


async def test_signatures_can_have_actions_of_their_own(clamd: Clamd) -> None:
    actions = {"pua.*": "tag", "Heuristics.????.Trick*": "defer", "*": "deny_disconnect"}
    async with gate(clamav={"server": str(clamd.unix), "actions": actions}) as postfix:
        assert (await send(postfix, plain(PUA)))[0] == "250"
        assert (await send(postfix, plain(TRICK)))[0].startswith("451 4.7.1 ")
        assert (await send(postfix, plain(EICAR)))[0].startswith("521 5.7.1 ")


async def test_signatures_can_be_ignored_also_for_one_client_alone(clamd: Clamd) -> None:
    async with gate(clamav={"server": str(clamd.unix)}) as postfix:
        ignoring = postfix.plugin("clamav").parse_overrides('clamav.ignore="PUA.*, Heuristics.*"', "test")
        for content, expected in ((PUA, "250"), (TRICK, "250"), (EICAR, INFECTED)):
            assert (await send(postfix, plain(content)))[0].startswith("554 ")
            client = postfix.client()
            client.session.override(ignoring)
            reply = await client.send("a@example.net", "b@example.org", content=plain(content))
            assert reply.encode().decode().startswith(expected)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"action": "eat"}, "'eat' is no action: write allow, .* or defer_disconnect; or quarantine, or tag"),
        ({"actions": {"PUA.*": "ignore"}}, "'ignore' is no action"),
        ({"too_large": "quarantine"}, "'quarantine' is no action"),
        ({"server": "clamd"}, "'clamd' is no address"),
        ({"server": []}, "or a list of several"),
        ({"timeout": 0}, "clamav.timeout: "),
    ],
)
async def test_a_wrong_option_is_told(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        async with gate(clamav=options):
            pass


# Sizes


async def test_what_is_larger_than_the_limit_is_not_sent() -> None:
    content = plain(EICAR)
    with capture_logs() as logged:
        assert (await outcome(NOWHERE, content, size_limit=len(content) - 1))[0] == "250"
    assert [line["bytes"] for line in logged if line["event"] == "not scanned"] == [len(content)]
    assert (await outcome(NOWHERE, content, size_limit=len(content)))[0] == DEFERRED


async def test_without_a_limit_what_clamd_takes_is_scanned(clamd: Clamd) -> None:
    assert (await outcome(clamd.unix, plain(EICAR), size_limit=0))[0] == INFECTED


@pytest.mark.parametrize(
    ("action", "expected"),
    [("allow", "250"), ("deny", "552 5.3.4"), ("defer", "451 4.3.4"), ("deny_disconnect", "521 5.3.4")],
)
async def test_what_is_too_large_can_be_refused(action: str, expected: str) -> None:
    assert (await outcome(NOWHERE, CLEAN, size_limit=1, too_large=action))[0].startswith(expected)


@pytest.mark.parametrize("way", ["unix", "tcp", "tcp6"])
async def test_more_than_clamd_takes_is_too_large_and_no_failure_of_the_server(clamd: Clamd, way: str) -> None:
    """Clamd closes while the message is being sent; its last words must be read all the same, each time."""
    large = b"Subject: x\r\n\r\n" + b"large\r\n" * (2 * STREAM_LIMIT_BYTES // 7)
    options = {"server": str(getattr(clamd, way)), "size_limit": "10 MiB", "too_large": "deny"}
    with capture_logs() as logged:
        async with gate(clamav=options) as postfix:
            for _ in range(5):
                assert (await send(postfix, large))[0] == "552 5.3.4 the message is too large to be scanned"
            assert (await send(postfix, plain(EICAR)))[0] == INFECTED
    events = [line["event"] for line in logged]
    assert "larger than clamd's StreamMaxLength: lower size_limit" in events
    assert not {"server failed", "server left alone"} & set(events)


# One scan for all


async def test_recipients_with_other_options_share_one_scan() -> None:
    class Recipients(Plugin):
        def rcpt(self, transaction: Transaction, recipient: Any) -> None:
            if recipient.address.local == "mild":
                recipient.override(Overrides({"clamav": {"action": "tag"}}))

    with Clamd() as clamd:
        async with gate(Recipients, clamav={"server": str(clamd.unix)}, content={"disagree": "lenient"}) as postfix:
            reply, client = await send(postfix, plain(EICAR), "strict@example.org", "mild@example.org")
            assert reply == "250"
            assert client.message is not None
            assert (await send(postfix, plain(EICAR), "strict@example.org"))[0] == INFECTED
        assert clamd.log().count("FOUND") == 2
