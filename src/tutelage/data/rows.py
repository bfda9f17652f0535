"""Rows as data steps write them: complete, counted, hashed while they pass, so that nobody reads them a second time.

A writer fills `rows-*.parquet` and `dropped-*.parquet` and keeps a Tally. A Spark task returns its Tally, the driver adds
them up, and `result()` makes of the sum what the manifest says. Sums do not depend on how rows were spread over tasks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tutelage.contracts import tables
from tutelage.contracts.digests import RowsDigest
from tutelage.contracts.licences import UNKNOWN
from tutelage.contracts.manifest import PayloadFile
from tutelage.contracts.store import Result
from tutelage.errors import InvalidInput

#: A part is written when it holds this many rows or characters, whichever comes first.
ROWS_PER_PART = 50_000
CHARACTERS_PER_PART = 64_000_000
CONVERSATIONS = ("messages", "prompt", "chosen", "rejected")


def complete(row: Mapping[str, Any], schema: pa.Schema = tables.ROWS) -> dict[str, Any]:
    """`row` with every column of `schema` and nothing else, as it will be read back: digests need one form."""
    whole: dict[str, Any] = {name: row.get(name) for name in schema.names}
    for name in CONVERSATIONS:
        if whole[name] is not None:
            whole[name] = [{"role": turn["role"], "content": turn["content"]} for turn in whole[name]]
    return whole


@dataclass
class Tally:
    """What was written: files, digest of the rows, and counts. Small enough to travel from task to driver."""

    files: list[PayloadFile] = field(default_factory=list)
    digest_state: bytes | None = None
    rows: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    phases: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    """Whatever else a step counts."""
    examples: list[tuple[str, str, str]] = field(default_factory=list)
    """(row id, type, masked example)."""

    def add(self, other: Tally) -> None:
        """Add what another task wrote."""
        digest = RowsDigest(self.digest_state, self.rows)
        digest.merge(RowsDigest(other.digest_state, other.rows))
        self.digest_state, self.rows = digest.state(), digest.rows
        self.files += other.files
        self.dropped += other.dropped
        self.licences += other.licences
        self.phases += other.phases
        self.counts += other.counts
        self.examples += other.examples

    def result(self, details: Mapping[str, Any], metrics: Mapping[str, float] | None = None) -> Result:
        """The step's Result; rows_in is what was kept and what was dropped."""
        return Result(
            content_digest=RowsDigest(self.digest_state, self.rows).hexdigest(),
            rows=self.rows,
            rows_in=self.rows + sum(self.dropped.values()),
            dropped=dict(sorted(self.dropped.items())),
            licences=dict(sorted(self.licences.items())),
            metrics=metrics or {},
            details={"rows_by_phase": dict(sorted(self.phases.items())), **details},
            files=tuple(sorted(self.files, key=lambda entry: entry.path)),
        )

    def refuse_empty(self, step: str, hint: str) -> None:
        """Raise InvalidInput, naming the reasons, when no row is left."""
        if self.rows == 0:
            reasons = (
                ", ".join(f"{reason} {count}" for reason, count in self.dropped.most_common()) or "nothing came in"
            )
            raise InvalidInput(f"{step} left no row; dropped: {reasons}", hint=hint)


class RowsWriter:
    """Writes rows and dropped rows below a location in parts, and keeps the Tally."""

    def __init__(self, location: str, number: int | None = None, schema: pa.Schema = tables.ROWS) -> None:
        """`number` is that of the chunk a Spark task works on, which writes one part of each table at most."""
        self.tally = Tally()
        self._location, self._number, self._schema = location, number, schema
        self._digest = RowsDigest()
        self._kept: list[Mapping[str, Any]] = []
        self._lost: list[Mapping[str, Any]] = []
        self._characters = 0
        self._parts: Counter[str] = Counter()

    def keep(self, row: Mapping[str, Any]) -> None:
        """Take a row. It must be complete."""
        self._digest.add(row)
        self._kept.append(row)
        self._characters += len(tables.text_of(row))
        self.tally.licences[row["licence"] or UNKNOWN] += 1
        self.tally.phases[row["phase"]] += 1
        if self._number is None and (len(self._kept) >= ROWS_PER_PART or self._characters >= CHARACTERS_PER_PART):
            self._flush_kept()

    def drop(self, row_id: str, reason: str, source: str, detail: str = "") -> None:
        """List a dropped row; neither `source` nor `detail` may hold text of the row."""
        self._lost.append({"id": row_id, "reason": reason, "source": source, "detail": detail})
        self.tally.dropped[reason] += 1
        if self._number is None and len(self._lost) >= ROWS_PER_PART:
            self._flush_lost()

    def close(self) -> Tally:
        """Write what is left and give the Tally."""
        if self._kept:
            self._flush_kept()
        if self._lost:
            self._flush_lost()
        self.tally.digest_state, self.tally.rows = self._digest.state(), self._digest.rows
        return self.tally

    def _flush_kept(self) -> None:
        self._write("rows", self._kept, self._schema)
        self._kept, self._characters = [], 0

    def _flush_lost(self) -> None:
        self._write("dropped", self._lost, tables.DROPPED)
        self._lost = []

    def _write(self, table: str, rows: list[Mapping[str, Any]], schema: pa.Schema) -> None:
        number = self._parts[table] if self._number is None else self._number
        self._parts[table] += 1
        self.tally.files.append(tables.write_part(rows, self._location, f"{table}-{number:05d}.parquet", schema))
