"""A front with the edge door that refuses some recipients by itself, and plugins that tell what they hear there."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.postfix_rig import wait_until

if TYPE_CHECKING:
    from tests.e2e.gate import Gate

EDGE = {"edge": True}

REFUSED = "inline:{{nobody@example.org=550 5.1.1 no such user, 5%}, {later@example.org=450 4.2.0 busy}}"
"""What the front refuses; the later one for now."""

TELLS = """
class Tells(Plugin):
    def connect(self, session):
        self.log.info("saw connect", address=session.address, port=session.port, host=session.name, helo=session.helo,
                      to=session.daemon_address, service=session.daemon_name)

    def helo(self, session, name):
        self.log.info("saw helo", who=name)

    def unrecognized_command(self, session, verb):
        self.log.info("saw unknown", verb=verb)

    def mail(self, transaction, sender, parameters):
        session = transaction.session
        self.log.info("saw mail", sender=str(sender), size=parameters.get("SIZE"), login=session.login,
                      method=session.sasl_method, known=transaction.authenticated)

    def rcpt_refused(self, transaction, recipient, reply):
        self.log.info("saw refused", rcpt=str(recipient.address), outcome=recipient.outcome, code=reply.code,
                      enhanced=reply.enhanced, why=reply.text, offered=len(transaction.recipients))

    def deny(self, session, hook, verdict):
        self.log.info("saw deny", hook=hook, kind=verdict.kind)

    def reset_transaction(self, transaction):
        self.log.info("saw reset")

    def disconnect(self, session):
        self.log.info("saw disconnect", host=session.name)
"""
"""Every hook of the edge, in the log."""

NOTES = """
class Notes(Plugin):
    def connect(self, session):
        self.log.info("saw connect", port=session.port)
        self.notes(session)["port"] = session.port

    def helo(self, session, name):
        self.log.info("saw helo", who=name, esmtp=session.esmtp)
        self.notes(session)["helo"] = name

    def mail(self, transaction, sender, parameters):
        self.log.info("saw mail", txn=transaction.id)
        self.notes(transaction)["sender"] = str(sender)

    def rcpt(self, transaction, recipient):
        self.log.info("saw rcpt", txn=transaction.id, esmtp=transaction.session.esmtp)

    def data_post(self, transaction, message):
        session = self.notes(transaction.session)
        message.add_header("X-Notes", f"{session['helo']} {self.notes(transaction)['sender']} {session['port']}")

    def reset_transaction(self, transaction):
        self.log.info("saw reset", txn=transaction.id)

    def disconnect(self, session):
        self.log.info("saw disconnect", port=session.port)

    def reload(self):
        self.log.info("told reload")
"""
"""Notes at every door, which end up in a header field."""


def put_edge_on_front(gate: Gate) -> None:
    """Give the public smtpd gatepost's milter, and recipients that it refuses by itself."""
    gate.daemon.configure(more={"milter": EDGE})
    gate.daemon.apply(gate.postfix.config_dir, gate.postfix.front_service)
    gate.postfix.postconf_edit({"smtpd_recipient_restrictions": f"check_recipient_access {REFUSED}"})
    gate.postfix.reload()


def wait_until_left(gate: Gate) -> None:
    """Return once no smtpd is connected to the milter: of the clients of an earlier test nothing comes any more."""
    path = f"{gate.daemon.directory}/run/milter.sock"

    def is_left() -> bool:
        # Num RefCount Protocol Flags Type St Inode Path; what listens there has flags.
        found = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
        return not any(words[3] == "00000000" and words[7:] == [path] for words in found)

    wait_until(is_left)


def counted(gate: Gate, seen: int) -> Counter[str]:
    """Return how often each hook was heard of in the log, from the offset `seen` on."""
    return Counter(re.findall(r'event="saw (\w+)"', gate.daemon.log(seen)))
