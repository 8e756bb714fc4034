"""The edge door: what a client hears at connect, HELO, MAIL and unknown commands, and what plugins hear of refusals."""

from __future__ import annotations

import re

import pytest
from tests.e2e.edge_rig import EDGE, TELLS, put_edge_on_front, wait_until_left
from tests.e2e.gate import Gate, reset_connection
from tests.e2e.postfix_rig import SmtpClient, queue_id, wait_until

SPEAKS = r"""
def answer(text):
    return {
        "no": Deny("100% no\nand é\ttab"),
        "code": Deny("a code", code=553, enhanced="5.1.8"),
        "percent": Deny("%" * 600),
        "lines": Deny("\n".join(f"{number} " + "w" * 600 for number in range(40))),
        "later": DenySoft("not now"),
        "bye": DenyDisconnect("go away"),
        "softbye": DenySoftDisconnect("come back"),
        "slow": "slow",
        "broken": "broken",
    }.get(text)

class Speaks(Plugin):
    async def connect(self, session):
        return await act((session.name or "").partition(".")[0])

    async def helo(self, session, name):
        return await act(name.partition(".")[0])

    async def unrecognized_command(self, session, verb):
        return await act(verb.lower())

    async def mail(self, transaction, sender, parameters):
        return await act(sender.local)

async def act(text):
    verdict = answer(text)
    if verdict == "slow":
        await asyncio.sleep(30)
    if verdict == "broken":
        raise ValueError("broken")
    return verdict
"""


@pytest.fixture(scope="module")
def edge_gate(module_gate: Gate) -> Gate:
    """Put the edge on the front, which refuses some recipients by itself."""
    put_edge_on_front(module_gate)
    return module_gate


@pytest.fixture
def speaks(edge_gate: Gate, gate: Gate, request: pytest.FixtureRequest) -> Gate:
    wait_until_left(gate)
    # So short only where a hook is to overrun it: on a busy machine any hook might.
    short = {"edge_timeout": "1s"} if "slow" in request.node.name else {}
    gate.use(hooks={"speaks": SPEAKS}, milter={**EDGE, **short})
    return gate


@pytest.fixture
def tells(edge_gate: Gate, gate: Gate) -> Gate:
    wait_until_left(gate)
    gate.use(hooks={"tells": TELLS}, milter={"edge": True})
    return gate


def named(gate: Gate, name: bytes) -> SmtpClient:
    """Return a client of that name; its greeting is what it hears as such."""
    client = gate.client()
    client.greeting = client.command(b"XCLIENT NAME=" + name + b".example.com ADDR=192.0.2.7")
    return client


@pytest.mark.parametrize("name", [b"no", b"bye", b"code"])
def test_a_client_refused_for_good_at_connect_gets_554_for_a_banner_and_our_words_at_mail(
    speaks: Gate, name: bytes
) -> None:
    words = {
        b"no": b"550-5.7.1 100% no\r\n550 5.7.1 and ? tab\r\n",
        b"bye": b"521 5.7.1 go away\r\n",
        b"code": b"553 5.1.8 a code\r\n",
    }
    with named(speaks, name) as client:
        assert client.greeting.startswith(b"554 ")
        client.command(b"EHLO x.example.com")
        assert client.command(b"MAIL FROM:<a@example.com>") == words[name]


def test_a_refusal_before_mail_is_logged_with_the_client(speaks: Gate) -> None:
    seen = speaks.daemon.log_size()
    with named(speaks, b"no") as client:
        assert client.greeting.startswith(b"554 ")
    with named(speaks, b"fine") as client:
        client.command(b"EHLO x.example.com")
        client.command(b"BYE")
    verdicts = re.findall(r"event=verdict .* client=192.0.2.7 plugin=speaks hook=(\w+)", speaks.daemon.log(seen))
    assert verdicts == ["connect", "unrecognized_command"]


def test_a_client_hung_up_on_for_now_at_connect_gets_421_for_a_banner(speaks: Gate) -> None:
    with named(speaks, b"softbye") as client:
        assert client.greeting.startswith(b"421 ")
        assert client.hung_up()


@pytest.mark.parametrize(
    ("name", "reply"),
    [
        (b"later", b"450 4.7.1 not now\r\n"),
        (b"slow", b"451 4.3.0 temporary failure, please try again later\r\n"),
        (b"broken", b"451 4.3.0 temporary failure, please try again later\r\n"),
    ],
)
def test_a_client_put_off_at_connect_hears_so_at_mail(speaks: Gate, name: bytes, reply: bytes) -> None:
    with named(speaks, name) as client:
        assert client.greeting.startswith(b"220 ")
        client.command(b"EHLO x.example.com")
        assert client.command(b"MAIL FROM:<a@example.com>") == reply


@pytest.mark.parametrize(
    ("helo", "reply"),
    [
        (b"no", b"550-5.7.1 100% no\r\n550 5.7.1 and ? tab\r\n"),
        (b"later", b"450 4.7.1 not now\r\n"),
        (b"broken", b"451 4.3.0 temporary failure, please try again later\r\n"),
        (b"slow", b"451 4.3.0 temporary failure, please try again later\r\n"),
    ],
)
def test_a_refused_greeting_is_told_at_mail_and_the_next_is_judged_by_itself(
    speaks: Gate, helo: bytes, reply: bytes
) -> None:
    with speaks.client() as client:
        assert client.command(b"EHLO " + helo).startswith(b"250")
        assert client.command(b"MAIL FROM:<a@example.com>") == reply
        assert client.command(b"MAIL FROM:<a@example.com>") == reply
        assert client.command(b"EHLO fine.example.com").startswith(b"250")
        queue_id(client.message())


def test_a_greeting_that_is_hung_up_on_for_now_is_so_at_once_and_for_good_at_mail(speaks: Gate) -> None:
    with speaks.client() as client:
        assert client.command(b"EHLO softbye") == b"421 4.7.1 come back\r\n"
        assert client.hung_up()
    with speaks.client() as client:
        client.command(b"EHLO bye")
        assert client.command(b"MAIL FROM:<a@example.com>") == b"521 5.7.1 go away\r\n"
        assert client.hung_up()


def test_who_logs_in_after_a_refused_greeting_is_asked_about_again(speaks: Gate) -> None:
    speaks.use(
        '[[plugin]]\nname = "speaks"\nskip_authenticated = true\n', hooks={"speaks": SPEAKS}, milter={"edge": True}
    )
    with speaks.client() as client:
        client.command(b"XCLIENT LOGIN=hjp")
        client.command(b"EHLO no")
        queue_id(client.message())


@pytest.mark.parametrize(
    ("said", "reply", "hangs_up"),
    [
        (b"FINE", b"500 5.5.2 Error: command not recognized\r\n", False),
        (b"NO way", b"500-5.7.1 100% no\r\n500 5.7.1 and ? tab\r\n", False),
        (b"LATER", b"450 4.7.1 not now\r\n", False),
        (b"BYE", b"521 5.7.1 go away\r\n", True),
        (b"SOFTBYE", b"421 4.7.1 come back\r\n", True),
        (b"MAIL FROM:<no@example.com>", b"550-5.7.1 100% no\r\n550 5.7.1 and ? tab\r\n", False),
        (b"MAIL FROM:<later@example.com>", b"450 4.7.1 not now\r\n", False),
        (b"MAIL FROM:<code@example.com>", b"553 5.1.8 a code\r\n", False),
        (b"MAIL FROM:<broken@example.com>", b"451 4.3.0 temporary failure, please try again later\r\n", False),
        (b"MAIL FROM:<slow@example.com>", b"451 4.3.0 temporary failure, please try again later\r\n", False),
        (b"MAIL FROM:<bye@example.com>", b"521 5.7.1 go away\r\n", True),
        (b"MAIL FROM:<softbye@example.com>", b"421 4.7.1 come back\r\n", True),
    ],
)
def test_unknown_commands_and_senders_are_answered_at_once(
    speaks: Gate, said: bytes, reply: bytes, hangs_up: bool
) -> None:
    with speaks.client() as client:
        assert client.command(said) == reply
        if hangs_up:
            assert client.hung_up()
        else:
            queue_id(client.message())


@pytest.mark.parametrize(("said", "sign"), [(b"PERCENT", b"%"), (b"LINES", b"w")])
def test_a_text_of_any_length_is_cut_and_stays_the_refusal_that_it_was(speaks: Gate, said: bytes, sign: bytes) -> None:
    with speaks.client() as client:
        reply = client.command(said)
        *before, last = reply.removesuffix(b"\r\n").split(b"\r\n")
        assert len(reply) <= 2048
        assert last.startswith(b"500 5.7.1 ")
        assert all(line.startswith(b"500-5.7.1 ") for line in before)
        assert all(len(line) > 400 and line.endswith(sign * 400) for line in (*before, last))
        queue_id(client.message())


def test_each_hook_runs_when_the_client_says_its_command(tells: Gate) -> None:
    seen = tells.daemon.log_size()

    def saw() -> list[str]:
        return re.findall(r'event="saw (\w+)"', tells.daemon.log(seen))

    with SmtpClient(tells.postfix.front_port, helo=None) as client:
        assert saw() == ["connect"]
        client.command(b"EHLO client.example.com")
        client.command(b"BOGUS with arguments")
        assert saw() == ["connect", "helo", "unknown"]
        client.command(b"MAIL FROM:<a@example.com> SIZE=100")
        assert saw()[3:] == ["mail"]
        assert client.command(b"RCPT TO:<nobody@example.org>").startswith(b"550 5.1.1 <nobody@example.org>: ")
        assert saw()[4:] == ["refused", "deny"]
        client.command(b"RSET")
        client.command(b"BOGUS")  # Postfix sends what is not answered together with what is
        assert saw()[6:] == ["reset", "unknown"]
    tells.daemon.wait_for_log("saw disconnect", since=seen)
    log = tells.daemon.log(seen)
    assert re.search(r"saw connect.* address=127.0.0.1 port=\d+ host=- helo=- to=127.0.0.1 service=mx", log)
    assert re.search(r"saw mail.* sender=a@example.com size=100 login=- method=- known=false", log)
    assert re.search(r"event=transaction .*nobody@example.org=refused", log)


def test_a_login_is_known_from_mail_on(tells: Gate) -> None:
    seen = tells.daemon.log_size()
    with tells.client() as client:
        client.command(b"XCLIENT LOGIN=hjp")
        client.command(b"EHLO client.example.com")
        queue_id(client.message())
    assert re.search(r"saw mail.* login=hjp method=\S+ known=true", tells.daemon.log(seen))


@pytest.mark.parametrize("leave", [SmtpClient.close, reset_connection], ids=["FIN", "RST"])
def test_the_session_ends_when_the_client_leaves(tells: Gate, leave: type) -> None:
    seen = tells.daemon.log_size()
    client = named(tells, b"leaver")
    client.command(b"EHLO leaver.example.com")
    client.transaction(b"rcpt@example.org")
    assert "host=leaver" not in tells.daemon.log(seen).partition("saw disconnect")[2].partition("\n")[0]
    leave(client)
    tells.daemon.wait_for_log("saw disconnect.* host=leaver.example.com", since=seen)
    log = tells.daemon.log(seen)
    assert log.index("saw reset") < log.index("host=leaver.example.com", log.index("saw reset"))


def test_greetings_and_commands_of_any_bytes_are_survived(tells: Gate) -> None:
    seen = tells.daemon.log_size()
    with SmtpClient(tells.postfix.front_port, helo=None) as client:
        assert client.command(b"EHLO b\xe4d").startswith(b"500 5.5.2 Error: bad UTF-8")
        assert client.command(b"B\xe4D").startswith(b"500 5.5.2 Error: bad UTF-8")
        assert client.command("BÄD".encode()).startswith(b"500 5.5.2 Error: command")
        assert client.command("EHLO gürtel.example".encode()).startswith(b"250")
        queue_id(client.message())
        assert client.command(b"EHLO a\x01b  c%s").startswith(b"250")
        queue_id(client.message())
    tells.daemon.wait_for_log("saw disconnect", since=seen)
    assert tells.daemon.log(seen).count("saw helo") == 2


def test_bytes_that_postfix_lets_pass_are_survived_and_judged_at_the_proxy(tells: Gate) -> None:
    tells.postfix.postconf_edit({"smtputf8_enable": "no"})
    tells.postfix.reload()
    try:
        seen = tells.daemon.log_size()
        with SmtpClient(tells.postfix.front_port, helo=None) as client:
            assert client.command("EHLO gürtel.example".encode()).startswith(b"250")
            queue_id(client.message())
            assert client.command(b"EHLO b\xe4d.example").startswith(b"250")
            assert client.command(b"B\xe4D").startswith(b"500 5.5.2 Error: command")
            assert client.command(b"MAIL FROM:<\xe4@example.com>").startswith(b"250")
            assert client.command(b"RSET").startswith(b"250")
            queue_id(client.message())
        log = tells.daemon.log(seen)
        assert re.findall(r'saw helo".* who="?([^\s"]+)', log) == ["gürtel.example", "b?d.example"]
        assert log.count("saw connect") == 1
    finally:
        tells.postfix.postconf_edit({"smtputf8_enable": "yes"})
        tells.postfix.reload()


def test_a_session_of_the_edge_is_held_open_without_cost_to_the_end_of_the_daemon(tells: Gate) -> None:
    seen = tells.daemon.log_size()
    clients = [tells.client() for _ in range(3)]
    tells.use(hooks={"tells": TELLS}, milter={"edge": True}, restart=True)
    assert tells.daemon.log(seen).count("saw disconnect") == 3
    for client in clients:
        assert client.command(b"MAIL FROM:<a@example.com>").startswith(b"4")
        client.close()
    wait_until(lambda: tells.send().startswith(b"250"))


def test_with_the_edge_off_its_sessions_pass_unseen(tells: Gate) -> None:
    tells.use(hooks={"tells": TELLS})
    seen = tells.daemon.log_size()
    with tells.client() as client:
        client.command(b"BOGUS")
        client.transaction(b"nobody@example.org")
        assert "saw" not in tells.daemon.log(seen)
        client.command(b"RSET")
        queue_id(client.message())
    assert re.findall(r'event="saw (\w+)"', tells.daemon.log(seen))[:3] == ["connect", "helo", "mail"]
