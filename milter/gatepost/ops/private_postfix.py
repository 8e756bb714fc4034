"""A private Postfix in a directory of its own, for `gatepost demo`, the end-to-end tests and the benchmark.

It owns that directory and the processes started from it, and nothing else of the host: no syslog, no system spool, no
port outside loopback, no DNS. It knows nothing of gatepost either: `gatepost postfix apply --config-dir ...` is run
on it as on any other Postfix. Nothing is delivered: what it accepts stays in its queue, to be looked at.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import stat
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from gatepost.errors import ConfigError
from gatepost.ops.private_config import command, free_loopback_port, write_configuration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["PrivatePostfix", "QueueEntry", "free_loopback_port"]

_POLL_S: Final = 0.01

# Waits that are over in milliseconds; the limit is for a host that is badly overloaded.
_TIMEOUT_S: Final = 30.0

# How long, after a reload, a new qmgr(8) is waited for: a sign, not a condition, for a bad configuration may forbid it.
_QUEUE_MANAGER_S: Final = 5.0

# Every command here takes milliseconds; the limit is for a host that is badly overloaded.
_COMMAND_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class QueueEntry:
    """One message in the queue, as `postqueue -j` tells it."""

    queue_id: str
    queue_name: str
    """incoming, active, deferred or hold; a message that is being tried moves between the first three."""
    sender: str
    """`MAILER-DAEMON` for the null sender."""
    recipients: tuple[str, ...]
    """Those still to be delivered, in no particular order. An address that gets two copies may stand here only once:
    `envelope()` has both."""
    size_bytes: int


class PrivatePostfix:
    """A Postfix with its configuration, queue and log below `directory`, which is made if need be.

    `main` adds to main.cf or replaces what is there; `services` are master.cf entries (continuation lines begin with a
    blank), besides the front, a plain smtpd on 127.0.0.1:`front_port`. Started and stopped by hand, or as a context
    manager. Raises ConfigError without root, without Postfix, or where user postfix cannot enter the directory.
    """

    def __init__(self, directory: Path, *, main: Mapping[str, str] | None = None, services: Sequence[str] = ()) -> None:
        if os.geteuid() != 0:
            raise ConfigError("a private Postfix can only be started by root: run this again with sudo")
        self._postfix = command("postfix")
        self.directory = directory.resolve()
        self.config_dir = self.directory / "etc"
        self.queue_dir = self.directory / "spool"
        self.log_file = self.directory / "log" / "mail.log"
        self.front_port = free_loopback_port()
        self.front_service = f"127.0.0.1:{self.front_port}/inet"
        front = f"127.0.0.1:{self.front_port} inet n - n - 100 smtpd"
        write_configuration(self.directory, main or {}, [front, *services])

    def __enter__(self) -> Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; the directory stays."""
        self.stop()

    def start(self) -> None:
        """Start and return when every service listens; ConfigError with Postfix's own last words if it does not."""
        self._age_main_cf()
        before = len(self.log())
        result = self._run("start", check=False)
        if result.returncode != 0:
            reason = _last_words(self.log()[before:] + result.stderr) or self._taken_port() or f"see {self.log_file}"
            self.stop()
            raise ConfigError(f"the private Postfix does not start: {reason}", self.config_dir)

    def stop(self) -> None:
        """End every process of this Postfix, however it fares, and return when they are gone; may be called twice."""
        master = self._master_pid()
        if master is None:
            return
        # `postfix stop` does the same, but looks once a second. postlogd(8) stays for a second to hear last words;
        # killing it loses no more than those, and killing the others loses no mail: Postfix is made to survive that.
        _kill_group(master, signal.SIGTERM)
        if not _poll(lambda: not self._processes(master), timeout_s=0.2):
            _kill_group(master, signal.SIGKILL)
        _poll(lambda: not self._processes(master), _TIMEOUT_S)
        if names := sorted(name for _, name in self._processes(master)):
            raise TimeoutError(f"{self.queue_dir}: {', '.join(names)} of process group {master} outlive SIGKILL")

    def reload(self, *, timeout_s: float = _TIMEOUT_S) -> None:
        """Reload and return when the services are set up anew; connections under way go on with the old settings."""
        reloads = self.log().count(": reload -- version")
        old = self._queue_managers()
        self._age_main_cf()
        self._run("reload")
        # master(8) logs before it acts, and qmgr(8), never busy, leaves as soon as master has dropped it.
        done = _poll(
            lambda: (
                self.log().count(": reload -- version") > reloads
                and old.isdisjoint(pid for pid, _ in self._processes(self._master_pid() or 0))
            ),
            timeout_s,
        )
        if not done:
            raise TimeoutError(f"Postfix has not reloaded in {timeout_s} s; its log ends: {self.log()[-500:]}")
        # qmgr stands near the top of master.cf, and master sets up one service after the other. It forks again once it
        # is through with all: a new qmgr, which is woken here because the old one may have taken the waking with it.
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as wake:
            wake.settimeout(timeout_s)
            wake.connect(str(self.queue_dir / "public" / "qmgr"))
            wake.send(b"W")
            _poll(lambda: bool(self._queue_managers()), _QUEUE_MANAGER_S)

    def postconf(self, *arguments: str) -> str:
        """Return what `postconf -c DIR ARGUMENTS` prints, without the last newline."""
        return self._command_output("postconf", *arguments).decode().removesuffix("\n")

    def postconf_edit(self, parameters: Mapping[str, str]) -> None:
        """Set parameters in main.cf; running services see them after `reload()`."""
        self.postconf("-e", *(f"{name}={value}" for name, value in parameters.items()))

    def postconf_service(self, service: str, parameters: Mapping[str, str]) -> None:
        """Set `-o` parameters of one master.cf entry, such as `127.0.0.1:10026/inet`; seen after `reload()`."""
        self.postconf("-P", *(f"{service}/{name}={value}" for name, value in parameters.items()))

    def add_service(self, entry: str) -> None:
        """Append an entry to master.cf; it listens after `reload()` or `start()`."""
        with (self.config_dir / "master.cf").open("a") as master_cf:
            master_cf.write(entry.rstrip("\n") + "\n")

    def queue(self) -> list[QueueEntry]:
        """Return every message in the queue, in no particular order; whatever was answered 250 is there."""
        found: dict[str, QueueEntry] = {}

        def is_whole() -> bool:
            # showq(8) walks the queues one after the other: a message that moves meanwhile is listed twice or not at
            # all. It moves twice at most before it rests, but of many one or another moves for a while.
            on_disk = self._queue_ids()
            found.clear()
            found.update((entry.queue_id, entry) for entry in self._listing())
            return on_disk <= found.keys()

        _poll(is_whole, _TIMEOUT_S)
        return list(found.values())

    def wait_for_queue(self, count: int, timeout_s: float = _TIMEOUT_S) -> list[QueueEntry]:
        """Return the queue once it holds `count` messages or more; TimeoutError with the end of the log otherwise."""
        if not _poll(lambda: len(self.queue()) >= count, timeout_s):
            raise TimeoutError(f"{len(self.queue())} messages, not {count}; the log ends: {self.log()[-2000:]}")
        return self.queue()

    def empty_queue(self) -> None:
        """Delete every message."""
        self._command_output("postsuper", "-d", "ALL")

    def message(self, queue_id: str) -> bytes:
        r"""Return the header and body of a queued message, byte for byte as in the queue file, lines ended by `\n`.

        KeyError if there is no such message.
        """
        return self._postcat("-bhq", queue_id)

    def envelope(self, queue_id: str) -> str:
        """Return a queued message's envelope in postcat's own words, one `name: value` a line."""
        return self._postcat("-eq", queue_id).decode(errors="replace")

    def log(self) -> str:
        """Return the log so far; lines come by way of postlogd(8), shortly after what they tell of."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def wait_for_log(self, pattern: str, timeout_s: float = _TIMEOUT_S) -> re.Match[str]:
        """Return the first match of a regular expression in the log once it is there; TimeoutError otherwise."""
        if not _poll(lambda: re.search(pattern, self.log()) is not None, timeout_s):
            raise TimeoutError(f"no {pattern!r} in the log, which ends: {self.log()[-2000:]}")
        found = re.search(pattern, self.log())
        assert found is not None
        return found

    def _queue_managers(self) -> set[int]:
        return {pid for pid, name in self._processes(self._master_pid() or 0) if name == "qmgr"}

    def _queue_ids(self) -> set[str]:
        """Return the ids of all messages, from the queue directories in the order in which mail moves through them."""
        found = set()
        for name in ("incoming", "active", "deferred", "hold"):
            for file in (self.queue_dir / name).rglob("*"):
                # qmgr(8) may move it under our hands; cleanup(8) sets the mode when the file is complete.
                with contextlib.suppress(FileNotFoundError):
                    facts = file.stat()
                    if stat.S_ISREG(facts.st_mode) and facts.st_mode & stat.S_IXUSR:
                        found.add(file.name)
        return found

    def _listing(self) -> Iterator[QueueEntry]:
        for line in self._command_output("postqueue", "-j").splitlines():
            entry = json.loads(line)
            recipients = tuple(recipient["address"] for recipient in entry["recipients"])
            yield QueueEntry(entry["queue_id"], entry["queue_name"], entry["sender"], recipients, entry["message_size"])

    def _taken_port(self) -> str | None:
        """Say which of our ports another process holds: master(8) tells only postlogd(8), which it has not started."""
        for entry in self.postconf("-M").splitlines():
            endpoint, kind, *_ = entry.split()
            host, _, port = endpoint.rpartition(":")
            if kind != "inet" or not port.isdigit():
                continue
            with socket.socket(socket.AF_INET6 if "[" in host else socket.AF_INET) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((host.strip("[]"), int(port)))
                except OSError as error:
                    return f"{endpoint}: {error.strerror}"
        return None

    def _age_main_cf(self) -> None:
        """Date main.cf back: for two seconds after a change every Postfix program waits before it reads the file.

        dict_load_file_xt() in src/util/dict.c, which means to miss no second change within the same second.
        """
        main_cf = self.config_dir / "main.cf"
        past = main_cf.stat().st_mtime - 5
        os.utime(main_cf, (past, past))

    def _run(self, action: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._postfix, "-c", str(self.config_dir), action],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=check,
        )

    def _command_output(self, name: str, *arguments: str) -> bytes:
        return subprocess.run(
            [command(name), "-c", str(self.config_dir), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_TIMEOUT_S,
            check=True,
        ).stdout

    def _postcat(self, options: str, queue_id: str) -> bytes:
        # postcat looks in one queue after the other, so a message may slip past it while it moves: look again.
        for _ in range(3):
            with contextlib.suppress(subprocess.CalledProcessError):
                return self._command_output("postcat", options, queue_id)
            if all(entry.queue_id != queue_id for entry in self.queue()):
                break
        raise KeyError(queue_id)

    def _master_pid(self) -> int | None:
        """Return the pid of our own master(8), which leads its process group; None if the pid file is stale."""
        try:
            pid = int((self.queue_dir / "pid" / "master.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if self._processes(pid) else None

    def _processes(self, group: int) -> list[tuple[int, str]]:
        """Return pid and name of the living processes of that group which work in our queue directory.

        All of Postfix does. A zombie works nowhere, so a host that is slow to reap cannot keep `stop()` waiting; nor
        can a stale pid file lead to a stranger's processes.
        """
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    pid = int(entry.name)
                    if os.getpgid(pid) == group and (entry / "cwd").readlink() == self.queue_dir:
                        found.append((pid, (entry / "comm").read_text().strip()))
        return found


def _last_words(said: str) -> str | None:
    """Return the reason that Postfix gives in its log for not starting; None if it gives none."""
    # The very last is always "mail system startup failed"; a reason stands before it.
    reasons = [words for words in re.findall(r"(?:fatal|error): (.*)", said) if "startup failed" not in words]
    return reasons[-1] if reasons else None


def _kill_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _poll(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True
