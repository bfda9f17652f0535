"""Why a job failed, and whether doing the same again can help.

Evidence is read in this order, since each knows more than the next: what the step wrote (`outcome.json`), what its container
left (`/dev/termination-log`, typed), the container's state (exit code, OOMKilled, ImagePullBackOff), the pod's conditions
(DisruptionTarget), the job's own conditions, events. A step's error without a type ranks below typed evidence from anywhere:
a rank that lost a connection does not know that its peer was evicted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Object = Mapping[str, Any]


class CauseKind(StrEnum):
    """The taxonomy."""

    DATA = "data"
    """What the step was given cannot be used: input, configuration, a refused gate."""
    NAN = "nan"
    """Loss or gradients were no finite numbers."""
    OUT_OF_MEMORY = "out_of_memory"
    """A container or a device ran out of memory."""
    BUDGET = "budget"
    """The step's own budget was spent before anything useful existed."""
    IMAGE = "image"
    """An image that cannot be pulled, or whose command does not start."""
    QUOTA = "quota"
    """The namespace's ResourceQuota or LimitRange denies the job or its pods."""
    UNSCHEDULABLE = "unschedulable"
    """No node took the pods before the start clock ended."""
    PREEMPTED = "preempted"
    """Pods of higher priority took their place."""
    EVICTED = "evicted"
    """Evicted or drained, or the node was lost."""
    DEADLINE = "deadline"
    """A clock of ours, or the object's own deadline, ended."""
    OPERATOR_MISSING = "operator_missing"
    """Nobody serves this kind of object."""
    FORBIDDEN = "forbidden"
    """The account of the run may not do what the engine needs."""
    CANCELLED = "cancelled"
    """The run was told to end."""
    DELETED = "deleted"
    """Somebody else deleted the object."""
    INVALID_SPEC = "invalid_spec"
    """The API server, the operator or the kubelet refuses the object."""
    UNKNOWN = "unknown"
    """It failed, and nothing says why but perhaps a message."""


#: The same work may succeed when tried again: what ended it came from outside.
RETRYABLE = frozenset({CauseKind.PREEMPTED, CauseKind.EVICTED})
#: Of causes of several pods, the first of these is the one that the others follow from.
TELLING = (
    CauseKind.NAN, CauseKind.DATA, CauseKind.BUDGET, CauseKind.OUT_OF_MEMORY, CauseKind.PREEMPTED, CauseKind.EVICTED,
    CauseKind.IMAGE, CauseKind.INVALID_SPEC, CauseKind.QUOTA, CauseKind.DEADLINE, CauseKind.UNSCHEDULABLE,
    CauseKind.OPERATOR_MISSING, CauseKind.FORBIDDEN, CauseKind.CANCELLED, CauseKind.DELETED, CauseKind.UNKNOWN,
)  # fmt: skip
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
HINTS = {
    CauseKind.OUT_OF_MEMORY: "raise the step's memory in component.yaml, or lower batch.micro_sequences",
    CauseKind.IMAGE: "check cluster.images.registry, images/digests.json and the pull secrets",
    CauseKind.QUOTA: "ask for less, wait for others to end, or raise the namespace's quota",
    CauseKind.UNSCHEDULABLE: "no node has this room: check requests, node selectors and tolerations",
    CauseKind.EVICTED: "the node took the pod away; it is started again where relaunches are left",
    CauseKind.PREEMPTED: "a higher priority took its place; it is started again where relaunches are left",
    CauseKind.DEADLINE: "raise cluster.clocks.run_seconds, or ask for less work",
    CauseKind.OPERATOR_MISSING: "install the operator for this kind, or check that it watches this namespace",
    CauseKind.INVALID_SPEC: "the message names the field; this is a bug in an adapter, or an operator of another version",
}
#: Reasons of events about a pod that something took away, from scheduler, kubelet and node controllers.
DISRUPTION_EVENTS = {
    "Preempted": CauseKind.PREEMPTED, "Preempting": CauseKind.PREEMPTED, "Evicted": CauseKind.EVICTED,
    "TaintManagerEviction": CauseKind.EVICTED, "NodeControllerEviction": CauseKind.EVICTED,
}  # fmt: skip
QUOTA = re.compile(
    r"exceeded quota|failed quota|(minimum|maximum) (cpu|memory|nvidia\S*) usage per (Container|Pod)", re.IGNORECASE
)
IMAGE_MESSAGE = re.compile(
    r"ErrImagePull|ImagePullBackOff|failed to pull|pull access denied|manifest unknown", re.IGNORECASE
)
OUT_OF_MEMORY = re.compile(r"OutOfMemory|out of memory|cannot allocate memory", re.IGNORECASE)
DEADLINE = re.compile(r"active longer than specified deadline|DeadlineExceeded", re.IGNORECASE)
CONSEQUENCE = re.compile(
    r"^SystemExit|lost its peers|Connection (reset|closed|refused)|SignalException|RendezvousClosed", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why a job failed or cannot start."""

    kind: CauseKind
    message: str
    hint: str | None = None

    @property
    def retryable(self) -> bool:
        """Whether a relaunch can help."""
        return self.kind in RETRYABLE


def cause(kind: CauseKind, message: str, hint: str | None = None) -> Cause:
    """A cause on one line, with the usual hint of its kind unless another is given."""
    return Cause(kind=kind, message=" ".join(str(message).split())[:1000] or kind.value, hint=hint or HINTS.get(kind))


def of_outcome(outcome: Object | None) -> Cause | None:
    """The cause that a step's outcome.json tells; None where it ended well, or only because others did."""
    if not outcome or outcome.get("outcome") == "done":
        return None
    message, hint = str(outcome.get("cause") or ""), outcome.get("hint")
    if CONSEQUENCE.search(message):
        return None
    kinds = {"invalid": CauseKind.DATA, "refused": CauseKind.DATA, "budget": CauseKind.BUDGET}
    typed = outcome.get("kind")
    if typed in list(CauseKind):
        return cause(CauseKind(typed), message, hint)
    kind = kinds.get(
        str(outcome.get("outcome")), CauseKind.OUT_OF_MEMORY if OUT_OF_MEMORY.search(message) else CauseKind.UNKNOWN
    )
    return cause(kind, message, hint)


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
        cause(DISRUPTION_EVENTS[event["reason"]], f"{_involved(event)}: {event['reason']}: {event.get('message', '')}")
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


def best(candidates: Iterable[Cause | None]) -> Cause | None:
    """The first cause of a known kind, else the first at all: what the order of evidence means."""
    given = [candidate for candidate in candidates if candidate is not None]
    return next(
        (candidate for candidate in given if candidate.kind is not CauseKind.UNKNOWN), given[0] if given else None
    )


def most_telling(candidates: Iterable[Cause]) -> Cause | None:
    """Of causes of equal standing, the one that the others follow from."""
    return min(candidates, key=lambda candidate: TELLING.index(candidate.kind), default=None)


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
    """What the scheduler says of pods that no node takes; a cause only once the start clock has ended."""
    for pod in pods:
        for condition in (pod.get("status") or {}).get("conditions") or []:
            is_it = condition.get("type") == "PodScheduled" and condition.get("status") == "False"
            if is_it and condition.get("reason") in ("Unschedulable", "SchedulerError"):
                return cause(CauseKind.UNSCHEDULABLE, f"{_name(pod)}: {condition.get('message', '')}")
    return None


def _of_pod(pod: Object) -> Iterator[Cause]:
    status = pod.get("status") or {}
    # A pod's disruption explains how its containers ended: exit code 137 or 143, and the message of a step told to end.
    disrupted = None
    for condition in status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            kind = DISRUPTIONS.get(condition.get("reason", ""), CauseKind.EVICTED)
            disrupted = cause(kind, f"{_name(pod)}: {condition.get('reason')}: {condition.get('message', '')}")
    if disrupted is None and status.get("reason") in POD_REASONS:
        kind = POD_REASONS[status["reason"]]
        disrupted = cause(kind, f"{_name(pod)}: {status['reason']}: {status.get('message', '')}")
    for container in _container_statuses(pod):
        for state in (container.get("state") or {}, container.get("lastState") or {}):
            if state.get("terminated"):
                yield from _of_container(f"{_name(pod)}/{container.get('name')}", state["terminated"], disrupted)
    if disrupted is not None:
        yield disrupted


def _of_container(where: str, terminated: Object, disrupted: Cause | None) -> Iterator[Cause]:
    reason, code = terminated.get("reason", ""), terminated.get("exitCode")
    message = terminated.get("message") or ""
    typed, left = of_termination_message(message)
    if typed is not None:
        yield typed
    if reason == "OOMKilled":
        yield cause(CauseKind.OUT_OF_MEMORY, f"{where}: killed for want of memory (OOMKilled, exit code {code})")
    elif reason in CANNOT_START:
        yield cause(CauseKind.IMAGE, f"{where}: {reason}: {message}")
    elif reason == "ContainerStatusUnknown":
        yield cause(CauseKind.EVICTED, f"{where}: the node lost the container (ContainerStatusUnknown)")
    elif reason == "DeadlineExceeded":
        yield cause(CauseKind.DEADLINE, f"{where}: DeadlineExceeded: {message}")
    elif code not in (0, None) and typed is None and not left and disrupted is None:
        killed = f", signal {code - 128}" if 128 < code < 160 else ""
        yield cause(
            CauseKind.UNKNOWN,
            f"{where}: exit code {code}{killed}{': ' + message if message else ''}",
            "its log says more",
        )


def of_termination_message(message: str) -> tuple[Cause | None, bool]:
    """The cause in a typed termination message, and whether it was one of ours (also of a rank that only followed others)."""
    try:
        left = json.loads(message)
    except ValueError:
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
