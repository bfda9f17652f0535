"""What an API server keeps: objects with versions, their history for watches, owners, finalizers and quotas.

Operators of a test call these methods as the cluster's own controllers (no roles, no faults); everybody else comes over HTTP.
"""

from __future__ import annotations

import copy
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.cluster import schemas
from tests.cluster.fake_time import FakeTime

Object = dict[str, Any]
Key = tuple[str, str, str]
#: Seconds that the garbage collector and the kubelet take for what they do.
COLLECTOR_SECONDS = 1.0
FOREGROUND = "foregroundDeletion"


class Refused(Exception):
    """An answer that is no success, as a Status object says it."""

    def __init__(self, code: int, reason: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.retry_after: int | None = more.pop("retry_after", None)
        self.details: Object = more.pop("details", {})

    def status(self) -> Object:
        details = self.details | ({"retryAfterSeconds": self.retry_after} if self.retry_after else {})
        return {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message,
            "reason": self.reason, "details": details, "code": self.code,
        }  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """A kind of object that the server serves."""

    group: str
    version: str
    plural: str
    kind: str
    status: bool = True
    """Whether status is a subresource of its own."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


PYTORCHJOB = Kind("kubeflow.org", "v1", "pytorchjobs", "PyTorchJob")
SPARKAPPLICATION = Kind("sparkoperator.k8s.io", "v1beta2", "sparkapplications", "SparkApplication")
INFERENCESERVICE = Kind("serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService")
WORKFLOW = Kind("argoproj.io", "v1alpha1", "workflows", "Workflow", status=False)
POD = Kind("", "v1", "pods", "Pod")
EVENT = Kind("", "v1", "events", "Event", status=False)
CONFIGMAP = Kind("", "v1", "configmaps", "ConfigMap", status=False)
SECRET = Kind("", "v1", "secrets", "Secret", status=False)
SERVICE = Kind("", "v1", "services", "Service")
KINDS = (PYTORCHJOB, SPARKAPPLICATION, INFERENCESERVICE, WORKFLOW, POD, EVENT, CONFIGMAP, SECRET, SERVICE)


@dataclass(frozen=True)
class Change:
    """One entry of the history: what happened to which object, before and after."""

    version: int
    what: str
    kind: Kind
    before: Object | None
    after: Object


@dataclass
class Cluster:
    """Everything in the cluster. Every method is called with `time.lock` held or takes it."""

    time: FakeTime
    kinds: list[Kind] = field(default_factory=lambda: list(KINDS))
    quotas: dict[str, dict[str, int]] = field(default_factory=dict)
    """Namespace → resource (pods, count/pytorchjobs.kubeflow.org) → how many."""
    admission: list[Callable[[Kind, Object], None]] = field(default_factory=list)
    """Webhooks: they change a new object or raise Refused."""
    watchers: list[Callable[[Change], None]] = field(default_factory=list)
    """Controllers, told of every change."""
    objects: dict[Kind, dict[Key, Object]] = field(default_factory=dict)
    history: list[Change] = field(default_factory=list)
    version: int = 1000
    oldest: int = 0
    """Changes up to this version are forgotten: a watch from before them has expired."""

    def find(self, kind: Kind, name: str, namespace: str) -> Object | None:
        with self.time.lock:
            return copy.deepcopy(self.objects.get(kind, {}).get((kind.plural, namespace, name)))

    def get(self, kind: Kind, name: str, namespace: str) -> Object:
        found = self.find(kind, name, namespace)
        if found is None:
            raise self.missing(kind, name)
        return found

    def missing(self, kind: Kind, name: str) -> Refused:
        details = {"name": name, "group": kind.group, "kind": kind.plural}
        return Refused(404, "NotFound", f'{kind.resource} "{name}" not found', details=details)

    def all(self, kind: Kind, namespace: str | None = None) -> list[Object]:
        with self.time.lock:
            rows = [(key, item) for key, item in self.objects.get(kind, {}).items() if namespace in (None, key[1])]
            return [copy.deepcopy(item) for _, item in sorted(rows, key=lambda row: row[0])]

    def everything(self, namespace: str) -> list[str]:
        """Names of what stands in a namespace, as `kind/name`; events left out."""
        kinds = [kind for kind in self.kinds if kind is not EVENT]
        return [f"{kind.kind}/{item['metadata']['name']}" for kind in kinds for item in self.all(kind, namespace)]

    def create(self, kind: Kind, body: Object, namespace: str, *, strict: bool = True, by_user: bool = False) -> Object:
        """Make a new object. `strict` refuses unknown fields; otherwise they are dropped."""
        with self.time.lock:
            body = copy.deepcopy(body)
            metadata = self._new_metadata(kind, body, namespace)
            if by_user:
                for admit in self.admission:
                    admit(kind, body)
            existing = self.objects.get(kind, {}).get((kind.plural, namespace, metadata["name"]))
            if existing is not None:
                raise self._exists(kind, existing)
            if kind.status and by_user:
                body.pop("status", None)
            body = self._checked(kind, body, strict=strict)
            self._within_quota(kind, metadata["name"], namespace)
            body["metadata"] = metadata | {
                "namespace": namespace, "uid": str(uuid.uuid4()), "creationTimestamp": self.time.stamp(), "generation": 1,
            }  # fmt: skip
            self._record("ADDED", kind, None, body)
            self._collect_later()
            return copy.deepcopy(body)

    def update(
        self, kind: Kind, name: str, namespace: str, change: Callable[[Object], Any], *, status: bool = False,
        strict: bool = True,
    ) -> Object:  # fmt: skip
        """Change an object in place: its status only, or everything but its status."""
        with self.time.lock:
            before = self.get(kind, name, namespace)
            wanted = copy.deepcopy(before)
            wanted = change(wanted) or wanted
            if wanted.get("metadata", {}).get("name", name) != name:
                raise Refused(400, "BadRequest", "the name of the object does not match the name on the URL")
            given = wanted.get("metadata", {}).get("resourceVersion")
            if given is not None and given != before["metadata"]["resourceVersion"]:
                message = f'Operation cannot be fulfilled on {kind.resource} "{name}": the object has been modified; '
                raise Refused(
                    409, "Conflict", message + "please apply your changes to the latest version and try again"
                )
            if kind.status:
                wanted.setdefault("metadata", {})
                wanted = before | _status_of(wanted) if status else _without_status(wanted) | _status_of(before)
            wanted = copy.deepcopy(wanted)
            for kept in ("uid", "creationTimestamp", "namespace", "name", "deletionTimestamp", "generation"):
                wanted["metadata"].pop(kept, None)
                if kept in before["metadata"]:
                    wanted["metadata"][kept] = before["metadata"][kept]
            more = set(wanted["metadata"].get("finalizers") or []) - set(before["metadata"].get("finalizers") or [])
            if more and "deletionTimestamp" in before["metadata"]:
                text = f"metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted: {more}"
                raise self._invalid(kind, name, [text])
            wanted = self._checked(kind, wanted, strict=strict, changed=True)
            if wanted.get("spec") != before.get("spec"):
                wanted["metadata"]["generation"] = before["metadata"]["generation"] + 1
            if wanted == before:
                return before
            self._record("MODIFIED", kind, before, wanted)
            self._finish_deletion(kind, wanted)
            return copy.deepcopy(wanted)

    def delete(
        self, kind: Kind, name: str, namespace: str, *, uid: str | None = None, policy: str = "Background",
        grace_seconds: float | None = None,
    ) -> Object:  # fmt: skip
        """Begin to delete an object. Gives it as it stands then; gone at once when nothing holds it."""
        with self.time.lock:
            item = self.get(kind, name, namespace)
            metadata = item["metadata"]
            if uid is not None and uid != metadata["uid"]:
                message = f'Operation cannot be fulfilled on {kind.resource} "{name}": Precondition failed: UID in '
                raise Refused(409, "Conflict", message + f"precondition: {uid}, UID in object meta: {metadata['uid']}")
            finalizers = list(metadata.get("finalizers", []))
            if policy == "Foreground" and FOREGROUND not in finalizers:
                finalizers.append(FOREGROUND)
            if policy == "Orphan":
                self._orphan(metadata["uid"])
            running = (
                kind is POD
                and item.get("status", {}).get("phase") in {"Pending", "Running"}
                and item["spec"].get("nodeName")
            )
            graceful = running and grace_seconds != 0
            if (finalizers or graceful) and "deletionTimestamp" not in metadata:
                before = copy.deepcopy(item)
                metadata["deletionTimestamp"] = self.time.stamp()
                # Only pods end gracefully. To the server the end of an object is a change of what is wanted.
                metadata["deletionGracePeriodSeconds"] = (
                    (30 if grace_seconds is None else grace_seconds) if graceful else 0
                )
                metadata["generation"] = metadata.get("generation", 1) + 1
                if finalizers:
                    metadata["finalizers"] = finalizers
                self._record("MODIFIED", kind, before, item)
            if graceful and not finalizers:
                self.time.after(COLLECTOR_SECONDS, lambda: self._remove_if_same(kind, item))
            elif not finalizers:
                self._remove(kind, item)
            self._collect_later()
            return copy.deepcopy(item)

    def compact(self) -> None:
        """Forget the history: every watch from an older version has expired."""
        with self.time.lock:
            self.oldest = self.version
            self.history.clear()

    def expired(self) -> Refused:
        message = f"too old resource version: 1 ({self.version})"
        return Refused(410, "Expired", message)

    def event(
        self, kind: Kind, item: Object, reason: str, message: str, type_: str = "Normal", source: str = "test"
    ) -> None:
        """Record an event about an object."""
        metadata = item["metadata"]
        about = {"kind": kind.kind, "apiVersion": kind.api_version, "name": metadata["name"]}
        about |= {"namespace": metadata["namespace"], "uid": metadata["uid"]}
        body = {
            "apiVersion": "v1", "kind": "Event", "involvedObject": about, "reason": reason, "message": message,
            "type": type_, "source": {"component": source}, "count": 1, "firstTimestamp": self.time.stamp(),
            "lastTimestamp": self.time.stamp(), "eventTime": None,
            "metadata": {"name": f"{metadata['name']}.{self.version:x}"},
        }  # fmt: skip
        self.create(EVENT, body, metadata["namespace"])

    # What follows is called with the lock held.

    def _new_metadata(self, kind: Kind, body: Object, namespace: str) -> Object:
        if kind.group and body.get("apiVersion") == kind.api_version and body.get("kind") != kind.kind:
            name = str((body.get("metadata") or {}).get("name", ""))
            raise self._invalid(kind, name, [f'kind: Invalid value: "{body.get("kind")}": must be {kind.kind}'])
        if body.get("apiVersion") != kind.api_version or body.get("kind") != kind.kind:
            got = f"{body.get('apiVersion')}/{body.get('kind')}"
            raise Refused(
                400,
                "BadRequest",
                f"the object provided ({got}) is unrecognized, expected {kind.api_version}/{kind.kind}",
            )
        metadata = dict(body.get("metadata") or {})
        if metadata.get("namespace", namespace) != namespace:
            message = "the namespace of the provided object does not match the namespace sent on the request"
            raise Refused(400, "BadRequest", message)
        if "name" not in metadata and "generateName" in metadata:
            metadata["name"] = metadata["generateName"] + uuid.uuid4().hex[:5]
        if metadata.get("resourceVersion"):
            # So it is: an error of the server's own, without a reason.
            raise Refused(500, "", "resourceVersion should not be set on objects to be created")
        name = metadata.get("name", "")
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", name) or len(name) > 253:
            raise self._invalid(kind, name, [f'metadata.name: Invalid value: "{name}": a lowercase RFC 1123 subdomain'])
        for part in set(metadata) & {"labels", "annotations"}:
            # Null is the empty string to Go.
            metadata[part] = {key: "" if value is None else value for key, value in (metadata[part] or {}).items()}
        for label, value in (metadata.get("labels") or {}).items():
            fits = isinstance(value, str) and re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", value)
            if not fits or not re.fullmatch(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9][-A-Za-z0-9_.]{0,62}", label):
                raise self._invalid(kind, name, [f'metadata.labels: Invalid value: "{label}={value}"'])
        for value in (metadata.get("annotations") or {}).values():
            if not isinstance(value, str):
                raise Refused(
                    400,
                    "BadRequest",
                    "json: cannot unmarshal into Go struct field ObjectMeta.annotations of type string",
                )
        for owner in metadata.get("ownerReferences", []):
            lacking = [name for name in ("apiVersion", "kind", "name", "uid") if not owner.get(name)]
            if lacking:
                raise self._invalid(
                    kind, name, [f"metadata.ownerReferences.{lacking[0]}: Invalid value: must not be empty"]
                )
        return metadata

    def _invalid(self, kind: Kind, name: str, mistakes: list[str]) -> Refused:
        text = mistakes[0] if len(mistakes) == 1 else f"[{', '.join(mistakes)}]"
        details = {
            "name": name,
            "group": kind.group,
            "kind": kind.kind,
            "causes": [{"message": text} for text in mistakes],
        }
        subject = f"{kind.kind}.{kind.group}" if kind.group else kind.kind
        return Refused(422, "Invalid", f'{subject} "{name}" is invalid: {text}', details=details)

    def _exists(self, kind: Kind, existing: Object) -> Refused:
        name = existing["metadata"]["name"]
        leaving = "object is being deleted: " if "deletionTimestamp" in existing["metadata"] else ""
        details = {"name": name, "group": kind.group, "kind": kind.plural}
        return Refused(409, "AlreadyExists", f'{leaving}{kind.resource} "{name}" already exists', details=details)

    def _checked(self, kind: Kind, body: Object, *, strict: bool, changed: bool = False) -> Object:
        schema = schemas.schema_of(kind.kind)
        if schema is None:
            return body
        outer = {name: body[name] for name in ("apiVersion", "kind", "metadata") if name in body}
        inner = {name: value for name, value in body.items() if name not in outer}
        unknown = sorted(schemas.unknown_fields(schema, inner))
        if unknown and strict:
            fields = ", ".join(f'unknown field "{path}"' for path in unknown)
            if changed:
                raise self._invalid(kind, body["metadata"].get("name", ""), [fields])
            message = f'{kind.kind} in version "{kind.version}" cannot be handled as a {kind.kind}: '
            raise Refused(400, "BadRequest", f"{message}strict decoding error: {fields}")
        inner = schemas.defaulted(schema, schemas.pruned(schema, inner))
        mistakes = list(schemas.mistakes(schema, inner))
        if mistakes:
            raise self._invalid(kind, body["metadata"].get("name", ""), mistakes)
        return outer | inner

    def _within_quota(self, kind: Kind, name: str, namespace: str) -> None:
        for resource in (kind.plural if not kind.group else "", f"count/{kind.resource}"):
            limit = self.quotas.get(namespace, {}).get(resource)
            items = self.all(kind, namespace) if limit is not None else []
            used = sum(item.get("status", {}).get("phase") not in {"Succeeded", "Failed"} for item in items)
            if limit is not None and used + 1 > limit:
                amounts = f"requested: {resource}=1, used: {resource}={used}, limited: {resource}={limit}"
                message = f'{kind.resource} "{name}" is forbidden: exceeded quota: team, {amounts}'
                raise Refused(403, "Forbidden", message, details={"name": name, "kind": kind.plural})

    def _record(self, what: str, kind: Kind, before: Object | None, after: Object) -> None:
        self.version += 1
        after["metadata"]["resourceVersion"] = str(self.version)
        key = (kind.plural, after["metadata"]["namespace"], after["metadata"]["name"])
        kept = self.objects.setdefault(kind, {})
        if what == "DELETED":
            kept.pop(key, None)
        else:
            kept[key] = copy.deepcopy(after)
        change = Change(self.version, what, kind, copy.deepcopy(before), copy.deepcopy(after))
        self.history.append(change)
        self.time.changed.notify_all()
        for watcher in self.watchers:
            watcher(change)

    def _remove(self, kind: Kind, item: Object) -> None:
        self._record("DELETED", kind, item, copy.deepcopy(item))
        self._collect_later()

    def _remove_if_same(self, kind: Kind, item: Object) -> None:
        now = self.find(kind, item["metadata"]["name"], item["metadata"]["namespace"])
        if (
            now is not None
            and now["metadata"]["uid"] == item["metadata"]["uid"]
            and not now["metadata"].get("finalizers")
        ):
            self._remove(kind, now)

    def _finish_deletion(self, kind: Kind, item: Object) -> None:
        if "deletionTimestamp" in item["metadata"] and not item["metadata"].get("finalizers") and kind is not POD:
            self._remove(kind, item)

    def _orphan(self, uid: str) -> None:
        for kind, item in self._dependents(uid):
            kept = [owner for owner in item["metadata"]["ownerReferences"] if owner["uid"] != uid]
            name, namespace = item["metadata"]["name"], item["metadata"]["namespace"]
            self.update(
                kind, name, namespace, lambda wanted, kept=kept: wanted["metadata"].update(ownerReferences=kept)
            )

    def _dependents(self, uid: str) -> list[tuple[Kind, Object]]:
        return [
            (kind, item)
            for kind in self.kinds
            for item in self.all(kind)
            if any(owner["uid"] == uid for owner in item["metadata"].get("ownerReferences", []))
        ]

    def _collect_later(self) -> None:
        self.time.after(COLLECTOR_SECONDS, self.collect)

    def collect(self) -> None:
        """The garbage collector: objects whose owners are all gone go; foreground deletions end when nothing blocks them."""
        alive = {item["metadata"]["uid"]: item for kind in self.kinds for item in self.all(kind)}
        for kind in self.kinds:
            for item in self.all(kind):
                metadata = item["metadata"]
                owners = metadata.get("ownerReferences", [])
                leaving = [
                    o for o in owners if FOREGROUND in alive.get(o["uid"], {}).get("metadata", {}).get("finalizers", [])
                ]
                gone = owners and all(owner["uid"] not in alive for owner in owners)
                if (gone or leaving) and "deletionTimestamp" not in metadata:
                    self.delete(kind, metadata["name"], metadata["namespace"], uid=metadata["uid"])
                blocked = any(
                    o.get("blockOwnerDeletion") for _, one in self._dependents(metadata["uid"])
                    for o in one["metadata"]["ownerReferences"] if o["uid"] == metadata["uid"]
                )  # fmt: skip
                if FOREGROUND in metadata.get("finalizers", []) and not blocked:
                    kept = [name for name in metadata["finalizers"] if name != FOREGROUND]
                    change = lambda wanted, kept=kept: wanted["metadata"].update(finalizers=kept)
                    self.update(kind, metadata["name"], metadata["namespace"], change)


def _without_status(item: Object) -> Object:
    return {name: value for name, value in item.items() if name != "status"}


def _status_of(item: Object) -> Object:
    return {"status": item["status"]} if "status" in item else {}
