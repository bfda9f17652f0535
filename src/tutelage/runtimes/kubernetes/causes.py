"""Why a job failed, and whether doing the same again can help.

Evidence is read in this order, since each knows more than the next: what the step wrote (`outcome.json`), what its container
left (`/dev/termination-log`, typed), the container's state (exit code, OOMKilled, ImagePullBackOff), the pod's conditions
(DisruptionTarget), the job's own conditions, events. A step's error without a type ranks below typed evidence from anywhere:
a rank that lost a connection does not know that its peer was evicted.

Words are read only where Kubernetes or an operator wrote them, and only in the form in which they write them: what a step says
may quote its data. Its errors are typed where they are raised (step/cluster.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tutelage.runtimes.kubernetes.cause_kinds import RETRYABLE, Cause, CauseKind, best, cause, most_telling

__all__ = ["RETRYABLE", "Cause", "CauseKind", "best", "cause", "most_telling"]

Object = Mapping[str, Any]
#: Containers that do the work, by the adapters; what others (sidecars, init containers) tell counts only where these say nothing.
WORK = frozenset({"pytorch", "spark-kubernetes-driver", "spark-kubernetes-executor", "kserve-container"})


IMAGE_REASONS = frozenset({
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError",
    "SignatureValidationFailed",
})  # fmt: skip
CONTAINER_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
CANNOT_START = frozenset({"ContainerCannotRun", "StartError"})
DISRUPTIONS = {
    "PreemptionByScheduler": CauseKind.PREEMPTED, "PreemptionByKueue": CauseKind.PREEMPTED,
    "DeletionByTaintManager": CauseKind.EVICTED, "EvictionByEvictionAPI": CauseKind.EVICTED,
    "DeletionByPodGC": CauseKind.EVICTED, "TerminationByKubelet": CauseKind.EVICTED,
}  # fmt: skip
#: `status.reason` of pods that a kubelet or the node's end stopped.
POD_REASONS = {
    "Evicted": CauseKind.EVICTED, "NodeLost": CauseKind.EVICTED, "NodeShutdown": CauseKind.EVICTED,
    "Terminated": CauseKind.EVICTED, "Shutdown": CauseKind.EVICTED, "NodeAffinity": CauseKind.EVICTED,
    "UnexpectedAdmissionError": CauseKind.EVICTED, "OutOfcpu": CauseKind.EVICTED, "OutOfmemory": CauseKind.EVICTED,
    "OutOfpods": CauseKind.EVICTED, "Preempting": CauseKind.PREEMPTED, "DeadlineExceeded": CauseKind.DEADLINE,
}  # fmt: skip
#: Reasons of events about a pod that something took away, from scheduler, kubelet and node controllers.
DISRUPTION_EVENTS = {
    "Preempted": CauseKind.PREEMPTED, "Preempting": CauseKind.PREEMPTED, "Evicted": CauseKind.EVICTED,
    "TaintManagerEviction": CauseKind.EVICTED, "NodeControllerEviction": CauseKind.EVICTED,
}  # fmt: skip
QUOTA = re.compile(
    r"exceeded quota: |failed quota: |(minimum|maximum) (cpu|memory|nvidia\S*) usage per (Container|Pod)", re.IGNORECASE
)
IMAGE_MESSAGE = re.compile(
    r"\b(ErrImagePull|ImagePullBackOff)\b|failed to pull (and unpack )?image|pull access denied for |manifest unknown:",
    re.IGNORECASE,
)
OUT_OF_MEMORY = re.compile(r"\bOOMKilled\b|\bReason: OutOfMemoryError\b")
DEADLINE = re.compile(r"active longer than specified deadline|DeadlineExceeded", re.IGNORECASE)
#: What a rank says first that only followed others: it was told to end, or its peers were gone.
CONSEQUENCE = re.compile(
    r"SystemExit\b|rank \d+ lost its peers\b|SignalException\b|Rendezvous\w*Error\b|Dist(Backend|Network|Store)Error\b"
    r"|RuntimeError: \[[^\]]*gloo[^\]]*\] ?Connection (reset|closed|refused)"
)
#: What a kubelet says of a pod that it evicted for what the pod itself did; the same again would end the same way.
OVER_VOLUME = re.compile(r'EmptyDir volume "(?P<volume>[^"]*)" exceeds the limit')
OVER_STORAGE = re.compile(r"ephemeral local storage usage exceeds|exceeded its local ephemeral storage limit")
#: Volumes that are memory: `pods.SHARED_MEMORY`.
MEMORY_VOLUMES = frozenset({"shared-memory"})
#: With which a Spark executor's JVM ends when its heap is full (SparkExitCode.OOM).
SPARK_OUT_OF_MEMORY = 52


def of_outcome(outcome: Object | None) -> Cause | None:
    """The cause that a step's outcome.json tells; None where it ended well, or only because others did."""
    if not outcome or outcome.get("outcome") == "done":
        return None
    message, hint = str(outcome.get("cause") or ""), outcome.get("hint")
    hint = str(hint) if hint else None
    typed, said = outcome.get("kind"), outcome.get("outcome")
    if typed is None and said == "failed" and CONSEQUENCE.match(message):
        return None
    if typed in list(CauseKind):
        return cause(CauseKind(typed), message, hint)
    kinds = {"invalid": CauseKind.DATA, "refused": CauseKind.DATA, "budget": CauseKind.BUDGET}
    return cause(kinds.get(str(said), CauseKind.UNKNOWN), message, hint)


def of_pods(pods: Sequence[Object]) -> Cause | None:
    """The most telling cause among the pods' termination messages, container states and conditions; None without one."""
    return most_telling(found for pod in pods for found in _of_pod(pod))


def of_waiting(pods: Sequence[Object]) -> Cause | None:
    """Why pods that have not started will not: image, refused container. Unschedulable is no such cause: it may pass."""
    found = []
    for pod in pods:
        for status in _container_statuses(pod):
            waiting = (status.get("state") or {}).get("waiting") or {}
            reason, message = waiting.get("reason", ""), waiting.get("message", "")
            where = f"{_name(pod)}/{status.get('name')}: {reason} of {status.get('image')}: {message}"
            if reason in IMAGE_REASONS:
                found.append(cause(CauseKind.IMAGE, where))
            elif reason in CONTAINER_REASONS:
                found.append(cause(CauseKind.INVALID_SPEC, where, "a secret, a config map or a mount is missing"))
    return most_telling(found)


def of_events(events: Sequence[Object]) -> Cause | None:
    """What warnings tell of pods that were never made: denied quota, refused pods."""
    found = []
    for event in events:
        message = str(event.get("message", ""))
        if event.get("type") == "Normal":
            continue
        if QUOTA.search(message):
            found.append(cause(CauseKind.QUOTA, message))
        elif "violates PodSecurity" in message or (
            str(event.get("reason", "")).startswith("FailedCreate") and re.search(r"is invalid|forbidden", message)
        ):
            found.append(cause(CauseKind.INVALID_SPEC, message))
    return most_telling(found)


def of_disruptions(events: Sequence[Object]) -> Cause | None:
    """What events tell of pods that were taken away; None without one. A taint that passed took nothing away."""
    return most_telling(
        _taken(DISRUPTION_EVENTS[event["reason"]], _involved(event), event["reason"], event.get("message"))
        for event in events
        if event.get("reason") in DISRUPTION_EVENTS and "Cancelling" not in str(event.get("message"))
    )


def of_conditions(conditions: Iterable[Object]) -> Cause | None:
    """What a failed job's own conditions (type, status, reason, message) tell; UNKNOWN with the message where no type fits."""
    return most_telling(
        of_message(f"{condition.get('reason', '')}: {condition.get('message', '')}")
        for condition in conditions
        if condition.get("type") == "Failed" and condition.get("status") == "True"
    )


def of_message(message: str) -> Cause:
    """The cause that a message in words tells (an operator's `errorMessage`, a condition's); UNKNOWN where none fits."""
    for pattern, kind in (
        (QUOTA, CauseKind.QUOTA), (DEADLINE, CauseKind.DEADLINE), (IMAGE_MESSAGE, CauseKind.IMAGE),
        (OUT_OF_MEMORY, CauseKind.OUT_OF_MEMORY), (re.compile(r"\bEvicted\b|NodeLost|node.*not ready"), CauseKind.EVICTED),
        (re.compile(r"Preempt(ed|ing|ion)"), CauseKind.PREEMPTED),
        (re.compile(r"FailedValidation|spec is invalid|is not valid because|admission webhook"), CauseKind.INVALID_SPEC),
    ):  # fmt: skip
        if pattern.search(message):
            return cause(kind, message)
    return cause(CauseKind.UNKNOWN, message)


def of_job(
    pods: Sequence[Object], events: Sequence[Object], conditions: Iterable[Object] = (), message: str = ""
) -> Cause:
    """The cause of a failed job, by all of the above; UNKNOWN with `message` when none tells."""
    kinds = [of_pods(pods), of_waiting(pods), of_conditions(conditions), of_message(message) if message else None]
    return best([*kinds, of_events(events) if not pods else None]) or cause(
        CauseKind.UNKNOWN, message or "no reason given"
    )


def pending_reason(pods: Sequence[Object], events: Sequence[Object]) -> tuple[str, str]:
    """(reason, message) of why pods have not started, for a person: Unschedulable, ContainerCreating, FailedCreate."""
    for pod in pods:
        for condition in (pod.get("status") or {}).get("conditions") or []:
            if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
                return condition.get("reason", "Unschedulable"), condition.get("message", "")
    for pod in pods:
        for status in _container_statuses(pod):
            waiting = (status.get("state") or {}).get("waiting")
            if waiting:
                return waiting.get("reason", "Waiting"), waiting.get("message", "")
    for event in reversed(events):
        if event.get("type") == "Warning":
            return event.get("reason", ""), event.get("message", "")
    return ("NoPods", "no pods yet") if not pods else ("Pending", "")


def unschedulable(pods: Sequence[Object]) -> Cause | None:
    """What the scheduler says of pods that no node takes; a cause only once a clock, or what waited for them, has ended."""
    for pod in pods:
        if pod.get("metadata", {}).get("deletionTimestamp"):
            continue
        for condition in (pod.get("status") or {}).get("conditions") or []:
            is_it = condition.get("type") == "PodScheduled" and condition.get("status") == "False"
            if is_it and condition.get("reason") in ("Unschedulable", "SchedulerError"):
                return cause(CauseKind.UNSCHEDULABLE, f"{_name(pod)}: {condition.get('message', '')}")
    return None


def waited_for(ended: Cause, outcome: Object | None, pods: Sequence[Object]) -> Cause:
    """`ended`, or that no node took a pod, where that is what it ended for: a job that is late, or ranks that never met.

    Ranks run no code of the step before all have met: where one left an outcome, it was not for want of a peer.
    """
    vain = ended.kind is CauseKind.DEADLINE or (ended.kind is CauseKind.UNKNOWN and not outcome)
    found = unschedulable(pods) if vain else None
    return cause(found.kind, f"{ended.message}; {found.message}", found.hint) if found else ended


def _of_pod(pod: Object) -> Iterator[Cause]:
    disrupted, containers = _disruption(pod), _container_statuses(pod)
    work = [container for container in containers if container.get("name") in WORK] or containers
    found = [known for container in work for known in _of_container(pod, container, disrupted)]
    if disrupted is not None:
        found.append(disrupted)
    # What a sidecar that runs again has survived explains nothing.
    others = [item for item in containers if item not in work and "running" not in (item.get("state") or {})]
    yield from found or [known for container in others for known in _of_container(pod, container, None)]


def _disruption(pod: Object) -> Cause | None:
    """What took the pod away: it explains how its containers ended, exit code 137 or 143, and what a step told to end said."""
    status = pod.get("status") or {}
    for condition in reversed(status.get("conditions") or []):
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            reason = condition.get("reason", "")
            return _taken(DISRUPTIONS.get(reason, CauseKind.EVICTED), _name(pod), reason, condition.get("message"))
    reason = status.get("reason")
    return _taken(POD_REASONS[reason], _name(pod), reason, status.get("message")) if reason in POD_REASONS else None


def _taken(kind: CauseKind, name: str, reason: str, message: str | None) -> Cause:
    """The cause of a pod that was taken away; of one that used more than it asked for, that."""
    told = f"{name}: {reason}: {message or ''}"
    over = OVER_VOLUME.search(message or "") if kind is CauseKind.EVICTED else None
    if over is not None and over["volume"] in MEMORY_VOLUMES:
        return cause(
            CauseKind.OUT_OF_MEMORY, told, "raise resources.shared_memory, or let the step use less of /dev/shm"
        )
    if over is not None:
        return cause(
            CauseKind.INVALID_SPEC, told, f"volume {over['volume']} has a size limit that the step's files exceed"
        )
    if kind is CauseKind.EVICTED and OVER_STORAGE.search(message or ""):
        return cause(
            CauseKind.INVALID_SPEC, told, "raise resources.limits.ephemeral-storage, or let the step write less"
        )
    return cause(kind, told)


def _of_container(pod: Object, container: Object, disrupted: Cause | None) -> Iterator[Cause]:
    where = f"{_name(pod)}/{container.get('name')}"
    for state in (container.get("state") or {}, container.get("lastState") or {}):
        if state.get("terminated"):
            yield from _of_end(where, state["terminated"], disrupted)


def _of_end(where: str, terminated: Object, disrupted: Cause | None) -> Iterator[Cause]:
    reason, code = terminated.get("reason", ""), terminated.get("exitCode")
    message = terminated.get("message") or ""
    typed, left = of_termination_message(message)
    if typed is not None:
        yield typed
    if reason == "OOMKilled":
        yield cause(CauseKind.OUT_OF_MEMORY, f"{where}: killed for want of memory (OOMKilled, exit code {code})")
    elif code == SPARK_OUT_OF_MEMORY and where.endswith("/spark-kubernetes-executor"):
        yield cause(CauseKind.OUT_OF_MEMORY, f"{where}: the JVM ran out of heap (exit code {code})")
    elif reason in CANNOT_START:
        yield cause(CauseKind.IMAGE, f"{where}: {reason}: {message}")
    elif reason == "ContainerStatusUnknown":
        yield cause(CauseKind.EVICTED, f"{where}: the node lost the container (ContainerStatusUnknown)")
    elif reason == "DeadlineExceeded":
        yield cause(CauseKind.DEADLINE, f"{where}: DeadlineExceeded: {message}")
    elif code not in (0, None) and typed is None and not left and disrupted is None:
        killed = f", signal {code - 128}" if 128 < code < 160 else ""
        why = f"{where}: exit code {code}{killed}{': ' + message if message else ''}"
        yield cause(CauseKind.UNKNOWN, why, "its log says more")


def of_termination_message(message: str) -> tuple[Cause | None, bool]:
    """The cause in a typed termination message, and whether it was one of ours (also of a rank that only followed others)."""
    try:
        left = json.loads(message)
    except (ValueError, RecursionError):
        return None, False
    if not isinstance(left, dict) or left.get("schema") != "tutelage.outcome/1":
        return None, False
    return of_outcome(left), True


def _container_statuses(pod: Object) -> list[Object]:
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def _involved(event: Object) -> str:
    return str((event.get("involvedObject") or {}).get("name", "pod"))


def _name(pod: Object) -> str:
    return str(pod.get("metadata", {}).get("name", "pod"))
