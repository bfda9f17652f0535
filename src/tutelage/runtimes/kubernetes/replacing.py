"""One spec under a name in the place of another.

Spec, labels and annotations are ours to write, and all that is kept of an object: its finalizers, owners and status belong to
others, and nobody gets them back from us. Written by a merge-patch, so that the launcher's role needs no `update`, and with the
resource version, so that it fits what was read.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from tutelage.errors import StepFailed
from tutelage.runtimes.kubernetes.api import INFERENCESERVICE, Api, ApiError
from tutelage.runtimes.kubernetes.inferenceservice import RELEASE_LABEL
from tutelage.runtimes.kubernetes.jobs import Object
from tutelage.runtimes.kubernetes.names import MANAGED_BY, MANAGED_LABEL

CONFLICT = 409
#: An object's status changes its version, and KServe writes it every few seconds while pods come and go.
TRIES = 10
#: The parts of `metadata` that are ours to write.
DESCRIBED = ("labels", "annotations")
#: How many pods serve belongs to the service, not to the release: kept when another release takes over.
SCALE_FIELDS = ("minReplicas", "maxReplicas", "scaleTarget", "scaleMetric", "scaleMetricType", "autoScaling")


def release_of(found: Object) -> str | None:
    """The release that an InferenceService was told to serve; None for one that is not ours."""
    labels: dict[str, Any] = found.get("spec", {}).get("predictor", {}).get("labels") or {}
    return labels.get(RELEASE_LABEL)


def is_ours(found: Object) -> bool:
    """Whether we made it, or promoted a release over it: its label says so, or its predictor's."""
    managed = (found["metadata"].get("labels") or {}).get(MANAGED_LABEL)
    return managed == MANAGED_BY or release_of(found) is not None


def is_leaving(found: Object) -> bool:
    """Whether somebody deleted it, and a finalizer holds it."""
    return found["metadata"].get("deletionTimestamp") is not None


def described(found: Object) -> Object:
    """What is written, and kept, of an object."""
    kept = {
        "metadata": {part: found["metadata"].get(part) or {} for part in DESCRIBED},
        "spec": found.get("spec") or {},
    }
    return copy.deepcopy(kept)


def new_body(name: str, kept: Object) -> Object:
    """What was kept of an object that is not there any more, as a new one."""
    body = described(kept)
    body["metadata"]["name"] = name
    return {"apiVersion": INFERENCESERVICE.api_version, "kind": INFERENCESERVICE.kind, **body}


def over(found: Object, ours: Object) -> Object:
    """Our object with the service's own scale, and with the labels and annotations that others put on it."""
    predictor = ours["spec"]["predictor"]
    kept = {name: value for name, value in found["spec"].get("predictor", {}).items() if name in SCALE_FIELDS}
    metadata = {**ours["metadata"]}
    for part in DESCRIBED:
        metadata[part] = {**(found["metadata"].get(part) or {}), **(ours["metadata"].get(part) or {})}
    return {**ours, "metadata": metadata, "spec": {**ours["spec"], "predictor": {**predictor, **kept}}}


def put(api: Api, found: Object, wanted: Object, *, still: Callable[[Object], bool]) -> Object:
    """Make spec, labels and annotations of `found` those of `wanted`.

    Where it has changed since it was read, `still` decides from what it is now whether to go on. Raises StepFailed when not.
    """
    name = found["metadata"]["name"]
    for _ in range(TRIES):
        metadata: Object = {"resourceVersion": found["metadata"]["resourceVersion"]}
        for part in DESCRIBED:
            metadata[part] = merge_patch(found["metadata"].get(part) or {}, wanted["metadata"].get(part) or {})
        body = {"metadata": metadata, "spec": merge_patch(found["spec"], wanted["spec"])}
        try:
            return api.patch(INFERENCESERVICE, name, body)
        except ApiError as error:
            if error.status != CONFLICT:
                raise
        now = api.get(INFERENCESERVICE, name)
        if now is not None and _is_done(now, wanted):
            # The answer to a patch was lost, and the next try came too late for that reason.
            return now
        if now is None or not still(now):
            break
        found = now
    raise StepFailed(
        f"InferenceService {name} was changed by somebody else while it was promoted",
        hint="run the same command again: it starts from what is there now",
    )


def _is_done(now: Object, wanted: Object) -> bool:
    release = release_of(wanted)
    return release_of(now) == release if release is not None else described(now) == described(wanted)


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
