"""The fake API server says what a real one says: the same requests to both, and the answers compared.

    KUBEBUILDER_ASSETS=$(setup-envtest use -p path) make test-control-plane

Compared are status codes, reasons, and of objects what an engine reads of them. Where they differ, the fake is wrong.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster.access import ALL, Accounts, Rule
from tests.cluster.api_server import ApiServer
from tests.cluster.control_plane import Client, ControlPlane
from tests.cluster.fake_time import FakeTime
from tests.cluster.manifests import overlay
from tests.cluster.nodes import Nodes
from tests.cluster.objects import Cluster
from tests.cluster.real_site import make_namespace

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
NAMESPACE = "faithful"
JOBS = f"/apis/kubeflow.org/v1/namespaces/{NAMESPACE}/pytorchjobs"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
STRICT = f"{JOBS}?fieldValidation=Strict"
MERGE = "application/merge-patch+json"
Ask = Callable[..., tuple[int, Any]]


def job(name: str = "train", **metadata: Any) -> dict[str, Any]:
    container = {"name": "pytorch", "image": "tutelage/python-torch:1", "command": ["python"]}
    worker = {"replicas": 2, "restartPolicy": "Never", "template": {"spec": {"containers": [container]}}}
    return {
        "apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": name, **metadata},
        "spec": {"runPolicy": {}, "pytorchReplicaSpecs": {"Worker": worker}},
    }  # fmt: skip


def changed(body: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """`body` with the value at a dotted path."""
    body = copy.deepcopy(body)
    *parents, last = path.split(".")
    place = body
    for name in parents:
        place = place[name]
    place[last] = value
    return body


@pytest.fixture(scope="module")
def fake() -> Iterator[Ask]:
    """The fake server."""
    time = FakeTime()
    cluster, accounts = Cluster(time), Accounts()
    rules = [
        Rule((kind.group,), (kind.plural, f"{kind.plural}/status", f"{kind.plural}/log"), ALL) for kind in cluster.kinds
    ]
    accounts.add("administrator", rules)
    server = ApiServer(cluster, accounts, Nodes(cluster))
    server.start()
    import urllib3

    with urllib3.PoolManager() as pool:
        yield Client(server.url, pool, "administrator").ask
    server.stop()
    time.close()
    assert time.errors == []


@pytest.fixture(scope="module")
def real(plane: ControlPlane) -> Ask:
    """The real one."""
    make_namespace(plane, NAMESPACE, overlay("prod"), kinds=())
    return plane.administrator.ask


#: name → requests, each (method, path, body, content type); `{version}` and `{uid}` are those of the first answer.
ROWS: dict[str, list[tuple[Any, ...]]] = {
    "a job is made, read, listed and deleted": [
        ("POST", STRICT, job()), ("GET", f"{JOBS}/train"), ("GET", JOBS), ("DELETE", f"{JOBS}/train"), ("GET", f"{JOBS}/train"),
        ("DELETE", f"{JOBS}/train"),
    ],
    "a name is taken once": [("POST", JOBS, job()), ("POST", JOBS, job())],
    "no name": [("POST", JOBS, changed(job(), "metadata", {}))],
    "a bad name": [("POST", JOBS, job("Train_1"))],
    "a name of a prefix": [("POST", JOBS, changed(job(), "metadata", {"generateName": "a-"}))],
    "an unknown field, strictly": [("POST", STRICT, changed(job(), "spec.runPolicy.cleanPodPolciy", "None"))],
    "an unknown field, dropped": [("POST", JOBS, changed(job(), "spec.runPolicy.cleanPodPolciy", "None"))],
    "a wrong type": [("POST", STRICT, changed(job(), "spec.runPolicy.activeDeadlineSeconds", "soon"))],
    "a null": [("POST", STRICT, changed(job(), "spec.runPolicy.activeDeadlineSeconds", None))],
    "something required is missing": [("POST", STRICT, changed(job(), "spec", {}))],
    "a bad label": [("POST", JOBS, job(labels={"a": "b c"}))],
    "an annotation that is no string": [("POST", JOBS, job(annotations={"a": 1}))],
    "an owner without a uid": [
        ("POST", JOBS, job(ownerReferences=[{"apiVersion": "v1", "kind": "Pod", "name": "x", "uid": ""}]))
    ],
    "another kind": [("POST", JOBS, job() | {"kind": "Job"})],
    "another version": [("POST", JOBS, job() | {"apiVersion": "kubeflow.org/v2"})],
    "another namespace": [("POST", JOBS, job(namespace="other"))],
    "a version at creation": [("POST", JOBS, job(resourceVersion="1"))],
    "no object": [("POST", JOBS, [])],
    "a uid that is another's": [
        ("POST", JOBS, job()), ("DELETE", f"{JOBS}/train", {"preconditions": {"uid": "another"}}),
        ("DELETE", f"{JOBS}/train", {"preconditions": {"uid": "{uid}"}}), ("GET", f"{JOBS}/train"),
    ],
    "a finalizer": [
        ("POST", JOBS, job(finalizers=["example.com/hold"])), ("DELETE", f"{JOBS}/train"), ("GET", f"{JOBS}/train"),
        ("POST", JOBS, job()), ("PATCH", f"{JOBS}/train", {"metadata": {"finalizers": ["example.com/other"]}}, MERGE),
        ("PATCH", f"{JOBS}/train", {"metadata": {"finalizers": None}}, MERGE), ("GET", f"{JOBS}/train"),
    ],
    "deleted in the foreground": [
        ("POST", JOBS, job(finalizers=["example.com/hold"])),
        ("DELETE", f"{JOBS}/train", {"propagationPolicy": "Foreground"}),
        ("PATCH", f"{JOBS}/train", {"metadata": {"finalizers": None}}, MERGE), ("GET", f"{JOBS}/train"),
    ],
    "patches": [
        ("POST", JOBS, job(labels={"a": "b"})),
        ("PATCH", f"{JOBS}/train", {"metadata": {"labels": {"a": None, "c": "d"}}}, MERGE),
        ("PATCH", f"{JOBS}/train", {"spec": {"runPolicy": {"suspend": True}}}, MERGE),
        ("PATCH", f"{JOBS}/train", {"spec": {"runPolicy": {"suspend": "yes"}}}, MERGE),
        ("PATCH", f"{JOBS}/train", {"spec": {"runPolicy": {"unknown": 1}}}, MERGE),
        ("PATCH", f"{JOBS}/train?fieldValidation=Strict", {"spec": {"runPolicy": {"unknown": 1}}}, MERGE),
        ("PATCH", f"{JOBS}/train", {"metadata": {"resourceVersion": "1"}}, MERGE),
        ("PATCH", f"{JOBS}/train", {"metadata": {"resourceVersion": "{version}"}}, MERGE),
        ("PATCH", f"{JOBS}/train", {"metadata": {"labels": {"e": "f"}}}, "application/json"),
        ("PATCH", f"{JOBS}/none", {"metadata": {"labels": {"a": "b"}}}, MERGE),
        ("PATCH", f"{JOBS}/train", {"metadata": {"name": "other"}}, MERGE),
    ],
    "status": [
        ("POST", JOBS, job() | {"status": {"startTime": "2026-03-01T12:00:00Z"}}),
        ("PATCH", f"{JOBS}/train", {"status": {"startTime": "2026-03-01T12:00:00Z"}}, MERGE),
        ("PATCH", f"{JOBS}/train/status", {"status": {"startTime": "2026-03-01T12:00:00Z"}}, MERGE),
        ("PATCH", f"{JOBS}/train/status", {"spec": {"nprocPerNode": "4"}, "metadata": {"labels": {"a": "b"}}}, MERGE),
        ("GET", f"{JOBS}/train/status"),
    ],
    "selectors": [
        ("POST", JOBS, job(labels={"a": "b"})), ("GET", f"{JOBS}?labelSelector=a%3Db"), ("GET", f"{JOBS}?labelSelector=a%3Dc"),
        ("GET", f"{JOBS}?labelSelector=!a"), ("GET", f"{JOBS}?fieldSelector=metadata.name%3Dtrain"),
        ("GET", f"{JOBS}?fieldSelector=spec.nprocPerNode%3D4"), ("GET", f"{JOBS}?limit=1"),
    ],
    "kinds and groups that are not served": [
        ("GET", f"/apis/kubeflow.org/v1/namespaces/{NAMESPACE}/nothings"), ("GET", "/apis/example.com/v1/nothings"),
        ("POST", f"/apis/kubeflow.org/v1/namespaces/{NAMESPACE}/nothings", job()),
        ("GET", f"/apis/kubeflow.org/v9/namespaces/{NAMESPACE}/pytorchjobs/x"),
    ],
    "a pod's log before it runs": [("GET", f"{PODS}/none/log"), ("GET", f"{PODS}/none")],
    "a watch from nowhere": [("GET", f"{JOBS}?watch=true&resourceVersion=nonsense")],
    "nulls": [
        ("POST", JOBS, job(labels={"a": None})), ("POST", JOBS, changed(job("b"), "spec.runPolicy.suspend", None)),
        ("POST", JOBS, changed(job("c"), "spec.pytorchReplicaSpecs.Worker.template", None)),
        ("POST", JOBS, changed(job("d"), "spec.pytorchReplicaSpecs.Worker", None)),
        ("POST", JOBS, changed(job("e"), "spec.pytorchReplicaSpecs.Worker.template.spec.containers", [None])),
        ("POST", JOBS, changed(job("f"), "spec", None)),
    ],
}  # fmt: skip


def told(ask: Ask, requests: list[tuple[Any, ...]]) -> list[Any]:
    """What a server says, less what is never the same twice."""
    answers: list[Any] = []
    first: dict[str, Any] = {}
    for method, path, *rest in requests:
        body = rest[0] if rest else None
        for name, value in (("uid", first.get("uid")), ("version", first.get("resourceVersion"))):
            body = json.loads(json.dumps(body).replace(f"{{{name}}}", str(value)))
        code, answer = ask(method, path, body, *rest[1:2])
        if not first and isinstance(answer, dict):
            first = answer.get("metadata") or {}
        answers.append((f"{method} {path.split(NAMESPACE)[-1]}", code, read(answer)))
    return answers


def read(answer: Any) -> Any:
    """Of an answer what an engine reads."""
    if not isinstance(answer, dict):
        return "text"
    if answer.get("kind") == "Status":
        return {key: answer.get(key) for key in ("kind", "status", "reason", "code") if answer.get(key)}
    if "items" in answer:
        more = bool((answer.get("metadata") or {}).get("continue"))
        return {"kind": answer["kind"], "items": [read(item) for item in answer["items"]], "more": more}
    metadata = {
        key: value for key, value in answer["metadata"].items()
        if key not in ("uid", "resourceVersion", "creationTimestamp", "managedFields", "deletionTimestamp")
    }  # fmt: skip
    if "generateName" in metadata:
        metadata.pop("name")
    metadata["deleting"] = "deletionTimestamp" in answer["metadata"]
    return {**answer, "metadata": metadata}


@pytest.fixture(autouse=True)
def nothing_left(fake: Ask, real: Ask) -> None:
    for ask in (fake, real):
        for item in ask("GET", JOBS)[1]["items"]:
            name = item["metadata"]["name"]
            ask("PATCH", f"{JOBS}/{name}", {"metadata": {"finalizers": None}}, MERGE)
            ask("DELETE", f"{JOBS}/{name}")


@pytest.mark.parametrize("row", sorted(ROWS))
def test_both_say_the_same(fake: Ask, real: Ask, row: str) -> None:
    both = zip(told(fake, ROWS[row]), told(real, ROWS[row]), strict=True)
    assert [{"fake": ours, "real": theirs} for ours, theirs in both if ours != theirs] == []
