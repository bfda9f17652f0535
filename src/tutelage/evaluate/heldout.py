"""The held-out rows of Splits: which of them are scored, chosen by a hash of their ids, and the rows themselves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tutelage.contracts import locations, tables
from tutelage.contracts.manifest import Manifest

_HELDOUT = pa.scalar("heldout")
_KEYS = ["id", "phase", "split"]
_CONTENT = ["id", "phase", "text", "messages", "prompt", "chosen", "rejected"]


def chosen_ids(ids: Iterable[str], maximum: int | None, seed: int) -> list[str]:
    """At most `maximum` of `ids`, sorted: those whose hash with the seed is lowest.

    A row's chance does not depend on the others, so adding rows to a split changes few of the chosen.
    """
    ranked = sorted(ids, key=lambda identifier: hashlib.sha256(f"{seed}:{identifier}".encode()).digest())
    return sorted(ranked if maximum is None else ranked[:maximum])


def heldout_rows(splits: Manifest, maximum: int, seed: int) -> tuple[dict[str, list[dict[str, Any]]], dict[str, int]]:
    """Phase → at most `maximum` held-out rows sorted by id, and phase → how many held-out rows there are.

    A phase without any row, held out or not, is in neither: a pipeline of one phase is not asked for the others.
    Reads ids first and content only of what was chosen, so a large training split costs two columns.
    """
    ids: dict[str, list[str]] = {}
    for batch in _batches(splits, _KEYS):
        for phase in pc.unique(batch["phase"]).to_pylist():
            ids.setdefault(str(phase), [])
        for row in batch.filter(pc.equal(batch["split"], _HELDOUT)).to_pylist():
            ids[row["phase"]].append(row["id"])
    chosen = {phase: chosen_ids(names, maximum, seed) for phase, names in sorted(ids.items())}
    wanted = pa.array(sorted(name for names in chosen.values() for name in names), type=pa.string())
    rows: dict[str, list[dict[str, Any]]] = {phase: [] for phase in chosen}
    for batch in _batches(splits, [*_CONTENT, "split"]):
        held = pc.and_(pc.equal(batch["split"], _HELDOUT), pc.is_in(batch["id"], value_set=wanted))
        for row in batch.filter(held).to_pylist():
            rows[row["phase"]].append(row)
    counts = {phase: len(names) for phase, names in ids.items()}
    return {phase: sorted(found, key=lambda row: str(row["id"])) for phase, found in rows.items()}, counts


def _batches(manifest: Manifest, columns: list[str]) -> Iterable[pa.RecordBatch]:
    for location in tables.parquet_files(manifest, "rows"):
        with locations.open_binary(location) as file:
            yield from pq.ParquetFile(file).iter_batches(batch_size=4096, columns=columns)
