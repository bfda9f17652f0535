"""Is the candidate better than the baseline, worse, or can it not be told? Item by item, with intervals.

    python components/evaluate/compare/step.py --in baseline=… --in candidate=… --out comparison=/tmp/comparison

Both scorecards must come from the same suite and splits, measured the same way, and hold the same items; nothing is dropped
to make them fit.
"""

from __future__ import annotations

import json
from typing import Annotated

from pydantic import Field

from tutelage.config import Config as BaseConfig
from tutelage.config import Seed
from tutelage.contracts import locations
from tutelage.contracts.digests import digest_of
from tutelage.contracts.store import Result
from tutelage.errors import StepFailed
from tutelage.step import Context, main


class Config(BaseConfig):
    """How sure a verdict must be."""

    seed: Seed = 0
    """Seed of the resampling."""
    confidence: Annotated[float, Field(ge=0.5, le=0.999)] = 0.95
    """Coverage of each interval. Each figure stands for itself: of twenty, one in error is to be expected at 0.95."""
    resamples: Annotated[int, Field(ge=200, le=100_000)] = 2000
    """Bootstrap draws per figure."""


def run(config: Config, context: Context) -> dict[str, Result]:
    """Read both scorecards → pair their items → resample → write verdicts."""
    from tutelage.evaluate.comparison import compare_figure, counts_of, pair, refuse_unlike
    from tutelage.evaluate.scorecard import read

    baseline, baseline_items = read(context.inputs["baseline"])
    candidate, candidate_items = read(context.inputs["candidate"])
    refuse_unlike(baseline, candidate)
    others = {figure["name"]: figure for figure in candidate["figures"]}
    names = {figure["name"] for figure in baseline["figures"]}
    if names != set(others):
        raise StepFailed(
            f"figures on one side only: {', '.join(sorted(names ^ set(others)))}",
            hint="`not_measured` in the other scorecard says why; both models must be measured alike",
        )
    figures = []
    for figure in baseline["figures"]:
        name = figure["name"]
        paired = pair(name, baseline_items[name], candidate_items[name])
        figures.append(compare_figure(figure, others[name], paired, config.confidence, config.resamples, config.seed))
        context.progress(len(figures), len(names), "figures")

    counts = counts_of(figures)
    comparison = {
        "confidence": config.confidence,
        "resamples": config.resamples,
        "baseline_model": baseline["model"],
        "candidate_model": candidate["model"],
        "suite": baseline["suite"],
        "splits": baseline["splits"],
        "figures": figures,
        "not_measured": baseline["not_measured"],
    }
    text = json.dumps(comparison, indent=1, ensure_ascii=False, allow_nan=False)
    locations.write_bytes(locations.join(context.outputs["comparison"].location, "comparison.json"), text.encode())
    metrics = {f"{figure['name'].replace('/', '_')}_difference": figure["difference"] for figure in figures}
    details = {
        "verdicts": {figure["name"]: figure["verdict"] for figure in figures},
        "suite": baseline["suite"],
        "splits": baseline["splits"],
    }
    return {"comparison": Result(content_digest=digest_of(comparison), metrics={**metrics, **counts}, details=details)}


if __name__ == "__main__":
    main(run, Config)
