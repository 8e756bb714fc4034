"""`gatepost check`: every mistake at once with its place, none told twice, nothing that only follows from another."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
from tests.ops import seeded
from tests.ops.host import HEAD, Host

EX_CONFIG = 78


@pytest.fixture
def host(tmp_path: Path) -> Host:
    # The milter socket's directory, as it should be.
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o2750)
    return Host(tmp_path)


def configure(host: Host, plugins: str, more: str = "") -> None:
    """Write a configuration without a mistake, with these `[[plugin]]` tables and keys of `[hooks]` or sections."""
    milter = f'[milter]\nsocket = "unix:{host.directory}/run/sock"\n'
    host.write("gatepost.toml", f'{milter}[hooks]\ndirectory = "hooks"\n{more}\n{plugins}')
    (host.directory / "hooks").mkdir(exist_ok=True)


def table(name: str, *keys: str) -> str:
    return "\n".join((f'[[plugin]]\nname = "{name}"', *keys, ""))


def children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


# --- mistakes


@pytest.fixture
def seeded_host(host: Host) -> Host:
    for name, text in seeded.FILES.items():
        host.write(name, text)
    return host


def test_every_seeded_mistake_is_found_in_one_run_at_its_line_and_nothing_else(seeded_host: Host) -> None:
    marks = seeded.marks()
    assert len(marks) >= 30

    before = children_cpu_s()
    status, out, (*found, summary) = seeded_host.run("check")
    spent = children_cpu_s() - before

    assert (status, out) == (EX_CONFIG, "")
    places, words = [line.partition(": ")[0] for line in found], [line.partition(": ")[2] for line in found]
    assert places == [place for place, _ in marks]
    assert [told for told, (_, wanted) in zip(words, marks, strict=True) if wanted not in told] == []
    assert len(set(found)) == len(found)
    assert summary == f"{len(marks)} errors in gatepost.toml"

    configure(seeded_host, "")
    before = children_cpu_s()
    assert seeded_host.run("check")[0] == 0
    # Most of it is Python's own start: looking at all of that costs less than once more.
    assert spent < 3 * (children_cpu_s() - before)


def test_a_start_that_fails_tells_the_same_and_starts_nothing(seeded_host: Host) -> None:
    before = sorted(seeded_host.directory.rglob("*"))

    status, out, told = seeded_host.run("run", "--log-level", "error")

    *checked, _ = seeded_host.run("check")[2]
    assert (status, out) == (EX_CONFIG, "")
    assert [line.removeprefix("gatepost: ") for line in told] == checked
    assert sorted(seeded_host.directory.rglob("*")) == before


def test_json_is_a_list_of_findings(seeded_host: Host) -> None:
    status, out, err = seeded_host.run("check", "--json")

    found = json.loads(out)
    assert (status, err) == (EX_CONFIG, [])
    places = [f"{Path(one['file']).relative_to(seeded_host.directory)}:{one['line']}" for one in found]
    assert places == [place for place, _ in seeded.marks()]
    assert {(*one, one["severity"]) for one in found} == {("severity", "file", "line", "problem", "error")}


def test_a_missing_configuration_is_all_that_is_told_of_it(host: Host) -> None:
    status, out, err = host.run("check")

    assert (status, out) == (EX_CONFIG, "")
    assert err == [
        "gatepost.toml: cannot read the configuration: No such file or directory",
        "1 error in gatepost.toml",
    ]


@pytest.mark.parametrize(
    "text",
    ["\0" * 5000, "\xff\xfe\x00garbage", "From: a mail\n\nand its text\n" * 2000, "[" * 3000, 'x = """\n' * 500],
    ids=["zeros", "bytes", "mail", "brackets", "quotes"],
)
def test_garbage_in_place_of_the_configuration_is_a_few_lines(host: Host, text: str) -> None:
    (host.directory / "gatepost.toml").write_bytes(text.encode("latin-1"))

    status, _, (*found, summary) = host.run("check")

    assert status == EX_CONFIG
    assert 1 <= len(found) <= 25
    assert summary.endswith("in gatepost.toml")
    assert all(line.startswith("gatepost.toml:") for line in found if "warning" not in line)


def test_a_file_that_is_no_list_does_not_fill_the_screen(host: Host) -> None:
    configure(host, table("aliases", 'file = "mail.log"'))
    host.write("mail.log", "Nov 23 host postfix/smtpd[1]: connect from unknown\n" * 3000)

    status, _, (*found, _) = host.run("check")
    everything = json.loads(host.run("check", "--json")[1])

    assert status == EX_CONFIG
    assert len(found) == 1001
    assert found[-1] == "mail.log: and 2000 more like these"
    assert len(everything) == 3000


def test_control_characters_in_a_file_do_not_reach_the_terminal(host: Host) -> None:
    configure(host, table("aliases", 'file = "aliases"'))
    host.write("aliases", "x@y.example: \x1b[2Jz\n")

    _, _, (found, _) = host.run("check")

    assert found.isprintable()
    assert "\\x1b" in found


def test_a_store_that_could_not_be_opened_is_a_mistake_at_its_line(host: Host) -> None:
    configure(host, table("loop"), f'[store]\nurl = "sqlite:{host.directory}/none/store.db"\n')

    status, _, (found, _) = host.run("check")

    assert status == EX_CONFIG
    assert found.startswith("gatepost.toml:6: [store] url: the directory none does not exist")


STUCK = "import threading\nclass Stuck(Plugin):\n    def rcpt(self, t, r): ...\n    def init(self): {}\n"


def test_threads_that_a_plugin_leaves_behind_do_not_keep_the_check_from_ending(host: Host) -> None:
    configure(host, table("stuck"))
    host.write("hooks/stuck.py", HEAD + STUCK.format("threading.Thread(target=threading.Event().wait).start()"))

    status, out, _ = host.run("check")

    assert status == 0
    assert out.startswith("ok: 1 plugin (stuck)")


def test_what_a_plugin_prints_does_not_get_into_the_json(host: Host) -> None:
    configure(host, table("chatty"))
    host.write("hooks/chatty.py", f"{HEAD}print('hello')\nclass Chatty(Plugin):\n    def rcpt(self, t, r): ...\n")

    status, out, err = host.run("check", "--json")

    assert (status, json.loads(out), err) == (0, [], ["hello"])


@pytest.mark.parametrize("kind", ["directory", "loop", "unreadable bytes"])
def test_a_plugin_file_that_is_no_file_is_a_mistake(host: Host, kind: str) -> None:
    configure(host, table("odd"))
    odd = host.directory / "hooks" / "odd.py"
    match kind:
        case "directory":
            odd.mkdir()
        case "loop":
            odd.symlink_to(odd)
        case _:
            odd.write_bytes(b"\0\xff\xfe")

    status, _, (found, _) = host.run("check")

    assert status == EX_CONFIG
    assert found.startswith("hooks/odd.py")


# --- warnings


def test_a_good_configuration_is_one_line_and_leaves_no_trace(host: Host) -> None:
    configure(host, table("loop") + table("greylist"), f'[store]\nurl = "sqlite:{host.directory}/gatepost.db"\n')
    before = sorted(host.directory.rglob("*"))

    status, out, err = host.run("check")

    assert (status, out, err) == (0, f"ok: 2 plugins (loop, greylist) in {host.config}\n", [])
    assert sorted(host.directory.rglob("*")) == before
    assert json.loads(host.run("check", "--json")[1]) == []


def test_warnings_do_not_change_the_exit_status(host: Host) -> None:
    (host.directory / "run").chmod(0o750)
    configure(host, table("greylist"))

    status, out, (warning,) = host.run("check")

    assert (status, out) == (0, f"ok: 1 plugin (greylist), 1 warning in {host.config}\n")
    assert warning.startswith("gatepost.toml:2: warning: run is not setgid")
    assert "install -d -o gatepost -g postfix -m 2750" in warning


def test_what_plugins_warn_of_while_they_read_their_files_is_told_with_its_place(host: Host) -> None:
    configure(
        host,
        table("client_options", 'file = "clients"') + table("aliases", 'file = "aliases"') + table("greylist"),
    )
    host.write("clients", "192.0.2.1: greylist=off\n" + "".join(f"192.0.3.{n}: loop=off\n" for n in range(5)))
    host.write("aliases", "x@y.example: (rhsbl=off)\na@b.example: c@b.example\nc@b.example: a@b.example\n")

    status, _, err = host.run("check")

    assert status == 0
    assert err == [
        "aliases:1: warning: no such plugin is loaded: the option has no effect (option rhsbl)",
        "aliases:2: warning: aliases: alias loop: mail to it is refused (lines 2, 3, 2)",
        "clients:2: warning: no such plugin is loaded: the option has no effect (option loop) (and in 4 more lines)",
    ]


def test_mistakes_hide_no_warning_that_does_not_follow_from_them(host: Host) -> None:
    configure(host, table("aliases", 'file = "aliases"') + table("idle") + "[[plugin]]\nnmae = 'greylist'\n")
    host.write("hooks/idle.py", "from gatepost import Plugin\nclass Idle(Plugin): ...\n")
    host.write("aliases", "x@y.example: (greylist=off)\na@b.example: c@b.example\nc@b.example: a@b.example\nbad\n")

    status, _, (*found, _) = host.run("check")

    assert status == EX_CONFIG
    # Whether greylist is loaded, nobody knows.
    assert found == [
        "aliases:2: warning: aliases: alias loop: mail to it is refused (lines 2, 3, 2)",
        "aliases:4: there is no colon: write LOCAL@DOMAIN: TARGET",
        "gatepost.toml:9: warning: idle takes part in no hook: take it out, or give it one",
        'gatepost.toml:11: a [[plugin]] needs a name, such as name = "greylist"',
    ]


def test_a_list_whose_elements_are_wrong_is_not_too_short(host: Host) -> None:
    configure(host, table("dnsbl", 'zones = ["one..example"]') + table("rhsbl", "zones = []"))

    _, _, (*found, _) = host.run("check")

    assert [one.split(": ")[1] for one in found] == ["dnsbl.zones.0.zone", "rhsbl.zones"]


def test_options_for_a_plugin_that_may_stand_in_lines_that_are_not_toml_are_not_warned_of(host: Host) -> None:
    configure(host, table("client_options", 'file = "clients"') + "[[plugin]\nname = 'greylist'\nlimit = 3\n")
    host.write("clients", "192.0.2.1: greylist=off\n")

    status, _, (found, _) = host.run("check")

    assert status == EX_CONFIG
    assert found.startswith("gatepost.toml:9: not TOML")
    assert found.endswith("(lines 9 to 11 were not looked at)")


@pytest.mark.parametrize("directory", ['"none"', "3", "none"], ids=["missing", "no-path", "no-toml"])
def test_with_a_wrong_directory_of_hooks_its_plugins_are_not_called_unknown(host: Host, directory: str) -> None:
    configure(host, table("own_rule") + table("client_options", 'file = "clients"'))
    host.config.write_text(host.config.read_text().replace('"hooks"', directory))
    host.write("clients", "192.0.2.1: own_rule=off\n")

    status, _, found = host.run("check")

    assert status == EX_CONFIG
    assert [line.partition(": ")[0] for line in found[:-1]] == ["gatepost.toml:4"]


@pytest.mark.parametrize("key", ["fil = 'aliases'", "file = aliases"])
def test_a_required_option_that_is_there_but_wrong_is_not_missing_as_well(host: Host, key: str) -> None:
    configure(host, table("aliases", key))

    _, _, found = host.run("check")

    assert len(found) == 2
    assert found[0].startswith("gatepost.toml:8: ")
