"""What a step cost this machine: memory of its largest process, CPU seconds of all. They go to observations.json.

Spark's JVM is a child that still runs when a step ends, so finished children alone would leave most of a data step out.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import psutil


def peak_memory_bytes() -> int:
    """Largest resident set of any one process so far, in bytes: this one, its finished children, and those that still run."""
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    # In KiB, but in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    own = max(resource.getrusage(who).ru_maxrss for who in both) * unit
    return max(own, *(_peak_of(child) for child in _children()), 0)


def cpu_seconds() -> float:
    """CPU seconds, user and system, of this process, its finished children and those that still run (Spark's JVM).

    Of a training with several ranks, it is rank 0's.
    """
    both = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    spent = sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, both))
    for child in _children():
        try:
            times = child.cpu_times()
        except psutil.Error:
            continue  # it has ended: what it spent is among the finished children's, or was never ours
        spent += times.user + times.system + times.children_user + times.children_system
    return spent


def _children() -> list[psutil.Process]:
    try:
        return psutil.Process().children(recursive=True)
    except psutil.Error:
        return []


def _peak_of(process: psutil.Process) -> int:
    """The most a running process has held, in bytes; what it holds now where the system keeps no peak."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii", errors="replace")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
