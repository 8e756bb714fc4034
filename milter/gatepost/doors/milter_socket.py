"""The milter socket's place on disk: its directory, stale sockets, and why it cannot be made.

Postfix's smtpd connects as user postfix, so the socket must belong to group postfix. It gets that group from its setgid
directory (systemd/gatepost.tmpfiles.conf), because gatepost itself is not a member of it.
"""

from __future__ import annotations

import errno
import grp
import os
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gatepost.endpoint import Endpoint


class SocketError(Exception):
    """A socket cannot be made; the text says why and what to do."""


def directory_problem(endpoint: Endpoint) -> str | None:
    """Return what is wrong with the directory of a UNIX milter socket, with the remedy; None if nothing is."""
    if endpoint.path is None:
        return None
    directory = Path(endpoint.path).parent
    remedy = f"run: install -d -o gatepost -g postfix -m 2750 {directory}"
    try:
        mode = directory.stat().st_mode
    except OSError as error:
        return f"the milter socket's directory {directory} cannot be used ({error.strerror}); {remedy}"
    if not stat.S_ISDIR(mode):
        return f"{directory}, where the milter socket is to be, is no directory; remove it, then {remedy}"
    if not mode & stat.S_ISGID:
        return f"{directory} is not setgid, so Postfix may not connect to the milter socket in it; {remedy}"
    return None


def prepare_path(path: Path) -> None:
    """Remove a stale socket, and see to the directory; SocketError if either cannot be done.

    The directory is setgid and belongs to group postfix, so that the socket does too and Postfix's smtpd may connect.
    """
    directory = path.parent
    if not directory.is_dir():
        command = f"install -d -o {os.geteuid()} -g postfix -m 2750 {directory}"
        try:
            directory.mkdir(mode=0o750)
            os.chown(directory, -1, grp.getgrnam("postfix").gr_gid)
            directory.chmod(0o2750)
        except (OSError, KeyError) as error:
            raise SocketError(f"the directory {directory} of the milter socket is not there: run {command}") from error
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise SocketError(f"{path} is there and is no socket: remove it, or correct [milter] socket")
    except FileNotFoundError:
        return
    except OSError as error:
        raise SocketError(f"cannot look at {path}: {error.strerror}") from error
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise SocketError(f"cannot tell whether {path} is in use: {error.strerror}") from error
        else:
            raise SocketError(f"{path} is in use: another gatepost runs with this [milter] socket")


def give_to_postfix(path: Path) -> None:
    """Give a socket group postfix where its directory has not done so, if we may: root may, in any directory."""
    with suppress(KeyError, OSError):
        group = grp.getgrnam("postfix").gr_gid
        if path.stat().st_gid != group:
            os.chown(path, -1, group)


def why_not(endpoint: Endpoint) -> str:
    """Return why the address cannot be bound, in a few words with what to do about it: libmilter does not tell."""
    number = _try_to_bind(endpoint)
    if number == errno.EACCES and endpoint.path is not None:
        remedy = f"install -d -o {os.geteuid()} -g postfix -m 2750 {Path(endpoint.path).parent}"
        return f"user id {os.geteuid()} may make no socket there: run {remedy}"
    return os.strerror(number)


def _try_to_bind(endpoint: Endpoint) -> int:
    """Return the error number; EADDRINUSE if trying works."""
    family = socket.AF_UNIX if endpoint.path else socket.AF_INET6 if ":" in (endpoint.host or "") else socket.AF_INET
    with socket.socket(family) as probe:
        try:
            probe.bind(endpoint.path or (endpoint.host, endpoint.port))
        except OSError as error:
            return error.errno or errno.EADDRINUSE
    if endpoint.path:
        Path(endpoint.path).unlink(missing_ok=True)
    return errno.EADDRINUSE


def knock(endpoint: Endpoint) -> None:
    """Connect once, which is what lets libmilter notice that it is to stop."""
    family = socket.AF_UNIX if endpoint.path else socket.AF_INET6 if ":" in (endpoint.host or "") else socket.AF_INET
    with socket.socket(family) as knock:
        knock.settimeout(2)
        knock.connect(endpoint.path or (endpoint.host, endpoint.port))
