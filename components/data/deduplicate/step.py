"""Curated documents → each said once: exact copies, then near-duplicates.

    python components/data/deduplicate/step.py --in curated=runs/store/…/manifest.json --out unique=/tmp/unique \
        --set threshold=0.7
"""

from __future__ import annotations

from pydantic import Field, model_validator

from tutelage import config
from tutelage.contracts.store import Result
from tutelage.step import Context, main


class Config(config.Config):
    """What counts as the same."""

    threshold: float = Field(default=0.8, gt=0.5, le=1)
    """Rows of at least this Jaccard similarity are near-duplicates: one stays. Below 0.7 the search misses many."""
    related: float = Field(default=0.6, ge=0.5, le=1)
    """Rows from here to `threshold` stay, and share `metadata.component`, which split keeps together."""
    shingle_words: int = Field(default=5, ge=1, le=20)
    """Words of a shingle."""

    @model_validator(mode="after")
    def _related_is_below(self) -> Config:
        if self.related > self.threshold:
            raise ValueError("related is above threshold")
        return self


def run(config: Config, context: Context) -> dict[str, Result]:
    """Find copies, keep one of each; give the rest of the Documents."""
    from tutelage.data import spark
    from tutelage.data.deduplicate import Fingerprints, Removal, Shingles, candidates_of, decide, exact_duplicates

    session = spark.session("deduplicate")
    chunks = spark.chunks_of(context.inputs["curated"])
    keys = spark.over_chunks(session, context, chunks, Fingerprints(config.shingle_words).chunk, "parts fingerprinted")
    exact = exact_duplicates([name for part in keys for name in part.ids], [key for part in keys for key in part.exact])
    pairs = candidates_of(keys, exact)
    shingles = Shingles(config.shingle_words, spark.shared(session, frozenset(name for pair in pairs for name in pair)))
    answers = spark.over_chunks(session, context, chunks if pairs else [], shingles.chunk, "parts compared")
    found = {name: hashes for answer in answers for name, hashes in answer.items()}
    decisions = decide(exact, pairs, found, config.threshold, config.related)
    removal = Removal(context.outputs["unique"].location, spark.shared(session, decisions))
    tally = spark.total(spark.over_chunks(session, context, chunks, removal.chunk, "parts written"))
    details = {"candidate_pairs": len(pairs), "related_rows": len(decisions.related)}
    return {"unique": tally.result(details)}


if __name__ == "__main__":
    main(run, Config)
