"""The launches of one job: `stem`, `stem-r1`, `stem-r2` …; which is the last, and whether an earlier one still works.

All of them write checkpoints of one step key, so no two may work at once. The count survives the launcher that made it: as the
label of the objects, those that are being deleted included, and between one object's end and the next one's beginning in the
store (`Memory`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from tutelage.errors import StepFailed
from tutelage.runtimes.kubernetes.api import Api, ApiError
from tutelage.runtimes.kubernetes.clocks import Clocks
from tutelage.runtimes.kubernetes.jobs import Job, Object
from tutelage.runtimes.kubernetes.names import (
    KEPT_LABEL,
    NAME_LABEL,
    RELAUNCH_LABEL,
    RUN_LABEL,
    STEP_KEY_ANNOTATION,
    TASK_LABEL,
    selector,
    stem_of,
)

log = logging.getLogger("tutelage")
POLL_SECONDS = 1.0
#: Phases of a pod that writes nothing any more.
OVER = ("Succeeded", "Failed")


class NameTaken(StepFailed):
    """An object of this name exists with another spec, or does not go; or pods of an earlier launch do not."""


class Superseded(Exception):
    """A later launch of this job is there: another launcher of the same task was faster. Raised to the engine only."""

    def __init__(self, ordinal: int) -> None:
        super().__init__(f"relaunch {ordinal} is there")
        self.ordinal = ordinal


def latest(api: Api, job: Job) -> int:
    """The highest relaunch of this job that is on the cluster, 0 without one: where a retried launcher goes on."""
    try:
        found = _objects(api, job)
    except ApiError as error:
        if error.reason != "OperatorMissing" and error.status != 403:
            raise
        # Said by ensure(), with its cause.
        return 0
    return max(map(ordinal_of, found), default=0)


def ordinal_of(item: Object) -> int:
    """Which launch an object is."""
    return int(item["metadata"]["labels"].get(RELAUNCH_LABEL, "0"))


def settle(api: Api, job: Job, clocks: Clocks, cancelled: Callable[[], bool]) -> bool:
    """Wait until nothing of other launches of this job works. False when the job itself is there, or the run was told to end.

    An earlier launch whose launcher died before it cleaned up is deleted. Raises Superseded where a later one is there, and
    NameTaken where pods stay: better no job than two at one set of checkpoints.
    """
    until, said = clocks.now() + clocks.delete_seconds, False
    while True:
        there = _objects(api, job)
        if cancelled() or any(item["metadata"]["name"] == job.name for item in there):
            return False
        others = [item for item in there if KEPT_LABEL not in item["metadata"]["labels"]]
        _end(api, job, others)
        pods = _pods(api, job)
        if not others and not pods:
            return True
        names = sorted([*(str(item["metadata"]["name"]) for item in others), *(f"pod/{name}" for name in pods)])
        if not said:
            log.info("%s: waits for an earlier launch to go: %s", job.name, ", ".join(names))
            said = True
        if clocks.now() >= until:
            if not pods:
                log.warning("%s: held by a finalizer, but nothing of it works: %s", job.name, ", ".join(names))
                return True
            raise NameTaken(
                f"{job.name} must wait for an earlier launch, still there after {clocks.delete_seconds:.0f} s: "
                f"{', '.join(names)}",
                hint="a finalizer or a lost node holds it: remove the finalizer, or delete its pods by force; then run again",
            )
        clocks.sleep(POLL_SECONDS)


def _end(api: Api, job: Job, others: list[Object]) -> None:
    """Ask for the deletion of earlier launches that nobody has asked for yet. Raises Superseded."""
    alive = [item for item in others if not item["metadata"].get("deletionTimestamp")]
    own = ordinal_of(job.body)
    if later := [ordinal_of(item) for item in alive if ordinal_of(item) > own]:
        raise Superseded(max(later))
    for item in alive:
        log.info("%s: deleting %s, which its launcher left", job.name, item["metadata"]["name"])
        api.delete(job.resource, str(item["metadata"]["name"]), str(item["metadata"]["uid"]))


def _objects(api: Api, job: Job) -> list[Object]:
    """Every launch of this job on the cluster, those that are being deleted included."""
    key = job.body["metadata"]["annotations"].get(STEP_KEY_ANNOTATION)
    return [
        item
        for item in api.list(job.resource, _labels(job))
        if (item["metadata"].get("annotations") or {}).get(STEP_KEY_ANNOTATION) == key
    ]


def _pods(api: Api, job: Job) -> list[str]:
    """Names of pods of other launches that may still work, and of any that has the name of one of this launch's."""
    return [
        str(pod["metadata"]["name"])
        for pod in api.pods(_labels(job))
        if (name := pod["metadata"]["labels"].get(NAME_LABEL, "")) == job.name
        or (stem_of(name) == stem_of(job.name) and (pod.get("status") or {}).get("phase") not in OVER)
    ]


def _labels(job: Job) -> str:
    ours = job.body["metadata"]["labels"]
    return selector({name: ours[name] for name in (RUN_LABEL, TASK_LABEL)})
