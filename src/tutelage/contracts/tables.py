"""Rows on disk: Documents, Examples and Splits share one Parquet schema, so that data steps run once over all phases.

A row has a text (pretrain), `messages` (sft) or `prompt`, `chosen`, `rejected` (dpo), the conversational form of Hugging
Face libraries, and always its provenance: source, licence, group. `metadata` is canonical JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tutelage.contracts import locations
from tutelage.contracts.digests import RowsDigest, canonical_json
from tutelage.contracts.manifest import Manifest, PayloadFile

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

#: Documents and Examples.
ROWS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("phase", pa.string(), nullable=False),
        pa.field("text", pa.string()),
        pa.field("messages", _MESSAGES),
        pa.field("prompt", _MESSAGES),
        pa.field("chosen", _MESSAGES),
        pa.field("rejected", _MESSAGES),
        pa.field("source", pa.string(), nullable=False),
        pa.field("licence", pa.string()),
        pa.field("group", pa.string(), nullable=False),
        pa.field("language", pa.string()),
        pa.field("metadata", pa.string(), nullable=False),
    ]
)
#: Splits: the same rows, each in `train` or `heldout`.
SPLIT_ROWS = ROWS.append(pa.field("split", pa.string(), nullable=False))
#: Dropped rows: which, why, and enough to find it again, never its text.
DROPPED = pa.schema([("id", pa.string()), ("reason", pa.string()), ("source", pa.string()), ("detail", pa.string())])
#: Evaluation items. `type` is multiple_choice, stereotype (two choices, the stereotyping one first), harmful or harmless; the
#: last two have no choices. Choices keep their white space, as code needs it.
SUITE_ITEMS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("type", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("choices", pa.list_(pa.string())),
        pa.field("answer", pa.int32()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("licence", pa.string()),
        pa.field("language", pa.string()),
    ]
)

PHASES = ("pretrain", "sft", "dpo")
ROWS_PER_FILE = 50_000


def text_of(row: Mapping[str, Any]) -> str:
    """All text of a row in reading order: its text, or the contents of its messages joined by newlines."""
    if row.get("text") is not None:
        return str(row["text"])
    parts = [
        message["content"] for name in ("messages", "prompt", "chosen", "rejected") for message in row.get(name) or ()
    ]
    return "\n".join(parts)


#: Metadata of a pair: which of its ANSWERS were written for many prompts at once, separated by commas.
CANNED = "canned"
ANSWERS = ("chosen", "rejected")
#: Metadata that data steps write and read, so that a source may bring none of these names.
RESERVED = (CANNED, "component", "occurrence")


def own_text(row: Mapping[str, Any]) -> str:
    """`text_of` without canned answers: what makes two rows the same, or one a leak of a held-out one.

    A hundred prompts with four refusals among them are a hundred rows, though most of their words are the refusals'.
    """
    if f'"{CANNED}"' not in (row.get("metadata") or ""):
        return text_of(row)
    canned = {name for name in str(metadata_of(row).get(CANNED, "")).split(",") if name in ANSWERS}
    return text_of({name: value for name, value in row.items() if name not in canned})


def row_id(row: Mapping[str, Any]) -> str:
    """Hex digest of phase, content, source and metadata: the same row has the same id wherever it is read."""
    content = {name: row.get(name) for name in ("phase", "text", "messages", "prompt", "chosen", "rejected")}
    content["source"], content["metadata"] = row["source"], row.get("metadata")
    return hashlib.sha256(canonical_json(content)).hexdigest()[:32]


def write(rows: Iterable[Mapping[str, Any]], location: str, name: str, schema: pa.Schema) -> RowsDigest:
    """Write rows to `<location>/<name>-00000.parquet` …, 50,000 a file, at least one file. Returns their digest."""
    digest = RowsDigest()
    part: list[Mapping[str, Any]] = []
    parts = 0
    for row in rows:
        digest.add(row)
        part.append(row)
        if len(part) == ROWS_PER_FILE:
            write_part(part, location, f"{name}-{parts:05d}.parquet", schema)
            part, parts = [], parts + 1
    if part or parts == 0:
        write_part(part, location, f"{name}-{parts:05d}.parquet", schema)
    return digest


def write_part(rows: Sequence[Mapping[str, Any]], location: str, name: str, schema: pa.Schema) -> PayloadFile:
    """Write one Parquet file atomically; usable inside a Spark task. Returns its size and sha256."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows], schema=schema), sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    locations.write_bytes(locations.join(location, name), data)
    return PayloadFile(path=name, size=len(data), sha256=hashlib.sha256(data).hexdigest())


def parquet_files(manifest: Manifest, name: str) -> list[str]:
    """Locations of the payload's files of table `name`, sorted by path."""
    return [
        locations.join(manifest.location, entry.path)
        for entry in sorted(manifest.files, key=lambda entry: entry.path)
        if entry.path.startswith(f"{name}-") and entry.path.endswith(".parquet")
    ]


def read_file(location: str, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of one Parquet file, a batch at a time."""
    with locations.open_binary(location) as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=4096, columns=columns):
            yield from batch.to_pylist()


def read(manifest: Manifest, name: str = "rows", columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of table `name` of a payload, in file order. Sort by `id` where order matters."""
    for location in parquet_files(manifest, name):
        yield from read_file(location, columns)


def metadata_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's metadata as a mapping."""
    return dict(json.loads(row["metadata"]))
