"""Runtime `process`: the step runs in the interpreter that KFP started. For work that needs neither Spark nor ranks."""

from __future__ import annotations

from pathlib import Path

from tutelage.runtimes.settings import Settings
from tutelage.step import Request, execute, load


def run(request: Request, log_file: Path, lock: Path, settings: Settings) -> int:
    """Run the step here. Gives 0; errors come as exceptions, with an outcome.json left behind."""
    module = load(request.step)
    execute(module.run, module.Config, request)
    return 0
