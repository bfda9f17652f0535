"""The operators of these tests on a real API server: what they ask of `objects.Cluster`, asked over HTTP.

    cluster = RealCluster(control_plane, "team-1", RealTime(speed=5))
    TrainingOperator(Nodes(cluster), PYTORCHJOB, life=…)     # creates real pods, sets real statuses

Operators, scheduler and kubelet act with the administrator's token, as the account that operators have would let them. What is
done while the API server is away is done again until it answers. Time is real, only faster.
"""

from __future__ import annotations

import copy
import functools
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.cluster.control_plane import Client, ControlPlane
from tests.cluster.objects import (
    EVENT,
    INFERENCESERVICE,
    POD,
    PYTORCHJOB,
    SPARKAPPLICATION,
    WORKFLOW,
    Change,
    Kind,
    Object,
    Refused,
)

#: How often the cluster is looked at for operators, in real seconds.
LOOK_SECONDS = 0.2
#: How often a change is made again that met another one.
CONFLICTS = 8


class RealTime:
    """Real time, `speed` times as fast, with an agenda: what `FakeTime` is to the fake cluster."""

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.errors: list[BaseException] = []
        self.closed = False
        self._began, self._epoch = time.monotonic(), datetime.now(UTC)
        self._agenda: list[tuple[float, int, Callable[[], object]]] = []
        self._count = 0
        self._thread = threading.Thread(target=self._work, name="real-time", daemon=True)
        self._thread.start()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return (time.monotonic() - self._began) * self.speed

    def now(self) -> float:
        return self.seconds

    def wall(self) -> datetime:
        """The wall clock of the cluster's nodes."""
        return self._epoch + timedelta(seconds=self.seconds)

    def stamp(self) -> str:
        return self.wall().strftime("%Y-%m-%dT%H:%M:%SZ")

    def sleep(self, seconds: float) -> None:
        time.sleep(max(seconds, 0.0) / self.speed)

    def after(self, seconds: float, action: Callable[[], object]) -> None:
        """Do `action` on this cluster's own thread, `seconds` from now."""
        with self.lock:
            self._count += 1
            self._agenda.append((self.seconds + seconds, self._count, action))

    def close(self) -> None:
        self.closed = True
        self._thread.join(30)

    def _work(self) -> None:
        while not self.closed:
            with self.lock:
                self._agenda.sort(key=lambda entry: entry[:2])
                due = self._agenda.pop(0) if self._agenda and self._agenda[0][0] <= self.seconds else None
            if due is None:
                time.sleep(0.01)
                continue
            try:
                with self.lock:
                    due[2]()
            except OSError:
                self._again(due)
            except Refused as refusal:
                # Starting, or the object went meanwhile; anything else is a mistake.
                if refusal.code >= 429:
                    self._again(due)
                elif refusal.code not in (404, 409):
                    self.errors.append(refusal)
            except BaseException as error:  # shown when the test ends
                self.errors.append(error)

    def _again(self, entry: tuple[float, int, Callable[[], object]]) -> None:
        """The API server is away: operators try again, and do what comes later after it."""
        with self.lock:
            self._agenda.append(entry)
        time.sleep(0.3)


@dataclass
class RealCluster:
    """One namespace of a real cluster, as operators and tests use `Cluster`."""

    plane: ControlPlane
    namespace: str
    time: RealTime
    kinds: list[Kind] = field(default_factory=lambda: [PYTORCHJOB, SPARKAPPLICATION, INFERENCESERVICE, WORKFLOW, POD])
    admission: list[Callable[[Kind, Object], None]] = field(default_factory=list)
    """Taken and never called: the admission here is the API server's own."""
    watchers: list[Callable[[Change], None]] = field(default_factory=list)
    _seen: dict[str, tuple[Kind, Object]] = field(default_factory=dict)
    _going: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.time.after(0, self._look)

    @property
    def client(self) -> Client:
        return self.plane.administrator

    def path(self, kind: Kind, name: str = "", *more: str) -> str:
        group = f"/apis/{kind.group}/{kind.version}" if kind.group else f"/api/{kind.version}"
        return "/".join([f"{group}/namespaces/{self.namespace}/{kind.plural}", *filter(None, [name, *more])])

    # What `Cluster` offers.

    def find(self, kind: Kind, name: str, namespace: str) -> Object | None:
        code, item = self.client.ask("GET", self.path(kind, name))
        return None if code == 404 else _answered(code, item)

    def get(self, kind: Kind, name: str, namespace: str) -> Object:
        return _answered(*self.client.ask("GET", self.path(kind, name)))

    def all(self, kind: Kind, namespace: str | None = None) -> list[Object]:
        items = _answered(*self.client.ask("GET", self.path(kind)))["items"]
        return sorted(items, key=lambda item: str(item["metadata"]["name"]))

    def everything(self, namespace: str) -> list[str]:
        return [f"{kind.kind}/{item['metadata']['name']}" for kind in self.kinds for item in self.all(kind)]

    def create(self, kind: Kind, body: Object, namespace: str) -> Object:
        """Strictly, as everywhere here: an operator of a test must not be wrong unnoticed."""
        body = body | {"metadata": body["metadata"] | {"namespace": self.namespace}}
        return _answered(*self.client.ask("POST", f"{self.path(kind)}?fieldValidation=Strict", body))

    def update(
        self, kind: Kind, name: str, namespace: str, change: Callable[[Object], Any], *, status: bool = False
    ) -> Object:
        """Read, change, write; again where another came first."""
        for _ in range(CONFLICTS):
            before = self.get(kind, name, namespace)
            wanted = copy.deepcopy(before)
            wanted = change(wanted) or wanted
            if (
                kind is POD
                and not status
                and (node := wanted["spec"].get("nodeName"))
                and not before["spec"].get("nodeName")
            ):
                return self._bind(name, node)
            path = self.path(kind, name, "status" if status else "")
            code, answer = self.client.ask("PUT", f"{path}?fieldValidation=Strict", wanted)
            if code != 409:
                return _answered(code, answer)
        raise Refused(409, "Conflict", f"{kind.kind} {name} changed {CONFLICTS} times meanwhile")

    def delete(
        self, kind: Kind, name: str, namespace: str, *, uid: str | None = None, policy: str = "Background",
        grace_seconds: float | None = None,
    ) -> Object:  # fmt: skip
        body: Object = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy}
        body |= {"preconditions": {"uid": uid}} if uid else {}
        body |= {"gracePeriodSeconds": int(grace_seconds)} if grace_seconds is not None else {}
        return _answered(*self.client.ask("DELETE", self.path(kind, name), body))

    def event(
        self, kind: Kind, item: Object, reason: str, message: str, type_: str = "Normal", source: str = "test"
    ) -> None:
        metadata = item["metadata"]
        about = {"kind": kind.kind, "apiVersion": kind.api_version, "name": metadata["name"], "uid": metadata["uid"]}
        stamp = self.time.stamp()
        body = {
            "apiVersion": "v1", "kind": "Event", "involvedObject": about | {"namespace": self.namespace},
            "reason": reason, "message": message, "type": type_, "source": {"component": source}, "count": 1,
            "firstTimestamp": stamp, "lastTimestamp": stamp, "metadata": {"name": f"{metadata['name']}.{uuid.uuid4().hex}"},
        }  # fmt: skip
        self.create(EVENT, body, self.namespace)

    # What controllers see, and what the kubelet does of its own accord.

    def _look(self) -> None:
        try:
            now = {item["metadata"]["uid"]: (kind, item) for kind in self.kinds for item in self.all(kind)}
        except Refused:
            # A kind that is not installed, or a namespace that is going.
            now = dict(self._seen)
        for uid, (kind, item) in now.items():
            before = self._seen.get(uid)
            if before is None or before[1]["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
                self._tell("ADDED" if before is None else "MODIFIED", kind, item)
            if kind is POD and "deletionTimestamp" in item["metadata"] and uid not in self._going:
                self._going.add(uid)
                self.time.after(1.0, functools.partial(self._end_pod, item["metadata"]["name"], uid))
        for uid in set(self._seen) - set(now):
            self._tell("DELETED", *self._seen[uid])
        self._seen = now
        self.time.after(LOOK_SECONDS * self.time.speed, self._look)

    def _tell(self, what: str, kind: Kind, item: Object) -> None:
        for watcher in self.watchers:
            watcher(Change(0, what, kind, None, copy.deepcopy(item)))

    def _end_pod(self, name: str, uid: str) -> None:
        """The kubelet has stopped a pod that is being deleted; what a finalizer holds stays."""
        with suppress(Refused):
            self.delete(POD, name, self.namespace, uid=uid, grace_seconds=0)

    def _bind(self, name: str, node: str) -> Object:
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": target}
        return _answered(*self.client.ask("POST", self.path(POD, name, "binding"), body))


def _answered(code: int, answer: Any) -> Object:
    """The answer. Raises Refused with what the server says against it."""
    if code < 300 and isinstance(answer, dict):
        return answer
    status = answer if isinstance(answer, dict) else {"message": str(answer)}
    raise Refused(
        code, str(status.get("reason", "")), str(status.get("message", "")), details=status.get("details") or {}
    )
