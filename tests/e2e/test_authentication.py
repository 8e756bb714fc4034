"""SPF, DKIM, ARC, DMARC and their one header field behind a real Postfix, with a real name server and signatures."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import queue_id
from tests.rigs.dkim_rig import MESSAGE, seal, signed, table, verdicts
from tests.rigs.dns_rig import NameServer, free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.gate import Gate

GENUINE, STRANGER = "192.0.2.1", "198.51.100.7"

PLUGINS = """
[[plugin]]
name = "spf"
fail = "allow"
temperror = "allow"
helo = false

[[plugin]]
name = "dkim"

[[plugin]]
name = "arc"

[[plugin]]
name = "dmarc"
{options}

[[plugin]]
name = "authentication_results"
authserv_id = "mx.example.org"
"""

WHY = b"neither SPF nor DKIM shows that the message is from there"
REFUSED = b"550 5.7.1 rejected by the DMARC policy of example.com: %b\r\n" % WHY


@pytest.fixture(scope="module")
def nameserver() -> Iterator[NameServer]:
    key = table()["test._domainkey.example.com"]["TXT"][0]
    zone = f"""
example.com                     IN TXT "v=spf1 ip4:{GENUINE} -all"
_dmarc.example.com              IN TXT "v=DMARC1; p=reject; " "sp=quarantine; np=reject"
test._domainkey.example.com     IN TXT "{key}"
sub.example.com                 IN TXT "v=spf1 ip4:{GENUINE} -all"
strict.example                  IN TXT "v=spf1 ip4:{GENUINE} -all"
_dmarc.strict.example           IN TXT "v=DMARC1; p=reject; aspf=s; adkim=s"
test._domainkey.lists.example   IN TXT "{key}"
stranger.example                IN TXT "v=spf1 +all"
"""
    with NameServer({".": zone}) as server:
        yield server


def use(gate: Gate, nameserver: NameServer, options: str = "", address: str = "") -> None:
    address = address or nameserver.address
    gate.use(f'[dns]\nnameservers = ["{address}"]\n{PLUGINS.format(options=options)}')


def send(gate: Gate, content: bytes, *, client: str = GENUINE, sender: bytes = b"ada@example.com") -> bytes:
    """Send it from that address; return the last reply."""
    text = re.sub(rb"(?m)^\.", b"..", content)
    with gate.client() as connection:
        assert connection.command(f"XCLIENT NAME=[UNAVAILABLE] ADDR={client}".encode()).startswith(b"220")
        connection.command(b"EHLO client.example.com")
        return connection.message(text + b".\r\n", sender=sender)


def queued(gate: Gate) -> tuple[str, bytes, bytes]:
    """Return the queue, our field unfolded, and the message as it was without what Postfix and we put on top."""
    entry, text = gate.take()
    text = re.sub(rb"(?m)^Received: .*\n(?:[ \t].*\n)*", b"", text)
    match = re.match(rb"Authentication-Results: ([^\r]*\r\n(?:\t[^\r]*\r\n)*)", text)
    assert match, text
    return entry.queue_name, match[1].replace(b"\r\n", b"").replace(b"\t", b" "), text[match.end() :]


def test_genuine_mail_passes_with_one_field_more_and_forged_ones_less(gate: Gate, nameserver: NameServer) -> None:
    use(gate, nameserver)
    mine = b"Authentication-Results: MX.example.ORG (mine) 1;\r\n\tdmarc=pass header.from=example.com\r\n"
    others = b"authentication-results: mx.example.net;\r\n  spf=pass smtp.mailfrom=x.example\r\n"
    message = signed()
    queue_id(send(gate, mine + others + mine + message))
    _, field, rest = queued(gate)
    assert re.fullmatch(
        rb"mx\.example\.org; spf=pass .*smtp\.mailfrom=example\.com; dkim=pass .*header\.d=example\.com .*; "
        rb"arc=none.*; dmarc=pass header\.from=example\.com",
        field,
    )
    assert rest == others + message
    assert verdicts(rest) == [True]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(MESSAGE, id="unsigned"),
        pytest.param(signed().replace(b"The end.", b"Another end."), id="changed"),
        pytest.param(b"Authentication-Results: mx.example.org; dmarc=pass\r\n" + MESSAGE, id="its own word"),
    ],
)
def test_mail_in_anothers_name_is_refused(gate: Gate, nameserver: NameServer, content: bytes) -> None:
    use(gate, nameserver)
    # The envelope is the stranger's own, for which SPF passes.
    assert send(gate, content, client=STRANGER, sender=b"eve@stranger.example") == REFUSED
    assert send(gate, content, client=STRANGER) == REFUSED
    assert gate.queue() == []


def test_one_of_the_two_is_enough(gate: Gate, nameserver: NameServer) -> None:
    use(gate, nameserver)
    queue_id(send(gate, signed(), client=STRANGER, sender=b"forwarder@stranger.example"))
    assert b"dmarc=pass" in queued(gate)[1]
    queue_id(send(gate, MESSAGE, sender=b"bounces@sub.example.com"))
    assert b"dmarc=pass" in queued(gate)[1]


def test_a_subdomain_has_its_own_policy_and_can_be_held(gate: Gate, nameserver: NameServer) -> None:
    use(gate, nameserver, 'quarantine = "quarantine"')
    of_subdomain = MESSAGE.replace(b"ada@example.com", b"ada@sub.example.com")
    queue_id(send(gate, of_subdomain, client=STRANGER))
    queue, field, rest = queued(gate)
    assert (queue, rest) == ("hold", of_subdomain)
    assert field.endswith(b"dmarc=fail header.from=sub.example.com policy.dmarc=quarantine")
    # A domain that does not exist is refused by np.
    gone = MESSAGE.replace(b"ada@example.com", b"ada@gone.example.com")
    assert send(gate, gone, client=STRANGER) == REFUSED.replace(b"of example.com", b"of gone.example.com")


def test_strict_alignment_wants_the_very_domain(gate: Gate, nameserver: NameServer) -> None:
    use(gate, nameserver)
    message = MESSAGE.replace(b"ada@example.com", b"ada@strict.example")
    queue_id(send(gate, message, sender=b"ada@strict.example"))
    assert b"dmarc=pass" in queued(gate)[1]
    assert send(gate, message).startswith(b"550 5.7.1 rejected by the DMARC policy of strict.example")


def test_a_list_that_is_trusted_may_change_what_it_seals(gate: Gate, nameserver: NameServer) -> None:
    changed = signed().replace(b"Subject: ", b"Subject: [list] ")
    sealed = seal(changed, "dmarc=pass header.from=example.com", domain=b"lists.example")
    use(gate, nameserver, 'trusted_arc_sealers = ["lists.example"]')
    queue_id(send(gate, sealed, client=STRANGER, sender=b"list@stranger.example"))
    _, field, rest = queued(gate)
    assert rest == sealed
    assert b"arc=pass" in field
    assert b"lists.example, a trusted ARC sealer" in field
    assert field.endswith(b"header.from=example.com policy.dmarc=none")
    # A word more after the seal, and it is worth nothing; so is a seal of one that is not trusted.
    assert send(gate, sealed + b"more\r\n", client=STRANGER, sender=b"list@stranger.example") == REFUSED
    use(gate, nameserver, 'trusted_arc_sealers = ["other.example"]')
    assert send(gate, sealed, client=STRANGER, sender=b"list@stranger.example") == REFUSED


@pytest.mark.parametrize("header", [b"", b"From: a@example.com\r\nFrom: b@example.org\r\n", b"From: <a@x> <b@y>\r\n"])
def test_an_author_that_cannot_be_told_is_refused(gate: Gate, nameserver: NameServer, header: bytes) -> None:
    use(gate, nameserver)
    assert send(gate, header + b"Subject: a\r\n\r\ntext\r\n").startswith(b"550 5.7.1 DMARC cannot be checked: ")


def test_without_dns_mail_is_deferred_and_passes_when_dns_is_back(gate: Gate, nameserver: NameServer) -> None:
    use(gate, nameserver, address=f"127.0.0.1:{free_port()}")
    deferred = b"451 4.7.1 DMARC cannot be checked: the policy of example.com could not be looked up\r\n"
    assert send(gate, signed()) == deferred
    use(gate, nameserver)
    queue_id(send(gate, signed()))
