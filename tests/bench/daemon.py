"""Runs `gatepost` as the command does, on the event loop that the benchmark names, and under a profiler if asked.

    python daemon.py [--loop asyncio|uvloop] [--profile FILE] -- run --config FILE

The profile has two parts, because Python's profiler sees one thread: FILE has the main thread's functions (pstats), and
FILE.milter tells what each callback of libmilter's threads took, as JSON: calls, CPU seconds, seconds.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import sys
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import milter

if TYPE_CHECKING:
    from collections.abc import Callable

_CALLBACKS = ("connect", "helo", "envfrom", "envrcpt", "header", "body", "eom", "abort", "close")


class CallbackTimes:
    """Counts what pymilter's callbacks take; made before the daemon sets them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.by_name: defaultdict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
        for name in _CALLBACKS:
            setter = getattr(milter, f"set_{name}_callback")
            setattr(milter, f"set_{name}_callback", self._wrapped_setter(name, setter))

    def _wrapped_setter(self, name: str, setter: Callable[[Any], None]) -> Callable[[Any], None]:
        def set_callback(callback: Callable[..., int]) -> None:
            def timed(*arguments: Any) -> int:
                cpu_started, started = time.thread_time(), time.perf_counter()
                try:
                    return callback(*arguments)
                finally:
                    self._add(name, time.thread_time() - cpu_started, time.perf_counter() - started)

            setter(timed)

        return set_callback

    def _add(self, name: str, cpu_s: float, wall_s: float) -> None:
        with self._lock:
            entry = self.by_name[name]
            entry[0] += 1
            entry[1] += cpu_s
            entry[2] += wall_s


def main() -> None:
    """Set the process up, then hand over to gatepost's own command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", choices=("asyncio", "uvloop"))
    parser.add_argument("--profile", type=Path)
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    if options.loop == "asyncio":
        # The daemon takes uvloop where it can be imported; with this it cannot be.
        sys.modules["uvloop"] = None  # type: ignore[assignment]
    elif options.loop == "uvloop":
        import uvloop  # noqa: F401 - an error here, rather than asyncio's loop measured under the wrong name
    times = CallbackTimes() if options.profile else None

    from gatepost.ops.cli import main as gatepost

    sys.argv = ["gatepost", *options.command]
    if times is None:
        gatepost()
        return
    # CPU time: on a busy machine the other clock charges every system call with what ran instead of us.
    profiler = cProfile.Profile(time.thread_time)
    try:
        profiler.runcall(gatepost)
    finally:
        profiler.dump_stats(options.profile)
        Path(f"{options.profile}.milter").write_text(json.dumps(times.by_name))


if __name__ == "__main__":
    main()
