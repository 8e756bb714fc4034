"""A private Postfix with gatepost in front of its queue: what the end-to-end tests of the daemon send mail through."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Final

from tests.e2e.postfix_rig import SmtpClient, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gatepost.ops.private_daemon import PrivateDaemon
    from gatepost.ops.private_postfix import PrivatePostfix, QueueEntry

PREAMBLE: Final = """\
from __future__ import annotations

import asyncio
import sys
import time

from gatepost import *
from gatepost import Deny, DenyDisconnect, DenySoft, DenySoftDisconnect, Ok, Plugin, PluginOptions


"""
"""Stands before every plugin that a test writes."""

MESSAGE: Final = b"Subject: a test\r\n\r\nSome text.\r\n.\r\n"


class Gate:
    """The public smtpd is at `postfix.front_port`; at `plain_port` is one that does not know gatepost.

    Plugins and settings change by `use`, without a restart.
    """

    def __init__(self, postfix: PrivatePostfix, daemon: PrivateDaemon, plain_port: int) -> None:
        self.postfix = postfix
        self.daemon = daemon
        self.plain_port = plain_port
        self.inner_service = f"127.0.0.1:{daemon.inner_port}/inet"

    def use(
        self,
        plugins: str = "",
        *,
        files: Mapping[str, str] | None = None,
        hooks: Mapping[str, str] | None = None,
        restart: bool = False,
        **sections: Mapping[str, str | int],
    ) -> None:
        """Run with these `[[plugin]]` tables, files beside the configuration, and plugins by name.

        Without `plugins`, each of `hooks` gets a table without options. Reloads, or restarts: what `proxy.listen` and
        its like need. front_timeout is 20 s, the least there is, if `sections` do not say otherwise.
        """
        for old in self.daemon.hooks_dir.glob("*.py"):
            old.unlink()
        for name, source in (hooks or {}).items():
            (self.daemon.hooks_dir / f"{name}.py").write_text(PREAMBLE + dedent(source))
        for name, text in (files or {}).items():
            (self.daemon.directory / name).write_text(dedent(text))
        tables = plugins or "".join(f'[[plugin]]\nname = "{name}"\n' for name in hooks or {})
        more = {**sections, "proxy": {"front_timeout": "20s", **sections.get("proxy", {})}}
        self.daemon.configure(dedent(tables), more)
        if restart:
            self.daemon.stop()
        if self.is_running:
            self.daemon.reload()
        else:
            self.daemon.start()

    @property
    def is_running(self) -> bool:
        """True while the daemon's process lives."""
        return self.daemon.is_running

    def client(self, *, timeout_s: float = 30.0) -> SmtpClient:
        """Connect to the public smtpd and greet it."""
        return SmtpClient(self.postfix.front_port, timeout_s=timeout_s)

    def proxy_client(self) -> SmtpClient:
        """Connect to gatepost itself, as the front does."""
        return SmtpClient(self.daemon.proxy_port, timeout_s=30.0)

    def send(self, content: bytes = MESSAGE, *recipients: bytes) -> bytes:
        """Send one message in a session of its own; return the reply that ended it."""
        with self.client() as client:
            replies = client.transaction(*(recipients or (b"rcpt@example.org",)))
            return client.content(content) if any(reply.startswith(b"250") for reply in replies) else replies[-1]

    def queue(self) -> list[QueueEntry]:
        """Return the queue once gatepost has nothing under way any more."""
        self.wait_until_idle()
        return self.postfix.queue()

    def take(self) -> tuple[QueueEntry, bytes]:
        """Return the only message in the queue and its header and body with CRLF line ends; empties the queue."""
        (entry,) = self.queue()
        text = self.postfix.message(entry.queue_id).replace(b"\n", b"\r\n")
        self.postfix.empty_queue()
        return entry, text

    def wait_until_idle(self) -> None:
        """Return once no connection of a front is open: what was answered is in the log.

        What a front that is gone has left behind may take a moment more, and so may connections to the inner smtpd.
        """
        wait_until(lambda: not self.connections(self.daemon.proxy_port))

    def wait_until_pool_is_empty(self) -> None:
        """Return once no connection to the inner smtpd is open, its own end included; what is kept stays for longer."""
        wait_until(lambda: not self.connections(self.daemon.inner_port))

    def connections(self, port: int) -> int:
        """Return how many TCP connections to `port` there are that who listens there has not let go of."""
        return len(self.peers(port))

    def peers(self, port: int) -> list[str]:
        """Return the other ends of these connections, as the kernel writes them."""
        suffix = f":{port:04X}"
        found = []
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, state, *_ = line.split()
            # ESTABLISHED and CLOSE_WAIT.
            if local.endswith(suffix) and not remote.endswith(":0000") and state in {"01", "08"}:
                found.append(remote)
        return found

    def tally(self) -> dict[str, int]:
        """Stop the daemon and return the counters of its last line."""
        seen = self.daemon.log_size()
        self.daemon.stop()
        found = re.search(r" event=stopped(.*)", self.daemon.log(seen))
        assert found, self.daemon.log(seen)
        return {name: int(count) for name, count in re.findall(r"(\w+)=(\d+)", found[1])}


def open_files(pid: int) -> list[str]:
    """Return what the process holds open, but for what only comes and goes with the event loop."""
    found = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(str(descriptor.readlink()))
        except FileNotFoundError:
            continue
    return found


def rss_bytes(pid: int) -> int:
    """Return the most memory the process ever had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"process {pid} has ended")


def reset_connection(client: SmtpClient) -> None:
    """Leave without a word, as a client that crashed: RST instead of FIN."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()
