"""The doctor on paper: each test breaks one thing, sees that finding and no other, and mends it by its own command."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from gatepost.ops.postfix import entry
from gatepost.ops.postfix.doctor import report

if TYPE_CHECKING:
    from tests.ops.doctor_rig import Site

    from gatepost.ops.postfix.doctor.finding import Finding

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a private Postfix is for root")

FRONT, INNER, MAIN = "FRONT", "INNER", "main.cf"


def only(site: Site, service: str, parameter: str) -> Finding:
    """The one finding there is, which must be about that."""
    found = [one for one in site.on_paper() if one.severity == "finding"]
    service = {FRONT: site.front, INNER: site.inner}.get(service, service)
    assert [(one.service, one.parameter) for one in found] == [(service, parameter)], found
    return found[0]


def mended(site: Site, finding: Finding) -> None:
    """Run its command: then there is nothing left."""
    site.run(finding.command)
    assert site.findings() == []


def mended_by_apply(site: Site, finding: Finding) -> None:
    """See that its command is apply; what that mends, one test sees for all, because each apply takes its time."""
    assert finding.command == site.examine().remedies.apply()


def test_right_after_apply_there_is_nothing_to_find(site: Site) -> None:
    assert site.on_paper() == []


ON_THE_FRONT = [
    (
        "smtpd_proxy_options=speed_adjust",
        "smtpd_proxy_options",
        "first recipient that gatepost refuses refuses the whole",
    ),
    ("smtpd_proxy_timeout=60s", "smtpd_proxy_timeout", "smtpd_proxy_timeout = 60s is below proxy.front_timeout = 100s"),
    ("smtpd_proxy_timeout=1m", "smtpd_proxy_timeout", "smtpd_proxy_timeout = 1m is below"),
    ("smtpd_forbid_bare_newline=no", "smtpd_forbid_bare_newline", "smuggled"),
    ("smtpd_forbid_bare_newline_exclusions=$mynetworks", "smtpd_forbid_bare_newline_exclusions", "127.0.0.0/8"),
    ("smtpd_sasl_auth_enable=yes", "smtpd_sasl_auth_enable", "skip_authenticated never applies"),
    ("smtpd_sasl_auth_enable=YES", "smtpd_sasl_auth_enable", "skip_authenticated never applies"),
    ("smtpd_proxy_filter=127.0.0.1:1", "smtpd_proxy_filter", "does not pass through gatepost"),
]


@pytest.mark.parametrize(("setting", "parameter", "problem"), ON_THE_FRONT)
def test_a_setting_of_the_front_that_does_not_work(site: Site, setting: str, parameter: str, problem: str) -> None:
    site.option(site.front, setting)
    finding = only(site, FRONT, parameter)
    assert problem in finding.problem
    mended(site, finding)


ON_THE_INNER = [
    ("smtpd_proxy_filter=127.0.0.1:1", "smtpd_proxy_filter", "round in a circle"),
    ("smtpd_authorized_xforward_hosts=", "smtpd_authorized_xforward_hosts", "XFORWARD"),
    ("smtpd_authorized_xforward_hosts=192.0.2.0/24", "smtpd_authorized_xforward_hosts", "does not name 127.0.0.1"),
    ("smtpd_authorized_xforward_hosts=!127.0.0.1,127.0.0.0/8", "smtpd_authorized_xforward_hosts", "XFORWARD"),
    ("receive_override_options=no_milters", "receive_override_options", "no_milters takes gatepost's milter off"),
    ("smtpd_milters=", "smtpd_milters", "lacks gatepost's milter"),
    ("smtpd_milters=inet:127.0.0.1:1", "smtpd_milters", "lacks gatepost's milter"),
    ("smtpd_milters=unix:gatepost/milter.sock,{unix:gatepost/milter.sock}", "smtpd_milters", "2 times"),
    ("smtpd_milters=unix:gatepost/milter.sock,inet:127.0.0.1:8891", "smtpd_milters", "inet:127.0.0.1:8891 comes along"),
    ("smtpd_milters={unix:gatepost/milter.sock,default_action=accept}", "smtpd_milters", "with accept it answers 250"),
    ("smtpd_milter_maps=static:DISABLE", "smtpd_milter_maps", "takes gatepost's milter off"),
    ("milter_default_action=accept", "milter_default_action", "with accept it answers 250"),
    ("milter_default_action=quarantine", "milter_default_action", "tempfail"),
    ("milter_macro_daemon_name=ORIGINATING", "milter_macro_daemon_name", "gatepost-content"),
    ("milter_content_timeout=60s", "milter_content_timeout", "below 95s"),
    ("milter_command_timeout=1s", "milter_command_timeout", "below 10s"),
    ("milter_connect_timeout=1s", "milter_connect_timeout", "below 10s"),
    ("smtpd_timeout=300s", "smtpd_timeout", "not above 300s"),
    ("smtpd_forbid_bare_newline=no", "smtpd_forbid_bare_newline", "smuggled"),
    ("smtpd_forbid_bare_newline_exclusions=$mynetworks", "smtpd_forbid_bare_newline_exclusions", "one of them"),
]


@pytest.mark.parametrize(("setting", "parameter", "problem"), ON_THE_INNER)
def test_a_setting_of_the_inner_service_that_does_not_work(
    site: Site, setting: str, parameter: str, problem: str
) -> None:
    site.option(site.inner, setting)
    finding = only(site, INNER, parameter)
    assert problem in finding.problem or problem in finding.remedy
    if finding.command.startswith("gatepost"):
        mended_by_apply(site, finding)
    else:
        mended(site, finding)


DRIFT = [
    ("smtpd_recipient_restrictions=permit", "smtpd_recipient_restrictions"),
    ("smtpd_tls_security_level=may", "smtpd_tls_security_level"),
    ("smtpd_discard_ehlo_keywords=xforward", "smtpd_discard_ehlo_keywords"),
]


@pytest.mark.parametrize(("setting", "parameter"), DRIFT)
def test_any_other_setting_that_apply_owns_is_named_when_it_drifts(site: Site, setting: str, parameter: str) -> None:
    site.option(site.inner, setting)
    finding = only(site, INNER, parameter)
    assert f"-o {parameter}=" in finding.problem
    mended_by_apply(site, finding)


def test_apply_mends_all_of_it_at_once(site: Site) -> None:
    for setting, _, _ in ON_THE_INNER:
        if setting.partition("=")[0] in dict(entry.INNER):
            site.option(site.inner, setting)
    for setting, _ in DRIFT:
        site.option(site.inner, setting)
    site.option(site.front, "smtpd_forbid_bare_newline=no")
    found = [one for one in site.on_paper() if one.severity == "finding"]
    assert len(found) > 10
    site.run(found[0].command)
    assert site.findings() == []


def test_settings_that_drift_together_are_one_finding(site: Site) -> None:
    for setting, _ in DRIFT:
        site.option(site.inner, setting)
    names = ", ".join(sorted(name for _, name in DRIFT))
    found = only(site, INNER, ", ".join(one for one in _order(site) if one in names))
    assert all(f"-o {name}=" in found.problem for _, name in DRIFT)
    mended(site, found)


def test_milters_that_stay_on_the_front_are_a_note(site: Site) -> None:
    site.main("smtpd_milters = inet:127.0.0.1:8891")
    (note,) = site.on_paper()
    assert (note.service, note.parameter, note.severity) == (site.front, "smtpd_milters", "note")
    assert "can refuse, but no longer edit or sign" in note.problem
    assert note.command.endswith("--milters inner")


@pytest.mark.parametrize(
    "spelling", ["unix:{queue}/gatepost/milter.sock", "unix:/gatepost/milter.sock", "local:gatepost/milter.sock"]
)
def test_gateposts_milter_is_known_in_any_spelling(site: Site, spelling: str) -> None:
    site.option(site.inner, f"smtpd_milters={spelling.format(queue=site.queue)}")
    found = only(site, INNER, "smtpd_milters")
    assert "not as apply would write it" in found.problem


def test_bytes_in_main_cf_that_are_no_text_can_be_printed(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    with (site.etc / "main.cf").open("ab") as file:
        file.write(b"smtpd_proxy_options = speed_adjust, \xff\n")
    site.age()
    found = only(site, FRONT, "smtpd_proxy_options")
    report.show(site.examine(), [found])
    assert r"speed_adjust, \udcff" in capsys.readouterr().out
    mended(site, found)


def _order(site: Site) -> list[str]:
    planned = site.examine().planned
    assert not isinstance(planned, str)
    return [name for name in planned.entries[-1].options if name in dict(DRIFT).values()]


def test_main_cf_milters_that_reach_the_inner_service(site: Site) -> None:
    site.main("smtpd_milters = inet:127.0.0.1:8891")
    site.postconf("-PX", f"{site.inner}/smtpd_milters")
    finding = only(site, INNER, "smtpd_milters")
    assert "smtpd_milters = inet:127.0.0.1:8891 (main.cf or default) lacks gatepost's milter" in finding.problem
    assert "--milters keep-front" in finding.command
    mended(site, finding)


def test_main_cf_default_action_that_reaches_the_inner_service(site: Site) -> None:
    site.main("milter_default_action = accept")
    assert site.findings() == []
    site.postconf("-PX", f"{site.inner}/milter_default_action")
    finding = only(site, INNER, "milter_default_action")
    assert "milter_default_action = accept (main.cf or default)" in finding.problem
    mended(site, finding)


@pytest.mark.parametrize("name", ["smtpd_milters", "non_smtpd_milters"])
def test_gateposts_milter_in_main_cf_is_on_the_wrong_services(site: Site, name: str) -> None:
    site.main(f"{name} = unix:{site.socket}")
    finding = only(site, MAIN, name)
    assert "pass unseen" in finding.problem
    mended(site, finding)


def test_gateposts_milter_on_the_front_while_the_edge_is_off(site: Site) -> None:
    site.option(site.front, "smtpd_milters={unix:gatepost/milter.sock,connect_timeout=3s},inet:127.0.0.1:8891")
    finding = only(site, FRONT, "smtpd_milters")
    assert "milter.edge off" in finding.problem
    mended(site, finding)
    assert site.examine().fronts[0].text("smtpd_milters") == "inet:127.0.0.1:8891"


@pytest.mark.parametrize("name", ["smtpd_milters", "non_smtpd_milters"])
def test_a_milter_in_libmilters_spelling(site: Site, name: str) -> None:
    site.main("dkim = inet:8891@localhost", f"{name} = {{ $dkim, default_action=accept }}")
    finding = only(site, MAIN, name)
    assert "inet:8891@localhost is libmilter's spelling" in finding.problem
    mended(site, finding)
    assert "inet:localhost:8891" in site.examine().main[name]


def test_gateposts_own_milter_in_libmilters_spelling_is_that_and_nothing_else(site: Site) -> None:
    site.configure(milter="edge_timeout = 20\n")
    text = site.toml.read_text().replace(f"unix:{site.socket}", "inet:127.0.0.1:8890")
    site.toml.write_text(text)
    site.option(site.inner, "smtpd_milters=inet:8890@127.0.0.1")
    finding = only(site, INNER, "smtpd_milters")
    assert "inet:8890@127.0.0.1 is libmilter's spelling" in finding.problem
    mended(site, finding)


def test_a_content_filter_that_is_lost_on_the_inner_service(site: Site) -> None:
    site.main("content_filter = smtp:[127.0.0.1]:10024")
    assert site.findings() == []
    site.option(site.inner, "content_filter=")
    finding = only(site, INNER, "content_filter")
    assert "bypasses the site's filter" in finding.problem
    mended(site, finding)


SUBMISSION = "127.0.0.1:587/inet"


def submission(site: Site, proxy_filter: str) -> None:
    users = "smtpd -o smtpd_sasl_auth_enable=yes"
    site.postconf("-M", "-e", f"{SUBMISSION}=127.0.0.1:587 inet n - n - 10 {users} {proxy_filter}".strip())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "inet:[127.0.0.1]"])
def test_a_submission_service_loses_gatepost_and_keeps_its_logins(site: Site, host: str) -> None:
    submission(site, f"-o smtpd_proxy_filter={host}:{site.listen.rpartition(':')[2]}")
    mended(site, only(site, SUBMISSION, "smtpd_sasl_auth_enable"))
    assert site.examine(SUBMISSION).misplaced[0].text("smtpd_proxy_filter") == ""


def test_a_submission_service_that_has_gatepost_from_main_cf_loses_it(site: Site) -> None:
    submission(site, "")
    site.main(f"smtpd_proxy_filter = {site.listen}")
    mended(site, only(site, SUBMISSION, "smtpd_sasl_auth_enable"))


def test_a_submission_service_to_which_apply_was_told_is_taken_off_its_record(site: Site) -> None:
    site.run(f"gatepost postfix revert --config-dir {site.etc}")
    submission(site, "")
    for service in (SUBMISSION, site.front):
        site.run(f"gatepost postfix apply --config {site.toml} --config-dir {site.etc} --service {service}")
    mended(site, only(site, SUBMISSION, "smtpd_sasl_auth_enable"))
    assert site.examine().recorded == {site.front}


def test_where_no_service_passes_mail_on_doctor_says_so_and_apply_helps(site: Site) -> None:
    site.run(f"gatepost postfix revert --config-dir {site.etc}")
    finding = only(site, MAIN, "smtpd_proxy_filter")
    assert "no mail passes through gatepost" in finding.problem
    assert finding.command.startswith("gatepost postfix apply ")
    site.apply()
    assert site.findings() == []
