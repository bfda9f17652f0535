"""What a run folder says, read for the run page: tolerant of everything a failed, killed or half-removed run lacks.

    RUNS/<run>/{events.jsonl, run.json, recipe.yaml, outcomes/<label>.json, logs/<label>.log}

Times and states come from events, everything else from manifests. What is missing is missing on the page, and said there.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from tutelage.contracts import locations
from tutelage.contracts.manifest import OBSERVATIONS_NAME, Manifest, read
from tutelage.contracts.masking import mask
from tutelage.errors import StoreError
from tutelage.lineage.events import read_events

LOG_TAIL_LINES = 30
LOG_TAIL_BYTES = 12_000
#: State → sign and words; signs differ in shape, so no state is told by colour alone.
STATES: Mapping[str, tuple[str, str]] = {
    "done": ("✓", "done"),
    "reused": ("↻", "reused"),
    "failed": ("✗", "failed"),
    "refused": ("⊘", "refused"),
    "invalid": ("✗", "wrong input"),
    "budget": ("✗", "budget spent"),
    "killed": ("†", "ended without a word"),
    "running": ("◔", "running"),
    "waiting": ("◔", "waiting"),
    "not run": ("○", "not run"),
}
FAILED = frozenset({"failed", "refused", "invalid", "budget", "killed"})


@dataclass
class Task:
    """A task of the run, as far as it came."""

    label: str
    step: str = ""
    state: str = "not run"
    started: float | None = None
    ended: float | None = None
    last_event: float | None = None
    tries: int = 0
    cause: str | None = None
    hint: str | None = None
    stopped: str | None = None
    warnings: list[str] = field(default_factory=list)
    progress: Mapping[str, Any] | None = None
    needs: set[str] = field(default_factory=set)
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    made: dict[str, Manifest] = field(default_factory=dict)
    observations: Mapping[str, Any] = field(default_factory=dict)
    log_tail: str | None = None

    @property
    def seconds(self) -> float | None:
        """Wall time of the last try."""
        return None if self.started is None or self.ended is None else self.ended - self.started

    @property
    def sign(self) -> str:
        """The state's sign."""
        return STATES[self.state][0]

    @property
    def words(self) -> str:
        """The state in words."""
        return STATES[self.state][1]

    @property
    def failed(self) -> bool:
        """Whether it ended otherwise than done."""
        return self.state in FAILED


@dataclass
class Record:
    """A run: its own record, its tasks in the order they first stood in, and what could not be read."""

    run: str
    record: Mapping[str, Any]
    recipe: str | None
    tasks: dict[str, Task]
    missing: list[str]
    store_bytes: int | None

    def manifests(self) -> dict[str, Manifest]:
        """`label/output` → manifest, of everything made or reused."""
        return {f"{t.label}/{name}": made for t in self.tasks.values() for name, made in t.made.items()}

    def of_kind(self, kind: str) -> dict[str, Manifest]:
        """Label → manifest of that kind."""
        return {key.split("/")[0]: made for key, made in self.manifests().items() if made.kind == kind}

    def payload(self, manifest: Manifest, name: str) -> dict[str, Any]:
        """A JSON file of a payload; {} and a note where it cannot be read."""
        try:
            value = json.loads(locations.read_bytes(manifest.file(name)))
        except (OSError, ValueError, StoreError):
            self.missing.append(f"{name} of {manifest.step} cannot be read: {manifest.location}")
            return {}
        return value if isinstance(value, dict) else {}


def read_record(folder: Path, needs: Mapping[str, tuple[str, ...]] | None = None, store: str | None = None) -> Record:
    """Everything that the run folder and the manifests it names say.

    `needs` maps the label of every task of the pipeline to the labels it waits for, from the compiled pipeline: it adds tasks
    that never started. `store` is the root of payloads, RUNS/store by default, whose size is shown.
    """
    missing: list[str] = []
    record = _record(folder / "run.json", missing)
    events, _ = read_events(folder / "events.jsonl")
    if not events:
        missing.append("events.jsonl is missing or empty: no task has started")
    tasks = {label: Task(label, needs=set(waits)) for label, waits in (needs or {}).items()}
    for event in events:
        _apply(tasks, event, missing)
    for task in tasks.values():
        if task.state in ("running", "waiting") and record.get("finished"):
            task.state, task.cause = "killed", "it was killed, or the machine stopped: a start without an end"
        _read_manifests(task, missing)
        if task.failed:
            task.log_tail = _tail(folder / "logs" / f"{task.label}.log")
            _read_outcome(task, folder / "outcomes" / f"{task.label}.json")
    makers = {uri: task.label for task in tasks.values() for uri in task.outputs.values()}
    for task in tasks.values():
        task.needs |= {makers[uri] for uri in task.inputs.values() if makers.get(uri, task.label) != task.label}
        task.needs &= tasks.keys()
    recipe = folder / "recipe.yaml"
    return Record(
        run=str(record.get("run") or folder.name),
        record=record,
        recipe=recipe.read_text(encoding="utf-8") if recipe.is_file() else None,
        tasks=tasks,
        missing=missing,
        store_bytes=_size(store or str(folder.parent / "store")),
    )


def _record(file: Path, missing: list[str]) -> Mapping[str, Any]:
    if not file.exists():
        missing.append("run.json is missing: the run is still going, or its command line was killed")
        return {}
    try:
        # Not a pipe: reading one would never end.
        value = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except (OSError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        missing.append("run.json is torn")
        return {}
    return value


def _apply(tasks: dict[str, Task], event: Mapping[str, Any], missing: list[str]) -> None:
    if event.get("task") is None:
        missing.append(str(event.get("message") or "an event without a task"))
        return
    task = tasks.setdefault(event["task"], Task(event["task"]))
    task.step = event.get("step") or task.step
    now = _seconds(event.get("time"))
    task.last_event = now or task.last_event
    match event["event"]:
        case "started":
            task.state, task.started, task.ended, task.cause, task.hint = "running", now, None, None, None
            task.tries += 1
        case "waiting":
            task.state = "waiting"
        case "progress":
            task.state = "running"
            task.progress = {key: event[key] for key in ("done", "total", "unit") if key in event}
        case "warning":
            task.warnings.append(str(event.get("message")))
        case "failed":
            outcome = event.get("outcome")
            task.state = str(outcome) if outcome in FAILED else "failed"
            task.ended, task.cause, task.hint = now, event.get("cause"), event.get("hint")
        case "finished":
            task.state, task.ended = ("reused" if event.get("reused") else "done"), now
            task.inputs, task.outputs = event.get("inputs", {}), event.get("outputs", {})
            task.stopped = event.get("stopped")


def _read_manifests(task: Task, missing: list[str]) -> None:
    for name, uri in sorted(task.outputs.items()):
        try:
            task.made[name] = read(uri)
        except (OSError, StoreError):
            missing.append(f"manifest of {task.label}/{name} cannot be read: {uri}")
    for manifest in task.made.values():
        try:
            task.observations = json.loads(locations.read_bytes(locations.join(manifest.location, OBSERVATIONS_NAME)))
        except (OSError, ValueError, StoreError):
            continue  # measured figures are extra: a payload copied without them is whole


def _read_outcome(task: Task, file: Path) -> None:
    """The cause that the step itself left, where the event has none."""
    if task.cause is not None and task.state != "killed":
        return
    try:
        outcome = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if outcome.get("outcome") != "done" and outcome.get("cause"):
        task.cause, task.hint = outcome["cause"], outcome.get("hint")


def _tail(file: Path) -> str | None:
    """The last lines of a log, masked; None where there is no log."""
    if not file.is_file():
        return None
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - LOG_TAIL_BYTES))
        lines = log.read().decode(errors="replace").splitlines()
    return mask("\n".join(lines[-LOG_TAIL_LINES:]))


def _seconds(time: Any) -> float | None:
    """An event's time in seconds; None where it is no time that Tutelage writes."""
    try:
        return datetime.fromisoformat(time).timestamp() if isinstance(time, str) else None
    except ValueError:
        return None


def _size(root: str) -> int | None:
    """Bytes below `root`; None where it is not on this machine, since object stores are not walked for a page."""
    if not locations.is_local(root) or not locations.exists(root):
        return None
    return sum(size for _, size in locations.list_files(root))


def warnings_of(tasks: Mapping[str, Task]) -> list[tuple[str, str, int]]:
    """(label, message, how often), in the order of the tasks."""
    return [(t.label, text, count) for t in tasks.values() for text, count in Counter(t.warnings).items()]
