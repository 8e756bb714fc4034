"""What systemd is told: ready, reloading, stopping, a line of status, and that the event loop still turns.

sd_notify(3). Without NOTIFY_SOCKET in the environment everything here is silent.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import sdnotify
import structlog

if TYPE_CHECKING:
    from typing import Self

_STATUS_LIMIT_BYTES = 1000
"""systemd drops a message of more than 4,096 bytes (NOTIFY_BUFFER_MAX), the READY=1 in it, too."""

_SEND_TIMEOUT_S = 0.5
"""systemd always reads. Should it ever not, the mail goes on without it: a message to it that waits longer is lost."""


_log = structlog.get_logger("gatepost.service")


class Notifier:
    """The connection to systemd; made once, because it takes its variables out of the environment.

    Programs that plugins start must not speak for the daemon.
    """

    def __init__(self) -> None:
        address = os.environ.get("NOTIFY_SOCKET")
        self._systemd = sdnotify.SystemdNotifier() if address else None
        if self._systemd is not None:
            if self._systemd.socket is not None:
                self._systemd.socket.settimeout(_SEND_TIMEOUT_S)
            else:
                _log.warning("systemd cannot be told anything: NOTIFY_SOCKET does not answer", address=address)
        os.environ.pop("NOTIFY_SOCKET", None)
        self._watchdog_s = _watchdog()
        self._feeding: asyncio.Task[None] | None = None

    def ready(self, status: str) -> None:
        """Serving, from now on or again after `reloading`; `status` is what `systemctl status` shows."""
        self._send("READY=1", f"STATUS={status}")
        if self._watchdog_s is not None and self._feeding is None:
            self._feeding = asyncio.get_running_loop().create_task(self._feed(self._watchdog_s / 2))

    def reloading(self) -> None:
        """Reading the configuration again, while the old one serves; `ready` must follow, whatever comes of it."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}", "STATUS=reading the configuration again")

    def stopping(self, status: str) -> None:
        """Beginning to end. The watchdog is fed on, until `close`."""
        self._send("STOPPING=1", f"STATUS={status}")

    def status(self, status: str) -> None:
        """Show another line in `systemctl status`."""
        self._send(f"STATUS={status}")

    def close(self) -> None:
        """Say nothing more."""
        if self._feeding is not None:
            self._feeding.cancel()
            self._feeding = None
        if self._systemd is not None and self._systemd.socket is not None:
            self._systemd.socket.close()
        self._systemd = None

    def __enter__(self) -> Self:
        """Nothing is sent yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _send(self, *lines: str) -> None:
        if self._systemd is not None:
            self._systemd.notify("\n".join(map(_wire, lines)))

    async def _feed(self, interval_s: float) -> None:
        """Feed the watchdog from the event loop itself: when a plugin holds that up, systemd starts us again."""
        while True:
            self._send("WATCHDOG=1")
            await asyncio.sleep(interval_s)


def _wire(line: str) -> str:
    """Return one NAME=VALUE as it can be sent, whatever text an error has."""
    # A line break would begin another value. systemd takes UTF-8 only; the library encodes by Latin-1, and what it
    # cannot encode is not sent at all.
    text = line.replace("\n", "; ").encode("utf-8", "backslashreplace")[:_STATUS_LIMIT_BYTES]
    return text.decode("utf-8", "ignore").encode().decode("latin-1")


def _watchdog() -> float | None:
    """Return the watchdog's time in seconds, None if there is none for this process (sd_watchdog_enabled(3))."""
    microseconds, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
    if pid not in {"", str(os.getpid())} or not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    return int(microseconds) / 1e6
