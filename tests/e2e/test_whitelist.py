"""whitelist and hosts_allow behind a real Postfix: what is listed skips checks, and never more than that."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import queue_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.gate import Gate
    from tests.e2e.postfix_rig import SmtpClient

LATER = b"450 4.7.1 This mail is temporarily denied\r\n"
PLUGINS = """
[[plugin]]
name = "hosts_allow"
file = "hosts"
[[plugin]]
name = "whitelist"
file = "listed"
[[plugin]]
name = "greylist"
[[plugin]]
name = "checked"
"""
CHECKED = """
class Options(PluginOptions):
    skip_whitelisted: bool = True

class Checked(Plugin[Options]):
    def data_post(self, transaction, message):
        message.add_header("X-Checked", "yes")
"""
LISTED = """
192.0.2.0/25
mail.friend.example
@friends.example
rcpt postmaster@example.org
"""
HOSTS = """
192.0.2.66: deny We do not talk to you
192.0.2.67: deny_disconnect Goodbye
"""


@pytest.fixture
def guarded(gate: Gate) -> Gate:
    gate.use(PLUGINS, files={"listed": LISTED, "hosts": HOSTS}, hooks={"checked": CHECKED})
    return gate


@contextlib.contextmanager
def client_from(gate: Gate, address: str, name: str = "[UNAVAILABLE]", helo: str = "h.example") -> Iterator[SmtpClient]:
    """Connect as this client, as Postfix sees it."""
    with gate.client() as client:
        assert client.command(f"XCLIENT NAME={name} ADDR={address}".encode()).startswith(b"220")
        assert client.command(f"EHLO {helo}".encode()).startswith(b"250")
        yield client


@pytest.mark.parametrize(
    ("address", "name", "helo", "sender", "recipient", "passes"),
    [
        ("192.0.2.200", "[UNAVAILABLE]", "h.example", b"a@sender.example", b"b@example.org", False),
        ("192.0.2.1", "[UNAVAILABLE]", "h.example", b"a@sender.example", b"b@example.org", True),
        ("192.0.2.200", "mx.mail.friend.example", "h.example", b"a@sender.example", b"b@example.org", True),
        ("192.0.2.200", "[UNAVAILABLE]", "Mail.friend.example", b"a@sender.example", b"b@example.org", True),
        ("192.0.2.200", "[UNAVAILABLE]", "mx.mail.friend.example", b"a@sender.example", b"b@example.org", False),
        ("192.0.2.200", "[UNAVAILABLE]", "h.example", b"A@Friends.example", b"b@example.org", True),
        ("192.0.2.200", "[UNAVAILABLE]", "h.example", b"a@sender.example", b"Postmaster@example.org", True),
    ],
)
def test_what_is_listed_skips_the_checks(
    guarded: Gate, address: str, name: str, helo: str, sender: bytes, recipient: bytes, passes: bool
) -> None:
    with client_from(guarded, address, name, helo) as client:
        (reply,) = client.transaction(recipient, sender=sender)
        if not passes:
            assert reply == LATER
            return
        queue_id(client.content(b"Subject: test\r\n\r\ntest\r\n.\r\n"))

    assert b"X-Checked" not in guarded.take()[1]


def test_what_is_listed_may_not_relay(guarded: Gate) -> None:
    with client_from(guarded, "192.0.2.1", "mail.friend.example") as client:
        (reply,) = client.transaction(b"b@elsewhere.example.com", sender=b"a@friends.example")

    assert b"Relay access denied" in reply


def test_a_listed_recipient_and_another_get_the_message_apart(guarded: Gate) -> None:
    guarded.use(
        PLUGINS.replace('name = "greylist"', 'name = "greylist"\nmode = "off"'),
        files={"listed": LISTED, "hosts": HOSTS},
        hooks={"checked": CHECKED},
    )
    with client_from(guarded, "192.0.2.200") as client:
        first, second = client.transaction(b"b@example.org", b"postmaster@example.org")
        assert first.startswith(b"250")
        assert second.startswith(b"452 4.5.3")
        queue_id(client.content(b"Subject: test\r\n\r\ntest\r\n.\r\n"))
        assert b"\r\nX-Checked: yes\r\n" in guarded.take()[1]

        queue_id(client.message(b"Subject: test\r\n\r\ntest\r\n.\r\n", b"postmaster@example.org"))
        assert b"X-Checked" not in guarded.take()[1]


def test_the_log_says_once_who_is_spared_and_by_which_line(guarded: Gate) -> None:
    seen = guarded.daemon.log_size()
    with client_from(guarded, "192.0.2.1") as client:
        for _ in range(3):
            queue_id(client.message())
    guarded.wait_until_idle()

    log = guarded.daemon.log(seen)
    assert log.count("event=whitelisted") == 1
    assert "client=192.0.2.1 plugin=whitelist hook=connect by=" in log
    assert "/listed:2" in log


def test_a_changed_file_counts_without_a_reload(guarded: Gate) -> None:
    with client_from(guarded, "198.51.100.7") as client:
        assert client.transaction(b"b@example.org") == [LATER]
    (guarded.daemon.directory / "listed").write_text(LISTED + "198.51.100.7\n")
    with client_from(guarded, "198.51.100.7") as client:
        queue_id(client.message())


def test_a_client_that_is_not_allowed_is_told_so_though_it_is_whitelisted(guarded: Gate) -> None:
    with client_from(guarded, "192.0.2.66") as client:
        denied = b"550 5.7.1 We do not talk to you\r\n"
        assert client.transaction(b"b@example.org", b"postmaster@example.org") == [denied, denied]
    with client_from(guarded, "192.0.2.67") as client:
        assert client.transaction(b"b@example.org") == [b"521 5.7.1 Goodbye\r\n"]
        assert client.hung_up()
