"""One private Postfix with a front and an inner service for each variant, and each variant's own gatepost.

Everything runs from the first round to the last, so that rounds of different variants can take turns. The services are
those that `gatepost postfix apply` makes; the baseline's are the same without the milter, its front pointed straight
at its inner service.
"""

from __future__ import annotations

import re
import shutil
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

from gatepost.errors import ConfigError
from gatepost.ops.private_daemon import PrivateDaemon
from gatepost.ops.private_postfix import PrivatePostfix, free_loopback_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.bench.variant import Variant

_DAEMON: Final = Path(__file__).with_name("daemon.py")

SESSIONS = 10
LENGTH_BYTES = 4096

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
    """A variant with the port it is reached by."""

    variant: Variant
    front_port: int
    gatepost: PrivateDaemon
    """Started for the variants with gatepost; the baseline only borrows its ports and configuration."""
    profile: Path
    sent: int = 0

    @property
    def is_filtered(self) -> bool:
        """False for the baseline, where no gatepost stands in between."""
        return self.variant.plugins is not None


class Rig:
    """Everything that runs, as a context manager; removed at its end. Needs root and Postfix, as PrivatePostfix."""

    def __init__(self, variants: Sequence[Variant], parent: Path, *, loop: str | None, profile: bool) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="gatepost-bench-", dir=parent))
        # User postfix must be able to enter; the group of the milter sockets comes from their directories.
        self.directory.chmod(0o755)
        self._lanes = {variant.name: self._lane(variant, loop, profile=profile) for variant in variants}
        services = [f"127.0.0.1:{lane.front_port} inet n - n - 100 smtpd" for lane in self._lanes.values()]
        self._postfix = PrivatePostfix(self.directory / "postfix", main=_MAIN_CF, services=services)

    def __enter__(self) -> Self:
        """Write every configuration, start every daemon, then Postfix."""
        try:
            for lane in self._lanes.values():
                self._configure(lane)
                if lane.is_filtered:
                    self._start(lane)
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
        if lane.is_filtered:
            # Greylisting wants to see its sender twice.
            lane.sent += self._send(lane, 1, check=False)
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
            name: process.peak_rss_bytes(lane.gatepost.pid) for name, lane in self._lanes.items() if lane.is_filtered
        }

    def check_counts(self) -> None:
        """End the daemons; BenchError unless each has accepted what was sent: else something else was measured."""
        for lane in self._lanes.values():
            if not lane.is_filtered:
                continue
            lane.gatepost.stop()
            accepted = self._accepted(lane)
            if accepted != lane.sent:
                raise BenchError(f"{lane.variant.name}: {lane.sent} messages sent, {accepted} accepted by gatepost")

    def profiles(self) -> Iterator[tuple[Variant, Path, int]]:
        """Where each daemon has left its profile when it ended, and how many messages that is about."""
        for lane in self._lanes.values():
            if lane.is_filtered:
                yield lane.variant, lane.profile, lane.sent

    def _lane(self, variant: Variant, loop: str | None, *, profile: bool) -> _Lane:
        directory = self.directory / variant.name
        command = [sys.executable, str(_DAEMON)]
        if loop is not None:
            command += ["--loop", loop]
        if profile:
            command += ["--profile", str(directory / "profile")]
        return _Lane(
            variant, free_loopback_port(), PrivateDaemon(directory, command=[*command, "--"]), directory / "profile"
        )

    def _configure(self, lane: _Lane) -> None:
        gatepost = lane.gatepost
        for name, text in lane.variant.files:
            (gatepost.directory / name).parent.mkdir(exist_ok=True)
            (gatepost.directory / name).write_text(text)
        plugins = (lane.variant.plugins or "").format(directory=gatepost.directory)
        gatepost.configure(plugins, {"milter": {"edge": True}} if lane.variant.edge else None)
        gatepost.apply(self._postfix.config_dir, f"127.0.0.1:{lane.front_port}/inet")
        # One Postfix belongs to one gatepost; without its record, the next call leaves this one's entries alone.
        shutil.rmtree(self._postfix.config_dir / "gatepost-backup")
        if not lane.is_filtered:
            inner = f"127.0.0.1:{gatepost.inner_port}"
            self._postfix.postconf_service(f"127.0.0.1:{lane.front_port}/inet", {"smtpd_proxy_filter": inner})
            self._postfix.postconf_service(f"{inner}/inet", {"smtpd_milters": ""})

    @staticmethod
    def _start(lane: _Lane) -> None:
        try:
            lane.gatepost.start()
        except ConfigError as error:
            raise BenchError(f"{lane.variant.name}: {error}") from error

    def _send(self, lane: _Lane, messages: int, *, check: bool = True) -> bool:
        """Send and return whether all were accepted; BenchError if they were not, unless `check` is false."""
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
        accepted = not (done.returncode or done.stderr)
        if check and not accepted:
            raise BenchError(f"{lane.variant.name}: smtp-source: {done.stderr.strip()}\n{lane.gatepost.log()[-1500:]}")
        return accepted

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
        return len(re.findall(r" event=transaction .* reply=250 ", lane.gatepost.log()))

    def _end(self) -> None:
        for lane in self._lanes.values():
            lane.gatepost.stop()
        self._postfix.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


def _cpu(lane: _Lane) -> process.Cpu:
    """Return what the lane's daemon has used so far, nothing where there is none; BenchError if it has ended."""
    if not lane.is_filtered:
        return process.Cpu(0.0, 0.0)
    if not lane.gatepost.is_running:
        raise BenchError(f"{lane.variant.name}: gatepost has ended: {lane.gatepost.log()[-1500:]}")
    return process.cpu(lane.gatepost.pid)
