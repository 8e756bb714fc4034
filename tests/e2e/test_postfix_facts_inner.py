"""What gatepost takes for granted about the inner smtpd and about milters, one fact a test.

The probe milter stands where our content and edge doors stand; the client speaks to the inner smtpd as our proxy does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import MilterEvent, NextHop, ProbeMilter, Script, SmtpClient, queue_id, wait_until

from gatepost.ops.private_postfix import PrivatePostfix, free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import StartPostfix

# The entry that POSTFIX.md suggests, without its milter.
INNER = """smtpd
 -o smtpd_proxy_filter= -o smtpd_authorized_xforward_hosts=127.0.0.0/8 -o mynetworks=127.0.0.0/8
 -o smtpd_client_restrictions= -o smtpd_helo_restrictions= -o smtpd_sender_restrictions=
 -o smtpd_relay_restrictions= -o smtpd_recipient_restrictions=permit_mynetworks,reject
 -o smtpd_data_restrictions= -o smtpd_end_of_data_restrictions=
 -o receive_override_options=no_unknown_recipient_checks -o local_header_rewrite_clients=
 -o milter_protocol=6 -o smtpd_error_sleep_time=0 -o smtpd_soft_error_limit=1001 -o smtpd_hard_error_limit=1000
"""

CONTENT_FILTER = "smtp:[127.0.0.1]:1"


class Inner:
    """A private Postfix with one inner smtpd for each peculiarity, and the milters of a real set-up."""

    def __init__(self, start_postfix: StartPostfix) -> None:
        self.lead_port, self.strip_port, self.hop_port = (free_loopback_port() for _ in range(3))
        content = f"-o smtpd_milters=inet:127.0.0.1:{self.lead_port} -o milter_macro_daemon_name=gatepost-content"
        dead = f"-o smtpd_milters=inet:127.0.0.1:{free_loopback_port()} -o milter_default_action="
        options = {
            "plain": "",
            "content": content,
            "strip": f"-o smtpd_milters=inet:127.0.0.1:{self.strip_port}",
            "dead-tempfail": dead + "tempfail",
            "dead-accept": dead + "accept",
            "idle": "-o smtpd_timeout=1s",
            "single": "",
            "unfiltered": "-o content_filter=",
            "normalize": "-o smtpd_forbid_bare_newline=normalize",
            "normalize-all": "-o smtpd_forbid_bare_newline=normalize -o smtpd_forbid_bare_newline_exclusions=",
        }
        self.ports = {name: free_loopback_port() for name in [*options, "edge"]}
        services = [
            f"127.0.0.1:{self.ports[name]} inet n - n - {1 if name == 'single' else 0} {INNER} {more}"
            for name, more in options.items()
        ]
        edge = f"-o smtpd_milters=inet:127.0.0.1:{self.lead_port} -o smtpd_proxy_filter=127.0.0.1:{self.hop_port}"
        services.append(f"127.0.0.1:{self.ports['edge']} inet n - n - 100 smtpd {edge}")
        self.postfix: PrivatePostfix = start_postfix(main={"content_filter": CONTENT_FILTER}, services=services)

    def client(self, name: str = "plain") -> SmtpClient:
        return SmtpClient(self.ports[name])


@pytest.fixture(scope="module")
def inner(start_postfix: StartPostfix) -> Inner:
    return Inner(start_postfix)


@pytest.fixture(autouse=True)
def empty_queue(inner: Inner) -> None:
    if inner.postfix.queue():
        inner.postfix.empty_queue()


@pytest.fixture(scope="module")
def milter(inner: Inner) -> Iterator[ProbeMilter]:
    with ProbeMilter(inner.lead_port) as milter:
        yield milter


@pytest.fixture
def hop(inner: Inner) -> Iterator[NextHop]:
    with NextHop(inner.hop_port) as hop:
        yield hop


def names(events: list[MilterEvent]) -> list[str]:
    return [event.name for event in events]


# XFORWARD and what it changes


def test_xforward_names_the_client_in_the_log_for_one_transaction(inner: Inner) -> None:
    with inner.client() as client:
        reply = client.command(b"XFORWARD NAME=mail.example ADDR=192.0.2.7 PORT=4711 HELO=h PROTO=ESMTP")
        assert reply == b"250 2.0.0 Ok\r\n"
        with_xforward, without = queue_id(client.message()), queue_id(client.message())
    log = inner.postfix.wait_for_log(rf"{without}: (.*)\n")
    assert "orig_client" not in log[1]
    assert log[1].startswith("client=unknown[127.0.0.1]")
    inner.postfix.wait_for_log(
        rf"{with_xforward}: client=unknown\[127\.0\.0\.1\], .*orig_client=mail\.example\[192\.0\.2\.7\]"
    )


@pytest.mark.parametrize(("length", "code"), [(255, b"250"), (256, b"501")])
def test_an_xforward_value_over_255_characters_is_refused(inner: Inner, length: int, code: bytes) -> None:
    with inner.client() as client:
        assert client.command(b"XFORWARD HELO=" + b"h" * length).startswith(code)


@pytest.mark.parametrize(("source", "added"), [(b"LOCAL", True), (b"REMOTE", False), (b"", False)])
def test_a_local_message_gets_missing_header_fields(inner: Inner, source: bytes, added: bool) -> None:
    with inner.client() as client:
        if source:
            client.command(b"XFORWARD SOURCE=" + source)
        message = inner.postfix.message(queue_id(client.message()))
    assert [f"\n{name}: ".encode() in message for name in ("Message-Id", "Date", "From")] == [added] * 3


def test_main_cfs_content_filter_stays_in_force_unless_emptied(inner: Inner) -> None:
    with inner.client() as filtered, inner.client("unfiltered") as unfiltered:
        ids = queue_id(filtered.message()), queue_id(unfiltered.message())
    envelopes = [inner.postfix.envelope(queued) for queued in ids]
    assert [f"content_filter: {CONTENT_FILTER}" in envelope for envelope in envelopes] == [True, False]


# Connections


def test_closing_before_the_dot_queues_nothing_and_the_milter_gets_abort(inner: Inner, milter: ProbeMilter) -> None:
    client = inner.client("content")
    with client:
        port = client.address[1]
        client.transaction(b"a@example.org")
        client.command(b"DATA")
        client.send(b"Subject: half\r\n\r\nbody\r\n")
    assert names(milter.events(port, "close"))[-2:] == ["abort", "close"]
    assert inner.postfix.queue() == []


def test_an_idle_connection_gets_an_unsolicited_421(inner: Inner) -> None:
    with SmtpClient(inner.ports["idle"], helo=None) as client:
        assert client.reply().startswith(b"421 4.4.2 ")
        assert client.hung_up()


def test_at_the_process_limit_a_connection_opens_but_no_banner_comes(inner: Inner) -> None:
    with inner.client("single") as first:
        with pytest.raises(TimeoutError):
            SmtpClient(inner.ports["single"], timeout_s=0.4)
        assert first.command(b"NOOP").startswith(b"250")
    with inner.client("single") as next_one:
        assert next_one.greeting.startswith(b"220")


def test_a_busy_connection_keeps_its_settings_over_a_reload(inner: Inner) -> None:
    service = f"127.0.0.1:{inner.ports['plain']}/inet"
    with inner.client() as old:
        inner.postfix.postconf_service(service, {"smtpd_recipient_restrictions": "reject"})
        inner.postfix.reload()
        try:
            with inner.client() as new:
                assert new.transaction(b"a@example.org")[0].startswith(b"554 5.7.1")
            assert old.transaction(b"a@example.org") == [b"250 2.1.5 Ok\r\n"]
        finally:
            inner.postfix.postconf_service(service, {"smtpd_recipient_restrictions": "permit_mynetworks,reject"})
            inner.postfix.reload()


def test_one_recipient_with_two_orcpts_is_delivered_twice(inner: Inner) -> None:
    copies = []
    for second in (b"rfc822;one@example.net", b"rfc822;two@example.net"):
        with inner.client() as client:
            client.command(b"MAIL FROM:<a@example.com>")
            client.command(b"RCPT TO:<b@example.org> ORCPT=rfc822;one@example.net")
            client.command(b"RCPT TO:<b@example.org> ORCPT=" + second)
            envelope = inner.postfix.envelope(queue_id(client.content(b".\r\n")))
        copies.append(envelope.splitlines().count("recipient: b@example.org"))
    assert copies == [1, 2]


@pytest.mark.parametrize(("service", "ends"), [("plain", True), ("normalize", True), ("normalize-all", False)])
def test_dot_cr_cr_lf_ends_a_message_unless_normalize_exempts_nobody(inner: Inner, service: str, ends: bool) -> None:
    with inner.client(service) as client:
        client.transaction(b"a@example.org")
        client.command(b"DATA")
        client.send(b"first\r\n.\r\r\nNOOP\r\n.\r\n")
        replies = [client.reply(), client.command(b"NOOP")]
    assert (b"queued" in replies[0], b"queued" in replies[1]) == (True, False)
    message = inner.postfix.message(queue_id(replies[0]))
    assert (b"NOOP" in message) is not ends


def test_a_stray_cr_is_made_a_space(inner: Inner) -> None:
    with inner.client() as client:
        message = inner.postfix.message(queue_id(client.message(b"Subject: x\r\n\r\na\rb\r\n.\r\n")))
    stray = inner.postfix.postconf("-h", "cleanup_replace_stray_cr_lf")
    assert message.endswith({"yes": b"\na b\n", "no": b"\na\rb\n"}[stray])


# The content door: a milter on the inner smtpd


def test_the_milters_connect_address_is_our_end_of_the_connection(inner: Inner, milter: ProbeMilter) -> None:
    with inner.client("content") as client:
        client.command(b"XFORWARD ADDR=192.0.2.7 PORT=4711")
        client.transaction(b"a@example.org")
        connect = milter.events(client.address[1], "rcpt")[0]
        assert connect.arguments[:2] == [*client.address]


def test_the_queue_id_macro_comes_with_data_and_is_the_id_in_the_reply(inner: Inner, milter: ProbeMilter) -> None:
    with inner.client("content") as client:
        queued = queue_id(client.message(b"Subject: x\r\n\r\nb\r\n.\r\n", b"a@example.org", b"b@example.org"))
        events = milter.events(client.address[1], "eom")
    ids = {name: [event.macros.get("i") for event in events if event.name == name] for name in names(events)}
    assert ids["connect"] == ids["helo"] == ids["mail"] == [None]
    assert ids["rcpt"] == [None, queued]
    assert ids["data"] == ids["eoh"] == ids["body"] == ids["eom"] == [queued]


@pytest.mark.parametrize(("service", "name"), [("content", "gatepost-content"), ("edge", "mx.gatepost.test")])
def test_daemon_name_is_set_per_service(inner: Inner, milter: ProbeMilter, service: str, name: str) -> None:
    with inner.client(service) as client:
        assert milter.events(client.address[1], "connect")[0].macros["{daemon_name}"] == name


@pytest.mark.parametrize(("service", "reply"), [("dead-tempfail", b"451 4.7.1"), ("dead-accept", b"250 2.1.0")])
def test_milter_default_action_decides_for_a_dead_socket(inner: Inner, service: str, reply: bytes) -> None:
    with inner.client(service) as client:
        assert client.command(b"MAIL FROM:<a@example.com>").startswith(reply)


def test_a_milter_error_sticks_to_the_session(inner: Inner) -> None:
    with inner.client("strip") as client:
        with ProbeMilter(inner.strip_port) as probe:
            # The milter was dead when this session began, and lives now.
            assert client.command(b"MAIL FROM:<a@example.com>").startswith(b"451 4.7.1")
            with inner.client("strip") as fresh:
                assert queue_id(fresh.message())
                assert probe.events(fresh.address[1], "eom")
                probe.end()
                assert fresh.command(b"MAIL FROM:<a@example.com>").startswith(b"451 4.7.1")
        with ProbeMilter(inner.strip_port), inner.client("strip") as next_one:
            assert client.command(b"MAIL FROM:<a@example.com>").startswith(b"451 4.7.1")
            assert queue_id(next_one.message())


def test_deleting_the_last_recipient_loses_the_mail_behind_a_250(inner: Inner, milter: ProbeMilter) -> None:
    with inner.client("content") as client:
        assert queue_id(client.message(sender=b"nobody@example.com"))
        assert milter.events(client.address[1], "eom")
    wait_until(lambda: inner.postfix.queue() == [])


@pytest.mark.parametrize(
    ("sender", "reply"),
    [
        (b"percent@example.com", b"550 5.7.1 100% sure\r\n"),
        (b"lines@example.com", b"550-5.7.1 first line\r\n550 5.7.1 second line\r\n"),
    ],
)
def test_a_milters_reply_passes_with_its_percent_sign_and_its_lines(
    inner: Inner, milter: ProbeMilter, sender: bytes, reply: bytes
) -> None:
    with inner.client("content") as client:
        assert client.message(sender=sender) == reply
        assert milter.events(client.address[1], "eom")
    assert inner.postfix.queue() == []


FOLDED = b"To:a@example.org\r\nX-Fold: one\r\n\ttwo\r\n   three\r\nX-Two:  spaces \r\n"


def test_an_edit_of_one_field_leaves_the_others_byte_for_byte(inner: Inner, milter: ProbeMilter) -> None:
    with inner.client("content") as client:
        queued = queue_id(client.message(FOLDED + b"Subject: x\r\n\r\nbody\r\n.\r\n", sender=b"subject@example.com"))
        assert milter.events(client.address[1], "eom")
    expected = FOLDED.replace(b"\r\n", b"\n") + b"Subject: changed\n\nbody\n"
    assert inner.postfix.message(queued).endswith(b"\n" + expected)


@pytest.mark.parametrize(
    ("service", "values"),
    [
        ("content", ["a@example.org", " one\n\ttwo\n   three", "  spaces "]),
        ("strip", ["a@example.org", "one\n\ttwo\n   three", " spaces "]),
    ],
)
def test_a_milter_sees_leading_space_only_if_it_asked_for_it(
    inner: Inner, milter: ProbeMilter, service: str, values: list[str]
) -> None:
    with ProbeMilter(inner.strip_port, leading_space=False) as strip, inner.client(service) as client:
        queue_id(client.message(FOLDED + b"\r\n.\r\n"))
        events = {"content": milter, "strip": strip}[service].events(client.address[1], "eom")
    assert [event.arguments[1] for event in events if event.name == "header"] == values


# The edge door: the same milter on the front


def test_the_edge_milter_sees_commands_and_no_content(inner: Inner, milter: ProbeMilter, hop: NextHop) -> None:
    with inner.client("edge") as client:
        client.command(b"BOGUS with arguments")
        assert client.message() == hop.script.dot
        port = client.address[1]
    events = milter.events(port, "close")
    # ABORT follows a message that was delivered, too.
    assert names(events) == ["connect", "helo", "unknown", "mail", "rcpt", "data", "abort", "close"]
    assert events[2].arguments == ["BOGUS"]
    assert not any("i" in event.macros for event in events)
    xforward = hop.conversation().xforward
    assert events[0].arguments[:2] == [xforward["ADDR"], int(xforward["PORT"])]


def test_the_edge_milter_sees_recipients_that_postfix_refused(inner: Inner, milter: ProbeMilter) -> None:
    with inner.client("edge") as client:
        (reply,) = client.transaction(b"a@elsewhere.test")
        rcpt = milter.events(client.address[1], "rcpt")[-1]
    assert reply.startswith(b"554 5.7.1 <a@elsewhere.test>: ")
    assert rcpt.macros["{rcpt_mailer}"] == "error"
    assert rcpt.macros["{rcpt_host}"] == "5.7.1"
    assert rcpt.macros["{rcpt_addr}"].encode() in reply


def test_discard_at_the_edge_does_not_discard(inner: Inner, milter: ProbeMilter, hop: NextHop) -> None:
    with inner.client("edge") as client:
        assert client.message(sender=b"discard@example.com") == hop.script.dot
        assert milter.events(client.address[1], "rcpt")
    assert hop.conversation().content


def test_our_refusal_at_the_proxy_does_not_reach_the_edge(inner: Inner, milter: ProbeMilter, hop: NextHop) -> None:
    hop.script = Script(rcpt=b"550 5.1.1 no\r\n")
    with inner.client("edge") as client:
        client.transaction(b"a@example.org")
        port = client.address[1]
    rcpt = [event for event in milter.events(port, "close") if event.name == "rcpt"]
    assert [event.macros.get("{rcpt_mailer}") != "error" for event in rcpt] == [True]
