"""What a session knows of its client with the edge door: TLS, certificate, login; and when each is known."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import queue_id
from tests.e2e.sasl_rig import REALM, auth_plain
from tests.e2e.tls_rig import CLIENT, ISSUER, start_tls

if TYPE_CHECKING:
    from tests.e2e.gate import Gate
    from tests.e2e.sasl_rig import Accounts
    from tests.e2e.tls_rig import Authority

FACTS = """
class Facts(Plugin):
    def connect(self, session):
        tell(self.log, "connect", session)

    def helo(self, session, name):
        tell(self.log, "helo", session)

    def mail(self, transaction, sender, parameters):
        tell(self.log, "mail", transaction.session)

    def rcpt(self, transaction, recipient):
        tell(self.log, "rcpt", transaction.session)

def tell(log, hook, session):
    log.info(f"at {hook}", tls=session.tls_version, cipher=session.tls_cipher, subject=session.cert_subject,
             issuer=session.cert_issuer, login=session.login, method=session.sasl_method, by=session.sasl_sender)
"""


@pytest.fixture(scope="module")
def edge_gate(module_gate: Gate, authority: Authority, accounts: Accounts) -> Gate:
    """Put the edge on a front with STARTTLS and logins."""
    postfix = module_gate.postfix
    accounts.add("ada", "secret")
    postfix.postconf_edit(authority.settings)
    accounts.enable(postfix)
    module_gate.daemon.configure(more={"milter": {"edge": True}})
    module_gate.daemon.apply(postfix.config_dir, postfix.front_service)
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


def test_without_the_edge_none_of_it_is_known(facts: Gate, authority: Authority) -> None:
    facts.use(hooks={"facts": FACTS})
    seen = facts.daemon.log_size()
    with facts.client() as client:
        start_tls(client, authority.context())
        client.command(b"EHLO client.example.com")
        assert client.command(auth_plain("ada", "secret")).startswith(b"235 ")
        queue_id(client.message())
    assert told(facts, seen, "mail") == [{}]
