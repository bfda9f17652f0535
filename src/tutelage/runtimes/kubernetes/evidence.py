"""What can be seen of a job besides its object: pods, those that have just gone included, and events."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tutelage.runtimes.kubernetes.api import Api, ApiError
from tutelage.runtimes.kubernetes.jobs import Job, Object

log = logging.getLogger("tutelage")
#: How long a pod that has gone still counts as evidence of why its job failed: eviction takes its evidence along.
REMEMBERED_SECONDS = 120
#: Pods whose events are read; the others wait for the same reasons.
ASKED_PODS = 4


class Evidence:
    """Pods and events of one job, as last seen."""

    def __init__(self, api: Api, job: Job, now: Callable[[], float]) -> None:
        self.pods: list[Object] = []
        self.denied: str | None = None
        """Why events cannot be read; None where they can."""
        self._api, self._job, self._now = api, job, now
        self._seen: dict[str, tuple[float, Object]] = {}

    def look(self) -> list[Object]:
        """The job's pods now."""
        self.pods = list(self._api.pods(self._job.pod_selector()))
        now = self._now()
        self._seen.update({str(pod["metadata"]["uid"]): (now, pod) for pod in self.pods})
        self._seen = {uid: seen for uid, seen in self._seen.items() if now - seen[0] <= REMEMBERED_SECONDS}
        return self.pods

    def recent(self) -> list[Object]:
        """Pods as last seen, also those deleted a moment ago."""
        return [pod for _, pod in self._seen.values()]

    def forget(self) -> None:
        """What was seen no longer tells why: the job was suspended, and its pods taken away on purpose."""
        self._seen.clear()

    def events(self, uid: str) -> list[Object]:
        """Events of the job and of pods that have not started; none where the account may not read them."""
        waiting = [pod for pod in self.pods if (pod.get("status") or {}).get("phase") in (None, "Pending")]
        if self.denied is not None or (self.pods and not waiting):
            return []
        try:
            found = list(self._api.events(self._job.resource.kind, self._job.name, uid))
            for pod in waiting[:ASKED_PODS]:
                found += self._api.events("Pod", str(pod["metadata"]["name"]), str(pod["metadata"]["uid"]))
        except ApiError as error:
            if error.status != 403:
                raise
            self.denied = error.message
            return []
        return found

    def events_of_gone(self) -> list[Object]:
        """Events of pods seen a moment ago that have gone or are going; none where the account may not read them."""
        there = {str(pod["metadata"]["uid"]) for pod in self.pods if not pod["metadata"].get("deletionTimestamp")}
        gone = [(uid, pod) for uid, (_, pod) in self._seen.items() if uid not in there]
        found: list[Object] = []
        try:
            for uid, pod in gone if self.denied is None else ():
                found += self._api.events("Pod", str(pod["metadata"]["name"]), uid)
        except ApiError as error:
            if error.status != 403:
                raise
            self.denied = error.message
        return found

    def running(self) -> bool:
        """Whether any pod still works, or is about to."""
        return any(
            (pod.get("status") or {}).get("phase") in ("Running", "Pending")
            and not pod["metadata"].get("deletionTimestamp")
            for pod in self.pods
        )
