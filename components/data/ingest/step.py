"""Sources → documents: every row with its text, where it came from, its licence, and what it belongs to.

    python components/data/ingest/step.py --out documents=/tmp/documents \
        --set 'sources=[{name: readme, uri: README.md, format: markdown, phase: pretrain, licence: Apache-2.0}]'
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from tutelage import config
from tutelage.contracts.store import Result
from tutelage.data.sources import Source
from tutelage.step import Context, main


class Config(config.Config):
    """What to read."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """Sources of all phases; their order does not matter."""

    @field_validator("sources")
    @classmethod
    def _names_are_unique(cls, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        names = [source.name for source in sources]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"sources share a name: {', '.join(twice)}")
        return sources


def run(config: Config, context: Context) -> dict[str, Result]:
    """Fetch and read every source; give Documents."""
    from tutelage.data.ingest import ingest

    def on_file(done: int) -> None:
        context.progress(done, None, "files")

    tally, reports = ingest(config.sources, context.cache, context.outputs["documents"].location, on_file)
    quarantined = sum(tally.dropped.values())
    if quarantined:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(tally.dropped.items()))
        context.warn(f"{quarantined} rows or files could not be read: {reasons}")
    return {"documents": tally.result({"sources": reports})}


if __name__ == "__main__":
    main(run, Config)
