"""Stop what a run left running: the pipeline's exit handler, run whether the line succeeded or not.

    python components/plan/clean/step.py --setting locks=runs/locks

Whoever works on a step key holds its lock and notes its children there. A lock that can be taken has no living holder, so
children still noted in it belong to nobody: they are killed. Work of other, living runs is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from tutelage.config import Config as BaseConfig
from tutelage.contracts.locks import kill_abandoned
from tutelage.contracts.store import Result
from tutelage.step import Context, main

log = logging.getLogger("tutelage")


class Config(BaseConfig):
    """Nothing to set."""


def run(config: Config, context: Context) -> Mapping[str, Result]:
    """Kill every process whose run is gone, and say how many there were."""
    killed = kill_abandoned(Path(context.setting("locks")))
    if killed:
        context.warn(f"stopped {killed} process{'es' if killed != 1 else ''} that a killed step had left running")
    return {}


if __name__ == "__main__":
    main(run, Config)
