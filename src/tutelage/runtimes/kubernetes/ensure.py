"""Making a job exist exactly once: strict create, adoption of our own, refusal of anything else."""

from __future__ import annotations

import logging
from collections.abc import Callable

from tutelage.runtimes.kubernetes import causes, launches
from tutelage.runtimes.kubernetes.api import Api, ApiError
from tutelage.runtimes.kubernetes.causes import Cause, CauseKind
from tutelage.runtimes.kubernetes.clocks import Clocks
from tutelage.runtimes.kubernetes.jobs import Job, Object
from tutelage.runtimes.kubernetes.launches import NameTaken
from tutelage.runtimes.kubernetes.names import HASH_ANNOTATION

__all__ = ["NameTaken", "Prepare", "Refused", "ensure"]

log = logging.getLogger("tutelage")
#: Writes what the job reads; gives the object to create where that is not the job's own body.
Prepare = Callable[[Job], Object | None]
POLL_SECONDS = 1.0
AGAIN_SECONDS = 10.0
#: Answers lost in a row before the API server is taken to be at fault.
LOST_ANSWERS = 10


class Refused(Exception):
    """The job cannot be made, and why. Raised to the engine only."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.message)
        self.cause = cause


def ensure(
    api: Api,
    job: Job,
    clocks: Clocks,
    prepare: Prepare,
    cancelled: Callable[[], bool],
    wait: Callable[[], bool] = lambda: False,
) -> tuple[Object, bool]:
    """The object on the server, and whether it was there before us.

    `wait` waits for jobs of others that do the same work, and tells whether it did. Raises NameTaken, Refused, Superseded,
    Done, ApiError.
    """
    denied_since: float | None = None
    lost, mine = 0, False
    while True:
        if cancelled():
            raise Refused(causes.cause(CauseKind.CANCELLED, "the run was told to end before its job was made"))
        found = _look(api, job)
        if found is not None:
            if not found["metadata"].get("deletionTimestamp"):
                _require_ours(job, found)
                return found, not mine
            _wait_gone(api, job, str(found["metadata"]["uid"]), clocks)
            continue
        # What takes time comes before the last look at other launches, and nothing between that and the create.
        if wait() or not launches.settle(api, job, clocks, cancelled):
            continue
        try:
            return api.create(job.resource, prepare(job) or job.body), False
        except ApiError as error:
            if error.status == 409:
                # Made in between: by a create of ours whose answer was lost, or by a launcher that is not dead yet.
                clocks.sleep(POLL_SECONDS)
            elif error.reason == "ReplyLost" and lost < LOST_ANSWERS:
                lost, mine = lost + 1, True
                clocks.sleep(POLL_SECONDS)
            elif error.status == 403 and causes.QUOTA.search(error.message):
                denied_since = clocks.now() if denied_since is None else denied_since
                if clocks.now() - denied_since >= clocks.grace_seconds:
                    raise Refused(causes.cause(CauseKind.QUOTA, error.message)) from error
                log.info("%s: quota: %s; again in %.0f s", job.name, error.message, AGAIN_SECONDS)
                clocks.sleep(AGAIN_SECONDS)
            else:
                raise Refused(_cause_of(job, error)) from error


def _look(api: Api, job: Job) -> Object | None:
    try:
        return api.get(job.resource, job.name)
    except ApiError as error:
        if error.reason == "OperatorMissing" or error.status in (401, 403):
            raise Refused(_cause_of(job, error)) from error
        raise


def _require_ours(job: Job, found: Object) -> None:
    """Raise NameTaken unless the object was rendered from the same spec."""
    ours = job.body["metadata"]["annotations"][HASH_ANNOTATION]
    theirs = (found["metadata"].get("annotations") or {}).get(HASH_ANNOTATION)
    if theirs != ours:
        raise NameTaken(
            f"{job.resource.kind} {job.name} exists with another spec: its {HASH_ANNOTATION} is {theirs!r}, ours {ours!r}",
            hint="settings or images changed under a running task, or it is somebody else's: delete it, or start a new run",
        )


def _wait_gone(api: Api, job: Job, uid: str, clocks: Clocks) -> None:
    """Wait until a predecessor that is being deleted has gone, with its pods. Raises NameTaken when it stays."""
    until = clocks.now() + clocks.delete_seconds
    while True:
        found = api.get(job.resource, job.name)
        if (found is None or found["metadata"]["uid"] != uid) and not api.pods(job.pod_selector()):
            return
        if clocks.now() >= until:
            raise NameTaken(
                f"{job.resource.kind} {job.name} is being deleted, but still there after {clocks.delete_seconds:.0f} s",
                hint="a finalizer or a lost node holds it or its pods: remove the finalizer, or delete the pods by force",
            )
        clocks.sleep(POLL_SECONDS)


def _cause_of(job: Job, error: ApiError) -> Cause:
    """Why a job cannot be made."""
    kind = job.resource.kind
    if error.reason == "OperatorMissing":
        hint = f"install the operator that serves {kind} ({job.resource.group}/{job.resource.version})"
        return causes.cause(CauseKind.OPERATOR_MISSING, f"the API server knows no {kind}: {error.message}", hint)
    if error.status == 404:
        hint = "create the namespace, or set cluster.namespace"
        return causes.cause(CauseKind.INVALID_SPEC, error.message, hint)
    # What is forbidden, but not for want of a right, a webhook, a policy or Pod Security refuses.
    if error.status in (400, 413, 422) or (error.status == 403 and not error.doubtful):
        return causes.cause(CauseKind.INVALID_SPEC, error.message)
    if error.status in (401, 403):
        hint = "the Role tutelage-run (manifests/base/roles/run.yaml) must allow this verb, and be bound to the run's account"
        message = f"cannot create {kind} {job.name}: {error.message}"
        return causes.cause(CauseKind.FORBIDDEN, message, error.hint if error.status == 401 else hint)
    return causes.cause(CauseKind.UNKNOWN, f"cannot create {kind} {job.name}: {error.message}", error.hint)
