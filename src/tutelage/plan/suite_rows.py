"""Rows of the files that a Suite is made of. What cannot be read is given as the reason why, and never repaired."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tutelage.errors import InvalidInput
from tutelage.plan.tasks import Format

#: Reasons for rows that cannot even be read. A gzip that breaks off or fails its checksum is one such row.
MALFORMED, NOT_UTF8, TRUNCATED = "malformed", "not_utf8", "truncated"
#: No member of a Suite unpacks to more: a gzip of one megabyte can hold a gigabyte.
MAXIMUM_UNPACKED_BYTES = 256 * 1024 * 1024
_GZIP_MAGIC = b"\x1f\x8b"
_BLOCK_BYTES = 1 << 20


def rows_of(path: Path, kind: Format) -> Iterator[Any]:
    """Rows of a file; a str stands for one that cannot be read, and is the reason. Raises InvalidInput for a gzip bomb."""
    data = path.read_bytes()
    whole = True
    if kind == "jsonl" and data.startswith(_GZIP_MAGIC):
        data, whole = _unpacked(data, path.name)
    data = data.removeprefix(codecs.BOM_UTF8)
    if kind == "csv":
        yield from _csv_rows(data)
    elif kind == "json":
        value = _json(data)
        if isinstance(value, list):
            yield from (row if isinstance(row, dict) else MALFORMED for row in value)
        else:
            yield value if isinstance(value, str) else MALFORMED
    else:
        # A line ends at a line feed and nowhere else: str.splitlines() also cuts at U+2028, U+0085 and form feeds.
        for line in data.split(b"\n"):
            if line.strip():
                yield _json(line) if kind == "jsonl" else _prompt(line)
    if not whole:
        yield TRUNCATED


def _unpacked(data: bytes, name: str) -> tuple[bytes, bool]:
    """What a gzip holds, and whether it is all there; of one that breaks off, the lines that are complete."""
    found = bytearray()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            while block := file.read(_BLOCK_BYTES):
                found += block
                if len(found) > MAXIMUM_UNPACKED_BYTES:
                    raise InvalidInput(
                        f"{name} unpacks to more than {MAXIMUM_UNPACKED_BYTES:,} bytes",
                        hint="a suite's file stays below that; unpack it and take what is needed",
                    )
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return bytes(found[: found.rfind(b"\n") + 1]), False
    return bytes(found), True


def _csv_rows(data: bytes) -> Iterator[Any]:
    # Bytes that are no UTF-8 become lone surrogates, which tell the rows that hold them.
    text = data.decode("utf-8", errors="surrogateescape")
    # The limit is the process's: only ever raised, so that nobody else's reading suffers.
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    lines = list(io.StringIO(text, newline=""))
    # Strict: else a quote that is never closed swallows all later rows into one field, and nobody learns of it.
    reader = csv.reader(lines, strict=True)
    names: list[str] = []
    first = 0
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            # Each line that was read in vain is a row lost, for all anyone can tell.
            yield from (MALFORMED for line in lines[first : reader.line_num] if line.strip())
        else:
            if cells and not names:
                names = cells
            elif cells:
                row = _named(names, cells)
                yield row if _is_unicode(row) else NOT_UTF8
        first = reader.line_num


def _named(names: Sequence[str], cells: Sequence[str]) -> dict[Any, Any]:
    """A row as csv.DictReader gives it: cells that are missing are None, and cells too many stand under None."""
    row: dict[Any, Any] = dict(zip_longest(names, cells[: len(names)]))
    return row | {None: list(cells[len(names) :])} if len(cells) > len(names) else row


def _is_unicode(row: Mapping[str, Any]) -> bool:
    try:
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _prompt(line: bytes) -> dict[str, str] | str:
    try:
        return {"prompt": line.decode("utf-8").strip()}
    except UnicodeDecodeError:
        return NOT_UTF8


def _json(data: bytes) -> Any:
    """A JSON object or list, or the reason why there is none."""
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        return NOT_UTF8
    except (ValueError, RecursionError):
        return MALFORMED
    return value if isinstance(value, dict | list) else MALFORMED
