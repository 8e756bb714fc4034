"""The doctor's view of which recipients Postfix refuses, held against Postfix's own answers at RCPT."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from tests.e2e.postfix_rig import SmtpClient

from gatepost.address import Address
from gatepost.ops.postfix import postconf
from gatepost.ops.postfix.doctor.lookup import Tables
from gatepost.ops.postfix.doctor.routing import Routing
from gatepost.ops.postfix.doctor.smtpd import PARAMETERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.e2e.conftest import StartPostfix

SITES: list[dict[str, str]] = [
    {
        "mydestination": "local.test, !not.table.test, inline:{table.test=x,not.table.test=x}",
        "myorigin": "origin.test",
        "local_recipient_maps": "proxy:unix:passwd.byname inline:{alias=x,Mixed=x,full@table.test=x}",
        "recipient_delimiter": "+-",
        "relay_domains": "relay.test, .dot.test, origin.test",
        "relay_recipient_maps": "inline:{known@relay.test=x,@below.relay.test=x,bare=x}, regexp:{{/^re[0-9]@/ x}}",
        "virtual_alias_domains": "alias.test",
        "virtual_alias_maps": "inline:{known@alias.test=root@local.test,extra@relay.test=root@local.test}",
        "virtual_mailbox_domains": "virtual.test",
        "virtual_mailbox_maps": "inline:{known@virtual.test=x/}",
        "canonical_maps": "inline:{canonical@virtual.test=root@local.test}",
    },
    {
        "mydestination": "local.test",
        "local_recipient_maps": "",
        "local_transport": "error:no local mail here",
        "relay_domains": "relay.test",
        "relay_recipient_maps": "static:x",
        "virtual_mailbox_domains": "inline:{virtual.test=x}",
        "virtual_mailbox_maps": "",
        "virtual_alias_maps": "regexp:{{/^@alias/ x}, {/^known@alias/ root@local.test}}",
        "virtual_alias_domains": "alias.test",
        "parent_domain_matches_subdomains": "",
    },
    {
        "mydestination": "local.test",
        "relay_domains": ".dot.test, inline:{.relay.test=x}",
        "parent_domain_matches_subdomains": "",
        "relay_recipient_maps": "inline:{known@below.dot.test=x}",
    },
]
"""Every class of address, with and without maps; lists with files, tables and negation are tested beside `lookup`."""

LOCALS = (
    "root",
    "root+box",
    "root-box",
    "nosuch",
    "known",
    "known+box",
    "KNOWN",
    "alias",
    "mixed",
    "full",
    "bare",
    "re1",
)
MORE = ("re12", "extra", "canonical", "postmaster", "MAILER-DAEMON", "double-bounce", "+box")
DOMAINS = (
    *("local.test", "LOCAL.test", "table.test", "not.table.test", "origin.test", "relay.test", "below.relay.test"),
    *("dot.test", "below.dot.test", "alias.test", "virtual.test", "below.virtual.test", "elsewhere.test"),
)


@pytest.mark.parametrize("main", SITES)
def test_the_doctor_and_postfix_agree_about_every_recipient(
    start_postfix: StartPostfix, main: Mapping[str, str]
) -> None:
    limits = {"smtpd_hard_error_limit": "10000", "smtpd_recipient_limit": "10000", "smtpd_junk_command_limit": "10000"}
    postfix = start_postfix(main={**main, **limits, "transport_maps": ""})
    addresses = [Address(local, domain) for domain in DOMAINS for local in (*LOCALS, *MORE)]
    addresses += [Address("postmaster"), Address("root"), Address("nosuch")]
    values = postconf.open_directory(postfix.config_dir).values(*PARAMETERS, expand=True)
    routing = Routing(Tables(postfix.config_dir), values, {address.domain for address in addresses} - {""})
    unknown = routing.unknown(values, addresses)
    assert routing.unanswered == {}

    with SmtpClient(postfix.front_port) as client:
        client.command(b"MAIL FROM:<sender@example.com>")
        for address in addresses:
            reply = client.command(b"RCPT TO:<" + bytes(address) + b">")
            if address.domain and routing.class_of(address.domain) == "default":
                assert b"Relay access denied" in reply, address
                continue
            assert bool(re.match(rb"550 5\.1\.1 |554 5\.1\.1 ", reply)) == (address in unknown), (address, reply)
    assert unknown
    assert len(unknown) < len(addresses)
