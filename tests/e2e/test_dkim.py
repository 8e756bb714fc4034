"""dkim and dkim_sign behind a real Postfix, with a real name server: bytes arrive as they were signed."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import dkim
import pytest
from tests.e2e.gate import Gate
from tests.e2e.postfix_rig import queue_id
from tests.e2e.sasl_rig import auth_plain
from tests.rigs.dkim_rig import MESSAGE, SIGNED_VECTORS, dnsfunc, seal, signed, table, vector, verdicts, zones
from tests.rigs.dns_rig import NameServer

from gatepost.ops.private_daemon import PrivateDaemon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import StartPostfix
    from tests.e2e.sasl_rig import Accounts

SHOW = """
class Show(Plugin):
    def data_post(self, transaction, message):
        for result in results_of(transaction):
            if result["method"] in {"dkim", "arc"}:
                message.add_header(f"X-{result['method']}", result["result"])
"""
CHECKS = '[[plugin]]\nname = "dkim"\nskip_authenticated = false\n[[plugin]]\nname = "arc"\n[[plugin]]\nname = "show"\n'

FORMS = ["simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed"]

DIFFICULT = (
    b"From:ada@example.com\r\nTo:\tbob@example.org,\r\n   carol@example.org \r\nSubject:\r\n folded  at once\t\r\n"
    b"Date: Mon, 2 Mar 2026 12:00:00 +0000\r\nMessage-ID:  <1@example.com>\r\nX-Raw: \xfc \xc3\xbc\r\nx-empty:\r\n\r\n"
    b"\r\n.\r\n..two dots\r\n \t \r\n8-bit \xff\xfe, a tab\there \r\n\r\nFrom here\r\n\r\n\r\n"
)


@pytest.fixture(scope="module")
def nameserver() -> Iterator[NameServer]:
    table()
    with NameServer(zones()) as server:
        yield server


def wire(content: bytes) -> bytes:
    """Return the content as a client sends it: CRLF, dots doubled, the end."""
    lines = content.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    lines = lines if lines.endswith(b"\r\n") else lines + b"\r\n"
    return re.sub(rb"(?m)^\.", b"..", lines) + b".\r\n"


def passed_on(gate: Gate, content: bytes) -> bytes:
    """Send it, take it from the queue, and return it without Postfix's own fields."""
    with gate.client() as client:
        queue_id(client.message(wire(content)))
    return re.sub(rb"(?m)^Received: .*\n(?:[ \t].*\n)*", b"", gate.take()[1])


def use(gate: Gate, nameserver: NameServer) -> None:
    gate.use(f'[dns]\nnameservers = ["{nameserver.address}"]\n{CHECKS}', hooks={"show": SHOW})


def shown(message: bytes, method: bytes = b"dkim") -> list[bool]:
    return [found == b"pass" for found in re.findall(rb"(?m)^X-%s: (\w+)\r$" % method, message)]


@pytest.mark.parametrize("name", SIGNED_VECTORS)
def test_a_message_of_dkimpys_suite_is_worth_after_postfix_what_it_was_before(
    gate: Gate, nameserver: NameServer, name: str
) -> None:
    use(gate, nameserver)
    message = passed_on(gate, vector(name))
    assert shown(message) == verdicts(message) == verdicts(vector(name))


@pytest.mark.parametrize("key", ["test.private", "ed25519test.key"])
@pytest.mark.parametrize("form", FORMS)
def test_a_signature_that_verifies_before_verifies_after(
    gate: Gate, nameserver: NameServer, form: str, key: str
) -> None:
    use(gate, nameserver)
    for content in (MESSAGE, DIFFICULT):
        whole = signed(content, c=form, key=key, names=("from", "to", "subject", "x-raw", "x-empty", "from"))
        assert verdicts(whole) == [True]
        message = passed_on(gate, whole)
        assert shown(message) == verdicts(message) == [True]
        assert re.sub(rb"(?m)^X-(dkim: pass|arc: none)\r\n", b"", message) == whole
    broken = passed_on(gate, signed(c=form, key=key).replace(b"The end", b"the end"))
    assert shown(broken) == verdicts(broken) == [False]


def test_a_chain_that_holds_before_holds_after(gate: Gate, nameserver: NameServer) -> None:
    use(gate, nameserver)
    chain = seal(seal(DIFFICULT, "arc=none; dmarc=pass"), "arc=pass; dmarc=fail")
    message = passed_on(gate, chain)
    assert dkim.arc_verify(message, dnsfunc=dnsfunc)[0] == dkim.CV_Pass
    assert shown(message, b"arc") == [True]
    assert shown(passed_on(gate, chain.replace(b"two dots", b"2 dots")), b"arc") == [False]


@pytest.mark.parametrize("form", FORMS)
def test_what_dkim_sign_signs_verifies_in_the_queue(gate: Gate, form: str) -> None:
    for name in ("test.private", "rfc8032_7_1.key"):
        key = gate.daemon.directory / name
        key.write_bytes(vector(name))
        key.chmod(0o640)
    keys = (
        "example.com test test.private\n"
        "football.example.com test test.private\nfootball.example.com brisbane rfc8032_7_1.key\n"
    )
    edit = """
    class Edit(Plugin):
        def data_post(self, transaction, message):
            message.add_header("Reply-To", "ada@example.com,\\r\\n\\tbob@example.com")
            message.append_to_body(b"-- \\r\\nAda\\r\\n")
    """
    plugins = f'[[plugin]]\nname = "edit"\n[[plugin]]\nname = "dkim_sign"\nkeys = "keys"\ncanonicalization = "{form}"\n'
    gate.use(plugins, files={"keys": keys}, hooks={"edit": edit})
    short = b"From: ada@example.com\r\n\r\nx\r\n"
    for content, count in ((MESSAGE, 1), (DIFFICULT, 1), (short, 1), (MESSAGE.replace(b"ada@", b"ada@football."), 2)):
        message = passed_on(gate, content)
        assert message.startswith(b"DKIM-Signature:")
        assert verdicts(message) == [True] * count
        assert b"\r\n-- \r\nAda\r\n" in message


def test_mail_that_must_be_signed_is_refused_at_the_dot(gate: Gate, nameserver: NameServer) -> None:
    dns = f'[dns]\nnameservers = ["{nameserver.address}"]\n'
    gate.use(dns + '[[plugin]]\nname = "dkim"\nrequire_domains = ["example.com"]\n')
    told = b"550 5.7.22 mail from example.com must have a valid DKIM signature of that domain\r\n"
    assert gate.send(wire(MESSAGE)) == told
    assert gate.queue() == []
    queue_id(gate.send(wire(signed())))


@pytest.fixture
def edge(start_postfix: StartPostfix, postfix_directory: Path, accounts: Accounts) -> Iterator[Gate]:
    accounts.add("ada", "secret")
    postfix = start_postfix()
    directory = Path(tempfile.mkdtemp(prefix="gp-", dir=postfix_directory))
    directory.chmod(0o755)
    daemon = PrivateDaemon(directory)
    daemon.configure(more={"proxy": {"front_timeout": "20s"}, "milter": {"edge": True}})
    daemon.apply(postfix.config_dir, postfix.front_service)
    accounts.enable(postfix)
    postfix.reload()
    with daemon:
        yield Gate(postfix, daemon, 0)
    assert "bug in" not in daemon.log(), daemon.log()


def test_who_has_logged_in_is_signed_for_and_a_stranger_is_not(edge: Gate) -> None:
    key = edge.daemon.directory / "key"
    key.write_bytes(vector("test.private"))
    key.chmod(0o600)
    plugin = '[[plugin]]\nname = "dkim_sign"\nkeys = "keys"\nnetworks = []\n'
    edge.use(plugin, files={"keys": "example.com test key\n"}, milter={"edge": True})
    for login, expected in ((True, [True]), (False, [])):
        with edge.client() as client:
            assert not login or client.command(auth_plain("ada", "secret")).startswith(b"235 ")
            queue_id(client.message(wire(MESSAGE)))
        assert verdicts(edge.take()[1]) == expected
