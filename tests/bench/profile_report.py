"""Shows what `daemon.py --profile` has written: where a daemon's time went."""

from __future__ import annotations

import json
import pstats
from pathlib import Path

_FUNCTIONS = 40


def text(profile: Path, messages: int) -> str:
    """Return the main thread's functions by the CPU time spent in each itself, then the milter's callbacks.

    The profiler adds about a microsecond to every call, so times only compare; the number of calls per message is
    exact, and the same on every machine.
    """
    stats = pstats.Stats(str(profile)).strip_dirs().get_stats_profile()
    functions = [
        (one.tottime, one.cumtime, int(str(one.ncalls).partition("/")[0]), f"{one.file_name}:{one.line_number} {name}")
        for name, one in stats.func_profiles.items()
    ]
    calls = sum(count for _, _, count, _ in functions)
    lines = [
        f"{calls / messages:.0f} calls per message in the main thread",
        f"{'own us':>10} {'with callees':>12} {'calls':>8}   per message",
    ]
    for own_s, all_s, count, name in sorted(functions, reverse=True)[:_FUNCTIONS]:
        per = 1e6 / messages
        lines.append(f"{own_s * per:10.1f} {all_s * per:12.1f} {count / messages:8.1f}   {name}")
    callbacks: dict[str, tuple[float, float, float]] = json.loads(Path(f"{profile}.milter").read_text())
    lines.append(f"{'milter callback':15} {'calls':>9} {'CPU us each':>12} {'us each':>9}")
    for name, (times, cpu_s, wall_s) in callbacks.items():
        lines.append(f"{name:15} {times:9.0f} {cpu_s / times * 1e6:12.0f} {wall_s / times * 1e6:9.0f}")
    return "\n".join(lines)
