"""From a released model to the endpoint that users talk to, and back when it does not serve.

    smoke deployment ─ ready ─ probes ─▶ stable name: keep the spec it has, put ours ─ ready ─ probes ─▶ promoted
       └ deleted, however it ends                 └─────────── not ready, or a probe fails ─▶ the spec it had, ready again

The spec that was there is kept in the store (promotion_records.py) until ours is known to serve. A launcher that is killed
half-way leaves it to a retry of its task, to its run's exit handler (`recover`), and to whoever promotes next: that one goes back
to what was known to serve too, never to a half-promoted spec. Of two runs that promote at once the last to put its spec counts;
the other sees that, fails, and touches nothing.

A service under the stable name that somebody else made is refused before anything is made: what belongs to it beyond our spec
(a transformer, a canary, labels) would be gone for good once ours serves. `[cluster.deployment] take_over = true` allows it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from tutelage.contracts import locations
from tutelage.errors import StepFailed, TutelageError
from tutelage.runtimes.kubernetes import promotion_records, reaping
from tutelage.runtimes.kubernetes.api import INFERENCESERVICE, Api, ApiError
from tutelage.runtimes.kubernetes.ensure import NameTaken
from tutelage.runtimes.kubernetes.inferenceservice import InferenceService
from tutelage.runtimes.kubernetes.jobs import Object
from tutelage.runtimes.kubernetes.names import MANAGED_LABEL
from tutelage.runtimes.kubernetes.promotion_records import Record, Tell
from tutelage.runtimes.kubernetes.readiness import Earlier, Patience, await_gone, standing, wait_until_ready
from tutelage.runtimes.kubernetes.replacing import described, is_leaving, is_ours, new_body, over, put, release_of

log = logging.getLogger("tutelage")
#: Asks an endpoint everything it promises; raises StepFailed when it does not hold.
Probe = Callable[[str], None]
#: What is left to wait for once something was put back; says how it ended.
Wait = Callable[[Patience], None]
CONFLICT, NO_ANSWER = 409, 0


def deploy(
    api: Api,
    service: InferenceService,
    probe: Probe,
    *,
    records: str,
    patience: Patience | None = None,
    tell: Tell = log.warning,
) -> str:
    """Smoke deployment, probes, promotion. Gives the address of the stable endpoint. Raises NameTaken, StepFailed, ApiError."""
    patience = patience or Patience()
    _refuse_another_owner(api.get(INFERENCESERVICE, service.promoted().name), service)
    with smoke(api, service, patience=patience) as address:
        probe(address)
        return promote(api, service, probe, records=records, patience=patience, tell=tell)


@contextmanager
def smoke(api: Api, service: InferenceService, *, patience: Patience) -> Iterator[str]:
    """The address of `service` under its run's own name while the block lasts. Raises StepFailed when it never serves."""
    _ensure(api, service.body, patience)
    try:
        yield wait_until_ready(api, service, patience)
    finally:
        _clear(api, service.name, patience)


def promote(
    api: Api,
    service: InferenceService,
    probe: Probe,
    *,
    records: str,
    patience: Patience | None = None,
    tell: Tell = log.warning,
) -> str:
    """Let the stable name serve this release. Gives its address.

    `records` is the folder in the store for what promotions replace. When the release does not come to serve, or a probe fails,
    the spec that served before is put back and waited for (a service that was not there before is deleted), and StepFailed
    is raised. It has succeeded when its record is removed: until then the exit handler gives it back. Raises NameTaken where
    the service is somebody else's.
    """
    patience, stable = patience or Patience(), service.promoted()
    found = api.get(INFERENCESERVICE, stable.name)
    if found is not None and is_leaving(found):
        # Deleted by somebody, and held by a finalizer: nothing to keep, and to be waited for.
        found = None
    _refuse_another_owner(found, stable)
    record = _begin(found, stable, records, tell)
    try:
        _take_over(api, stable, found, patience)
        address = wait_until_ready(api, stable, patience)
        probe(address)
        standing(api.get(INFERENCESERVICE, stable.name), stable)
        _succeed(stable, records, tell)
    except BaseException as error:
        _undo(api, stable, record, patience, tell, error)
        raise
    log.info("%s serves model %s at %s", stable.name, stable.digest[:12], address)
    return address


def recover(api: Api, name: str, records: str, *, run: str, tell: Tell) -> list[Wait]:
    """Give back what launchers that were killed left half-promoted: of `run`, and of runs whose Workflow is gone.

    Gives what is left to wait for. What goes wrong is told, and its record stays for the next one to try.
    """
    waits: list[Wait] = []
    try:
        known, torn = promotion_records.read(records, tell)
        if (own := promotion_records.location_of(records, run)) in torn:
            locations.remove(own)
    except (StepFailed, OSError) as error:
        tell(f"{name}: records of promotions cannot be read from {records}: {_words(error)}")
        return waits
    for record in sorted(known, key=lambda one: one.run != run):
        try:
            if record.run == run or (record.owner is not None and reaping.is_gone(api, record.owner)):
                waits += filter(None, [_recover(api, name, record, tell)])
        except (StepFailed, OSError) as error:
            tell(f"{name}: the promotion that run {record.run} left unfinished is not given back: {_words(error)}")
    return waits


def _recover(api: Api, name: str, record: Record, tell: Tell) -> Wait | None:
    found = api.get(INFERENCESERVICE, name)
    if found is not None and not is_leaving(found) and release_of(found) == record.release:
        return _give_back(api, name, record, f"run {record.run} left its promotion unfinished", tell, Patience())
    if record.before is not None and (found is None or is_leaving(found)):
        tell(f"{name} was deleted after run {record.run} had left its promotion unfinished; not made again")
    promotion_records.remove([record])
    return None


def _refuse_another_owner(found: Object | None, service: InferenceService) -> None:
    """Raise NameTaken where the stable name is a service that we did not make, unless the installation lets us take it over."""
    if found is None or is_leaving(found) or is_ours(found) or service.settings.deployment.take_over:
        return
    manager = (found["metadata"].get("labels") or {}).get(MANAGED_LABEL)
    whose = f"{MANAGED_LABEL} is {manager!r}" if manager else f"it has no label {MANAGED_LABEL}"
    raise NameTaken(
        f"InferenceService {found['metadata']['name']} was made by somebody else ({whose}), and a release would replace it",
        hint="give [cluster.deployment] another name in the settings, or set take_over = true there to replace it for good",
    )


def _begin(found: Object | None, stable: InferenceService, records: str, tell: Tell) -> Record | None:
    """Record what is gone back to when this promotion fails; None where this release stands there and nothing else is known.

    What stands there, unless a record says that it was never known to serve: then what that promotion replaced.
    """
    known, _ = promotion_records.read(records, tell)
    own = promotion_records.location_of(records, stable.identity.run)
    serving = release_of(found) if found is not None else None
    unfinished = [one for one in known if (one.release == serving if found is not None else one.location == own)]
    unfinished.sort(key=lambda one: one.location != own)
    if unfinished:
        before = unfinished[0].before
    elif serving == stable.release:
        return None
    else:
        before = described(found) if found is not None else None
    if serving != stable.release:
        # Of runs that died before or long ago: from now on they would seem to be about what we put.
        promotion_records.remove(one for one in known if one.release == stable.release and one.location != own)
    record = promotion_records.new_record(records, stable.identity, stable.release, before)
    promotion_records.write(record)
    return record


def _take_over(api: Api, stable: InferenceService, found: Object | None, patience: Patience) -> None:
    """Put our spec under the stable name. Raises StepFailed when somebody else was faster."""
    if found is None:
        _ensure(api, stable.body, patience)
    elif release_of(found) != stable.release:
        put(api, found, over(found, stable.body), still=lambda now: described(now) == described(found))


def _succeed(stable: InferenceService, records: str, tell: Tell) -> None:
    """This release is known to serve: nobody goes back from it any more. Our own record goes last. Raises StoreError."""
    own = promotion_records.location_of(records, stable.identity.run)
    known, _ = promotion_records.read(records, tell)
    promotion_records.remove(one for one in known if one.release == stable.release and one.location != own)
    locations.remove(own)


def _undo(
    api: Api, stable: InferenceService, record: Record | None, patience: Patience, tell: Tell, error: BaseException
) -> None:
    """Go back because of `error`, and wait until that serves. Never hides `error`."""
    if record is None:
        tell(f"{stable.name}: no earlier spec is known; left as it is")
        return
    try:
        wait = _give_back(api, stable.name, record, _words(error), tell, patience)
    except (StepFailed, OSError) as problem:
        tell(f"{stable.name}: not given back, which the run's exit handler tries again: {_words(problem)}")
        return
    if wait is not None and isinstance(error, Exception):
        wait(patience)
    elif wait is not None:
        tell(f"{stable.name}: not waited for, since this pod is to end")


def _give_back(api: Api, name: str, record: Record, why: str, tell: Tell, patience: Patience) -> Wait | None:
    """Put back what was there before, unless the name was given something else by now, and remove the record.

    Gives what is left to wait for: whatever ends that wait, nothing is lost.
    """
    found = api.get(INFERENCESERVICE, name)
    there = found is not None and not is_leaving(found)
    wait: Wait | None = None
    if found is not None and there and release_of(found) != record.release:
        tell(f"{name} is not what this run put there; left as it is ({why})")
    elif record.before is None:
        wait = _delete(api, name)
        tell(f"{name} is deleted: nothing was there before ({why})")
    else:
        if found is not None and there:
            put(api, found, record.before, still=lambda now: release_of(now) == record.release and not is_leaving(now))
            tell(f"{name} has its earlier spec again ({why})")
        else:
            _ensure(api, new_body(name, record.before), patience)
            tell(f"{name} was deleted by somebody and is made again with its earlier spec ({why})")
        earlier = Earlier(name=name, namespace=api.namespace, release=release_of(record.before))
        wait = partial(_await_earlier, api, earlier, tell)
    promotion_records.remove([record])
    return wait


def _await_earlier(api: Api, earlier: Earlier, tell: Tell, patience: Patience) -> None:
    try:
        wait_until_ready(api, earlier, patience)
    except StepFailed as error:
        # An ApiError too: it was put back, and that is what counts.
        tell(f"{earlier.name} has its earlier spec, but is not seen to serve it: {_words(error)}")
    else:
        tell(f"{earlier.name} serves its earlier spec again")


def _ensure(api: Api, body: Object, patience: Patience) -> None:
    """Create the object, or adopt the one of this release that an earlier launcher made, or that a lost answer was about."""
    name = str(body["metadata"]["name"])
    found = api.get(INFERENCESERVICE, name)
    if found is not None and is_leaving(found):
        await_gone(api, name, found["metadata"]["uid"], patience)
    try:
        api.create(INFERENCESERVICE, body)
    except ApiError as error:
        found = api.get(INFERENCESERVICE, name) if error.status in (NO_ANSWER, CONFLICT) else None
        if found is None or is_leaving(found) or release_of(found) != release_of(body):
            raise


def _clear(api: Api, name: str, patience: Patience) -> None:
    """Delete a smoke deployment and wait. Never hides how its use ended: the run's exit handler deletes what is left."""
    try:
        if wait := _delete(api, name):
            wait(patience)
    except ApiError as error:
        log.warning("InferenceService %s is left to the run's exit handler: %s", name, error.message)


def _delete(api: Api, name: str) -> Wait | None:
    """Ask for deletion; None where nothing is there."""
    found = api.get(INFERENCESERVICE, name)
    if found is None:
        return None
    api.delete(INFERENCESERVICE, name, found["metadata"]["uid"])
    return partial(await_gone, api, name, found["metadata"]["uid"])


def _words(error: BaseException) -> str:
    return error.message if isinstance(error, TutelageError) else f"{type(error).__name__}: {error}".rstrip(": ")
