"""Several runs, one step key: the work is done once, at one set of checkpoints, by whichever run comes first.

Runs of one namespace find each other's jobs by their step key. A launcher that finds one alive waits for it, and then takes
what it made. Two that look at the same moment both find nothing and both create; then each looks again, and whoever sees
nobody marks its job as the holder. Whoever sees a holder deletes its own job and waits; of those without a holder the first by
name waits until the others have gone or hold. Since everybody creates before it looks, two cannot both see nobody.

The holder is a job, not a launcher: nothing expires, no clocks are compared, and a launcher that is retried holds on. It holds no
longer than it lives: a job that has ended, or whose Workflow is gone (it is deleted), stops nobody once its pods have ended, and
pods that never do (of a lost node) for `delete_seconds`.

Runs in other namespaces have checkpoints of their own. On a laptop a file lock does all this (contracts/locks.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from tutelage.runtimes.kubernetes.api import Api, ApiError
from tutelage.runtimes.kubernetes.clocks import Clocks
from tutelage.runtimes.kubernetes.ended import Collected, Done
from tutelage.runtimes.kubernetes.jobs import Job, Object
from tutelage.runtimes.kubernetes.launches import OVER
from tutelage.runtimes.kubernetes.names import (
    HOLDS_ANNOTATION,
    KEPT_LABEL,
    MANAGED_BY,
    MANAGED_LABEL,
    NAME_LABEL,
    RUN_LABEL,
    STEP_KEY_ANNOTATION,
    selector,
    stem_of,
)
from tutelage.runtimes.kubernetes.reaping import is_orphan

log = logging.getLogger("tutelage")
POLL_SECONDS = 1.0
AGAIN_SECONDS = 10.0
#: How long the first by name waits for others to hold or to go; longer only where their launchers are dead, and their jobs work.
CLAIM_SECONDS = 60.0


class Sharing:
    """One task's part in sharing a step key with other runs."""

    def __init__(
        self, api: Api, clocks: Clocks, find: Callable[[], Collected | None], waiting: Callable[[str], None]
    ) -> None:
        """`find` looks for finished work of the step key; `waiting` is told once whose job is waited for."""
        self._api, self._clocks, self._find, self._waiting = api, clocks, find, waiting
        self._said: set[str] = set()
        self._ending: dict[str, float] = {}

    def wait(self, job: Job, cancelled: Callable[[], bool]) -> bool:
        """Wait while another job does this work. Whether it was waited for. Raises Done when the work is there."""
        waited = False
        while (others := self._alive(job)) and not cancelled():
            self._say(job, others)
            self._clocks.sleep(AGAIN_SECONDS)
            waited = True
        if not others and (done := self._find()) is not None:
            raise Done(done)
        return waited

    def claim(self, job: Job, found: Object, cancelled: Callable[[], bool]) -> Object | None:
        """The object, marked as the holder. None: another job holds the step key, and this one must go."""
        until = self._clocks.now() + CLAIM_SECONDS
        while not _holds(found) and not cancelled():
            others = [item for item in self._alive(job) if not item["metadata"].get("deletionTimestamp")]
            if not others:
                return self._hold(job, found)
            first = all(job.name < str(item["metadata"]["name"]) for item in others)
            if not first or any(map(_holds, others)) or self._clocks.now() >= until:
                log.info("%s: gives way to %s", job.name, ", ".join(str(item["metadata"]["name"]) for item in others))
                return None
            self._clocks.sleep(POLL_SECONDS)
        return found

    def alone(self, job: Job) -> bool:
        """Whether no other job may be at the checkpoints of this step key."""
        return not self._alive(job)

    def _hold(self, job: Job, found: Object) -> Object:
        mark = {"metadata": {"annotations": {HOLDS_ANNOTATION: "true"}}}
        try:
            return self._api.patch(job.resource, job.name, mark)
        except ApiError as error:
            if error.status != 404:
                raise
            # Deleted a moment ago: the engine sees that by itself.
            return found

    def _say(self, job: Job, others: list[Object]) -> None:
        for item in others:
            name, run = str(item["metadata"]["name"]), item["metadata"]["labels"].get(RUN_LABEL)
            if name not in self._said:
                self._said.add(name)
                log.info("%s: %s of run %s does the same work, and is waited for", job.name, name, run)
                self._waiting(f"run {run} does the same work ({job.resource.kind} {name})")

    def _alive(self, job: Job) -> list[Object]:
        """Jobs of other runs or tasks that work on this step key, or whose pods still do; what is kept for a look does not."""
        key = job.body["metadata"]["annotations"][STEP_KEY_ANNOTATION]
        return [
            item
            for item in self._api.list(job.resource, selector({MANAGED_LABEL: MANAGED_BY}))
            if (item["metadata"].get("annotations") or {}).get(STEP_KEY_ANNOTATION) == key
            and stem_of(str(item["metadata"]["name"])) != stem_of(job.name)
            and KEPT_LABEL not in item["metadata"]["labels"]
            and self._works(job, item)
        ]

    def _works(self, job: Job, item: Object) -> bool:
        """Whether a job goes on, or has ended and its pods have not: those are waited for a while, a lost node's never go."""
        metadata = item["metadata"]
        pods = self._api.pods(selector({NAME_LABEL: str(metadata["name"])}))
        going = bool(metadata.get("deletionTimestamp"))
        if not going and self._is_abandoned(item):
            log.info("%s: deleting %s, whose Workflow is gone", job.name, metadata["name"])
            going = self._api.delete(job.resource, str(metadata["name"]), str(metadata["uid"]))
        if not going and not job.observe(item, pods, []).phase.terminal:
            return True
        if all((pod.get("status") or {}).get("phase") in OVER for pod in pods):
            return False
        since = self._ending.setdefault(str(metadata["uid"]), self._clocks.now())
        if self._clocks.now() - since < self._clocks.delete_seconds:
            return True
        log.warning("%s: not waiting for pods of %s any longer, which has ended", job.name, metadata["name"])
        return False

    def _is_abandoned(self, item: Object) -> bool:
        try:
            return is_orphan(self._api, item)
        except ApiError as error:
            if error.status != 403:
                raise
            # Who may not read Workflows cannot tell.
            return False


def _holds(item: Object) -> bool:
    return HOLDS_ANNOTATION in (item["metadata"].get("annotations") or {})
