"""The causes by which a job may fail, which of them a relaunch can help, and which one counts where several are known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


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
    """The API server, the operator or the kubelet refuses the object, or its pods need more than it says."""
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


def best(candidates: Iterable[Cause | None]) -> Cause | None:
    """The first cause of a known kind, else the first at all: what the order of evidence means."""
    given = [candidate for candidate in candidates if candidate is not None]
    return next(
        (candidate for candidate in given if candidate.kind is not CauseKind.UNKNOWN), given[0] if given else None
    )


def most_telling(candidates: Iterable[Cause]) -> Cause | None:
    """Of causes of equal standing, the one that the others follow from."""
    return min(candidates, key=lambda candidate: TELLING.index(candidate.kind), default=None)
