"""That a private Postfix with TLS and logins tells a milter on the front what the edge door reads."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import ProbeMilter, SmtpClient
from tests.e2e.sasl_rig import REALM, auth_plain
from tests.e2e.tls_rig import CLIENT, ISSUER, start_tls

from gatepost.ops.private_postfix import free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import StartPostfix
    from tests.e2e.postfix_rig import MilterEvent
    from tests.e2e.sasl_rig import Accounts
    from tests.e2e.tls_rig import Authority

    from gatepost.ops.private_postfix import PrivatePostfix


@pytest.fixture(scope="module")
def milter() -> Iterator[ProbeMilter]:
    with ProbeMilter(free_loopback_port()) as milter:
        yield milter


@pytest.fixture(scope="module")
def postfix(
    start_postfix: StartPostfix, milter: ProbeMilter, authority: Authority, accounts: Accounts
) -> PrivatePostfix:
    accounts.add("ada", "secret")
    milters = {"smtpd_milters": f"inet:127.0.0.1:{milter.port}", "milter_macro_daemon_name": "the front"}
    postfix = start_postfix(main={**authority.settings, **milters})
    accounts.enable(postfix)
    return postfix


def macros(events: list[MilterEvent], name: str) -> dict[str, str]:
    """Those of the last event of that name."""
    return next(event.macros for event in reversed(events) if event.name == name)


def test_the_front_says_who_has_logged_in_and_by_which_certificate(
    postfix: PrivatePostfix, milter: ProbeMilter, authority: Authority
) -> None:
    with SmtpClient(postfix.front_port) as client:
        port = client.address[1]
        assert start_tls(client, authority.context()) == b"220 2.0.0 Ready to start TLS\r\n"
        assert b"AUTH PLAIN" in client.command(b"EHLO client.example.com")
        assert client.command(auth_plain("ada", "secret")).startswith(b"235 ")
        assert client.transaction(b"anyone@elsewhere.example") == [b"250 2.1.5 Ok\r\n"]
        events = milter.events(port, "rcpt")
    assert [event.name for event in events].count("helo") == 2, "STARTTLS repeats EHLO"
    assert "{tls_version}" not in next(event.macros for event in events if event.name == "helo")
    helo = macros(events, "helo")
    assert re.fullmatch(r"TLSv1\.\d", helo["{tls_version}"])
    assert helo["{cipher}"]
    assert (helo["{cert_subject}"], helo["{cert_issuer}"]) == (CLIENT, ISSUER)
    mail = macros(events, "mail")
    assert (mail["{auth_type}"], mail["{auth_authen}"]) == ("PLAIN", f"ada@{REALM}")
    connect = macros(events, "connect")
    assert (connect["{daemon_name}"], connect["{daemon_addr}"]) == ("the front", "127.0.0.1")


def test_a_sender_that_the_client_names_for_its_login_is_auth_author(
    postfix: PrivatePostfix, milter: ProbeMilter
) -> None:
    with SmtpClient(postfix.front_port) as client:
        port = client.address[1]
        assert client.command(auth_plain("ada", "secret")).startswith(b"235 ")
        assert client.command(b"MAIL FROM:<a@example.com> AUTH=b@example.com").startswith(b"250 ")
        mail = macros(milter.events(port, "mail"), "mail")
    assert mail["{auth_author}"] == "b@example.com"


def test_tls_without_a_certificate_and_no_login_leave_those_macros_out(
    postfix: PrivatePostfix, milter: ProbeMilter, authority: Authority
) -> None:
    with SmtpClient(postfix.front_port) as client:
        port = client.address[1]
        start_tls(client, authority.context(certificate=False))
        client.command(b"EHLO client.example.com")
        assert client.command(auth_plain("ada", "wrong")).startswith(b"535 ")
        assert client.transaction(b"rcpt@example.org") == [b"250 2.1.5 Ok\r\n"]
        events = milter.events(port, "rcpt")
    seen = {**macros(events, "helo"), **macros(events, "mail")}
    assert seen["{tls_version}"]
    assert not {"{cert_subject}", "{cert_issuer}", "{auth_type}", "{auth_authen}", "{auth_author}"} & seen.keys()


def test_a_password_can_be_changed_while_postfix_runs(postfix: PrivatePostfix, accounts: Accounts) -> None:
    accounts.add("bob", "first")
    accounts.add("bob", "second")
    with SmtpClient(postfix.front_port) as client:
        assert client.command(auth_plain("bob", "first")).startswith(b"535 ")
        assert client.command(auth_plain("bob", "second")).startswith(b"235 ")
