"""What a run took, measured: seconds by stage, the largest process's memory, Spark starts, bytes of payloads and store.

Memory is the kernel's own high-water mark of each process (VmHWM), read every half second, so only what a process gains in its
last half second can be missed; of processes that were waited for, `getrusage` knows that too. Where there is no /proc, nothing
is guessed: what was not measured is None, and said.
"""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import psutil

from tutelage.contracts import locations
from tutelage.contracts.manifest import Manifest

#: Stages in the order of the line; others (a fork's own) follow by name.
STAGES = ("plan", "data", "train", "evaluate", "release", "serve")
SAMPLE_SECONDS = 0.5
#: The JVM of a Spark session; spark-submit's launcher, which only prints a command line, names the class too.
SPARK, SPARK_LAUNCHER = b"org.apache.spark.deploy.SparkSubmit", b"org.apache.spark.launcher.Main"
#: Of two measurements of one process, the later may be this much larger and still be of the same one.
SAME_PROCESS = 1.05


def stages_of(events: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Stage → seconds in which a task of it was under way, and how many finished, were reused, failed or were cut off."""
    timed = [event for event in events if event.get("time") and event.get("step")]
    begun: dict[str, tuple[str, float]] = {}
    spans: dict[str, list[tuple[float, float]]] = {}
    counts: dict[str, dict[str, Any]] = {}
    for event in timed:
        stage, task, now = str(event["step"]).split("/")[0], event["task"], _seconds(event["time"])
        if event["event"] == "started":
            begun[task] = (stage, now)
        elif event["event"] in ("finished", "failed") and task in begun:
            spans.setdefault(stage, []).append((begun.pop(task)[1], now))
            ending = "failed" if event["event"] == "failed" else "reused" if event.get("reused") else "finished"
            _count(counts, stage, ending)
    for stage, start in begun.values():
        spans.setdefault(stage, []).append((start, _seconds(timed[-1]["time"])))
        _count(counts, stage, "unfinished")
    order = sorted(counts, key=lambda name: (STAGES.index(name) if name in STAGES else len(STAGES), name))
    return {stage: {"seconds": round(_union(spans[stage]), 3), **counts[stage]} for stage in order}


def _count(counts: dict[str, dict[str, Any]], stage: str, ending: str) -> None:
    counts.setdefault(stage, {"finished": 0, "reused": 0, "failed": 0, "unfinished": 0})[ending] += 1


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()


def _union(spans: list[tuple[float, float]]) -> float:
    """Seconds covered by the spans, those that overlap counted once."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


@dataclass(frozen=True)
class Peak:
    """The largest resident memory of a process."""

    size: int
    """Bytes."""
    process: str | None
    """Program and task, where they are known: `java, in curate`."""


class ProcessWatch:
    """Follows the processes below one, from a thread of its own, until it is left."""

    def __init__(self, process_id: int) -> None:
        self.task: str | None = None
        """The task under way, for the name of the largest process."""
        self._root = process_id
        self._largest = Peak(0, None)
        self._spark: set[psutil.Process] = set()
        self._reaped_before = _peak_of_children()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="process-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def spark_starts(self) -> int | None:
        """JVMs of Spark sessions seen; None where processes cannot be seen."""
        return len(self._spark) if self._largest.size else None

    @property
    def peak(self) -> Peak | None:
        """The largest process so far, or None when nothing was measured. Exact once all processes were waited for."""
        reaped = _peak_of_children()
        if reaped > max(self._reaped_before, self._largest.size):
            is_same = reaped <= SAME_PROCESS * self._largest.size
            return Peak(reaped, self._largest.process if is_same else None)
        return self._largest if self._largest.size else None

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        try:
            root = psutil.Process(self._root)
            family = [root, *root.children(recursive=True)]
        except psutil.Error:
            return
        for process in family:
            # A process that has ended meanwhile has nothing to read any more.
            status = _read(process.pid, "status")
            size = _high_water_mark(status)
            if size > self._largest.size:
                self._largest = Peak(size, _named(status, self.task))
            if status.startswith(b"Name:\tjava\n"):
                command = _read(process.pid, "cmdline")
                if SPARK in command and SPARK_LAUNCHER not in command:
                    self._spark.add(process)


def _read(process_id: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{process_id}/{name}").read_bytes()
    except OSError:
        return b""


def _high_water_mark(status: bytes) -> int:
    """Bytes of VmHWM in a /proc/<pid>/status; 0 where there is none (a process that is ending)."""
    for line in status.splitlines():
        if line.startswith(b"VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def _named(status: bytes, task: str | None) -> str:
    program = status.split(b"\n", 1)[0].removeprefix(b"Name:").strip().decode(errors="replace")
    return f"{program}, in {task}" if task else program


def _peak_of_children() -> int:
    """Bytes of the largest process below this one that has been waited for, by its parent or by this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit


def payload_bytes(manifests: Sequence[Manifest]) -> int:
    """Bytes of the payload files that these manifests list, each payload once."""
    places = {manifest.uri: sum(file.size for file in manifest.files) for manifest in manifests}
    return sum(places.values())


def store_bytes(root: str) -> int:
    """Bytes of everything in a store, torn attempts and checkpoints among them. Raises StoreError where it does not answer."""
    if not locations.is_local(root):
        return sum(size for _, size in locations.list_files(root))
    total = 0
    for path in locations.local_path(root).rglob("*"):
        try:
            total += path.lstat().st_size if path.is_file() else 0
        except FileNotFoundError:
            # Another run tidied up behind itself in this moment.
            continue
    return total
