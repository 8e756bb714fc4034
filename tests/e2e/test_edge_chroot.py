"""The milter socket below the queue directory, for a front and an inner smtpd that are chrooted there."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.e2e.gate import PREAMBLE
from tests.e2e.postfix_rig import SmtpClient, queue_id

from gatepost.ops.private_daemon import PrivateDaemon
from gatepost.ops.private_postfix import free_loopback_port

if TYPE_CHECKING:
    from tests.e2e.conftest import StartPostfix

BOTH = """
class Both(Plugin):
    def helo(self, session, name):
        return Deny("not by that name") if name == "bad.example.com" else None

    def data_post(self, transaction, message):
        message.add_header("X-Came-To", str(transaction.session.daemon_port))
"""


def test_both_doors_of_a_chrooted_smtpd(start_postfix: StartPostfix, postfix_directory: Path) -> None:
    port = free_loopback_port()
    service = f"127.0.0.1:{port}/inet"
    postfix = start_postfix(services=[f"127.0.0.1:{port} inet n - y - 10 smtpd"])
    directory = Path(tempfile.mkdtemp(prefix="gp-", dir=postfix_directory))
    directory.chmod(0o755)
    socket_directory = postfix.queue_dir / "gatepost"
    socket_directory.mkdir()
    shutil.chown(socket_directory, group="postfix")
    socket_directory.chmod(0o2750)
    daemon = PrivateDaemon(directory)
    milter: dict[str, str | int] = {"edge": True, "socket": f"unix:{socket_directory}/milter.sock"}
    daemon.configure('[[plugin]]\nname = "both"\n', more={"milter": milter})
    (daemon.hooks_dir / "both.py").write_text(PREAMBLE + BOTH)
    daemon.apply(postfix.config_dir, service)
    inner = f"127.0.0.1:{daemon.inner_port}/inet"
    for key in (service, inner):
        assert "unix:gatepost/milter.sock" in postfix.postconf("-P", f"{key}/smtpd_milters")
        assert postfix.postconf("-F", f"{key}/chroot").endswith("= y")
    postfix.reload()
    with daemon:
        with SmtpClient(port, helo=b"bad.example.com") as client:
            assert client.command(b"MAIL FROM:<a@example.com>") == b"550 5.7.1 not by that name\r\n"
        with SmtpClient(port) as client:
            identity = queue_id(client.message())
        assert f"X-Came-To: {port}\n".encode() in postfix.message(identity)
