"""A Scorecard on disk: figures, and beneath each the per-item values that paired statistics need.

Payload: `scorecard.json` and table `items`. A figure is the weighted mean of its items, or for perplexity the exponential
of it, so figures can be made again from items by anyone. Nothing measured by a clock stands here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

from tutelage.contracts import locations, tables
from tutelage.contracts.manifest import Manifest
from tutelage.contracts.scorecards import scorecard_digest
from tutelage.errors import CorruptPayload, StepFailed

SCORECARD_NAME = "scorecard.json"
WEIGHTED_MEAN = "weighted_mean"
EXPONENTIAL = "exponential_of_weighted_mean"
#: The alternative that names the value to be near, where the best is neither zero nor one.
FAIR = "fair"

_COLUMNS: list[pa.Field[Any]] = [
    pa.field("name", pa.string()),
    pa.field("item", pa.string()),
    pa.field("value", pa.float64()),
    pa.field("weight", pa.float64()),
]
#: One row for each figure and row or suite item: its value and its weight in the figure (tokens, bytes or 1).
ITEMS = pa.schema(_COLUMNS)


@dataclass(frozen=True)
class Item:
    """What one held-out row or suite item contributes to a figure."""

    item: str
    value: float
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A named number with the direction that is better, and how it follows from its items."""

    name: str
    value: float
    lower_is_better: bool
    items: int
    unit: str
    statistic: str
    alternatives: Mapping[str, float] = field(default_factory=dict)
    """The same measured another way (raw: not normalised by length); shown, never compared."""


@dataclass
class Measured:
    """What one kind of measurement found; several are added up into a scorecard."""

    figures: list[Figure] = field(default_factory=list)
    items: list[dict[str, Any]] = field(default_factory=list)
    coverage: dict[str, dict[str, int]] = field(default_factory=dict)
    """Figure → counts: how much there was, was measured, was left out and why."""
    not_measured: list[dict[str, str]] = field(default_factory=list)
    """Figures that are absent, each with the reason."""
    examples: list[dict[str, Any]] = field(default_factory=list)
    """A few generated texts, cut and masked."""

    def add_figure(
        self,
        name: str,
        items: Sequence[Item],
        *,
        lower_is_better: bool,
        unit: str,
        statistic: str = WEIGHTED_MEAN,
        alternatives: Mapping[str, float] | None = None,
    ) -> None:
        """Add a figure made of `items`. Raises StepFailed when the model gave no finite number."""
        mean = weighted_mean(items)
        value = math.exp(mean) if statistic == EXPONENTIAL and mean < 700 else mean
        if not math.isfinite(value) or (statistic == EXPONENTIAL and mean >= 700):
            raise StepFailed(
                f"{name} is not a finite number: mean over {len(items)} items is {mean}",
                hint="the model's weights hold NaN or infinities, or its training diverged; look at its loss",
            )
        self.figures.append(
            Figure(
                name=name, value=value, lower_is_better=lower_is_better, items=len(items), unit=unit,
                statistic=statistic, alternatives=dict(alternatives or {}),
            )
        )  # fmt: skip
        self.items += [{"name": name, **asdict(item)} for item in sorted(items, key=lambda item: item.item)]

    def leave_out(self, name: str, why: str) -> None:
        """Note that figure `name` is absent, and why."""
        self.not_measured.append({"name": name, "why": why})

    def add(self, other: Measured) -> None:
        """Add everything that `other` found."""
        self.figures += other.figures
        self.items += other.items
        self.coverage |= other.coverage
        self.not_measured += other.not_measured
        self.examples += other.examples


def weighted_mean(items: Iterable[Item]) -> float:
    """Mean of values by weight; summed exactly, so that the order of items does not matter."""
    pairs = [(item.value * item.weight, item.weight) for item in items]
    return math.fsum(product for product, _ in pairs) / math.fsum(weight for _, weight in pairs)


def write(measured: Measured, location: str, about: Mapping[str, Any]) -> tuple[str, dict[str, float], int]:
    """Write the payload. Gives its content digest, the figures by metric name, and how many item rows there are.

    `about` holds the digests of what was measured on and the protocol: compare refuses where they differ.
    """
    body = {
        **about,
        "figures": [asdict(figure) for figure in sorted(measured.figures, key=lambda figure: figure.name)],
        "not_measured": sorted(measured.not_measured, key=lambda entry: entry["name"]),
        "coverage": dict(sorted(measured.coverage.items())),
        "examples": measured.examples,
    }
    # As floats, as the column holds them: whoever reads the rows back must find the same digest.
    numbers = [{**row, "value": float(row["value"]), "weight": float(row["weight"])} for row in measured.items]
    rows = sorted(numbers, key=lambda row: (row["name"], row["item"]))
    items_digest = tables.write(rows, location, "items", ITEMS).hexdigest()
    text = json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False)
    locations.write_bytes(locations.join(location, SCORECARD_NAME), text.encode())
    metrics = {figure.name.replace("/", "_"): figure.value for figure in measured.figures}
    return scorecard_digest(body, items_digest), dict(sorted(metrics.items())), len(rows)


def read(manifest: Manifest) -> tuple[dict[str, Any], dict[str, dict[str, Item]]]:
    """The scorecard's JSON, and figure name → item id → Item. Raises CorruptPayload for an item that stands twice."""
    body = json.loads(locations.read_bytes(manifest.file(SCORECARD_NAME)))
    items: dict[str, dict[str, Item]] = {figure["name"]: {} for figure in body["figures"]}
    for row in tables.read(manifest, "items"):
        of_figure = items.setdefault(row["name"], {})
        if row["item"] in of_figure:
            raise CorruptPayload(f"{manifest.uri}: item {row['item']!r} stands twice under {row['name']}")
        of_figure[row["item"]] = Item(row["item"], row["value"], row["weight"])
    return dict(body), items
