"""One private Postfix with a front and an inner service for each variant, and each variant's own gatepost.

Everything runs from the first round to the last, so that rounds of different variants can take turns. The services are
those that `gatepost postfix apply` makes; the baseline's are the same without the milter, its front pointed straight
at its inner service.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from tests.bench import process
from tests.bench.report import Round
from tests.bench.variant import RECIPIENT, SENDER

from gatepost.ops.private_postfix import PrivatePostfix, free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.variant import Variant

_DAEMON: Final = Path(__file__).with_name("daemon.py")

SESSIONS = 10
LENGTH_BYTES = 4096

_START_TIMEOUT_S = 20.0
_ROUND_TIMEOUT_S = 300.0
_POLL_S = 0.01

_MAIN_CF: Final = {
    # Delivery costs next to nothing, and the same for all.
    "transport_maps": "static:discard:",
    # cleanup(8) would otherwise sleep for up to a second whenever mail comes in faster than it goes out.
    "in_flow_delay": "0",
}


class BenchError(Exception):
    """The benchmark cannot go on; the text says why."""


@dataclass(slots=True)
class _Lane:
    """A variant with the ports it is reached by; `daemon` is None where no gatepost stands in between."""

    variant: Variant
    front_port: int
    directory: Path
    daemon: subprocess.Popen[bytes] | None = None
    sent: int = 0

    @property
    def config(self) -> Path:
        return self.directory / "gatepost.toml"

    @property
    def log(self) -> Path:
        return self.directory / "gatepost.log"

    @property
    def profile(self) -> Path:
        return self.directory / "profile"


class Rig:
    """Everything that runs, as a context manager; removed at its end. Needs root and Postfix, as PrivatePostfix."""

    def __init__(self, variants: Sequence[Variant], parent: Path, *, loop: str | None, profile: bool) -> None:
        self._loop = loop
        self._profile = profile
        self.directory = Path(tempfile.mkdtemp(prefix="gatepost-bench-", dir=parent))
        # User postfix must be able to enter; the group of the milter sockets comes from their directories.
        self.directory.chmod(0o755)
        self._ports: set[int] = set()
        self._lanes = {
            variant.name: _Lane(variant, self._port(), self.directory / variant.name) for variant in variants
        }
        services = [f"127.0.0.1:{lane.front_port} inet n - n - 100 smtpd" for lane in self._lanes.values()]
        self._postfix = PrivatePostfix(self.directory / "postfix", main=_MAIN_CF, services=services)

    def __enter__(self) -> Self:
        """Write every configuration, start every daemon, then Postfix."""
        try:
            for lane in self._lanes.values():
                self._configure(lane)
                if lane.variant.plugins is not None:
                    self._start_daemon(lane)
            self._postfix.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop everything by process id and remove the directory."""
        self._end()

    def warm_up(self, name: str, messages: int) -> float:
        """Bring a variant to its steady state; return messages per second. The first message may be refused for now."""
        lane = self._lanes[name]
        if lane.variant.plugins is not None:
            # Greylisting wants to see its sender twice.
            self._send(lane, 1, check=False)
            lane.sent = self._accepted(lane)
        return self.round(name, messages).rate

    def round(self, name: str, messages: int) -> Round:
        """Send so many messages through one variant, once nothing else is under way; BenchError if any is refused."""
        self._wait_for_empty_queue()
        lane = self._lanes[name]
        cpu_before = _cpu(lane)
        started = time.perf_counter()
        self._send(lane, messages)
        seconds = time.perf_counter() - started
        # What the daemon does after the last answer (its log, its books) belongs to the message, too.
        self._wait_for_empty_queue()
        spent = _cpu(lane) - cpu_before
        lane.sent += messages
        return Round(name, messages, seconds, spent.all_s, spent.main_s)

    def peak_rss_bytes(self) -> dict[str, int]:
        """Return the peak so far of each daemon, by variant."""
        return {
            name: process.peak_rss_bytes(lane.daemon.pid)
            for name, lane in self._lanes.items()
            if lane.daemon is not None
        }

    def check_counts(self) -> None:
        """End the daemons; BenchError unless each has accepted what was sent: else something else was measured."""
        for lane in self._lanes.values():
            if lane.daemon is None:
                continue
            _stop(lane.daemon)
            accepted = self._accepted(lane)
            if accepted != lane.sent:
                raise BenchError(f"{lane.variant.name}: {lane.sent} messages sent, {accepted} accepted by gatepost")

    def profiles(self) -> Iterator[tuple[Variant, Path, int]]:
        """Where each daemon has left its profile when it ended, and how many messages that is about."""
        for lane in self._lanes.values():
            if lane.daemon is not None:
                yield lane.variant, lane.profile, lane.sent

    def _port(self) -> int:
        """Return a free port that was not given out before: nothing listens on those yet, so they look free, too."""
        while (port := free_loopback_port()) in self._ports:
            pass
        self._ports.add(port)
        return port

    def _configure(self, lane: _Lane) -> None:
        lane.directory.mkdir(mode=0o755)
        sockets = lane.directory / "run"
        sockets.mkdir()
        shutil.chown(sockets, group="postfix")
        sockets.chmod(0o2750)
        proxy_port, inner_port = self._port(), self._port()
        (lane.directory / "hooks").mkdir()
        for name, text in lane.variant.files:
            (lane.directory / name).parent.mkdir(exist_ok=True)
            (lane.directory / name).write_text(text)
        lane.config.write_text(
            f'[proxy]\nlisten = "127.0.0.1:{proxy_port}"\ninner = "127.0.0.1:{inner_port}"\n'
            f'[milter]\nsocket = "unix:{sockets}/milter.sock"\n'
            f'[store]\nurl = "sqlite:{lane.directory}/gatepost.db"\n'
            f'[hooks]\ndirectory = "{lane.directory}/hooks"\n'
            + (lane.variant.plugins or "").format(directory=lane.directory)
        )
        self._apply(lane)
        if lane.variant.plugins is None:
            self._postfix.postconf_service(
                f"127.0.0.1:{lane.front_port}/inet", {"smtpd_proxy_filter": f"127.0.0.1:{inner_port}"}
            )
            self._postfix.postconf_service(f"127.0.0.1:{inner_port}/inet", {"smtpd_milters": ""})

    def _apply(self, lane: _Lane) -> None:
        _gatepost(
            *("postfix", "apply", "--config", str(lane.config), "--config-dir", str(self._postfix.config_dir)),
            *("--service", f"127.0.0.1:{lane.front_port}/inet"),
        )
        # One Postfix belongs to one gatepost; without its record, the next call leaves this one's entries alone.
        shutil.rmtree(self._postfix.config_dir / "gatepost-backup")

    def _start_daemon(self, lane: _Lane) -> None:
        command = [sys.executable, str(_DAEMON)]
        if self._loop is not None:
            command += ["--loop", self._loop]
        if self._profile:
            command += ["--profile", str(lane.profile)]
        command += ["--", "run", "--config", str(lane.config)]
        with lane.log.open("wb") as log:
            lane.daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while " event=ready " not in (said := lane.log.read_text(errors="replace")):
            if lane.daemon.poll() is not None or time.monotonic() > deadline:
                raise BenchError(f"{lane.variant.name}: gatepost does not start: {said[-2000:].strip()}")
            time.sleep(_POLL_S)

    def _send(self, lane: _Lane, messages: int, *, check: bool = True) -> None:
        done = subprocess.run(
            [
                *("smtp-source", "-s", str(min(SESSIONS, messages)), "-m", str(messages), "-l", str(LENGTH_BYTES)),
                *("-f", SENDER, "-t", RECIPIENT, f"127.0.0.1:{lane.front_port}"),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ROUND_TIMEOUT_S,
            check=False,
        )
        if check and (done.returncode or done.stderr):
            logged = lane.log.read_text(errors="replace")[-1500:] if lane.log.exists() else ""
            raise BenchError(f"{lane.variant.name}: smtp-source: {done.stderr.strip()}\n{logged}")

    def _wait_for_empty_queue(self) -> None:
        deadline = time.monotonic() + _ROUND_TIMEOUT_S
        while any(self._queued()):
            if time.monotonic() > deadline:
                raise BenchError(f"the queue does not empty: {self._postfix.log()[-1500:]}")
            time.sleep(_POLL_S)

    def _queued(self) -> Sequence[Path]:
        # showq(8) would tell, too, but would have to read every message.
        places = (self._postfix.queue_dir / name for name in ("incoming", "active", "deferred"))
        return [file for place in places for file in place.rglob("*") if not file.is_dir()]

    @staticmethod
    def _accepted(lane: _Lane) -> int:
        return len(re.findall(r" event=transaction .* reply=250 ", lane.log.read_text(errors="replace")))

    def _end(self) -> None:
        for lane in self._lanes.values():
            if lane.daemon is not None:
                _stop(lane.daemon)
        self._postfix.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def _cpu(lane: _Lane) -> process.Cpu:
    """Return what the lane's daemon has used so far, nothing where there is none; BenchError if it has ended."""
    if lane.daemon is None:
        return process.Cpu(0.0, 0.0)
    if lane.daemon.poll() is not None:
        raise BenchError(f"{lane.variant.name}: gatepost has ended: {lane.log.read_text(errors='replace')[-1500:]}")
    return process.cpu(lane.daemon.pid)


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    if daemon.poll() is None:
        daemon.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            daemon.wait(20)
    if daemon.poll() is None:
        daemon.kill()
        daemon.wait()


def _gatepost(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, str(_DAEMON), "--", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"gatepost {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
