"""Sources → rows with provenance. What cannot be read is quarantined: counted and listed with a reason, never a crash.

A row's id is a digest of phase, content, source and metadata, so it does not depend on where in a file or in which order
it was read; a second equal row of one file gets `metadata.occurrence`, since rows may not share an id.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tutelage.contracts import tables
from tutelage.contracts.digests import canonical_json, digest_of
from tutelage.contracts.licences import FROM_METADATA, UNKNOWN
from tutelage.contracts.sources import Fetched, fetch
from tutelage.data.readers import READERS, Draft
from tutelage.data.rows import RowsWriter, Tally, complete
from tutelage.data.sources import Source
from tutelage.errors import InvalidInput

DOWNLOADS_AT_ONCE = 4


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
        row["language"].encode()  # the only foreign text that is in no digest below
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
