"""dkim_sign: signs the mail of your own users by DKIM (RFC 6376), with the key of the domain in From.

HOOKS
    data_post   put it last: what edits the message afterwards breaks the signature. `gatepost check` refuses that

OPTIONS
    keys        the file that says which domain has which key, required; see FILES
    authenticated   true: the mail of clients that have logged in is signed. That is known with the edge door
    networks    ["127.0.0.0/8", "::1"]: so is mail from these clients; list the machines whose users may send as any of
                your domains. Nobody else's mail is signed, whatever its From says
    headers     ["From", "Sender", "Reply-To", "Subject", "Date", "Message-ID", "To", "Cc", "MIME-Version",
                "Content-Type", "Content-Transfer-Encoding", "Content-ID", "Content-Description", "In-Reply-To",
                "References", "Resent-Date", "Resent-From", "Resent-Sender", "Resent-To", "Resent-Cc",
                "Resent-Message-ID", "List-Id", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post",
                "List-Subscribe", "List-Post", "List-Owner", "List-Archive"]: signed where they are there (RFC 6376
                section 5.4.1). From always is
    oversign    ["From", "Reply-To", "Subject", "Date", "Message-ID", "To", "Cc", "MIME-Version", "Content-Type",
                "Content-Transfer-Encoding"]: signed once more than they are there, so that nobody adds another one
    canonicalization    "relaxed/relaxed": of header and body; "simple" breaks with any change of white space
    expires     0: how long the signature is to hold, such as "14d"; 0: for ever

    Not signed, and logged: mail without From, with several, with authors of several domains, or with one that could be
    read in two ways. Not signed: mail of a domain that has no key. A subdomain without a key of its own has that of the
    domain above it.

FILES
    A line for each key; a domain that has several is signed by each, in this order. "#" begins a comment.

        # domain      selector  file
        example.org   s2026     /etc/gatepost/dkim/example.org.rsa
        example.org   e2026     /etc/gatepost/dkim/example.org.ed25519

    This file and the keys are read again when they change. Relative paths begin in the directory of the configuration.
    Keys are PEM without a passphrase, RSA of 1024 bits or more, or Ed25519 (also as base64 of its 32 bytes). A key that
    everybody on the machine can read is refused: it should belong to root, be readable by the group gatepost alone.

        openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out example.org.rsa
        openssl pkey -in example.org.rsa -pubout -outform DER | openssl base64 -A
        openssl genpkey -algorithm ed25519 -out example.org.ed25519
        openssl pkey -in example.org.ed25519 -pubout -outform DER | tail -c 32 | openssl base64 -A

    What these print is p= of the TXT records s2026._domainkey.example.org, "v=DKIM1; k=rsa; p=...", and e2026, with
    k=ed25519. Publish both before you name the keys here. Not everybody can check Ed25519.

REPLIES
    None.

FAILURE
    A missing or bad key stops the start, with its name. Later the old one stays in use, and the log says why; what was
    missing is looked for again with the next change of the file, or a reload.

NOTE
    After this plugin Postfix converts 8-bit mail for a host that does not announce 8BITMIME, and breaks lines that are
    too long (smtp_line_length_limit). Both break signatures; quoted-printable, as most mail programs send it, does not.
"""

from __future__ import annotations

import time
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import IPvAnyNetwork, StringConstraints

from gatepost import DkimForm, DkimKeyTable, Duration, Fixed, Plugin, PluginOptions, author_domains, sign_message

if TYPE_CHECKING:
    from gatepost import Message, Transaction

FieldName = Annotated[str, StringConstraints(pattern=r"^[!-9<-~]+$")]

HEADERS = (
    "From", "Sender", "Reply-To", "Subject", "Date", "Message-ID", "To", "Cc", "MIME-Version",
    "Content-Type", "Content-Transfer-Encoding", "Content-ID", "Content-Description", "In-Reply-To",
    "References", "Resent-Date", "Resent-From", "Resent-Sender", "Resent-To", "Resent-Cc",
    "Resent-Message-ID", "List-Id", "List-Help", "List-Unsubscribe", "List-Unsubscribe-Post",
    "List-Subscribe", "List-Post", "List-Owner", "List-Archive",
)  # fmt: skip

OVERSIGN = (
    "From", "Reply-To", "Subject", "Date", "Message-ID", "To", "Cc", "MIME-Version", "Content-Type",
    "Content-Transfer-Encoding",
)  # fmt: skip


class Options(PluginOptions):
    """What the manual above says."""

    keys: Annotated[Path, Fixed]
    authenticated: bool = True
    networks: tuple[IPvAnyNetwork, ...] = (ip_network("127.0.0.0/8"), ip_network("::1"))
    headers: tuple[FieldName, ...] = HEADERS
    oversign: tuple[FieldName, ...] = OVERSIGN
    canonicalization: Literal["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"] = (
        "relaxed/relaxed"
    )
    expires: Duration = 0.0


class DkimSign(Plugin[Options]):
    """Signs in a thread, and puts the signatures on top."""

    signs = True

    def init(self) -> None:
        self._keys = DkimKeyTable(self.options().keys, self.watch)

    async def data_post(self, transaction: Transaction, message: Message) -> None:
        options = self.options(transaction)
        if not _is_ours(transaction, options):
            return
        values, why_not = await self.in_thread(self._signatures, message, options)
        if why_not:
            self.log.info("not signed", txn=transaction.id, reason=why_not)
        for value in reversed(values):
            message.insert_header(0, "DKIM-Signature", value)

    def _signatures(self, message: Message, options: Options) -> tuple[list[bytes], str]:
        """Return the signatures, from the top, and why there are none."""
        domains, why_not = author_domains(message.headers)
        if len(domains) != 1:
            return [], why_not or "From names several domains"
        signers = self._keys.signers(domains[0])
        if not signers:
            return [], ""
        form = DkimForm(("From", *options.headers), options.oversign, options.canonicalization, int(options.expires))
        try:
            return sign_message(message, signers, form, int(time.time())), ""
        except ValueError as error:
            return [], str(error)


def _is_ours(transaction: Transaction, options: Options) -> bool:
    if transaction.authenticated and options.authenticated:
        return True
    ip = transaction.session.ip
    return ip is not None and any(ip in network for network in options.networks)
