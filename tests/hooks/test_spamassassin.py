"""spamassassin with a real spamd: what is refused, held and marked, and how the marks look."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs
from tests.hooks.spam_mail import FOUR, HAM, REFUSED, SIX, SPAM, header, send, sent
from tests.rigs.spamd_rig import GTUBE, Spamd

from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def spamd() -> Iterator[Spamd]:
    with Spamd() as running:
        yield running


# Thresholds and what is said


@pytest.mark.parametrize(
    ("content", "threshold", "reply"),
    [
        (SPAM, 1000, REFUSED),
        (SPAM, 1000.1, REFUSED),
        (SPAM, 1000.2, "250"),
        (SPAM, "none", "250"),
        (SIX, 6, REFUSED),
        (SIX, "6.2", "250"),
        (HAM, 0, REFUSED),
        (HAM, 5, "250"),
        (b"\r\nminus points please\r\n", -2.9, REFUSED),
        (b"\r\nminus points please\r\n", -2.8, "250"),
    ],
)
async def test_a_message_is_refused_from_the_reject_threshold_on(
    spamd: Spamd, content: bytes, threshold: object, reply: str
) -> None:
    assert (await sent(spamd, content, reject_threshold=threshold))[0] == reply


async def test_by_default_nothing_is_refused_and_spam_is_marked_as_spamd_would(spamd: Spamd) -> None:
    reply, client = await sent(spamd, SPAM)
    fields = header(client)
    assert reply == "250"
    assert [name for name in fields if name != "X-Spam-Custom" and name != "X-Spam-Relays"] == [
        "X-Spam-Flag",
        "X-Spam-Checker-Version",
        "X-Spam-Level",
        "X-Spam-Status",
        "Subject",
    ]
    assert fields["X-Spam-Flag"] == "YES"
    assert fields["X-Spam-Status"].startswith("Yes, score=1000.1 required=5.0 tests=GTUBE,")
    assert fields["Subject"] == "offer"
    assert client.message is not None
    assert bytes(client.message.body) == GTUBE + b"\r\n"


async def test_a_clean_message_gets_no_flag(spamd: Spamd) -> None:
    fields = header((await sent(spamd, HAM, subject_prefix="[spam]"))[1])
    assert "X-Spam-Flag" not in fields
    assert fields["X-Spam-Status"].startswith("No, score=0.1 required=5.0 tests=OUR_SENDER")
    assert fields["Subject"] == "minutes"


@pytest.mark.parametrize(
    ("content", "threshold", "status"),
    [
        (FOUR, 4, "Yes, score=4.1 required=4.0 tests="),
        (FOUR, 4.5, "No, score=4.1 required=4.5 tests="),
        (SIX, 7, "No, score=6.1 required=7.0 tests="),
        (SIX, 5, "Yes, score=6.1 required=5.0 tests="),
        (HAM, -3, "Yes, score=0.1 required=-3.0 tests="),
    ],
)
async def test_the_tag_threshold_takes_the_place_of_spamds_own(
    spamd: Spamd, content: bytes, threshold: float, status: str
) -> None:
    client = (await sent(spamd, content, tag_threshold=threshold, subject_prefix="*****SPAM*****"))[1]
    fields = header(client)
    tagged = status.startswith("Yes")
    assert fields["X-Spam-Status"].startswith(status)
    assert fields.get("X-Spam-Flag") == ("YES" if tagged else None)
    assert fields["Subject"] == ("*****SPAM***** minutes" if tagged else "minutes")
    assert client.transaction.notes["spamassassin"]["spam"] is tagged


async def test_both_thresholds_judge_the_same_message(spamd: Spamd) -> None:
    options = {"server": spamd.server, "reject_threshold": 10, "tag_threshold": 4}
    async with gate(spamassassin=options) as postfix:
        assert (await send(postfix, SPAM))[0] == REFUSED
        reply, client = await send(postfix, FOUR)
        assert (reply, header(client)["X-Spam-Flag"]) == ("250", "YES")
        assert "X-Spam-Flag" not in header((await send(postfix, HAM))[1])


async def test_a_message_above_the_quarantine_threshold_is_held(spamd: Spamd) -> None:
    for content, held in ((SIX, True), (FOUR, False)):
        client = (await sent(spamd, content, quarantine_threshold=6))[1]
        assert client.message is not None
        assert ("quarantine: spam score 6.1" in client.message.summary()) is held


@pytest.mark.parametrize(
    ("action", "start"),
    [
        ("reject", "554 5.7.1 "),
        ("defer", "451 4.7.1 "),
        ("deny_disconnect", "521 5.7.1 "),
        ("defer_disconnect", "421 4.7.1 "),
        ("allow", "250"),
    ],
)
async def test_the_action_decides_the_reply(spamd: Spamd, action: str, start: str) -> None:
    assert (await sent(spamd, SPAM, reject_threshold=9, action=action))[0].startswith(start)


async def test_the_reply_tells_what_the_text_asks_for(spamd: Spamd) -> None:
    text = "{score} of {threshold}: {tests} {other} {} 100%"
    reply = (await sent(spamd, SIX, reject_threshold=6, text=text))[0]
    assert reply == "554 5.7.1 6.1 of 6: OUR_SENDER, SIX_POINTS {other} {} 100%"


async def test_what_was_found_is_in_the_log_and_in_the_notes(spamd: Spamd) -> None:
    with capture_logs() as logs:
        client = (await sent(spamd, b"\r\nfour points please, six points please\r\n"))[1]
    (line,) = [line for line in logs if line["event"] == "scanned"]
    assert (line["txn"], line["score"], line["required"], line["user"]) == (client.transaction.id, 10.1, 5.0, None)
    assert sorted(line["tests"].split(",")) == ["FOUR_POINTS", "OUR_SENDER", "SIX_POINTS"]
    notes = client.transaction.notes["spamassassin"]
    assert sorted(notes.pop("tests")) == ["FOUR_POINTS", "OUR_SENDER", "SIX_POINTS"]
    assert notes == {"score": 10.1, "required": 5.0, "spam": True}


async def test_observed_only_it_changes_nothing(spamd: Spamd) -> None:
    with capture_logs() as logs:
        reply, client = await sent(spamd, b"X-Spam-Flag: NO\r\n" + SPAM, reject_threshold=9, mode="observe")
    assert (reply, header(client)) == ("250", {"X-Spam-Flag": "NO", "Subject": "offer"})
    assert [line["text"] for line in logs if line["event"] == "would answer"] == ["This message looks like spam"]


@pytest.mark.parametrize("facts", [{"login": "alice"}, {"whitelist_reason": "a friend"}])
async def test_who_is_known_is_not_scanned_unless_that_is_asked_for(spamd: Spamd, facts: dict[str, str]) -> None:
    before = spamd.scans
    options = {"server": spamd.server, "reject_threshold": 9}
    async with gate(spamassassin=options) as postfix:
        assert (await send(postfix, SPAM, **facts))[0] == "250"
    assert spamd.scans == before
    async with gate(spamassassin=options | {"skip_authenticated": False, "skip_whitelisted": False}) as postfix:
        assert (await send(postfix, SPAM, **facts))[0] == REFUSED


# Fields


@pytest.mark.parametrize(
    ("headers", "names"),
    [
        ([], []),
        (["Flag"], ["X-Spam-Flag"]),
        (["x-spam-level", "STATUS"], ["X-Spam-Level", "X-Spam-Status"]),
        (["Custom", "Nothing"], ["X-Spam-Custom"]),
    ],
)
async def test_the_fields_to_add_are_an_option(spamd: Spamd, headers: list[str], names: list[str]) -> None:
    client = (await sent(spamd, SPAM, headers=headers))[1]
    assert list(header(client)) == [*names, "Subject"]


FORGED = (
    b"X-Spam-Flag: NO\r\nX-Spam-Status: No, score=-9\r\n\ttests=ALL_GOOD\r\nX-SPAM-Extra: caf\xe9\r\n"
    b"X-Spam-Prev-Subject: x\r\nX-Spammer: no\r\nX-Spam-Status: No\r\n"
)


@pytest.mark.parametrize("content", [SPAM, HAM])
@pytest.mark.parametrize("preferences", ["report_safe 0", "report_safe 1", "report_safe 2"])
async def test_old_fields_are_dropped_and_do_not_come_back(spamd: Spamd, content: bytes, preferences: str) -> None:
    user = preferences.replace(" ", "_")
    spamd.prefer(user, preferences)
    client = (await sent(spamd, FORGED + content, user=user))[1]
    names = [name for name in header(client) if name not in {"X-Spam-Report", "X-Spam-Flag"}]
    own = ["X-Spam-Checker-Version", "X-Spam-Level", "X-Spam-Status", "X-Spam-Relays", "X-Spam-Custom"]
    assert sorted(names) == sorted([*own, "X-Spammer", "Subject"])
    assert client.message is not None
    assert len(client.message.headers.fields("X-Spam-Status")) == 1
    assert "ALL_GOOD" not in bytes(client.message.headers).decode()


async def test_old_fields_are_renamed_or_kept_where_that_is_asked_for(spamd: Spamd) -> None:
    client = (await sent(spamd, FORGED + HAM, old_headers="rename", headers=["Status"]))[1]
    assert client.message is not None
    assert [field.name for field in client.message.headers] == [
        "X-Spam-Status",
        *("X-Old-Spam-Flag", "X-Old-Spam-Status", "X-Old-SPAM-Extra", "X-Old-Spam-Prev-Subject", "X-Old-Spam-Status"),
        *("X-Spammer", "Subject"),
    ]
    assert client.message.headers.get("X-Old-Spam-Status") == "No, score=-9\ttests=ALL_GOOD"
    assert client.message.headers.get("X-Old-Spam-Extra") == "caf\N{REPLACEMENT CHARACTER}"
    client = (await sent(spamd, FORGED + HAM, old_headers="keep", headers=[]))[1]
    assert client.message is not None
    assert bytes(client.message.headers) == FORGED + b"Subject: minutes\r\n"


async def test_more_old_fields_than_can_be_dropped_are_refused(spamd: Spamd) -> None:
    many = b"".join(b"X-Spam-%d: no\r\n" % number for number in range(51))
    assert (await sent(spamd, many + HAM))[0] == "554 5.6.0 too many X-Spam header fields"
    assert (await sent(spamd, many + HAM, action="allow"))[0] == "554 5.6.0 too many X-Spam header fields"
    assert (await sent(spamd, many + HAM, old_headers="keep"))[0] == "250"
    reply, client = await sent(spamd, many.replace(b"X-Spam-50: no\r\n", b"") + HAM, headers=[])
    assert (reply, list(header(client))) == ("250", ["Subject"])


@pytest.mark.parametrize(
    ("subject", "marked"),
    [
        (b"Subject: offer\r\n", b"Subject: [spam] offer\r\n"),
        (b"subject:offer\r\n\t folded\r\n", b"Subject: [spam] offer\r\n\t folded\r\n"),
        (b"Subject: =?utf-8?q?caf=C3=A9?=\r\n", b"Subject: [spam] =?utf-8?q?caf=C3=A9?=\r\n"),
        (b"Subject: caf\xc3\xa9\r\n", b"Subject: [spam] caf\xc3\xa9\r\n"),
        (b"Subject: caf\xe9\r\n", b"Subject: [spam] =?utf-8?q?caf=EF=BF=BD?=\r\n"),
        (b"Subject: a\0b\r\n", b"Subject: [spam] a b\r\n"),
        (b"Subject: [spam] again\r\n", b"Subject: [spam] again\r\n"),
        (b"Subject:\r\n", b"Subject: [spam] \r\n"),
        (b"Subject: one\r\nSubject: two\r\n", b"Subject: [spam] one\r\nSubject: [spam] two\r\n"),
        (b"", b"Subject: [spam]\r\n"),
    ],
)
async def test_the_subject_gets_its_prefix_and_stays_as_it_is_otherwise(
    spamd: Spamd, subject: bytes, marked: bytes
) -> None:
    client = (await sent(spamd, subject + b"\r\n" + GTUBE, subject_prefix="[spam]", headers=[]))[1]
    assert client.message is not None
    assert bytes(client.message.headers) == marked


async def test_a_subject_that_postfix_would_not_keep_is_cut(spamd: Spamd) -> None:
    client = (await sent(spamd, b"Subject: " + b"x " * 40_000 + b"\r\n\r\n" + GTUBE, subject_prefix="[spam]"))[1]
    assert header(client)["Subject"].startswith("[spam] x x")
    assert len(header(client)["Subject"]) < 1100


async def test_the_prefix_may_tell_the_score_and_need_not_be_ascii(spamd: Spamd) -> None:
    client = (await sent(spamd, SIX, subject_prefix="[Müll {score}/{threshold}]"))[1]
    assert header(client)["Subject"] == "[Müll 6.1/5] minutes"
    encoded = SIX.replace(b"minutes", b"=?utf-8?q?caf=C3=A9?=")
    assert header((await sent(spamd, encoded, subject_prefix="[Müll]"))[1])["Subject"] == "[Müll] café"


# Size


async def test_a_message_over_the_size_limit_is_not_scanned_and_that_is_logged(spamd: Spamd) -> None:
    before = spamd.scans
    with capture_logs() as logs:
        reply, client = await sent(spamd, b"X-Spam-Flag: NO\r\n" + SPAM, size_limit=len(SPAM) + 16, reject_threshold=9)
    assert (reply, spamd.scans - before) == ("250", 0)
    assert header(client) == {"Subject": "offer"}
    assert "spamassassin" not in client.transaction.notes
    (line,) = [line for line in logs if line["event"] == "too large to be scanned"]
    assert (line["size"], line["limit"]) == (len(SPAM) + 17, len(SPAM) + 16)
    assert (await sent(spamd, SPAM, size_limit=len(SPAM), reject_threshold=9))[0] == REFUSED
    assert spamd.scans - before == 1


async def test_a_message_that_lies_in_a_file_is_scanned_whole(spamd: Spamd) -> None:
    content = SPAM + b"x" * 70 + (b"x" * 70 + b"\r\n") * 30_000
    with capture_logs() as logs:
        assert (await sent(spamd, content, size_limit="4 MiB", reject_threshold=9))[0] == REFUSED
    assert [line["size"] for line in logs if line["event"] == "scanned"] == [len(content)]
