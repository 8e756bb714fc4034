"""Who may write what gatepost obeys, and what its own user may not read."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gatepost.ops.check import permission

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.ops.check.finding import Finding

NOBODY = pwd.getpwnam("nobody")
A_GROUP = grp.getgrnam("daemon").gr_gid

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Return a directory that anybody may enter, which pytest's own are not."""
    directory = Path(tempfile.mkdtemp(prefix="gatepost-"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """Return a file in a directory of its own; both are root's alone to write."""
    directory = tmp_path / "hooks"
    directory.mkdir(mode=0o755)
    file = directory / "own.py"
    file.write_text("")
    file.chmod(0o644)
    return file


def below(tmp_path: Path, findings: list[Finding]) -> list[str]:
    """Return the findings about what is below the test's directory, without its name."""
    prefix = f"{tmp_path}/"
    return [str(one).replace(prefix, "") for one in findings if str(one.file).startswith(prefix)]


def writers(tmp_path: Path, file: Path) -> list[str]:
    return below(tmp_path, list(permission.writable_by_others([file, file])))


def test_a_file_of_roots_alone_is_no_finding(tmp_path: Path, plugin: Path) -> None:
    assert writers(tmp_path, plugin) == []


def test_a_file_that_everybody_may_write_is_told_once(tmp_path: Path, plugin: Path) -> None:
    plugin.chmod(0o646)

    assert writers(tmp_path, plugin) == ["hooks/own.py: warning: everybody may write it: run: chmod o-w hooks/own.py"]


def test_a_file_that_a_group_may_write_is_told(tmp_path: Path, plugin: Path) -> None:
    plugin.chmod(0o664)
    os.chown(plugin, 0, A_GROUP)

    assert writers(tmp_path, plugin) == [
        "hooks/own.py: warning: group daemon may write it: run: chmod g-w hooks/own.py"
    ]


@pytest.mark.parametrize(("owner", "group"), [(0, 0), (1, 1)], ids=["root", "daemon"])
def test_the_group_that_an_owner_has_alone_is_the_owner(tmp_path: Path, plugin: Path, owner: int, group: int) -> None:
    plugin.chmod(0o664)
    os.chown(plugin, owner, group)

    assert writers(tmp_path, plugin) == []


def test_a_directory_in_which_others_may_put_another_file_is_told(tmp_path: Path, plugin: Path) -> None:
    plugin.parent.chmod(0o777)

    assert writers(tmp_path, plugin) == [
        "hooks: warning: everybody may put another file in the place of hooks/own.py: run: chmod o-w hooks"
    ]


def test_a_directory_where_nobody_may_replace_anothers_file_is_none(tmp_path: Path, plugin: Path) -> None:
    plugin.parent.chmod(0o1777)

    assert writers(tmp_path, plugin) == []


def test_the_file_behind_a_link_is_what_counts(tmp_path: Path, plugin: Path) -> None:
    link = tmp_path / "link.py"
    link.symlink_to(plugin)
    plugin.chmod(0o646)

    assert [line.partition(":")[0] for line in writers(tmp_path, link)] == ["hooks/own.py"]


def test_a_file_that_the_daemons_user_may_not_read_is_told(tmp_path: Path, plugin: Path) -> None:
    plugin.chmod(0o600)

    (told,) = below(tmp_path, list(permission.unreadable([plugin, plugin], "nobody")))

    assert told.startswith("hooks/own.py: warning: user nobody, as whom the daemon runs, may not read it: run: chgrp")
    assert (os.geteuid(), os.getegid()) == (0, os.getgid())


def test_a_directory_that_the_daemons_user_may_not_enter_hides_what_is_in_it(tmp_path: Path, plugin: Path) -> None:
    plugin.parent.chmod(0o700)

    assert len(list(permission.unreadable([plugin], "nobody"))) == 1


@pytest.mark.parametrize("group", [0, NOBODY.pw_gid], ids=["others", "group"])
def test_a_file_that_it_may_read_is_no_finding(tmp_path: Path, plugin: Path, group: int) -> None:
    plugin.chmod(0o640 if group else 0o644)
    os.chown(plugin, 0, group)

    assert list(permission.unreadable([plugin], "nobody")) == []


def test_a_directory_in_which_the_daemons_user_may_make_no_files_is_told(tmp_path: Path, plugin: Path) -> None:
    (told,) = below(tmp_path, list(permission.unwritable([plugin.parent], "nobody")))
    os.chown(plugin.parent, NOBODY.pw_uid, -1)

    assert told == "hooks: warning: user nobody, as whom the daemon runs, may not write in it: run: chown nobody hooks"
    assert list(permission.unwritable([plugin.parent], "nobody")) == []


def test_nothing_is_told_of_a_missing_file_or_a_missing_user(tmp_path: Path, plugin: Path) -> None:
    plugin.chmod(0o600)

    assert list(permission.unreadable([tmp_path / "none"], "nobody")) == []
    assert list(permission.unreadable([plugin], "no-such-user")) == []
