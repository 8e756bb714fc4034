"""Mail that nobody refuses arrives as it was sent, whatever the client's way of sending it. On both event loops."""

from __future__ import annotations

import random
import re
import smtplib
import subprocess
from email.message import EmailMessage
from typing import TYPE_CHECKING

import pytest
from tests.e2e.gate import MESSAGE, rss_bytes
from tests.e2e.postfix_rig import SmtpClient, queue_id, wait_until

if TYPE_CHECKING:
    from tests.e2e.gate import Gate

# A content plugin that looks at everything and changes nothing, and one that adds a header.
READS = """
class Reads(Plugin):
    def data_post(self, transaction, message):
        with message.open() as whole:
            while whole.read(65536):
                pass
"""
ADDS = """
class Adds(Plugin):
    def data_post(self, transaction, message):
        message.add_header("X-Added", "by a test")
"""
PLUGINS = {"none": {}, "reads": {"reads": READS}, "adds": {"adds": ADDS}}
ADDED = b"X-Added: by a test\r\n"


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest) -> str:
    loop: str = request.param
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    return loop


# The client's ways


def test_several_recipients_are_one_message(gate: Gate) -> None:
    recipients = [f"r{n}@example.org" for n in range(30)]
    assert gate.send(MESSAGE, *map(str.encode, recipients)).startswith(b"250 2.0.0 Ok: queued as")
    entry, _ = gate.take()
    assert sorted(entry.recipients) == sorted(recipients)


def test_several_messages_of_a_client_share_a_session(gate: Gate) -> None:
    source = """
    class Counts(Plugin):
        def connect(self, session):
            self.notes(session)["connects"] = self.notes(session).get("connects", 0) + 1

        def helo(self, session, name):
            self.notes(session)["helos"] = self.notes(session).get("helos", 0) + 1

        def data_post(self, transaction, message):
            notes = self.notes(transaction.session)
            notes["messages"] = notes.get("messages", 0) + 1
            message.add_header("X-Count", f"{notes['connects']} {notes['helos']} {notes['messages']} {transaction.id}")
    """
    gate.use(hooks={"counts": source})
    with gate.client() as client:
        ids = [queue_id(client.message()) for _ in range(3)]
    with gate.client() as client:
        ids.append(queue_id(client.message()))
    counts = [re.search(rb"X-Count: (\d) (\d) (\d) (\w+)\.(\d)\n", gate.postfix.message(one)) for one in ids]
    found = [count.groups() for count in counts if count]
    assert [one[:3] + one[4:] for one in found] == [
        (b"1", b"1", b"1", b"1"),
        (b"1", b"1", b"2", b"2"),
        (b"1", b"1", b"3", b"3"),
        (b"1", b"1", b"1", b"1"),
    ]
    assert found[0][3] == found[1][3] == found[2][3] != found[3][3]


def test_a_pipelining_client_gets_each_reply(gate: Gate) -> None:
    with gate.client() as client:
        for _ in range(3):
            client.send(
                b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nRCPT TO:<gone@example.net>\r\nDATA\r\n"
            )
            assert [client.reply()[:9] for _ in range(4)] == [b"250 2.1.0", b"250 2.1.5", b"550 5.1.1", b"354 End d"]
            client.send(MESSAGE + b"RSET\r\n")
            assert client.reply().startswith(b"250 2.0.0 Ok: queued as")
            assert client.reply().startswith(b"250")
    assert len(gate.queue()) == 3


def test_bdat_arrives_whole(gate: Gate) -> None:
    with gate.client() as client:
        client.transaction(b"a@example.org")
        text = b"Subject: chunks\r\n\r\n.one\r\n..\r\n.\r\nlast\r\n"
        for part in (text[:10], text[10:30], text[30:]):
            last = b" LAST" if part == text[30:] else b""
            client.send(b"BDAT %d%b\r\n" % (len(part), last) + part)
            assert client.reply().startswith(b"250")
    _, queued = gate.take()
    assert queued.endswith(text)


def test_esmtp_parameters_reach_the_queue(gate: Gate) -> None:
    gate.use(hooks={"reads": READS})
    with gate.client() as client:
        client.command(b"MAIL FROM:<a@example.com> SIZE=200 BODY=8BITMIME RET=HDRS ENVID=id+3D7")
        client.command(b"RCPT TO:<b@example.org> NOTIFY=FAILURE,DELAY ORCPT=rfc822;old@example.org")
        client.command(b"RCPT TO:<c@example.org> NOTIFY=NEVER")
        identity = queue_id(client.content(MESSAGE))
    envelope = gate.postfix.envelope(identity)
    for fact in (
        "named_attribute: encoding=8bit",
        "named_attribute: envelope_id=id=7",
        "named_attribute: ret_flags=2",
        "named_attribute: dsn_orig_rcpt=rfc822;old@example.org",
        "named_attribute: notify_flags=12",
        "named_attribute: notify_flags=1",
    ):
        assert fact in envelope


def test_postfix_refuses_an_announced_size_by_itself(gate: Gate) -> None:
    with gate.client() as client:
        assert client.command(b"MAIL FROM:<a@example.com> SIZE=99000000").startswith(b"552 5.3.4")


def test_utf8_addresses_pass(gate: Gate) -> None:
    source = """
    class Sees(Plugin):
        def rcpt(self, transaction, recipient):
            self.log.info("sees", who=str(recipient.address), sender=str(transaction.sender))
    """
    gate.use(hooks={"sees": source, "adds": ADDS})
    with gate.client() as client:
        assert client.command("MAIL FROM:<jürgen@example.com> SMTPUTF8".encode()).startswith(b"250")
        assert client.command("RCPT TO:<gruß@example.org>".encode()).startswith(b"250")
        identity = queue_id(client.content("Subject: Grüße\r\n\r\nGrüße\r\n.\r\n".encode()))
    (entry,) = gate.queue()
    assert (entry.sender, entry.recipients) == ("jürgen@example.com", ("gruß@example.org",))
    assert "Subject: Grüße\n" in gate.postfix.message(identity).decode()
    gate.daemon.wait_for_log('who=gruß@example.org|who="gruß@example.org"')


def test_smtplib_delivers(gate: Gate) -> None:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "a@example.com", "b@example.org, c@example.org", "Grüße"
    message.set_content("Zwölf Boxkämpfer\n" * 100, cte="8bit")
    # With a name of its own it asks the DNS for none.
    with smtplib.SMTP("127.0.0.1", gate.postfix.front_port, local_hostname="client.example.com", timeout=30) as client:
        assert client.send_message(message) == {}
        assert client.send_message(message) == {}
    assert [len(entry.recipients) for entry in gate.queue()] == [2, 2]


def test_swaks_delivers(gate: Gate) -> None:
    done = subprocess.run(
        [
            *("swaks", "--server", f"127.0.0.1:{gate.postfix.front_port}", "--from", "a@example.com"),
            *("--to", "b@example.org,c@example.org", "--pipeline", "--helo", "swaks.test", "--timeout", "30s"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    entry, _ = gate.take()
    assert len(entry.recipients) == 2


def test_many_sessions_at_once(gate: Gate) -> None:
    gate.use(hooks={"adds": ADDS}, restart=True)
    done = subprocess.run(
        [
            *("smtp-source", "-s", "20", "-m", "100", "-l", "4000", "-d", "-r", "2", "-f", "a@example.com"),
            *("-t", "b@example.org", f"127.0.0.1:{gate.postfix.front_port}"),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(gate.queue()) == 100
    tally = gate.tally()
    assert tally == {"accepted": 200, "offered": 200}


def test_the_queue_id_is_known_once_it_is_queued(gate: Gate) -> None:
    source = """
    class After(Plugin):
        async def queue_post(self, transaction):
            self.log.info("after", queued_as=transaction.queue_id)

        async def reset_transaction(self, transaction):
            self.log.info("reset", outcomes=[recipient.outcome for recipient in transaction.recipients])
    """
    gate.use(hooks={"after": source})
    seen = gate.daemon.log_size()
    identity = queue_id(gate.send())
    gate.daemon.wait_for_log(rf"queued_as={identity}", since=seen)
    gate.daemon.wait_for_log(
        rf" event=transaction .*rcpt=\"rcpt@example.org=accepted\" .* queue_id={identity}", since=seen
    )
    gate.daemon.wait_for_log(r"event=reset .*accepted", since=seen)


# The bytes


def eight_bit() -> bytes:
    alphabet = [octet for octet in range(256) if octet not in b"\r\n"]
    dice = random.Random(7)
    lines = [bytes(dice.choices(alphabet, k=dice.randrange(0, 900))) for _ in range(100)]
    return b"Subject: octets\r\n\r\n" + b"".join(line + b"\r\n" for line in lines)


CONTENTS = {
    "empty body": b"Subject: none\r\n\r\n",
    "no body": b"Subject: none\r\n",
    "nothing": b"",
    "no header": b"\r\njust text\r\n",
    "folded": b"Subject: a\r\n\tb\r\n  c \r\nX-Trailing: spaces   \r\nX-None:\r\n"
    b"X-Tab:\tone\r\nX-Tight:two\r\n\r\ntext\r\n",
    "signed": b"DKIM-Signature:  v=1; a=rsa-sha256;\r\n\tc=simple/simple;   b=ab\r\n c=\r\nFrom:a@example.com\r\n"
    b"X-Empty-Fold:\r\n \tx\r\n\r\nbody  \r\n\r\n\r\n",
    "dots": b"Subject: dots\r\n\r\n.\r\n..\r\n...\r\n.a\r\n..b\r\n a.\r\n",
    "blank lines at the end": b"Subject: blank\r\n\r\ntext\r\n\r\n\r\n\r\n",
    "long lines": b"Subject: long\r\n\r\n" + b"x" * 998 + b"\r\n" + b"y" * 997 + b"\r\n.\r\n" + b"." * 998 + b"\r\n",
    "eight bit": eight_bit(),
    "same names": b"A: 1\r\nB: 2\r\na: 3\r\nA:  4\r\n\r\ntext\r\n",
    "blank before the colon": b"Subject :  odd\r\n\r\ntext\r\n",
    "looks like a header later": b"A: 1\r\nnot a header\r\nB: 2\r\n\r\ntext\r\n",
    "two hundred kilobytes": b"Subject: big\r\n\r\n"
    + b"0123456789abcdef" * 61 * 12
    + b"\r\n" * 3
    + (b"z" * 76 + b"\r\n") * 2600,
}

ALTERED_BY_POSTFIX = {"blank before the colon", "looks like a header later"}


def stuffed(content: bytes) -> bytes:
    return re.sub(rb"(?m)^\.", b"..", content) + b".\r\n"


def received_removed(queued: bytes) -> bytes:
    """Take off the Received fields: the front's and the inner's."""
    return re.sub(rb"\A(?:Received: .*\r\n(?:[ \t].*\r\n)*)+", b"", queued)


@pytest.fixture(scope="module")
def by_postfix_alone(module_gate: Gate) -> dict[str, bytes]:
    """What Postfix queues of each content when gatepost is not there."""
    queued = {}
    with SmtpClient(module_gate.plain_port) as client:
        for name, content in CONTENTS.items():
            identity = queue_id(client.message(stuffed(content)))
            queued[name] = received_removed(module_gate.postfix.message(identity).replace(b"\n", b"\r\n"))
    module_gate.postfix.empty_queue()
    return queued


def test_postfix_alone_changes_only_what_is_listed(by_postfix_alone: dict[str, bytes]) -> None:
    assert {name for name, queued in by_postfix_alone.items() if queued != CONTENTS[name]} == ALTERED_BY_POSTFIX


@pytest.mark.parametrize("plugins", PLUGINS)
def test_content_is_queued_byte_for_byte(gate: Gate, by_postfix_alone: dict[str, bytes], plugins: str) -> None:
    gate.use(hooks=PLUGINS[plugins])
    differing = []
    with gate.client(timeout_s=60) as client:
        for name, content in CONTENTS.items():
            identity = queue_id(client.message(stuffed(content)))
            got = received_removed(gate.postfix.message(identity).replace(b"\n", b"\r\n"))
            wanted = by_postfix_alone[name]
            if plugins == "adds":
                assert got.count(ADDED) == 1, name
                got = got.replace(ADDED, b"")
            if got != wanted:
                differing.append((name, wanted[:300], got[:300]))
    assert not differing


# Memory


@pytest.mark.parametrize("plugins", ["none", "reads"])
def test_memory_does_not_grow_with_the_message(gate: Gate, plugins: str) -> None:
    gate.use(hooks=PLUGINS[plugins], restart=True)
    with gate.client(timeout_s=60) as client:
        queue_id(client.message())
        before = rss_bytes(gate.daemon.pid)
        client.transaction(b"a@example.org")
        client.command(b"DATA")
        client.send(b"Subject: 30 MB\r\n\r\n")
        chunk = (b"x" * 76 + b"\r\n") * 1000
        for _ in range(30_000_000 // len(chunk)):
            client.send(chunk)
        client.send(b".\r\n")
        identity = queue_id(client.reply())
    grown = rss_bytes(gate.daemon.pid) - before
    assert grown < 8_000_000
    wait_until(lambda: any(entry.queue_id == identity for entry in gate.postfix.queue()))


def test_a_header_of_millions_of_fields_is_refused_and_costs_no_memory(gate: Gate) -> None:
    gate.use(hooks=PLUGINS["reads"], restart=True)
    with gate.client(timeout_s=60) as client:
        queue_id(client.message())
        before = rss_bytes(gate.daemon.pid)
        reply = client.message(b"a:\r\n" * 200_000 + b"\r\ntext\r\n.\r\n")
    assert reply == b"552 5.3.4 the header of the message is too large\r\n"
    assert rss_bytes(gate.daemon.pid) - before < 16_000_000
    assert len(gate.queue()) == 1
