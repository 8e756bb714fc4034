"""What the kernel tells of a running process: CPU time and memory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds since the process began, user and system together, in steps of the kernel's clock tick (10 ms)."""

    all_s: float
    main_s: float
    """Of these, the main thread's, which has the event loop; the rest is libmilter's and the store's threads."""

    def __sub__(self, earlier: Cpu) -> Cpu:
        return Cpu(self.all_s - earlier.all_s, self.main_s - earlier.main_s)


def cpu(pid: int) -> Cpu:
    """Return what the process has used so far; FileNotFoundError when it is gone."""
    return Cpu(_cpu_s(Path(f"/proc/{pid}/stat")), _cpu_s(Path(f"/proc/{pid}/task/{pid}/stat")))


def peak_rss_bytes(pid: int) -> int:
    """Return the most memory that the process ever had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024
    raise ValueError(f"process {pid} has no VmHWM: it has ended")


def _cpu_s(stat: Path) -> float:
    # The name, in parentheses, may hold blanks; utime and stime are fields 14 and 15 (proc(5)).
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
