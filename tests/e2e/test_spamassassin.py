"""SpamAssassin in front of a real Postfix: spam is refused while the client is on the line, the rest is marked."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import SmtpClient, queue_id
from tests.e2e.sasl_rig import auth_plain
from tests.rigs.spamd_rig import GTUBE, Spamd

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.gate import Gate
    from tests.e2e.sasl_rig import Accounts

SPAM = b"Subject: offer\r\n\r\n" + GTUBE + b"\r\n.\r\n"
HEADER = (
    b"X-Spam-Flag: NO\r\nFrom:  a@example.com\r\nX-Spam-Status: No,\r\n\tscore=-9\r\n"
    b"Subject:\tcaf\xc3\xa9\r\n folded \r\n"
)
BODY = b"six points please\r\n..dot\r\n\r\ncaf\xe9\r\n"
REFUSED = b"554 5.7.1 This message looks like spam\r\n"

ALIASES = """
patient@example.org: patient@example.org (spamassassin_reject_threshold=2000)
strict@example.org: strict@example.org (spamassassin.reject_threshold=3)
bob@example.org: bob@example.org
impatient@example.org: impatient@example.org (spamassassin.timeout=500ms)
"""


@pytest.fixture(scope="module")
def spamd() -> Iterator[Spamd]:
    with Spamd() as running:
        yield running


def use(gate: Gate, spamd: Spamd, *options: str, disagree: str = "defer-rest") -> None:
    plugin = "\n".join(['[[plugin]]\nname = "spamassassin"', f'server = "{spamd.server}"', *options])
    aliases = '[[plugin]]\nname = "aliases"\nfile = "aliases"\n'
    gate.use(aliases + plugin, files={"aliases": ALIASES}, content={"disagree": disagree})


def client_from(gate: Gate, address: str) -> SmtpClient:
    client = gate.client()
    assert client.command(f"XCLIENT NAME=[UNAVAILABLE] ADDR={address}".encode()).startswith(b"220")
    client.command(b"EHLO client.example.com")
    return client


def test_spam_is_refused_at_the_dot(gate: Gate, spamd: Spamd) -> None:
    use(gate, spamd, "reject_threshold = 10")
    with gate.client() as client:
        assert client.message(SPAM, b"bob@example.org") == REFUSED
        assert gate.postfix.queue() == []
        queue_id(client.message(b"Subject: minutes\r\n\r\nas discussed\r\n.\r\n", b"bob@example.org"))


def test_a_marked_message_differs_in_the_marks_alone(gate: Gate, spamd: Spamd) -> None:
    use(gate, spamd, 'headers = ["Flag", "Status"]', 'subject_prefix = "[spam]"')
    queue_id(gate.send(HEADER + b"\r\n" + BODY + b".\r\n", b"bob@example.org"))
    text = gate.take()[1]
    text = re.sub(rb"Received: .*\r\n(?:[ \t].*\r\n)*", b"", text)
    assert text.startswith(b"X-Spam-Flag: YES\r\nX-Spam-Status: Yes, score=6.0 required=5.0 tests=SIX_POINTS")
    rest = re.sub(rb"X-Spam-Status: .*\r\n(?:[ \t].*\r\n)*", b"", text.removeprefix(b"X-Spam-Flag: YES\r\n"))
    assert rest == (
        b"From:  a@example.com\r\nSubject: [spam] caf\xc3\xa9\r\n folded \r\n\r\n" + BODY.replace(b"..", b".")
    )


def test_a_message_that_gets_no_mark_is_the_same_to_the_byte(gate: Gate, spamd: Spamd) -> None:
    before = spamd.scans
    use(gate, spamd, "headers = []", 'old_headers = "keep"')
    queue_id(gate.send(HEADER + b"\r\n" + BODY + b".\r\n", b"bob@example.org"))
    text = re.sub(rb"Received: .*\r\n(?:[ \t].*\r\n)*", b"", gate.take()[1])
    assert text == HEADER + b"\r\n" + BODY.replace(b"..", b".")
    assert spamd.scans - before == 1


@pytest.mark.parametrize(
    ("address", "sender", "ip", "envelope"),
    [
        ("192.0.2.77", b"alice@sender.example", "192.0.2.77", "alice@sender.example"),
        ("IPV6:2001:db8::7", b"alice@sender.example", "2001:db8::7", "alice@sender.example"),
        ("192.0.2.77", b"", "192.0.2.77", ""),
    ],
)
def test_spamd_is_told_of_the_client_once(
    gate: Gate, spamd: Spamd, address: str, sender: bytes, ip: str, envelope: str
) -> None:
    use(gate, spamd)
    with client_from(gate, address) as client:
        queue_id(client.message(b"Subject: x\r\n\r\nx\r\n.\r\n", b"bob@example.org", sender=sender))
    text = gate.take()[1].decode().replace("\r\n\t", " ")
    (told,) = re.findall(r"(?m)^X-Spam-Relays: (.*?) *\r$", text)
    assert told.endswith("] /")
    assert told.count("ip=") == 1
    assert told.startswith(f"[ ip={ip} rdns= helo=client.example.com by=mx.gatepost.test ")
    assert f" envfrom={envelope} " in told
    assert ("NULL_SENDER" in text) == (sender == b"")


def relays(gate: Gate) -> str:
    """Return what spamd made of the Received fields of the only message in the queue."""
    (told,) = re.findall(r"(?m)^X-Spam-Relays: (.*?) *\r$", gate.take()[1].decode().replace("\r\n\t", " "))
    return str(told).strip()


def test_spamd_is_told_of_a_login_without_the_edge_door(gate: Gate, spamd: Spamd, accounts: Accounts) -> None:
    accounts.add("ada", "secret")
    accounts.enable(gate.postfix)
    use(gate, spamd)
    with client_from(gate, "192.0.2.77") as client:
        assert client.command(auth_plain("ada", "secret")).startswith(b"235")
        queue_id(client.message(b"Subject: x\r\n\r\nx\r\n.\r\n", b"bob@example.org"))
    assert re.fullmatch(r"/ \[ ip=192\.0\.2\.77 .* auth=ESMTPA .*\]", relays(gate))


def test_spamd_is_told_of_the_client_where_postfix_hides_it(gate: Gate, spamd: Spamd) -> None:
    use(gate, spamd)
    gate.postfix.postconf_edit({"header_checks": "regexp:{{/^Received: from client/ IGNORE}}"})
    gate.postfix.reload()
    try:
        with client_from(gate, "192.0.2.77") as client:
            queue_id(client.message(b"Subject: x\r\n\r\nx\r\n.\r\n", b"bob@example.org"))
        told = relays(gate)
        assert told.startswith("[ ip=192.0.2.77 rdns= helo=client.example.com by=")
        # Postfix, before the queue, has no id to tell; ours is the transaction's.
        assert re.search(r" id=\w+\.1 ", told)
    finally:
        gate.postfix.postconf_edit({"header_checks": ""})
        gate.postfix.reload()


def test_a_message_over_the_limit_passes_unscanned_and_without_a_forged_mark(gate: Gate, spamd: Spamd) -> None:
    use(gate, spamd, 'size_limit = "1 MiB"', "reject_threshold = 10")
    before = spamd.scans
    content = b"X-Spam-Status: No\r\nSubject: large\r\n\r\n" + GTUBE + b"\r\n" + (b"x" * 70 + b"\r\n") * 300_000
    seen = gate.daemon.log_size()
    queue_id(gate.send(content + b".\r\n", b"bob@example.org"))
    gate.daemon.wait_for_log("too large to be scanned", since=seen)
    text = gate.take()[1]
    assert b"\r\nX-Spam" not in text.partition(b"\r\n\r\n")[0]
    assert text.partition(b"\r\n\r\n")[2] == content.partition(b"\r\n\r\n")[2]
    assert spamd.scans == before


def test_recipients_who_differ_are_sent_apart(gate: Gate, spamd: Spamd) -> None:
    use(gate, spamd, "reject_threshold = 10")
    before = spamd.scans
    with gate.client() as client:
        replies = client.transaction(b"patient@example.org", b"strict@example.org", b"bob@example.org")
        assert [reply[:9] for reply in replies] == [b"250 2.1.5", b"452 4.5.3", b"452 4.5.3"]
        queue_id(client.content(SPAM))
        for recipient in (b"strict@example.org", b"bob@example.org"):
            assert client.message(SPAM, recipient) == REFUSED
    (entry,) = gate.queue()
    assert [*entry.recipients] == ["patient@example.org"]
    assert spamd.scans - before == 3


def test_leniently_they_get_it_together_after_one_scan(gate: Gate, spamd: Spamd) -> None:
    use(gate, spamd, "reject_threshold = 10", disagree="lenient")
    before = spamd.scans
    names = (b"strict@example.org", b"bob@example.org", b"patient@example.org")
    queue_id(gate.send(SPAM, *names))
    (entry,) = gate.queue()
    assert sorted(entry.recipients) == sorted(name.decode() for name in names)
    assert spamd.scans - before == 1
    assert gate.send(SPAM, *names[:2]) == REFUSED
    assert spamd.scans - before == 2


def test_a_spamd_that_dies_or_stands_still_puts_mail_off(gate: Gate) -> None:
    with Spamd() as mortal:
        use(gate, mortal, "reject_threshold = 10")
        assert gate.send(SPAM, b"bob@example.org") == REFUSED
        seen = gate.daemon.log_size()
        with mortal.paused():
            # Only here: on a busy machine a scan takes longer than that.
            assert gate.send(SPAM, b"impatient@example.org").startswith(b"451 4.3.0 ")
        gate.daemon.wait_for_log("no answer within", since=seen)
        seen = gate.daemon.log_size()
        mortal.stop()
        assert gate.send(SPAM, b"bob@example.org").startswith(b"451 4.3.0 ")
        gate.daemon.wait_for_log(f"server={mortal.server}", since=seen)
        mortal.start()
        assert gate.send(SPAM, b"bob@example.org") == REFUSED
    assert gate.queue() == []
