"""Records of runs: `runs/<run>/run.json`, what `tutelage runs` lists and `--json` prints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import yaml
from pydantic import TypeAdapter, ValidationError

from tutelage.contracts import locations, manifest
from tutelage.errors import InvalidInput, StoreError
from tutelage.orchestrate.measured import payload_bytes, stages_of
from tutelage.runtimes.settings import Settings

RECORD_NAME = "run.json"
EXIT_CODES = {"done": 0, "failed": 1, "invalid": 2, "refused": 3, "budget": 4}


@dataclass
class RunRecord:
    """What is known of a run: kept in run.json, printed by --json."""

    run: str
    recipe: str
    pipeline: str
    folder: str
    started: str
    process: int
    process_started: float
    command: str
    finished: str | None = None
    outcome: str | None = None
    seconds: float | None = None
    verdict: str | None = None
    failed_checks: list[str] = field(default_factory=list)
    cause: str | None = None
    hint: str | None = None
    failed_task: str | None = None
    report: str | None = None
    release_page: str | None = None
    plan_page: str | None = None
    artifacts: dict[str, dict[str, str]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Stage → seconds, and how many tasks finished, were reused, failed or were cut off."""
    peak_memory_bytes: int | None = None
    """Largest resident memory of one process of the run; None: not measured."""
    peak_memory_process: str | None = None
    """Which one, where that is known."""
    store_bytes: int | None = None
    """Size of the store when the run ended; None: not measured."""
    payload_bytes: int | None = None
    """Size of the payloads that the run made or reused."""
    written_bytes: int | None = None
    """Size of those that the run made itself; None: not known."""
    spark_starts: int | None = None
    """Spark sessions started; None: not measured."""
    figures: list[dict[str, Any]] = field(default_factory=list)
    """What the release policy asks about: name, unit, baseline, candidate, verdict."""

    @property
    def state(self) -> str:
        """The outcome; of a run without one: running, or killed."""
        return self.outcome or ("running" if is_alive(self) else "killed")

    @property
    def exit_code(self) -> int:
        """The command line's exit code for the outcome."""
        return EXIT_CODES[self.outcome or "failed"]

    def save(self) -> None:
        """Write run.json."""
        locations.write_bytes(str(Path(self.folder) / RECORD_NAME), json.dumps(vars(self), indent=1).encode())


def run_folders(settings: Settings) -> list[Path]:
    """Folders of all runs on record, oldest first."""
    found = [path.parent for path in Path(settings.runs).absolute().glob(f"*/{RECORD_NAME}")]
    return sorted(found, key=lambda path: path.name)


def read_record(folder: Path) -> RunRecord:
    """The record of a run. Raises StoreError when run.json is torn, of another version, or no file that ends."""
    try:
        text = _text(folder / RECORD_NAME)
        RunRecord(**json.loads(text))
        # Strictly by type: JSON that somebody else wrote has the keys, and breaks what reads it later.
        record = TypeAdapter(RunRecord).validate_json(text, strict=True)
        if datetime.fromisoformat(record.started).tzinfo is None:
            raise ValueError(f"started: {record.started!r} names no time zone")
        return record
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        cause = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except RecursionError:
        cause = "it is nested too deeply"
    except (ValueError, TypeError, OSError) as error:
        cause = next(iter(str(error).splitlines()), type(error).__name__)
    raise StoreError(f"record of run {folder.name} cannot be read: {cause}", hint=f"remove {folder} if nobody needs it")


def _text(file: Path) -> str:
    """What stands in a file; a pipe or a device, whose end would never come, is an OSError."""
    if file.exists() and not file.is_file() and not file.is_dir():
        raise OSError(f"{file.name} is a pipe, a socket or a device")
    return file.read_text(encoding="utf-8")


def readable_records(settings: Settings) -> tuple[list[RunRecord], list[str]]:
    """The records of all runs, oldest first, and what is wrong with those that cannot be read."""
    records, problems = [], []
    for folder in run_folders(settings):
        try:
            records.append(read_record(folder))
        except StoreError as error:
            problems.append(error.message)
    begun = [path.parent.name for path in Path(settings.runs).absolute().glob("*/recipe.yaml")]
    recorded = {folder.name for folder in run_folders(settings)}
    problems += [f"run {name} has no record: it was cut off as it started" for name in sorted(set(begun) - recorded)]
    return records, problems


def find_run(settings: Settings, name: str) -> Path:
    """The folder of run `name`, a prefix of it or `latest`. Raises InvalidInput."""
    folders = run_folders(settings)
    matches = folders[-1:] if name == "latest" else [item for item in folders if item.name.startswith(name)]
    if len(matches) != 1:
        known = ", ".join(item.name for item in folders[-5:]) or "none"
        raise InvalidInput(f"{len(matches)} runs match {name!r}", hint=f"last runs: {known}")
    return matches[0]


def is_alive(record: RunRecord) -> bool:
    """Whether the command line of a run still runs; process ids are used again, so its start time must agree."""
    try:
        return abs(psutil.Process(record.process).create_time() - record.process_started) < 2
    except (psutil.Error, ValueError, OverflowError):
        return False


def conclude(record: RunRecord, events: Sequence[Mapping[str, Any]], exit_code: int) -> None:
    """Fill in what the events and payloads say of the run's end, and save it."""
    finished = {event["task"]: event for event in events if event["event"] == "finished"}
    record.stages = stages_of(events)
    made, own = [], []
    for label, event in finished.items():
        for name, uri in event["outputs"].items():
            try:
                made.append(manifest.read(uri))
                own += [] if event.get("reused") else made[-1:]
                _note_artifact(record, f"{label}/{name}", made[-1])
            except (OSError, StoreError):
                # The store was removed or moved since: the run's own record says what it can.
                record.artifacts[f"{label}/{name}"] = {"kind": "gone", "digest": "", "manifest": uri}
    record.payload_bytes, record.written_bytes = payload_bytes(made), payload_bytes(own)
    failed = [event for event in events if event["event"] == "failed"]
    stopped = any(event.get("stopped") == "budget" for event in finished.values())
    if failed:
        record.outcome, record.failed_task = failed[0]["outcome"], failed[0]["task"]
        record.cause, record.hint = failed[0]["cause"], failed[0]["hint"]
        if record.outcome == "refused" and record.failed_checks == ["budget"]:
            record.outcome = "budget"
    elif exit_code == 0 and record.cause is None:
        record.outcome = "budget" if stopped else "done"
    else:
        _conclude_killed(record, [event["task"] for event in events if event["event"] == "started"], finished)
    record.finished = datetime.now(UTC).isoformat()
    record.save()


def _note_artifact(record: RunRecord, name: str, made: manifest.Manifest) -> None:
    record.artifacts[name] = {"kind": made.kind, "digest": made.content_digest, "manifest": made.uri}
    if made.kind == "verdict":
        verdict = manifest.read_json(made, "verdict.json")
        record.verdict = str(verdict["verdict"])
        record.failed_checks = [check["id"] for check in verdict["checks"] if not check["passed"]]
    if made.kind == "comparison":
        record.figures = _figures_asked_about(Path(record.folder), manifest.read_json(made, "comparison.json"))
    if made.kind == "page":
        record.release_page = _copied(made, Path(record.folder) / "release.html")
    if made.kind == "plan":
        record.plan_page = _copied(made, Path(record.folder) / "plan.html")


def _copied(made: manifest.Manifest, target: Path) -> str:
    """Where a payload's page lies among the run's own, for people."""
    target.write_bytes(locations.read_bytes(made.file("page.html")))
    return str(target)


def _figures_asked_about(folder: Path, comparison: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The figures that the run's release policy has rules on, in its order; all of them where it has none."""
    recipe = folder / "recipe.yaml"
    given = yaml.safe_load(recipe.read_text(encoding="utf-8")) if recipe.is_file() else {}
    rules = given.get("parameters", {}).get("policy", {}).get("release", {}).get("rules", [])
    measured = {str(figure["name"]): figure for figure in comparison["figures"]}
    names = dict.fromkeys(str(rule["figure"]) for rule in rules) or measured
    keys = ("name", "unit", "lower_is_better", "baseline", "candidate", "verdict")
    return [{key: measured[name].get(key) for key in keys} for name in names if name in measured]


def _conclude_killed(record: RunRecord, begun: Sequence[str], finished: Mapping[str, Any]) -> None:
    """The outcome of a run that ended without a word of its own."""
    record.outcome = "failed"
    unfinished = [label for label in begun if label not in finished]
    record.failed_task = unfinished[-1] if unfinished else None
    what = f"{record.failed_task} was killed before it could say why" if unfinished else "the pipeline did not start"
    record.cause = record.cause or what
    again = "run the same command again: finished steps are reused"
    record.hint = record.hint or f"{again}; log: {record.folder}/logs/kfp.log"
