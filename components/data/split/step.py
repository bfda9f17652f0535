"""Unique documents and the Suite → training and held-out rows that do not leak into one another.

    python components/data/split/step.py --in unique=runs/store/…/manifest.json --in suite=runs/store/…/manifest.json \
        --out splits=/tmp/splits --set heldout_fraction=0.05
"""

from __future__ import annotations

from pydantic import Field

from tutelage import config
from tutelage.config import Seed
from tutelage.contracts.store import Result
from tutelage.step import Context, main


class Config(config.Config):
    """How much to hold out, and what counts as a leak."""

    heldout_fraction: float = Field(default=0.1, gt=0, le=0.5)
    """Share of every phase's rows to hold out, roughly: groups are not torn apart."""
    minimum_heldout: int = Field(default=8, ge=1)
    """Fewest held-out rows of a phase."""
    sequence_words: int = Field(default=5, ge=2, le=20)
    """Words of the sequences that leaks are found by."""
    containment: float = Field(default=0.5, gt=0, le=1)
    """Share of a protected text's sequences in a training row that makes it a leak."""
    seed: Seed = 0
    """Which groups are held out."""


def run(config: Config, context: Context) -> dict[str, Result]:
    """Choose held-out groups, drop training rows that contain them or the Suite; give Splits."""
    from tutelage.contracts import tables
    from tutelage.data import spark, split
    from tutelage.data.leaks import Index

    session = spark.session("split")
    chunks = spark.chunks_of(context.inputs["unique"])
    counts = spark.over_chunks(session, context, chunks, split.placements, "parts counted")
    units, sizes = split.units_of([item for part in counts for item in part])
    chosen = split.choose(sizes, config.heldout_fraction, config.minimum_heldout, config.seed)
    groups = spark.shared(session, frozenset(group for group, unit in units.items() if unit in chosen))

    held = split.HeldOut(groups, config.sequence_words)
    protected = split.suite_texts(tables.read(context.inputs["suite"], "items"), config.sequence_words)
    suite_items = len(protected)
    for part in spark.over_chunks(session, context, chunks, held.chunk, "parts held out"):
        protected += part
    index = spark.shared(session, Index(protected, config.sequence_words, config.containment))

    separation = split.Separation(context.outputs["splits"].location, groups, index)
    tally = spark.total(spark.over_chunks(session, context, chunks, separation.chunk, "parts written"))
    split.refuse_emptied(tally, {phase for unit in sizes.values() for phase in unit})
    details = {"rows_by_split": dict(sorted(tally.counts.items())), "units": len(sizes), "units_heldout": len(chosen)}
    return {"splits": tally.result({**details, "suite_items": suite_items})}


if __name__ == "__main__":
    main(run, Config)
