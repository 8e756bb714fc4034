"""rspamd, with a real one: what its actions come to, what is taken over of its answer, and what it is told."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from tests.e2e.postfix_rig import wait_until
from tests.rigs.rspamd_rig import GTUBE, GTUBE_ADD_HEADER, GTUBE_REWRITE_SUBJECT, MAX_MESSAGE_BYTES, Rspamd, mail

from gatepost import Address, Deny, Message, Plugin, Transaction
from gatepost.errors import ConfigError
from gatepost.message.edit import AddRecipient, ChangeSender, DeleteRecipient, Quarantine
from gatepost.option import Overrides
from gatepost.testing import gate

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.testing import Client


@pytest.fixture(scope="module")
def rspamd() -> Iterator[Rspamd]:
    with Rspamd() as running:
        yield running


async def send(rspamd: Rspamd, content: bytes, **options: Any) -> tuple[str, Client]:
    """Return the reply to one message, and the client that sent it."""
    async with gate(rspamd={"server": rspamd.server, **options}) as postfix:
        client = postfix.client()
        reply = await client.send("a@example.net", "b@example.org", content=content)
        return reply.encode().decode().strip(), client


def edited(client: Client) -> Message:
    assert client.message is not None
    return client.message


def added(client: Client) -> list[str]:
    """Return the fields that the message has more than `mail` gives each."""
    fields = [f"{field.name}: {field.value}" for field in edited(client).headers]
    return [field for field in fields if not field.startswith(("From:", "Subject: hello", "X-Action:", "X-Reply:"))]


SPAM = mail(body=GTUBE)


async def test_what_rspamd_rejects_is_refused(rspamd: Rspamd) -> None:
    reply, client = await send(rspamd, SPAM)
    assert reply == "554 5.7.1 Gtube pattern"
    assert client.transaction.notes["rspamd"] == {
        "action": "reject",
        "score": 15.0,
        "required_score": 3000.0,
        "skipped": True,
        "symbols": {"GTUBE": 0.0},
    }


@pytest.mark.parametrize(
    ("content", "options", "reply"),
    [
        (mail(b"X-Points: 20"), {}, "554 5.7.1 Spam message rejected"),
        (mail(b"X-Action: reject; Not you again"), {}, "554 5.7.1 Not you again"),
        (mail(b"X-Action: reject; Not you again"), {"text": "No spam"}, "554 5.7.1 No spam"),
        (mail(b"X-Action: soft reject; Come back later"), {}, "451 4.7.1 Come back later"),
        (mail(b"X-Action: soft reject"), {}, "451 4.7.1 Try again later"),
        (mail(b"X-Action: soft reject"), {"soft_reject": "deny"}, "554 5.7.1 Spam message rejected"),
        (mail(b"X-Action: discard; psst"), {}, "554 5.7.1 Spam message rejected"),
        (mail(b"X-Action: reject", reply={"reject": "discard"}), {"discard": "defer"}, "451 4.7.1 Try again later"),
        (SPAM, {"reject": "deny_disconnect"}, "521 5.7.1 Gtube pattern"),
        (SPAM, {"reject": "defer_disconnect"}, "421 4.7.1 Gtube pattern"),
        (mail(b"X-Points: 5"), {"greylist": "defer"}, "451 4.7.1 Try again later"),
        (mail(b"X-Points: 6"), {"add_header": "Reject"}, "554 5.7.1 Spam message rejected"),
        (mail(body=GTUBE_REWRITE_SUBJECT), {"rewrite_subject": "deny"}, "554 5.7.1 Spam message rejected"),
        (mail(b"X-Action: hold my beer"), {"other": "defer"}, "451 4.7.1 Try again later"),
    ],
)
async def test_actions_that_refuse(rspamd: Rspamd, content: bytes, options: dict[str, str], reply: str) -> None:
    assert (await send(rspamd, content, **options))[0] == reply


@pytest.mark.parametrize(
    ("content", "options", "fields"),
    [
        (mail(), {}, []),
        (mail(b"X-Action: greylist"), {}, []),
        (mail(b"X-Action: hold my beer"), {}, []),
        (SPAM, {"reject": "allow"}, []),
        (SPAM, {"reject": "tag"}, ["X-Spam: Yes"]),
        (mail(b"X-Spam: Forged", b"X-SPAM: Twice", body=GTUBE_ADD_HEADER), {}, ["X-Spam: Yes"]),
        (mail(body=GTUBE_ADD_HEADER), {"spam_header": "X-Junk"}, ["X-Junk: Yes"]),
        (mail(b"X-Action: add header", reply={"spam_header": "Maybe"}), {}, ["X-Spam: Maybe"]),
        (mail(b"X-Action: add header", reply={"spam_header": {"X-A": "1", "X-B": "2"}}), {}, ["X-A: 1", "X-B: 2"]),
        (mail(body=GTUBE_REWRITE_SUBJECT), {}, ["Subject: [SPAM] hello"]),
        (mail(b"X-Action: reject", reply={"no_action": True}), {}, ["X-Rspamd-Action: reject"]),
    ],
)
async def test_actions_that_mark(rspamd: Rspamd, content: bytes, options: dict[str, str], fields: list[str]) -> None:
    reply, client = await send(rspamd, content, **options)
    assert reply.startswith("250"), reply
    # rspamd keeps no order of names.
    assert sorted(added(client)) == fields


@pytest.mark.parametrize(
    "content",
    [mail(b"X-Action: quarantine"), mail(b"X-Action: reject", reply={"reject": "quarantine"})],
)
async def test_quarantine_lets_postfix_hold_it(rspamd: Rspamd, content: bytes) -> None:
    _, client = await send(rspamd, content)
    (edit,) = edited(client).edits
    assert isinstance(edit, Quarantine)
    assert edit.reason.startswith("rspamd: ")


async def test_fields_of_our_own_take_the_place_of_forged_ones(rspamd: Rspamd) -> None:
    names = ["X-Spam-Status", "X-Spam-Score", "X-Spam-Level", "X-Spam-Symbols", "X-Spam-Action"]
    forged = [f"{name}: forged".encode() for name in names]
    _, client = await send(rspamd, mail(*forged, b"X-Points: 7.25"), headers=names)
    assert added(client) == [
        "X-Points: 7.25",
        "X-Spam: Yes",
        "X-Spam-Status: Yes, score=7.25 required=3000.00",
        "X-Spam-Score: 7.25",
        "X-Spam-Level: *******",
        "X-Spam-Symbols: POINTS(7.25)",
        "X-Spam-Action: add header",
    ]
    _, client = await send(rspamd, mail(*forged), headers=["X-Spam-Level", "X-Spam-Symbols"])
    assert added(client) == ["X-Spam-Status: forged", "X-Spam-Score: forged", "X-Spam-Action: forged"]


async def test_header_edits_are_taken_over_with_their_places(rspamd: Rspamd) -> None:
    edits = {
        "remove_headers": {"X-Reply": 0, "X-Old": -1, "X-Older": 1, "X-Absent": 3},
        "add_headers": {
            "X-Top": {"value": "1", "order": 0},
            "X-Last-But-One": {"value": "2", "order": -2},
            "X-Folded": "a;\r\n\tb;\n c",
            "X-Several": ["3", {"value": "\u00fc"}],
        },
    }
    old = (b"X-Old: 1", b"X-Old: 2", b"X-Older: 1", b"X-Older: 2")
    _, client = await send(rspamd, mail(*old, reply=edits))
    fields = [f"{field.name}: {field.value}" for field in edited(client).headers]
    assert fields[0] == "X-Top: 1"
    assert [field for field in fields if field.startswith("X-Old")] == ["X-Old: 1", "X-Older: 2"]
    assert sorted(fields[5:]) == ["X-Folded: a;\tb; c", "X-Last-But-One: 2", "X-Several: 3", "X-Several: \u00fc"]
    assert b"X-Folded: a;\r\n\tb;\r\n c\r\n" in bytes(edited(client).headers)
    assert not any(field.startswith("X-Reply") for field in fields)


async def test_what_would_break_the_message_is_left_out_and_told(
    rspamd: Rspamd, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {
        "add_headers": {
            "X-Evil": "a\r\nX-Injected: 1",
            "X-Body": "a\r\n\r\nbody",
            "X Blank": "a",
            "X-Colon:": "a",
            "X-Number": 7,
            "N" * 500: "a",
            "X-Good": "a",
        },
        "remove_headers": {"Subject": "all", "X-Reply": 0},
        "change_from": "not\r\nan address",
        "add_rcpt": ["x@example.net\r\nDATA", ""],
        "del_rcpt": ["b@example.org"],
    }
    _, client = await send(rspamd, mail(reply=bad))
    assert added(client) == ["X-Good: a"]
    assert edited(client).recipients == (Address("b", "example.org"),)
    log = capsys.readouterr().out
    for name in ("X-Evil", "X-Body", "X Blank", "X-Colon:", "X-Number", "500 characters", "Subject"):
        assert name in log
    for name in ("change_from", "add_rcpt", "del_rcpt"):
        assert name in log


async def test_sender_and_recipients_are_taken_over(rspamd: Rspamd) -> None:
    edits = {"change_from": "<new@example.com>", "add_rcpt": ["c@example.org"], "del_rcpt": ["b@example.org"]}
    _, client = await send(rspamd, mail(reply=edits))
    assert edited(client).edits == (
        ChangeSender(Address("new", "example.com")),
        AddRecipient(Address("c", "example.org")),
        DeleteRecipient(Address("b", "example.org")),
    )
    _, client = await send(rspamd, mail(reply=edits), milter_envelope=False)
    assert edited(client).edits == ()
    _, client = await send(rspamd, mail(reply={"add_headers": {"X-A": "1"}}), milter_headers=False)
    assert edited(client).edits == ()


async def told(client: Client, sender: str, *recipients: str) -> dict[str, Any]:
    """Return what rspamd says that it was told."""
    reply = await client.send(sender, *recipients, content=mail(b"X-Echo: yes"))
    assert reply.code == 250
    (field,) = edited(client).headers.fields("X-Told")
    found: dict[str, Any] = json.loads(field.value)
    return found


async def test_rspamd_is_told_all_that_is_known_of_the_client(rspamd: Rspamd) -> None:
    options = {"settings_id": "strict", "mta_name": "mx.example.org", "mta_tag": "in", "password": "secret"}
    async with gate(rspamd={"server": rspamd.socket, **options}) as postfix:
        facts = {"login": "anna", "tls_version": "TLSv1.3", "tls_cipher": "TLS_AES_256_GCM_SHA384"}
        client = postfix.client("2001:db8::1", name="host.example", helo="h\u00e9lo\r\nIP: 192.0.2.66", **facts)
        assert await told(client, "a@example.net", "b@example.org") == {
            "from": "a@example.net",
            "rcpt": ["b@example.org"],
            "Deliver-To": "b@example.org",
            "ip": "2001:db8::1",
            "hostname": "host.example",
            "helo": "h\u00e9lo??IP: 192.0.2.66",
            "user": "anna",
            "Queue-Id": client.transaction.id,
            "MTA-Name": "mx.example.org",
            "MTA-Tag": "in",
            "Settings-ID": "strict",
            "TLS-Version": "TLSv1.3",
            "TLS-Cipher": "TLS_AES_256_GCM_SHA384",
            "Password": "secret",
            "User-Agent": "gatepost",
            "size": len(mail(b"X-Echo: yes")),
        }


async def test_a_null_sender_and_many_recipients(rspamd: Rspamd) -> None:
    async with gate(rspamd={"server": rspamd.server}) as postfix:
        client = postfix.client("unknown", helo=None)
        few = await told(client, "", "b@example.org", "c@example.org", '"odd one"@example.org', "caf\u00e9@example.org")
        # rspamd 3.4 passes over an address that is not ASCII.
        assert (few["from"], few["rcpt"][:3]) == ("", ["b@example.org", "c@example.org", "odd one@example.org"])
        assert not {"Deliver-To", "helo", "hostname", "user"} & few.keys()
        # Postfix takes a thousand; so many bytes of them would make rspamd break off.
        names = [f"{'x' * 200}{number}@example.org" for number in range(1000)]
        assert (await client.send("a@example.net", *names, content=mail())).code == 250
        assert client.transaction.notes["rspamd"]["action"] == "no action"


async def test_one_scan_for_recipients_that_disagree_unless_rspamd_is_asked_something_else(rspamd: Rspamd) -> None:
    async with gate(content={"disagree": "lenient"}, rspamd={"server": rspamd.server}) as postfix:
        for options, scans in (({"reject": "tag"}, 1), ({"reject": "tag", "settings_id": "other"}, 2)):
            client = postfix.client()
            await client.mail()
            for name in ("b", "c"):
                await client.rcpt(f"{name}@example.org")
            client.transaction.recipients[1].override(Overrides({"rspamd": options}))
            reply = await client.data(f"Message-ID: <{scans}@example.net>\r\n".encode() + SPAM)
            assert reply.code == 250
            # It logs a scan when it has answered.
            await asyncio.to_thread(wait_until, lambda: rspamd.scans_of(f"<{scans}@example.net>") >= scans)  # noqa: B023
            assert rspamd.scans_of(f"<{scans}@example.net>") == scans
            assert added(client) == [f"Message-ID: <{scans}@example.net>", "X-Spam: Yes"]


async def test_large_messages_are_streamed_and_very_large_ones_not_scanned(rspamd: Rspamd) -> None:
    large = mail(b"X-Echo: yes", body=b"x" * 76 + b"\r\n" + b"y" * (6 << 20))
    _, client = await send(rspamd, large)
    field = edited(client).headers.get("X-Told")
    assert field is not None
    assert json.loads(field)["size"] == edited(client)._body.size + len(mail(b"X-Echo: yes", body=b""))
    reply, client = await send(rspamd, large, size_limit="1 MiB")
    assert (reply[:3], added(client), client.transaction.notes) == ("250", ["X-Echo: yes"], {})


async def test_senders_of_what_rspamd_does_not_take_leave_it_in_service(rspamd: Rspamd) -> None:
    async with gate(rspamd={"server": rspamd.server}) as postfix:
        client = postfix.client()
        too_large = mail(body=b"y\r\n" * (MAX_MESSAGE_BYTES // 2))
        for _ in range(4):
            assert (await client.send("a@example.net", "b@example.org", content=too_large)).code == 451
        assert (await client.send("a@example.net", "b@example.org", content=mail())).code == 250


PARTS = b"--b\r\nContent-Type: text/plain\r\n\r\nx\r\n" * 10_000


async def test_thousands_of_fields_that_it_wants_removed_are_refused(rspamd: Rspamd) -> None:
    forged = mail(*[b"X-Spam: forged"] * 2000, reply={"remove_headers": {"X-Spam": 0}})
    assert (await send(rspamd, forged))[0] == "554 5.6.0 the message has too many header fields that do not stay"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\r\n",
        b"no header at all\r\n",
        mail(b"Subject: \xff\xfe\x01", b"Message-Id: <\xff\x80@x>", body=bytes(range(256)) * 100),
        mail(b"MIME-Version: 1.0", b"Content-Type: multipart/mixed; boundary=b", body=PARTS),
        mail(*[b"X-Spam: forged"] * 900, *[b"X-Other: y"] * 4000, reply={"remove_headers": {"X-Spam": 0}}),
    ],
    ids=["empty", "no header", "no field", "not UTF-8", "10,000 parts", "5,000 fields"],
)
async def test_odd_messages_are_judged(rspamd: Rspamd, content: bytes) -> None:
    reply, client = await send(rspamd, content)
    assert reply.startswith("250"), reply
    assert client.transaction.notes["rspamd"]["action"] == "no action"
    assert "X-Spam" not in edited(client).headers


class Neighbour(Plugin):
    """A scanner, too."""

    scanner = True

    def data_post(self, transaction: Transaction, message: Message) -> Deny | None:
        message.delete_header("X-Old", None)
        message.add_header("X-Neighbour", "was here")
        return Deny("a virus") if "X-Virus" in message.headers else None


async def test_scanners_beside_it_keep_their_edits_and_their_turn(rspamd: Rspamd) -> None:
    block = {"remove_headers": {"X-Old": 0}, "add_headers": {"X-Top": {"value": "1", "order": 1}, "X-End": "2"}}
    async with gate(Neighbour, rspamd={"server": rspamd.server}) as postfix:
        client = postfix.client()
        assert (await client.send("a@example.net", "b@example.org", content=mail(b"X-Old: 1", reply=block))).code == 250
        assert added(client) == ["X-Top: 1", "X-Neighbour: was here", "X-End: 2"]
        reply = await client.send("a@example.net", "b@example.org", content=mail(b"X-Virus: 1", body=GTUBE))
        assert reply.lines == ("a virus",)


async def test_observed_it_changes_nothing(rspamd: Rspamd) -> None:
    for content in (SPAM, mail(body=GTUBE_ADD_HEADER)):
        reply, client = await send(rspamd, content, mode="observe")
        assert (reply[:3], edited(client).edits) == ("250", ())
        assert client.transaction.notes["rspamd"]["symbols"] == {"GTUBE": 0.0}


async def test_who_is_scanned(rspamd: Rspamd) -> None:
    async with gate(rspamd={"server": rspamd.server}) as postfix:
        user = postfix.client(login="anna")
        assert (await user.send("a@example.net", "b@example.org", content=SPAM)).code == 554
        friend = postfix.client()
        friend.session.whitelist("a friend")
        assert (await friend.send("a@example.net", "b@example.org", content=SPAM)).code == 250


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"server": "localhost"}, "write HOST:PORT"),
        ({"server": []}, "a list of several"),
        ({"reject": "bounce"}, "or quarantine, or tag"),
        ({"headers": ["X-Other"]}, "X-Spam-Score"),
        ({"spam_header": "X Spam"}, "spam_header"),
        ({"greylisting": "defer"}, "greylist"),
    ],
)
async def test_wrong_options_stop_the_start(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        async with gate(rspamd=options):
            pass


def test_without_the_plugin_its_library_is_not_loaded() -> None:
    code = "import gatepost, gatepost.testing, sys; print('aiohttp' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
