"""Run a recipe on this machine: the compiled pipeline by kfp.local, finished steps reused, progress live, lineage written.

    runs/<run>/recipe.yaml settings.json run.json events.jsonl outcomes/ logs/ kfp/ plan.html release.html report.html

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
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

import tutelage
from tutelage.contracts import locations
from tutelage.errors import StoreError, TutelageError
from tutelage.lineage.events import read_events
from tutelage.orchestrate.compile import compiled_file
from tutelage.orchestrate.measured import ProcessWatch, store_bytes
from tutelage.orchestrate.recipes import Recipe
from tutelage.orchestrate.records import RunRecord, conclude, is_alive, readable_records
from tutelage.orchestrate.tasks import tasks_of
from tutelage.runtimes.leash import leash
from tutelage.runtimes.settings import RUN_FOLDER_VARIABLE, RUN_VARIABLE, SETTINGS_VARIABLE, Settings
from tutelage.step import repository_root

POLL_SECONDS = 0.1
OnEvent = Callable[[Mapping[str, Any]], None]
VERSIONS = ("kfp", "kserve", "pyspark", "torch", "transformers")


def run_locally(recipe: Recipe, settings: Settings, *, on_event: OnEvent, command: str) -> RunRecord:
    """Run `recipe` to its end and give its record. Raises nothing for a run that fails: the record says so."""
    settle_interrupted(settings, on_event)
    record, folder = _prepare(recipe, settings, command)
    lineage = Lineage(settings, record, on_event)
    started = time.monotonic()
    events: list[Mapping[str, Any]] = []
    child = _start(recipe, folder)
    watch = ProcessWatch(child.pid)
    try:
        with watch:
            for event in _follow(folder / "events.jsonl", child):
                events.append(event)
                watch.task = event["task"]
                on_event(event)
                lineage.consume([event])
    except KeyboardInterrupt:
        record.cause, record.hint = "interrupted", "run the same command again: finished steps are reused"
    finally:
        _end(child)
        shutil.rmtree(folder / "tmp", ignore_errors=True)
        record.seconds = round(time.monotonic() - started, 3)
        _measure(record, watch, settings, on_event)
        try:
            conclude(record, events, child.returncode)
        except StoreError as error:
            # A full disk: the outcome is known all the same, and is told.
            on_event(warning(f"record of this run is not written: {error.message}"))
        lineage.close()
    return record


def _measure(record: RunRecord, watch: ProcessWatch, settings: Settings, on_event: OnEvent) -> None:
    """Note what the run took. What could not be measured stays None, and is said."""
    if watch.peak is not None:
        record.peak_memory_bytes, record.peak_memory_process = watch.peak.size, watch.peak.process
    record.spark_starts = watch.spark_starts
    try:
        record.store_bytes = store_bytes(settings.store_root)
    except (StoreError, OSError) as error:
        on_event(warning(f"size of the store is not measured: {str(error).splitlines()[0]}"))


def warning(message: str) -> dict[str, Any]:
    """An event of the command line's own."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"time": now, "event": "warning", "task": "run", "step": "", "message": message}


class Lineage:
    """Writes a run's lineage. Never in the run's way: what goes wrong is said once, and manifests keep the record."""

    def __init__(self, settings: Settings, record: RunRecord, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._recorder: Any = None
        self._safely(lambda: self._open(settings, record))

    def _open(self, settings: Settings, record: RunRecord) -> None:
        from tutelage.lineage.recorder import Recorder
        from tutelage.lineage.store import open_store

        store = open_store(str(Path(settings.runs).absolute() / "lineage.sqlite"))
        if store is None:
            self._on_event(warning("ML Metadata has no wheel for this platform: lineage is read from manifests alone"))
            return
        tasks = {task.label: task.name for task in tasks_of(compiled_file(record.pipeline))}
        root = str(Path(record.folder) / "kfp")
        self._recorder = Recorder(store, run=record.run, pipeline=record.pipeline, tasks=tasks, root=root)

    def consume(self, events: Sequence[Mapping[str, Any]]) -> None:
        """Record events."""
        if self._recorder is not None:
            self._safely(lambda: self._recorder.consume(events))

    def close(self) -> None:
        """Record starts without an end as failed."""
        if self._recorder is not None:
            self._safely(self._recorder.close)

    def _safely(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (TutelageError, OSError, RuntimeError, ValueError, KeyError) as error:
            self._recorder = None
            self._on_event(warning(f"lineage of this run is not written on: {str(error).splitlines()[0]}"))


def _prepare(recipe: Recipe, settings: Settings, command: str) -> tuple[RunRecord, Path]:
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
        process=os.getpid(), process_started=psutil.Process().create_time(), command=command, versions=versions,
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
            leash([sys.executable, "-m", "tutelage.orchestrate.kfp_process", *arguments]),
            env=environment, cwd=repository_root(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip


def _follow(path: Path, child: subprocess.Popen[bytes]) -> Iterator[Mapping[str, Any]]:
    """Events as they are appended, until the child has ended and everything is read."""
    offset = 0
    while True:
        ended = child.poll() is not None
        events, offset = read_events(path, offset)
        yield from events
        if ended and not events:
            return
        if not events:
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


def settle_interrupted(settings: Settings, on_event: OnEvent) -> None:
    """Give runs whose command line was killed their outcome and their lineage: a start without an end is FAILED."""
    for record in readable_records(settings)[0]:
        if record.outcome is not None or is_alive(record):
            continue
        events, _ = read_events(Path(record.folder) / "events.jsonl")
        lineage = Lineage(settings, record, on_event)
        lineage.consume(events)
        lineage.close()
        record.cause = "the command line was killed"
        shutil.rmtree(Path(record.folder) / "tmp", ignore_errors=True)
        conclude(record, events, 1)
