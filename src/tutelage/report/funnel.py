"""What became of the data: rows in, kept and dropped by reason, step by step and source by source.

Steps count in their manifests. Sources are told apart by the lists of dropped rows (ids, reasons and places, never text); rows
of two sources at one place by their phase, which stands in the rows that ingest wrote.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tutelage.contracts import tables
from tutelage.contracts.manifest import Manifest
from tutelage.errors import StoreError

#: (title, name of the payload): the data steps whose rows the funnel follows.
STAGES = (
    ("Read from the sources", "documents"),
    ("Licence, quality and personal data", "curated"),
    ("Duplicates removed", "unique"),
    ("Leaks removed", "splits"),
    ("Set aside for evaluation", "tokens"),
)
#: What becomes of the suite's items is counted beside them.
SUITE = ("Items of the evaluation suite", "suite")
#: Beyond this many dropped rows or rows, sources at one place are shown together, so that a page takes no minutes.
MAXIMUM_ROWS = 2_000_000
MAXIMUM_EXAMPLES = 12
MAXIMUM_EXAMPLE_CHARACTERS = 200
EXAMPLES_A_REASON = 2


@dataclass
class SourceRows:
    """Rows of one source, or of several that cannot be told apart."""

    name: str
    place: str
    licence: str
    phase: str
    read: int
    dropped: Counter[str] = field(default_factory=Counter)
    passed_over: Counter[str] = field(default_factory=Counter)
    """What the recipe's own limits left out before there was a row."""
    files_beyond: int = 0
    """Files that nobody opened, since the recipe's limit was reached."""

    @property
    def kept(self) -> int:
        """Rows that training reads."""
        return self.read - sum(self.dropped.values())


@dataclass(frozen=True)
class BySource:
    """The funnel source by source, a few dropped rows for each reason (place, detail), and why it may be missing."""

    rows: tuple[SourceRows, ...] = ()
    examples: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    missing: str | None = None


def stages(payloads: Mapping[str, Manifest]) -> list[dict[str, Any]]:
    """A row for each data step that is there: title, rows in, rows kept, and drops, most first."""
    found = []
    for title, name in (*STAGES, SUITE):
        if (made := payloads.get(name)) is not None and made.rows is not None:
            dropped = sorted(made.dropped.items(), key=lambda item: (-item[1], item[0]))
            found.append({"title": title, "name": name, "rows_in": made.rows_in, "rows": made.rows, "dropped": dropped})
    return found


def by_source(payloads: Mapping[str, Manifest]) -> BySource:
    """The funnel of each source; why there is none where its lists cannot be read."""
    documents = payloads.get("documents")
    reports = documents.details.get("sources") if documents is not None else None
    if documents is None or not isinstance(reports, list | tuple) or not reports:
        return BySource()
    made = [payloads[name] for _, name in STAGES if name in payloads]
    if sum(sum(manifest.dropped.values()) for manifest in made) > MAXIMUM_ROWS:
        return BySource(
            missing=f"More than {MAXIMUM_ROWS:,} rows were dropped; the lists beside the payloads name each."
        )
    try:
        unread = list(_dropped(documents))
        lost = [row for manifest in made if manifest is not documents for row in _dropped(manifest)]
        phases = _phases(documents, {row["id"] for row in lost})
    except (OSError, StoreError, ValueError):
        return BySource(missing="The lists of dropped rows cannot be read any more, so sources cannot be told apart.")
    rows = _counted(reports, unread, lost, phases)
    return BySource(rows=tuple(rows), examples=_examples([*unread, *lost]))


def masked_examples(examples: Any) -> list[tuple[str, str]]:
    """(kind, masked example) pairs, a few, cut short; whatever has another shape is left out."""
    pairs: list[tuple[str, str]] = []
    if isinstance(examples, Mapping):
        for kind, values in sorted(examples.items()):
            several = values if isinstance(values, list | tuple) else [values]
            pairs += [(str(kind), str(value)) for value in several]
    elif isinstance(examples, list | tuple):
        for entry in examples:
            values = entry if isinstance(entry, Mapping) else {"example": entry}
            kind = values.get("kind") or values.get("type") or values.get("entity") or "masked"
            text = values.get("example") or values.get("text") or values.get("masked")
            if text:
                pairs.append((str(kind), " ".join(str(text).split())))
    return [(kind, text[:MAXIMUM_EXAMPLE_CHARACTERS]) for kind, text in pairs[:MAXIMUM_EXAMPLES]]


def _dropped(manifest: Manifest) -> Iterator[dict[str, Any]]:
    if sum(manifest.dropped.values()):
        if not tables.parquet_files(manifest, "dropped"):
            raise ValueError(f"{manifest.uri} counts dropped rows and lists none")
        yield from tables.read(manifest, "dropped", ["id", "reason", "source", "detail"])


def _phases(documents: Manifest, wanted: set[str]) -> dict[str, str] | None:
    """Row id → phase, for the wanted ids; None where there are too many rows to look through."""
    if (documents.rows or 0) > MAXIMUM_ROWS:
        return None
    rows = tables.read(documents, columns=["id", "phase"]) if wanted else ()
    return {row["id"]: row["phase"] for row in rows if row["id"] in wanted}


def _counted(
    reports: Sequence[Mapping[str, Any]],
    unread: Sequence[Mapping[str, Any]],
    lost: Sequence[Mapping[str, Any]],
    phases: Mapping[str, str] | None,
) -> list[SourceRows]:
    """Sources with their drops. Two that share place and phase, or place where phases are not known, become one row.

    `unread` are what ingest made no row of, which no phase is known for: they belong to the first source of their place.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for report in reports:
        groups[_origin(report), "" if phases is None else str(report.get("phase", ""))].append(report)
    found = {key: _together(key[0], entries) for key, entries in sorted(groups.items())}
    first = {origin: entry for (origin, _), entry in reversed(found.items())}
    origins = sorted(first, key=len, reverse=True)
    elsewhere = SourceRows("not known", "", "", "", 0)
    for row in unread:
        entry = first.get(_origin_of(str(row["source"]), origins), elsewhere)
        entry.read += 1
        entry.dropped[row["reason"]] += 1
    for row in lost:
        origin = _origin_of(str(row["source"]), origins)
        entry = found.get((origin, (phases or {}).get(row["id"], "")), first.get(origin, elsewhere))
        entry.read += entry is elsewhere
        entry.dropped[row["reason"]] += 1
    rows = sorted(found.values(), key=lambda entry: entry.name)
    return [*rows, elsewhere] if elsewhere.dropped else rows


def _together(origin: str, entries: Sequence[Mapping[str, Any]]) -> SourceRows:
    def values(name: str) -> list[str]:
        return sorted({str(entry.get(name, "")) for entry in entries})

    rows = sum(int(entry.get("rows", 0)) for entry in entries)
    place = "a file or folder of this installation" if values("name") == [origin] else origin
    made = SourceRows(" + ".join(values("name")), place, ", ".join(values("licence")), ", ".join(values("phase")), rows)
    for entry in entries:
        made.passed_over.update(entry.get("passed_over") or {})
        beyond = entry.get("over_limit") or {}
        made.passed_over.update({"over_limit": beyond["rows"]} if beyond.get("rows") else {})
        made.files_beyond += int(beyond.get("files", 0))
    return made


def _origin(report: Mapping[str, Any]) -> str:
    """What the places of a source's rows begin with: its address without the pin, the name of a local one."""
    address = str(report.get("uri", "")).partition("#")[0].rstrip("/")
    scheme = address.partition("://")[0] if "://" in address else "file"
    return str(report.get("name", "")) if scheme == "file" else address


def _origin_of(place: str, origins: Sequence[str]) -> str:
    return next((origin for origin in origins if place == origin or place.startswith(f"{origin}/")), "")


def _examples(lost: Sequence[Mapping[str, Any]]) -> dict[str, tuple[tuple[str, str], ...]]:
    """Reason → (place, detail) of a few rows, of the smallest ids, so that equal runs show equal ones."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in sorted(lost, key=lambda row: str(row["id"])):
        if len(found[row["reason"]]) < EXAMPLES_A_REASON:
            found[row["reason"]].append((str(row["source"]), str(row["detail"] or "")))
    return {reason: tuple(places) for reason, places in sorted(found.items())}
