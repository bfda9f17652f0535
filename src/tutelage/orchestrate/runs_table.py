"""`tutelage runs`, and what `tutelage run` says at its end: records of runs as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.filesize import decimal

from tutelage.orchestrate.records import RunRecord

VERDICTS = {"better": "better", "worse": "worse", "cannot_be_told": "cannot be told from it"}
HEAD = ("run", "outcome", "verdict", "seconds", "payloads", "started (UTC)", "recipe")
RIGHT = frozenset({"seconds", "payloads"})
INDENT = "    "
NOT_MEASURED = "not measured"
#: A cause of more characters than this is cut at a word.
CAUSE_CHARACTERS = 120


def runs_table(records: Sequence[RunRecord]) -> str:
    """A line a run, oldest first, and below it what its release policy asked about, or why it ended as it did."""
    rows = [HEAD, *(_cells(record) for record in records)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [_aligned(HEAD, widths)]
    for record, row in zip(records, rows[1:], strict=True):
        lines.append(_aligned(row, widths))
        lines += _below(record)
    return "\n".join(lines)


def _cells(record: RunRecord) -> tuple[str, ...]:
    return (
        record.run,
        record.state,
        record.verdict or "-",
        f"{seconds_of(record):,.1f}" if seconds_of(record) is not None else "-",
        size(record.payload_bytes, "-"),
        record.started[:16].replace("T", " "),
        record.recipe,
    )


def seconds_of(record: RunRecord) -> float | None:
    """How long a run took; of one that runs, how long so far."""
    if record.seconds is None and record.state == "running":
        return (datetime.now(UTC) - datetime.fromisoformat(record.started)).total_seconds()
    return record.seconds


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(width) if name in RIGHT else cell.ljust(width)
        for name, cell, width in zip(HEAD, cells, widths, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _below(record: RunRecord) -> Iterator[str]:
    width = max((len(str(figure.get("name"))) for figure in record.figures), default=0)
    for figure in record.figures:
        verdict = str(figure.get("verdict"))
        change = f"{_number(figure.get('baseline'))} → {_number(figure.get('candidate'))}"
        yield f"{INDENT}{figure.get('name')!s:<{width}}  {change:<20}  {VERDICTS.get(verdict, verdict)}"
    if cause := (record.cause or "").strip():
        where = f"{record.failed_task}: " if record.failed_task else ""
        yield f"{INDENT}{where}{_cut(cause.splitlines()[0])}"


def _cut(text: str) -> str:
    """A text of one line, cut at a word where it is too long."""
    if len(text) <= CAUSE_CHARACTERS:
        return text
    start = text[:CAUSE_CHARACTERS]
    return f"{(start.rpartition(' ')[0] or start[:-1]).rstrip(' ,;:')} …"


def _number(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, int | float) else "-"


def size(count: int | None, absent: str = NOT_MEASURED) -> str:
    """Bytes in words: 81.2 MB, with `absent` for None."""
    return absent if count is None else decimal(count)


def summary(record: RunRecord) -> str:
    """What a run says of itself at its end."""
    verdict = f", verdict {record.verdict}" if record.verdict else ""
    largest = f", the largest process ({record.peak_memory_process or 'its name is not known'})"
    starts = record.spark_starts
    parts = [
        ("run", [record.run]),
        ("outcome", [f"{record.outcome} in {record.seconds:.1f} s{verdict}"]),
        ("stages", stage_lines(record.stages, record.seconds or 0.0)),
        ("memory", [size(record.peak_memory_bytes) + (largest if record.peak_memory_bytes is not None else "")]),
        ("store", [size(record.store_bytes) + _own(record)]),
        ("spark", [NOT_MEASURED if starts is None else f"{starts} start{'' if starts == 1 else 's'}"]),
        ("plan", [record.plan_page] if record.plan_page else []),
        ("release", [record.release_page] if record.release_page else []),
        ("report", [record.report] if record.report else []),
    ]
    lines = []
    for name, values in parts:
        lines += [f"{name if index == 0 else '':<10}{value}" for index, value in enumerate(values)]
    return "\n".join(lines)


def _own(record: RunRecord) -> str:
    """What of the store is this run's: what it wrote itself, and what earlier runs had left for it."""
    if record.payload_bytes is None or record.written_bytes is None:
        return ""
    found = record.payload_bytes - record.written_bytes
    again = f", and found {size(found)} of earlier runs again" if found else ""
    return f"; this run wrote {size(record.written_bytes)}{again}"


def stage_lines(stages: Mapping[str, Mapping[str, Any]], seconds: float) -> list[str]:
    """A line a stage: its seconds, and what became of its steps; last, what starting the steps took."""
    lines = []
    for name, stage in stages.items():
        counts = ", ".join(
            f"{stage[key]} {key}" for key in ("finished", "reused", "failed", "unfinished") if stage[key]
        )
        lines.append(f"{name:<9}{stage['seconds']:8.1f} s   {counts}")
    rest = seconds - sum(stage["seconds"] for stage in stages.values())
    if stages and rest > 0:
        lines.append(f"{'between':<9}{rest:8.1f} s   starting each step")
    return lines
