"""The fake API server answers as the real one: what the engine's tests stand on is tested first."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from typing import Any
from unittest.mock import ANY

import pytest

from tests.cluster import schemas
from tests.cluster.access import RUN_RULES, Accounts, Rule
from tests.cluster.api_server import ApiServer, Fault
from tests.cluster.fake_time import FakeTime
from tests.cluster.more_operators import KServe, SparkOperator
from tests.cluster.nodes import Nodes
from tests.cluster.objects import POD, PYTORCHJOB, SPARKAPPLICATION, WORKFLOW, Cluster, Refused
from tests.cluster.operators import (
    Kueue,
    TrainingOperator,
    evict,
    finish,
    live,
    say,
    schedule,
    start,
)

JOBS = "/apis/kubeflow.org/v1/namespaces/team/pytorchjobs"
PODS = "/api/v1/namespaces/team/pods"
needs_schemas = pytest.mark.skipif(
    schemas.folder() is None, reason=f"no official schemas: set {schemas.VARIABLE} to their folder"
)
RUN = [(1, schedule), (2, start), (3, say("one")), (4, say("two")), (6, finish(0))]


class Bench:
    """A server, and a client that speaks plain HTTP to it."""

    def __init__(self) -> None:
        self.time = FakeTime()
        self.cluster = Cluster(self.time)
        self.nodes = Nodes(self.cluster)
        self.accounts = Accounts()
        more = [
            Rule(("argoproj.io",), ("workflows",), ("delete",)),
            Rule(("kubeflow.org",), ("pytorchjobs",), ("update",)),
        ]
        self.accounts.add("admin", [*RUN_RULES, *more])
        self.server = ApiServer(self.cluster, self.accounts, self.nodes)
        self.server.start()

    def ask(
        self, method: str, path: str, body: Any = None, token: str = "admin", kind: str = "application/json"
    ) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = connection.getresponse()
            data = answer.read()
            parsed = (
                json.loads(data)
                if "json" in (answer.getheader("Content-Type") or "") and b"\n{" not in data
                else data.decode()
            )
            return answer.status, parsed
        finally:
            connection.close()

    def pass_time(self, seconds: float) -> None:
        """Let time go on while this thread follows a log."""
        threading.Thread(target=self.time.sleep, args=(seconds,), daemon=True).start()

    def stream(self, path: str, token: str = "admin") -> list[Any]:
        """Every event of a watch, until it ends."""
        text = self.ask("GET", path, token=token)[1]
        return [text] if isinstance(text, dict) else [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.server.stop()
    bench.time.close()
    assert bench.time.errors == []


def job(name: str = "train", **policy: Any) -> dict[str, Any]:
    container = {"name": "pytorch", "image": "tutelage/python-torch:1", "command": ["python"]}
    worker = {"replicas": 2, "restartPolicy": "Never", "template": {"spec": {"containers": [container]}}}
    return {
        "apiVersion": "kubeflow.org/v1", "kind": "PyTorchJob", "metadata": {"name": name},
        "spec": {"runPolicy": policy, "pytorchReplicaSpecs": {"Worker": worker}},
    }  # fmt: skip


def test_a_second_object_of_a_name_is_refused_with_already_exists(bench: Bench) -> None:
    assert bench.ask("POST", JOBS, job())[0] == 201
    code, status = bench.ask("POST", JOBS, job())
    assert (code, status["reason"]) == (409, "AlreadyExists")


@needs_schemas
def test_unknown_fields_are_refused_when_strict_and_dropped_otherwise(bench: Bench) -> None:
    body = job()
    body["spec"]["runPolicy"]["cleanPodPolciy"] = "None"
    code, status = bench.ask("POST", f"{JOBS}?fieldValidation=Strict", body)
    assert code == 400 and 'unknown field "spec.runPolicy.cleanPodPolciy"' in status["message"]
    code, made = bench.ask("POST", JOBS, body)
    assert code == 201 and "cleanPodPolciy" not in made["spec"]["runPolicy"]


@needs_schemas
def test_a_body_that_breaks_the_schema_is_answered_422_with_the_path(bench: Bench) -> None:
    body = job(activeDeadlineSeconds="soon")
    code, status = bench.ask("POST", JOBS, body)
    assert (code, status["reason"]) == (422, "Invalid")
    assert "spec.runPolicy.activeDeadlineSeconds" in status["message"]
    del (body := job())["spec"]["pytorchReplicaSpecs"]
    assert bench.ask("POST", JOBS, body)[0] == 422


def test_a_stale_version_is_a_conflict_and_status_stays_apart(bench: Bench) -> None:
    made = bench.ask("POST", JOBS, job() | {"status": {"conditions": []}})[1]
    assert "status" not in made
    bench.cluster.update(
        PYTORCHJOB, "train", "team", lambda item: item.update(status={"startTime": "2026-03-01T12:00:00Z"}), status=True
    )
    code, status = bench.ask("PUT", f"{JOBS}/train", made)
    assert (code, status["reason"]) == (409, "Conflict")
    patch = {"metadata": {"labels": {"a": "b"}}, "status": {"startTime": None}}
    code, changed = bench.ask("PATCH", f"{JOBS}/train", patch, kind="application/merge-patch+json")
    assert code == 200 and changed["metadata"]["labels"] == {"a": "b"}
    assert changed["status"] == {"startTime": "2026-03-01T12:00:00Z"} and changed["metadata"]["generation"] == 1
    assert bench.ask("PATCH", f"{JOBS}/train", patch)[0] == 415


def test_deletion_needs_the_right_uid_and_waits_for_finalizers(bench: Bench) -> None:
    body = job()
    body["metadata"]["finalizers"] = ["example.com/hold"]
    made = bench.ask("POST", JOBS, body)[1]
    assert bench.ask("DELETE", f"{JOBS}/train", {"preconditions": {"uid": "another"}})[0] == 409
    assert bench.ask("DELETE", f"{JOBS}/train", {"preconditions": {"uid": made["metadata"]["uid"]}})[0] == 200
    code, status = bench.ask("POST", JOBS, job())
    assert code == 409 and status["message"].startswith("object is being deleted")
    bench.ask("PATCH", f"{JOBS}/train", {"metadata": {"finalizers": None}}, kind="application/merge-patch+json")
    assert bench.ask("GET", f"{JOBS}/train")[0] == 404


def test_what_is_being_deleted_gets_no_new_finalizer_and_another_generation(bench: Bench) -> None:
    body = job()
    body["metadata"]["finalizers"] = ["example.com/hold"]
    bench.ask("POST", JOBS, body)
    code, going = bench.ask("DELETE", f"{JOBS}/train")
    assert (code, going["metadata"]["generation"], going["metadata"]["deletionGracePeriodSeconds"]) == (200, 2, 0)
    merge = "application/merge-patch+json"
    more = {"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}}
    code, status = bench.ask("PATCH", f"{JOBS}/train", more, kind=merge)
    assert code == 422 and "no new finalizers" in status["message"]
    assert bench.ask("PATCH", f"{JOBS}/train", {"metadata": {"name": "other"}}, kind=merge)[0] == 400


@needs_schemas
def test_nulls_are_dropped_where_nothing_may_be_null(bench: Bench) -> None:
    body = job(activeDeadlineSeconds=None)
    body["metadata"]["labels"] = {"a": None}
    code, made = bench.ask("POST", f"{JOBS}?fieldValidation=Strict", body)
    assert code == 201 and "activeDeadlineSeconds" not in made["spec"]["runPolicy"]
    assert made["metadata"]["labels"] == {"a": ""}


def test_a_watch_gives_changes_bookmarks_and_ends_when_asked(bench: Bench) -> None:
    made = bench.ask("POST", JOBS, job())[1]
    version = made["metadata"]["resourceVersion"]
    bench.time.after(5, lambda: bench.cluster.delete(PYTORCHJOB, "train", "team"))
    path = f"{JOBS}?watch=true&fieldSelector=metadata.name=train&allowWatchBookmarks=true&timeoutSeconds=100"
    events = bench.stream(f"{path}&resourceVersion={version}")
    assert [event["type"] for event in events] == ["DELETED", "BOOKMARK"]
    assert bench.time.seconds >= 100


def test_an_old_version_is_expired_in_the_stream(bench: Bench) -> None:
    bench.ask("POST", JOBS, job())
    bench.server.expire_watches()
    (event,) = bench.stream(f"{JOBS}?watch=true&resourceVersion=1000&timeoutSeconds=10")
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


def test_faults_refuse_reset_and_lose_replies(bench: Bench) -> None:
    busy = Refused(429, "TooManyRequests", "slow down", retry_after=3)
    bench.server.faults += [Fault("refuse", "create", answer=busy), Fault("lose", "create"), Fault("reset", "get")]
    code, status = bench.ask("POST", JOBS, job())
    assert (code, status["details"]["retryAfterSeconds"]) == (429, 3)
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        bench.ask("POST", JOBS, job())
    assert bench.cluster.find(PYTORCHJOB, "train", "team") is not None
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        bench.ask("GET", f"{JOBS}/train")
    assert bench.ask("GET", f"{JOBS}/train")[0] == 200


def test_a_restart_keeps_port_and_objects_and_forgets_watches(bench: Bench) -> None:
    made = bench.ask("POST", JOBS, job())[1]
    port = bench.server.port
    bench.server.restart(outage_seconds=5)
    time.sleep(0.2)
    with pytest.raises(ConnectionRefusedError):
        bench.ask("GET", f"{JOBS}/train")
    bench.time.sleep(6)
    assert bench.server.port == port
    assert bench.ask("GET", f"{JOBS}/train")[1] == made
    older = int(made["metadata"]["resourceVersion"]) - 1
    assert bench.stream(f"{JOBS}?watch=true&resourceVersion={older}")[0]["object"]["code"] == 410


def test_roles_refuse_with_the_reason_and_rotated_tokens_are_unknown(bench: Bench) -> None:
    bench.accounts.add("run")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}}
    code, status = bench.ask("POST", "/api/v1/namespaces/team/configmaps", body, token="run")
    assert code == 403 and 'cannot create resource "configmaps" in API group ""' in status["message"]
    assert bench.ask("POST", JOBS, job(), token="run")[0] == 201
    bench.accounts.rotate("run", "next")
    assert bench.ask("GET", JOBS, token="run")[0] == 401
    assert bench.ask("GET", JOBS, token="next")[0] == 200


def test_kinds_that_nobody_serves_are_plain_404(bench: Bench) -> None:
    bench.cluster.kinds.remove(SPARKAPPLICATION)
    code, text = bench.ask("GET", "/apis/sparkoperator.k8s.io/v1beta2/namespaces/team/sparkapplications/x")
    assert (code, text) == (404, "404 page not found\n")


def test_logs_are_followed_by_time_and_lost_with_their_pod(bench: Bench) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    pod = bench.cluster.create(POD, body, "team")
    code, status = bench.ask("GET", f"{PODS}/p/log")
    assert code == 400 and "waiting to start" in status["message"]
    live(bench.nodes, pod, RUN)
    bench.time.sleep(2.5)
    bench.pass_time(20)
    code, text = bench.ask("GET", f"{PODS}/p/log?follow=true&timestamps=true")
    assert [line.split(" ", 1)[1] for line in text.splitlines()] == ["one", "two"]
    stamp = text.splitlines()[1].split(" ")[0]
    assert bench.ask("GET", f"{PODS}/p/log?sinceTime={stamp}")[1] == "two\n"
    assert bench.ask("GET", f"{PODS}/p/log?previous=true")[0] == 400
    bench.cluster.delete(POD, "p", "team")
    assert bench.ask("GET", f"{PODS}/p/log")[0] == 404


def test_a_log_stream_can_be_cut_within_a_line(bench: Bench) -> None:
    body = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    live(bench.nodes, bench.cluster.create(POD, body, "team"), RUN)
    bench.time.sleep(2.5)
    bench.server.faults.append(Fault("cut", "get", subresource="log", after=1))
    bench.pass_time(20)
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        bench.ask("GET", f"{PODS}/p/log?follow=true")


def test_what_is_owned_goes_with_its_owner_in_background_and_foreground(bench: Bench) -> None:
    workflow = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "metadata": {"name": "w"}, "spec": {}}
    for policy in ("Background", "Foreground"):
        uid = bench.cluster.create(WORKFLOW, workflow, "team")["metadata"]["uid"]
        body = job()
        owner = {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "name": "w",
            "uid": uid,
            "blockOwnerDeletion": True,
        }
        body["metadata"]["ownerReferences"] = [owner]
        assert bench.ask("POST", JOBS, body)[0] == 201
        bench.ask("DELETE", "/apis/argoproj.io/v1alpha1/namespaces/team/workflows/w", {"propagationPolicy": policy})
        here = bench.cluster.find(WORKFLOW, "w", "team")
        assert (here is None) == (policy == "Background")
        bench.time.sleep(5)
        assert bench.cluster.everything("team") == []


def test_the_training_operator_runs_a_job_to_its_end(bench: Bench) -> None:
    TrainingOperator(bench.nodes, PYTORCHJOB, lambda job, index: RUN)
    bench.ask("POST", JOBS, job())
    bench.time.sleep(5)
    conditions = bench.ask("GET", f"{JOBS}/train")[1]["status"]["conditions"]
    assert [(c["type"], c["status"]) for c in conditions] == [("Created", "True"), ("Running", "True")]
    pods = bench.ask("GET", f"{PODS}?labelSelector=training.kubeflow.org/job-name=train")[1]["items"]
    assert [pod["metadata"]["name"] for pod in pods] == ["train-worker-0", "train-worker-1"]
    bench.time.sleep(5)
    conditions = bench.ask("GET", f"{JOBS}/train")[1]["status"]["conditions"]
    assert [(c["type"], c["status"]) for c in conditions] == [
        ("Created", "True"),
        ("Running", "False"),
        ("Succeeded", "True"),
    ]


def test_the_training_operator_gives_up_at_quota_eviction_and_deadline(bench: Bench) -> None:
    lives = {"train": [(1, schedule), (2, start), (3, evict)], "slow": [(1, schedule), (2, start)]}
    TrainingOperator(bench.nodes, PYTORCHJOB, lambda job, index: lives[job["metadata"]["name"]])
    bench.ask("POST", JOBS, job())
    bench.ask("POST", JOBS, job("slow", activeDeadlineSeconds=60))
    bench.time.sleep(80)
    for name, text in (
        ("train", "is failed because 2 Worker replica(s) failed"),
        ("slow", "longer than specified deadline"),
    ):
        last = bench.ask("GET", f"{JOBS}/{name}")[1]["status"]["conditions"][-1]
        assert (last["type"], last["reason"]) == ("Failed", "PyTorchJobFailed") and text in last["message"]
    bench.cluster.quotas["team"] = {"pods": 0}
    bench.ask("POST", JOBS, job("denied"))
    bench.time.sleep(30)
    assert "status" not in bench.ask("GET", f"{JOBS}/denied")[1]
    events = bench.ask("GET", "/api/v1/namespaces/team/events?fieldSelector=involvedObject.name=denied")[1]["items"]
    assert events[0]["reason"] == "FailedCreatePod" and "exceeded quota" in events[0]["message"]


def test_a_queued_job_waits_for_admission_and_is_suspended_again(bench: Bench) -> None:
    TrainingOperator(bench.nodes, PYTORCHJOB, lambda job, index: [(1, schedule), (2, start)])
    kueue = Kueue(bench.cluster)
    body = job()
    body["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team"}
    bench.ask("POST", JOBS, body)
    phases = []
    for step in (lambda: None, lambda: kueue.admit(PYTORCHJOB, "team"), lambda: kueue.preempt(PYTORCHJOB, "team")):
        step()
        bench.time.sleep(10)
        conditions = bench.ask("GET", f"{JOBS}/train")[1]["status"]["conditions"]
        phases.append(({c["type"] for c in conditions if c["status"] == "True"}, len(bench.cluster.all(POD))))
    assert phases == [({"Created", "Suspended"}, 0), ({"Created", "Running"}, 2), ({"Created", "Suspended"}, 0)]


def test_the_spark_operator_submits_runs_and_ends_an_application(bench: Bench) -> None:
    code = {"good": 0, "bad": 3}
    end = lambda item, role: finish(code[item["metadata"]["name"]] if role == "driver" else 0)
    SparkOperator(
        bench.nodes, SPARKAPPLICATION,
        life=lambda item, role: [(1, schedule), (2, start), (20, end(item, role))],
    )  # fmt: skip
    path = "/apis/sparkoperator.k8s.io/v1beta2/namespaces/team/sparkapplications"
    for name in ("good", "bad"):
        body = {"apiVersion": "sparkoperator.k8s.io/v1beta2", "kind": "SparkApplication", "metadata": {"name": name}}
        spec = {
            "type": "Python",
            "sparkVersion": "4.3.0",
            "mode": "cluster",
            "mainApplicationFile": "local:///x.py",
            "driver": {},
            "executor": {},
        }
        assert bench.ask("POST", path, body | {"spec": spec}) == (201, ANY)
    bench.time.sleep(10)
    assert bench.ask("GET", f"{path}/good")[1]["status"]["applicationState"] == {"state": "RUNNING"}
    bench.time.sleep(20)
    assert bench.ask("GET", f"{path}/good")[1]["status"]["applicationState"] == {"state": "COMPLETED"}
    failed = bench.ask("GET", f"{path}/bad")[1]["status"]["applicationState"]
    assert failed == {"state": "FAILED", "errorMessage": "driver container failed with ExitCode: 3, Reason: Error"}
    bench.ask("DELETE", f"{path}/good")
    bench.ask("DELETE", f"{path}/bad")
    bench.time.sleep(10)
    assert bench.cluster.everything("team") == []


def test_kserve_makes_a_service_ready_at_its_generation(bench: Bench) -> None:
    from tests.cluster.objects import INFERENCESERVICE

    KServe(bench.nodes, INFERENCESERVICE, life=lambda service: [(1, schedule), (5, start)])
    path = "/apis/serving.kserve.io/v1beta1/namespaces/team/inferenceservices"
    body = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "metadata": {"name": "model"}}
    container = {"name": "kserve-container", "image": "tutelage/python-serve:1"}
    assert bench.ask("POST", path, body | {"spec": {"predictor": {"containers": [container]}}})[0] == 201
    bench.time.sleep(3)
    assert bench.ask("GET", f"{path}/model")[1]["status"]["modelStatus"]["transitionStatus"] == "InProgress"
    bench.time.sleep(5)
    patch = {"spec": {"predictor": {"containers": [container | {"image": "tutelage/python-serve:2"}]}}}
    status = bench.ask("PATCH", f"{path}/model", patch, kind="application/merge-patch+json")[1]["status"]
    assert {c["status"] for c in status["conditions"]} == {"True"} and status["observedGeneration"] == 1
    bench.time.sleep(10)
    status = bench.ask("GET", f"{path}/model")[1]["status"]
    assert {c["status"] for c in status["conditions"]} == {"True"} and status["observedGeneration"] == 2
    assert len(bench.cluster.all(POD)) == 1


def test_time_passes_only_when_everybody_waits(bench: Bench) -> None:
    seen: list[float] = []
    bench.time.after(3600, lambda: seen.append(bench.time.seconds))
    began = time.monotonic()
    waiting = threading.Thread(target=bench.time.sleep, args=(7200,))
    waiting.start()
    waiting.join()
    assert seen == [3600] and bench.time.seconds == 7200 and time.monotonic() - began < 5
