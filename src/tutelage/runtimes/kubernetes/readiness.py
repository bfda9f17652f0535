"""Waiting until what was put under a name serves, and until what was deleted is gone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tutelage.errors import StepFailed
from tutelage.runtimes.kubernetes.api import INFERENCESERVICE, Api, ApiError
from tutelage.runtimes.kubernetes.causes import Cause
from tutelage.runtimes.kubernetes.inferenceservice import NAME_LABEL, RELEASE_LABEL, address_of, observe
from tutelage.runtimes.kubernetes.jobs import Object, Observation, Phase
from tutelage.runtimes.kubernetes.replacing import is_leaving, release_of

log = logging.getLogger("tutelage")


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait, and how; `now` and `sleep` are given by tests."""

    start_seconds: float = 1800
    """Longest wait until a deployment serves."""
    grace_seconds: float = 120
    """How long an image that cannot be pulled, or a denied quota, must persist."""
    delete_seconds: float = 120
    """Longest wait until a smoke deployment is gone."""
    poll_seconds: float = 3
    """Between two looks."""
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Served(Protocol):
    """What a name shall come to serve."""

    @property
    def name(self) -> str:
        """`metadata.name`."""

    @property
    def namespace(self) -> str:
        """Where."""

    @property
    def release(self) -> str | None:
        """Whose pods; None for a service that is not ours."""

    def pod_selector(self) -> str:
        """Its pods, those of other releases included."""

    def observe(self, found: Object | None, pods: Sequence[Object], events: Sequence[Object]) -> Observation:
        """SUCCEEDED means: it serves."""


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """What stood under a name before, and was put back."""

    name: str
    namespace: str
    release: str | None

    def pod_selector(self) -> str:
        """KServe's own label."""
        return f"{NAME_LABEL}={self.name}"

    def observe(self, found: Object | None, pods: Sequence[Object], events: Sequence[Object]) -> Observation:
        """As of a release; pods of a service that is not ours are those without a release.

        Nothing is final at once: a status may be left from the release that failed.
        """
        seen = observe(found, pods, events, self.release)
        if found is not None and self.release is None and _rests(found, pods):
            return Observation(phase=Phase.SUCCEEDED, reason="Ready", message="scaled to nothing")
        return replace(seen, phase=Phase.PENDING) if seen.phase is Phase.FAILED else seen


def _rests(found: Object, pods: Sequence[Object]) -> bool:
    """Whether a service is ready that starts its pods when it is asked."""
    conditions = (found.get("status") or {}).get("conditions") or []
    ready = any(item.get("type") == "Ready" and item.get("status") == "True" for item in conditions)
    ours = any(RELEASE_LABEL in (pod["metadata"].get("labels") or {}) for pod in pods)
    return ready and not ours and found["spec"].get("predictor", {}).get("minReplicas") == 0


def wait_until_ready(api: Api, served: Served, patience: Patience) -> str:
    """Wait until pods of this release, and no others, serve. Gives the address. Raises StepFailed with the cause."""
    started = patience.now()
    doubted: tuple[str, float] | None = None
    said = ""
    while True:
        found = standing(api.get(INFERENCESERVICE, served.name), served)
        events = api.events(INFERENCESERVICE.kind, served.name, found["metadata"].get("uid"))
        seen = served.observe(found, api.pods(served.pod_selector()), events)
        if seen.phase is Phase.SUCCEEDED:
            return address_of(found, served.namespace)
        if seen.phase.terminal:
            raise _failure(served, f"{seen.reason}: {seen.message}", seen.cause)
        if f"{seen.reason} {seen.message}" != said:
            said = f"{seen.reason} {seen.message}"
            log.info("%s: %s %s", served.name, seen.phase, said)
        passed = patience.now()
        doubted = _doubt(doubted, seen.cause, passed)
        if doubted is not None and passed - doubted[1] >= patience.grace_seconds:
            raise _failure(served, f"{seen.reason}: {seen.message}", seen.cause)
        if passed - started >= patience.start_seconds:
            raise _failure(served, f"not ready within {patience.start_seconds:g} s: {said}", seen.cause)
        patience.sleep(patience.poll_seconds)


def standing(found: Object | None, served: Served) -> Object:
    """The object, where it is there to stay and still told to serve this. Raises StepFailed."""
    if found is None or is_leaving(found):
        raise StepFailed(f"InferenceService {served.name} does not serve: somebody deleted it")
    if (release := release_of(found)) != served.release:
        raise StepFailed(
            f"InferenceService {served.name} was given release {release} by somebody else, in the place of "
            f"{served.release}",
            hint="another run promotes at the same time, and the last one counts: run this one again when it has ended",
        )
    return found


def await_gone(api: Api, name: str, uid: str, patience: Patience) -> None:
    """Wait for the end of what was deleted; what stays (a stuck finalizer) is said, not waited for."""
    started = patience.now()
    try:
        while (left := api.get(INFERENCESERVICE, name)) is not None and left["metadata"]["uid"] == uid:
            if patience.now() - started >= patience.delete_seconds:
                held = left["metadata"].get("finalizers")
                log.warning("InferenceService %s is still there; finalizers: %s", name, held)
                return
            patience.sleep(patience.poll_seconds)
    except ApiError as error:
        log.warning("InferenceService %s is deleted, but not seen to go: %s", name, error.message)


def _doubt(doubted: tuple[str, float] | None, cause: Cause | None, now: float) -> tuple[str, float] | None:
    """Since when the same kind of cause is seen."""
    if cause is None:
        return None
    return doubted if doubted is not None and doubted[0] == cause.kind else (cause.kind, now)


def _failure(served: Served, what: str, cause: Cause | None) -> StepFailed:
    why = f" ({cause.kind}: {cause.message})" if cause is not None else ""
    return StepFailed(f"InferenceService {served.name} does not serve: {what}{why}", hint=cause.hint if cause else None)
