"""Check everything about a run before anything starts, all mistakes at once, and write the effective plan as a page.

python components/plan/check/step.py --out plan=/tmp/plan --set pipeline=llm_training --set 'parameters={seed: 7}'
"""

from __future__ import annotations

from typing import Any

from tutelage import config
from tutelage.contracts.store import Result
from tutelage.step import Context, main


class Config(config.Config):
    """The run to check."""

    pipeline: str
    """Name of the pipeline, as its file in pipelines/ is called."""
    parameters: dict[str, Any]
    """Run parameters: sources, base_model, evaluation, policy, seed, and the pipeline's training sections."""


def run(config: Config, context: Context) -> dict[str, Result]:
    """Refuse a run that cannot work; else write plan.json and page.html."""
    from tutelage.errors import InvalidInput
    from tutelage.plan.recipe import problems
    from tutelage.plan.surroundings import Surroundings
    from tutelage.plan.written import write_plan

    found = problems(config.pipeline, config.parameters, surroundings=Surroundings(cache=context.cache))
    if found:
        raise InvalidInput.from_problems(config.pipeline, found)
    return {"plan": write_plan(config.pipeline, config.parameters, context.cache, context.outputs["plan"].path)}


if __name__ == "__main__":
    main(run, Config)
