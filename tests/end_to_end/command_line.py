"""The command line as a user types it, and what its runs leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        return dict(json.loads(self.out))


def tutelage(
    *arguments: str, environment: Mapping[str, str] | None = None, root: Path = ROOT, timeout: float = 600
) -> Ended:
    """Run the command line from the repository root."""
    ended = subprocess.run(
        [sys.executable, "-m", "tutelage", *arguments],
        cwd=root, env={**os.environ, "PYTHONPATH": f"{root / 'src'}:{root}", **(environment or {})},
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Living processes whose command line or environment names `folder`, this one and its ancestors left out."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid in own or process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = " ".join(process.cmdline()) + " ".join(process.environ().values())
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if str(folder) in words:
            found.append(process)
    return found


@dataclass(frozen=True)
class TinyRun:
    """The runs folder and the record of a finished tiny run."""

    runs: Path
    record: dict[str, Any]

    @property
    def folder(self) -> Path:
        """The run's own folder."""
        return Path(self.record["folder"])

    def events(self) -> list[dict[str, Any]]:
        """Every event of the run."""
        return [json.loads(line) for line in (self.folder / "events.jsonl").read_text().splitlines()]


def reused(record: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """Labels of the tasks of a run that were reused, and of those that ran."""
    lines = (Path(record["folder"]) / "events.jsonl").read_text().splitlines()
    finished = [event for event in map(json.loads, lines) if event["event"] == "finished"]
    again = {event["task"] for event in finished if not event["reused"]}
    return {event["task"] for event in finished} - again, again
