"""A released model as a KServe InferenceService: our serving image in Standard mode (Deployment and Service, no Knative).

The server reads the model's manifest and payload from the store itself and verifies them: KServe's storage initializer knows
neither, would fetch pickles too, and brings an image and credentials of its own.

What serves is told from the pods, not from conditions alone. In Standard mode `status.observedGeneration` is the *Deployment's*
(kserve 0.20, PropagateRawStatus), and Ready stays True while old pods serve beside new ones that fail. So the rendered
predictor's digest is a label of its pods: ready means pods of this release are Ready and no others are left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from tutelage.runtimes.kubernetes import causes, pods
from tutelage.runtimes.kubernetes.causes import CauseKind
from tutelage.runtimes.kubernetes.jobs import INFERENCESERVICE, Object, Observation, Phase, Resource
from tutelage.runtimes.kubernetes.names import DOMAIN, Identity, metadata, spec_hash
from tutelage.runtimes.kubernetes.settings import ClusterSettings
from tutelage.step.resources import Resources, amount

#: KServe gives the first container this name anyway.
CONTAINER = "kserve-container"
PORT = 8080
NAME_LABEL = "serving.kserve.io/inferenceservice"
RELEASE_LABEL = f"{DOMAIN}/release"
MODEL_ANNOTATION = f"{DOMAIN}/model"
MODE_ANNOTATION = "serving.kserve.io/deploymentMode"
AUTOSCALER_ANNOTATION = "serving.kserve.io/autoscalerClass"
VISIBILITY_LABEL = "networking.kserve.io/visibility"
#: KServe refuses the variable in a predictor; the image sets it.
REFUSED_BY_KSERVE = ("PYTHONPATH",)
#: Reasons of PredictorReady=False that pass only with another spec.
FATAL: Mapping[str, CauseKind] = {
    "ProgressDeadlineExceeded": CauseKind.DEADLINE,
    "FailedCreate": CauseKind.QUOTA,
    "InvalidGPUAllocation": CauseKind.INVALID_SPEC,
}
PROBE_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class InferenceService:
    """A model server on the cluster, as a smoke deployment of a run or under the stable name; also a `jobs.Job`."""

    identity: Identity
    namespace: str
    settings: ClusterSettings
    needs: Resources
    image: str
    """Reference of the serving image."""
    model: str
    """Location of the model's manifest.json."""
    digest: str
    """The model's content digest, which the server checks before it answers."""
    model_name: str
    """Name of the model in every route."""
    stable: bool = False
    """Under the installation's name, open to users, owned by nobody; else a smoke deployment, which its Workflow takes along."""

    @property
    def resource(self) -> Resource:
        """InferenceService."""
        return INFERENCESERVICE

    @property
    def name(self) -> str:
        """`metadata.name`."""
        return self.settings.deployment.name if self.stable else self.identity.name

    @property
    def release(self) -> str:
        """Digest of the rendered predictor: what tells its pods from those of another release."""
        return spec_hash(self._predictor())

    @property
    def body(self) -> Object:
        """The complete object."""
        predictor = self._predictor()
        predictor["labels"] = {**predictor["labels"], RELEASE_LABEL: self.release}
        spec = {"predictor": predictor}
        annotations = {
            MODE_ANNOTATION: self.settings.deployment.mode,
            # How many pods serve is the operator's business; nobody scales a smoke deployment.
            **({} if self.stable else {AUTOSCALER_ANNOTATION: "none"}),
            MODEL_ANNOTATION: self.digest,
        }
        labels = {} if self.stable else {VISIBILITY_LABEL: "cluster-local"}
        described = metadata(self.identity, self.namespace, spec, labels=labels, annotations=annotations)
        described["name"] = self.name
        if self.stable:
            # Workflows are deleted an hour after their end; what users talk to stays.
            described.pop("ownerReferences", None)
        return {
            "apiVersion": INFERENCESERVICE.api_version,
            "kind": INFERENCESERVICE.kind,
            "metadata": described,
            "spec": spec,
        }

    def promoted(self) -> Self:
        """The same release under the stable name."""
        return replace(self, stable=True)

    def observe(self, found: Object | None, pods: Sequence[Object], events: Sequence[Object]) -> Observation:
        """Read conditions, model status and the pods of this release. SUCCEEDED means: it serves."""
        return observe(found, pods, events, self.release)

    def pod_selector(self) -> str:
        """KServe's own label, on pods of every release."""
        return f"{NAME_LABEL}={self.name}"

    def log_sources(self, pods: Sequence[Object]) -> Sequence[tuple[str, str]]:
        """The servers of this release."""
        return [(pod["metadata"]["uid"], CONTAINER) for pod in pods if _release_of(pod) == self.release]

    def relaunched(self, ordinal: int) -> Self:
        """The same release as another smoke deployment."""
        return replace(self, identity=self.identity.relaunched(ordinal))

    def _predictor(self) -> Object:
        place, needs = self.settings.serving, self.needs
        described = pods.pod_metadata({}, place)
        replicas = (needs.replicas or 1) if self.stable else 1
        spec = pods.pod_spec(
            [self._container()], self.settings, place, needs, account=self.settings.service_accounts.serving
        )
        return {
            "minReplicas": replicas,
            "maxReplicas": replicas,
            "labels": described["labels"],
            "annotations": described["annotations"],
            **spec,
        }

    def _container(self) -> Object:
        # The model's file system is written once, by the server that fetches it.
        made = pods.container(
            CONTAINER, self.settings, self.settings.serving, self.needs, env=ENVIRONMENT, leave_out=REFUSED_BY_KSERVE
        )
        threads = max(1, int(amount(self.needs.limits["cpu"])))
        start = self.needs.timeouts.start_seconds or self.settings.clocks.start_seconds
        ready, live = "/v2/health/ready", "/v2/health/live"
        return made | {
            "image": self.image,
            "command": ["python3", "-m", "tutelage.serve.server"],
            "args": [
                "--manifest", self.model, "--digest", self.digest, "--model", f"{pods.CACHE}/model", "--name", self.model_name,
                "--threads", str(threads), "--host", "0.0.0.0", "--port", str(PORT),  # noqa: S104 (a pod's own network)
            ],
            "ports": [{"name": "http1", "containerPort": PORT, "protocol": "TCP"}],
            "resources": self.needs.manifest(),
            # The server answers once the model is fetched, verified and loaded.
            "startupProbe": _probe(live, period=PROBE_SECONDS, failures=-(-start // PROBE_SECONDS), timeout=5),
            "readinessProbe": _probe(ready, period=PROBE_SECONDS, failures=3, timeout=5),
            # A long generation on few cores must not look like death.
            "livenessProbe": _probe(live, period=30, failures=4, timeout=30),
        }  # fmt: skip


ENVIRONMENT: Mapping[str, str] = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def observe(found: Object | None, pods: Sequence[Object], events: Sequence[Object], release: str | None) -> Observation:
    """What KServe's status and the pods say of `release`; None means pods that are not ours."""
    if found is None:
        return Observation(phase=Phase.GONE, reason="NotFound", message="the InferenceService does not exist")
    status = found.get("status") or {}
    conditions = {item["type"]: item for item in status.get("conditions") or []}
    fresh = [pod for pod in pods if _release_of(pod) == release]
    if failed := _failed(status, conditions, fresh, events):
        return failed
    wanted = found.get("spec", {}).get("predictor", {}).get("minReplicas") or 1
    ready, old = [pod for pod in fresh if _is_ready(pod)], [pod for pod in pods if _release_of(pod) != release]
    if conditions.get("Ready", {}).get("status") == "True" and len(ready) >= wanted and not old:
        return Observation(phase=Phase.SUCCEEDED, reason="Ready", message=f"{len(ready)} pods serve")
    return _pending(conditions, fresh, ready, old, events)


def _failed(
    status: Mapping[str, Any], conditions: Mapping[str, Any], fresh: Sequence[Object], events: Sequence[Object]
) -> Observation | None:
    model = status.get("modelStatus") or {}
    transition, info = model.get("transitionStatus"), model.get("lastFailureInfo") or {}
    message = info.get("message") or info.get("reason") or ""
    if transition == "InvalidSpec":
        cause = causes.cause(CauseKind.INVALID_SPEC, message or "KServe calls the spec invalid")
        return Observation(phase=Phase.FAILED, reason=transition, message=message, cause=cause)
    # KServe looks at one pod, maybe of the release before: only one of ours that does not serve can block it.
    if transition == "BlockedByFailedLoad" and fresh and not any(_is_ready(pod) for pod in fresh):
        cause = causes.of_job(fresh, events, (), message)
        return Observation(phase=Phase.FAILED, reason=transition, message=message, cause=cause)
    predictor = conditions.get("PredictorReady") or {}
    if predictor.get("status") == "False" and predictor.get("reason") in FATAL and fresh:
        reason, message = predictor["reason"], predictor.get("message", "")
        cause = causes.of_waiting(fresh) or causes.of_pods(fresh) or causes.cause(FATAL[reason], message)
        return Observation(phase=Phase.FAILED, reason=reason, message=message, cause=cause)
    return None


def _pending(
    conditions: Mapping[str, Any],
    fresh: Sequence[Object],
    ready: Sequence[Object],
    old: Sequence[Object],
    events: Sequence[Object],
) -> Observation:
    cause = causes.of_waiting(fresh) or (causes.of_events(events) if not fresh else None)
    if ready:
        message = f"{len(ready)} pods serve, {len(old)} of another release are left"
        return Observation(phase=Phase.PENDING, reason="RollingOut", message=message, cause=cause)
    condition = conditions.get("PredictorReady") or conditions.get("Ready") or {}
    if cause is None and not fresh and condition.get("status") == "False" and condition.get("reason") in FATAL:
        # Maybe of the release before; fatal when it stays.
        cause = causes.of_message(condition.get("message", ""))
    reason, message = causes.pending_reason(fresh, events)
    given = condition.get("message", "")
    return Observation(
        phase=Phase.PENDING, reason=reason or condition.get("reason", ""), message=message or given, cause=cause
    )


def address_of(found: Object, namespace: str) -> str:
    """URL of the server inside the cluster."""
    given = (found.get("status") or {}).get("address", {}).get("url")
    return given or f"http://{found['metadata']['name']}-predictor.{namespace}.svc"


def _release_of(pod: Object) -> str | None:
    return (pod["metadata"].get("labels") or {}).get(RELEASE_LABEL)


def _is_ready(pod: Object) -> bool:
    if pod["metadata"].get("deletionTimestamp") is not None:
        return False
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)


def _probe(path: str, *, period: int, failures: int, timeout: int) -> Object:
    return {
        "httpGet": {"path": path, "port": PORT, "scheme": "HTTP"},
        "periodSeconds": period, "failureThreshold": failures, "timeoutSeconds": timeout,
    }  # fmt: skip
