"""Starting a step as a process of its own that cannot outlive us, with its output in a log file."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tutelage.contracts.locks import record_child
from tutelage.runtimes.leash import leash
from tutelage.step import repository_root


def python_path() -> str:
    """PYTHONPATH under which a child finds `tutelage` and `components`."""
    parts = [str(Path(__file__).parents[2]), str(repository_root()), os.environ.get("PYTHONPATH", "")]
    return os.pathsep.join(part for part in parts if part)


def run_child(command: Sequence[str], environment: Mapping[str, str], log_file: Path, lock: Path) -> int:
    """Run `command` to its end; output goes to `log_file`. Gives the exit code, negative for a signal.

    The child is noted in the lock so that a later attempt can kill it, should this process be killed first.
    """
    with log_file.open("ab") as log:
        child = subprocess.Popen(
            leash(list(command)), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": python_path(), **environment},
        )  # fmt: skip
        record_child(lock, child.pid)
        try:
            return child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
