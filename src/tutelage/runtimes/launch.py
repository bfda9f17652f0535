"""launch(): what every component's body calls. Look finished work up, else do it where it belongs, then hand it to KFP.

inputs (KFP artifacts holding manifests) ─┐
Config ────────────────────────────────────┼─ step key ── found ─────────────────────── copy manifest to KFP output
code version ──────────────────────────────┘      └─ not found ─ lock ─ run ─ verify ───┘
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import psutil

from tutelage.config import build
from tutelage.contracts import locations
from tutelage.contracts.digests import digest_of
from tutelage.contracts.locks import step_lock
from tutelage.contracts.manifest import Manifest, read, verify
from tutelage.contracts.sources import pinned
from tutelage.contracts.store import Store, new_attempt, step_key
from tutelage.errors import BudgetSpent, GateRefused, InvalidInput, StepFailed, StoreError, TutelageError
from tutelage.runtimes import process, spark, task_ends, torch
from tutelage.runtimes.settings import (
    RUN_FOLDER_VARIABLE,
    RUN_VARIABLE,
    SUPERVISOR_VARIABLE,
    Settings,
    read_settings,
)
from tutelage.step import Request, append_event, describe, load
from tutelage.step.code import code_version
from tutelage.step.resources import without_resources

log = logging.getLogger("tutelage")
START = {"process": process.run, "spark": spark.run, "torch": torch.run}
#: Runtimes that are jobs of their own on a cluster; a run may change what their pods get.
JOBS = ("spark", "torch")


class Artifact(Protocol):
    """The part of a KFP artifact that launch() uses."""

    path: str
    metadata: dict[str, Any]


def launch(
    step: str,
    *,
    inputs: Mapping[str, Artifact],
    outputs: Mapping[str, Artifact],
    config: Mapping[str, Any],
    label: str | None = None,
    metrics: Artifact | None = None,
) -> None:
    """Make the outputs of `step` exist and describe them in the KFP `outputs` (and `metrics`).

    `label` tells tasks of one step apart (train-sft). Raises a TutelageError with the step's own cause and hint.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", stream=sys.stderr)
    _follow_supervisor()
    task = _Task(step, label or step.split("/")[1], read_settings())
    task.event("started")
    started = time.monotonic()
    try:
        manifests = task.manifests_of(inputs)
        made, reused = task.make(manifests, config)
        for name, artifact in outputs.items():
            _hand_over(made[name], artifact)
        if metrics is not None:
            _hand_over_metrics(made, metrics)
    except TutelageError as error:
        task.failed(error.outcome, error.message, error.hint)
        raise
    except BaseException as error:
        task.failed("failed", f"{type(error).__name__}: {error}", None)
        raise
    task.event(
        "finished",
        reused=reused,
        seconds=round(time.monotonic() - started, 3),
        inputs={name: manifest.uri for name, manifest in manifests.items()},
        outputs={name: manifest.uri for name, manifest in made.items()},
        rows=sum(manifest.rows or 0 for manifest in made.values()) or None,
        stopped=next((m.details["stopped"] for m in made.values() if m.details.get("stopped")), None),
    )


class _Task:
    """One task of one run: names, places, and the way from inputs to finished manifests."""

    def __init__(self, step: str, label: str, settings: Settings) -> None:
        self.step, self.label, self.settings = step, label, settings
        self.description = describe(step)
        self.run = os.environ.get(RUN_VARIABLE, "by-hand")
        runs = Path(settings.runs).absolute()
        self.folder = Path(os.environ.get(RUN_FOLDER_VARIABLE, runs / self.run))
        self.locks, self.cache = runs / "locks", runs / "cache"
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        self.store = Store(settings.store_root)

    def event(self, name: str, **fields: Any) -> None:
        event = append_event(str(self.folder / "events.jsonl"), name, self.label, self.step, **fields)
        if self.settings.cluster is not None:
            self._tell(event)

    def _tell(self, event: Mapping[str, Any]) -> None:
        """Say how the task ended where it outlives this pod. A store that does not answer must not hide the end itself."""
        try:
            task_ends.tell(self.store.root, self.run, event)
        except (StoreError, OSError):
            log.exception("%s: end of task not told to the store", self.label)

    def failed(self, outcome: str, cause: str, hint: str | None) -> None:
        """Say how the task ended. A disk too full for that must not hide why."""
        try:
            self.event("failed", outcome=outcome, cause=cause, hint=hint)
        except OSError:
            log.exception("%s: end of task not recorded", self.label)

    def manifests_of(self, inputs: Mapping[str, Artifact]) -> dict[str, Manifest]:
        """The inputs' manifests, each of the kind that component.yaml promises. Raises InvalidInput, CorruptPayload."""
        if set(inputs) != set(self.description.reads):
            raise InvalidInput(f"{self.step} reads {sorted(self.description.reads)}, got {sorted(inputs)}")
        try:
            manifests = {name: read(artifact.path) for name, artifact in sorted(inputs.items())}
        except FileNotFoundError as error:
            hint = "the task before this one left no manifest: run it again"
            raise StoreError(f"{self.label}: no manifest at {error.filename or error}", hint=hint) from error
        for name, kind in self.description.reads.items():
            if manifests[name].kind != kind:
                raise InvalidInput(f"{self.step}: input {name!r} is a {manifests[name].kind}, accepted: {kind}")
        return manifests

    def make(self, inputs: Mapping[str, Manifest], values: Mapping[str, Any]) -> tuple[dict[str, Manifest], bool]:
        """The finished outputs, and whether they were there already."""
        # Where work is done does not decide what comes out: resources are no part of the Config.
        own, resources = without_resources(values) if self.description.runtime in JOBS else (dict(values), {})
        config = build(load(self.step).Config, own, where=self.label).values()
        if self.description.reuse:
            config = pinned(config, self.cache)
        version = code_version(self.step)
        settings = self.settings.for_step(self.description.settings)
        key = step_key(self.step, version, config, self._digests(inputs, settings, resources))
        reuse = self.description.reuse and self.settings.reuse
        if reuse and (found := self.store.find(self.description.writes, key)):
            return found, True
        with step_lock(self.locks, key, lambda: self.event("waiting", reason="another run does the same work")) as lock:
            if reuse and (found := self.store.find(self.description.writes, key)):
                return found, True
            if not self.settings.reuse and self.settings.cluster is None:
                locations.remove(self._scratch(key))
            attempt = new_attempt()
            request = Request(
                step=self.step,
                config=config,
                inputs={name: manifest.uri for name, manifest in inputs.items()},
                outputs={
                    name: self.store.attempt(kind, key, attempt) for name, kind in self.description.writes.items()
                },
                scratch=self._scratch(key),
                cache=str(self.cache),
                outcome=str(self.folder / "outcomes" / f"{self.label}.json"),
                step_key=key,
                attempt=attempt,
                code_version=version,
                run=self.run,
                label=self.label,
                events=str(self.folder / "events.jsonl"),
                settings=settings,
                leashed=self.description.runtime != "process",
            )
            made = self._run(request, lock, resources)
            locations.remove(request.scratch)
            return made, False

    def _scratch(self, key: str) -> str:
        """Where the step's checkpoints lie. The lock above holds for this machine alone: on a cluster they are the run's own,
        so that nobody else removes them and a fresh run finds none, or shared by jobs that look for each other (launching.py).
        """
        scratch = locations.join(self.store.root, "scratch")
        if self.settings.cluster is None:
            return locations.join(scratch, key)
        return locations.join(scratch, "runs", self.run, self.label, key)

    def _digests(
        self, inputs: Mapping[str, Manifest], settings: Mapping[str, str], resources: Mapping[str, Any] | None = None
    ) -> dict[str, str]:
        digests = {name: manifest.content_digest for name, manifest in inputs.items()}
        # A verdict signed with another key is another verdict.
        for name in ("signing_key", "public_keys"):
            if name in settings and locations.exists(settings[name]):
                place = Path(settings[name])
                # The files that verdicts.trusted_keys reads: a mounted secret has folders beside them.
                files = [place] if place.is_file() else sorted(path for path in place.glob("*.pem") if path.is_file())
                digests[f"setting:{name}"] = digest_of([locations.sha256_of(str(file)) for file in files])
        if self.description.runtime == "torch":
            # Gradients are summed in another order on another number of ranks: the weights differ.
            digests["setting:processes"] = str(self._ranks(resources))
        return digests

    def _ranks(self, resources: Mapping[str, Any] | None) -> int:
        if self.settings.cluster is None:
            return self.settings.processes
        from tutelage.runtimes.kubernetes.launching import world_size

        return world_size(self.step, self.settings.cluster, self.settings.processes, resources)

    def _run(self, request: Request, lock: Path, resources: Mapping[str, Any]) -> dict[str, Manifest]:
        outcome = Path(request.outcome)
        for stale in outcome.parent.glob(f"{outcome.name}*"):
            stale.unlink()
        log.info("%s: attempt %s of step key %s", self.label, request.attempt, request.step_key)
        log_file = self.folder / "logs" / f"{self.label}.log"
        exit_code, attempt = self._start(request, log_file, lock, resources)
        if exit_code != 0:
            raise error_of(request, exit_code, log_file)
        made = {}
        for name, kind in self.description.writes.items():
            try:
                made[name] = self.store.read(kind, request.step_key, attempt)
            except FileNotFoundError as error:
                raise StepFailed(f"{self.label} ended well but left no manifest for {name!r}") from error
            verify(made[name], content=False)
        return made

    def _start(self, request: Request, log_file: Path, lock: Path, resources: Mapping[str, Any]) -> tuple[int, str]:
        """Run the step where this installation runs it. Gives its exit code, and the attempt that its outputs are in."""
        if self.settings.cluster is None:
            return START[self.description.runtime](request, log_file, lock, self.settings), request.attempt
        from tutelage.runtimes import cluster

        return cluster.start(request, log_file, lock, self.settings, resources)


def error_of(request: Request, exit_code: int, log_file: Path) -> TutelageError:
    """The error a failed step left in its outcome; that of rank 0 first, then of any rank, then its exit code."""
    outcome = Path(request.outcome)
    candidates = sorted(outcome.parent.glob(f"{outcome.name}*"))
    left = [json.loads(path.read_text()) for path in candidates]
    left = [item for item in left if item["outcome"] != "done"]
    # A typed error (with a hint) names the cause; a rank that only lost its peers, or was told to end, does not.
    left.sort(key=lambda item: (_is_consequence(item["cause"]), item["outcome"] == "failed", item["hint"] is None))
    hint = f"its log: {log_file}" if log_file.exists() else "run the same command again: finished steps are reused"
    if not left:
        how = f"was killed by signal {-exit_code}" if exit_code < 0 else f"exited with code {exit_code}"
        return StepFailed(f"{request.label} {how} before it could say why", hint=hint)
    kinds: dict[str, type[TutelageError]] = {"invalid": InvalidInput, "refused": GateRefused, "budget": BudgetSpent}
    return kinds.get(left[0]["outcome"], StepFailed)(left[0]["cause"], hint=left[0]["hint"] or hint)


def _is_consequence(cause: str) -> bool:
    """Whether a rank failed only because another did: the agent ends the others (SIGTERM), or their connection broke."""
    return cause.startswith("SystemExit") or "lost its peers" in cause


def _hand_over(manifest: Manifest, artifact: Artifact) -> None:
    """Describe a finished output to KFP: the manifest as the artifact's file (a page: the page itself), and metadata."""
    target = Path(artifact.path)
    target.parent.mkdir(parents=True, exist_ok=True)
    is_page = manifest.kind in ("page", "plan")
    # Not the manifest's own bytes: where the store was moved, they name the old place.
    target.write_bytes(locations.read_bytes(manifest.file("page.html")) if is_page else manifest.to_json())
    artifact.metadata.update(manifest.artifact_metadata())


def _hand_over_metrics(made: Mapping[str, Manifest], metrics: Artifact) -> None:
    """The outputs' numbers as KFP metrics."""
    for manifest in made.values():
        metrics.metadata.update({key: float(value) for key, value in manifest.metrics.items()})
    Path(metrics.path).parent.mkdir(parents=True, exist_ok=True)
    Path(metrics.path).write_text(json.dumps(metrics.metadata, sort_keys=True))


def _follow_supervisor() -> None:
    """End this process, and what it started, when the command line that runs the pipeline is gone.

    kfp.local puts a shell between the two, so the kernel's parent-death signal does not reach here.
    """
    supervisor = os.environ.get(SUPERVISOR_VARIABLE)
    if not supervisor:
        return
    process_id = int(supervisor)

    def watch() -> None:
        while psutil.pid_exists(process_id):
            time.sleep(0.5)
        for child in psutil.Process().children(recursive=True):
            child.kill()
        os._exit(137)

    threading.Thread(target=watch, name="supervisor", daemon=True).start()
