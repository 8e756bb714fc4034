"""Making DKIM signatures: private keys as files have them, and the field (RFC 6376 section 5).

Which messages are signed, and by whom, is the plugin's business.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gatepost.errors import ConfigError
from gatepost.message.header import Header
from gatepost.services.authentication.dkim_body import BodyHash, hash_body
from gatepost.services.authentication.dkim_signature import SignedFields, header_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gatepost.message.message import Message

NAMES_LIMIT = 300
"""Fields that one signature covers: a message with more, such as 300 To fields, is not one that a mail program made."""

LEAST_BITS = 1024
"""RFC 8301 section 3.2: nobody believes a shorter key."""

PrivateKey: TypeAlias = RSAPrivateKey | Ed25519PrivateKey

_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----\s(.*?)(?:-----END|\Z)", re.DOTALL)

_RSA_PSS = bytes.fromhex("2a864886f70d01010a")
"""The object identifier in keys for RSASSA-PSS (RFC 4055): verifiers of DKIM cannot read their public half."""


@dataclass(frozen=True, slots=True)
class DkimKey:
    """A key that can sign."""

    private: PrivateKey

    @property
    def algorithm(self) -> str:
        """`rsa-sha256` or `ed25519-sha256`."""
        return "rsa-sha256" if isinstance(self.private, RSAPrivateKey) else "ed25519-sha256"

    def sign(self, digest: bytes) -> bytes:
        """Return the signature of a SHA-256 digest; up to some milliseconds of work."""
        if isinstance(self.private, RSAPrivateKey):
            return self.private.sign(digest, PKCS1v15(), Prehashed(SHA256()))
        return self.private.sign(digest)


def parse_dkim_key(text: str) -> DkimKey:
    """Return the key in a file; ConfigError without a place for anything else.

    RSA as PEM (PKCS #1 or #8), Ed25519 as PEM or, as dkimpy's dknewkey writes it, 32 bytes in base64.
    """
    text = text.replace("\r\n", "\n").strip("\ufeff \t\n") + "\n"
    pem = _PEM.search(text)
    if pem is None:
        data = _base64(text)
        if len(data) != 32:
            raise ConfigError("no private key: PEM, or an Ed25519 key of 32 bytes in base64, is wanted")
        return DkimKey(Ed25519PrivateKey.from_private_bytes(data))
    label, body = pem.groups()
    if "PRIVATE KEY" not in label:
        raise ConfigError(f"a {label.lower()}: a private key, RSA or Ed25519, is wanted")
    try:
        # Looks, too, whether the parts of the key fit together: those who get the mail must not find that out.
        private = load_pem_private_key(text.encode(), password=None)
    except TypeError as error:
        raise ConfigError("the key is encrypted: save it without a passphrase, readable by gatepost alone") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError("no RSA or Ed25519 key, or a damaged one") from error
    if isinstance(private, RSAPrivateKey) and _RSA_PSS not in _base64(body):
        if private.key_size < LEAST_BITS:
            raise ConfigError(
                f"the key has {private.key_size} bits, and nobody believes less than {LEAST_BITS}: make one with 2048"
            )
    elif not isinstance(private, Ed25519PrivateKey):
        raise ConfigError("neither an RSA nor an Ed25519 key")
    return DkimKey(private)


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return b""


@dataclass(frozen=True, slots=True)
class DkimSigner:
    """Who signs: domain with A-labels, selector, key."""

    domain: str
    selector: str
    key: DkimKey


@dataclass(frozen=True, slots=True)
class DkimForm:
    """What a signature covers, and how."""

    fields: tuple[str, ...]
    """Covered in all their occurrences."""
    sealed: tuple[str, ...]
    """Covered once more than they occur, so that adding one breaks the signature."""
    canonicalization: str = "relaxed/relaxed"
    expires_s: int = 0
    """0: never."""


def sign_message(message: Message, signers: Sequence[DkimSigner], form: DkimForm, now: int) -> list[bytes]:
    """Return the value of a DKIM-Signature field for each signer; for a thread. ValueError for too many fields."""
    present: dict[str, int] = {}
    for field in message.headers:
        name = field.name.lower()
        present[name] = present.get(name, 0) + 1
    sealed = {name.lower() for name in form.sealed}
    unique = {name.lower(): name for name in (*form.fields, *form.sealed)}
    counts = {name: present.get(lower, 0) + (lower in sealed) for lower, name in unique.items()}
    if sum(counts.values()) > NAMES_LIMIT:
        raise ValueError(f"it has more than {NAMES_LIMIT} fields to sign")
    names = [name for name, count in counts.items() for _ in range(count)]
    selected = SignedFields(message.headers).select([name.lower() for name in names])
    header_form, _, body_form = form.canonicalization.partition("/")
    body = BodyHash(body_form == "relaxed", "sha256")
    body_digest = hash_body(message.body.chunks(), [body])[body].digest
    values = []
    for signer in signers:
        times = f"t={now}; x={now + form.expires_s};" if form.expires_s else f"t={now};"
        lines = [
            f" v=1; a={signer.key.algorithm}; c={form.canonicalization};",
            f"d={signer.domain}; s={signer.selector}; {times}",
            "h=" + _wrapped(names) + ";",
            f"bh={base64.b64encode(body_digest).decode()};",
            "b=",
        ]
        unsigned = Header("DKIM-Signature", "\r\n\t".join(lines).encode())
        digest = header_digest(selected, unsigned, relaxed=header_form == "relaxed", algorithm="sha256")
        value = base64.b64encode(signer.key.sign(digest))
        pieces = [value[place : place + 64] for place in range(0, len(value), 64)]
        values.append(unsigned.raw + b"\r\n\t ".join(pieces))
    return values


def _wrapped(names: Sequence[str]) -> str:
    """Return the names with colons between them, in lines of at most 72 columns unless one name is longer."""
    lines = [""]
    for word in ":".join(names).replace(":", ":\n").split("\n"):
        if lines[-1] and len(lines[-1]) + len(word) > 72:
            lines.append("")
        lines[-1] += word
    return "\r\n\t ".join(lines)
