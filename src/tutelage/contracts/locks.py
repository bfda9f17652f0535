"""One process at a time works on a step key, and whoever takes over from a dead one first kills what it left running.

The kernel drops an flock with its holder, so holding the lock proves that the former holder is gone. Its children may not be:
their process ids stand in the lock file with their start times (ids are used again), and are killed before work begins.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

import psutil

POLL_SECONDS = 0.2
#: The kernel tells start times since boot, and the time of boot shifts when the clock is set.
SAME_START_SECONDS = 2.0


@contextmanager
def step_lock(folder: Path, key: str, waiting: Callable[[], None]) -> Iterator[Path]:
    """Hold the lock of step key `key`. Calls `waiting` once when somebody else holds it, then waits.

    Gives the lock's file, for `record_child`. The file is removed at the end, while the lock is still held.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key}.lock"
    said = False
    while True:
        with path.open("a+") as file:
            if not _held(file, path):
                if not said:
                    waiting()
                    said = True
                time.sleep(POLL_SECONDS)
                continue
            kill_recorded(path)
            path.write_text("")
            try:
                yield path
            finally:
                path.unlink(missing_ok=True)
            return


def _held(file: TextIO, path: Path) -> bool:
    """Try to lock `file`, opened at `path`. A holder that is done removes its file, and a lock on that is none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def record_child(lock: Path, process_id: int) -> None:
    """Note a child of the lock's holder, to be killed by the next holder should this one die."""
    try:
        started = psutil.Process(process_id).create_time()
    except psutil.NoSuchProcess:
        return
    with lock.open("a") as file:
        file.write(json.dumps({"pid": process_id, "started": started}) + "\n")


def kill_recorded(lock: Path) -> int:
    """Kill the processes noted in the lock file, and their children, that still run. Returns how many were killed."""
    killed = 0
    for line in lock.read_text().splitlines():
        try:
            entry = json.loads(line)
            process = psutil.Process(entry["pid"])
            if abs(process.create_time() - entry["started"]) > SAME_START_SECONDS:
                continue
            # The parent first: it might start a killed child anew, or take its death for an end.
            family = [process, *process.children(recursive=True)]
        except (ValueError, KeyError, TypeError, psutil.NoSuchProcess):
            continue
        for member in family:
            try:
                os.kill(member.pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                continue
        psutil.wait_procs(family, timeout=10)
    return killed


def kill_abandoned(folder: Path) -> int:
    """Kill what dead holders of any lock in `folder` left running. Returns how many processes were killed."""
    killed = 0
    for path in sorted(folder.glob("*.lock")):
        with suppress(FileNotFoundError), path.open("r+") as file:
            if _held(file, path):
                killed += kill_recorded(path)
                path.unlink()
    return killed
