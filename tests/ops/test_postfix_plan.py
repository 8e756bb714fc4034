"""What `gatepost postfix` plans for a configuration, read through the real postconf; nothing is changed here."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from gatepost.errors import ConfigError
from gatepost.ops.postfix import entry, milters, plan, postconf
from gatepost.ops.postfix.fronts import Configuration
from gatepost.ops.postfix.value import elements

CONFIGS = Path(__file__).parent / "postfix_configs"
ROOT = Path(__file__).parents[2]
QUEUE = "/var/spool/postfix"
SETTINGS = plan.Settings("127.0.0.1:10035", "127.0.0.1:10036", f"unix:{QUEUE}/gatepost/milter.sock")
INNER = "127.0.0.1:10036/inet"


def site(directory: Path, sample: str, *main: str, master: str = "") -> Configuration:
    """A configuration directory made from a sample, with further lines."""
    text = (CONFIGS / f"{sample}.master.cf").read_text() if sample else ""
    (directory / "master.cf").write_text(text + master)
    lines = ("compatibility_level = 3.6", f"queue_directory = {QUEUE}", *main)
    (directory / "main.cf").write_text("\n".join(lines) + "\n")
    # postconf waits for two seconds before it reads a main.cf that is younger (util/dict.c, dict_load_file_xt).
    os.utime(directory / "main.cf", (0, 0))
    return Configuration.read(postconf.Postconf(directory))


def entries(made: plan.Plan) -> dict[str, entry.Entry]:
    return {wanted.service: wanted for wanted in made.entries}


def options(made: plan.Plan, service: str = INNER) -> dict[str, str | None]:
    return dict(entries(made)[service].options)


def test_the_default_service_is_smtp_inet(tmp_path: Path) -> None:
    assert list(entries(plan.make(site(tmp_path, "submission"), SETTINGS))) == ["smtp/inet", INNER]


def test_behind_postscreen_the_default_service_is_smtpd_pass(tmp_path: Path) -> None:
    assert list(entries(plan.make(site(tmp_path, "postscreen"), SETTINGS))) == ["smtpd/pass", INNER]


def test_without_smtp_inet_the_default_is_what_was_applied_earlier(tmp_path: Path) -> None:
    services = "127.0.0.1:2525 inet n - n - - smtpd\n127.0.0.1:2526 inet n - n - - smtpd\n"
    configuration = site(tmp_path, "", master=services)
    earlier = plan.Applied((milters.FrontRecord("127.0.0.1:2525/inet"),), INNER)
    assert list(entries(plan.make(configuration, SETTINGS, applied=earlier))) == ["127.0.0.1:2525/inet", INNER]
    with pytest.raises(ConfigError, match=r"takes one of: 127.0.0.1:2525/inet, 127.0.0.1:2526/inet"):
        plan.make(configuration, SETTINGS)


def test_the_front_gets_the_proxy_and_strict_line_ends(tmp_path: Path) -> None:
    assert options(plan.make(site(tmp_path, "plain"), SETTINGS), "smtp/inet") == {
        "smtpd_proxy_filter": "127.0.0.1:10035",
        "smtpd_forbid_bare_newline": "normalize",
        "smtpd_forbid_bare_newline_exclusions": "",
    }


@pytest.mark.parametrize(
    ("gone", "value"),
    [
        (set(), "normalize"),
        ({"smtpd_forbid_bare_newline_reject_code"}, "yes"),
        ({name for name in entry.PARAMETERS if name.startswith("smtpd_forbid_bare_newline")}, None),
    ],
)
def test_strict_line_ends_are_asked_for_as_this_postfix_can(tmp_path: Path, gone: set[str], value: str | None) -> None:
    configuration = site(tmp_path, "plain")
    older = Configuration(
        configuration.directory,
        configuration.services,
        configuration.main,
        configuration.expanded,
        configuration.known - gone,
    )
    made = plan.make(older, SETTINGS)
    assert {options(made, key).get("smtpd_forbid_bare_newline") for key in entries(made)} == {value}


def test_every_suggested_setting_is_on_the_inner_service(tmp_path: Path) -> None:
    inner = options(plan.make(site(tmp_path, "plain"), SETTINGS))
    assert [name for name, _ in entry.INNER] == [name for name in inner if name not in entry.CARRIED]
    assert inner["smtpd_milters"] == "unix:gatepost/milter.sock"
    assert inner["milter_default_action"] == "tempfail"
    assert inner["mynetworks"] == inner["smtpd_authorized_xforward_hosts"] == "127.0.0.0/8"
    assert "no_milters" not in str(inner["receive_override_options"])


@pytest.mark.parametrize(
    ("column", "level", "chrooted"), [("y", "3.6", 1), ("n", "3.6", 0), ("-", "3.6", 0), ("-", "0", 1)]
)
def test_the_inner_service_copies_the_chroot_column(tmp_path: Path, column: str, level: str, chrooted: int) -> None:
    configuration = site(tmp_path, "", f"compatibility_level = {level}", master=f"smtp inet n - {column} - - smtpd\n")
    assert entries(plan.make(configuration, SETTINGS))[INNER].fields["chroot"] == column
    outside = plan.Settings(SETTINGS.listen, SETTINGS.inner, "unix:/run/gatepost/milter.sock")
    if chrooted:
        with pytest.raises(
            ConfigError, match=r"milter\.socket = 'unix:/run/gatepost/milter\.sock' is outside /var/spool"
        ):
            plan.make(configuration, outside)
    else:
        assert options(plan.make(configuration, outside))["smtpd_milters"] == "unix:/run/gatepost/milter.sock"


@pytest.mark.parametrize(
    ("settings", "proxy_filter", "milter"),
    [
        (
            plan.Settings(f"unix:{QUEUE}/gatepost/proxy.sock", SETTINGS.inner, "inet:127.0.0.1:8890"),
            "unix:gatepost/proxy.sock",
            "inet:127.0.0.1:8890",
        ),
        (plan.Settings("0.0.0.0:10035", SETTINGS.inner, "[::1]:8890"), "127.0.0.1:10035", "inet:[::1]:8890"),
    ],
)
def test_addresses_are_written_as_postfix_reads_them(
    tmp_path: Path, settings: plan.Settings, proxy_filter: str, milter: str
) -> None:
    made = plan.make(site(tmp_path, "plain"), settings)
    assert options(made, "smtp/inet")["smtpd_proxy_filter"] == proxy_filter
    assert options(made)["smtpd_milters"] == milter


def test_an_inner_service_on_ipv6_trusts_ipv6_loopback(tmp_path: Path) -> None:
    made = plan.make(site(tmp_path, "plain"), plan.Settings(SETTINGS.listen, "[::1]:10036", SETTINGS.milter))
    assert options(made, "[::1]:10036/inet")["smtpd_authorized_xforward_hosts"] == "[::1]/128"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (plan.Settings(SETTINGS.listen, "192.0.2.1:10036", SETTINGS.milter), "no loopback address"),
        (plan.Settings(SETTINGS.listen, "unix:/run/inner", SETTINGS.milter), "is an inet service"),
        (plan.Settings("127.0.0.1:10036", SETTINGS.inner, SETTINGS.milter), "are the same port"),
        (plan.Settings("127.0.0.1:25", SETTINGS.inner, SETTINGS.milter), "the port of Postfix's own smtp/inet"),
        (plan.Settings(SETTINGS.listen, "127.0.0.1:2525", SETTINGS.milter), "2525/inet is there already and is not"),
        (plan.Settings("nonsense", SETTINGS.inner, SETTINGS.milter), r"proxy\.listen = 'nonsense' is no address"),
        (plan.Settings(SETTINGS.listen, SETTINGS.inner, "unix:relative"), r"milter\.socket = .*path in full"),
    ],
)
def test_an_address_that_cannot_work_is_refused(tmp_path: Path, settings: plan.Settings, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        plan.make(site(tmp_path, "submission"), settings)


@pytest.mark.parametrize(
    ("sample", "service", "reason"),
    [
        (
            "submission",
            "nosuch/inet",
            'no service "nosuch/inet" here; --service takes one of: smtp/inet, submission/inet',
        ),
        ("plain", "qmgr/unix", "qmgr/unix runs qmgr, not smtpd; --service takes one of: smtp/inet"),
        ("postscreen", "smtp/inet", "smtp/inet runs postscreen, not smtpd: take the smtpd behind it"),
    ],
)
def test_a_service_that_cannot_be_a_front_is_refused(tmp_path: Path, sample: str, service: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        plan.make(site(tmp_path, sample), SETTINGS, services=[service])


@pytest.mark.parametrize(
    ("main", "reason"),
    [
        ("smtpd_proxy_filter = 127.0.0.1:10024", "already has smtpd_proxy_filter=127.0.0.1:10024"),
        ("smtpd_proxy_options = speed_adjust", "remove speed_adjust"),
    ],
)
def test_a_front_that_cannot_work_with_gatepost_is_refused(tmp_path: Path, main: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        plan.make(site(tmp_path, "plain", main), SETTINGS)


def test_a_front_already_pointing_at_the_proxy_stays_a_front(tmp_path: Path) -> None:
    configuration = site(tmp_path, "plain", master="2525 inet n - n - - smtpd -o smtpd_proxy_filter=127.0.0.1:10035\n")
    assert list(entries(plan.make(configuration, SETTINGS))) == ["smtp/inet", "2525/inet", INNER]


def test_main_cf_content_filter_stays_in_force(tmp_path: Path) -> None:
    made = plan.make(site(tmp_path, "plain", "content_filter = smtp-amavis:[127.0.0.1]:10024"), SETTINGS)
    assert options(made)["content_filter"] is None


def test_settings_of_the_front_that_act_behind_the_proxy_are_carried_over(tmp_path: Path) -> None:
    inner = options(plan.make(site(tmp_path, "amavis"), SETTINGS, services=["submission/inet"]))
    assert inner["content_filter"] == "smtp-amavis:[127.0.0.1]:10026"
    assert inner["cleanup_service_name"] == "subcleanup"
    assert inner["message_size_limit"] is None


def test_address_mapping_left_to_an_after_queue_filter_stays_left_to_it(tmp_path: Path) -> None:
    made = plan.make(site(tmp_path, "plain", "receive_override_options = no_address_mappings, no_milters"), SETTINGS)
    assert options(made)["receive_override_options"] == "no_unknown_recipient_checks,no_address_mappings"


def test_fronts_with_different_content_filters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"differ in content_filter \(smtp/inet: \(none\), submission/inet: smtp-amavis"
    ):
        plan.make(site(tmp_path, "amavis"), SETTINGS, services=["smtp/inet", "submission/inet"])


def test_fronts_with_different_chroot_columns_are_refused(tmp_path: Path) -> None:
    configuration = site(tmp_path, "plain", master="2525 inet n - y - - smtpd\n")
    with pytest.raises(ConfigError, match=r"smtp/inet is not, 2525/inet is chrooted"):
        plan.make(configuration, SETTINGS, services=["smtp/inet", "2525/inet"])


def test_amavis_way_back_is_not_taken_for_ours(tmp_path: Path) -> None:
    configuration = site(tmp_path, "amavis")
    with pytest.raises(ConfigError, match=r"127.0.0.1:10025/inet is there already and is not gatepost's"):
        plan.make(configuration, plan.Settings(SETTINGS.listen, "127.0.0.1:10025", SETTINGS.milter))
    with pytest.raises(ConfigError, match=r"proxy.listen = 127.0.0.1:10025 is the port of Postfix's own"):
        plan.make(configuration, plan.Settings("127.0.0.1:10025", SETTINGS.inner, SETTINGS.milter))


MILTERS = ("dkim = inet:localhost:8891", "smtpd_milters = $dkim, { unix:/run/x, default_action=accept }")


def test_milters_of_the_front_are_named_and_the_choice_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        plan.make(site(tmp_path, "plain", *MILTERS), SETTINGS)
    said = str(refused.value)
    assert "inet:localhost:8891, { unix:/run/x, default_action=accept }" in said
    assert "--milters=keep-front" in said
    assert "--milters=inner" in said
    assert "\n" not in said


def test_milters_kept_on_the_front_do_not_reach_the_inner_service(tmp_path: Path) -> None:
    made = plan.make(site(tmp_path, "plain", *MILTERS), SETTINGS, choice="keep-front")
    assert "smtpd_milters" not in options(made, "smtp/inet")
    assert options(made)["smtpd_milters"] == "unix:gatepost/milter.sock"
    assert "no longer edit or sign" in made.notes[0]


def test_milters_moved_to_the_inner_service_come_after_ours_and_leave_the_front(tmp_path: Path) -> None:
    made = plan.make(site(tmp_path, "plain", *MILTERS), SETTINGS, choice="inner")
    assert options(made, "smtp/inet")["smtpd_milters"] == ""
    assert options(made)["smtpd_milters"] == ("unix:gatepost/milter.sock,$dkim,{ unix:/run/x, default_action=accept }")
    assert "localhost" in made.notes[0]


def test_a_service_without_milters_of_its_own_is_not_asked_about_main_cf(tmp_path: Path) -> None:
    configuration = site(tmp_path, "plain", *MILTERS, master="2525 inet n - n - - smtpd -o smtpd_milters=\n")
    made = plan.make(configuration, SETTINGS, services=["2525/inet"])
    assert options(made)["smtpd_milters"] == "unix:gatepost/milter.sock"


def test_milters_that_differ_between_fronts_cannot_move(tmp_path: Path) -> None:
    configuration = site(tmp_path, "plain", *MILTERS, master="2525 inet n - n - - smtpd -o smtpd_milters=inet:h:1\n")
    with pytest.raises(ConfigError, match="differ in the milters that would move there"):
        plan.make(configuration, SETTINGS, services=["smtp/inet", "2525/inet"], choice="inner")


def test_a_milter_map_cannot_move(tmp_path: Path) -> None:
    configuration = site(tmp_path, "plain", "smtpd_milter_maps = cidr:/etc/postfix/milters")
    with pytest.raises(ConfigError, match=r"has milters of its own.*smtpd_milter_maps=cidr:/etc/postfix/milters"):
        plan.make(configuration, SETTINGS)
    with pytest.raises(ConfigError, match="use --milters=keep-front"):
        plan.make(configuration, SETTINGS, choice="inner")
    assert options(plan.make(configuration, SETTINGS, choice="keep-front"))["smtpd_milter_maps"] == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("", ()),
        ("inet:a:1 unix:/b,inet:c:2", ("inet:a:1", "unix:/b", "inet:c:2")),
        ("{ inet:a:1, { connect_timeout = 3s } }, unix:/b", ("{ inet:a:1, { connect_timeout = 3s } }", "unix:/b")),
        ("${stress?{inet:a:1, unix:/b}}, unix:/c", ("${stress?{inet:a:1, unix:/b}}", "unix:/c")),
    ],
)
def test_a_milter_list_is_split_as_postfix_does(value: str, expected: tuple[str, ...]) -> None:
    assert elements(value) == expected


def test_the_documented_entries_are_what_apply_would_write(tmp_path: Path) -> None:
    """postfix/master.cf, applied to, has nothing to change."""
    configuration = site(tmp_path, "", master=(ROOT / "postfix" / "master.cf").read_text())
    settings = plan.Settings("127.0.0.1:10025", "127.0.0.1:10026", SETTINGS.milter)
    assert plan.make(configuration, settings).differences(configuration) == ()


def test_the_readme_gives_a_reason_for_every_setting() -> None:
    named = set(re.findall(r"[a-z_]+", (ROOT / "postfix" / "README.md").read_text()))
    assert {name for name, _ in (*entry.INNER, *entry.FRONT)} | set(entry.CARRIED) <= named


def test_postconf_knows_every_setting() -> None:
    """A misspelt name would be left out in silence, as one that an old Postfix does not have."""
    said = subprocess.run(["postconf", "-d", *entry.PARAMETERS], capture_output=True, text=True, check=True)
    assert "unknown parameter" not in said.stderr


@pytest.mark.parametrize("sample", sorted(path.name.partition(".")[0] for path in CONFIGS.glob("*.master.cf")))
def test_every_sample_is_read_as_postfix_reads_it(tmp_path: Path, sample: str) -> None:
    configuration = site(tmp_path, sample)
    command = ["postconf", "-c", str(tmp_path), "-M"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    seen = [(*service.key.rsplit("/", 1), *service.fields["command"].split()) for service in configuration.services]
    assert seen == [(*words[:2], *words[7:]) for words in map(str.split, said)]


def test_without_postfix_the_error_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(postconf, "_SBIN", ())
    with pytest.raises(ConfigError, match="no postconf command found: install Postfix"):
        site(tmp_path, "plain")


def test_a_broken_master_cf_is_reported_in_postfix_own_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"master\.cf: line \d+: bad field count"):
        site(tmp_path, "plain", master="broken inet n\n")
