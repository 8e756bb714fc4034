"""What `gatepost postfix` plans and writes for `[milter] edge = true`, by postconf and the command line as they are."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gatepost.errors import ConfigError
from gatepost.ops.postfix import commands, plan, postconf
from gatepost.ops.postfix.fronts import Configuration
from gatepost.ops.postfix.value import elements
from gatepost.ops.private_postfix import PrivatePostfix, free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGS = Path(__file__).parent / "postfix_configs"
ROOT = Path(__file__).parents[2]
DEBIAN = Path("/usr/share/postfix/master.cf.dist")
OURS = "{unix:gatepost/milter.sock,default_action=tempfail,protocol=6,connect_timeout=30s,command_timeout=30s}"
LIST = "smtpd_milters"
DKIM = ("dkim = inet:localhost:8891", "smtpd_milters = $dkim, { unix:/run/x, default_action=accept }")
CARRIED = "$dkim,{ unix:/run/x, default_action=accept }"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="postfix check is for root")


@dataclass(frozen=True, slots=True)
class Site:
    """A private Postfix, not running, and a configuration of gatepost's."""

    postfix: PrivatePostfix
    toml: Path
    listen: str
    inner: str

    def sample(self, name: str, *main: str) -> None:
        """Take another master.cf, and add lines to main.cf."""
        source = DEBIAN if name == "debian" else CONFIGS / f"{name}.master.cf"
        shutil.copyfile(source, self.postfix.config_dir / "master.cf")
        for line in main:
            self.add_to_main(line)

    def add_to_main(self, line: str) -> None:
        with (self.postfix.config_dir / "main.cf").open("a") as file:
            file.write(f"{line}\n")
        self.age()

    def age(self) -> None:
        # Postfix waits for two seconds before it reads a main.cf that is younger (util/dict.c, dict_load_file_xt).
        os.utime(self.postfix.config_dir / "main.cf", (0, 0))

    def edge(self, on: bool, more: str = "") -> None:
        """Write gatepost's configuration."""
        socket_path = self.postfix.queue_dir / "gatepost" / "milter.sock"
        addresses = f'[proxy]\nlisten = "{self.listen}"\ninner = "{self.inner.removesuffix("/inet")}"\n'
        self.toml.write_text(f'{addresses}[milter]\nedge = {str(on).lower()}\nsocket = "unix:{socket_path}"\n{more}')

    def run(self, command: str, *arguments: str) -> int:
        """`gatepost postfix COMMAND`; its exit status, ConfigError where the program would end with one."""
        config = () if command == "revert" else ("--config", str(self.toml))
        line = [command, "--config-dir", str(self.postfix.config_dir), *config, *arguments]
        status = commands.app(line, exit_on_error=False, result_action="return_value")
        assert isinstance(status, int)
        return status

    def files(self) -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in self.postfix.config_dir.rglob("*") if path.is_file()}

    def milters(self, service: str = "smtp/inet") -> str | None:
        """The `-o smtpd_milters` of a service, None without one."""
        line = self.postfix.postconf("-P", f"{service}/{LIST}")
        return line.split(" =", 1)[1].removeprefix(" ") if line else None

    def set_milters(self, value: str, service: str = "smtp/inet") -> None:
        self.postfix.postconf_service(service, {LIST: value})


@pytest.fixture
def site() -> Iterator[Site]:
    # Not tmp_path: user postfix must be able to enter every directory above.
    with tempfile.TemporaryDirectory(prefix="gatepost-edge-") as directory:
        Path(directory).chmod(0o755)
        postfix = PrivatePostfix(Path(directory) / "postfix")
        listen, inner = (f"127.0.0.1:{free_loopback_port()}" for _ in range(2))
        site = Site(postfix, Path(directory) / "gatepost.toml", listen, f"{inner}/inet")
        site.age()
        site.edge(True)
        yield site


@pytest.mark.parametrize(
    ("sample", "front"),
    [
        ("debian", "smtp/inet"),
        ("plain", "smtp/inet"),
        ("postscreen", "smtpd/pass"),
        ("submission", "smtp/inet"),
        ("amavis", "smtp/inet"),
    ],
)
def test_the_edge_comes_goes_and_leaves_no_trace(
    site: Site, sample: str, front: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if sample == "debian" and not DEBIAN.exists():
        pytest.skip("no Debian master.cf here")
    site.sample(sample)
    before = site.files()
    site.edge(False)
    site.run("apply")
    off = (site.postfix.config_dir / "master.cf").read_bytes()
    assert site.milters(front) is None

    site.edge(True)
    assert site.run("diff") == 1
    assert f"+  -o {LIST}={OURS}" in capsys.readouterr().out.replace("    -o", "  -o")
    site.run("apply")
    assert f"{front}: -o {LIST}={OURS}" in capsys.readouterr().out
    assert site.milters(front) == OURS
    assert site.milters(site.inner) == "unix:gatepost/milter.sock"
    on = site.files()
    site.run("apply")
    assert "nothing to change" in capsys.readouterr().out
    assert site.files() == on
    assert site.run("diff") == 0

    site.edge(False)
    site.run("apply")
    assert f"{front}: without -o {LIST}" in capsys.readouterr().out
    assert (site.postfix.config_dir / "master.cf").read_bytes() == off
    site.edge(True)
    site.run("apply")
    assert site.run("revert") == 0
    assert site.files() == before


def test_postfix_takes_the_entry_for_what_it_is(site: Site) -> None:
    """As smtpd reads it: one milter with its own settings, and the others after it."""
    site.sample("plain", *DKIM)
    site.run("apply", "--milters", "keep-front")
    value = site.postfix.postconf("-Phx", f"smtp/inet/{LIST}")
    assert elements(value) == (OURS, "inet:localhost:8891", "{ unix:/run/x, default_action=accept }")


def test_the_front_waits_longer_than_a_hook_of_the_edge_may_take(site: Site) -> None:
    site.sample("plain")
    site.edge(True, 'edge_timeout = "45s"\n')
    site.run("apply")
    assert site.milters() == OURS.replace("command_timeout=30s", "command_timeout=55s")


def test_milters_of_the_front_are_asked_about_with_the_edge_as_without(site: Site) -> None:
    site.sample("plain", *DKIM)
    with pytest.raises(ConfigError, match=r"has milters of its own \(main.cf\): inet:localhost:8891.*--milters=keep"):
        site.run("apply")


def test_main_cf_milters_that_stay_come_after_ours_in_the_same_list(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.sample("plain", *DKIM)
    site.run("apply", "--milters", "keep-front")
    assert site.milters() == f"{OURS},{CARRIED}"
    assert site.milters(site.inner) == "unix:gatepost/milter.sock"
    said = capsys.readouterr().out
    assert "no longer edit or sign" in said
    assert "when smtpd_milters changes in main.cf, run apply again" in said
    assert site.run("diff") == 0, "the decision is remembered"

    site.add_to_main("smtpd_milters = $dkim")
    site.run("apply")
    assert site.milters() == f"{OURS},$dkim"

    site.edge(False)
    site.run("apply")
    assert site.milters() is None, "main.cf's list counts again"


@pytest.mark.parametrize("value", ["inet:localhost:1, { unix:/run/x, default_action=accept }", ""])
@pytest.mark.parametrize("own", [True, False])
def test_a_name_that_stands_for_several_milters_or_none_stays_a_name(site: Site, value: str, own: bool) -> None:
    site.sample("plain", f"all = {value}", "smtpd_milters = $all")
    if own:
        site.set_milters("$all")
    site.run("apply", "--milters", "keep-front")
    applied = site.files()
    assert site.milters() == f"{OURS},$all"
    site.run("apply")
    assert site.files() == applied
    site.set_milters(f"{OURS.replace('tempfail', 'accept')},$all")
    site.run("apply")
    assert site.milters() == f"{OURS},$all"
    site.edge(False)
    site.run("apply")
    assert site.milters() == ("$all" if own else None)


def test_milters_of_the_service_itself_stay_behind_ours_and_come_back_as_they_were(site: Site) -> None:
    site.sample("plain", "smtpd_milters = inet:localhost:1")
    site.set_milters("inet:localhost:8891,unix:/run/x")
    site.run("apply", "--milters", "keep-front")
    assert site.milters() == f"{OURS},inet:localhost:8891,unix:/run/x"
    site.edge(False)
    site.run("apply")
    assert site.milters() == "inet:localhost:8891,unix:/run/x"


def test_milters_that_move_to_the_inner_service_leave_ours_alone_on_the_front(site: Site) -> None:
    site.sample("plain", *DKIM)
    site.run("apply", "--milters", "inner")
    assert site.milters() == OURS
    assert site.milters(site.inner) == f"unix:gatepost/milter.sock,{CARRIED}"
    site.run("apply", "--milters", "keep-front")
    assert site.milters() == f"{OURS},{CARRIED}"
    assert site.milters(site.inner) == "unix:gatepost/milter.sock"
    site.run("apply", "--milters", "inner")
    site.edge(False)
    site.run("apply")
    assert site.milters() == "", "moved is moved, with the edge or without"
    assert site.run("diff") == 0


@pytest.mark.parametrize("own", [True, False])
def test_milters_behind_a_name_of_this_service_alone_are_not_lost_on_the_inner_service(site: Site, own: bool) -> None:
    site.sample("plain", "signer =", "smtpd_milters = inet:localhost:1, ${signer}")
    site.postfix.postconf_service("smtp/inet", {"signer": "inet:localhost:8891"})
    if own:
        site.set_milters("$signer")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"its own -o signer, which .* the inner service would lack.*=keep-front"):
            site.run("apply", "--milters", "inner")
        site.run("apply", "--milters", "keep-front")
        assert site.milters() == f"{OURS},{'$signer' if own else 'inet:localhost:1,${signer}'}"


def test_a_list_that_was_empty_on_purpose_is_empty_again(site: Site) -> None:
    site.sample("plain", *DKIM)
    site.set_milters("")
    site.run("apply")
    assert site.milters() == OURS
    site.edge(False)
    site.run("apply")
    assert site.milters() == ""


@pytest.mark.parametrize(
    "drift",
    [
        f"inet:localhost:8891,{OURS}",
        f"{OURS.replace('tempfail', 'accept')},inet:localhost:8891",
        "unix:gatepost/milter.sock,inet:localhost:8891",
        "inet:localhost:8891",
        f"{OURS},{OURS},inet:localhost:8891",
    ],
)
def test_what_was_changed_by_hand_is_repaired_and_main_cf_still_counts(site: Site, drift: str) -> None:
    site.sample("plain", "smtpd_milters = inet:localhost:8891")
    site.run("apply", "--milters", "keep-front")
    site.set_milters(drift)
    site.run("apply")
    assert site.milters() == f"{OURS},inet:localhost:8891"
    site.edge(False)
    site.run("apply")
    assert site.milters() is None


def test_a_milter_that_was_added_by_hand_stays(site: Site) -> None:
    site.sample("plain", "smtpd_milters = inet:localhost:8891")
    site.run("apply", "--milters", "keep-front")
    site.set_milters(f"inet:localhost:1,{OURS},inet:localhost:8891")
    site.run("apply")
    assert site.milters() == f"{OURS},inet:localhost:1,inet:localhost:8891"
    site.edge(False)
    site.run("apply")
    assert site.milters() == "inet:localhost:1,inet:localhost:8891"


def test_a_new_milter_socket_replaces_the_old_one(site: Site) -> None:
    site.sample("plain", "smtpd_milters = inet:localhost:8891")
    site.run("apply", "--milters", "keep-front")
    site.toml.write_text(site.toml.read_text().replace("milter.sock", "other.sock"))
    site.run("apply")
    assert site.milters() == f"{OURS.replace('milter.sock', 'other.sock')},inet:localhost:8891"


@pytest.mark.parametrize("spelling", ["unix:{queue}/gatepost/milter.sock", "local:gatepost/milter.sock"])
def test_an_edge_made_by_hand_is_taken_over_and_taken_away(site: Site, spelling: str) -> None:
    site.sample("plain")
    site.set_milters(spelling.format(queue=site.postfix.queue_dir))
    site.run("apply")
    assert site.milters() == OURS
    site.run("revert")
    site.edge(False)
    site.run("apply")
    assert site.milters() is None


@pytest.mark.parametrize(
    ("main", "listed", "left"),
    [
        (("gp = unix:{queue}/gatepost/milter.sock",), "$gp,inet:localhost:8891", "inet:localhost:8891"),
        (("gp = {{ unix:gatepost/milter.sock, protocol=6 }}",), "inet:localhost:8891,${{gp}}", "inet:localhost:8891"),
        (("all = unix:gatepost/milter.sock, $x", "x = inet:localhost:1"), "unix:/y,$all", "unix:/y,inet:localhost:1"),
        (("x = inet:localhost:1, unix:/y",), "$x,unix:gatepost/milter.sock", "$x"),
    ],
)
def test_an_edge_behind_a_variable_is_not_put_there_twice(
    site: Site, main: tuple[str, ...], listed: str, left: str
) -> None:
    """Where a `$name` stands for it and others, these then stand there themselves."""
    queue = site.postfix.queue_dir
    site.sample("plain", *(line.format(queue=queue) for line in main))
    site.set_milters(listed.format(queue=queue))
    site.run("apply", "--milters", "keep-front")
    assert site.milters() == f"{OURS},{left}"
    site.run("apply", "--milters", "inner")
    assert site.milters(site.inner) == f"unix:gatepost/milter.sock,{left}"
    assert site.run("diff") == 0
    site.edge(False)
    site.run("apply", "--milters", "keep-front")
    assert site.milters() == left


def test_an_edge_in_main_cf_behind_a_variable_stays_there_and_does_not_come_along(site: Site) -> None:
    site.sample("plain", "gp = unix:gatepost/milter.sock", "smtpd_milters = $gp, inet:localhost:8891")
    site.run("apply", "--milters", "inner")
    assert site.milters() == OURS
    assert site.milters(site.inner) == "unix:gatepost/milter.sock,inet:localhost:8891"


def test_an_edge_that_names_the_host_in_another_way_is_the_same(site: Site) -> None:
    site.sample("plain")
    site.toml.write_text(
        f'[proxy]\nlisten = "{site.listen}"\ninner = "{site.inner.removesuffix("/inet")}"\n'
        '[milter]\nedge = true\nsocket = "inet:127.0.0.1:9999"\n'
    )
    site.set_milters("inet:localhost:9999")
    site.run("apply")
    assert site.milters() == OURS.replace("unix:gatepost/milter.sock", "inet:127.0.0.1:9999")


def test_a_map_of_milters_stays_in_force_and_what_that_means_is_said(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    site.sample("plain", "smtpd_milter_maps = cidr:{{192.0.2.0/24 DISABLE}}")
    site.run("apply", "--milters", "keep-front")
    assert "clients that it lists do not pass the edge door" in capsys.readouterr().out
    assert site.milters() == OURS


def test_a_front_without_milters_is_told_of(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.sample("plain", "receive_override_options = no_address_mappings, no_milters")
    site.run("apply")
    assert "no_milters takes gatepost's milter off, and the edge door hears nothing there" in capsys.readouterr().out
    site.edge(False)
    site.run("apply")
    assert "no_milters takes" not in capsys.readouterr().out


def test_every_front_gets_the_edge(site: Site) -> None:
    site.sample("submission")
    site.run("apply", "--service", "smtp/inet", "--service", "submission/inet")
    assert site.milters("smtp/inet") == site.milters("submission/inet") == OURS
    assert site.milters("127.0.0.1:2525/inet") is None


def test_a_chrooted_front_reaches_no_socket_outside(site: Site) -> None:
    if not DEBIAN.exists():
        pytest.skip("no Debian master.cf here")
    site.sample("debian")
    site.toml.write_text(site.toml.read_text().replace(str(site.postfix.queue_dir), "/run"))
    with pytest.raises(ConfigError, match="is outside"):
        site.run("apply")


@pytest.mark.parametrize("folder", ["gate post", "a,b", "a{b}", "$x"])
def test_a_socket_that_a_list_of_milters_cannot_name_is_refused(site: Site, folder: str) -> None:
    site.sample("plain")
    site.toml.write_text(site.toml.read_text().replace("gatepost/milter.sock", f"{folder}/milter.sock"))
    with pytest.raises(ConfigError, match="means something else in a list of milters"):
        site.run("apply")


def test_without_the_edge_a_record_of_an_older_version_is_understood(site: Site) -> None:
    site.sample("plain", *DKIM)
    site.edge(False)
    site.run("apply", "--milters", "inner")
    record = site.postfix.config_dir / "gatepost-backup" / "record.json"
    text = record.read_text()
    record.write_text(text.replace(',\n      "edge": null', ""))
    assert record.read_text() != text
    assert site.run("diff") == 0


def test_the_documented_edge_is_what_apply_would_write(site: Site) -> None:
    """postfix/master.cf with the line for the edge put in, applied to, has nothing to change."""
    text = (ROOT / "postfix" / "master.cf").read_text()
    assert f"#   -o {LIST}={OURS}" in text
    assert OURS in (ROOT / "postfix" / "README.md").read_text()
    (site.postfix.config_dir / "master.cf").write_text(text.replace("#   -o", "    -o"))
    configuration = Configuration.read(postconf.Postconf(site.postfix.config_dir))
    socket = f"unix:{site.postfix.queue_dir}/gatepost/milter.sock"
    settings = plan.Settings("127.0.0.1:10025", "127.0.0.1:10026", socket, edge_timeout_s=20.0)
    assert plan.make(configuration, settings).differences(configuration) == ()
