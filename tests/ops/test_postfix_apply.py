"""`gatepost postfix show|diff|apply|revert` on private Postfix configurations, through the command line."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gatepost.errors import ConfigError
from gatepost.ops.postfix import commands, entry
from gatepost.ops.private_postfix import PrivatePostfix, free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIGS = Path(__file__).parent / "postfix_configs"
DEBIAN = Path("/usr/share/postfix/master.cf.dist")

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="postfix check is for root")


@dataclass(frozen=True, slots=True)
class Site:
    """A private Postfix, not running, and a configuration of gatepost's."""

    postfix: PrivatePostfix
    toml: Path
    inner: str

    @property
    def etc(self) -> Path:
        return self.postfix.config_dir

    def sample(self, name: str, *main: str) -> None:
        """Take another master.cf, and add lines to main.cf."""
        source = DEBIAN if name == "debian" else CONFIGS / f"{name}.master.cf"
        shutil.copyfile(source, self.etc / "master.cf")
        for line in main:
            self.add_to_main(line)

    def add_to_main(self, line: str) -> None:
        """Add a line to main.cf."""
        with (self.etc / "main.cf").open("a") as file:
            file.write(f"{line}\n")
        # Postfix waits for two seconds before it reads a main.cf that is younger (util/dict.c, dict_load_file_xt).
        os.utime(self.etc / "main.cf", (0, 0))

    def run(self, command: str, *arguments: str) -> int:
        """`gatepost postfix COMMAND`; its exit status, ConfigError where the program would end with one."""
        config = () if command == "revert" else ("--config", str(self.toml))
        line = [command, "--config-dir", str(self.etc), *config, *arguments]
        status = commands.app(line, exit_on_error=False, result_action="return_value")
        assert isinstance(status, int)
        return status

    def files(self) -> dict[str, bytes]:
        """Every file below the configuration directory, the backup included."""
        return {str(path): path.read_bytes() for path in self.etc.rglob("*") if path.is_file()}

    def options(self, service: str) -> dict[str, str]:
        """The `-o` settings of a service as Postfix reads them."""
        lines = self.postfix.postconf("-P", f"{service}/*").splitlines()
        pairs = (line.removeprefix(f"{service}/").split(" =", 1) for line in lines)
        return {name: value.removeprefix(" ") for name, value in pairs}


@pytest.fixture
def site() -> Iterator[Site]:
    # Not tmp_path: user postfix must be able to enter every directory above.
    with tempfile.TemporaryDirectory(prefix="gatepost-apply-") as directory:
        Path(directory).chmod(0o755)
        postfix = PrivatePostfix(Path(directory) / "postfix")
        os.utime(postfix.config_dir / "main.cf", (0, 0))
        listen, inner = f"127.0.0.1:{free_loopback_port()}", f"127.0.0.1:{free_loopback_port()}"
        toml = Path(directory) / "gatepost.toml"
        socket_path = postfix.queue_dir / "gatepost" / "milter.sock"
        toml.write_text(f'[proxy]\nlisten = "{listen}"\ninner = "{inner}"\n[milter]\nsocket = "unix:{socket_path}"\n')
        yield Site(postfix, toml, f"{inner}/inet")


@pytest.mark.parametrize("sample", ["debian", "plain", "postscreen", "submission"])
def test_apply_is_idempotent_and_revert_restores_every_byte(
    site: Site, sample: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if sample == "debian" and not DEBIAN.exists():
        pytest.skip("no Debian master.cf here")
    site.sample(sample)
    before = site.files()
    front = "smtpd/pass" if sample == "postscreen" else "smtp/inet"

    assert site.run("apply") == 0
    said = capsys.readouterr().out
    assert f"{front}: -o smtpd_proxy_filter=127.0.0.1:" in said
    assert "postfix check: passed" in said
    assert f"next: start gatepost (gatepost run, or its systemd unit), then: postfix -c {site.etc} reload" in said
    assert site.options(front)["smtpd_forbid_bare_newline"] == "normalize"
    assert site.options(site.inner)["smtpd_milters"] == "unix:gatepost/milter.sock"
    columns = site.postfix.postconf("-M", site.inner).split()[2:8]
    assert columns == ["n", "-", "n" if sample in {"plain", "submission"} else "y", "-", "0", "smtpd"]
    assert (site.etc / "main.cf").read_bytes() == before[str(site.etc / "main.cf")]

    applied = site.files()
    assert site.run("apply") == 0
    assert "nothing to change" in capsys.readouterr().out
    assert site.files() == applied
    assert site.run("diff") == 0
    assert capsys.readouterr().out == ""

    assert site.run("revert") == 0
    assert f"{site.etc / 'master.cf'}: restored" in capsys.readouterr().out
    assert site.files() == before
    assert site.run("revert") == 0
    assert "nothing to revert" in capsys.readouterr().out


def test_revert_restores_mode_owner_and_symbolic_links(site: Site) -> None:
    site.sample("plain")
    real = site.etc.parent / "master.cf.elsewhere"
    (site.etc / "master.cf").rename(real)
    (site.etc / "master.cf").symlink_to(real)
    real.chmod(0o640)
    os.chown(real, 0, 12)
    text = real.read_bytes()

    def permissions() -> tuple[int, int, bool]:
        status = real.stat()
        return status.st_mode & 0o7777, status.st_gid, (site.etc / "master.cf").is_symlink()

    site.run("apply")
    assert real.read_bytes() != text
    assert permissions() == (0o640, 12, True)
    real.chmod(0o600)
    site.run("revert")
    assert real.read_bytes() == text
    assert permissions() == (0o640, 12, True)


def test_the_backup_is_for_root_alone(site: Site) -> None:
    site.sample("plain")
    site.run("apply")
    backup = site.etc / "gatepost-backup"
    modes = {path.name: path.stat().st_mode & 0o777 for path in (backup, *backup.iterdir())}
    assert modes == {"gatepost-backup": 0o700, "main.cf": 0o600, "master.cf": 0o600, "record.json": 0o600}


def test_apply_repairs_every_setting_of_its_own_and_touches_no_other(site: Site) -> None:
    site.sample("plain")
    site.run("apply")
    front, inner = site.options("smtp/inet"), site.options(site.inner)
    assert set(inner) == {name for name, _ in entry.INNER}
    for service, options in (("smtp/inet", front), (site.inner, inner)):
        # The inner loses its mark with this (entry.is_ours): that it is ours is known by the record as well.
        site.postfix.postconf_service(service, dict.fromkeys(options, "wrong"))
        site.postfix.postconf_service(service, {"syslog_name": "postfix/mine"})
    site.postfix.postconf_service(site.inner, {"content_filter": ""})
    site.postfix.postconf("-F", f"{site.inner}/chroot=y", f"{site.inner}/process_limit=7")
    site.postfix.postconf("-PX", f"{site.inner}/milter_default_action")

    site.run("apply")
    assert site.options("smtp/inet") == {**front, "syslog_name": "postfix/mine"}
    assert site.options(site.inner) == {**inner, "syslog_name": "postfix/mine"}
    assert site.postfix.postconf("-M", site.inner).split()[4:7] == ["n", "-", "0"]


def test_a_deleted_inner_service_comes_back_and_that_is_no_edit(site: Site) -> None:
    site.sample("plain")
    before = site.files()
    site.run("apply")
    applied = (site.etc / "master.cf").read_bytes()
    site.postfix.postconf("-MX", site.inner)
    site.run("apply")
    assert (site.etc / "master.cf").read_bytes() == applied
    site.run("revert")
    assert site.files() == before


def test_services_applied_earlier_stay_applied(site: Site) -> None:
    site.sample("submission")
    before = site.options("submission/inet")
    site.run("apply")
    site.run("apply", "--service", "submission/inet", "--service", "127.0.0.1:2525/inet")
    proxy = site.options("smtp/inet")["smtpd_proxy_filter"]
    for service in ("submission/inet", "127.0.0.1:2525/inet"):
        assert site.options(service)["smtpd_proxy_filter"] == proxy
    assert site.options("submission/inet").items() >= before.items()
    text = (site.etc / "master.cf").read_text()
    assert "smtpd -v" in text
    assert "# what a user may send" in text

    site.postfix.postconf("-PX", "submission/inet/smtpd_proxy_filter")
    assert site.run("diff") == 1
    site.run("apply")
    assert site.options("submission/inet")["smtpd_proxy_filter"] == proxy


def test_an_older_inner_service_goes_when_proxy_inner_changes(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.sample("plain")
    site.run("apply")
    other = f"127.0.0.1:{free_loopback_port()}"
    site.toml.write_text(site.toml.read_text().replace(site.inner.removesuffix("/inet"), other))
    site.run("apply")
    assert f"{site.inner}: removed" in capsys.readouterr().out
    assert not site.options(site.inner)
    assert site.options(f"{other}/inet")["smtpd_proxy_filter"] == ""


MILTERS = "smtpd_milters = { inet:localhost:8891, default_action=accept }, unix:/run/x"


def test_milters_with_blanks_move_to_the_inner_service_and_are_repaired_there(site: Site) -> None:
    site.sample("plain", MILTERS)
    site.run("apply", "--milters", "inner")
    moved = "unix:gatepost/milter.sock,{ inet:localhost:8891, default_action=accept },unix:/run/x"
    assert site.options(site.inner)["smtpd_milters"] == moved
    assert site.options("smtp/inet")["smtpd_milters"] == ""
    assert site.run("diff") == 0

    site.postfix.postconf_service(site.inner, {"smtpd_milters": "unix:/elsewhere"})
    site.run("apply")
    assert site.options(site.inner)["smtpd_milters"] == moved


def test_milters_can_come_back_to_the_front(site: Site) -> None:
    site.sample("plain")
    site.postfix.postconf_service("smtp/inet", {"smtpd_milters": "inet:localhost:8891"})
    for choice, front, inner in (
        ("inner", "", "unix:gatepost/milter.sock,inet:localhost:8891"),
        ("keep-front", "inet:localhost:8891", "unix:gatepost/milter.sock"),
    ):
        site.run("apply", "--milters", choice)
        assert site.options("smtp/inet")["smtpd_milters"] == front
        assert site.options(site.inner)["smtpd_milters"] == inner
        assert site.run("diff") == 0, "the decision is remembered"


@pytest.mark.parametrize(
    ("sample", "main", "arguments", "reason"),
    [
        ("plain", [MILTERS], [], "has milters of its own"),
        ("plain", ["smtpd_proxy_options = speed_adjust"], [], "speed_adjust"),
        ("plain", [], ["--service", "cleanup/unix"], "runs cleanup, not smtpd"),
        ("amavis", [], ["--service", "smtp/inet", "--service", "submission/inet"], "differ in content_filter"),
    ],
)
def test_a_refusal_is_one_line_and_changes_nothing(
    site: Site, sample: str, main: list[str], arguments: list[str], reason: str
) -> None:
    site.sample(sample, *main)
    before = site.files()
    with pytest.raises(ConfigError, match=reason) as refused:
        site.run("apply", *arguments)
    assert "\n" not in str(refused.value)
    assert site.files() == before


def test_when_postfix_check_fails_everything_is_as_before(site: Site) -> None:
    site.sample("plain")
    site.postfix.postconf("-MX", "postlog/unix-dgram")
    before = site.files()
    with pytest.raises(ConfigError, match=r"missing 'postlog' service.*it failed before gatepost's change as well"):
        site.run("apply")
    assert site.files() == before
    assert not (site.etc / "gatepost-backup").exists()


def test_revert_refuses_when_a_file_was_edited_by_hand(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.sample("plain")
    before = site.files()
    site.run("apply")
    site.add_to_main("relay_domains = example.org")
    edited = (site.etc / "main.cf").read_bytes()
    applied = site.files()
    with pytest.raises(ConfigError, match=r"main\.cf changed after gatepost's apply.*--force"):
        site.run("revert")
    assert site.files() == applied

    assert site.run("revert", "--force") == 0
    aside = site.etc / "main.cf.before-revert"
    assert f"{aside}: what was in main.cf until now" in capsys.readouterr().out
    assert aside.read_bytes() == edited
    aside.unlink()
    assert site.files() == before


def test_an_edit_by_hand_is_not_forgotten_when_apply_runs_again(site: Site) -> None:
    site.sample("plain")
    site.run("apply")
    site.postfix.postconf("-F", "smtp/inet/process_limit=77")
    site.postfix.postconf("-PX", f"{site.inner}/mynetworks")
    site.run("apply")
    with pytest.raises(ConfigError, match=r"master\.cf changed after gatepost's apply"):
        site.run("revert")


def test_an_edit_by_hand_that_was_undone_does_not_stop_revert(site: Site) -> None:
    site.sample("submission")
    before = site.files()
    original = (site.etc / "main.cf").read_bytes()
    site.run("apply")
    site.add_to_main("relay_domains = example.org")
    site.run("apply", "--service", "submission/inet")
    (site.etc / "main.cf").write_bytes(original)
    assert site.run("revert") == 0
    assert site.files() == before


def test_diff_shows_the_change_and_makes_none(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.sample("plain")
    before = site.files()
    assert site.run("diff") == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"--- {site.etc / 'master.cf'}"
    assert "+    -o milter_default_action=tempfail" in lines
    assert "\x1b" not in "".join(lines), "colours are for terminals"
    assert site.files() == before


def test_show_tells_what_is_there_and_what_should_be(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.sample("submission")
    for state, inner in (("differs", "missing"), ("applied", "applied")):
        assert site.run("show", "--json") == 0
        data = json.loads(capsys.readouterr().out)
        services = {service["service"]: service for service in data["services"]}
        assert services["smtp/inet"]["state"] == state
        assert services["submission/inet"]["role"] == "other"
        assert services[site.inner]["state"] == inner
        assert services[site.inner]["wanted"]["milter_default_action"] == "tempfail"
        assert bool(data["changes"]) is (state == "differs")
        assert "    -o milter_default_action=tempfail\n" in data["entries"]
        assert site.run("show") == 0
        text = capsys.readouterr().out
        assert "    -o milter_default_action=tempfail\n" in text
        assert ("all is as it should be" in text) is (state == "applied")
        site.run("apply")
        capsys.readouterr()


def test_show_says_why_apply_would_refuse(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    site.sample("plain", MILTERS)
    assert site.run("show") == 0
    assert "apply would refuse: " in (text := capsys.readouterr().out)
    assert "inet:localhost:8891" in text


def test_a_directory_that_is_no_configuration_is_named(site: Site) -> None:
    (site.etc / "master.cf").unlink()
    with pytest.raises(ConfigError, match=r"etc/master\.cf: No such file"):
        site.run("apply")
    shutil.rmtree(site.etc)
    with pytest.raises(ConfigError, match=r"etc: no such directory"):
        site.run("apply")


def test_apply_is_for_root_and_diff_for_everybody(site: Site) -> None:
    site.sample("plain")
    before = site.files()
    assert _as_nobody(site, "diff") == "1"
    assert "run it as root" in _as_nobody(site, "apply")
    assert site.files() == before


def test_reload_without_a_running_postfix_says_that_the_files_are_in_place(site: Site) -> None:
    site.sample("plain")
    with pytest.raises(ConfigError, match=r"files are in place, but postfix reload failed: .*not running"):
        site.run("apply", "--reload")
    assert site.options(site.inner)


def _as_nobody(site: Site, command: str) -> str:
    """Run a command in a child without any privilege: its status, or its error."""
    reading, writing = os.pipe()
    answer = "the child ended without an answer"
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            answer = str(site.run(command))
        except ConfigError as error:
            answer = str(error)
        finally:
            os.write(writing, answer.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer
