"""From a released model to the endpoint that users talk to, and back when it does not serve.

    smoke deployment ─ ready ─ probes ─▶ stable name: keep the spec it has, put ours ─ ready ─ probes ─▶ promoted
       └ deleted, however it ends                 └─────────── not ready, or a probe fails ─▶ the spec it had, ready again

The spec that was there is kept in the store before ours replaces it (never as an annotation: KServe copies those to pods, so a
change of one starts a roll-out). A launcher that is killed half-way and comes back finds it, and can still go back.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tutelage.contracts import locations
from tutelage.errors import StepFailed
from tutelage.runtimes.kubernetes.api import INFERENCESERVICE, Api, ApiError
from tutelage.runtimes.kubernetes.causes import Cause
from tutelage.runtimes.kubernetes.inferenceservice import RELEASE_LABEL, InferenceService, address_of
from tutelage.runtimes.kubernetes.jobs import Object, Phase

log = logging.getLogger("tutelage")
#: Asks an endpoint everything it promises; raises StepFailed when it does not hold.
Probe = Callable[[str], None]
CONFLICT, NO_ANSWER = 409, 0
#: How many pods serve belongs to the service, not to the release: kept when another release takes over.
SCALE_FIELDS = ("minReplicas", "maxReplicas", "scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling")
#: The parts of an object that are ours to write.
DESCRIBED = ("labels", "annotations")


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


def deploy(api: Api, service: InferenceService, probe: Probe, *, record: str, patience: Patience | None = None) -> str:
    """Smoke deployment, probes, promotion. Gives the address of the stable endpoint. Raises StepFailed, ApiError."""
    patience = patience or Patience()
    with smoke(api, service, patience=patience) as address:
        probe(address)
        return promote(api, service, probe, record=record, patience=patience)


@contextmanager
def smoke(api: Api, service: InferenceService, *, patience: Patience) -> Iterator[str]:
    """The address of `service` under its run's own name while the block lasts. Raises StepFailed when it never serves."""
    _ensure(api, service, patience)
    try:
        yield wait_until_ready(api, service, patience)
    finally:
        _remove(api, service.name, patience)


def promote(api: Api, service: InferenceService, probe: Probe, *, record: str, patience: Patience | None = None) -> str:
    """Let the stable name serve this release. Gives its address.

    `record` is a location in the store for the spec that was there. When the release does not come to serve, or a probe
    fails, that spec is put back and waited for (a service that was not there before is deleted), and StepFailed is raised.
    """
    patience, stable = patience or Patience(), service.promoted()
    before = _take_over(api, stable, record, patience)
    try:
        address = wait_until_ready(api, stable, patience)
        probe(address)
    except BaseException as error:
        _give_back(api, stable, before, patience, error)
        locations.remove(record)
        raise
    locations.remove(record)
    log.info("%s serves model %s at %s", stable.name, stable.digest[:12], address)
    return address


def wait_until_ready(api: Api, service: InferenceService, patience: Patience) -> str:
    """Wait until pods of this release, and no others, serve. Gives the address. Raises StepFailed with the cause."""
    started = patience.now()
    doubted: tuple[str, float] | None = None
    said = ""
    while True:
        found = api.get(INFERENCESERVICE, service.name)
        uid = found["metadata"].get("uid") if found else None
        events = api.events(INFERENCESERVICE.kind, service.name, uid) if found else []
        seen = service.observe(found, api.pods(service.pod_selector()), events)
        if seen.phase is Phase.SUCCEEDED and found is not None:
            return address_of(found, service.namespace)
        if seen.phase.terminal:
            raise _failure(service, f"{seen.reason}: {seen.message}", seen.cause)
        if f"{seen.reason} {seen.message}" != said:
            said = f"{seen.reason} {seen.message}"
            log.info("%s: %s %s", service.name, seen.phase, said)
        passed = patience.now()
        doubted = _doubt(doubted, seen.cause, passed)
        if doubted is not None and passed - doubted[1] >= patience.grace_seconds:
            raise _failure(service, f"{seen.reason}: {seen.message}", seen.cause)
        if passed - started >= patience.start_seconds:
            raise _failure(service, f"not ready within {patience.start_seconds:g} s: {said}", seen.cause)
        patience.sleep(patience.poll_seconds)


def _doubt(doubted: tuple[str, float] | None, cause: Cause | None, now: float) -> tuple[str, float] | None:
    """Since when the same kind of cause is seen."""
    if cause is None:
        return None
    return doubted if doubted is not None and doubted[0] == cause.kind else (cause.kind, now)


def _failure(service: InferenceService, what: str, cause: Cause | None) -> StepFailed:
    why = f" ({cause.kind}: {cause.message})" if cause is not None else ""
    return StepFailed(
        f"InferenceService {service.name} does not serve: {what}{why}", hint=cause.hint if cause else None
    )


def _ensure(api: Api, service: InferenceService, patience: Patience) -> None:
    """Create the object, or adopt the one of this release that an earlier launcher made, or that a lost answer was about."""
    found = api.get(INFERENCESERVICE, service.name)
    if found is not None and found["metadata"].get("deletionTimestamp"):
        _remove(api, service.name, patience)
    try:
        api.create(INFERENCESERVICE, service.body)
    except ApiError as error:
        found = api.get(INFERENCESERVICE, service.name) if error.status in (NO_ANSWER, CONFLICT) else None
        if found is None or release_of(found) != service.release:
            raise


def _take_over(api: Api, stable: InferenceService, record: str, patience: Patience) -> Object | None:
    """Put our spec under the stable name. Gives the object that was there before, None where there was none."""
    found = api.get(INFERENCESERVICE, stable.name)
    if found is not None and release_of(found) == stable.release:
        # Ours already: an earlier launcher put it, and may have left what was there before.
        return _recorded(record, found)
    locations.write_bytes(record, json.dumps({"release": stable.release, "before": found}).encode())
    if found is None:
        _ensure(api, stable, patience)
        return None
    _put(api, found, _over(found, stable.body))
    return found


def _recorded(record: str, found: Object) -> Object | None:
    if not locations.exists(record):
        return found
    kept = json.loads(locations.read_bytes(record))
    return kept["before"] if kept["release"] == release_of(found) else found


def _over(found: Object, ours: Object) -> Object:
    """Our object with the service's own scale, and with the labels and annotations that others put on it."""
    predictor = ours["spec"]["predictor"]
    kept = {name: value for name, value in found["spec"].get("predictor", {}).items() if name in SCALE_FIELDS}
    described = {**ours["metadata"]}
    for name in ("labels", "annotations"):
        described[name] = {**found["metadata"].get(name, {}), **ours["metadata"].get(name, {})}
    return {**ours, "metadata": described, "spec": {**ours["spec"], "predictor": {**predictor, **kept}}}


def _put(api: Api, found: Object, wanted: Object) -> Object:
    """Make spec, labels and annotations of `found` those of `wanted`. Raises StepFailed when somebody else was faster.

    A merge-patch, so that the launcher's role needs no `update`; with the resource version, so that it fits what was read.
    """
    name, described = found["metadata"]["name"], {"resourceVersion": found["metadata"]["resourceVersion"]}
    for part in DESCRIBED:
        described[part] = merge_patch(found["metadata"].get(part) or {}, wanted["metadata"].get(part) or {})
    try:
        return api.patch(
            INFERENCESERVICE, name, {"metadata": described, "spec": merge_patch(found["spec"], wanted["spec"])}
        )
    except ApiError as error:
        if error.status != CONFLICT:
            raise
        raise StepFailed(
            f"InferenceService {name} was changed by somebody else while it was promoted",
            hint="run the same command again: it starts from what is there now",
        ) from error


def merge_patch(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7386) that makes `wanted` of `found`: what is not wanted any more is null."""
    patch: dict[str, Any] = {name: None for name in found if name not in wanted}
    for name, value in wanted.items():
        if name not in found:
            patch[name] = value
        elif isinstance(value, Mapping) and isinstance(found[name], Mapping):
            if inner := merge_patch(found[name], value):
                patch[name] = inner
        elif value != found[name]:
            patch[name] = value
    return patch


def _give_back(
    api: Api, stable: InferenceService, before: Object | None, patience: Patience, error: BaseException
) -> None:
    """Put back what was there before, unless the stable name serves something else by now. Never hides `error`."""
    found = api.get(INFERENCESERVICE, stable.name)
    if found is None or release_of(found) != stable.release:
        log.warning("%s is no longer what was promoted; left as it is", stable.name)
        return
    if before is None:
        log.warning("%s is deleted: nothing was there before, and this release failed: %s", stable.name, error)
        _remove(api, stable.name, patience)
        return
    if release_of(before) == stable.release:
        log.warning("%s: no earlier spec is known; left as it is", stable.name)
        return
    _put(api, found, before)
    log.warning("%s has its earlier spec again: %s", stable.name, error)


def _remove(api: Api, name: str, patience: Patience) -> None:
    """Delete and wait until gone; what stays (a stuck finalizer) is said, not waited for."""
    found = api.get(INFERENCESERVICE, name)
    if found is None:
        return
    uid = found["metadata"].get("uid")
    api.delete(INFERENCESERVICE, name, uid)
    started = patience.now()
    while (left := api.get(INFERENCESERVICE, name)) is not None and left["metadata"].get("uid") == uid:
        if patience.now() - started >= patience.delete_seconds:
            log.warning("InferenceService %s is still there; finalizers: %s", name, left["metadata"].get("finalizers"))
            return
        patience.sleep(patience.poll_seconds)


def release_of(found: Object) -> str | None:
    """The release that an InferenceService was told to serve; None for one that is not ours."""
    labels: dict[str, Any] = found.get("spec", {}).get("predictor", {}).get("labels") or {}
    return labels.get(RELEASE_LABEL)
