"""Run a recipe on this machine: the compiled pipeline by kfp.local, finished steps reused, progress live, lineage written.

    runs/<run>/recipe.yaml settings.json run.json events.jsonl outcomes/ logs/ kfp/ release.html report.html

Steps talk to us through `events.jsonl` alone; this process follows it, shows it and is the only writer of ML Metadata.
"""

from __future__ import annotations

import json
import os
import platform
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

import tutelage
from tutelage.contracts import locations, manifest
from tutelage.errors import InvalidInput
from tutelage.lineage.events import read_events
from tutelage.orchestrate.compile import compiled_file
from tutelage.orchestrate.recipes import Recipe
from tutelage.orchestrate.tasks import tasks_of
from tutelage.runtimes.settings import RUN_FOLDER_VARIABLE, RUN_VARIABLE, SETTINGS_VARIABLE, Settings
from tutelage.step import repository_root

EXIT_CODES = {"done": 0, "failed": 1, "invalid": 2, "refused": 3, "budget": 4}
POLL_SECONDS = 0.1
VERSIONS = ("kfp", "kserve", "pyspark", "torch", "transformers")


@dataclass
class RunRecord:
    """What is known of a run: kept in run.json, printed by --json."""

    run: str
    recipe: str
    pipeline: str
    folder: str
    started: str
    process: int
    finished: str | None = None
    outcome: str | None = None
    seconds: float | None = None
    verdict: str | None = None
    cause: str | None = None
    hint: str | None = None
    failed_task: str | None = None
    report: str | None = None
    release_page: str | None = None
    artifacts: dict[str, dict[str, str]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """The command line's exit code for the outcome."""
        return EXIT_CODES[self.outcome or "failed"]

    def save(self) -> None:
        """Write run.json."""
        locations.write_bytes(str(Path(self.folder) / "run.json"), json.dumps(vars(self), indent=1).encode())


def run_folders(settings: Settings) -> list[Path]:
    """Folders of all runs on record, oldest first."""
    found = [path.parent for path in Path(settings.runs).absolute().glob("*/run.json")]
    return sorted(found, key=lambda path: path.name)


def read_record(folder: Path) -> RunRecord:
    """The record of a run."""
    return RunRecord(**json.loads((folder / "run.json").read_text()))


def find_run(settings: Settings, name: str) -> Path:
    """The folder of run `name`, a prefix of it or `latest`. Raises InvalidInput."""
    folders = run_folders(settings)
    matches = folders[-1:] if name == "latest" else [item for item in folders if item.name.startswith(name)]
    if len(matches) != 1:
        known = ", ".join(item.name for item in folders[-5:]) or "none"
        raise InvalidInput(f"{len(matches)} runs match {name!r}", hint=f"last runs: {known}")
    return matches[0]


def run_locally(recipe: Recipe, settings: Settings, *, on_event: Callable[[Mapping[str, Any]], None]) -> RunRecord:
    """Run `recipe` to its end and give its record. Raises nothing for a run that fails: the record says so."""
    settle_interrupted(settings)
    record, folder = _prepare(recipe, settings)
    lineage = _recorder(settings, record, on_event)
    started = time.monotonic()
    events: list[Mapping[str, Any]] = []
    child = _start(recipe, folder)
    try:
        for event in _follow(folder / "events.jsonl", child):
            events.append(event)
            on_event(event)
            if lineage is not None:
                lineage.consume([event])
    except KeyboardInterrupt:
        record.cause, record.hint = "interrupted", "run the same command again: finished steps are reused"
    finally:
        _end(child)
        if lineage is not None:
            lineage.close()
        shutil.rmtree(folder / "tmp", ignore_errors=True)
        record.seconds = round(time.monotonic() - started, 3)
        _conclude(record, events, child.returncode)
    return record


def _prepare(recipe: Recipe, settings: Settings) -> tuple[RunRecord, Path]:
    runs = Path(settings.runs).absolute()
    now = datetime.now(UTC)
    name = f"{now.strftime('%Y%m%d-%H%M%S')}-{recipe.name}-{secrets.token_hex(2)}"
    folder = runs / name
    (folder / "logs").mkdir(parents=True)
    (folder / "tmp").mkdir()
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    values = settings.values() | {"runs": str(runs)}
    if settings.store and locations.is_local(settings.store):
        values["store"] = locations.normalise(settings.store)
    (folder / "settings.json").write_text(json.dumps(values, indent=1))
    (folder / "parameters.json").write_text(json.dumps(dict(recipe.parameters)))
    (folder / "events.jsonl").touch()
    versions = {"tutelage": tutelage.__version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in VERSIONS}
    record = RunRecord(
        run=name, recipe=recipe.name, pipeline=recipe.pipeline, folder=str(folder), started=now.isoformat(),
        process=os.getpid(), versions=versions,
    )  # fmt: skip
    record.save()
    return record, folder


def _start(recipe: Recipe, folder: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        SETTINGS_VARIABLE: str(folder / "settings.json"),
        RUN_VARIABLE: folder.name,
        RUN_FOLDER_VARIABLE: str(folder),
        "PYTHONHASHSEED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        # Idle OpenMP threads sleep: on a busy machine spinning ones took evaluation from 28 s to 118 s.
        "OMP_WAIT_POLICY": "PASSIVE",
        # kfp.local leaves a temporary folder per task behind; here they go with the run.
        "TMPDIR": str(folder / "tmp"),
    }
    arguments = [str(compiled_file(recipe.pipeline)), str(folder / "parameters.json"), str(folder / "kfp")]
    with (folder / "logs" / "kfp.log").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tutelage.orchestrate.kfp_process", *arguments],
            env=environment, cwd=repository_root(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip


def _follow(path: Path, child: subprocess.Popen[bytes]) -> Iterator[Mapping[str, Any]]:
    """Events as they are appended, until the child has ended and everything is read."""
    with path.open(encoding="utf-8") as file:
        pending = ""
        while True:
            ended = child.poll() is not None
            pending += file.read()
            *lines, pending = pending.split("\n")
            for line in lines:
                yield json.loads(line)
            if ended and not lines:
                return
            if not lines:
                time.sleep(POLL_SECONDS)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Leave no process behind, whatever happened."""
    family = []
    if psutil.pid_exists(child.pid) and child.poll() is None:
        family = psutil.Process(child.pid).children(recursive=True)
        child.terminate()
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    child.wait()


def settle_interrupted(settings: Settings) -> None:
    """Give runs whose command line was killed their outcome and their lineage: a start without an end is FAILED."""
    for folder in run_folders(settings):
        record = read_record(folder)
        if record.outcome is not None or psutil.pid_exists(record.process):
            continue
        events, _ = read_events(folder / "events.jsonl")
        recorder = _recorder(settings, record, lambda event: None)
        if recorder is not None:
            recorder.consume(events)
            recorder.close()
        record.cause = "the command line was killed"
        shutil.rmtree(folder / "tmp", ignore_errors=True)
        _conclude(record, events, 1)


def _recorder(settings: Settings, record: RunRecord, on_event: Callable[[Mapping[str, Any]], None]) -> Any:
    """The recorder of this run's lineage; None, said aloud, where ML Metadata is not to be had."""
    from tutelage.lineage.recorder import Recorder
    from tutelage.lineage.store import open_store

    store = open_store(str(Path(settings.runs).absolute() / "lineage.sqlite"))
    if store is None:
        message = "ML Metadata has no wheel for this platform: lineage is read from manifests alone"
        on_event({"time": " " * 19, "event": "warning", "task": "lineage", "step": "", "message": message})
        return None
    tasks = tasks_of(compiled_file(record.pipeline))
    return Recorder(
        store, run=record.run, pipeline=record.pipeline, tasks={task.label: task.name for task in tasks},
        root=str(Path(record.folder) / "kfp"),
    )  # fmt: skip


def _conclude(record: RunRecord, events: Sequence[Mapping[str, Any]], exit_code: int) -> None:
    finished = {event["task"]: event for event in events if event["event"] == "finished"}
    for label, event in finished.items():
        for name, uri in event["outputs"].items():
            made = manifest.read(uri)
            record.artifacts[f"{label}/{name}"] = {"kind": made.kind, "digest": made.content_digest, "manifest": uri}
            if made.kind == "verdict":
                record.verdict = str(json.loads(locations.read_bytes(made.file("verdict.json")))["verdict"])
            if made.kind == "page":
                target = Path(record.folder) / "release.html"
                target.write_bytes(locations.read_bytes(made.file("page.html")))
                record.release_page = str(target)
    failed = [event for event in events if event["event"] == "failed"]
    begun = [event["task"] for event in events if event["event"] == "started"]
    stopped = any(event.get("stopped") == "budget" for event in finished.values())
    if failed:
        record.outcome = failed[0]["outcome"]
        record.cause, record.hint = failed[0]["cause"], failed[0]["hint"]
        record.failed_task = failed[0]["task"]
        if record.outcome == "refused" and stopped:
            record.outcome = "budget"
    elif exit_code == 0 and record.cause is None:
        record.outcome = "budget" if stopped else "done"
    else:
        record.outcome = "failed"
        unfinished = [label for label in begun if label not in finished]
        record.failed_task = unfinished[-1] if unfinished else None
        what = (
            f"{record.failed_task} was killed before it could say why" if unfinished else "the pipeline did not start"
        )
        record.cause = record.cause or what
        record.hint = (
            record.hint or f"run the same command again: finished steps are reused; log: {record.folder}/logs/kfp.log"
        )
    record.finished = datetime.now(UTC).isoformat()
    record.save()
