"""One step by hand: the same launcher-less path that `python components/<stage>/<verb>/step.py` takes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tutelage.contracts import manifest
from tutelage.contracts.locations import join
from tutelage.errors import BudgetSpent, GateRefused, InvalidInput, StepFailed, TutelageError
from tutelage.runtimes.children import python_path
from tutelage.runtimes.settings import read_settings
from tutelage.runtimes.spark import require_java, spark_environment
from tutelage.step import describe, repository_root

KINDS: dict[int, type[TutelageError]] = {error.exit_code: error for error in (InvalidInput, GateRefused, BudgetSpent)}


def run_step(
    name: str, inputs: Sequence[str], outputs: Sequence[str], assignments: Sequence[str], settings: Sequence[str]
) -> dict[str, dict[str, str]]:
    """Run step `name` and give its outputs' kind, digest and manifest. Raises the error of the exit code it ends with."""
    description = describe(name)
    command = [sys.executable, str(repository_root() / "components" / name / "step.py")]
    for flag, values in (("--in", inputs), ("--out", outputs), ("--set", assignments), ("--setting", settings)):
        for value in values:
            command += [flag, value]
    environment = {**os.environ, "PYTHONPATH": python_path()}
    if description.runtime == "spark":
        require_java()
        environment |= spark_environment(read_settings(), Path.home() / ".cache" / "tutelage")
    ended = subprocess.run(command, env=environment, stdout=sys.stderr, check=False)
    if ended.returncode:
        raise KINDS.get(ended.returncode, StepFailed)(
            f"{name} ended with exit code {ended.returncode}", hint="its error and hint stand above"
        )
    made = {pair.partition("=")[0]: manifest.read(join(pair.partition("=")[2], "manifest.json")) for pair in outputs}
    return {
        output: {"kind": item.kind, "digest": item.content_digest, "manifest": item.uri}
        for output, item in made.items()
    }
