"""Scheduler and kubelet of the fake cluster: they bring pods through their states and keep what containers print.

A test says what its pods do as a life: `[(seconds, "start"), (2, say("step 1")), (5, finish(0))]`, see `operators.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from tests.cluster.objects import POD, Cluster, Object, Refused

KILLED = 137


@dataclass(frozen=True)
class Moment:
    """When a line was printed: as a time and as the log says it, to the nanosecond."""

    at: datetime
    text: str


@dataclass
class Run:
    """What one run of a container printed."""

    lines: list[tuple[Moment, str]] = field(default_factory=list)
    ended: bool = False
    lost: bool = False
    """Whether the pod was deleted."""


@dataclass
class Nodes:
    """All nodes of the cluster."""

    cluster: Cluster
    runs: dict[tuple[str, str], list[Run]] = field(default_factory=dict)
    """(pod uid, container) → its runs."""
    printed: list[str] = field(default_factory=list)
    """Every line that any container printed, in order."""
    count: int = 0

    def __post_init__(self) -> None:
        self.cluster.watchers.append(self._seen)

    def _seen(self, change: Any) -> None:
        if change.kind is POD and change.what == "DELETED":
            for (uid, _), runs in self.runs.items():
                if uid == change.after["metadata"]["uid"]:
                    for run in runs:
                        run.ended = run.lost = True

    def run_of(self, pod: Object, container: str | None, *, previous: bool) -> Run:
        """The log that a request is for. Raises Refused as the server does."""
        name = pod["metadata"]["name"]
        names = [item["name"] for item in pod["spec"]["containers"]]
        if container is None and len(names) > 1:
            raise Refused(
                400, "BadRequest", f"a container name must be specified for pod {name}, choose one of: {names}"
            )
        container = container or names[0]
        if container not in names:
            raise Refused(400, "BadRequest", f"container {container} is not valid for pod {name}")
        runs = self.runs.get((pod["metadata"]["uid"], container), [])
        if previous:
            if len(runs) < 2:
                text = f'previous terminated container "{container}" in pod "{name}" not found'
                raise Refused(400, "BadRequest", text)
            return runs[-2]
        if not runs:
            text = f'container "{container}" in pod "{name}" is waiting to start: ContainerCreating'
            raise Refused(400, "BadRequest", text)
        return runs[-1]

    def set(self, pod: Object, change: Callable[[Object], None]) -> None:
        """Change a pod's status; a pod that is gone is left alone."""
        metadata = pod["metadata"]
        now = self.cluster.find(POD, metadata["name"], metadata["namespace"])
        if now is None or now["metadata"]["uid"] != metadata["uid"]:
            return

        def changed(item: Object) -> None:
            item.setdefault("status", {})
            change(item["status"])

        self.cluster.update(POD, metadata["name"], metadata["namespace"], changed, status=True)

    def alive(self, pod: Object) -> bool:
        """Whether the pod still stands and has not ended."""
        metadata = pod["metadata"]
        now = self.cluster.find(POD, metadata["name"], metadata["namespace"])
        if now is None or now["metadata"]["uid"] != metadata["uid"] or "deletionTimestamp" in now["metadata"]:
            return False
        return now.get("status", {}).get("phase") not in {"Succeeded", "Failed"}

    def accept(self, pod: Object) -> None:
        """A new pod, not yet scheduled."""
        self.set(pod, lambda status: status.update(phase="Pending"))

    def unschedulable(
        self, pod: Object, message: str = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
    ) -> None:
        """The scheduler finds no node."""
        condition = self._condition("PodScheduled", "False", "Unschedulable", message)
        self.set(pod, lambda status: status.update(conditions=[condition]))
        self.cluster.event(POD, pod, "FailedScheduling", message, "Warning", "default-scheduler")

    def schedule(self, pod: Object) -> None:
        """Give the pod a node; its container is being created."""
        metadata = pod["metadata"]
        bind = lambda item: item["spec"].update(nodeName="node-1")
        self.cluster.update(POD, metadata["name"], metadata["namespace"], bind)
        waiting = {"waiting": {"reason": "ContainerCreating"}}
        self.set(pod, lambda status: status.update(conditions=[self._condition("PodScheduled", "True")]))
        self._containers(pod, waiting, ready=False)

    def image_error(self, pod: Object, reason: str = "ImagePullBackOff") -> None:
        """The image cannot be pulled."""
        image = pod["spec"]["containers"][0]["image"]
        message = f'Back-off pulling image "{image}": ErrImagePull: not found'
        self._containers(pod, {"waiting": {"reason": reason, "message": message}}, ready=False)
        self.cluster.event(POD, pod, "Failed", f'Failed to pull image "{image}": not found', "Warning", "kubelet")

    def start(self, pod: Object) -> None:
        """The container runs."""
        self.runs.setdefault(self._key(pod), []).append(Run())
        self.set(pod, lambda status: status.update(phase="Running", startTime=self.cluster.time.stamp()))
        self._containers(pod, {"running": {"startedAt": self.cluster.time.stamp()}}, ready=True)

    def say(self, pod: Object, line: str) -> None:
        """The container prints a line."""
        self.count += 1
        at = self.cluster.time.wall()
        nanoseconds = (at.microsecond * 1000 + self.count) % 1_000_000_000
        moment = Moment(at, f"{at:%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z")
        self.runs[self._key(pod)][-1].lines.append((moment, line))
        self.printed.append(line)
        self.cluster.time.changed.notify_all()

    def finish(self, pod: Object, code: int, reason: str | None = None, message: str | None = None) -> None:
        """The container ends, and with it the pod."""
        self.end_run(pod)
        state: Object = {"exitCode": code, "reason": reason or ("Completed" if code == 0 else "Error")}
        state |= {"finishedAt": self.cluster.time.stamp()} | ({"message": message} if message else {})
        self._containers(pod, {"terminated": state}, ready=False)
        self.set(pod, lambda status: status.update(phase="Succeeded" if code == 0 else "Failed"))

    def restart_container(self, pod: Object, code: int) -> None:
        """The container ends and the kubelet starts it again in the same pod."""
        self.end_run(pod)
        self.runs[self._key(pod)].append(Run())
        last = {"terminated": {"exitCode": code, "reason": "Error", "finishedAt": self.cluster.time.stamp()}}
        self._containers(pod, {"running": {"startedAt": self.cluster.time.stamp()}}, ready=True, last=last, restarts=1)

    def evict(self, pod: Object) -> None:
        """The node runs out of memory and ends the pod."""
        message = "The node was low on resource: ephemeral-storage."
        condition = self._condition("DisruptionTarget", "True", "TerminationByKubelet", message)
        self.finish(pod, KILLED, "Error")
        self.set(
            pod,
            lambda status: status.update(
                phase="Failed", reason="Evicted", message=message, conditions=[*status.get("conditions", []), condition]
            ),
        )
        self.cluster.event(POD, pod, "Evicted", message, "Warning", "kubelet")

    def exceed_deadline(self, pod: Object) -> None:
        """The kubelet ends a pod that is active for longer than its own deadline."""
        message = "Pod was active on the node longer than the specified deadline"
        self.finish(pod, KILLED, "Error")
        self.set(pod, lambda status: status.update(phase="Failed", reason="DeadlineExceeded", message=message))

    def preempt(self, pod: Object) -> None:
        """The scheduler ends the pod for another of higher priority: it fails, then it is deleted."""
        message = "default-scheduler: preempting to accommodate a higher priority pod"
        condition = self._condition("DisruptionTarget", "True", "PreemptionByScheduler", message)
        self.finish(pod, 143, "Error")
        self.set(pod, lambda status: status.update(conditions=[*status.get("conditions", []), condition]))
        self.cluster.event(POD, pod, "Preempted", message, "Normal", "default-scheduler")
        self.cluster.time.after(2.0, lambda: self.remove(pod))

    def remove(self, pod: Object) -> None:
        """Delete a pod, its log with it."""
        metadata = pod["metadata"]
        with suppress(Refused):
            self.cluster.delete(POD, metadata["name"], metadata["namespace"], uid=metadata["uid"])

    def end_run(self, pod: Object) -> None:
        """The container's output ends."""
        runs = self.runs.get(self._key(pod), [])
        if runs:
            runs[-1].ended = True

    def _key(self, pod: Object) -> tuple[str, str]:
        return pod["metadata"]["uid"], pod["spec"]["containers"][0]["name"]

    def _condition(self, type_: str, status: str, reason: str = "", message: str = "") -> Object:
        words = {"reason": reason, "message": message} if reason else {}
        return {"type": type_, "status": status, "lastTransitionTime": self.cluster.time.stamp()} | words

    def _containers(
        self, pod: Object, state: Object, *, ready: bool, last: Object | None = None, restarts: int = 0
    ) -> None:
        container = pod["spec"]["containers"][0]
        status = {
            "name": container["name"], "image": container["image"], "imageID": "", "ready": ready, "state": state,
            "lastState": last or {}, "restartCount": restarts, "started": ready,
        }  # fmt: skip
        self.set(pod, lambda item: item.update(containerStatuses=[status]))
