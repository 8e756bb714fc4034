"""dkim_sign: what it signs verifies by dkimpy and by our own dkim; who is signed for; keys, and how they change."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)
from tests.rigs.dkim_rig import MESSAGE, RFC8032_PUBLIC, dnsfunc, table, vector

from gatepost.configuration.config import parse_config
from gatepost.configuration.loader import load_plugins
from gatepost.errors import ConfigError
from gatepost.ops.check.order import broken_signatures
from gatepost.services.store.store import open_store
from gatepost.testing import gate

if TYPE_CHECKING:
    from pathlib import Path

FORMS = ["simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed"]

ED25519_PEM = """-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g
-----END PRIVATE KEY-----
"""
"""The key of RFC 8032 section 7.1, as `openssl genpkey -algorithm ed25519` writes keys."""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A table of keys: example.com has an RSA key, football.example.com three of all kinds."""
    for name in ("test.private", "rfc8032_7_1.key", "ed25519test.key", "2048_testkey.key"):
        write(tmp_path / name, vector(name).decode())
    write(tmp_path / "pem", ED25519_PEM)
    return write(
        tmp_path / "keys",
        f"# domain selector file\nexample.com test {tmp_path}/test.private\n"
        f"Football.example.com brisbane {tmp_path}/pem\nfootball.example.com test test.private # relative\n",
        base=tmp_path,
    )


def write(path: Path, text: str, *, base: Path | None = None) -> Path:
    path.write_text(text if base is None else text.replace(" test.private", f" {base}/test.private"))
    path.chmod(0o640)
    # Two versions within one tick of the clock would look the same.
    os.utime(path, ns=(0, path.stat().st_mtime_ns + len(text)))
    return path


async def sign(
    keys: Path, content: bytes = MESSAGE, *, address: str = "127.0.0.1", login: str | None = None, **options: Any
) -> bytes:
    """Return the message as it is queued."""
    async with gate(dkim_sign={"keys": str(keys), **options}) as postfix:
        client = postfix.client(address, login=login)
        assert (await client.send("a@example.net", "b@example.org", content=content)).code == 250
        assert client.message is not None
        with client.message.open() as reader:
            return reader.read()


def signatures(message: bytes) -> int:
    return len(re.findall(rb"(?m)^DKIM-Signature:", message))


@pytest.mark.parametrize("form", FORMS)
async def test_what_is_signed_verifies_and_is_not_changed(keys: Path, form: str) -> None:
    for content in (MESSAGE, MESSAGE.replace(b"ada@", b"ada@football."), MESSAGE[: MESSAGE.index(b"Some")]):
        message = await sign(keys, content, canonicalization=form)
        assert message.endswith(content)
        count = 2 if b"football" in content else 1
        assert [dkim.DKIM(message).verify(place, dnsfunc) for place in range(count)] == [True] * count
        assert signatures(message) == count
        async with gate(dkim={}, dns=table()) as postfix:
            client = postfix.client()
            await client.send("a@example.net", "b@example.org", content=message)
            results = client.transaction.notes["dkim"]["authentication_results"]
        assert [one["result"] for one in results] == ["pass"] * count
        assert max(map(len, message.partition(content)[0].split(b"\r\n"))) <= 78


@pytest.mark.parametrize("name", ["From", "Reply-To", "Subject", "Date", "To", "Cc", "Content-Type"])
@pytest.mark.parametrize("place", ["top", "bottom"])
async def test_nobody_can_add_a_field_that_readers_see(keys: Path, name: str, place: str) -> None:
    message = await sign(keys)
    field = f"{name}: eve@example.net\r\n".encode()
    head, end, body = message.partition(b"\r\n\r\n")
    changed = field + message if place == "top" else head + b"\r\n" + field[:-2] + end + body
    assert not dkim.verify(changed, dnsfunc=dnsfunc)
    assert dkim.verify(b"Received: by list\r\nList-Id: <x>\r\n" + message, dnsfunc=dnsfunc) is True


async def test_fields_form_and_end_are_options(keys: Path) -> None:
    message = await sign(keys, headers=["subject"], oversign=["X-None"], expires="1d")
    tags = dict(tag.split(b"=", 1) for tag in re.sub(rb"\s", b"", message.partition(b"\r\nFrom")[0]).split(b";"))
    assert tags[b"h"] == b"From:subject:X-None"
    assert int(tags[b"x"]) == int(tags[b"t"]) + 86400
    assert dkim.verify(message, dnsfunc=dnsfunc)


async def test_only_users_and_our_own_machines_are_signed_for(keys: Path) -> None:
    assert signatures(await sign(keys, address="192.0.2.1")) == 0
    assert signatures(await sign(keys, address="192.0.2.1", login="ada")) == 1
    assert signatures(await sign(keys, address="192.0.2.1", login="ada", authenticated=False)) == 0
    assert signatures(await sign(keys, address="192.0.2.1", networks=["192.0.2.0/24"])) == 1
    assert signatures(await sign(keys, address="::1")) == 1
    assert signatures(await sign(keys, networks=[])) == 0
    assert signatures(await sign(keys, address="unknown")) == 0


@pytest.mark.parametrize(
    ("author", "domain"),
    [
        ("ada@example.com", "example.com"),
        ("Ada <ada@EXAMPLE.com>", "example.com"),
        ('"Doe, Ada" <ada@example.com>', "example.com"),
        ('"Ada <eve@example.net>" <ada@example.com>', "example.com"),
        ("ada@example.com (Ada, of \\) London)", "example.com"),
        ("=?utf-8?q?Ada=2C?= <ada@example.com>", "example.com"),
        ('"a b"@example.com', "example.com"),
        ("<ada@deep.sub.example.com>", "example.com"),
        ("ada@football.example.com", "football.example.com"),
        ("ada@example.net", None),
        ("ada@notexample.com", None),
        ("ada@com", None),
        ("", None),
        ("Ada", None),
        ("@example.com", None),
        ("ada@example.com, eve@example.com", "example.com"),
        ("ada@example.com, eve@sub.example.com", None),
        ("Ada <ada@example.com>, Eve <eve@example.net>", None),
        ("<eve@example.net> <ada@example.com>", None),
        ("ada@example.com <eve@example.net>", None),
        ("friends: ada@example.com;", "example.com"),
        ("undisclosed:;", None),
        ('"Ada <ada@example.com>', None),
        ("(Ada <ada@example.com>", None),
        ("(a (nested) comment) ada@example.com", "example.com"),
        ("ada@example.com\0", None),
        ("ada@example.com x", None),
        ("ada@[192.0.2.1]", None),
        ("a" * 5000 + "@example.com", None),
        ('"\\' * 2000 + "@example.com", None),
        ("(" * 4000 + "ada@example.com", None),
        ("\udcff@example.com", "example.com"),
    ],
)
async def test_the_key_is_that_of_the_one_author(keys: Path, author: str, domain: str | None) -> None:
    content = MESSAGE.replace(b"Ada <ada@example.com>", author.encode("utf-8", "surrogateescape"))
    message = await sign(keys, content)
    found = re.findall(rb"\bd=([^;]+);", message.partition(b"\r\nFrom")[0])
    assert set(found) == ({domain.encode()} if domain else set())


async def test_without_one_from_nothing_is_signed(keys: Path) -> None:
    assert signatures(await sign(keys, b"Subject: x\r\n\r\nx\r\n")) == 0
    assert signatures(await sign(keys, b"From: ada@example.com\r\n" + MESSAGE)) == 0
    assert signatures(await sign(keys, b"To: x\r\n" * 400 + MESSAGE)) == 0


async def test_domains_of_any_script_are_found(keys: Path, tmp_path: Path) -> None:
    write(keys, f"bücher.example test {tmp_path}/test.private\n")
    message = await sign(keys, MESSAGE.replace(b"example.com>", "BÜCHER.example>".encode()))
    assert b"\td=xn--bcher-kva.example;" in message


async def test_keys_and_their_table_are_read_again_when_they_change(keys: Path, tmp_path: Path) -> None:
    async with gate(dkim_sign={"keys": str(keys)}) as postfix:

        async def signed_by() -> tuple[str, bool]:
            client = postfix.client("127.0.0.1")
            await client.send("a@example.net", "b@example.org", content=MESSAGE)
            assert client.message is not None
            with client.message.open() as reader:
                message = reader.read()
            found = re.search(rb"s=(\w+);", message)
            assert found
            return found[1].decode(), dkim.verify(message, dnsfunc=dnsfunc)

        assert await signed_by() == ("test", True)
        write(tmp_path / "test.private", vector("2048_testkey.key").decode())
        assert await signed_by() == ("test", False)
        write(tmp_path / "test.private", "no key at all\n")
        assert await signed_by() == ("test", False)
        write(tmp_path / "test.private", vector("test.private").decode())
        assert await signed_by() == ("test", True)
        write(keys, f"example.com ed {tmp_path}/ed25519test.key\n")
        assert await signed_by() == ("ed", True)
        write(keys, f"example.com ed {tmp_path}/missing\n")
        assert await signed_by() == ("ed", True)
        write(keys, f"example.com big {tmp_path}/2048_testkey.key\n")
        assert await signed_by() == ("big", True)


def pem(
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
    password: bytes = b"",
    form: PrivateFormat = PrivateFormat.PKCS8,
) -> str:
    """Return a key as `openssl genpkey` writes it, or in the traditional form as `openssl genrsa` did."""
    encryption: KeySerializationEncryption = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, form, encryption).decode()


def openssl_key(*options: str) -> str:
    return subprocess.run(["openssl", "genpkey", *options], stdout=subprocess.PIPE, text=True, check=True).stdout


RSA_KEY = rsa.generate_private_key(65537, 2048)
SOUND = vector("test.private").decode()
DAMAGED = SOUND[:-90] + ("A" if SOUND[-90] != "A" else "B") + SOUND[-89:]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("example.com test\n", "write a domain, a selector and the file of the key"),
        ("exam@ple test {key}\n", "exam@ple test: no domain, or no selector"),
        ("example.com te/st {key}\n", "example.com te/st: no domain, or no selector"),
        ("example.com test {key}\nexample.com TEST {key}\n", "example.com has the selector test twice"),
        ("example.com test missing\n", "cannot read .*missing: No such file or directory"),
    ],
)
async def test_a_table_that_is_wrong_stops_the_start(keys: Path, tmp_path: Path, text: str, problem: str) -> None:
    write(keys, text.replace("{key}", f"{tmp_path}/test.private"))
    with pytest.raises(ConfigError, match=problem):
        await sign(keys)


@pytest.mark.parametrize(
    ("key", "mode", "problem"),
    [
        ("", 0o600, "no private key"),
        ("AAAA", 0o600, "no private key"),
        (ED25519_PEM, 0o644, "everybody on this machine can read or change this key"),
        (ED25519_PEM.replace("PRIVATE", "PUBLIC"), 0o600, "a public key: a private key"),
        (pem(RSA_KEY, b"secret"), 0o600, "the key is encrypted"),
        (pem(RSA_KEY, b"secret", PrivateFormat.TraditionalOpenSSL), 0o600, "the key is encrypted"),
        (pem(ec.generate_private_key(ec.SECP256R1())), 0o600, "neither an RSA nor an Ed25519 key"),
        (openssl_key("-quiet", "-algorithm", "RSA-PSS"), 0o600, "neither an RSA nor an Ed25519 key"),
        ("-----BEGIN PRIVATE KEY-----\n", 0o600, "no RSA or Ed25519 key, or a damaged one"),
        (ED25519_PEM.replace("MC4", "MC5"), 0o600, "no RSA or Ed25519 key, or a damaged one"),
        (DAMAGED, 0o600, "no RSA or Ed25519 key, or a damaged one"),
        (SOUND.replace("MII", "AAA", 1), 0o600, "no RSA or Ed25519 key, or a damaged one"),
    ],
)
async def test_a_key_that_cannot_be_used_stops_the_start_with_its_name(
    keys: Path, tmp_path: Path, key: str, mode: int, problem: str
) -> None:
    write(tmp_path / "bad", key).chmod(mode)
    write(keys, f"example.com test {tmp_path}/bad\n")
    with pytest.raises(ConfigError, match=problem) as raised:
        await sign(keys)
    assert any(str(one.file) == str(tmp_path / "bad") for one in raised.value.each)


@pytest.mark.parametrize("before", ["\ufeff", "  ", "made by hand\n", "\r\n"])
async def test_what_an_editor_leaves_before_a_key_does_no_harm(keys: Path, tmp_path: Path, before: str) -> None:
    write(tmp_path / "pem", before + ED25519_PEM)
    write(keys, f"example.com brisbane {tmp_path}/pem\n")
    assert signatures(await sign(keys)) == 1


async def test_check_refuses_a_plugin_that_edits_after_it(keys: Path, tmp_path: Path) -> None:
    (tmp_path / "signatures").mkdir()
    signer = f'[[plugin]]\nname = "dkim_sign"\nkeys = "{keys}"\n'
    editor = '[[plugin]]\nname = "addsig"\ndirectory = "signatures"\n'
    reader = '[[plugin]]\nname = "dkim"\n[[plugin]]\nname = "arc"\n'
    store = open_store("sqlite::memory:")
    try:
        for order, errors in ((editor + signer, 0), (signer + editor, 1), (signer + reader, 0)):
            plugins = load_plugins(parse_config(order, tmp_path / "gatepost.toml"), store)
            found = broken_signatures(plugins)
            assert len(found) == errors
            assert not found or "addsig may edit the message after dkim_sign" in str(found[0])
    finally:
        await store.close()


def test_the_pem_key_is_that_of_the_rfc() -> None:
    assert RFC8032_PUBLIC.endswith("p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
