"""What the proxy takes for granted about a front smtpd with `smtpd_proxy_filter`, one fact a test.

A test that fails on another Postfix version says which assumption to look at. The milters and the inner smtpd are in
test_postfix_facts_inner.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import NextHop, Script, SmtpClient, wait_until

from gatepost.ops.private_postfix import PrivatePostfix, free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import StartPostfix

QUEUE_FILE_WRITE_ERROR = b"451 4.3.0 Error: queue file write error\r\n"


class Front:
    """A private Postfix with one plain front and one for each peculiarity, all before the same next hop."""

    def __init__(self, start_postfix: StartPostfix) -> None:
        self.hop_port = free_loopback_port()
        self.ports = {
            name: free_loopback_port() for name in ("plain", "local", "strict", "hasty", "speedy", "normalize")
        }
        options = {
            "local": "-o local_header_rewrite_clients=permit_inet_interfaces",
            "strict": "-o smtpd_soft_error_limit=2 -o smtpd_hard_error_limit=3",
            "hasty": "-o smtpd_proxy_timeout=1s",
            "speedy": "-o smtpd_proxy_options=speed_adjust",
            "normalize": "-o smtpd_forbid_bare_newline=normalize -o smtpd_forbid_bare_newline_exclusions=",
        }
        self.postfix: PrivatePostfix = start_postfix(
            services=[
                f"127.0.0.1:{port} inet n - n - 100 smtpd -o smtpd_proxy_filter=127.0.0.1:{self.hop_port}"
                f" {options.get(name, '')}"
                for name, port in self.ports.items()
            ]
        )

    def client(self, name: str = "plain", *, helo: bytes | None = b"client.example.com") -> SmtpClient:
        return SmtpClient(self.ports[name], helo=helo)


@pytest.fixture(scope="module")
def front(start_postfix: StartPostfix) -> Front:
    return Front(start_postfix)


@pytest.fixture
def hop(front: Front) -> Iterator[NextHop]:
    with NextHop(front.hop_port) as hop:
        yield hop


# When it connects, and what it says


def test_it_connects_at_the_first_recipient_that_postfix_accepts(front: Front, hop: NextHop) -> None:
    with front.client() as client:
        refused, accepted = [client.transaction(b"a@elsewhere.test")[0], client.command(b"RCPT TO:<b@example.org>")]
        assert refused.startswith(b"554 5.7.1")
        assert accepted == hop.script.rcpt
        client.content(b".\r\n")
    assert hop.conversation().lines[-4:] == [
        b"MAIL FROM:<sender@example.com>",
        b"RCPT TO:<b@example.org>",
        b"DATA",
        b"QUIT",
    ]


def test_a_sender_alone_makes_no_connection(front: Front, hop: NextHop) -> None:
    with front.client() as client:
        client.transaction(b"a@elsewhere.test")
        client.command(b"NOOP")
        client.command(b"RSET")
    assert hop.started() == 0


def test_each_message_has_its_own_connection_with_the_same_address_and_port(front: Front, hop: NextHop) -> None:
    with front.client() as client:
        address = {"ADDR": "127.0.0.1", "PORT": str(client.address[1])}
        assert [client.message(), client.message()] == [hop.script.dot] * 2
    first, second = hop.conversations()
    assert first.xforward == second.xforward
    assert address.items() <= first.xforward.items()


def test_commands_come_in_order_and_never_pipelined(front: Front, hop: NextHop) -> None:
    with front.client() as client:
        client.send(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nRCPT TO:<c@example.org>\r\nDATA\r\n")
        assert [client.reply()[:3] for _ in range(4)] == [b"250", b"250", b"250", b"354"]
        assert client.command(b"x\r\n.") == hop.script.dot
    conversation = hop.conversation()
    assert conversation.verbs == ["EHLO", "XFORWARD", "MAIL", "RCPT", "RCPT", "DATA", "QUIT"]
    assert not conversation.pipelined


def test_what_needs_no_answer_from_us_is_never_sent(front: Front, hop: NextHop) -> None:
    with front.client() as client:
        client.transaction(b"a@example.org")
        for command in (b"NOOP", b"VRFY x", b"HELP", b"BOGUS x", b"HELO again.example"):
            client.command(command)
        client.command(b"RSET")
        client.command(b"QUIT")
    assert hop.conversation().verbs[-2:] == ["RCPT", "QUIT"]


def test_the_reply_to_quit_is_not_awaited(front: Front, hop: NextHop) -> None:
    hop.script = Script(quit=b"")
    with front.client() as client:
        assert client.message() == hop.script.dot
        assert client.command(b"QUIT").startswith(b"221")


def test_bdat_arrives_as_data(front: Front, hop: NextHop) -> None:
    with front.client() as client:
        client.transaction(b"a@example.org")
        client.send(b"BDAT 5\r\n.x\r\ny")
        assert client.reply().startswith(b"250")
        client.send(b"BDAT 3 LAST\r\nz\r\n")
        assert client.reply() == hop.script.dot
    conversation = hop.conversation()
    assert conversation.verbs[-3:] == ["RCPT", "DATA", "QUIT"]
    assert conversation.content.endswith(b"\r\n..x\r\nyz\r\n.\r\n")


@pytest.mark.parametrize(
    ("mail", "rcpt"),
    [
        (b"mail FROM:<A.b@Example.COM>  SIZE=9 body=8BITMIME", b"rCpT to:<C@Example.ORG>   NOTIFY=NEVER"),
        (b"MAIL FROM:a@example.com", b"RCPT TO:c@example.org"),
        (b"MAIL FROM: <a@example.com>", b"RCPT TO:<@relay.example:c@example.org>"),
        (b'MAIL FROM:<"a b"@example.com> RET=HDRS ENVID=x+3Dy', b'RCPT TO:<"c d"@example.org> ORCPT=rfc822;e@f.test'),
        (b"MAIL FROM:<> SMTPUTF8", "RCPT TO:<ü@example.org>".encode()),
        (b"MAIL FROM:<a@example.com> AUTH=<>", b"RCPT TO:<postmaster>"),
    ],
)
def test_mail_and_rcpt_are_the_clients_own_bytes(front: Front, hop: NextHop, mail: bytes, rcpt: bytes) -> None:
    with front.client() as client:
        client.command(mail)
        client.command(rcpt)
    lines = hop.conversation().lines
    assert lines[-3:] == [mail, rcpt, b"QUIT"]


@pytest.mark.parametrize("names", [b"", b"ADDR", b"NAME ADDR PORT HELO IDENT PROTO SOURCE"])
def test_only_advertised_xforward_attributes_are_sent(front: Front, hop: NextHop, names: bytes) -> None:
    hop.script = Script(ehlo=b"250-probe.test\r\n250 XFORWARD " + names + b"\r\n" if names else b"250 probe.test\r\n")
    with front.client() as client:
        client.transaction(b"a@example.org")
    assert list(hop.conversation().xforward) == names.decode().split()


@pytest.mark.parametrize(("service", "source"), [("plain", "REMOTE"), ("local", "LOCAL")])
def test_xforward_values(front: Front, hop: NextHop, service: str, source: str) -> None:
    with front.client(service, helo=b"a+b=c") as client:
        client.transaction(b"a@example.org")
        port = str(client.address[1])
    assert hop.conversation().xforward == {
        "NAME": "[UNAVAILABLE]",
        "ADDR": "127.0.0.1",
        "PORT": port,
        "HELO": "a+2Bb=c",
        "IDENT": "[UNAVAILABLE]",
        "PROTO": "ESMTP",
        "SOURCE": source,
    }


def test_an_ipv6_address_has_a_prefix_in_xforward(front: Front, hop: NextHop) -> None:
    with front.client() as client:
        client.command(b"XCLIENT ADDR=IPV6:2001:db8::1 PORT=4711 NAME=host.example.com")
        client.command(b"EHLO six.example.com")
        client.transaction(b"a@example.org")
    xforward = hop.conversation().xforward
    assert (xforward["ADDR"], xforward["PORT"]) == ("IPv6:2001:db8::1", "4711")
    assert (xforward["NAME"], xforward["HELO"]) == ("host.example.com", "six.example.com")


def test_xforward_is_split_but_a_long_value_is_not(front: Front, hop: NextHop) -> None:
    helo = b"h" * 1000
    with front.client(helo=helo) as client:
        client.transaction(b"a@example.org")
    lines = [line for line in hop.conversation().lines if line.startswith(b"XFORWARD")]
    assert len(lines) > 1
    assert max(map(len, lines)) > len(helo)


def test_the_last_greeting_counts(front: Front, hop: NextHop) -> None:
    with front.client(helo=b"first.example") as client:
        client.command(b"HELO second.example")
        client.transaction(b"a@example.org")
    xforward = hop.conversation().xforward
    # Once ESMTP, always ESMTP: helo_cmd() leaves the protocol as EHLO set it.
    assert (xforward["HELO"], xforward["PROTO"]) == ("second.example", "ESMTP")


# What comes of our replies


USELESS = {
    "banner 554": Script(banner=b"554 no\r\n"),
    "banner 421 and close": Script(banner=b"421 no\r\n", hang_up="banner"),
    "close without a banner": Script(banner=b"", hang_up="banner"),
    "EHLO 550": Script(ehlo=b"550 no\r\n"),
    "EHLO 421": Script(ehlo=b"421 no\r\n"),
    "XFORWARD 501": Script(xforward=b"501 no\r\n"),
    "XFORWARD 451": Script(xforward=b"451 no\r\n"),
    "close after MAIL": Script(hang_up="mail"),
    "RCPT 354": Script(rcpt=b"354 what\r\n"),
}


@pytest.mark.parametrize("script", USELESS.values(), ids=list(USELESS))
def test_a_next_hop_that_breaks_off_or_refuses_before_mail_is_a_generic_451(
    front: Front, hop: NextHop, script: Script
) -> None:
    hop.script = script
    with front.client() as client:
        assert client.transaction(b"a@example.org") == [QUEUE_FILE_WRITE_ERROR]


def test_a_dead_proxy_is_a_generic_451(front: Front) -> None:
    with front.client() as client:
        assert client.transaction(b"a@example.org") == [QUEUE_FILE_WRITE_ERROR]


def test_a_silent_proxy_is_a_generic_451_after_the_timeout_without_quit(front: Front, hop: NextHop) -> None:
    hop.script = Script(rcpt=b"")
    with front.client("hasty") as client:
        assert client.transaction(b"a@example.org") == [QUEUE_FILE_WRITE_ERROR]
    wait_until(lambda: hop.started() == 1)
    assert "QUIT" not in hop.conversation().verbs


@pytest.mark.parametrize("reply", [b"450 4.7.1 later\r\n", b"550-5.7.1 not\r\n550 5.7.1 you\r\n"])
def test_a_refused_sender_is_told_at_each_recipient_each_on_a_new_connection(
    front: Front, hop: NextHop, reply: bytes
) -> None:
    hop.script = Script(mail=reply)
    with front.client() as client:
        assert client.transaction(b"a@example.org", b"b@example.org") == [reply, reply]
    assert [conversation.verbs for conversation in hop.conversations()] == [["EHLO", "XFORWARD", "MAIL", "QUIT"]] * 2


def test_a_refused_recipient_leaves_the_transaction_open(front: Front, hop: NextHop) -> None:
    hop.script = Script(by_recipient={b"no@": b"550 5.1.1 no\r\n", b"later@": b"450 4.2.0 later\r\n"})
    with front.client() as client:
        replies = client.transaction(b"no@example.org", b"later@example.org", b"yes@example.org")
        assert replies == [b"550 5.1.1 no\r\n", b"450 4.2.0 later\r\n", hop.script.rcpt]
        assert client.content(b".\r\n") == hop.script.dot
    assert hop.conversation().verbs[-5:] == ["RCPT", "RCPT", "RCPT", "DATA", "QUIT"]


def test_refused_data_is_passed_on_and_may_be_tried_again(front: Front, hop: NextHop) -> None:
    hop.script = Script(data=b"451 4.3.0 not now\r\n")
    with front.client() as client:
        client.transaction(b"a@example.org")
        assert [client.command(b"DATA"), client.command(b"DATA")] == [hop.script.data] * 2
    assert hop.conversation().verbs[-3:] == ["DATA", "DATA", "QUIT"]


@pytest.mark.parametrize(
    "reply",
    [
        b"250 2.6.0 whatever we like\r\n",
        b"250-2.0.0 two\r\n250 2.0.0 lines\r\n",
        b"451 4.7.1 later\r\n",
        b'550-5.7.1 first\r\n550-5.7.1 second % "quoted"\r\n550 5.7.1 third\r\n',
    ],
)
def test_the_reply_to_the_dot_is_passed_on_verbatim(front: Front, hop: NextHop, reply: bytes) -> None:
    hop.script = Script(dot=reply)
    with front.client() as client:
        assert client.message() == reply
        hop.script = Script()
        assert client.message() == hop.script.dot


@pytest.mark.parametrize("reply", [b"421 4.3.2 goodbye\r\n", b"521 5.7.1 goodbye\r\n"])
@pytest.mark.parametrize("step", ["mail", "rcpt", "data", "dot"])
def test_421_and_521_hang_up_on_the_client(front: Front, hop: NextHop, step: str, reply: bytes) -> None:
    scripts = {
        "mail": Script(mail=reply),
        "rcpt": Script(rcpt=reply),
        "data": Script(data=reply),
        "dot": Script(dot=reply),
    }
    hop.script = scripts[step]
    with front.client() as client:
        replies = client.transaction(b"a@example.org")
        if step in {"data", "dot"}:
            replies.append(client.content(b".\r\n"))
        assert replies[-1] == reply
        assert client.hung_up()


def test_a_550_at_the_dot_does_not_hang_up(front: Front, hop: NextHop) -> None:
    hop.script = Script(dot=b"550 5.7.1 no\r\n")
    with front.client() as client:
        client.message()
        assert client.command(b"NOOP").startswith(b"250")


def test_a_reply_of_more_than_2048_bytes_is_cut(front: Front, hop: NextHop) -> None:
    hop.script = Script(dot=b"".join(b"550%c5.7.1 %s\r\n" % (b" " if n == 29 else b"-", b"x" * 90) for n in range(30)))
    with front.client() as client:
        client.transaction(b"a@example.org")
        client.command(b"DATA")
        client.send(b".\r\nNOOP\r\n")
        # The last line never comes: what ends the reply is the answer to the next command.
        cut, _, last = client.reply().rpartition(b"\r\n250 ")
    assert last == b"2.0.0 Ok\r\n"
    assert hop.script.dot.startswith(cut)
    assert len(cut) < 2048 + 102


@pytest.mark.parametrize(("service", "limit"), [("plain", 20), ("strict", 3)])
def test_our_soft_refusals_count_as_client_errors_and_cost_the_others_their_message(
    front: Front, hop: NextHop, service: str, limit: int
) -> None:
    later = b"450 4.7.1 later\r\n"
    hop.script = Script(by_recipient={b"later": later})
    with front.client(service) as client:
        assert client.transaction(b"accepted@example.org", *[b"later@example.org"] * limit)[1:] == [later] * limit
        assert client.command(b"DATA").startswith(b"421 4.7.0 ")
        assert client.hung_up()
    assert hop.conversation().verbs[-2:] == ["RCPT", "QUIT"]


# Content


@pytest.mark.parametrize(
    "content",
    [
        b".\r\n",
        b"..stuffed\r\n...\r\n.\r\n",
        b".unstuffed\r\n.\r\n",
        b"lone\rcr, nul \0, high \xff\r\n.\r\n",
        b"x" * 100_000 + b"\r\n.\r\n",
        b"no header\r\n\r\n\r\n.\r\n",
    ],
    ids=lambda content: repr(content[:20]),
)
def test_content_passes_unchanged_below_a_received_field(front: Front, hop: NextHop, content: bytes) -> None:
    with front.client() as client:
        assert client.message(content) == hop.script.dot
    received = rb"Received: from client\.example\.com .*\r\n(?:\t.*\r\n)+"
    assert re.fullmatch(received + re.escape(content), hop.conversation().content)


def test_a_client_that_vanishes_leaves_quit_in_the_content_and_then_eof(front: Front, hop: NextHop) -> None:
    with front.client() as client:
        client.transaction(b"a@example.org")
        client.command(b"DATA")
        client.send(b"Subject: half\r\n\r\na line\r\n")
    conversation = hop.conversation()
    assert conversation.content.endswith(b"a line\r\nQUIT\r\n")


def test_a_message_over_the_size_limit_ends_the_same_way(front: Front, hop: NextHop) -> None:
    limit = int(front.postfix.postconf("-h", "message_size_limit"))
    with front.client() as client:
        assert client.message(b"x" * 998 * (limit // 998 + 1) + b"\r\n.\r\n").startswith(b"552 5.3.4")
    assert hop.conversation().content.endswith(b"QUIT\r\n")


def test_an_answer_in_mid_content_is_a_generic_451(front: Front, hop: NextHop) -> None:
    hop.script = Script(content=b"550 5.7.1 stop\r\n")
    with front.client() as client:
        client.transaction(b"a@example.org")
        client.command(b"DATA")
        client.send(b"x" * 500_000)  # more than the front's buffer for us: vstream_tweak_tcp()
        assert hop.conversation().content
        # More that we no longer take: short content would all be in the front's buffer, and our answer the dot's.
        assert client.command(b"x" * 500_000 + b"\r\n.") == QUEUE_FILE_WRITE_ERROR


def test_with_speed_adjust_our_refusal_of_a_recipient_is_told_too_late(front: Front, hop: NextHop) -> None:
    hop.script = Script(rcpt=b"550 5.1.1 no\r\n")
    with front.client("speedy") as client:
        assert client.transaction(b"a@example.org")[0].startswith(b"250")
        assert hop.started() == 0
        assert client.content(b".\r\n") == b"550 5.1.1 no\r\n"


def test_normalize_passes_dot_cr_cr_lf_on_as_data(front: Front, hop: NextHop) -> None:
    with front.client("normalize") as client:
        assert client.message(b"a\r\n.\r\r\nb\nc\r\n.\r\n") == hop.script.dot
    assert hop.conversation().content.endswith(b"a\r\n.\r\r\nb\r\nc\r\n.\r\n")
