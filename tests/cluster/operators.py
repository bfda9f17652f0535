"""Operators of the fake cluster: what all have in common, training-operator 1.9 (PyTorchJob) and Kueue.

Written after their sources: names and labels of pods, the order of conditions and their reasons, what is deleted when. What
the containers do is a test's to say, as a life: `[(1, schedule), (2, start), (3, say("step 1")), (9, finish(0))]`, in seconds
from the creation of the pod. A pod that has ended or goes does nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.cluster.nodes import Nodes
from tests.cluster.objects import (
    POD,
    PYTORCHJOB,
    SPARKAPPLICATION,
    Change,
    Cluster,
    Kind,
    Object,
    Refused,
)

Action = Callable[[Nodes, Object], Any]
Life = Sequence[tuple[float, Action]]
RECONCILE_SECONDS = 0.5
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"

schedule: Action = lambda nodes, pod: nodes.schedule(pod)
start: Action = lambda nodes, pod: nodes.start(pod)
evict: Action = lambda nodes, pod: nodes.evict(pod)
preempt: Action = lambda nodes, pod: nodes.preempt(pod)
unschedulable: Action = lambda nodes, pod: nodes.unschedulable(pod)


def say(line: str) -> Action:
    return lambda nodes, pod: nodes.say(pod, line)


def finish(code: int, reason: str | None = None, message: str | None = None) -> Action:
    return lambda nodes, pod: nodes.finish(pod, code, reason, message)


def image_error(reason: str = "ImagePullBackOff") -> Action:
    return lambda nodes, pod: nodes.image_error(pod, reason)


def live(nodes: Nodes, pod: Object, life: Life) -> None:
    """Let a pod do what its life says."""

    def act(action: Action) -> None:
        if nodes.alive(pod):
            action(nodes, pod)

    nodes.accept(pod)
    if deadline := pod["spec"].get("activeDeadlineSeconds"):
        life = [*life, (deadline, lambda nodes, pod: nodes.exceed_deadline(pod))]
    for seconds, action in life:
        nodes.cluster.time.after(seconds, lambda action=action: act(action))


def owner(kind: Kind, item: Object) -> Object:
    """The reference of a controller to what it owns."""
    metadata = item["metadata"]
    return {
        "apiVersion": kind.api_version, "kind": kind.kind, "name": metadata["name"], "uid": metadata["uid"],
        "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip


@dataclass
class Operator:
    """A controller: told of changes of its kind and of pods, it reconciles a little later."""

    nodes: Nodes
    kind: Kind
    cluster: Cluster = field(init=False)

    def __post_init__(self) -> None:
        self.cluster = self.nodes.cluster
        self.cluster.watchers.append(self._seen)

    def _seen(self, change: Change) -> None:
        metadata = change.after["metadata"]
        if change.kind == self.kind:
            names = {metadata["name"]}
        elif change.kind is POD:
            owners = metadata.get("ownerReferences", [])
            names = {one["name"] for one in owners if one["kind"] == self.kind.kind}
        else:
            return
        for name in names:
            self.soon(name, metadata["namespace"])

    def soon(self, name: str, namespace: str, seconds: float = RECONCILE_SECONDS) -> None:
        self.cluster.time.after(seconds, lambda: self._reconcile(name, namespace))

    def _reconcile(self, name: str, namespace: str) -> None:
        item = self.cluster.find(self.kind, name, namespace)
        if item is not None and "deletionTimestamp" not in item["metadata"]:
            self.reconcile(item)

    def reconcile(self, item: Object) -> None:
        raise NotImplementedError

    def set_status(self, item: Object, status: Object) -> None:
        metadata = item["metadata"]
        change = lambda wanted: wanted.update(status=status)
        self.cluster.update(self.kind, metadata["name"], metadata["namespace"], change, status=True)

    def pods_of(self, item: Object) -> list[Object]:
        uid = item["metadata"]["uid"]
        pods = self.cluster.all(POD, item["metadata"]["namespace"])
        return [pod for pod in pods if any(one["uid"] == uid for one in pod["metadata"].get("ownerReferences", []))]


@dataclass
class TrainingOperator(Operator):
    """PyTorchJob as training-operator 1.9.4 reconciles it (pkg/controller.v1/common/job.go and …/pytorch)."""

    life: Callable[[Object, int], Life] = lambda job, index: []
    made: int = 0
    """Pods made so far."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.cluster.admission.append(self._validate)

    def _validate(self, kind: Kind, body: Object) -> None:
        if kind is not PYTORCHJOB:
            return
        for name, replica in body.get("spec", {}).get("pytorchReplicaSpecs", {}).items():
            containers = replica.get("template", {}).get("spec", {}).get("containers", [])
            if all(container["name"] != "pytorch" for container in containers):
                path = f"spec.pytorchReplicaSpecs[{name}].template.spec.containers"
                text = f'{path}: Required value: must have at least one container with name "pytorch"'
                webhook = "validator.pytorchjob.training-operator.kubeflow.org"
                raise Refused(403, "Forbidden", f'admission webhook "{webhook}" denied the request: {text}')

    def reconcile(self, job: Object) -> None:
        status = dict(job.get("status") or {})
        status["conditions"] = [dict(condition) for condition in status.get("conditions", [])]
        policy, pods = job["spec"].get("runPolicy", {}), self.pods_of(job)
        if self._is(status, "Succeeded") or self._is(status, "Failed"):
            self._clean(job, pods, policy.get("cleanPodPolicy", "None"))
            return
        self._condition(job, status, "Created", "PyTorchJobCreated", "is created.")
        if policy.get("suspend"):
            self._suspend(job, status, pods)
            return
        if self._is(status, "Suspended"):
            self._condition(job, status, "Suspended", "PyTorchJobResumed", "is resumed.", "False")
            status["startTime"] = self.cluster.time.stamp()
        if self._past_deadline(job, status, policy):
            # Deleted before the condition is set, so whatever cleanPodPolicy says.
            for pod in pods:
                self.cluster.delete(POD, pod["metadata"]["name"], pod["metadata"]["namespace"])
            name = job["metadata"]["name"]
            text = f"Job {name} has failed because it was active longer than specified deadline"
            self._fail(job, status, text)
        else:
            try:
                self._make_pods(job, pods)
            except Refused as refusal:
                text = f"Error creating: {refusal.message}"
                self.cluster.event(PYTORCHJOB, job, "FailedCreatePod", text, "Warning", "pytorchjob-controller")
                self.soon(job["metadata"]["name"], job["metadata"]["namespace"], 20)
                return
            self._judge(job, status, self.pods_of(job), policy)
        self.set_status(job, status)

    def _make_pods(self, job: Object, pods: list[Object]) -> None:
        metadata = job["metadata"]
        for type_, replica in job["spec"]["pytorchReplicaSpecs"].items():
            for index in range(replica.get("replicas", 1)):
                name = f"{metadata['name']}-{type_.lower()}-{index}"
                if any(pod["metadata"]["name"] == name for pod in pods):
                    continue
                template = replica["template"]
                labels = {
                    "training.kubeflow.org/job-name": metadata["name"],
                    "training.kubeflow.org/operator-name": "pytorchjob-controller",
                    "training.kubeflow.org/replica-index": str(index),
                    "training.kubeflow.org/replica-type": type_.lower(),
                } | ({"training.kubeflow.org/job-role": "master"} if index == 0 else {})
                inner = template.get("metadata", {})
                body = {"apiVersion": "v1", "kind": "Pod", "spec": {**template["spec"], "restartPolicy": "Never"}}
                body["metadata"] = {
                    "name": name, "labels": {**inner.get("labels", {}), **labels}, "annotations": inner.get("annotations", {}),
                    "ownerReferences": [owner(PYTORCHJOB, job)],
                }  # fmt: skip
                pod = self.cluster.create(POD, body, metadata["namespace"])
                self.made += 1
                text = f"Created pod: {name}"
                self.cluster.event(PYTORCHJOB, job, "SuccessfulCreatePod", text, "Normal", "pytorchjob-controller")
                live(self.nodes, pod, self.life(job, index))

    def _judge(self, job: Object, status: Object, pods: list[Object], policy: Object) -> None:
        if "startTime" not in status:
            status["startTime"] = self.cluster.time.stamp()
            if policy.get("activeDeadlineSeconds"):
                metadata = job["metadata"]
                self.soon(metadata["name"], metadata["namespace"], policy["activeDeadlineSeconds"] + RECONCILE_SECONDS)
        replica = job["spec"]["pytorchReplicaSpecs"]["Worker"]
        phases = [pod.get("status", {}).get("phase") for pod in pods]
        active, succeeded = phases.count("Running"), phases.count("Succeeded")
        failed, count = phases.count("Failed"), replica.get("replicas", 1)
        counts = {"active": active, "succeeded": succeeded, "failed": failed}
        selector = f"training.kubeflow.org/job-name={job['metadata']['name']},training.kubeflow.org/replica-type=worker"
        status["replicaStatuses"] = {
            "Worker": {key: value for key, value in counts.items() if value} | {"selector": selector}
        }
        if succeeded == count or (job["spec"].get("elasticPolicy") and succeeded > 0):
            status["completionTime"] = self.cluster.time.stamp()
            self._condition(job, status, "Succeeded", "PyTorchJobSucceeded", "successfully completed.")
        elif active:
            self._condition(job, status, "Running", "PyTorchJobRunning", "is running.")
        if failed and count > succeeded + active:
            if replica.get("restartPolicy") in {None, "Never"}:
                self._fail(
                    job,
                    status,
                    f"PyTorchJob {job['metadata']['name']} is failed because {failed} Worker replica(s) failed.",
                )
            else:
                self._condition(job, status, "Restarting", "PyTorchJobRestarting", "is restarting.")

    def _fail(self, job: Object, status: Object, text: str) -> None:
        status["completionTime"] = self.cluster.time.stamp()
        self._condition(job, status, "Failed", "PyTorchJobFailed", text)

    def _suspend(self, job: Object, status: Object, pods: list[Object]) -> None:
        for pod in pods:
            if "deletionTimestamp" not in pod["metadata"]:
                self.cluster.delete(POD, pod["metadata"]["name"], pod["metadata"]["namespace"])
        if self._is(status, "Running"):
            self._condition(job, status, "Running", "PyTorchJobSuspended", "is suspended.", "False")
        self._condition(job, status, "Suspended", "PyTorchJobSuspended", "is suspended.")
        for counts in status.get("replicaStatuses", {}).values():
            counts.pop("active", None)
        self.set_status(job, status)

    def _clean(self, job: Object, pods: list[Object], policy: str) -> None:
        for pod in pods:
            running = pod.get("status", {}).get("phase") in {"Running", "Pending"}
            if policy == "All" or (policy == "Running" and running):
                self.cluster.delete(POD, pod["metadata"]["name"], pod["metadata"]["namespace"])

    def _past_deadline(self, job: Object, status: Object, policy: Object) -> bool:
        deadline, began = policy.get("activeDeadlineSeconds"), status.get("startTime")
        if deadline is None or began is None:
            return False
        from datetime import datetime

        return (self.cluster.time.wall() - datetime.fromisoformat(began)).total_seconds() >= deadline

    @staticmethod
    def _is(status: Object, type_: str) -> bool:
        return any(c["type"] == type_ and c["status"] == "True" for c in status.get("conditions", []))

    def _condition(self, job: Object, status: Object, type_: str, reason: str, words: str, value: str = "True") -> None:
        """As the operator's UpdateJobConditions: Running and Restarting exclude each other; an end takes Running back."""
        text = words if words[0].isupper() else f"PyTorchJob {job['metadata']['name']} {words}"
        now = self.cluster.time.stamp()
        conditions = status["conditions"]
        old = next((c for c in conditions if c["type"] == type_), None)
        if old is not None and (old["status"], old["reason"]) == (value, reason):
            return
        dropped = {type_} | ({"Restarting"} if type_ == "Running" else {"Running"} if type_ == "Restarting" else set())
        kept = [c for c in conditions if c["type"] not in dropped]
        for condition in kept:
            if type_ in {"Succeeded", "Failed"} and condition["type"] == "Running":
                condition.update(status="False", lastTransitionTime=now)
        new = {
            "type": type_,
            "status": value,
            "reason": reason,
            "message": text,
            "lastUpdateTime": now,
            "lastTransitionTime": now,
        }
        status["conditions"] = [*kept, new]
        if type_ != "Created":
            self.cluster.event(PYTORCHJOB, job, reason, text, "Normal", "pytorchjob-controller")


@dataclass
class Kueue:
    """Suspends jobs of a queue when they are made, admits and preempts them when the test says so."""

    cluster: Cluster

    def __post_init__(self) -> None:
        self.cluster.admission.append(self._suspend)

    def _suspend(self, kind: Kind, body: Object) -> None:
        if QUEUE_LABEL in (body["metadata"].get("labels") or {}):
            self._set(kind, body, True)

    @staticmethod
    def _set(kind: Kind, body: Object, value: bool) -> None:
        if kind is PYTORCHJOB:
            body["spec"].setdefault("runPolicy", {})["suspend"] = value
        elif kind is SPARKAPPLICATION:
            body["spec"]["suspend"] = value

    def admit(self, kind: Kind, namespace: str) -> None:
        """Let every queued job run."""
        for item in self.cluster.all(kind, namespace):
            self.cluster.event(kind, item, "Started", "Admitted by clusterQueue team", "Normal", "kueue")
            self._change(kind, item, False)

    def preempt(self, kind: Kind, namespace: str) -> None:
        """Suspend every job again."""
        for item in self.cluster.all(kind, namespace):
            text = "Preempted to accommodate a workload (UID: 1, JobUID: 2) due to prioritization in the ClusterQueue"
            self.cluster.event(kind, item, "Stopped", text, "Normal", "kueue")
            self._change(kind, item, True)

    def _change(self, kind: Kind, item: Object, value: bool) -> None:
        metadata = item["metadata"]
        change = lambda wanted: self._set(kind, wanted, value)
        self.cluster.update(kind, metadata["name"], metadata["namespace"], change)
