"""Sources → rows with provenance. What cannot be read is quarantined: counted and listed with a reason, never a crash.

A row's id is a digest of phase, content, source and metadata, so it does not depend on where in a file or in which order
it was read; a second equal row of one file gets `metadata.occurrence`, since rows may not share an id.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tutelage.contracts import tables
from tutelage.contracts.digests import canonical_json, digest_of
from tutelage.contracts.licences import FROM_METADATA, UNKNOWN, normalise
from tutelage.contracts.sources import Fetched, fetch
from tutelage.data import python_code
from tutelage.data.conversations import NotARow, content_of, metadata_of
from tutelage.data.rows import RowsWriter, Tally, complete
from tutelage.data.sources import Source
from tutelage.errors import InvalidInput

DOWNLOADS_AT_ONCE = 4


@dataclass(frozen=True)
class Draft:
    """What a reader finds: a row's content, or, with a reason, that there is none."""

    content: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    licence: str | None = None
    group: str | None = None
    language: str | None = None
    reason: str | None = None
    detail: str = ""


Reader = Callable[[Source, Path, Counter[str]], Iterator[Draft]]


def fetch_all(sources: tuple[Source, ...], cache: Path) -> dict[str, Fetched]:
    """Every URI brought to this machine, several at once. Raises the first source's error in the order of the list."""
    uris = list(dict.fromkeys(source.uri for source in sources))
    with ThreadPoolExecutor(max_workers=DOWNLOADS_AT_ONCE) as downloads:
        return dict(zip(uris, downloads.map(lambda uri: fetch(uri, cache), uris), strict=True))


class Ingestion:
    """Reads sources one by one into a writer; ids seen so far make sure that no two rows share one."""

    def __init__(self, writer: RowsWriter) -> None:
        self._writer = writer
        self._seen: Counter[str] = Counter()

    def read(self, source: Source, fetched: Fetched, on_file: Callable[[], None]) -> dict[str, Any]:
        """Read one source; what it gave goes into the report that is returned. Raises InvalidInput when it has no file."""
        files = files_of(source, fetched)
        licence = (fetched.licence or UNKNOWN) if source.licence == FROM_METADATA else source.licence
        before, passed_over = Counter(self._writer.tally.dropped), Counter[str]()
        rows, over_limit, characters, unread = 0, 0, 0, 0
        for place, path in files:
            if source.limit is not None and rows >= source.limit:
                unread += 1
                continue
            found: Iterable[dict[str, Any]] = self._rows(source, place, path, licence, passed_over)
            if source.limit is not None:
                sample = sorted(found, key=lambda row: str(row["id"]))
                found = sample[: source.limit - rows]
                over_limit += max(0, len(sample) - (source.limit - rows))
            for row in found:
                self._writer.keep(row)
                characters += len(tables.text_of(row))
                rows += 1
            on_file()
        report: dict[str, Any] = {
            "name": source.name,
            "uri": source.uri,
            "digest": fetched.digest,
            "phase": source.phase,
            "licence": licence,
        }
        report |= {"files": len(files) - unread, "rows": rows, "characters": characters}
        report["dropped"] = dict(sorted((self._writer.tally.dropped - before).items()))
        report["passed_over"] = dict(sorted(passed_over.items()))
        return report | {"over_limit": {"rows": over_limit, "files": unread}}

    def _rows(
        self, source: Source, place: str, path: Path, licence: str, passed_over: Counter[str]
    ) -> Iterator[dict[str, Any]]:
        for number, draft in enumerate(READERS[source.format](source, path, passed_over)):
            reason, detail, row = draft.reason, draft.detail, None
            if reason is None:
                try:
                    row = self._row(source, place, licence, draft)
                except UnicodeEncodeError:
                    reason, detail = "not_unicode", "lone surrogates"
            if row is not None:
                yield row
            else:
                self._writer.drop(digest_of([place, source.phase, number])[:32], reason or "", place, detail)

    def _row(self, source: Source, place: str, licence: str, draft: Draft) -> dict[str, Any]:
        row = complete({"phase": source.phase, "source": place, "metadata": "{}", **draft.content})
        row["licence"] = draft.licence or licence
        row["language"] = draft.language or source.row_language
        row["group"] = _group(source, place, draft)
        metadata = dict(draft.metadata)
        row["metadata"] = canonical_json(metadata).decode()
        row["id"] = tables.row_id(row)
        self._seen[row["id"]] += 1
        if (occurrence := self._seen[row["id"]]) > 1:
            row["metadata"] = canonical_json({**metadata, "occurrence": occurrence}).decode()
            row["id"] = tables.row_id(row)
        return row


def files_of(source: Source, fetched: Fetched) -> list[tuple[str, Path]]:
    """(provenance, path) of the source's files, sorted by name, or by a hash of it where a limit takes a sample.

    Raises InvalidInput when there is none.
    """
    if fetched.path.is_file():
        return [(source.origin, fetched.path)]
    files = [(name, path) for name, path in fetched.files() if source.takes(name)]
    if not files:
        raise InvalidInput(
            f"source {source.name!r} has no {source.format} file at {source.uri}",
            hint="check uri, format, include and exclude",
        )
    if source.limit is not None:
        files.sort(key=lambda item: hashlib.sha256(item[0].encode()).digest())
    return [(f"{source.origin}/{name}", path) for name, path in files]


def ingest(
    sources: tuple[Source, ...], cache: Path, location: str, on_file: Callable[[int], None]
) -> tuple[Tally, list[dict[str, Any]]]:
    """Read all sources and write rows below `location`. Gives the tally and a report for each source.

    The sources' order does not matter: they are read in the order of their names. Raises InvalidInput when no row is found.
    """
    fetched = fetch_all(sources, cache)
    writer = RowsWriter(location)
    ingestion = Ingestion(writer)
    done = 0

    def count_file() -> None:
        nonlocal done
        done += 1
        on_file(done)

    ordered = sorted(sources, key=lambda source: source.name)
    reports = [ingestion.read(source, fetched[source.uri], count_file) for source in ordered]
    tally = writer.close()
    tally.refuse_empty("ingest", "check the sources' format, fields, include and exclude")
    return tally, reports


def _group(source: Source, place: str, draft: Draft) -> str:
    """What the row belongs to. The same in all phases, so that a file's prose and its exercises are split alike."""
    if draft.group is not None:
        return f"{source.origin}#{hashlib.sha256(draft.group.encode()).hexdigest()[:16]}"
    if source.grouping == "package":
        return source.origin
    if source.grouping == "file":
        return place
    return f"{place}#{draft.metadata.get('name') or digest_of(draft.content)[:16]}"


def _decoded(path: Path) -> str:
    return path.read_bytes().decode("utf-8-sig")


def _read_text(source: Source, path: Path, passed_over: Counter[str]) -> Iterator[Draft]:
    try:
        text = _decoded(path)
    except UnicodeDecodeError as error:
        yield Draft(reason="not_utf8", detail=f"byte {error.start}")
        return
    yield Draft({"text": text}) if text.strip() else Draft(reason="empty")


def _read_python(source: Source, path: Path, passed_over: Counter[str]) -> Iterator[Draft]:
    try:
        text = _decoded(path)
        tree = python_code.parse(text)
    except UnicodeDecodeError as error:
        yield Draft(reason="not_utf8", detail=f"byte {error.start}")
        return
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield Draft(reason="unparsable_python", detail=f"line {getattr(error, 'lineno', None) or 1}")
        return
    if source.format == "python_docstrings":
        for name, docstring in python_code.docstrings(tree):
            if _fits(source, len(docstring), passed_over):
                yield Draft({"text": docstring}, {"name": name})
        return
    found = list(python_code.functions(text, tree))
    yield from (_preferences if source.phase == "dpo" else _examples)(source, found, passed_over)


def _fits(source: Source, characters: int, passed_over: Counter[str]) -> bool:
    if characters < source.minimum_characters:
        passed_over["too_short"] += 1
        return False
    if source.maximum_characters is not None and characters > source.maximum_characters:
        passed_over["too_long"] += 1
        return False
    return True


def _examples(source: Source, found: list[python_code.Function], passed_over: Counter[str]) -> Iterator[Draft]:
    for function in found:
        if _fits(source, len(function.exercise) + len(function.answer()), passed_over):
            turns = [_turn("user", function.exercise), _turn("assistant", function.answer())]
            yield Draft({"messages": turns}, {"name": function.name})


def _preferences(source: Source, found: list[python_code.Function], passed_over: Counter[str]) -> Iterator[Draft]:
    """Chosen is the function; rejected is its signature over the body nearest in length of another one of the file.

    Of the same file, so that the pair stays within its group; nearest in length, so that length gives nothing away.
    """
    for function in found:
        if not _fits(source, len(function.exercise) + len(function.answer()), passed_over):
            continue
        others = [other for other in found if other.body != function.body]
        if not others:
            passed_over["no_other_function"] += 1
            continue
        size = len(function.body)
        other = min(others, key=lambda item: (abs(len(item.body) - size), item.name, item.body))
        content = {
            "prompt": [_turn("user", function.exercise)],
            "chosen": [_turn("assistant", function.answer())],
            "rejected": [_turn("assistant", function.answer(other.body))],
        }
        yield Draft(content, {"name": function.name, "rejected_body_of": other.name})


def _turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _read_jsonl(source: Source, path: Path, passed_over: Counter[str]) -> Iterator[Draft]:
    number = 0
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _line(source, line, number)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            yield Draft(reason="truncated", detail=f"after line {number}")


def _line(source: Source, line: bytes, number: int) -> Draft:
    try:
        record = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return Draft(reason="not_utf8", detail=f"line {number}")
    except (ValueError, RecursionError):
        # Nine times of ten the end of a file that was cut off.
        return Draft(reason="malformed_line", detail=f"line {number}")
    if not isinstance(record, dict):
        return Draft(reason="malformed_line", detail=f"line {number}: no object")
    return _record(source, record, f"line {number}")


def _record(source: Source, record: dict[str, Any], where: str) -> Draft:
    fields = source.fields
    try:
        content, metadata = content_of(record, source.phase, fields), metadata_of(record, fields)
    except NotARow as error:
        return Draft(reason=error.reason, detail=f"{where}: {error}")
    declared = record.get(fields.licence) if fields.licence else None
    language = record.get(fields.language) if fields.language else None
    group = record.get(fields.group) if fields.group else None
    return Draft(
        content,
        metadata,
        licence=(normalise(str(declared)) or UNKNOWN) if declared else None,
        language=str(language) if language else None,
        group=str(group) if group is not None else None,
    )


def _read_parquet(source: Source, path: Path, passed_over: Counter[str]) -> Iterator[Draft]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            _refuse_missing_columns(source, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=1024):
                for record in batch.to_pylist():
                    number += 1
                    yield _record(source, record, f"row {number}")
    except (pa.ArrowException, OSError) as error:
        yield Draft(reason="unreadable_parquet", detail=f"after row {number}: {type(error).__name__}")


def _refuse_missing_columns(source: Source, columns: list[str]) -> None:
    fields = source.fields
    needed = {"pretrain": [fields.text], "dpo": [fields.chosen, fields.rejected], "sft": [fields.messages]}[
        source.phase
    ]
    if source.phase == "sft" and fields.messages not in columns:
        needed = [fields.prompt, fields.completion]
    needed += [name for name in (fields.licence, fields.group, fields.language, *fields.metadata) if name]
    if missing := [name for name in needed if name not in columns]:
        raise InvalidInput(
            f"source {source.name!r} has no column {', '.join(missing)}; it has {', '.join(columns)}",
            hint="name the columns under `fields`",
        )


READERS: dict[str, Reader] = {
    "text": _read_text,
    "markdown": _read_text,
    "python_source": _read_text,
    "python_docstrings": _read_python,
    "python_functions": _read_python,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
}
