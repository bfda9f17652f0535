"""What an adapter tells the engine: the object to create, and how to read what an operator made of it.

An adapter (pytorchjob.py, sparkapplication.py) is a frozen dataclass that satisfies `Job`. Its `body` is complete and a pure
function of the step, the run and the settings: never of the attempt, the time, or the pod that the launcher runs in. A
retried launcher renders it again, and adopts the running job only when the spec hash is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Protocol, Self

from tutelage.runtimes.kubernetes.causes import Cause

#: An object as the API server gives it: plain JSON.
Object = dict[str, Any]


class Resource(NamedTuple):
    """A kind of object and where the API server keeps it."""

    group: str
    """API group; empty for the core group (pods, events)."""
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        """The object's `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version


PYTORCHJOB = Resource("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob")
SPARKAPPLICATION = Resource("sparkoperator.k8s.io", "v1beta2", "sparkapplications", "SparkApplication")
INFERENCESERVICE = Resource("serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService")
WORKFLOW = Resource("argoproj.io", "v1alpha1", "workflows", "Workflow")
POD = Resource("", "v1", "pods", "Pod")
EVENT = Resource("", "v1", "events", "Event")
#: Kinds that the engine makes, and that cancelling and reaping remove. Never InferenceServices: they outlive their run.
JOB_KINDS = (PYTORCHJOB, SPARKAPPLICATION)


class Phase(StrEnum):
    """Where a job stands: queued → pending → running ⇄ restarting → succeeded | failed | gone."""

    QUEUED = "queued"
    """Exists, but is suspended or waits for a queue to admit it. Only the queue clock runs."""
    PENDING = "pending"
    """Admitted; its pods are being made, scheduled, pulled or started. The start clock runs."""
    RUNNING = "running"
    """At least one container of the work has started: of Spark an executor's, where there are any. The run clock runs."""
    RESTARTING = "restarting"
    """The operator starts it again by itself. The run clock runs."""
    SUCCEEDED = "succeeded"
    """The operator says that it ended well. The engine believes it only with a complete manifest."""
    FAILED = "failed"
    """The operator says that it failed."""
    GONE = "gone"
    """The object does not exist (any more)."""

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen."""
        return self in (Phase.SUCCEEDED, Phase.FAILED, Phase.GONE)


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What an adapter reads from the object, its pods and their events."""

    phase: Phase
    reason: str = ""
    """One word where the operator has one: JobRunning, SUBMITTED, PodInitializing, ImagePullBackOff."""
    message: str = ""
    """One line for a person."""
    cause: Cause | None = None
    """Why it failed, or why (part of) it will hardly start. With a phase that is not terminal it is fatal once it has been seen
    at every look for `Clocks.grace_seconds` (images that cannot be pulled, denied quota)."""
    suspended: bool = False
    """Someone (Kueue, a person) holds it: clocks of start and run stand still, whatever the phase says."""
    queue_reason: str | None = None
    """Why a queue does not admit it, where it says so."""


class Job(Protocol):
    """One custom resource that does a step's work. Implemented by adapters; the engine drives it."""

    @property
    def resource(self) -> Resource:
        """The kind of object."""

    @property
    def name(self) -> str:
        """`metadata.name`, from `names.job_name`."""

    @property
    def body(self) -> Object:
        """The complete object: apiVersion, kind, metadata (from `names.metadata`), spec with a deadline."""

    def observe(self, found: Object | None, pods: Sequence[Object], events: Sequence[Object]) -> Observation:
        """Read the operator's answer. `found` is None when the object does not exist.

        `events` are those of the object and of its pods. Uses no clock: time stamps of a server are never compared with
        this machine's. `causes.of_pods`, `causes.of_events` and `causes.of_job` help.
        """

    def pod_selector(self) -> str:
        """Label selector of the job's pods, as the operator labels them (`training.kubeflow.org/job-name=…`)."""

    def log_sources(self, pods: Sequence[Object]) -> Sequence[tuple[str, str]]:
        """(pod uid, container) of every log worth following, most telling first."""

    def relaunched(self, ordinal: int) -> Self:
        """The same job as its `ordinal`-th relaunch (1, 2 …): name, relaunch label and request location of its own."""
