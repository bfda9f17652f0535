"""Measure a model on held-out rows and on the suite: what it learnt, what it knows, what it refuses.

    python components/evaluate/evaluate/step.py --in model=… --in splits=… --in suite=… --out scorecard=/tmp/scorecard \
        --set maximum_heldout_rows=100

Per-item values go into table `items`, so that `compare` can pair them; figures are sums over them. Generated text is judged
and dropped, but for a few short masked examples.
"""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field

from tutelage.config import Config as BaseConfig
from tutelage.config import Seed
from tutelage.contracts.store import Result
from tutelage.step import Context, main


class Config(BaseConfig):
    """How much is measured, and how."""

    seed: Seed = 0
    """Decides which rows and items are measured where a limit leaves some out."""
    maximum_heldout_rows: Annotated[int, Field(ge=1)] = 500
    """Held-out rows measured per phase, chosen by a hash of their ids; the rest is counted."""
    maximum_suite_items: Annotated[int, Field(ge=1)] | None = None
    """Suite items measured per task, chosen likewise; all when absent."""
    maximum_row_tokens: Annotated[int, Field(ge=16)] = 2048
    """Tokens measured of one row; what is cut is counted. Models with fewer positions read it in windows."""
    maximum_new_tokens: Annotated[int, Field(ge=1, le=1024)] = 32
    """Tokens generated in answer to a harmful or harmless prompt; refusals show at the beginning."""
    batch_tokens: Annotated[int, Field(ge=1)] = 4096
    """Tokens of a batch, padding included; changes speed and memory, not figures."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the forward pass. bfloat16 is faster where the processor has it, and coarser."""
    threads: Annotated[int, Field(ge=1)] = 2
    """CPU threads; fixed here since the last digits of sums may depend on it."""
    examples: Annotated[int, Field(ge=0, le=5)] = 2
    """Answers kept per kind of prompt, masked and at most 120 characters long."""


#: Fields that decide what a figure means; they must be equal on both sides of a comparison.
PROTOCOL = (
    "seed", "maximum_heldout_rows", "maximum_suite_items", "maximum_row_tokens", "maximum_new_tokens", "dtype",
)  # fmt: skip


def run(config: Config, context: Context) -> dict[str, Result]:
    """Load the model → measure → write the scorecard."""
    # OpenMP reads it when PyTorch is imported: threads that wait must sleep, not spin. On two cores shared with other work
    # spinning took 37 CPU-seconds where sleeping took 9, and 118 seconds instead of 28.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from tutelage.evaluate import scorecard
    from tutelage.evaluate.examine import Limits, examine, load_examinee, threads

    limits = Limits(
        seed=config.seed, heldout_rows=config.maximum_heldout_rows, suite_items=config.maximum_suite_items,
        row_tokens=config.maximum_row_tokens, new_tokens=config.maximum_new_tokens, examples=config.examples,
    )  # fmt: skip
    with threads(config.threads):
        examinee = load_examinee(
            context.input_path("model"), config.dtype, config.maximum_row_tokens, config.batch_tokens, context.progress
        )
        measured = examine(examinee, context.inputs["splits"], context.inputs["suite"], limits, context.observe)
    for entry in measured.not_measured:
        context.warn(f"not measured: {entry['name']}: {entry['why']}")

    values = config.values()
    about = {name: context.inputs[name].content_digest for name in ("model", "splits", "suite")}
    protocol = {name: values[name] for name in PROTOCOL}
    digest, metrics, items = scorecard.write(
        measured, context.outputs["scorecard"].location, {**about, "protocol": protocol}
    )
    absent = {entry["name"]: entry["why"] for entry in measured.not_measured}
    details = {**about, "protocol": protocol, "not_measured": absent, "coverage": measured.coverage}
    return {"scorecard": Result(content_digest=digest, rows=items, metrics=metrics, details=details)}


if __name__ == "__main__":
    main(run, Config)
