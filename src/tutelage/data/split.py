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
from tutelage.data import personal_data
from tutelage.data.leaks import LEAK_HELDOUT, LEAK_SUITE, Index, Match, Protected, protect
from tutelage.data.near_duplicates import Components
from tutelage.data.rows import RowsWriter, Tally, complete
from tutelage.data.spark import Chunk
from tutelage.data.words import strong_words
from tutelage.errors import InvalidInput

if TYPE_CHECKING:
    from pyspark import Broadcast

#: Split → what people call it.
SPLITS = {"train": "training", "heldout": "held-out"}

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
    """What is to be protected of the items of a Suite: their texts, and these as curating masks rows that quote them.

    A masked text that is shorter than a sequence stands in any page, and protects nothing.
    """
    found: list[Protected | None] = []
    for item in items:
        for text in _telling_texts(item, length):
            found.append(protect(item["id"], LEAK_SUITE, text, length))
            masked, _ = personal_data.mask(text)
            if masked != text and len(strong_words(masked)) >= length:
                found.append(protect(item["id"], LEAK_SUITE, masked, length))
    return [text for text in found if text is not None]


def _telling_texts(item: Mapping[str, Any], length: int) -> list[str]:
    """The prompt; where it is too short to tell, with its right choice and with all of them, each with letters and without.

    A page that quotes a short question and its answer holds less than half of question and all choices, and one that lists
    all choices may hold less than half of question and answer, which it does not put side by side. A letter between short
    texts (`B. a marsh`) breaks most sequences: without that variant 9 of 50 OpenBookQA rows stayed unseen. Of a pair of
    sentences either one, in its context, gives the item away.
    """
    prompt, choices = str(item["prompt"]), item["choices"]
    if item["type"] == "stereotype":
        return [f"{prompt}\n{sentence}" for sentence in choices]
    if not choices or len(prompt.split()) >= 2 * length:
        return [prompt]
    lettered = [f"{chr(ord('A') + place)}. {choice}" for place, choice in enumerate(choices)]
    return ["\n".join([prompt, *told]) for every in (choices, lettered) for told in ([every[item["answer"]]], every)]


@dataclass(frozen=True)
class HeldOut:
    """The task of the second pass: what the held-out rows of a chunk say."""

    groups: Broadcast[frozenset[str]]
    sequence_words: int

    def chunk(self, chunk: Chunk) -> list[Protected]:
        """Held-out rows as texts to protect."""
        groups = self.groups.value
        found = [
            protect(row["id"], LEAK_HELDOUT, tables.own_text(row), self.sequence_words)
            for row in chunk.read()
            if row["group"] in groups
        ]
        return [text for text in found if text is not None]


@dataclass(frozen=True)
class Separation:
    """The task of the last pass: write the rows that contain no item of the Suite, of training rows no held-out row either."""

    output: str
    groups: Broadcast[frozenset[str]]
    index: Broadcast[Index]

    def chunk(self, chunk: Chunk) -> Tally:
        """Write one chunk's rows, each with its split."""
        groups, index = self.groups.value, self.index.value
        writer = RowsWriter(self.output, chunk.number, tables.SPLIT_ROWS)
        for row in chunk.read():
            split = "heldout" if row["group"] in groups else "train"
            # A held-out row finds itself among the held-out ones, but an item of the Suite may not stand in it.
            match = _leak(index, row, suite_only=split == "heldout")
            if match is not None:
                writer.drop(row["id"], match.kind, row["source"], f"{match.containment:.2f} of {match.id}")
                continue
            writer.keep(complete({**row, "split": split}, tables.SPLIT_ROWS))
            writer.tally.counts[f"{split}_{row['phase']}"] += 1
        return writer.close()


def _leak(index: Index, row: Mapping[str, Any], *, suite_only: bool) -> Match | None:
    """What a row gives away: of the Suite in all of its text, of held-out rows in what is its own.

    An item in a canned answer is learnt from every row that has it; two rows are no leaks of each other for sharing one.
    """
    own, whole = tables.own_text(row), tables.text_of(row)
    found = index.match(whole, suite_only=True) if whole != own else None
    return found or index.match(own, suite_only=suite_only)


def refuse_emptied(tally: Tally, phases: Iterable[str]) -> None:
    """Raise InvalidInput when leak removal left a phase without training or without held-out rows."""
    for phase, split in ((phase, split) for phase in sorted(phases) for split in SPLITS):
        if not tally.counts[f"{split}_{phase}"]:
            raise InvalidInput(
                f"no {SPLITS[split]} row of phase {phase} is left: all contain held-out rows or items of the Suite "
                f"({', '.join(f'{reason} {count}' for reason, count in sorted(tally.dropped.items()))})",
                hint="use data that does not contain the test, or another Suite",
            )
