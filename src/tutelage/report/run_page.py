"""The run page: everything a run left behind, on one page, for runs that ended well, badly, or not at all.

    tutelage report RUN          # or: render(Path("runs/2026-…"))

What went wrong comes first, with its hint and the end of the failing step's log; then the pipeline, what was trained, how it
compares, what became of the data, where everything came from, and how to do it again. No script, no network, no text of a row;
e-mail addresses and credentials are masked wherever they might come from.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

from tutelage.contracts import locations
from tutelage.contracts.ancestry import ancestry_of
from tutelage.contracts.manifest import Manifest
from tutelage.contracts.masking import mask
from tutelage.lineage.graph import Graph, back_from, from_manifests
from tutelage.lineage.tree import render as tree
from tutelage.report import comparison as compared
from tutelage.report.cost import Bill, bill
from tutelage.report.funnel import STAGES as DATA_STEPS
from tutelage.report.funnel import by_source, masked_examples, stages
from tutelage.report.intervals import interval_plot
from tutelage.report.release_page import licences_of
from tutelage.report.run_charts import graph, loss_curve, reduced, timeline
from tutelage.report.run_record import FAILED, STATES, Record, read_record, warnings_of
from tutelage.report.style import duration, environment, number, page, size
from tutelage.step import repository_root

OUTCOMES: Mapping[str, str] = {
    "done": "✓ done",
    "failed": "✗ failed",
    "refused": "⊘ refused by a gate",
    "invalid": "✗ wrong input",
    "budget": "✗ budget spent",
}


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
    made = {name: manifest for key, manifest in manifests.items() for name in [key.split("/", 1)[1]]}
    verdict = _verdict(record, folder)
    cost = bill([(key.split("/")[0], manifest) for key, manifest in manifests.items()])
    # A page about a run that went wrong cannot be strict about what is missing.
    template = environment().overlay(undefined=ChainableUndefined)
    template.filters = {**environment().filters, "number": _number}
    body = template.get_template("run_page.jinja").render(
        record=record,
        outcome=_outcome(record),
        story=_story(record, models),
        started=_moment(record.record.get("started")),
        tiles=_tiles(record, made, cost, is_trained=bool(models)),
        links=_links(
            record, models=models, comparison=comparison, verdict=verdict, made=made, cost=cost, lineage=lineage
        ),
        tasks=list(record.tasks.values()),
        after=reduced({label: task.needs for label, task in record.tasks.items()}),
        counts=_counts(record),
        troubles=[task for task in record.tasks.values() if task.failed],
        warnings=warnings_of(record.tasks),
        # Drawings are built of escaped parts.
        graph=Markup(graph(record.tasks)),  # noqa: S704
        timeline=Markup(timeline(record.tasks)),  # noqa: S704
        curves=[Markup(loss_curve(label, item.details["loss"])) for label, item in models.items()],  # noqa: S704
        models=models,
        comparison=comparison,
        moved=compared.sentences(comparison["figures"]) if comparison else [],
        plot=Markup(interval_plot(comparison["figures"])) if comparison else "",  # noqa: S704
        scorecards=[] if comparison else _scorecards(record),
        verdict=verdict,
        stages=stages(made),
        by_source=by_source(made),
        masked=masked_examples(made["curated"].details.get("masked")) if "curated" in made else [],
        personal=sorted((made["curated"].details.get("personal_data") or {}).items()) if "curated" in made else [],
        licences=_licences(made, record),
        cost=cost,
        lineage=tree(lineage) if lineage else None,
        sources=_sources(lineage),
        seeds=sorted({str(item.seed) for item in manifests.values() if item.seed is not None}),
        settings={label: _settings(task.made) for label, task in record.tasks.items() if task.made},
        payload_bytes=sum(entry.size for item in manifests.values() for entry in item.files),
        command=_command(record.record.get("command")),
        versions=dict(sorted((record.record.get("versions") or {}).items())),
    )
    return page(f"Run {record.run}", mask(_relative(body, folder, store)))


def _relative(body: str, folder: Path, store: str | None) -> str:
    """The page without this machine's folders: places below runs, store and repository are named from there."""
    runs = folder.absolute().parent
    shorter = {str(repository_root()): "", str(runs): runs.name, str(runs.resolve()): runs.name, str(Path.home()): "~"}
    if store and locations.is_local(store):
        shorter[locations.normalise(store)] = Path(store).name
    for place, name in sorted(shorter.items(), key=lambda item: -len(item[0])):
        if len(place) > 1:
            start = rf"(?<![\w./~-]){re.escape(str(escape(place)))}"
            body = re.sub(rf"{start}/", f"{name}/" if name else "", body)
            body = re.sub(rf"{start}(?![\w.-])", name or ".", body)
    return body


def _story(record: Record, models: Mapping[str, Manifest]) -> str:
    """What the run did, in a sentence or two."""
    took = record.record.get("seconds")
    going = _is_going(record)
    ran = [task for task in record.tasks.values() if task.state in ("done", "reused")]
    text = f"{len(ran)} of {len(record.tasks)} tasks {'are done so far' if going else 'ended well'}"
    if took:
        text += f", over {duration(took)}"
    reused = sum(task.state == "reused" for task in ran)
    if reused:
        text += f"; {reused} found their work finished by an earlier run"
    trained = [f"{item.details.get('objective')} ({number(item.details.get('tokens_trained'))} tokens)"
               for item in models.values()]  # fmt: skip
    if trained:
        return f"{text}. Trained: {', '.join(trained)}."
    return f"{text}. {'Nothing is trained yet.' if going else 'Nothing was trained.'}"


def _is_going(record: Record) -> bool:
    """Whether nothing says that the run has ended, and nothing in it has gone wrong."""
    return record.record.get("outcome") is None and not any(task.failed for task in record.tasks.values())


def _moment(text: Any) -> str:
    """A time as people write it, to the second; as it stands where it is none."""
    try:
        moment = datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        return str(text or "")
    return f"{moment.day} {moment:%B %Y, %H:%M:%S} UTC"


def _tiles(record: Record, made: Mapping[str, Manifest], cost: Bill, *, is_trained: bool) -> list[tuple[str, str, str]]:
    """(title, figure, what it is of): what to take in at a glance."""
    tiles = [("Took", duration(record.record.get("seconds")), "")] if record.record.get("seconds") is not None else []
    states = [task.state for task in record.tasks.values()]
    if states:
        ended = states.count("done") + states.count("reused")
        tiles.append(("Tasks done", str(ended), f"of {len(states)}"))
    data = made.get("tokens", made.get("splits"))
    if data is not None and "documents" in made:
        title = "Rows trained on" if is_trained else "Rows to train on"
        tiles.append((title, number(data.rows), f"of {number(made['documents'].rows)} read"))
    if cost.total.tokens is not None:
        tiles.append(("Tokens trained", number(cost.total.tokens), ""))
    if (memory := record.record.get("peak_memory_bytes") or cost.total.memory_bytes) is not None:
        tiles.append(("Largest process", size(memory), str(record.record.get("peak_memory_process") or "")))
    return tiles


def _links(record: Record, **parts: Any) -> list[tuple[str, str]]:
    """(id, words) of the sections that are there."""
    data = any(name in parts["made"] for _, name in DATA_STEPS)
    shown = (
        ("trouble", "What went wrong", any(task.failed for task in record.tasks.values())),
        ("pipeline", "Pipeline", True),
        ("training", "Training", parts["models"]),
        ("figures", "Figures", parts["comparison"] or _scorecards(record)),
        ("gate", "Gate", parts["verdict"]),
        ("data", "Data", data),
        ("licences", "Licences", _licences(parts["made"], record)),
        ("cost", "Cost", parts["cost"].rows),
        ("lineage", "Lineage", parts["lineage"]),
        ("again", "Doing it again", True),
    )
    return [(place, words) for place, words, there in shown if there]


def _licences(made: Mapping[str, Manifest], record: Record) -> list[tuple[str, int, bool]]:
    """Licences of the rows used and of the last model; empty before there are rows."""
    splits, models = made.get("splits"), list(record.of_kind("model").values())
    return licences_of(splits, models[-1]) if splits is not None and models else []


def _command(command: Any) -> str:
    """The command line, from one string or a list of words."""
    return command if isinstance(command, str) else " ".join(map(str, command or []))


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
    """How many tasks ended how: "12 done, 3 reused, 1 failed"; of a run that is going also "4 not run yet"."""
    states = [task.state for task in record.tasks.values()]
    told = ", ".join(f"{states.count(state)} {words}" for state, (_, words) in STATES.items() if state in states)
    return f"{told} yet" if _is_going(record) and "not run" in states else told


def _comparison(record: Record) -> dict[str, Any] | None:
    """The last comparison with its figures in words; None where nothing was compared."""
    found = list(record.of_kind("comparison").values())
    payload = record.payload(found[-1], "comparison.json") if found else {}
    if not payload.get("figures"):
        return None
    return {"confidence": compared.confidence(payload), "figures": compared.figures(payload)}


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
