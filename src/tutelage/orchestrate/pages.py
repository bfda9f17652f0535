"""The run page: written after every run, and again by `tutelage report`."""

from __future__ import annotations

import json
from pathlib import Path

from tutelage.contracts import locations
from tutelage.orchestrate.compile import compiled_file
from tutelage.orchestrate.tasks import tasks_of
from tutelage.report.run_page import render
from tutelage.runtimes.settings import Settings


def write_report(folder: Path) -> str:
    """Write `report.html` into a run's folder and give its path."""
    pipeline = json.loads((folder / "run.json").read_text())["pipeline"]
    settings = Settings(**json.loads((folder / "settings.json").read_text()))
    needs = {task.label: task.after for task in tasks_of(compiled_file(pipeline))}
    target = folder / "report.html"
    locations.write_bytes(str(target), render(folder, needs=needs, store=settings.store_root).encode())
    return str(target)
