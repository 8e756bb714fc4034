"""Who may write what gatepost obeys, and whether its own user may read it.

A plugin's file is code that runs as user gatepost, with everybody's mail in its hands; the configuration names such
files. Whoever can write either, or put another in its place, is the mail server's master.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gatepost.ops.check.finding import Finding

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

USER = "gatepost"
"""Whom systemd/gatepost.service runs the daemon as."""


def writable_by_others(paths: Iterable[Path]) -> Iterator[Finding]:
    """Warn of files that somebody but root and their owner may write, or replace in a directory above them."""
    told: set[Path] = set()
    for path in paths:
        real = path.resolve()
        for place in (real, *real.parents):
            if place in told:
                continue
            told.add(place)
            if who := _other_writers(place):
                remedy = f"run: chmod {'o-w' if who == 'everybody' else 'g-w'} {place}"
                what = "write it" if place == real else f"put another file in the place of {real}"
                yield Finding.warning(f"{who} may {what}: {remedy}", (place, None))


def _other_writers(path: Path) -> str | None:
    """Return who may write the file or directory, beside root and its owner; None if nobody, or it is not there."""
    try:
        facts = path.stat()
    except OSError:
        return None
    if stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_ISVTX:
        # As in /tmp: nobody may replace another's file.
        return None
    if facts.st_mode & stat.S_IWOTH:
        return "everybody"
    if facts.st_mode & stat.S_IWGRP and facts.st_gid != 0 and not _is_private_group(facts.st_gid, facts.st_uid):
        return f"group {_group_name(facts.st_gid)}"
    return None


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _is_private_group(gid: int, owner: int) -> bool:
    """Return True for the group that a user has alone, as most systems make one for each."""
    try:
        group, user = grp.getgrgid(gid), pwd.getpwuid(owner)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def unreadable(paths: Iterable[Path], user: str = USER) -> Iterator[Finding]:
    """Warn of files that the daemon's user may not read; only root can tell, and only where there is such a user."""
    for path, group in _denied(paths, os.R_OK, user):
        remedy = f"run: chgrp {group} {path} && chmod g+r {path}, and let the group enter its directories"
        yield Finding.warning(f"user {user}, as whom the daemon runs, may not read it: {remedy}", (path, None))


def unwritable(directories: Iterable[Path], user: str = USER) -> Iterator[Finding]:
    """Warn of directories in which the daemon's user may make no files."""
    for path, _ in _denied(directories, os.W_OK | os.X_OK, user):
        remedy = f"run: chown {user} {path}"
        yield Finding.warning(f"user {user}, as whom the daemon runs, may not write in it: {remedy}", (path, None))


def _denied(paths: Iterable[Path], mode: int, user: str) -> Iterator[tuple[Path, str]]:
    """Yield each path that is there and that the user may not use so, with the name of the user's group."""
    if os.geteuid() != 0:
        return
    try:
        account = pwd.getpwnam(user)
        with _acting_as(account):
            denied = [path for path in dict.fromkeys(paths) if not os.access(path, mode, effective_ids=True)]
    except (KeyError, PermissionError):
        # No such user; or we are root only in name, as in a container.
        return
    group = _group_name(account.pw_gid)
    yield from ((path, group) for path in denied if path.exists())


@contextmanager
def _acting_as(account: pwd.struct_passwd) -> Iterator[None]:
    """Have the kernel judge as it would for this user: no reading of mode bits knows of access lists."""
    groups, group = os.getgroups(), os.getegid()
    try:
        os.setgroups(os.getgrouplist(account.pw_name, account.pw_gid))
        os.setegid(account.pw_gid)
        os.seteuid(account.pw_uid)
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)
