"""Deleting by label what nobody follows any more: the exit handler's part, and the reaper's."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from tutelage.runtimes.kubernetes.api import Api, ApiError
from tutelage.runtimes.kubernetes.clocks import Clocks
from tutelage.runtimes.kubernetes.jobs import INFERENCESERVICE, JOB_KINDS, WORKFLOW, Object, Resource
from tutelage.runtimes.kubernetes.names import (
    KEPT_LABEL,
    MANAGED_BY,
    MANAGED_LABEL,
    RUN_LABEL,
    Owner,
    label_value,
    selector,
)

log = logging.getLogger("tutelage")
POLL_SECONDS = 1.0


def cancel_run(api: Api, run: str, *, clocks: Clocks | None = None) -> tuple[list[str], list[str]]:
    """Delete every job of a run by label. Gives the names of what was there, and of what does not go in time.

    A failed job that is kept for a look stays: it goes with its Workflow, or a day after its end.
    """
    labels = selector({RUN_LABEL: label_value(run), MANAGED_LABEL: MANAGED_BY})
    found = [(kind, item) for kind, item in _jobs(api, labels) if KEPT_LABEL not in item["metadata"]["labels"]]
    return _delete(api, found, clocks or Clocks())


def cancel_smoke(api: Api, run: str, *, stable: str, clocks: Clocks | None = None) -> tuple[list[str], list[str]]:
    """Delete a run's smoke deployments by label, never `stable`, which carries the label of the run that promoted it."""
    labels = selector({RUN_LABEL: label_value(run), MANAGED_LABEL: MANAGED_BY})
    found = [
        (kind, item) for kind, item in _jobs(api, labels, (INFERENCESERVICE,)) if item["metadata"]["name"] != stable
    ]
    return _delete(api, found, clocks or Clocks())


def reap(api: Api, *, clocks: Clocks | None = None) -> tuple[list[str], list[str]]:
    """Delete jobs of ours whose Workflow is gone, which garbage collection should have done; kept ones too. Names as in
    `cancel_run`.

    Jobs without a Workflow were started by hand, from outside a pipeline: they are left alone.
    """
    labels = selector({MANAGED_LABEL: MANAGED_BY})
    orphans = [(resource, item) for resource, item in _jobs(api, labels) if is_orphan(api, item)]
    return _delete(api, orphans, clocks or Clocks())


def _jobs(api: Api, labels: str, kinds: Iterable[Resource] = JOB_KINDS) -> Iterable[tuple[Resource, Object]]:
    for resource in kinds:
        try:
            yield from ((resource, item) for item in api.list(resource, labels))
        except ApiError as error:
            # An operator that is not installed has no jobs.
            if error.reason != "OperatorMissing":
                raise


def is_orphan(api: Api, item: Object) -> bool:
    """Whether a job was made for a Workflow that is gone."""
    owners = [owner for owner in item["metadata"].get("ownerReferences") or [] if owner.get("kind") == WORKFLOW.kind]
    return bool(owners) and all(is_gone(api, Owner(name=str(owner["name"]), uid=str(owner["uid"]))) for owner in owners)


def is_gone(api: Api, workflow: Owner) -> bool:
    """Whether a Workflow does not exist any more; another of its name is another."""
    found = api.get(WORKFLOW, workflow.name)
    return found is None or found["metadata"]["uid"] != workflow.uid


def _delete(api: Api, jobs: Iterable[tuple[Resource, Object]], clocks: Clocks) -> tuple[list[str], list[str]]:
    doomed = [(resource, str(item["metadata"]["name"]), str(item["metadata"]["uid"])) for resource, item in jobs]
    for resource, name, uid in doomed:
        log.info("deleting %s %s", resource.kind, name)
        api.delete(resource, name, uid)
    until = clocks.now() + clocks.delete_seconds
    left = doomed
    while left:
        left = [job for job in left if _exists(api, *job)]
        if not left or clocks.now() >= until:
            break
        clocks.sleep(POLL_SECONDS)
    return [name for _, name, _ in doomed], [name for _, name, _ in left]


def _exists(api: Api, resource: Resource, name: str, uid: str) -> bool:
    found = api.get(resource, name)
    return found is not None and found["metadata"]["uid"] == uid
