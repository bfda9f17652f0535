"""Names, labels and spec hashes: equal for every retry of a task's pod, different for everything else.

A name comes from run, task and iteration, so a retried launcher finds the job that its predecessor made. It is a DNS-1035
label of at most 45 characters: operators append `-worker-127` or `-driver-svc`, and a Service's name ends at 63.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from tutelage.contracts import locations
from tutelage.contracts.digests import canonical_json, digest_of

MAXIMUM_NAME = 45
MAXIMUM_LABEL = 63
DOMAIN = "tutelage.dev"
RUN_LABEL = f"{DOMAIN}/run"
TASK_LABEL = f"{DOMAIN}/task"
RELAUNCH_LABEL = f"{DOMAIN}/relaunch"
NAME_LABEL = f"{DOMAIN}/job"
"""The job's own name, on the object and on its pods."""
MANAGED_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "tutelage"
HASH_ANNOTATION = f"{DOMAIN}/spec-hash"
STEP_ANNOTATION = f"{DOMAIN}/step"
STEP_KEY_ANNOTATION = f"{DOMAIN}/step-key"
ATTEMPT_ANNOTATION = f"{DOMAIN}/attempt"
"""The attempt that the job's pods write. Of the create that won: never part of the spec hash."""
HOLDS_ANNOTATION = f"{DOMAIN}/holds-step-key"
"""On the one job that works on a step key which several runs share."""
KEPT_LABEL = f"{DOMAIN}/kept"
"""On a failed job that is kept for a look."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The Workflow that a job belongs to: deleted with it."""

    name: str
    uid: str

    def reference(self) -> dict[str, Any]:
        """An ownerReference that neither claims control nor blocks the owner's deletion."""
        return {
            "apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": self.name, "uid": self.uid,
            "controller": False, "blockOwnerDeletion": False,
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Whose job it is. Everything a name, a label or an owner is made of."""

    run: str
    """KFP's run id, or a run's name on a laptop."""
    task: str
    """The task's label, for example train-sft."""
    iteration: str = ""
    """What tells iterations of a loop apart; launching.py gives the step key."""
    relaunch: int = 0
    """Our relaunches so far."""
    step: str = ""
    """stage/verb, as an annotation."""
    owner: Owner | None = None
    """The Workflow, where there is one."""

    @property
    def name(self) -> str:
        """The job's name."""
        return job_name(self.run, self.task, self.iteration, self.relaunch)

    @property
    def labels(self) -> dict[str, str]:
        """Labels for the object and for its pods."""
        return {
            RUN_LABEL: label_value(self.run), TASK_LABEL: label_value(self.task), RELAUNCH_LABEL: str(self.relaunch),
            NAME_LABEL: self.name, MANAGED_LABEL: MANAGED_BY,
        }  # fmt: skip

    def relaunched(self, ordinal: int) -> Identity:
        """The identity of its `ordinal`-th relaunch."""
        return replace(self, relaunch=ordinal)


def job_name(run: str, task: str, iteration: str = "", relaunch: int = 0) -> str:
    """A DNS-1035 label of at most 45 characters: task, start of the run, digest, and `-rN` for relaunches."""
    digest = digest_of([run, task, iteration])[:10]
    stem = f"{_slug(task)[:18].rstrip('-')}-{_slug(run)[:8].rstrip('-')}-{digest}"
    stem = re.sub(r"-+", "-", stem if stem[0].isalpha() else f"t-{stem.lstrip('-')}")
    return stem[:MAXIMUM_NAME] if relaunch == 0 else f"{stem}-r{relaunch}"


def metadata(
    identity: Identity, namespace: str, spec: Mapping[str, Any], *,
    labels: Mapping[str, str] | None = None, annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """`metadata` of a job with this `spec`: name, labels, spec hash and owner. Extra labels never replace ours."""
    body: dict[str, Any] = {
        "name": identity.name,
        "namespace": namespace,
        "labels": {**(labels or {}), **identity.labels},
        "annotations": {
            **(annotations or {}), STEP_ANNOTATION: identity.step, STEP_KEY_ANNOTATION: identity.iteration,
            HASH_ANNOTATION: spec_hash(spec, labels or {}),
        },
    }  # fmt: skip
    if identity.owner is not None:
        body["ownerReferences"] = [identity.owner.reference()]
    return body


def spec_hash(spec: Mapping[str, Any], labels: Mapping[str, str] | None = None) -> str:
    """Hex digest (32 characters) of a rendered spec, and of labels that steer controllers such as a queue's name.

    Fields that controllers write into the spec after creation (`runPolicy.suspend`, `suspend`) are left out.
    """
    kept = {key: value for key, value in spec.items() if key != "suspend"}
    if isinstance(kept.get("runPolicy"), Mapping):
        kept["runPolicy"] = {key: value for key, value in kept["runPolicy"].items() if key != "suspend"}
    return hashlib.sha256(canonical_json([kept, dict(labels or {})])).hexdigest()[:32]


def request_location(requests: str, name: str, attempt: str = "") -> str:
    """Where, among a run's `requests`, the request of the job `name` lies: written by its launcher, read by its pods.

    A rendered spec, and its hash, name no attempt; the object that is created does (attempts.py).
    """
    return locations.join(requests, f"{name}.{attempt}.request.json" if attempt else f"{name}.request.json")


def stem_of(name: str) -> str:
    """What the names of all launches of one job begin with: that of the first. Digests hold no `r`."""
    return re.sub(r"-r\d+$", "", name)


def label_value(text: str) -> str:
    """`text` as a label's value: itself where it may be one, else its usable characters and a digest."""
    if len(text) <= MAXIMUM_LABEL and re.fullmatch(r"([A-Za-z0-9]([-_.A-Za-z0-9]*[A-Za-z0-9])?)?", text):
        return text
    usable = re.sub(r"[^-_.A-Za-z0-9]+", "-", text).strip("-_.")[: MAXIMUM_LABEL - 11].strip("-_.")
    digest = digest_of(text)[:10]
    return f"{usable}-{digest}" if usable else digest


def selector(labels: Mapping[str, str]) -> str:
    """A label selector that matches all of `labels`."""
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"
