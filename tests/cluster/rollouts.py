"""KServe 0.20 in Standard mode, as far as a roll-out goes: a Deployment stands between service and pods.

After pkg/apis/serving/v1beta1/inference_service_status.go (PropagateRawStatus, PropagateModelStatus): while pods of the old
template serve, Ready stays True beside new pods that fail; `observedGeneration` is the Deployment's own count; the model's status
is read from one pod. Labels and annotations of service and predictor are put on pods.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.nodes import Nodes
from tests.cluster.objects import INFERENCESERVICE, POD, Object, Refused
from tests.cluster.operators import Action, Life, Operator, live, owner, schedule

DEADLINE_SECONDS = 600
NOT_POD = {"minReplicas", "maxReplicas", "labels", "annotations"}


def _serve(nodes: Nodes, pod: Object) -> None:
    nodes.start(pod)
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": nodes.cluster.time.stamp()}
    nodes.set(pod, lambda status: status.update(conditions=[*status.get("conditions", []), ready]))


def _crash(nodes: Nodes, pod: Object) -> None:
    nodes.start(pod)
    ended = {"terminated": {"exitCode": 2, "reason": "Error", "message": "error: the model's digest differs"}}
    waiting = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s restarting failed container"}}
    nodes._containers(pod, waiting, ready=False, last=ended, restarts=1)


serve: Action = _serve
crash: Action = _crash
SERVES: Life = [(1, schedule), (20, serve)]
CRASHES: Life = [(1, schedule), (10, crash)]
HANGS: Life = [(1, schedule)]


@dataclass
class StandardMode(Operator):
    """Deployments of predictors. `life(service)` says what a new pod of a service does."""

    life: Callable[[Object], Life] = lambda service: SERVES
    generations: dict[str, list[str]] = field(default_factory=dict)
    """Service → the templates that its Deployment has had."""
    began: dict[str, float] = field(default_factory=dict)

    def reconcile(self, service: Object) -> None:
        name, template = service["metadata"]["name"], self._template(service)
        had = self.generations.setdefault(service["metadata"]["uid"], [])
        if not had or had[-1] != template:
            had.append(template)
            self.began[name] = self.cluster.time.seconds
            self.soon(name, service["metadata"]["namespace"], DEADLINE_SECONDS + 1)
        pods = self.pods_of(service)
        fresh = [pod for pod in pods if pod["metadata"]["annotations"]["template"] == template]
        try:
            for _ in range(service["spec"]["predictor"].get("minReplicas", 1) - len(fresh)):
                live(self.nodes, self._pod(service, template), self.life(service))
        except Refused as refusal:
            self._report(service, pods, len(had), ("FailedCreate", refusal.message))
            return
        self._retire(fresh, [pod for pod in pods if pod not in fresh])
        late = self.cluster.time.seconds - self.began[name] > DEADLINE_SECONDS and not any(map(is_ready, fresh))
        words = (
            ("ProgressDeadlineExceeded", f'ReplicaSet "{name}-predictor" has timed out progressing.') if late else None
        )
        self._report(service, self.pods_of(service), len(had), words)

    def _template(self, service: Object) -> str:
        predictor = service["spec"]["predictor"]
        described = [service["metadata"].get(part, {}) for part in ("labels", "annotations")]
        pod = {key: value for key, value in predictor.items() if key not in ("minReplicas", "maxReplicas")}
        return json.dumps([pod, *described], sort_keys=True)

    def _retire(self, fresh: list[Object], old: list[Object]) -> None:
        if fresh and all(map(is_ready, fresh)):
            for pod in old:
                self.cluster.delete(POD, pod["metadata"]["name"], pod["metadata"]["namespace"])

    def _report(self, service: Object, pods: list[Object], generation: int, failure: tuple[str, str] | None) -> None:
        ready = any(is_ready(pod) for pod in pods)
        state = "False" if failure else "True" if ready else "False"
        reason, message = failure or (("MinimumReplicasAvailable", "") if ready else ("MinimumReplicasUnavailable", ""))
        conditions = [
            {"type": type_, "status": state, "reason": reason, "message": message}
            for type_ in ("PredictorReady", "Ready")
        ]
        new: dict[str, Any] = {
            "observedGeneration": generation, "conditions": conditions, "deploymentMode": "Standard",
            "modelStatus": self._model(pods, ready=state == "True"),
        }  # fmt: skip
        if ready:
            new["address"] = {"url": self.address_of(service)}
        if new != service.get("status"):
            self.set_status(service, new)

    def address_of(self, service: Object) -> str:
        """Where its Service is found inside the cluster."""
        return f"http://{service['metadata']['name']}-predictor.{service['metadata']['namespace']}.svc.cluster.local"

    def _model(self, pods: list[Object], *, ready: bool) -> Object:
        status = pods[0].get("status", {}) if pods else {}
        states = [item["state"] for item in status.get("containerStatuses", [])]
        if not ready and any(
            "waiting" in state and state["waiting"]["reason"] == "CrashLoopBackOff" for state in states
        ):
            ended = status["containerStatuses"][0]["lastState"]["terminated"]
            failure = {"reason": "ModelLoadFailed", "exitCode": ended["exitCode"], "message": ended["message"]}
            return {"transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": failure}
        return {"transitionStatus": "UpToDate" if ready else "InProgress"}

    def _pod(self, service: Object, template: str) -> Object:
        name, predictor = service["metadata"]["name"], service["spec"]["predictor"]
        labels = {**service["metadata"].get("labels", {}), **predictor.get("labels", {})}
        body = {
            "apiVersion": "v1", "kind": "Pod",
            "spec": {key: value for key, value in predictor.items() if key not in NOT_POD},
            "metadata": {
                "generateName": f"{name}-predictor-",
                "labels": labels | {"app": f"isvc.{name}-predictor", "serving.kserve.io/inferenceservice": name},
                "annotations": {"template": template},
                "ownerReferences": [owner(INFERENCESERVICE, service)],
            },
        }  # fmt: skip
        return self.cluster.create(POD, body, service["metadata"]["namespace"])


def is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return "deletionTimestamp" not in pod["metadata"] and any(
        item["type"] == "Ready" and item["status"] == "True" for item in conditions
    )
