"""A data step as a SparkApplication of the Spark operator (v1beta2, 2.5): cluster mode, never restarted by the operator.

    SparkApplication ── spark-submit in the operator ──▶ driver pod ── its token ──▶ executor pods

- Everything about pods stands in `driver.template` and `executor.template`: with a template the operator's webhook leaves pods
  alone (its other pod fields would be ignored), and they are the same where the webhook is switched off.
- Rows live in Python processes, not in the JVM: a quarter of a pod's memory is heap, the rest is Spark's `memoryOverhead`.
- Executors mount no token. Spark's own retries of the application delete driver and log, so `restartPolicy: Never`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Self

import tutelage
from tutelage.errors import InvalidInput
from tutelage.runtimes.kubernetes import causes, pods
from tutelage.runtimes.kubernetes.jobs import SPARKAPPLICATION, Object, Observation, Phase, Resource
from tutelage.runtimes.kubernetes.names import Identity, metadata, request_location
from tutelage.runtimes.kubernetes.settings import ClusterSettings
from tutelage.step.resources import Resources, amount

NAME_LABEL, ROLE_LABEL = "sparkoperator.k8s.io/app-name", "spark-role"
DRIVER, EXECUTOR = "spark-kubernetes-driver", "spark-kubernetes-executor"
#: In the image; PYTHONSAFEPATH keeps its folder, in which a code.py stands, off the module path.
ENTRY = Path(tutelage.__file__).parent / "step" / "cluster.py"
PYTHON = "python3"
#: Should nobody delete the application, the operator does, this long after its end.
KEPT_SECONDS = 24 * 3600
#: Spark's least heap is 450 MiB; with Python beside it less than a gibibyte is no use.
LEAST_MEMORY_MIB, LEAST_HEAP_MIB, MOST_HEAP_MIB = 1024, 512, 8192
ENVIRONMENT: Mapping[str, str] = {
    "PYSPARK_PYTHON": PYTHON, "PYSPARK_DRIVER_PYTHON": PYTHON, "PYTHONSAFEPATH": "1", "PYTHONHASHSEED": "0",
    "HF_HUB_OFFLINE": "1",
}  # fmt: skip
JAVA_OPTIONS = "-XX:TieredStopAtLevel=1 -Duser.timezone=UTC -Djava.io.tmpdir=/tmp"
CONFIGURATION: Mapping[str, str] = {
    "spark.ui.enabled": "false",
    "spark.dynamicAllocation.enabled": "false",
    "spark.pyspark.python": PYTHON,
    "spark.pyspark.driver.python": PYTHON,
    "spark.sql.session.timeZone": "UTC",
    # No volumes are claimed, so the driver's role may leave out what these would ask for.
    "spark.kubernetes.driver.ownPersistentVolumeClaim": "false",
    "spark.kubernetes.driver.reusePersistentVolumeClaim": "false",
    "spark.kubernetes.driver.service.deleteOnTermination": "false",
}
#: A volume of this name Spark takes for shuffle and spills, instead of making one of its own.
SCRATCH: Mapping[str, str] = {"spark-local-dir-1": "/var/data/spark"}

#: State → phase while the application is not over; "" is one the operator has not looked at.
PHASES: Mapping[str, Phase] = {
    "": Phase.PENDING, "SUBMITTED": Phase.PENDING, "RESUMING": Phase.PENDING, "SUBMISSION_FAILED": Phase.PENDING,
    "RUNNING": Phase.RUNNING, "SUCCEEDING": Phase.RUNNING, "FAILING": Phase.RUNNING, "UNKNOWN": Phase.RUNNING,
    "PENDING_RERUN": Phase.RESTARTING, "INVALIDATING": Phase.RESTARTING,
    "SUSPENDING": Phase.QUEUED, "SUSPENDED": Phase.QUEUED,
    "COMPLETED": Phase.SUCCEEDED, "FAILED": Phase.FAILED,
}  # fmt: skip

#: What the operator says of executors that have run.
BEGUN = frozenset({"RUNNING", "COMPLETED", "FAILED"})


@dataclass(frozen=True, kw_only=True)
class SparkApplication:
    """The job that works on data; implements `jobs.Job`."""

    identity: Identity
    namespace: str
    settings: ClusterSettings
    needs: Resources
    image: str
    """Reference of the image that holds the step."""
    requests: str
    """Location below which the launcher puts the job's request."""

    @property
    def resource(self) -> Resource:
        """SparkApplication."""
        return SPARKAPPLICATION

    @property
    def name(self) -> str:
        """`metadata.name`."""
        return self.identity.name

    @property
    def request(self) -> str:
        """Location of the request that this launch of the job reads."""
        return request_location(self.requests, self.name)

    @property
    def body(self) -> Object:
        """The complete object."""
        spec = self._spec()
        labels = {pods.QUEUE_LABEL: self.settings.queue} if self.settings.queue else {}
        return {
            "apiVersion": SPARKAPPLICATION.api_version,
            "kind": SPARKAPPLICATION.kind,
            "metadata": metadata(self.identity, self.namespace, spec, labels=labels),
            "spec": spec,
        }

    def observe(self, found: Object | None, pods: Sequence[Object], events: Sequence[Object]) -> Observation:
        """Read state and pods."""
        return observe(found, pods, events)

    def pod_selector(self) -> str:
        """The operator's own label, on driver and executors."""
        return f"{NAME_LABEL}={self.name}"

    def log_sources(self, pods: Sequence[Object]) -> Sequence[tuple[str, str]]:
        """The driver, then executors."""
        return [(pod["metadata"]["uid"], EXECUTOR if is_executor(pod) else DRIVER) for pod in sorted(pods, key=_order)]

    def relaunched(self, ordinal: int) -> Self:
        """The same work as another application."""
        return replace(self, identity=self.identity.relaunched(ordinal))

    def _spec(self) -> Object:
        executors = self.needs.replicas or self.settings.spark_executors
        return {
            "type": "Python",
            "pythonVersion": "3",
            "mode": "cluster",
            "sparkVersion": version("pyspark"),
            "image": self.image,
            "imagePullPolicy": self.settings.images.pull_policy,
            "mainApplicationFile": f"local://{ENTRY}",
            "arguments": [self.request],
            "sparkConf": dict(CONFIGURATION),
            "restartPolicy": {"type": "Never"},
            "timeToLiveSeconds": KEPT_SECONDS,
            "suspend": self.settings.queue is not None,
            "driver": {
                **self._size(),
                "serviceAccount": self.settings.service_accounts.spark_driver,
                "javaOptions": JAVA_OPTIONS,
                "template": self._template(DRIVER),
            },
            "executor": {
                **self._size(),
                "instances": executors,
                "serviceAccount": self.settings.service_accounts.spark_executor,
                "javaOptions": JAVA_OPTIONS,
                # Why one died is read from its pod; pods go with the application.
                "deleteOnTermination": False,
                "template": self._template(EXECUTOR),
            },
        }

    def _size(self) -> Object:
        heap, overhead = memory_mib(self.needs)
        return {
            "cores": max(1, int(amount(self.needs.limits["cpu"]))),
            "coreRequest": self.needs.requests["cpu"],
            "coreLimit": self.needs.limits["cpu"],
            "memory": f"{heap}m",
            "memoryOverhead": f"{overhead}m",
        }

    def _template(self, name: str) -> Object:
        place, accounts, is_driver = self.settings.spark, self.settings.service_accounts, name == DRIVER
        container = pods.container(name, self.settings, place, self.needs, env=ENVIRONMENT, writable=SCRATCH)
        # Spark itself adds processors and memory.
        if devices := {key: str(number) for key, number in self.needs.devices.items()}:
            container["resources"] = {"requests": dict(devices), "limits": devices}
        account = accounts.spark_driver if is_driver else accounts.spark_executor
        spec = pods.pod_spec(
            [container], self.settings, place, self.needs, account=account, token=is_driver, writable=SCRATCH
        )
        if is_driver:
            # The application has no deadline of its own; its driver's death ends it.
            clocks, given = self.settings.clocks, self.needs.timeouts
            spec["activeDeadlineSeconds"] = (given.start_seconds or clocks.start_seconds) + (
                given.run_seconds or clocks.run_seconds
            )
        return {"metadata": pods.pod_metadata(self.identity.labels, place), "spec": spec}


def memory_mib(needs: Resources) -> tuple[int, int]:
    """(heap, overhead) in MiB: together limits.memory, which Spark makes request and limit. Raises InvalidInput."""
    total = int(amount(needs.limits["memory"]) / 2**20)
    if total < LEAST_MEMORY_MIB:
        raise InvalidInput(
            f"resources.limits.memory {needs.limits['memory']} is too little for Spark", hint="accepted: 1Gi or more"
        )
    heap = max(LEAST_HEAP_MIB, min(MOST_HEAP_MIB, total // 4))
    return heap, total - heap


def observe(found: Object | None, pods: Sequence[Object], events: Sequence[Object]) -> Observation:
    """What the operator's state and the pods say together."""
    if found is None:
        return Observation(phase=Phase.GONE, reason="NotFound", message="the SparkApplication does not exist")
    status = found.get("status") or {}
    state = status.get("applicationState", {}).get("state", "")
    message = status.get("applicationState", {}).get("errorMessage", "")
    suspended = bool(found.get("spec", {}).get("suspend"))
    phase = PHASES.get(state, Phase.RUNNING)
    if phase is Phase.SUCCEEDED:
        return Observation(phase=phase, reason=state, message=message)
    if phase is Phase.FAILED:
        return Observation(phase=phase, reason=state, message=message, cause=_cause(state, message, pods, events))
    if suspended or phase is Phase.QUEUED:
        return Observation(phase=Phase.QUEUED, reason=state or "Suspended", message=message, suspended=True)
    if phase is Phase.PENDING:
        return _pending(state, message, pods, events)
    if state == "RUNNING" and (waiting := _waiting_executors(status, pods)):
        # The driver would wait for them for ever; the start clock does not.
        _, why = causes.pending_reason(waiting, [])
        held = f"the driver runs, none of its {len(waiting)} executors has started" + (f": {why}" if why else "")
        cause = causes.of_waiting(waiting)
        return Observation(phase=Phase.PENDING, reason="ExecutorsPending", message=held, cause=cause)
    return Observation(phase=phase, reason=state, message=message)


def _pending(state: str, message: str, pods: Sequence[Object], events: Sequence[Object]) -> Observation:
    drivers = [pod for pod in pods if not is_executor(pod)]
    cause = causes.of_waiting(drivers) or causes.of_events(events)
    reason, why = causes.pending_reason(drivers, events)
    return Observation(
        phase=Phase.PENDING,
        reason=reason or state or "New",
        message=why or message or ("" if state else "the operator has not looked at it yet"),
        cause=cause,
    )


def _waiting_executors(status: Object, pods: Sequence[Object]) -> list[Object]:
    """Executors that have not started, where none ever has. One that has ended counts as started: its pod stays."""
    executors = [pod for pod in pods if is_executor(pod)]
    waiting = [pod for pod in executors if pod.get("status", {}).get("phase") in (None, "Pending")]
    known = (status.get("executorState") or {}).values()
    begun = len(waiting) < len(executors) or any(state in BEGUN for state in known)
    return [] if begun else waiting


def _cause(state: str, message: str, pods: Sequence[Object], events: Sequence[Object]) -> causes.Cause:
    # The driver's evidence first: executors that it stopped have failed too.
    drivers = [pod for pod in pods if not is_executor(pod)]
    condition = {"type": "Failed", "status": "True", "reason": state, "message": message}
    found = causes.of_job(drivers, events, [condition], message)
    if found.kind is not causes.CauseKind.UNKNOWN:
        return found
    return causes.best([found, causes.of_pods([pod for pod in pods if is_executor(pod)])]) or found


def is_executor(pod: Object) -> bool:
    """Whether Spark made the pod as an executor."""
    return bool(pod["metadata"].get("labels", {}).get(ROLE_LABEL) == "executor")


def _order(pod: Object) -> tuple[bool, str]:
    return is_executor(pod), str(pod["metadata"]["name"])
