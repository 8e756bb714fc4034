"""A certificate authority of the tests' own, and STARTTLS with it on a private Postfix; nothing of the host's is used.

authority = Authority(directory)             # below one that user postfix can enter
start_postfix(main=authority.settings)       # offers STARTTLS, and asks clients for a certificate
start_tls(client, authority.context())       # as a client with a certificate; then say EHLO again (RFC 3207)
"""

from __future__ import annotations

import ssl
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.postfix_rig import SmtpClient

SERVER = "mx.gatepost.test"
CLIENT = "client.gatepost.test"
ISSUER = "gatepost test CA"


class Authority:
    """The authority's certificate, one for the server and one for a client, in `directory`, which is made.

    A key is readable by root alone, as smtpd wants it; what it reads them for, it does before it drops its privileges.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o755)
        self.certificate = directory / "ca.pem"
        # Elliptic keys, because making RSA's takes a second.
        new: list[str | Path] = [
            "openssl",
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-x509",
        ]
        own: list[str | Path] = ["-keyout", directory / "ca.key", "-out", self.certificate, "-subj", f"/CN={ISSUER}"]
        # Python 3.13 trusts no authority that does not say that it signs (VERIFY_X509_STRICT).
        _run(*new, "-days", "2", *own, "-addext", "keyUsage=keyCertSign,cRLSign")
        for name, common_name in (("server", SERVER), ("client", CLIENT)):
            files: list[str | Path] = ["-keyout", directory / f"{name}.key", "-out", directory / f"{name}.pem"]
            signer: list[str | Path] = [
                "-CA",
                self.certificate,
                "-CAkey",
                directory / "ca.key",
                "-addext",
                "basicConstraints=CA:FALSE",
            ]
            subject = ["-subj", f"/CN={common_name}", "-addext", f"subjectAltName=DNS:{common_name}"]
            _run(*new, "-days", "2", *files, *signer, *subject)

    @property
    def settings(self) -> dict[str, str]:
        """What main.cf must say; `smtpd_tls_ask_ccert` has clients that show no certificate pass all the same."""
        return {
            "smtpd_tls_security_level": "may",
            "smtpd_tls_cert_file": str(self.directory / "server.pem"),
            "smtpd_tls_key_file": str(self.directory / "server.key"),
            "smtpd_tls_CAfile": str(self.certificate),
            "smtpd_tls_ask_ccert": "yes",
        }

    def context(self, *, certificate: bool = True) -> ssl.SSLContext:
        """A client's side: knows the authority, and shows the client's certificate unless told not to."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        if certificate:
            context.load_cert_chain(self.directory / "client.pem", self.directory / "client.key")
        return context


def start_tls(client: SmtpClient, context: ssl.SSLContext) -> bytes:
    """Say STARTTLS and shake hands; returns the reply to it, and shakes no hands if that is a refusal."""
    reply = client.command(b"STARTTLS")
    if reply.startswith(b"220"):
        client.secure(context, SERVER)
    return reply


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
