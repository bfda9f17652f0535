"""Stop the line unless the verdict is a PASS that a trusted key signed for exactly these inputs.

    python components/release/enforce/step.py --in verdict=… --in model=… --in splits=… --in candidate=… --in comparison=… \
        --setting public_keys=runs/keys/public

Whatever comes after this step verifies the verdict again: a gate that one can walk around is none.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from tutelage.contracts.release_policy import ReleasePolicy
from tutelage.contracts.store import Result
from tutelage.contracts.verdicts import require_model, require_pass
from tutelage.step import Context, main

log = logging.getLogger("tutelage")


class Config(ReleasePolicy):
    """The run's policy.release; another policy than the one decided on is refused."""


def run(config: Config, context: Context) -> Mapping[str, Result]:
    """Verify the verdict. Raises GateRefused with everything that speaks against it."""
    verdict = require_pass(context.inputs, config, Path(context.setting("public_keys")))
    require_model(context.input_path("model"), context.inputs["model"])
    log.info("PASS of run %s, signed with key %s", verdict["subject"]["run"], verdict["key"][:16])
    return {}


if __name__ == "__main__":
    main(run, Config)
