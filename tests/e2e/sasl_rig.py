"""Logins on a private Postfix, by Cyrus SASL with passwords in a file: no service runs, nothing of the host's is asked.

accounts = Accounts(directory)               # below one that user postfix can enter
accounts.add("ada", "secret")
accounts.enable(postfix)                     # it offers AUTH PLAIN and LOGIN from now on
client.command(auth_plain("ada", "secret"))
"""

from __future__ import annotations

import base64
import shutil
import subprocess
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

    from gatepost.ops.private_postfix import PrivatePostfix

REALM: Final = "gatepost.test"
"""What Cyrus SASL puts after the name: {auth_authen} is NAME@REALM."""


class Accounts:
    """The users, in `directory`, which is made."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.database = directory / "sasldb"
        directory.mkdir(mode=0o755)

    def add(self, name: str, password: str) -> None:
        """Make an account, or change its password."""
        command: list[str | Path] = ["saslpasswd2", "-p", "-c", "-f", self.database, "-u", REALM, name]
        done = subprocess.run(command, input=password, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        # smtpd opens it as user postfix; the passwords in it are the tests' own.
        shutil.chown(self.database, "postfix")

    def enable(self, postfix: PrivatePostfix, service: str | None = None) -> None:
        """Let the users log in at this Postfix, or at one service of it (NAME/TYPE), which must run; reloads it.

        PLAIN is allowed without TLS, too.
        """
        # Debian's smtpd reads CONFIG_DIR/sasl whatever cyrus_sasl_config_path says, others do as that says.
        place = postfix.config_dir / "sasl"
        place.mkdir(exist_ok=True)
        # smtpd_sasl_path names the file, without its `.conf`.
        (place / "smtpd.conf").write_text(
            f"pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN\nsasldb_path: {self.database}\n"
        )
        settings = {
            "smtpd_sasl_type": "cyrus",
            "smtpd_sasl_path": "smtpd",
            "cyrus_sasl_config_path": str(place),
            "smtpd_sasl_local_domain": REALM,
            "smtpd_sasl_security_options": "noanonymous",
            "smtpd_relay_restrictions": "permit_sasl_authenticated, permit_mynetworks, reject_unauth_destination",
        }
        switch = {"smtpd_sasl_auth_enable": "yes"}
        postfix.postconf_edit(settings if service else settings | switch)
        if service:
            postfix.postconf_service(service, switch)
        postfix.reload()


def auth_plain(name: str, password: str) -> bytes:
    """The AUTH command that logs in at once (RFC 4616)."""
    return b"AUTH PLAIN " + base64.b64encode(f"\0{name}\0{password}".encode())
