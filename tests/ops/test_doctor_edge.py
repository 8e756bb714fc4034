"""The doctor on paper with `[milter] edge = true`: each test breaks one thing and sees that finding and no other."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.ops.doctor_rig import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.ops.postfix.doctor.finding import Finding

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a private Postfix is for root")

OURS = "{unix:gatepost/milter.sock,default_action=tempfail,protocol=6,connect_timeout=30s,command_timeout=30s}"


@pytest.fixture(scope="module")
def module_site() -> Iterator[Site]:
    # Not tmp_path: user postfix must be able to enter every directory above.
    with tempfile.TemporaryDirectory(prefix="gatepost-doctor-") as directory:
        Path(directory).chmod(0o755)
        yield Site(Path(directory), edge=True)


def only(site: Site, parameter: str, service: str = "") -> Finding:
    """The one finding there is, which must be about that setting of the front."""
    found = [one for one in site.on_paper() if one.severity == "finding"]
    assert [(one.service, one.parameter) for one in found] == [(service or site.front, parameter)], found
    return found[0]


def mended(site: Site, finding: Finding) -> None:
    """Run its command: then there is nothing left."""
    site.run(finding.command)
    assert site.findings() == []


def test_right_after_apply_there_is_nothing_to_find(site: Site) -> None:
    assert site.on_paper() == []


def test_with_the_edge_logins_on_a_front_are_known(site: Site) -> None:
    site.option(site.front, "smtpd_sasl_auth_enable=yes")
    assert site.findings() == []


def test_a_front_that_lost_the_edge_gets_it_back(site: Site) -> None:
    site.postconf("-PX", f"{site.front}/smtpd_milters")
    finding = only(site, "smtpd_milters")
    assert "lacks gatepost's milter" in finding.problem
    mended(site, finding)


ELEMENTS = [
    (OURS.replace("=tempfail", "=accept"), "has accept for its default action"),
    (OURS.replace("protocol=6", "protocol=2"), "has milter protocol 2"),
    (OURS.replace("command_timeout=30s", "command_timeout=20s"), "command_timeout = 20s: that is below 25s"),
    (OURS.replace("connect_timeout=30s", "connect_timeout=1s"), "connect_timeout = 1s: that is below 10s"),
    (f"{OURS},{OURS}", "2 times"),
    ("{unix:gatepost/milter.sock,protocol=6}", "not as apply would write it"),
    ("unix:gatepost/milter.sock", "not as apply would write it"),
]


@pytest.mark.parametrize(("value", "problem"), ELEMENTS)
def test_an_edge_that_does_not_do_what_it_should(site: Site, value: str, problem: str) -> None:
    site.option(site.front, f"smtpd_milters={value}")
    finding = only(site, "smtpd_milters")
    assert problem in finding.problem
    assert finding.command == site.examine().remedies.apply()


def test_what_the_service_says_counts_where_the_milter_says_nothing(site: Site) -> None:
    site.option(site.front, "smtpd_milters=unix:gatepost/milter.sock")
    for setting, problem in (
        ("milter_command_timeout=5s", "command_timeout = 5s"),
        ("milter_protocol=4", "protocol 4"),
        ("milter_default_action=reject", "reject for its default action"),
    ):
        site.option(site.front, setting)
        assert problem in only(site, "smtpd_milters").problem
    mended(site, only(site, "smtpd_milters"))


def test_gateposts_milter_behind_another_one(site: Site) -> None:
    site.main("smtpd_milters = inet:127.0.0.1:8891")
    site.option(site.front, f"smtpd_milters=inet:127.0.0.1:8891,{OURS}")
    finding = only(site, "smtpd_milters")
    assert "inet:127.0.0.1:8891 comes before gatepost's milter" in finding.problem
    mended(site, finding)
    assert site.examine().fronts[0].text("smtpd_milters") == f"{OURS},inet:127.0.0.1:8891"


def test_gateposts_milter_once_more_behind_a_variable(site: Site) -> None:
    site.main("ours = unix:gatepost/milter.sock")
    site.option(site.front, f"smtpd_milters={OURS},$ours")
    finding = only(site, "smtpd_milters")
    assert "2 times" in finding.problem
    mended(site, finding)
    assert site.examine().fronts[0].text("smtpd_milters") == OURS


def test_main_cf_milters_that_the_edge_hides_are_found(site: Site) -> None:
    """New in main.cf since apply: the front's own list knows nothing of it."""
    site.main("smtpd_milters = inet:127.0.0.1:8891")
    finding = only(site, "smtpd_milters")
    assert f"-o smtpd_milters={OURS},inet:127.0.0.1:8891" in finding.problem
    mended(site, finding)


def test_a_longer_edge_timeout_asks_for_more_patience(site: Site) -> None:
    site.configure(milter="edge_timeout = 40\n")
    finding = only(site, "smtpd_milters")
    assert "command_timeout = 30s: that is below 45s (milter.edge_timeout is 40s)" in finding.problem
    mended(site, finding)


def test_what_macros_main_cf_lists_is_no_matter(site: Site) -> None:
    """gatepost asks Postfix for those that it reads; `tests/e2e/test_edge_facts.py` sees that it gets them."""
    site.main(*(f"milter_{stage}_macros =" for stage in ("connect", "helo", "mail", "rcpt")))
    assert site.on_paper() == []


def test_no_milters_on_the_front_takes_the_edge_off(site: Site) -> None:
    site.option(site.front, "receive_override_options=no_milters")
    finding = only(site, "receive_override_options")
    assert "edge door hears nothing" in finding.problem
    mended(site, finding)


def test_a_front_with_the_name_of_the_inner_service(site: Site) -> None:
    site.option(site.front, "milter_macro_daemon_name=gatepost-content")
    finding = only(site, "milter_macro_daemon_name")
    assert "takes clients for its own connections" in finding.problem
    mended(site, finding)


def test_a_map_of_milters_is_a_note(site: Site) -> None:
    site.main("smtpd_milter_maps = static:DISABLE")
    notes = [one for one in site.on_paper() if one.parameter == "smtpd_milter_maps"]
    assert [(one.service, one.severity) for one in notes] == [(site.front, "note")]
    assert f"write {OURS}" in notes[0].remedy
    assert site.findings() == []


def test_gateposts_milter_on_a_service_that_is_no_front(site: Site) -> None:
    service = "127.0.0.1:2525/inet"
    site.postconf("-M", "-e", f"{service}=127.0.0.1:2525 inet n - n - 10 smtpd -o smtpd_milters={OURS}")
    finding = only(site, "smtpd_milters", service)
    assert "only fronts and the inner service pass it messages that it knows" in finding.problem
    mended(site, finding)


def test_an_edge_that_was_switched_off_is_found_until_apply_has_run(site: Site) -> None:
    site.toml.write_text(site.toml.read_text().replace("edge = true", "edge = false"))
    finding = only(site, "smtpd_milters")
    assert "milter.edge off" in finding.problem
    site.apply()
    assert site.findings() == []
