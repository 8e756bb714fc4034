"""UNIX-domain sockets on disk: where smtpd can see them, and with owner, group and mode by which it may connect.

smtpd runs as $mail_owner with that user's groups, and stands in the queue directory, chrooted or not: what lies above
that directory is no matter to it.
"""

from __future__ import annotations

import grp
import os
import pwd
import shlex
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gatepost.ops.postfix.doctor.finding import GATEPOST, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gatepost.ops.postfix.doctor.examination import Examination
    from gatepost.ops.postfix.doctor.smtpd import Smtpd

_ACL = "system.posix_acl_access"
"""With an access control list on it, mode bits do not tell who may pass: `live` then shows what works."""


@dataclass(frozen=True, slots=True)
class User:
    """Whom smtpd runs as."""

    name: str
    uid: int
    groups: frozenset[int]
    group: str

    @classmethod
    def named(cls, name: str) -> User | None:
        """Look the user up; None if there is none."""
        try:
            entry = pwd.getpwnam(name)
            group = grp.getgrgid(entry.pw_gid).gr_name
        except KeyError:
            return None
        return cls(name, entry.pw_uid, frozenset(os.getgrouplist(name, entry.pw_gid)), group)

    def may(self, status: os.stat_result, bit: int) -> bool:
        """Whether the user has this right (1 enter, 2 write) by owner, group and mode."""
        if status.st_uid == self.uid:
            return bool(status.st_mode & bit << 6)
        if status.st_gid in self.groups:
            return bool(status.st_mode & bit << 3)
        return bool(status.st_mode & bit)


def find(facts: Examination) -> Iterator[Finding]:
    """Look at milter.socket, and at proxy.listen if that is a UNIX-domain socket."""
    user = User.named(facts.main.get("mail_owner", "postfix"))
    doors = (facts.inner, *(facts.fronts if facts.config.milter.edge else ()))
    clients = {"proxy.listen": facts.fronts, "milter.socket": tuple(one for one in doors if one is not None)}
    for key, address in (("proxy.listen", facts.config.proxy.listen), ("milter.socket", facts.config.milter.socket)):
        if not address.startswith("unix:"):
            continue
        path = Path(address.removeprefix("unix:"))
        if prisoner := next((one for one in clients[key] if _outside(facts, one, path)), None):
            yield _unreachable(facts, key, path, prisoner)
        elif user is not None:
            yield from _rights(facts, key, path, user)


def _outside(facts: Examination, smtpd: Smtpd, path: Path) -> bool:
    return facts.configuration.chrooted(smtpd.service) and _within(facts, path) is None


def _within(facts: Examination, path: Path) -> Path | None:
    """The path relative to the queue directory, None if it is not below it."""
    for candidate, queue in ((path, facts.queue_directory), (path.resolve(), facts.queue_directory.resolve())):
        if candidate.is_relative_to(queue):
            return candidate.relative_to(queue)
    return None


def _unreachable(facts: Examination, key: str, path: Path, smtpd: Smtpd) -> Finding:
    place = facts.queue_directory / "gatepost" / path.name
    steps = (facts.remedies.set_key(key, f'"unix:{place}"'), _make_directory(place.parent), facts.remedies.apply())
    return Finding(
        smtpd.key,
        key,
        f"{key} = unix:{path} is outside {facts.queue_directory}, which a chrooted smtpd cannot leave ({smtpd.key} has "
        f"{smtpd.service.fields['chroot']} in its chroot column)",
        "put the socket below the queue directory, and restart gatepost",
        " && ".join(steps),
    )


def _rights(facts: Examination, key: str, path: Path, user: User) -> Iterator[Finding]:
    directory = path.parent
    problem: str | None
    try:
        status = directory.stat()
    except PermissionError:
        problem = f"{directory}, where {key} is, cannot be looked at by this user"
        yield Finding(GATEPOST, key, problem, "run the doctor as root", "sudo gatepost postfix doctor", "note")
        return
    except OSError as error:
        reason = f"{directory}, where {key} is to be, cannot be used: {error.strerror}"
        yield Finding(GATEPOST, key, reason, "make it; the socket gets its group from it", _make_directory(directory))
        return
    if problem := _directory_problem(path, status, user):
        remedy = "give it to gatepost and Postfix's group, setgid, closed to others; then restart gatepost"
        yield Finding(GATEPOST, key, problem, remedy, _mend_directory(directory, status, user))
    elif obstacle := _obstacle(facts, directory, user):
        problem = f"user {user.name}, as whom smtpd runs, cannot enter {obstacle} on its way to {key} = unix:{path}"
        yield Finding(GATEPOST, key, problem, "let it pass", f"chmod o+x {shlex.quote(str(obstacle))}")
    try:
        status = path.lstat()
    except OSError:
        return  # `live` says whether gatepost runs.
    if problem := _socket_problem(path, status, user):
        quoted = shlex.quote(str(path))
        remedy = "give it Postfix's group; a restart of gatepost makes it anew with the group of its directory"
        yield Finding(GATEPOST, key, problem, remedy, f"chgrp {user.group} {quoted} && chmod 660 {quoted}")


def _directory_problem(path: Path, status: os.stat_result, user: User) -> str | None:
    directory, mode = path.parent, stat.S_IMODE(status.st_mode)
    shown = f"{directory} ({_owner(status)}, mode {mode:04o})"
    if not stat.S_ISDIR(status.st_mode):
        return f"{directory} is no directory, and a socket is to be in it"
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return f"{shown} may be written by everybody, who could put a socket of his own in the place of gatepost's"
    if status.st_gid not in user.groups or not mode & stat.S_ISGID:
        return f"{shown} is not setgid with group {user.group}: a socket made in it does not get that group"
    if not user.may(status, 1) and not _has_acl(directory):
        return f"{shown} cannot be entered by user {user.name}, as whom smtpd runs"
    maker = _gatepost_uid()
    if maker in {None, status.st_uid} or _owned_by_root(path):
        return None
    return f"{shown} does not belong to user gatepost, which makes the socket"


def _owned_by_root(path: Path) -> bool:
    """Whether the socket was made by root, which may do so in anybody's directory."""
    try:
        return path.lstat().st_uid == 0
    except OSError:
        return False


def _socket_problem(path: Path, status: os.stat_result, user: User) -> str | None:
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISSOCK(status.st_mode):
        return f"{path} is there and is no socket"
    shown = f"{path} ({_owner(status)}, mode {mode:04o})"
    if not user.may(status, 2) and not _has_acl(path):
        return f"{shown} cannot be used by user {user.name}, as whom smtpd runs"
    if mode & stat.S_IWOTH:
        return f"{shown} may be used by everybody on this host, who could speak to gatepost in Postfix's name"
    return None


def _obstacle(facts: Examination, directory: Path, user: User) -> Path | None:
    """The outermost directory on smtpd's way that it cannot enter."""
    resolved, queue = directory.resolve(), facts.queue_directory.resolve()
    steps = [*reversed(resolved.parents), resolved]
    if resolved.is_relative_to(queue):
        steps = [step for step in steps if step.is_relative_to(queue) and step != queue]
    return next((step for step in steps if not user.may(step.stat(), 1) and not _has_acl(step)), None)


def _has_acl(path: Path) -> bool:
    try:
        return _ACL in os.listxattr(path)
    except OSError:
        return False


def _gatepost_uid() -> int | None:
    try:
        return pwd.getpwnam("gatepost").pw_uid
    except KeyError:
        return None


def _owner(status: os.stat_result) -> str:
    try:
        user = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        user = str(status.st_uid)
    try:
        return f"{user}:{grp.getgrgid(status.st_gid).gr_name}"
    except KeyError:
        return f"{user}:{status.st_gid}"


def _make_directory(directory: Path) -> str:
    owner = "root" if _gatepost_uid() is None else "gatepost"
    return f"install -d -o {owner} -g postfix -m 2750 {shlex.quote(str(directory))}"


def _mend_directory(directory: Path, status: os.stat_result, user: User) -> str:
    quoted = shlex.quote(str(directory))
    owner = "gatepost" if _gatepost_uid() is not None else str(status.st_uid)
    return f"chown {owner}:{user.group} {quoted} && chmod 2750 {quoted}"
