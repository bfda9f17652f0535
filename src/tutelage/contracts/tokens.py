"""Tokens on disk: what `tokenize` writes and `train` reads, one Arrow table a phase, in the order they were packed.

A pretrain or sft row is a *sequence*: several documents or conversations behind one another, each `lengths[i]` tokens long.
Positions restart at every border, which is what keeps attention inside it. An sft row says by `targets` which tokens the
assistant speaks; in a pretrain row all are. A dpo row is one preference pair. Arrow files are mapped, not read, so ranks of
one machine share the page cache and a table may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tutelage.contracts import locations
from tutelage.contracts.digests import RowsDigest, canonical_json

_IDS = pa.list_(pa.int32())
_NAMES = pa.list_(pa.string())
_SEQUENCE: list[pa.Field[Any]] = [
    pa.field("index", pa.int64(), nullable=False),
    pa.field("rows", _NAMES, nullable=False),
    pa.field("input_ids", _IDS, nullable=False),
    pa.field("lengths", _IDS, nullable=False),
]
_PAIR: list[pa.Field[Any]] = [
    pa.field("index", pa.int64(), nullable=False),
    pa.field("row", pa.string(), nullable=False),
    pa.field("prompt_ids", _IDS, nullable=False),
    pa.field("chosen_ids", _IDS, nullable=False),
    pa.field("rejected_ids", _IDS, nullable=False),
]
#: Phase → schema of its table. `rows` and `row` name the rows of Splits that the tokens come from.
TOKENS: Mapping[str, pa.Schema] = {
    "pretrain": pa.schema(_SEQUENCE),
    "sft": pa.schema([*_SEQUENCE, pa.field("targets", pa.list_(pa.int8()), nullable=False)]),
    "dpo": pa.schema(_PAIR),
}
ROWS_PER_BATCH = 1024
ROWS_PER_FILE = 65_536


def write(rows: Iterable[Mapping[str, Any]], folder: Path, phase: str, digest: RowsDigest) -> int:
    """Write rows to `<folder>/<phase>-00000.arrow` …, adding each to `digest`. Gives their number; none, no file."""
    batch: list[Mapping[str, Any]] = []
    writer: Any = None
    count = 0
    for row in rows:
        digest.add(canonical_bytes(phase, row))
        if count % ROWS_PER_FILE == 0:
            _close(writer, batch, phase)
            writer = pa.ipc.new_file(str(folder / f"{phase}-{count // ROWS_PER_FILE:05d}.arrow"), TOKENS[phase])
            batch = []
        batch.append(row)
        count += 1
        if len(batch) == ROWS_PER_BATCH:
            writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=TOKENS[phase]))
            batch = []
    _close(writer, batch, phase)
    return count


def _close(writer: Any, batch: list[Mapping[str, Any]], phase: str) -> None:
    if writer is None:
        return
    if batch:
        writer.write_batch(pa.RecordBatch.from_pylist(batch, schema=TOKENS[phase]))
    writer.close()


def canonical_bytes(phase: str, row: Mapping[str, Any]) -> bytes:
    """The bytes that a row adds to the content digest: phase, position, and every column's numbers."""
    parts = [canonical_json([phase, row["index"], row.get("rows") or row.get("row")])]
    for field in TOKENS[phase]:
        if pa.types.is_list(field.type) and field.name != "rows":
            numbers = np.asarray(row[field.name], dtype="<i4")
            parts.append(f"{field.name}:{len(numbers)}:".encode() + numbers.tobytes())
    return b"\0".join(parts)


class TokenTable:
    """The tokens of one phase: rows by number, columns as numpy views on the mapped files."""

    def __init__(self, folder: Path, phase: str) -> None:
        """Map the files of `phase` below `folder`; a table without files has no rows."""
        self.phase = phase
        paths = [name for name, _ in locations.list_files(str(folder)) if _is_part(name, phase)]
        tables = [pa.ipc.open_file(pa.memory_map(str(folder / path))).read_all() for path in paths]
        whole = pa.concat_tables(tables) if tables else TOKENS[phase].empty_table()
        self._columns = {
            field.name: whole.column(field.name) for field in TOKENS[phase] if pa.types.is_list(field.type)
        }
        self._rows = whole.num_rows
        self._starts = np.cumsum([0] + [len(batch) for batch in next(iter(self._columns.values())).chunks])

    def __len__(self) -> int:
        return self._rows

    def column(self, name: str, row: int) -> NDArray[Any]:
        """The numbers of list column `name` in row `row`; a view, not to be written to."""
        chunk = int(np.searchsorted(self._starts, row, side="right")) - 1
        chunked: Any = self._columns[name].chunk(chunk)
        position = row - int(self._starts[chunk])
        first, last = chunked.offsets[position].as_py(), chunked.offsets[position + 1].as_py()
        values: NDArray[Any] = chunked.values[first:last].to_numpy(zero_copy_only=True)
        return values

    def sizes(self, name: str) -> NDArray[np.int64]:
        """How many numbers column `name` has in each row."""
        chunks: list[Any] = self._columns[name].chunks
        parts = [np.diff(chunk.offsets.to_numpy()) for chunk in chunks]
        return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)


def _is_part(name: str, phase: str) -> bool:
    return name.startswith(f"{phase}-") and name.endswith(".arrow")
