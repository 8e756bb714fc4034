"""What a session knows of its client with the edge door: TLS, certificate, login; and when each is known."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import SmtpClient, queue_id, wait_until
from tests.e2e.sasl_rig import REALM, auth_plain
from tests.e2e.tls_rig import CLIENT, ISSUER, SERVER, start_tls

from gatepost.ops.private_postfix import free_loopback_port

if TYPE_CHECKING:
    from tests.e2e.gate import Gate
    from tests.e2e.sasl_rig import Accounts
    from tests.e2e.tls_rig import Authority

FACTS = """
class Facts(Plugin):
    def connect(self, session):
        tell(self.log, "connect", session)
        self.log.info("came to", name=session.daemon_name, address=session.daemon_address, port=session.daemon_port)

    def helo(self, session, name):
        tell(self.log, "helo", session)

    def mail(self, transaction, sender, parameters):
        tell(self.log, "mail", transaction.session)

    def rcpt(self, transaction, recipient):
        tell(self.log, "rcpt", transaction.session)

    def rcpt_refused(self, transaction, recipient, reply):
        self.log.info("refused", recipient=str(recipient.address), reply=" ".join(reply.lines))

    def data_post(self, transaction, message):
        tell(self.log, "data_post", transaction.session)

def tell(log, hook, session):
    log.info(f"at {hook}", tls=session.tls_version, cipher=session.tls_cipher, subject=session.cert_subject,
             issuer=session.cert_issuer, login=session.login, method=session.sasl_method, by=session.sasl_sender)
"""
MEMBERS = """
class Members(Plugin):
    def helo(self, session, name):
        self.log.info("greeted", login=session.login)

    def rcpt(self, transaction, recipient):
        return None if transaction.authenticated else DenySoft("members only")
"""

GREETED = """
class Greeted(Plugin):
    def helo(self, session, name):
        self.log.info("greeted", login=session.login)
        return Deny("by nobody")
"""


STAGES = ("connect", "helo", "mail", "rcpt", "data", "end_of_header", "end_of_data", "unknown_command")
NO_MACROS = {f"milter_{stage}_macros": "" for stage in STAGES}
"""A site that has Postfix send no macros: what gatepost needs, it asks for."""


@pytest.fixture(scope="module")
def submission() -> int:
    """The port of a second front."""
    return free_loopback_port()


@pytest.fixture(scope="module")
def edge_gate(module_gate: Gate, authority: Authority, accounts: Accounts, submission: int) -> Gate:
    """Put the edge on two fronts with STARTTLS and logins."""
    postfix = module_gate.postfix
    accounts.add("ada", "secret")
    postfix.postconf_edit({**authority.settings, **NO_MACROS})
    accounts.enable(postfix)
    postfix.add_service(f"127.0.0.1:{submission} inet n - n - 10 smtpd")
    module_gate.daemon.configure(more={"milter": {"edge": True}})
    for service in (postfix.front_service, f"127.0.0.1:{submission}/inet"):
        module_gate.daemon.apply(postfix.config_dir, service)
    postfix.reload()
    return module_gate


@pytest.fixture
def facts(edge_gate: Gate, gate: Gate) -> Gate:
    gate.use(hooks={"facts": FACTS}, milter={"edge": True})
    return gate


def told(gate: Gate, seen: int, hook: str) -> list[dict[str, str]]:
    """Return what was known each time the hook ran, without what was not."""
    lines = re.findall(rf'event="at {hook}" (.*)', gate.daemon.log(seen))
    return [
        {name: value for name, value in re.findall(r'(\w+)=("[^"]*"|\S+)', line) if value != "-" and name != "plugin"}
        for line in lines
    ]


def test_tls_is_known_from_the_greeting_after_starttls_and_a_login_from_mail_on(
    facts: Gate, authority: Authority
) -> None:
    seen = facts.daemon.log_size()
    with facts.client() as client:
        start_tls(client, authority.context())
        client.command(b"EHLO client.example.com")
        assert client.command(auth_plain("ada", "secret")).startswith(b"235 ")
        client.command(b"MAIL FROM:<a@example.com> AUTH=b@example.com")
        assert client.command(b"RCPT TO:<a@example.org>").startswith(b"250")
        queue_id(client.content(b"Subject: x\r\n\r\nx\r\n.\r\n"))
    assert told(facts, seen, "connect") == [{}]
    before, after = told(facts, seen, "helo")
    (mail,) = told(facts, seen, "mail")
    assert before == {}
    assert after.keys() == {"tls", "cipher", "subject", "issuer"}
    assert re.fullmatch(r"TLSv1\.\d", after["tls"])
    assert (after["subject"].strip('"'), after["issuer"].strip('"')) == (CLIENT, ISSUER)
    assert mail == {**after, "login": f"ada@{REALM}", "method": "PLAIN", "by": "b@example.com"}
    assert told(facts, seen, "rcpt") == [mail]


def test_tls_without_a_certificate_and_a_login_that_fails_leave_them_unknown(facts: Gate, authority: Authority) -> None:
    seen = facts.daemon.log_size()
    with facts.client() as client:
        start_tls(client, authority.context(certificate=False))
        client.command(b"EHLO client.example.com")
        assert client.command(auth_plain("ada", "wrong")).startswith(b"535 ")
        queue_id(client.message())
    (mail,) = told(facts, seen, "mail")
    assert mail.keys() == {"tls", "cipher"}


def test_tls_is_known_at_mail_when_the_client_does_not_greet_again(facts: Gate, authority: Authority) -> None:
    seen = facts.daemon.log_size()
    with facts.client() as client:
        start_tls(client, authority.context())
        queue_id(client.message())
    assert told(facts, seen, "helo") == [{}]
    (mail,) = told(facts, seen, "mail")
    assert mail.keys() == {"tls", "cipher", "subject", "issuer"}


def test_the_service_that_the_client_came_to_is_known_from_connect_on(facts: Gate) -> None:
    seen = facts.daemon.log_size()
    with facts.client():
        pass
    port = facts.postfix.front_port
    # Its myhostname is also the name in the certificate.
    line = f'event="came to" plugin=facts name={SERVER} address=127.0.0.1 port={port}'
    wait_until(lambda: line in facts.daemon.log(seen))


def test_a_recipient_that_postfix_refused_is_known_with_its_text(facts: Gate) -> None:
    seen = facts.daemon.log_size()
    with facts.client() as client:
        assert client.transaction(b"a@elsewhere.example")[0].startswith(b"554 5.7.1 ")
    line = re.compile(r'event=refused plugin=facts recipient=a@elsewhere\.example reply=".*Relay access denied"')
    wait_until(lambda: line.search(facts.daemon.log(seen)) is not None)


@pytest.mark.usefixtures("edge_gate")
def test_a_login_counts_from_the_next_command_until_starttls_forgets_it(gate: Gate, authority: Authority) -> None:
    gate.use(hooks={"members": MEMBERS}, milter={"edge": True})
    seen = gate.daemon.log_size()

    def reply(client: SmtpClient) -> bytes:
        (reply,) = client.transaction(b"rcpt@example.org")
        client.command(b"RSET")
        return reply[:3]

    with gate.client() as client:
        assert reply(client) == b"450"
        assert client.command(auth_plain("ada", "secret")).startswith(b"235 ")
        assert reply(client) == b"250"
        assert client.command(auth_plain("eve", "secret")).startswith(b"503 "), "no second login"
        client.command(b"EHLO again.example.com")
        assert reply(client) == b"250"
        start_tls(client, authority.context(certificate=False))
        client.command(b"EHLO client.example.com")
        assert reply(client) == b"450", "Postfix has forgotten the login"
        assert client.command(auth_plain("ada", "secret")).startswith(b"235 ")
        assert reply(client) == b"250"
    with gate.client() as client:
        assert reply(client) == b"450", "a session of its own"
    at_greetings = re.findall(r"event=greeted .*login=(\S+)", gate.daemon.log(seen))
    ada = f"ada@{REALM}"
    assert at_greetings == ["-", ada, "-", "-"], "known at once, and forgotten at once"


@pytest.mark.usefixtures("edge_gate")
def test_a_refused_greeting_is_judged_once_more_after_a_login_and_not_at_every_mail(gate: Gate) -> None:
    gate.use(hooks={"greeted": GREETED}, milter={"edge": True})
    seen = gate.daemon.log_size()
    with gate.client() as client:
        for _ in range(2):
            assert client.command(b"MAIL FROM:<a@example.com>").startswith(b"550 ")
        assert client.command(auth_plain("ada", "secret")).startswith(b"235 ")
        for _ in range(2):
            assert client.command(b"MAIL FROM:<a@example.com>").startswith(b"550 ")
    assert re.findall(r"event=greeted .*login=(\S+)", gate.daemon.log(seen)) == ["-", f"ada@{REALM}"]


@pytest.mark.usefixtures("edge_gate")
def test_who_logs_in_at_the_submission_service_is_not_greylisted_and_others_are(gate: Gate, submission: int) -> None:
    gate.use('[[plugin]]\nname = "greylist"\n', milter={"edge": True})
    with SmtpClient(submission) as client:
        assert client.command(auth_plain("ada", "secret")).startswith(b"235 ")
        queue_id(client.message())
    for port in (submission, gate.postfix.front_port):
        with SmtpClient(port) as client:
            assert client.transaction(b"rcpt@example.org")[0].startswith(b"450 ")


@pytest.mark.usefixtures("edge_gate")
def test_a_login_counts_for_no_other_client_of_the_same_port(gate: Gate, submission: int) -> None:
    gate.use(hooks={"members": MEMBERS}, milter={"edge": True})
    with gate.client() as stranger, SmtpClient(submission) as member:
        for client in (stranger, member):
            # As behind an address that many share, which may use a port once for each service.
            assert client.command(b"XCLIENT ADDR=192.0.2.7 PORT=4711").startswith(b"220 ")
        stranger.command(b"EHLO stranger.example.com")
        member.command(b"EHLO member.example.com")
        assert member.command(auth_plain("ada", "secret")).startswith(b"235 ")
        for _ in range(2):
            assert stranger.transaction(b"rcpt@example.org")[0].startswith(b"450 ")
            queue_id(member.message())
            stranger.command(b"RSET")


def test_without_the_edge_none_of_it_is_known(facts: Gate, authority: Authority) -> None:
    facts.use(hooks={"facts": FACTS})
    seen = facts.daemon.log_size()
    with facts.client() as client:
        start_tls(client, authority.context())
        client.command(b"EHLO client.example.com")
        assert client.command(auth_plain("ada", "secret")).startswith(b"235 ")
        queue_id(client.message())
    assert told(facts, seen, "mail") == [{}]
