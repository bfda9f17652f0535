"""What curation does to one chunk of rows: licence, language and quality decide, personal data is masked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tutelage.contracts import tables
from tutelage.contracts.digests import canonical_json
from tutelage.contracts.licences import normalise
from tutelage.data import licences, personal_data, quality
from tutelage.data.quality import Quality
from tutelage.data.rows import CONVERSATIONS, RowsWriter, Tally
from tutelage.data.spark import Chunk

EXAMPLES_A_TYPE = 3


@dataclass(frozen=True)
class Curation:
    """Everything a task needs."""

    output: str
    allowed_licences: frozenset[str]
    languages: frozenset[str] | None
    dropped_types: frozenset[str]
    """Types of personal data for which a row is dropped; the others are masked."""
    quality: Quality

    def chunk(self, chunk: Chunk) -> Tally:
        """Curate one chunk and write what is left of it."""
        writer = RowsWriter(self.output, chunk.number)
        for row in chunk.read():
            kept, reason, found = self.row(row)
            source = personal_data.mask(row["source"])[0]
            if reason is not None:
                writer.drop(row["id"], reason, source)
                continue
            writer.keep(kept)
            if found:
                writer.tally.counts["rows_masked"] += 1
                writer.tally.counts.update({f"masked_{name}": count for name, count in found.items()})
                writer.tally.examples += examples_of(kept)
        writer.tally.examples = first_of_each_type(writer.tally.examples)
        return writer.close()

    def row(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], str | None, Counter[str]]:
        """(row with personal data masked, reason to drop it or None, personal data by type)."""
        reason = licences.refusal(row["licence"], self.allowed_licences)
        if reason is None and self.languages is not None and row["language"] not in self.languages:
            reason = "language_not_allowed"
        reason = reason or quality.refusal(row, self.quality)
        if reason is not None:
            return {}, reason, Counter()
        kept, found = masked(row)
        kept["licence"] = normalise(kept["licence"])
        refused = sorted(self.dropped_types & set(found))
        return kept, f"personal_data_{refused[0]}" if refused else None, found


def masked(row: Mapping[str, Any]) -> tuple[dict[str, Any], Counter[str]]:
    """The row with personal data masked wherever it may stand, and how much of each type there was."""
    kept, found = dict(row), Counter[str]()

    def clean(text: str) -> str:
        result, counts = personal_data.mask(text)
        found.update(counts)
        return result

    if kept["text"] is not None:
        kept["text"] = clean(kept["text"])
    for name in CONVERSATIONS:
        if kept[name] is not None:
            kept[name] = [{"role": turn["role"], "content": clean(turn["content"])} for turn in kept[name]]
    kept["source"], kept["group"] = clean(kept["source"]), clean(kept["group"])
    kept["language"] = None if kept["language"] is None else clean(kept["language"])
    metadata = tables.metadata_of(kept)
    if any(isinstance(value, str) for value in metadata.values()):
        changed, counts = personal_data.mask_values(metadata)
        found.update(counts)
        kept["metadata"] = canonical_json(changed).decode() if counts else kept["metadata"]
    return kept, found


def examples_of(row: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(id, type, example) of the first placeholder in a masked row's text."""
    text = personal_data.example(tables.text_of(row))
    if text is None:
        return []
    # Belt and braces: what is shown must hold nothing that a second look would find.
    kind = next(name for name in personal_data.TYPES if f"<{name.upper()}>" in text)
    return [] if personal_data.mask(text)[1] else [(row["id"], kind, text)]


def first_of_each_type(examples: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """At most three examples of each type, of the smallest row ids: the same however rows were spread."""
    taken: Counter[str] = Counter()
    kept = []
    for example in sorted(set(examples)):
        taken[example[1]] += 1
        if taken[example[1]] <= EXAMPLES_A_TYPE:
            kept.append(example)
    return kept
