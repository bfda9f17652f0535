"""Documents → the documents that may be trained on: permitted licences, sound text, no personal data.

    python components/data/curate/step.py --in documents=runs/store/…/manifest.json --out curated=/tmp/curated \
        --set quality.minimum_words=5
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from tutelage import config
from tutelage.contracts.licences import normalise
from tutelage.contracts.store import Result
from tutelage.data.licences import PERMISSIVE
from tutelage.data.quality import Quality
from tutelage.step import Context, main

PersonalData = Literal["email", "phone", "iban", "card", "ip_address", "api_key", "private_key"]


class Config(config.Config):
    """What may pass."""

    allowed_licences: Annotated[tuple[str, ...], Field(min_length=1)] = PERMISSIVE
    """SPDX licences that may be trained on. AND needs all parts allowed, OR one, `X WITH exception` X."""
    languages: tuple[str, ...] | None = None
    """Languages to keep, as sources declare them; all when absent."""
    quality: Quality = Quality()
    """Thresholds of the quality rules."""
    personal_data: dict[PersonalData, Literal["mask", "drop"]] = Field(default_factory=dict)
    """What to do with rows that hold personal data, by type: mask it (the default) or drop the row."""

    @field_validator("allowed_licences")
    @classmethod
    def _licences_are_spdx(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        spelled = {name: normalise(name) for name in names}
        if wrong := [name for name, found in spelled.items() if found is None or " OR " in found or " AND " in found]:
            raise ValueError(f"no SPDX licences: {', '.join(wrong)}")
        return tuple(str(found) for found in spelled.values())


def run(config: Config, context: Context) -> dict[str, Result]:
    """Apply the policy to every row; give the rest of the Documents."""
    from tutelage.data import spark
    from tutelage.data.curate import Curation, first_of_each_type
    from tutelage.data.personal_data import TYPES

    manifest = context.inputs["documents"]
    curation = Curation(
        output=context.outputs["curated"].location,
        allowed_licences=frozenset(config.allowed_licences),
        languages=None if config.languages is None else frozenset(config.languages),
        dropped_types=frozenset(name for name, action in config.personal_data.items() if action == "drop"),
        quality=config.quality,
    )
    session = spark.session("curate")
    tally = spark.total(spark.over_chunks(session, context, spark.chunks_of(manifest), curation.chunk, "parts curated"))
    tally.refuse_empty("curate", "look at the reasons; the licences allowed are policy.curation.allowed_licences")
    masked = {name: tally.counts[f"masked_{name}"] for name in TYPES if tally.counts[f"masked_{name}"]}
    examples = [{"type": kind, "text": text} for _, kind, text in first_of_each_type(tally.examples)]
    details = {"personal_data": masked, "rows_masked": tally.counts["rows_masked"], "masked": examples}
    return {"curated": tally.result(details)}


if __name__ == "__main__":
    main(run, Config)
