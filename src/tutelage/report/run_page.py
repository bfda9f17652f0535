"""The run page: everything a run left behind, on one page, for runs that ended well, badly, or not at all.

    tutelage report RUN          # or: render(Path("runs/2026-…"))

What went wrong comes first, with its hint and the end of the failing step's log; then the pipeline, what was trained, how it
compares, what became of the data, where everything came from, and how to do it again. No script, no network, no text of a row;
e-mail addresses and credentials are masked wherever they might come from.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tutelage.contracts import locations
from tutelage.contracts.ancestry import ancestry_of
from tutelage.contracts.manifest import Manifest
from tutelage.contracts.masking import mask
from tutelage.lineage.graph import Graph, back_from, from_manifests
from tutelage.lineage.tree import render as tree
from tutelage.report.intervals import interval_plot
from tutelage.report.run_charts import duration, graph, loss_curve, timeline
from tutelage.report.run_record import FAILED, STATES, Record, read_record, warnings_of
from tutelage.report.style import environment, number, page

OUTCOMES: Mapping[str, str] = {
    "done": "✓ done",
    "failed": "✗ failed",
    "refused": "⊘ refused by a gate",
    "invalid": "✗ wrong input",
    "budget": "✗ budget spent",
}
VERDICTS = {"better": "▲ better", "worse": "▼ worse", "cannot_be_told": "○ cannot be told"}


def render(folder: Path, *, needs: Mapping[str, tuple[str, ...]] | None = None, store: str | None = None) -> str:
    """The page of the run in `folder`, as one HTML file.

    `needs` maps the label of every task of the pipeline to the labels it waits for, so that tasks that never started are drawn
    too; `store` is the root of payloads (RUNS/store when absent). Missing files are named on the page; nothing is raised for
    them.
    """
    from jinja2 import ChainableUndefined
    from markupsafe import Markup

    record = read_record(folder, needs, store)
    manifests = record.manifests()
    models = {label: made for label, made in record.of_kind("model").items() if made.details.get("loss")}
    comparison = _comparison(record)
    lineage = _lineage(record, manifests)
    # A page about a run that went wrong cannot be strict about what is missing.
    template = environment().overlay(undefined=ChainableUndefined)
    template.filters = {**environment().filters, "duration": duration, "bytes": size, "number": _number}
    body = template.from_string(Path(__file__).with_suffix(".jinja").read_text(encoding="utf-8")).render(
        record=record,
        outcome=_outcome(record),
        tasks=list(record.tasks.values()),
        counts=_counts(record),
        troubles=[task for task in record.tasks.values() if task.failed],
        warnings=warnings_of(record.tasks),
        # Drawings are built of escaped parts.
        graph=Markup(graph(record.tasks)),  # noqa: S704
        timeline=Markup(timeline(record.tasks)),  # noqa: S704
        curves=[Markup(loss_curve(label, made.details["loss"])) for label, made in models.items()],  # noqa: S704
        models=models,
        comparison=comparison,
        plot=Markup(interval_plot(comparison["figures"])) if comparison else "",  # noqa: S704
        scorecards=[] if comparison else _scorecards(record),
        verdict=_verdict(record, folder),
        funnel=[(key, made) for key, made in manifests.items() if made.rows_in is not None],
        lineage=tree(lineage) if lineage else None,
        sources=_sources(lineage),
        seeds=sorted({str(made.seed) for made in manifests.values() if made.seed is not None}),
        settings={label: _settings(task.made) for label, task in record.tasks.items() if task.made},
        payload_bytes=sum(entry.size for made in manifests.values() for entry in made.files),
        command=_command(record.record.get("command")),
        versions=dict(sorted((record.record.get("versions") or {}).items())),
    )
    return page(f"Run {record.run}", mask(body))


def _command(command: Any) -> str:
    """The command line, from one string or a list of words."""
    return command if isinstance(command, str) else " ".join(map(str, command or []))


def size(count: int | None) -> str:
    """Bytes for readers: 512 B, 3.4 kB, 93 MB, "unknown"."""
    if count is None:
        return "unknown"
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if value >= 10 or units[0] == "B" else f"{value:.1f} {units[0]}"


def _number(value: Any) -> str:
    return number(value) if isinstance(value, int | float) else "unknown"


def _outcome(record: Record) -> dict[str, str]:
    """The run's outcome as sign and words, and the class of its colour."""
    outcome = record.record.get("outcome")
    if outcome is None:
        broken = any(task.failed for task in record.tasks.values())
        return {"words": "✗ failed, its record is missing" if broken else "◔ not finished", "colour": "note"}
    return {"words": OUTCOMES.get(outcome, f"? {outcome}"), "colour": "good" if outcome == "done" else "bad"}


def _counts(record: Record) -> str:
    """How many tasks ended how: "12 done, 3 reused, 1 failed"."""
    states = [task.state for task in record.tasks.values()]
    return ", ".join(f"{states.count(state)} {words}" for state, (_, words) in STATES.items() if state in states)


def _comparison(record: Record) -> dict[str, Any] | None:
    """The last comparison with its figures in words; None where nothing was compared."""
    found = list(record.of_kind("comparison").values())
    payload = record.payload(found[-1], "comparison.json") if found else {}
    if not payload.get("figures"):
        return None
    figures = [
        {
            "baseline": None, "candidate": None, "difference": None, "low": None, "high": None, "items": None,
            "lower_is_better": False, **figure, "words": VERDICTS.get(figure.get("verdict"), "○ cannot be told")[2:],
            "shown": VERDICTS.get(figure.get("verdict"), "○ cannot be told"),
        }
        for figure in payload["figures"]
    ]  # fmt: skip
    return {"confidence": f"{100 * float(payload.get('confidence', 0.95)):g}%", "figures": figures}


def _scorecards(record: Record) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Figures by task, where a run was measured but not compared."""
    found = record.of_kind("scorecard").items()
    return [(label, record.payload(made, "scorecard.json").get("figures", [])) for label, made in found]


def _verdict(record: Record, folder: Path) -> dict[str, Any] | None:
    """What the gate decided, with its reasons and where its page stands."""
    found = list(record.of_kind("verdict").values())
    if not found:
        return None
    payload = record.payload(found[-1], "verdict.json")
    pages = [made for made in record.of_kind("page").values() if locations.is_local(made.location)]
    return {
        "passed": payload.get("verdict") == "PASS",
        "verdict": payload.get("verdict", "unreadable"),
        "reasons": payload.get("reasons", []),
        # Relative to the run folder, where this page stands, so that a moved runs folder keeps its links.
        "page": os.path.relpath(locations.local_path(pages[-1].location) / "page.html", folder) if pages else None,
    }


def _lineage(record: Record, manifests: Mapping[str, Manifest]) -> Graph | None:
    """What the run's payloads were made from, its last model alone where there is one."""
    if not manifests:
        return None
    whole = from_manifests(ancestry_of(manifests.values()).manifests)
    models = list(record.of_kind("model").values())
    return back_from(whole, [models[-1].uri] if models else [made.uri for made in manifests.values()])


def _sources(lineage: Graph | None) -> list[dict[str, Any]]:
    """Where data and models came in: payload, licences, and what its step says of each place."""
    if lineage is None:
        return []
    return [
        {"node": node, "licences": sorted(node.licences.items()), "places": [_place(origin) for origin in node.origins]}
        for node in lineage.sources()
    ]


def _place(origin: Mapping[str, Any]) -> tuple[str, str]:
    """What a source gave, in words, and where it is."""
    rows = f"{number(origin['rows'])} rows" if isinstance(origin.get("rows"), int | float) else ""
    facts = [str(origin.get("name") or ""), rows, str(origin.get("licence") or "")]
    place = origin.get("uri") or origin.get("location") or origin.get("origin") or ""
    return ", ".join(fact for fact in facts if fact), str(place)


def _settings(made: Mapping[str, Manifest]) -> str:
    """The effective Config of a task as JSON."""
    first: Sequence[Manifest] = list(made.values())
    return json.dumps(first[0].config, indent=1, ensure_ascii=False, sort_keys=True)


__all__ = ["FAILED", "render", "size"]
