"""What `gatepost postfix apply` writes, in force: the inner service of a running private Postfix."""

from __future__ import annotations

import os
import smtplib
import socket
import tempfile
import time
from pathlib import Path

import pytest

from gatepost.ops.postfix import commands
from gatepost.ops.private_postfix import PrivatePostfix, free_loopback_port

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a private Postfix is for root")

HOSTILE = {
    "milter_default_action": "accept",
    "smtpd_milter_maps": "inline:{{127.0.0.1=DISABLE}}",
    "smtpd_discard_ehlo_keywords": "pipelining, xforward",
    "smtpd_client_restrictions": "reject",
    "receive_override_options": "no_milters",
}
"""Settings in main.cf that would let mail pass unseen, or stop it all, if they reached the inner service."""


def test_a_running_postfix_takes_the_inner_service_and_fails_closed() -> None:
    """Whatever main.cf says: with gatepost's milter gone the inner service accepts nothing."""
    # Not tmp_path: user postfix must be able to enter every directory above.
    with tempfile.TemporaryDirectory(prefix="gatepost-inner-") as directory:
        Path(directory).chmod(0o755)
        listen, inner = free_loopback_port(), free_loopback_port()
        with PrivatePostfix(Path(directory) / "postfix", main=HOSTILE) as postfix:
            toml = Path(directory) / "gatepost.toml"
            milter = f'[milter]\nsocket = "unix:{postfix.queue_dir}/gatepost/milter.sock"\n'
            toml.write_text(f'[proxy]\nlisten = "127.0.0.1:{listen}"\ninner = "127.0.0.1:{inner}"\n{milter}')
            wanted = ("--config", str(toml), "--service", postfix.front_service, "--milters", "keep-front")

            run("apply", postfix, *wanted, "--reload")
            with connected(inner) as client:
                assert client.ehlo()[0] == 250
                assert client.has_extn("pipelining")
                assert client.docmd("XFORWARD", "NAME=client.example ADDR=192.0.2.1")[0] == 250
                assert client.mail("a@example.com")[0] == 451

            # The same with the milter taken off by hand: that it was the milter, and nothing else, that refused.
            postfix.postconf_service(f"127.0.0.1:{inner}/inet", {"smtpd_milters": ""})
            postfix.reload()
            with connected(inner) as client:
                client.sendmail("a@example.com", ["b@example.org"], b"Subject: hello\r\n\r\nhello\r\n")
            assert len(postfix.queue()) == 1

            run("revert", postfix, "--force", "--reload")
            assert gone(inner)


def run(command: str, postfix: PrivatePostfix, *arguments: str) -> None:
    line = [command, "--config-dir", str(postfix.config_dir), *arguments]
    assert commands.app(line, exit_on_error=False, result_action="return_value") == 0


def connected(port: int) -> smtplib.SMTP:
    """Connect once the service listens."""
    for _ in range(3000):
        try:
            return smtplib.SMTP("127.0.0.1", port, timeout=60)
        except ConnectionRefusedError:
            pause()
    raise TimeoutError(f"nothing listens on port {port}")


def gone(port: int) -> bool:
    """Wait until nothing listens."""
    for _ in range(3000):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=60).close()
        except ConnectionRefusedError:
            return True
        pause()
    return False


def pause() -> None:
    # Nothing tells when master(8) has opened or closed a socket: look again shortly.
    time.sleep(0.02)
