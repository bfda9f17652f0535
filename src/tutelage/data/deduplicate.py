"""What deduplication does: three passes over the rows without a shuffle, decisions in the driver.

1. tasks: exact key and band keys of every row (320 bytes a row come to the driver)
2. tasks: shingles of the rows that are candidates; driver: verification, components
3. tasks: write the rows that stay

Rows are compared within their phase: a docstring may stand in a document and in an exercise. The driver holds every row's
keys and the candidates' shingles, which is what bounds the size of a corpus (about 10 million rows in 8 GiB).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tutelage.contracts import tables
from tutelage.contracts.digests import canonical_json
from tutelage.data.near_duplicates import Components, Pair, bands_of, candidate_pairs, exact_key, jaccard
from tutelage.data.rows import RowsWriter, Tally
from tutelage.data.spark import Chunk
from tutelage.data.words import Hashes, plain_words, shingles

if TYPE_CHECKING:
    from pyspark import Broadcast

COLUMNS = ["id", "phase", "text", "messages", "prompt", "chosen", "rejected", "metadata"]


@dataclass(frozen=True)
class Keys:
    """What a pass over a chunk's rows finds: ids, exact keys (16 bytes a row) and band keys (32 × 8 bytes a row)."""

    ids: list[str]
    exact: list[bytes]
    bands: Hashes


@dataclass(frozen=True)
class Fingerprints:
    """The task of the first pass."""

    shingle_words: int

    def chunk(self, chunk: Chunk) -> Keys:
        """Keys of a chunk's rows."""
        ids, exact, bands = [], [], []
        for row in chunk.read(COLUMNS):
            words = plain_words(tables.own_text(row))
            ids.append(row["id"])
            exact.append(exact_key(row["phase"], " ".join(words) if words else tables.own_text(row)))
            # Phases never meet: the phase is part of every shingle's hash.
            bands.append(bands_of(_of_phase(shingles(words, self.shingle_words), row["phase"])))
        return Keys(ids, exact, np.array(bands, dtype=np.uint64).reshape(len(ids), -1))


@dataclass(frozen=True)
class Shingles:
    """The task of the second pass: shingles of the rows that are candidates."""

    shingle_words: int
    wanted: Broadcast[frozenset[str]]

    def chunk(self, chunk: Chunk) -> dict[str, Hashes]:
        """Row id → sorted distinct shingle hashes."""
        wanted = self.wanted.value
        return {
            row["id"]: _of_phase(shingles(plain_words(tables.own_text(row)), self.shingle_words), row["phase"])
            for row in chunk.read(COLUMNS)
            if row["id"] in wanted
        }


def _of_phase(hashes: Hashes, phase: str) -> Hashes:
    salt = int.from_bytes(exact_key(phase, "")[:8], "little")
    return np.sort(hashes ^ np.uint64(salt))


@dataclass
class Decisions:
    """What is dropped, for which kept row, and which kept rows are related."""

    dropped: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Row id → (reason, id of the row that is kept)."""
    related: dict[str, str] = field(default_factory=dict)
    """Id of a kept row → its component, where it is not alone."""


def exact_duplicates(ids: list[str], exact: list[bytes]) -> dict[str, tuple[str, str]]:
    """Dropped id → (reason, kept id), for rows of equal key; the smallest id stays."""
    smallest: dict[bytes, str] = {}
    for row_id, key in zip(ids, exact, strict=True):
        smallest[key] = min(row_id, smallest.get(key, row_id))
    return {
        row_id: ("exact_duplicate", smallest[key])
        for row_id, key in zip(ids, exact, strict=True)
        if smallest[key] != row_id
    }


def candidates_of(keys: list[Keys], dropped: Mapping[str, object]) -> list[tuple[str, str]]:
    """Pairs of ids whose texts may be alike, among the rows not dropped yet; each pair and the list sorted."""
    ids = np.array([row_id for part in keys for row_id in part.ids])
    bands = np.concatenate([part.bands for part in keys if len(part.ids)])
    # Row numbers in the order of ids: decisions do not depend on which chunk a row stood in.
    order = np.array([index for index in np.argsort(ids) if str(ids[index]) not in dropped], dtype=np.int64)
    pairs: list[Pair] = candidate_pairs(bands[order])
    return [(str(ids[order[one]]), str(ids[order[other]])) for one, other in pairs]


def decide(
    exact: Mapping[str, tuple[str, str]],
    pairs: list[tuple[str, str]],
    found: Mapping[str, Hashes],
    threshold: float,
    related: float,
) -> Decisions:
    """Verify candidates and settle what is kept. Only verified pairs connect; of a component the smallest id stays."""
    duplicates, loosely = Components(), []
    for one, other in pairs:
        likeness = jaccard(found[one], found[other])
        if likeness >= threshold:
            duplicates.join(one, other)
        elif likeness >= related:
            loosely.append((one, other))
    near = {name: duplicates.find(name) for pair in pairs for name in pair}
    dropped = {name: ("near_duplicate", kept) for name, kept in near.items() if kept != name}
    # A copy of a near-duplicate is a near-duplicate's copy: it points at the row that is kept.
    dropped |= {name: (reason, near.get(kept, kept)) for name, (reason, kept) in exact.items()}
    components = Components()
    for one, other in loosely:
        components.join(near[one], near[other])
    kept = {near[name] for pair in loosely for name in pair}
    members = {name: components.find(name) for name in kept}
    sizes = Counter(members.values())
    return Decisions(dropped, {name: component for name, component in members.items() if sizes[component] > 1})


@dataclass(frozen=True)
class Removal:
    """The task of the third pass: write what stays."""

    output: str
    decisions: Broadcast[Decisions]

    def chunk(self, chunk: Chunk) -> Tally:
        """Write the rows of a chunk that stay, each with its component where it has one."""
        decisions, writer = self.decisions.value, RowsWriter(self.output, chunk.number)
        for row in chunk.read():
            if row["id"] in decisions.dropped:
                reason, kept = decisions.dropped[row["id"]]
                writer.drop(row["id"], reason, row["source"], kept)
                continue
            if row["id"] in decisions.related:
                metadata = tables.metadata_of(row) | {"component": decisions.related[row["id"]]}
                row["metadata"] = canonical_json(metadata).decode()
            writer.keep(row)
        return writer.close()
