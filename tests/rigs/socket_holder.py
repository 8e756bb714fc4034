"""What systemd does for a socket unit: holds listening sockets, and passes them on to each daemon that starts.

`SocketHolder.command` is a gatepost command line that fetches the sockets from the holder first, by SCM_RIGHTS, and has
them where sd_listen_fds(3) says, from descriptor 3 on.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_FIRST_FD = 3
_MOST = 8


class SocketHolder:
    """Holds file descriptors that stay the caller's, at a control socket in `directory`."""

    def __init__(self, directory: Path, *held: int) -> None:
        self._held = held
        self._path = directory / "held.sock"
        self._control = socket.socket(socket.AF_UNIX)
        self._control.bind(str(self._path))
        self._control.listen()
        self._thread = threading.Thread(target=self._hand_out, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._control.shutdown(socket.SHUT_RDWR)
        self._control.close()
        self._thread.join()

    @property
    def command(self) -> Sequence[str]:
        """The command line to which gatepost's arguments are added."""
        return (sys.executable, __file__, str(self._path))

    def _hand_out(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._control.accept()
                with connection:
                    socket.send_fds(connection, [b"."], list(self._held))


def _fetch(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(path)
        _, received, _, _ = socket.recv_fds(control, 1, _MOST)
    # First out of the way: what was received may itself stand where it is to go.
    moved = [os.dup2(descriptor, 100 + n) for n, descriptor in enumerate(received)]
    for descriptor in received:
        os.close(descriptor)
    for n, descriptor in enumerate(moved):
        os.dup2(descriptor, _FIRST_FD + n)
        os.close(descriptor)
    os.environ["LISTEN_FDS"] = str(len(received))
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDNAMES"] = ":".join(["proxy", *(f"other{n}" for n in range(1, len(received)))])


if __name__ == "__main__":
    _fetch(sys.argv.pop(1))
    # Beside this file are the tests, not gatepost.
    sys.path.pop(0)
    from gatepost.ops.cli import main

    main()
