"""The process in which kfp.local runs a compiled pipeline:  python -m tutelage.orchestrate.kfp_process FILE PARAMETERS ROOT

A process of its own, since kfp.local prints to stdout, changes global state and hides errors; what matters comes through the
run's event file. It is on a leash of the command line, and the steps end with it.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tutelage.runtimes.settings import SUPERVISOR_VARIABLE


def main(compiled: str, parameters: str, pipeline_root: str) -> int:
    """Run the pipeline to its end. Gives 0, or 1 when a task failed."""
    os.environ[SUPERVISOR_VARIABLE] = str(os.getpid())
    from kfp import components, local

    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=pipeline_root,
        raise_on_error=True,
    )
    pipeline = components.load_component_from_file(compiled)
    try:
        pipeline(**json.loads(Path(parameters).read_text()))
    except RuntimeError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
