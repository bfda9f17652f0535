"""What launch() calls on a cluster for a step of runtime `spark` or `torch`: the step runs as a job, this pod follows it.

    launch ── request ──▶ store ◀── python -m tutelage.step.cluster (driver, every rank) ── payload, manifest, outcome ──▶ store
       └───── engine ──▶ SparkApplication | PyTorchJob                                                                      │
       ◀──────────────────────────── outcome, verified manifests ◀───────────────────────────────────────────────────────┘

The request lies at a place that follows from the job's name, and the attempt stands in the request, never in the job's spec: so
a retried launcher renders the same spec, adopts the job, and learns from its outcome which attempt it wrote. The contract is
that of process.run, spark.run and torch.run: an exit code, and an outcome.json at `request.outcome`. On success that file
names the `attempt` whose manifests are complete.
"""

from __future__ import annotations

import json
import logging
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tutelage.contracts import locations
from tutelage.contracts.manifest import verify
from tutelage.contracts.store import Store, new_attempt
from tutelage.errors import BudgetSpent, CorruptPayload, GateRefused, InvalidInput, StepFailed, StoreError
from tutelage.runtimes.kubernetes import causes
from tutelage.runtimes.kubernetes.api import Api
from tutelage.runtimes.kubernetes.causes import CauseKind
from tutelage.runtimes.kubernetes.clocks import Clocks
from tutelage.runtimes.kubernetes.engine import Cancel, Collected, Ended, run_to_end
from tutelage.runtimes.kubernetes.jobs import Job, Phase
from tutelage.runtimes.kubernetes.names import Identity, label_value, request_location
from tutelage.runtimes.kubernetes.settings import ClusterSettings
from tutelage.runtimes.kubernetes.surroundings import Surroundings, surroundings
from tutelage.step import Request, append_event, describe, request_json
from tutelage.step.resources import Resources, changed

log = logging.getLogger("tutelage")
OUTCOME_SUFFIX = ".outcome.json"
EXIT_CODES = {
    "done": 0,
    "invalid": InvalidInput.exit_code,
    "refused": GateRefused.exit_code,
    "budget": BudgetSpent.exit_code,
}


def run(
    request: Request,
    log_file: Path,
    store: Store,
    settings: ClusterSettings,
    *,
    processes: int = 1,
    resources: Mapping[str, Any] | None = None,
    api: Api | None = None,
    clocks: Clocks | None = None,
) -> int:
    """Run the step as a job of this cluster. Gives its exit code, with an outcome.json at `request.outcome`.

    `processes` are the ranks of a pod without accelerators, `resources` what the run changes of the step's. Raises
    NameTaken, and ApiError where the API server stays away.
    """
    api = api or Api.connect(settings.namespace)
    needs = needs_of(request.step, resources)
    here = surroundings(api, request.run)
    work = _Work(request, store, here)
    job = job_of(request, settings, needs, here, api.namespace, work.requests, processes)
    clocks = clocks or clocks_of(needs, settings)
    relaunches = settings.relaunches if needs.retries is None else needs.retries

    def tell(name: str, /, **fields: Any) -> None:
        if request.events is not None:
            append_event(request.events, name, request.label, request.step, **fields)

    with _cancelled_by_signals() as cancel:
        ended = run_to_end(
            job, api, clocks=clocks, log_file=log_file, event=tell, collect=work.collect, prepare=work.prepare,
            relaunches=relaunches, keep_failed=settings.keep_failed, cancel=cancel, passed=lambda event: _pass_on(event, request),
        )  # fmt: skip
    outcome = outcome_of(ended)
    locations.write_bytes(request.outcome, json.dumps(outcome, indent=1, ensure_ascii=False).encode())
    if not ended.kept:
        work.forget(job.name)
    return EXIT_CODES.get(outcome["outcome"], StepFailed.exit_code)


def needs_of(step: str, resources: Mapping[str, Any] | None = None) -> Resources:
    """What a step's pods need: component.yaml's resources with the run's changes."""
    needs = describe(step).needs
    return changed(needs, resources, where=f"{step}: resources") if resources else needs


def world_size(step: str, settings: ClusterSettings, processes: int, resources: Mapping[str, Any] | None = None) -> int:
    """Ranks that a training step will have here: part of its step key."""
    workers, ranks = needs_of(step, resources).training_shape(settings.training_workers, processes)
    return workers * ranks


def clocks_of(needs: Resources, settings: ClusterSettings) -> Clocks:
    """The job's clocks: the step's own limits, else the installation's."""
    own, common = needs.timeouts, settings.clocks
    return Clocks(
        queue_seconds=own.queue_seconds or common.queue_seconds,
        start_seconds=own.start_seconds or common.start_seconds,
        run_seconds=own.run_seconds or common.run_seconds,
        grace_seconds=common.grace_seconds,
    )


def job_of(
    request: Request,
    settings: ClusterSettings,
    needs: Resources,
    here: Surroundings,
    namespace: str,
    requests: str,
    processes: int,
) -> Job:
    """The step rendered as the job of its runtime. Raises InvalidInput for a runtime that is no job."""
    from tutelage.runtimes.kubernetes.pytorchjob import PyTorchJob
    from tutelage.runtimes.kubernetes.sparkapplication import SparkApplication

    description = describe(request.step)
    identity = Identity(
        run=here.run, task=request.label, iteration=request.step_key, step=request.step, owner=here.owner
    )
    given: dict[str, Any] = {
        "identity": identity, "namespace": namespace, "settings": settings, "needs": needs,
        "image": settings.image(description.image), "requests": requests,
    }  # fmt: skip
    if description.runtime == "torch":
        return PyTorchJob(**given, processes=processes)
    if description.runtime == "spark":
        return SparkApplication(**given)
    raise InvalidInput(f"{request.step} has runtime {description.runtime!r}", hint="accepted as a job: spark, torch")


def outcome_of(ended: Ended) -> dict[str, Any]:
    """How a job ended, as outcome.json says it: what the step wrote, or what the cluster did to it."""
    if ended.phase is Phase.SUCCEEDED:
        return {**(ended.outcome or {}), "outcome": "done", "cause": None, "hint": None}
    cause = ended.cause or causes.cause(CauseKind.UNKNOWN, "no reason given")
    own = ended.outcome or {}
    # The step's own words, where they are why the job failed; else a rank that was only told to end.
    typed = causes.of_outcome(own)
    if typed is not None and typed.kind is cause.kind:
        return {**own, "kind": cause.kind.value}
    outcome = "budget" if cause.kind is CauseKind.BUDGET else "failed"
    kept = f" (kept on the cluster: {', '.join(ended.kept)})" if ended.kept else ""
    return {
        "outcome": outcome, "kind": cause.kind.value, "cause": f"{ended.job}: {cause.kind}: {cause.message}{kept}",
        "hint": cause.hint, "attempts": ended.attempts,
    }  # fmt: skip


class _Work:
    """The store's side of a job: the request it reads, the outcome and the manifests it leaves."""

    def __init__(self, request: Request, store: Store, here: Surroundings) -> None:
        self.request, self.store = request, store
        self.requests = locations.join(store.root, "scratch", "jobs", label_value(here.run))
        self.writes = describe(request.step).writes

    def prepare(self, job: Job) -> None:
        """Put the request where the job looks for it; what an earlier job of this name left there is no outcome of this one.

        Every launch writes an attempt of its own: a pod of the one before may still be at its files.
        """
        self.forget(job.name, exact=True)
        attempt = new_attempt()
        outputs = {name: self.store.attempt(kind, self.request.step_key, attempt) for name, kind in self.writes.items()}
        outcome = locations.join(self.requests, job.name + OUTCOME_SUFFIX)
        request = replace(
            self.request, attempt=attempt, outputs=outputs, outcome=outcome, cache="", events=None, leashed=False
        )
        locations.write_bytes(request_location(self.requests, job.name), request_json(request))

    def collect(self, job: Job) -> Collected:
        """The outcome that tells most, and whether every output is there, complete and verified."""
        try:
            outcome = self._outcome(job.name)
            if outcome is None or outcome.get("outcome") != "done":
                return Collected(complete=False, outcome=outcome, problem=None if outcome else "no outcome.json")
            problem = self._problem(str(outcome.get("attempt", "")))
            return Collected(complete=problem is None, outcome=outcome, problem=problem)
        except StoreError as error:
            return Collected(complete=False, problem=error.message, unreachable=True)

    def forget(self, name: str, *, exact: bool = False) -> None:
        """Remove requests and outcomes of a job; of its relaunches too, unless `exact`."""
        for path, _ in locations.list_files(self.requests):
            if path.startswith(f"{name}.") or (not exact and path.startswith(f"{name}-r")):
                locations.remove(locations.join(self.requests, path))

    def _outcome(self, name: str) -> dict[str, Any] | None:
        left = []
        for path, _ in locations.list_files(self.requests):
            if path.startswith(name + OUTCOME_SUFFIX):
                try:
                    left.append(json.loads(locations.read_bytes(locations.join(self.requests, path))))
                except (ValueError, FileNotFoundError):
                    # Written this moment, or half of it on a disk that filled up: no outcome yet.
                    continue
        # Rank 0 alone writes `done`, last of all; where there is an error beside it, the manifests decide.
        left.sort(key=_standing)
        return left[0] if left else None

    def _problem(self, attempt: str) -> str | None:
        """What is missing or wrong with the outputs of `attempt`; None when all are complete."""
        for name, kind in self.writes.items():
            try:
                manifest = self.store.read(kind, self.request.step_key, attempt)
                verify(manifest, content=False)
            except FileNotFoundError:
                return f"no manifest for {name!r}"
            except CorruptPayload as error:
                return error.message
            if manifest.output != name:
                return f"{manifest.uri} is output {manifest.output!r}, not {name!r}"
        return None


def _standing(outcome: Mapping[str, Any]) -> tuple[int, int]:
    """`done` first, then errors that name a cause, then others; of equal ones the lowest rank."""
    cause = causes.of_outcome(outcome)
    rank = int(outcome.get("rank") or 0)
    if outcome.get("outcome") == "done":
        return 0, rank
    if cause is None:
        return 3, rank
    return (2 if cause.kind is CauseKind.UNKNOWN else 1), rank


def _pass_on(event: Mapping[str, Any], request: Request) -> None:
    """Append what the step said in its pod to the run's events, under the time stamp of here: clocks of nodes differ."""
    fields = {name: value for name, value in event.items() if name not in ("time", "event", "task", "step")}
    if request.events is not None:
        append_event(request.events, str(event["event"]), request.label, request.step, **fields)


@contextmanager
def _cancelled_by_signals() -> Iterator[Cancel]:
    """A Cancel that SIGTERM and SIGINT request, where signals can be handled."""
    cancel = Cancel()
    if threading.current_thread() is not threading.main_thread():
        yield cancel
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in kept:
        signal.signal(number, lambda *_: cancel.request())
    try:
        yield cancel
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
