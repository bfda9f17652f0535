"""What launch() calls on a cluster for a step of runtime `spark` or `torch`: the step runs as a job, this pod follows it.

    launch ── request ──▶ store ◀── python -m tutelage.step.cluster (driver, every rank) ── payload, manifest, outcome ──▶ store
       └───── engine ──▶ SparkApplication | PyTorchJob                                                                      │
       ◀──────────────────────────── outcome, verified manifests ◀───────────────────────────────────────────────────────┘

The attempt stands in the object that was created, never in the spec that is rendered (attempts.py): so a retried launcher
renders the same spec, adopts the job, and learns from it which attempt it writes. The contract is that of process.run, spark.run
and torch.run: an exit code, and an outcome.json at `request.outcome`. On success that file names the `attempt` whose manifests
are complete: the job's own, or that of another run which did the same work at the same time (sharing.py).
"""

from __future__ import annotations

import json
import logging
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tutelage.contracts import locations
from tutelage.contracts.manifest import verify
from tutelage.contracts.store import Store
from tutelage.errors import BudgetSpent, CorruptPayload, GateRefused, InvalidInput, StepFailed, StoreError
from tutelage.runtimes.kubernetes import causes
from tutelage.runtimes.kubernetes.api import Api, ApiError
from tutelage.runtimes.kubernetes.attempts import Attempts
from tutelage.runtimes.kubernetes.causes import CauseKind
from tutelage.runtimes.kubernetes.clocks import Clocks
from tutelage.runtimes.kubernetes.engine import Cancel, Collected, Ended, run_to_end
from tutelage.runtimes.kubernetes.jobs import Job, Object, Phase
from tutelage.runtimes.kubernetes.names import Identity, label_value
from tutelage.runtimes.kubernetes.settings import ClusterSettings
from tutelage.runtimes.kubernetes.sharing import Sharing
from tutelage.runtimes.kubernetes.surroundings import Surroundings, surroundings
from tutelage.step import Request, append_event, describe
from tutelage.step.resources import Resources, changed

log = logging.getLogger("tutelage")
ATTEMPT = re.compile(r"\w[\w.-]*")
#: What a step may say from its pod; how it began and ended the launcher says itself.
PASSED_ON = frozenset({"progress", "warning"})
#: Fields of an event that are the launcher's to fill in.
OWN_FIELDS = frozenset({"time", "event", "task", "step"})
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
    shared: bool = False,
) -> int:
    """Run the step as a job of this cluster. Gives its exit code, with an outcome.json at `request.outcome`.

    `processes` are the ranks of a pod without accelerators, `resources` what the run changes of the step's. `shared`: other runs
    of this namespace may do this work instead, and go on from its checkpoints; else they lie in `request.scratch`, this run's
    own. Raises NameTaken, and ApiError where the API server stays away.
    """
    api = api or Api.connect(settings.namespace)
    needs = needs_of(request.step, resources)
    here = surroundings(api, request.run)
    work = _Work(request, store, here, api.namespace if shared else None)
    job = job_of(request, settings, needs, here, api.namespace, work.requests, processes)
    clocks = clocks or clocks_of(needs, settings)
    relaunches = settings.relaunches if needs.retries is None else needs.retries

    def tell(name: str, /, **fields: Any) -> None:
        if request.events is not None:
            append_event(request.events, name, request.label, request.step, **fields)

    waiting = lambda reason: tell("waiting", reason=reason)
    share = Sharing(api, clocks, work.found, waiting) if shared else None
    with _cancelled_by_signals() as cancel:
        ended = run_to_end(
            job, api, clocks=clocks, log_file=log_file, event=tell, collect=work.collect, prepare=work.prepare,
            follow=work.attempts.follow, memory=work.attempts, share=share, relaunches=relaunches,
            keep_failed=settings.keep_failed, cancel=cancel, passed=lambda event: _pass_on(event, request),
        )  # fmt: skip
    outcome = outcome_of(ended)
    locations.write_bytes(request.outcome, json.dumps(outcome, indent=1, ensure_ascii=False).encode())
    if not ended.kept:
        work.forget(job)
    if share is not None and ended.phase is Phase.SUCCEEDED:
        _remove_checkpoints(work.attempts.scratch, share, job)
    return EXIT_CODES.get(outcome["outcome"], StepFailed.exit_code)


def _remove_checkpoints(scratch: str, share: Sharing, job: Job) -> None:
    """The work is done, so nobody resumes it; but another job that is at it still may be reading them."""
    try:
        if share.alone(job):
            locations.remove(scratch)
    except (ApiError, StoreError) as error:
        # The result is there; that must not be lost over sweeping up.
        log.warning("%s: checkpoints not removed from %s: %s", job.name, scratch, error.message)


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
        return {**own, "cause": str(own.get("cause") or typed.message), "hint": typed.hint, "kind": cause.kind.value}
    outcome = "budget" if cause.kind is CauseKind.BUDGET else "failed"
    kept = f" (still on the cluster: {', '.join(ended.kept)})" if ended.kept else ""
    if cause.kind is CauseKind.UNKNOWN and own.get("cause"):
        # A rank that only followed others; but nobody else says more.
        kept = f"; the step's last words: {own['cause']}{kept}"
    return {
        "outcome": outcome, "kind": cause.kind.value, "cause": f"{ended.job}: {cause.kind}: {cause.message}{kept}",
        "hint": cause.hint, "attempts": ended.attempts,
    }  # fmt: skip


class _Work:
    """The store's side of a job: the request it reads, the outcome and the manifests it leaves."""

    def __init__(self, request: Request, store: Store, here: Surroundings, shared_in: str | None = None) -> None:
        """`shared_in`: the namespace whose runs share the work; None: this run shares nothing."""
        self.request, self.store, self.shared = request, store, shared_in is not None
        self.requests = locations.join(store.root, "scratch", "jobs", label_value(here.run))
        self.writes = describe(request.step).writes
        scratch = request.scratch
        if shared_in is not None:
            scratch = locations.join(store.root, "scratch", "checkpoints", shared_in, request.step_key)
        self.attempts = Attempts(request, store, self.requests, scratch)

    def prepare(self, job: Job) -> Object:
        """Put the request where only this launch's pods look. Gives the object to create."""
        return self.attempts.prepare(job)

    def collect(self, job: Job) -> Collected:
        """The outcome that tells most, and whether every output is there, complete and verified."""
        try:
            outcome = self._outcome(job.name)
            if outcome is None:
                return self._unsaid()
            if outcome.get("outcome") != "done":
                return Collected(complete=False, outcome=outcome)
            attempt = str(outcome.get("attempt"))
            # It becomes part of a path.
            named = ATTEMPT.fullmatch(attempt) is not None
            problem = self._problem(attempt) if named else f"outcome.json names no attempt: {attempt!r}"
            return Collected(complete=problem is None, outcome=outcome, problem=problem)
        except StoreError as error:
            return Collected(complete=False, problem=error.message, unreachable=True)

    def _unsaid(self) -> Collected:
        """Nobody says how the job ended: it works, its pod died in its last breath, or another launcher has swept up.

        Then manifests decide: of the job's attempt, or of work that others finished.
        """
        attempt = self.attempts.current
        if attempt and self.writes and self._problem(attempt) is None:
            return Collected(complete=True, outcome=_done(attempt))
        found = self.found(content=False) if self.shared else None
        return found or Collected(complete=False, problem="no outcome.json")

    def found(self, *, content: bool = True) -> Collected | None:
        """Finished work of the step key, whoever did it. A store that does not answer has none."""
        try:
            made = self.store.find(self.writes, self.request.step_key, content=content)
        except StoreError as error:
            log.warning("%s: not looked for finished work: %s", self.request.label, error.message)
            return None
        return Collected(complete=True, outcome=_done(next(iter(made.values())).attempt)) if made else None

    def forget(self, job: Job) -> None:
        """Remove requests and outcomes of the job's launches."""
        self.attempts.forget(job)

    def _outcome(self, name: str) -> dict[str, Any] | None:
        left = []
        for path, _ in locations.list_files(self.requests):
            if path.startswith(self.attempts.outcomes(name)):
                try:
                    outcome = json.loads(locations.read_bytes(locations.join(self.requests, path)))
                except (ValueError, RecursionError, FileNotFoundError):
                    # Written this moment, or half of it on a disk that filled up: no outcome yet.
                    continue
                if isinstance(outcome, dict) and isinstance(outcome.get("outcome"), str):
                    left.append(outcome)
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


def _done(attempt: str) -> dict[str, Any]:
    """The outcome of work whose manifests are there."""
    return {"outcome": "done", "cause": None, "hint": None, "attempt": attempt}


def _standing(outcome: Mapping[str, Any]) -> tuple[int, int]:
    """`done` first, then errors that name a cause, then others; of equal ones the lowest rank."""
    cause = causes.of_outcome(outcome)
    rank = outcome.get("rank")
    rank = rank if isinstance(rank, int) else 0
    if outcome.get("outcome") == "done":
        return 0, rank
    if cause is None:
        return 3, rank
    return (2 if cause.kind is CauseKind.UNKNOWN else 1), rank


def _pass_on(event: Mapping[str, Any], request: Request) -> None:
    """Append what the step said in its pod to the run's events, under the time stamp of here: clocks of nodes differ."""
    fields = {name: value for name, value in event.items() if name not in OWN_FIELDS}
    if request.events is not None and event["event"] in PASSED_ON:
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
