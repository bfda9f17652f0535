"""Bring in what a run starts from and is judged by: the base Model, and the Suite of evaluation items.

    python components/plan/acquire/step.py --out model=/tmp/model --out suite=/tmp/suite \
        --set 'base_model={licence: Apache-2.0, initialise: {tokenizer_corpus: [{uri: src, licence: Apache-2.0}]}}'
"""

from __future__ import annotations

from tutelage import config
from tutelage.config import Seed
from tutelage.contracts.store import Result
from tutelage.plan.base_model import BaseModel
from tutelage.plan.tasks import Task
from tutelage.step import Context, main


class Config(config.Config):
    """What to bring in."""

    base_model: BaseModel
    """The Model that training starts from and that the candidate is compared with."""
    suite: tuple[Task, ...] = ()
    """Evaluation tasks; their order does not matter."""
    seed: Seed = 0
    """Of the first weights, where the model is initialised."""


def run(config: Config, context: Context) -> dict[str, Result]:
    """Fetch, verify and write both; give Model and Suite."""
    from tutelage.plan import base_model, suite

    steps = 0

    def progress(doing: str) -> None:
        nonlocal steps
        steps += 1
        context.event("progress", done=steps, total=None, unit="parts", doing=doing)

    progress("reading the suite")
    items = suite.bring_in(config.suite, context.cache, context.outputs["suite"].location)
    asked_for = ("over_limit", "not_selected")
    unusable = {reason: count for reason, count in items.dropped.items() if reason not in asked_for}
    if unusable:
        reasons = ", ".join(f"{reason} {count}" for reason, count in unusable.items())
        rows = sum(unusable.values())
        context.warn(f"{rows} {'row' if rows == 1 else 'rows'} left out of the suite: {reasons}")
    model = base_model.bring_in(config.base_model, config.seed, context.cache, context.outputs["model"].path, progress)
    unread = sum(part["not_utf8"] for part in model.details.get("tokenizer_corpus", ()))
    if unread:
        files = "file" if unread == 1 else "files"
        context.warn(f"{unread} {files} of the tokenizer corpus left out: not UTF-8")
    return {"model": model, "suite": items}


if __name__ == "__main__":
    main(run, Config)
