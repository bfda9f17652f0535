"""What splitting does: units that may not be torn apart go to one side, in the order of a hash; then training is cleaned.

A unit is everything connected by a shared group or a shared near-duplicate component, over all phases. Units are taken in the
order of SHA-256(seed, unit) and held out while a phase of theirs still lacks rows, so the choice depends on seed and names
alone and fractions hold for small corpora too.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tutelage.contracts import tables
from tutelage.data.leaks import LEAK_HELDOUT, LEAK_SUITE, Index, Protected, protect
from tutelage.data.near_duplicates import Components
from tutelage.data.rows import RowsWriter, Tally, complete
from tutelage.data.spark import Chunk
from tutelage.errors import InvalidInput

if TYPE_CHECKING:
    from pyspark import Broadcast

Placement = tuple[str, str, str | None]
"""(phase, group, component) of a row."""


def placements(chunk: Chunk) -> list[tuple[Placement, int]]:
    """How many rows of a chunk stand at each placement: what the driver needs to split."""
    found: Counter[Placement] = Counter()
    for row in chunk.read(["phase", "group", "metadata"]):
        found[row["phase"], row["group"], tables.metadata_of(row).get("component")] += 1
    return sorted(found.items(), key=lambda item: str(item[0]))


def units_of(counts: Iterable[tuple[Placement, int]]) -> tuple[dict[str, str], dict[str, Counter[str]]]:
    """(group → unit, unit → rows by phase)."""
    connected, rows = Components(), list(counts)
    for (_, group, component), _ in rows:
        if component is not None:
            connected.join(("group", group), ("related", component))
    # Names sort "group" before "related", so a unit is called after its smallest group.
    units = {group: connected.find(("group", group))[1] for (_, group, _), _ in rows}
    sizes: dict[str, Counter[str]] = {}
    for (phase, group, _), count in rows:
        sizes.setdefault(units[group], Counter())[phase] += count
    return units, sizes


def choose(sizes: Mapping[str, Counter[str]], fraction: float, minimum: int, seed: int) -> frozenset[str]:
    """The units to hold out: about `fraction`, and at least `minimum`, of every phase's rows.

    Raises InvalidInput for a phase that cannot be split that way.
    """
    totals: Counter[str] = sum(sizes.values(), Counter())
    targets = {phase: max(minimum, round(fraction * rows)) for phase, rows in totals.items()}
    order = sorted(sizes, key=lambda unit: hashlib.sha256(f"{seed}\0{unit}".encode()).digest())
    heldout: Counter[str] = Counter()
    chosen: set[str] = set()
    # Units that overshoot by half come into play only where the others do not suffice.
    for excess in (1.5, float("inf")):
        for unit in order:
            phases = sizes[unit]
            lacking = any(heldout[phase] < targets[phase] for phase in phases)
            fits = all(
                heldout[phase] + rows <= min(excess * targets[phase], totals[phase] / 2)
                for phase, rows in phases.items()
            )
            if unit not in chosen and lacking and fits:
                chosen.add(unit)
                heldout += phases
        if all(heldout[phase] >= minimum for phase in totals):
            break
    _refuse_impossible(sizes, totals, heldout, minimum)
    return frozenset(chosen)


def _refuse_impossible(
    sizes: Mapping[str, Counter[str]], totals: Counter[str], heldout: Counter[str], minimum: int
) -> None:
    for phase in sorted(totals):
        if heldout[phase] >= max(1, minimum):
            continue
        units = sum(1 for unit in sizes.values() if unit[phase])
        raise InvalidInput(
            f"phase {phase} cannot be split: {totals[phase]} rows in {units} inseparable "
            f"group{'s' if units != 1 else ''} give {heldout[phase]} held-out rows, {minimum} are needed "
            "and at most half may be held out",
            hint="bring more rows, group them finer (`group_by: file` or `row` of the source), "
            "or lower policy.split.minimum_heldout",
        )


def suite_texts(items: Iterable[Mapping[str, Any]], length: int) -> list[Protected]:
    """Suite items to protect: the prompt, with its choices where the prompt alone is too short to tell."""
    found = []
    for item in items:
        text = item["prompt"]
        if len(text.split()) < 2 * length and item["choices"]:
            text = "\n".join([text, *item["choices"]])
        found.append(protect(item["id"], LEAK_SUITE, text, length))
    return [text for text in found if text is not None]


@dataclass(frozen=True)
class HeldOut:
    """The task of the second pass: what the held-out rows of a chunk say."""

    groups: Broadcast[frozenset[str]]
    sequence_words: int

    def chunk(self, chunk: Chunk) -> list[Protected]:
        """Held-out rows as texts to protect."""
        groups = self.groups.value
        found = [
            protect(row["id"], LEAK_HELDOUT, tables.text_of(row), self.sequence_words)
            for row in chunk.read()
            if row["group"] in groups
        ]
        return [text for text in found if text is not None]


@dataclass(frozen=True)
class Separation:
    """The task of the last pass: write held-out rows, and the training rows that contain nothing protected."""

    output: str
    groups: Broadcast[frozenset[str]]
    index: Broadcast[Index]

    def chunk(self, chunk: Chunk) -> Tally:
        """Write one chunk's rows, each with its split."""
        groups, index = self.groups.value, self.index.value
        writer = RowsWriter(self.output, chunk.number, tables.SPLIT_ROWS)
        for row in chunk.read():
            split = "heldout" if row["group"] in groups else "train"
            match = index.match(tables.text_of(row)) if split == "train" else None
            if match is not None:
                writer.drop(row["id"], match.kind, row["source"], f"{match.containment:.2f} of {match.id}")
                continue
            writer.keep(complete({**row, "split": split}, tables.SPLIT_ROWS))
            writer.tally.counts[f"{split}_{row['phase']}"] += 1
        return writer.close()


def refuse_emptied(tally: Tally, phases: Iterable[str]) -> None:
    """Raise InvalidInput when leak removal left a phase without training rows."""
    for phase in sorted(phases):
        if not tally.counts[f"train_{phase}"]:
            raise InvalidInput(
                f"no training row of phase {phase} is left: all contain held-out rows or items of the Suite "
                f"({', '.join(f'{reason} {count}' for reason, count in sorted(tally.dropped.items()))})",
                hint="use training data that does not contain the test, or another Suite",
            )
