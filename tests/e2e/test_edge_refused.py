"""Recipients that Postfix itself refuses: what plugins hear of them at the edge, and when they lead to a hang-up."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tests.e2e.edge_rig import TELLS, put_edge_on_front, wait_until_left
from tests.e2e.postfix_rig import SmtpClient, queue_id

if TYPE_CHECKING:
    from tests.e2e.gate import Gate


@pytest.fixture(scope="module")
def edge_gate(module_gate: Gate) -> Gate:
    """Put the edge on the front, which refuses some recipients by itself."""
    put_edge_on_front(module_gate)
    return module_gate


@pytest.fixture
def tells(edge_gate: Gate, gate: Gate) -> Gate:
    wait_until_left(gate)
    gate.use(hooks={"tells": TELLS}, milter={"edge": True})
    return gate


def test_a_refused_recipient_is_told_with_postfixs_words(tells: Gate) -> None:
    seen = tells.daemon.log_size()
    with tells.client() as client:
        replies = client.transaction(b"nobody@example.org", b"later@example.org", b"rcpt@example.org")
        assert [reply[:3] for reply in replies] == [b"550", b"450", b"250"]
        queue_id(client.content(b"Subject: x\r\n\r\nx\r\n.\r\n"))
    tells.daemon.wait_for_log("saw reset", since=seen)
    log = tells.daemon.log(seen)
    assert re.search(r"rcpt=nobody@example.org outcome=refused code=550 enhanced=5.1.1 why=.*no such user, 5%", log)
    assert re.search(r"rcpt=later@example.org outcome=deferred code=450 enhanced=4.2.0 why=.*busy.* offered=2", log)
    assert "nobody@example.org=refused later@example.org=deferred rcpt@example.org=accepted" in log
    assert log.count("saw reset") == log.count("saw mail") == 1


def test_a_recipient_that_postfix_accepts_for_error_is_not_taken_for_refused(tells: Gate) -> None:
    settings = {
        "transport_maps": "inline:{{gone@example.org=error:5.1.6 moved away}}",
        "smtpd_reject_unlisted_recipient": "no",
    }
    before = {
        "transport_maps": tells.postfix.postconf("-h", "transport_maps"),
        "smtpd_reject_unlisted_recipient": "yes",
    }
    tells.postfix.postconf_edit(settings)
    tells.postfix.reload()
    try:
        seen = tells.daemon.log_size()
        with tells.client() as client:
            assert client.transaction(b"gone@example.org") == [b"250 2.1.5 Ok\r\n"]
            queue_id(client.content(b"Subject: x\r\n\r\nx\r\n.\r\n"))
        tells.daemon.wait_for_log("saw disconnect", since=seen)
        log = tells.daemon.log(seen)
        assert "saw refused" not in log
        assert re.search(r"rcpt=\"?gone@example.org=accepted", log)
    finally:
        tells.postfix.postconf_edit(before)
        tells.postfix.reload()


def test_what_postfix_refuses_at_once_is_not_told(tells: Gate) -> None:
    refuses = {
        "smtpd_delay_reject": "no",
        "smtpd_helo_restrictions": "check_helo_access inline:{{bad.example=reject}}",
        "smtpd_sender_restrictions": "check_sender_access inline:{{bad@example.com=reject}}",
    }
    tells.postfix.postconf_edit(refuses)
    tells.postfix.reload()
    try:
        seen = tells.daemon.log_size()
        with SmtpClient(tells.postfix.front_port, helo=None) as client:
            assert client.command(b"EHLO bad.example").startswith(b"554 5.7.1 ")
            assert client.command(b"EHLO good.example").startswith(b"250")
            assert client.command(b"MAIL FROM:<bad@example.com>").startswith(b"554 5.7.1 ")
            assert client.command(b"MAIL FROM:<a@example.com> SIZE=999999999").startswith(b"552 ")
            client.command(b"RSET")  # Postfix remembers the size
            assert client.transaction(b"a@b..c") == [b"501 5.1.3 Bad recipient address syntax\r\n"]
            assert client.command(b"MAIL FROM:<a@example.com>").startswith(b"503 ")
            client.command(b"RSET")
            queue_id(client.message())
        tells.daemon.wait_for_log("saw disconnect", since=seen)
        saw = re.findall(r'event="saw (\w+)"', tells.daemon.log(seen))
        assert saw == ["connect", "helo", "mail", "reset", "mail", "reset", "disconnect"]
    finally:
        tells.postfix.postconf_edit(dict.fromkeys(refuses, "") | {"smtpd_delay_reject": "yes"})
        tells.postfix.reload()


COUNTS = '[[plugin]]\nname = "count_denies"\nlimit = 1\n'
GONE = b"421 4.7.1 too many refused commands\r\n"
"""Not 521: it is given to a recipient or message that nobody has refused."""


@pytest.fixture
def counts(edge_gate: Gate, gate: Gate) -> Gate:
    gate.use(COUNTS, milter={"edge": True})
    return gate


def test_a_dictionary_attack_is_hung_up_on_at_the_next_recipient_that_postfix_accepts(counts: Gate) -> None:
    with counts.client() as client:
        replies = client.transaction(b"nobody@example.org", b"nobody@example.org", b"rcpt@example.org")
        assert [reply[:3] for reply in replies] == [b"550", b"550", b"421"]
        assert replies[2] == GONE
        assert client.hung_up()


def test_it_is_hung_up_on_too_when_it_has_found_one_before(counts: Gate) -> None:
    with counts.client() as client:
        replies = client.transaction(b"a@example.org", b"nobody@example.org", b"nobody@example.org", b"b@example.org")
        assert [reply[:3] for reply in replies] == [b"250", b"550", b"550", b"421"]
        assert client.hung_up()


@pytest.mark.parametrize("said", [b"MAIL FROM:<a@example.com>", b"BOGUS"])
def test_it_is_hung_up_on_at_its_next_command_of_ours(counts: Gate, said: bytes) -> None:
    with counts.client() as client:
        client.transaction(b"nobody@example.org", b"nobody@example.org")
        client.command(b"RSET")
        assert client.command(said) == GONE
        assert client.hung_up()


def test_a_hang_up_takes_the_place_of_a_refused_message_and_never_of_an_accepted_one(counts: Gate) -> None:
    counts.use(
        COUNTS + '[[plugin]]\nname = "judges"\n',
        hooks={
            "judges": """
            class Judges(Plugin):
                def data_post(self, transaction, message):
                    match transaction.sender.local:
                        case "bad":
                            return Deny("bad content")
                        case "soft":
                            return DenySoft("soft content")
            """
        },
        milter={"edge": True},
    )
    for sender, reply in (
        (b"good@example.com", b"250"),
        (b"bad@example.com", b"521 5.7.1 too many refused commands\r\n"),
        (b"soft@example.com", GONE),
    ):
        with counts.client() as client:
            client.transaction(b"a@example.org", b"nobody@example.org", b"nobody@example.org", sender=sender)
            assert client.content(b"Subject: x\r\n\r\nx\r\n.\r\n").startswith(reply)


def test_recipients_that_postfix_put_off_do_not_count(counts: Gate) -> None:
    with counts.client() as client:
        client.transaction(b"later@example.org", b"later@example.org", b"later@example.org")
        client.command(b"RSET")
        queue_id(client.message())
