"""The edge door where postscreen holds the port: it stands on smtpd/pass, which gets clients handed over."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.e2e.gate import PREAMBLE
from tests.e2e.postfix_rig import SmtpClient, queue_id, wait_until

from gatepost.ops.private_daemon import PrivateDaemon
from gatepost.ops.private_postfix import free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import StartPostfix

WHERE = """
class Where(Plugin):
    def connect(self, session):
        self.log.info("came", client=session.port, to=session.daemon_address, port=session.daemon_port)

    def rcpt_refused(self, transaction, recipient, reply):
        self.log.info("refused", client=transaction.session.port, rcpt=str(recipient.address))

    def disconnect(self, session):
        self.log.info("gone", client=session.port)
"""


@pytest.fixture(scope="module")
def daemon(start_postfix: StartPostfix, postfix_directory: Path, postscreen: int) -> Iterator[PrivateDaemon]:
    """A gatepost behind postscreen, with the edge."""
    services = [f"127.0.0.1:{postscreen} inet n - n - 1 postscreen", "smtpd pass - - n - - smtpd"]
    # Without its greet pause of six seconds, which is for strangers.
    postfix = start_postfix(main={"postscreen_access_list": "inline:{127.0.0.1=permit}"}, services=services)
    directory = Path(tempfile.mkdtemp(prefix="gp-", dir=postfix_directory))
    directory.chmod(0o755)
    daemon = PrivateDaemon(directory)
    daemon.configure('[[plugin]]\nname = "where"\n', more={"milter": {"edge": True}})
    (daemon.hooks_dir / "where.py").write_text(PREAMBLE + WHERE)
    daemon.apply(postfix.config_dir, "smtpd/pass")
    postfix.reload()
    with daemon:
        yield daemon


@pytest.fixture(scope="module")
def postscreen() -> int:
    """The port that clients come to."""
    return free_loopback_port()


def test_clients_that_postscreen_hands_over_pass_the_edge(daemon: PrivateDaemon, postscreen: int) -> None:
    with SmtpClient(postscreen) as client:
        port = client.address[1]
        accepted, refused = client.transaction(b"rcpt@example.org", b"a@elsewhere.example")
        assert accepted.startswith(b"250 ")
        assert refused.startswith(b"554 5.7.1")
        queue_id(client.content(b"Subject: x\r\n\r\nx\r\n.\r\n"))
    wait_until(lambda: f"event=gone plugin=where client={port}\n" in daemon.log())
    assert f"event=came plugin=where client={port} to=127.0.0.1 port={postscreen}\n" in daemon.log()
    assert f"event=refused plugin=where client={port} rcpt=a@elsewhere.example\n" in daemon.log()
