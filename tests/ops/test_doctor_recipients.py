"""The doctor on what plugins list: recipients that Postfix hides, targets it does not know, errors it counts."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.ops.doctor_rig import Site

    from gatepost.ops.postfix.doctor.finding import Finding

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a private Postfix is for root")

ALIASES = '[[plugin]]\nname = "aliases"\nfile = "aliases"\n'
GREYLIST = '[[plugin]]\nname = "greylist"\n'
LOOP = '[[plugin]]\nname = "loop"\n'
AWAY = "someone@elsewhere.example"


@pytest.fixture
def site(module_site: Site) -> Site:
    module_site.restore()
    module_site.configure(ALIASES)
    return module_site


def aliases(site: Site, *lines: str) -> None:
    site.file("aliases", "".join(f"{line}\n" for line in lines))


def only(site: Site, service: str, parameter: str, severity: str = "finding") -> Finding:
    """The one thing there is to say, which must be about that."""
    (found,) = site.on_paper()
    assert (found.service, found.parameter, found.severity) == (service, parameter, severity), found
    return found


HIDDEN = [
    ("hjp@local.test", "local_recipient_maps", "local_recipient_maps = inline:{x=y}"),
    ("hjp@relay.test", "relay_recipient_maps", "relay_recipient_maps = inline:{x=y}"),
    ("hjp@below.relay.test", "relay_recipient_maps", "relay_recipient_maps = inline:{x=y}"),
    ("hjp@virtual.test", "virtual_mailbox_maps", "virtual_mailbox_maps = inline:{x=y}"),
    ("hjp@alias.test", "virtual_alias_maps", "virtual_alias_maps = inline:{x=y}"),
    ("*@relay.test", "relay_recipient_maps", "relay_recipient_maps = inline:{hjp@relay.test=y}"),
]


@pytest.mark.parametrize(("address", "parameter", "setting"), HIDDEN)
def test_a_listed_recipient_that_postfix_refuses_first(site: Site, address: str, parameter: str, setting: str) -> None:
    site.main(setting)
    aliases(site, f"{address}: {AWAY}")
    finding = only(site, site.front, parameter)
    assert f"{address} is unknown to Postfix and refused at RCPT" in finding.problem
    assert f"although {site.directory}/aliases lists it" in finding.problem
    site.run(finding.command)
    assert site.on_paper() == []


KNOWN = [
    ("root@local.test", "local_recipient_maps = proxy:unix:passwd.byname"),
    ("root+detail@local.test", "local_recipient_maps = unix:passwd.byname"),
    ("PostMaster@local.test", "local_recipient_maps = inline:{x=y}"),
    ("hjp@local.test", "local_recipient_maps ="),
    ("hjp@relay.test", "relay_recipient_maps = inline:{{x=y}, {hjp@relay.test = yes it is}}"),
    ("hjp@relay.test", "relay_recipient_maps = inline:{@relay.test=y}"),
    ("hjp@relay.test", "relay_recipient_maps = regexp:{{/^[a-z]+@relay/ y}}"),
    ("*@relay.test", "relay_recipient_maps = inline:{@relay.test=y}"),
    ("hjp@relay.test", "relay_recipient_maps = static:anybody"),
    ("hjp@virtual.test", "virtual_mailbox_maps = inline:{hjp@virtual.test=hjp/}"),
    ("hjp@alias.test", "virtual_alias_maps = inline:{hjp@alias.test=root@local.test}"),
    ("hjp@relay.test", "canonical_maps = inline:{hjp@relay.test=root@relay.test}"),
]


@pytest.mark.parametrize(("address", "setting"), KNOWN)
def test_a_recipient_that_postfix_knows_is_no_finding(site: Site, address: str, setting: str) -> None:
    site.main("recipient_delimiter = +", "relay_recipient_maps = inline:{x=y}", setting)
    aliases(site, f"{address}: {AWAY}")
    assert site.on_paper() == []


def test_a_pattern_is_not_asked_about_parts_of_an_address(site: Site) -> None:
    site.main("relay_recipient_maps = regexp:{{/^@relay/ y}}")
    aliases(site, f"hjp@relay.test: {AWAY}")
    only(site, site.front, "relay_recipient_maps")


@pytest.mark.parametrize(
    "setting", ["smtpd_reject_unlisted_recipient=no", "receive_override_options=no_unknown_recipient_checks"]
)
def test_a_front_that_does_not_ask_its_tables_hides_nobody(site: Site, setting: str) -> None:
    site.main("relay_recipient_maps = inline:{x=y}")
    aliases(site, f"hjp@relay.test: {AWAY}")
    assert site.findings() == [(site.front, "relay_recipient_maps")]
    site.option(site.front, setting)
    assert site.findings() == []


@pytest.mark.parametrize(
    "setting",
    [
        "smtpd_recipient_restrictions=reject_unlisted_recipient,permit",
        "smtpd_sender_restrictions=reject_unlisted_recipient",
        "smtpd_reject_unlisted_recipient=Yes",
    ],
)
def test_a_front_may_ask_its_tables_in_other_ways(site: Site, setting: str) -> None:
    site.main("relay_recipient_maps = inline:{x=y}", "smtpd_reject_unlisted_recipient = no")
    aliases(site, f"hjp@relay.test: {AWAY}")
    site.option(site.front, setting)
    assert site.findings() == [(site.front, "relay_recipient_maps")]


def test_a_hash_table_of_ten_thousand_names_is_asked_at_once(site: Site) -> None:
    table = site.file("known", "".join(f"user{n}@relay.test y\n" for n in range(10_000)))
    subprocess.run(["postmap", f"hash:{table}"], check=True)
    site.main(f"relay_recipient_maps = hash:{table}")
    aliases(site, *(f"user{n}@relay.test: {AWAY}" for n in range(10_001)))
    assert "user10000@relay.test is unknown" in only(site, site.front, "relay_recipient_maps").problem


def test_many_hidden_recipients_are_counted(site: Site) -> None:
    site.main("relay_recipient_maps = inline:{x=y}")
    aliases(site, f"a,b,c,d,e@relay.test: {AWAY}")
    problem = only(site, site.front, "relay_recipient_maps").problem
    assert "a@relay.test, b@relay.test, c@relay.test and 2 more are unknown" in problem


@pytest.mark.parametrize("table", ["fail:broken", "nosuchtype:x"])
def test_a_table_that_cannot_be_asked_is_a_note_and_no_guess(site: Site, table: str) -> None:
    site.main(f"relay_recipient_maps = {table}")
    aliases(site, f"hjp@relay.test: {AWAY}")
    note = only(site, "main.cf", "relay_recipient_maps", "note")
    assert f"cannot be asked, so it is not known which recipients Postfix refuses: {table}: " in note.problem
    assert note.command.endswith(table)


def test_a_list_of_domains_that_cannot_be_asked_is_a_note_and_no_guess(site: Site) -> None:
    site.main("mydestination = fail:broken")
    aliases(site, f"hjp@relay.test: {AWAY}")
    only(site, "main.cf", "mydestination", "note")


def test_a_domain_that_is_not_postfix_own(site: Site) -> None:
    aliases(site, f"hjp@strange.test: {AWAY}")
    finding = only(site, "main.cf", "relay_domains")
    assert "strange.test is in none of mydestination, virtual_alias_domains" in finding.problem
    site.run(finding.command)
    assert site.on_paper() == []
    assert site.examine().main["relay_domains"] == "relay.test, strange.test"


def test_relaying_that_debians_local_only_switched_off(site: Site) -> None:
    site.main("relay_transport = error")
    aliases(site, f"hjp@relay.test: {AWAY}")
    finding = only(site, site.front, "relay_transport")
    assert "relay_transport = error (main.cf or default): hjp@relay.test is unknown to Postfix" in finding.problem
    site.run(finding.command)
    assert site.on_paper() == []


def test_a_name_that_only_other_lines_lead_to_need_not_be_postfix_own(site: Site) -> None:
    aliases(site, "hjp@relay.test: staff@internal.test", f"staff@internal.test: {AWAY}")
    assert site.on_paper() == []


def test_domains_in_files_and_tables_are_found(site: Site) -> None:
    names = site.file("names", "# ours\nfile.test\n")
    site.main(f"mydestination = !not.file.test, {names}, inline:{{table.test=y}}", "local_recipient_maps =")
    aliases(site, f"hjp@file.test,table.test: {AWAY}")
    assert site.on_paper() == []


UNKNOWN_TARGETS = [
    ("nobody.such@local.test", "local_recipient_maps", "local_recipient_maps = unix:passwd.byname"),
    ("nobody@relay.test", "relay_recipient_maps", "relay_recipient_maps = inline:{hjp@relay.test=y}"),
    ("nobody@virtual.test", "virtual_mailbox_maps", "virtual_mailbox_maps = inline:{x=y}"),
    ("nobody@alias.test", "virtual_alias_maps", "virtual_alias_maps = inline:{x=y}"),
    ("nobody@elsewhere.test", "default_transport", "default_transport = error:no mail leaves this host"),
]


@pytest.mark.parametrize(("target", "parameter", "setting"), UNKNOWN_TARGETS)
def test_a_target_that_postfix_would_refuse(site: Site, target: str, parameter: str, setting: str) -> None:
    site.main(setting)
    aliases(site, "# one line further down", f"hjp@relay.test: {target}")
    finding = only(site, site.inner, parameter)
    assert f"does not know {target} ({site.directory}/aliases:2)" in finding.problem
    assert finding.command == f"${{EDITOR:-vi}} +2 {site.directory}/aliases"


def test_a_target_that_its_own_line_covers_must_be_known_too(site: Site) -> None:
    site.main("relay_recipient_maps = inline:{hjp@relay.test=y}")
    aliases(site, "hjp@relay.test: hjp@relay.test, gone@relay.test", "gone@relay.test: gone@relay.test")
    assert site.findings() == [(site.front, "relay_recipient_maps"), (site.inner, "relay_recipient_maps")]


def test_without_a_plugin_that_lists_recipients_no_table_matters(site: Site) -> None:
    site.main("relay_recipient_maps = fail:broken")
    site.configure(LOOP)
    assert site.on_paper() == []


def test_a_plugin_that_only_observes_lists_nobody(site: Site) -> None:
    site.main("relay_recipient_maps = inline:{x=y}")
    aliases(site, f"hjp@relay.test: {AWAY}")
    site.configure(ALIASES + 'mode = "observe"\n')
    assert site.on_paper() == []


def test_an_error_limit_that_deferred_recipients_reach(site: Site) -> None:
    aliases(site, f"hjp@relay.test: {AWAY} (greylist=off)")
    site.configure(ALIASES + GREYLIST)
    site.option(site.front, "smtpd_hard_error_limit=8")
    finding = only(site, site.front, "smtpd_hard_error_limit")
    assert "up to content.defer_limit = 8 recipients apart" in finding.problem
    assert f"hjp@relay.test, {site.directory}/aliases:1" in finding.problem
    site.run(finding.command)
    assert site.on_paper() == []


def test_the_error_limit_under_stress_is_a_note(site: Site) -> None:
    aliases(site, f"hjp@relay.test: {AWAY} (greylist=off)")
    site.configure(ALIASES + GREYLIST)
    note = only(site, site.front, "smtpd_hard_error_limit", "note")
    assert "smtpd_hard_error_limit is 1 under stress" in note.problem
    site.run(note.command)
    assert site.on_paper() == []


@pytest.mark.parametrize(
    ("line", "plugins", "content"),
    [
        (f"hjp@relay.test: {AWAY}", ALIASES + GREYLIST, ""),
        (f"hjp@relay.test: {AWAY} (count_denies=off)", ALIASES + LOOP + '[[plugin]]\nname = "count_denies"\n', ""),
        (f"hjp@relay.test: {AWAY} (greylist=off)", ALIASES + GREYLIST, 'disagree = "lenient"'),
        (f"hjp@relay.test: {AWAY} (greylist=off)", ALIASES + GREYLIST, "defer_limit = 0"),
    ],
)
def test_where_recipients_cannot_disagree_the_error_limit_is_no_matter(
    site: Site, line: str, plugins: str, content: str
) -> None:
    aliases(site, line)
    site.configure(plugins, content=content)
    site.option(site.front, "smtpd_hard_error_limit=1")
    assert site.on_paper() == []
