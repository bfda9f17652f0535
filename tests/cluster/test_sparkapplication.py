"""SparkApplications: what the operator is given, and every state that spark-operator 2.5 reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster import adapters, valid
from tests.cluster.adapters import condition, container, pod
from tutelage.errors import InvalidInput
from tutelage.runtimes.kubernetes.causes import CauseKind
from tutelage.runtimes.kubernetes.jobs import Phase
from tutelage.runtimes.kubernetes.sparkapplication import memory_mib
from tutelage.step.resources import amount

DRIVER, EXECUTOR = {"spark-role": "driver"}, {"spark-role": "executor"}
NO_IMAGE = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}
QUOTA = 'failed to submit spark application: failed to run spark-submit: pods "job-driver" is forbidden: exceeded quota: team'


def body(**more: Any) -> dict[str, Any]:
    return adapters.spark(**more).body


def found(state: str = "", message: str = "", *, suspend: bool = False) -> dict[str, Any]:
    status = {"applicationState": {"state": state} | ({"errorMessage": message} if message else {}), "driverInfo": {}}
    return {"metadata": {"name": "job"}, "spec": {"suspend": suspend}} | ({"status": status} if state else {})


@pytest.mark.parametrize("settings", [adapters.SETTINGS, adapters.MANY_SETTINGS], ids=["plain", "full"])
@pytest.mark.parametrize("needs", [adapters.NEEDS, adapters.MANY_NEEDS], ids=["plain", "full"])
def test_the_api_server_takes_it(needs: dict[str, Any], settings: dict[str, Any]) -> None:
    assert valid.refused(body(needs=needs, settings=settings)) == []


def test_the_schema_refuses_what_it_does_not_know() -> None:
    wrong = body()
    wrong["spec"]["driver"]["coresRequest"] = "1"
    wrong["spec"]["mode"] = "standalone"
    assert [line.split(":")[0] for line in valid.refused(wrong)] == ["spec.driver.coresRequest", "spec.mode"]


def test_the_operators_own_models_lose_nothing_of_it() -> None:
    models = pytest.importorskip("kubeflow_spark_api.models", reason="kubeflow-spark-api is not installed")
    whole = body(needs=adapters.MANY_NEEDS, settings=adapters.MANY_SETTINGS)
    again = models.SparkV1beta2SparkApplication.from_dict(whole).to_dict()
    # Templates are objects of any shape in the schema; test_pods.py holds them against Kubernetes' own.
    assert valid.lost(whole, again) == []


def test_it_runs_in_cluster_mode_and_never_again() -> None:
    spec = body()["spec"]
    assert (spec["type"], spec["mode"], spec["restartPolicy"]) == ("Python", "cluster", {"type": "Never"})
    assert spec["timeToLiveSeconds"] > 0
    assert spec["sparkConf"]["spark.dynamicAllocation.enabled"] == "false"
    assert not {"deps", "hadoopConf", "volumes"} & set(spec), "no jars: tasks read and write the store with pyarrow"
    assert "s3a" not in str(spec)


def test_the_version_of_spark_is_the_images() -> None:
    lock = (Path(__file__).parents[2] / "images" / "python-spark" / "requirements.lock").read_text()
    assert f"pyspark=={body()['spec']['sparkVersion']}" in lock


def test_the_driver_runs_the_step_by_its_request() -> None:
    job = adapters.spark()
    spec = job.body["spec"]
    assert spec["mainApplicationFile"].startswith("local:///")
    assert spec["mainApplicationFile"].endswith("/tutelage/step/cluster.py")
    assert spec["arguments"] == [f"{adapters.REQUESTS}/{job.name}.request.json"]
    for role in ("driver", "executor"):
        (only,) = spec[role]["template"]["spec"]["containers"]
        values = {entry["name"]: entry.get("value") for entry in only["env"]}
        assert only["name"] == f"spark-kubernetes-{role}"
        assert values["PYSPARK_PYTHON"] == values["PYSPARK_DRIVER_PYTHON"] == spec["sparkConf"]["spark.pyspark.python"]
        # Beside cluster.py stands a code.py, and the standard library has another.
        assert values["PYTHONSAFEPATH"] == "1"


def test_pods_are_described_in_templates_alone() -> None:
    # With a template the operator's webhook leaves the pod alone, and so ignores its other pod fields.
    webhook = {
        "env",
        "envFrom",
        "volumeMounts",
        "securityContext",
        "podSecurityContext",
        "tolerations",
        "nodeSelector",
        "gpu",
    }
    for role in ("driver", "executor"):
        assert not webhook & set(body(needs=adapters.MANY_NEEDS)["spec"][role])


@pytest.mark.parametrize("memory", ["1Gi", "2Gi", "4Gi", "64Gi", "256Gi"])
def test_heap_and_the_rest_are_the_limit_together(memory: str) -> None:
    amounts = {"cpu": "1", "memory": memory}
    needs = adapters.NEEDS | {"requests": amounts, "limits": amounts}
    heap, rest = memory_mib(adapters.needs_of(needs))
    assert heap + rest == amount(memory) / 2**20
    assert 512 <= heap <= 8192 and rest >= heap, "rows live in Python"
    driver = body(needs=needs)["spec"]["driver"]
    assert (driver["memory"], driver["memoryOverhead"]) == (f"{heap}m", f"{rest}m")


def test_too_little_memory_is_refused_before_anything_starts() -> None:
    small = {"cpu": "1", "memory": "700Mi"}
    with pytest.raises(InvalidInput, match="too little for Spark"):
        body(needs={"requests": small, "limits": small})


def test_a_queue_starts_it_suspended_and_the_driver_carries_the_deadline() -> None:
    queued = body(needs=adapters.MANY_NEEDS, settings=adapters.MANY_SETTINGS)
    assert queued["spec"]["suspend"] is True
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-queue"
    assert queued["spec"]["driver"]["template"]["spec"]["activeDeadlineSeconds"] == 900 + 7200
    assert "activeDeadlineSeconds" not in queued["spec"]["executor"]["template"]["spec"]
    assert queued["spec"]["executor"]["instances"] == 3
    assert body()["spec"]["executor"]["instances"] == 2, "the installation's number"
    assert body()["spec"]["suspend"] is False


@pytest.mark.parametrize(
    ("object_", "phase", "reason"),
    [
        (None, Phase.GONE, "NotFound"),
        (found(), Phase.PENDING, "NoPods"),
        (found("SUBMITTED"), Phase.PENDING, "NoPods"),
        (found("RESUMING"), Phase.PENDING, "NoPods"),
        (found("SUBMISSION_FAILED", QUOTA), Phase.PENDING, "NoPods"),
        (found("RUNNING"), Phase.RUNNING, "RUNNING"),
        (found("SUCCEEDING"), Phase.RUNNING, "SUCCEEDING"),
        (found("FAILING", "driver pod not found"), Phase.RUNNING, "FAILING"),
        (found("UNKNOWN"), Phase.RUNNING, "UNKNOWN"),
        (found("PENDING_RERUN"), Phase.RESTARTING, "PENDING_RERUN"),
        (found("INVALIDATING"), Phase.RESTARTING, "INVALIDATING"),
        (found("COMPLETED"), Phase.SUCCEEDED, "COMPLETED"),
        (found("FAILED"), Phase.FAILED, "FAILED"),
        (found(suspend=True), Phase.QUEUED, "Suspended"),
        (found("RUNNING", suspend=True), Phase.QUEUED, "RUNNING"),
        (found("SUSPENDING", suspend=True), Phase.QUEUED, "SUSPENDING"),
        (found("SUSPENDED", suspend=True), Phase.QUEUED, "SUSPENDED"),
        (found("SUSPENDED"), Phase.QUEUED, "SUSPENDED"),
        (found("COMPLETED", suspend=True), Phase.SUCCEEDED, "COMPLETED"),
        (found("A_NEW_STATE"), Phase.RUNNING, "A_NEW_STATE"),
    ],
)
def test_every_state_of_the_operator_is_a_phase(object_: dict[str, Any] | None, phase: Phase, reason: str) -> None:
    seen = adapters.spark().observe(object_, [], [])
    assert (seen.phase, seen.reason) == (phase, reason)
    assert seen.suspended is (phase is Phase.QUEUED)


def ended(name: str, labels: dict[str, str], code: int, reason: str = "Error") -> dict[str, Any]:
    where = f"spark-kubernetes-{labels['spark-role']}"
    statuses = container(where, {"terminated": {"exitCode": code, "reason": reason}})
    return pod(name, "Failed", labels=labels, containerStatuses=statuses)


PREEMPTED = condition("DisruptionTarget", reason="PreemptionByScheduler")
DRIVER_FAILED = found("FAILED", "driver container failed with ExitCode: 137, Reason: OOMKilled")


@pytest.mark.parametrize(
    ("object_", "pods", "kind"),
    [
        (DRIVER_FAILED, [ended("job-driver", DRIVER, 137, "OOMKilled")], CauseKind.OUT_OF_MEMORY),
        # The driver says that stages failed; why, its executors know.
        (
            found("FAILED", "driver container failed with ExitCode: 1, Reason: Error"),
            [ended("job-exec-1", EXECUTOR, 137, "OOMKilled"), ended("job-driver", DRIVER, 1)], CauseKind.OUT_OF_MEMORY,
        ),
        # Executors that the end of the driver stopped explain nothing.
        (DRIVER_FAILED, [ended("e", EXECUTOR, 143), ended("job-driver", DRIVER, 1, "OOMKilled")], CauseKind.OUT_OF_MEMORY),
        (found("FAILED", QUOTA), [], CauseKind.QUOTA),
        (found("FAILED", "driver pod not found"), [], CauseKind.UNKNOWN),
        (
            found("FAILED", "driver container status missing"),
            [pod("job-driver", "Failed", labels=DRIVER, reason="DeadlineExceeded")], CauseKind.DEADLINE,
        ),
        (
            found("FAILED"),
            [pod("job-driver", "Failed", labels=DRIVER, conditions=[PREEMPTED])],
            CauseKind.PREEMPTED,
        ),
        (
            found("SUBMITTED"),
            [pod("job-driver", "Pending", labels=DRIVER, containerStatuses=container("spark-kubernetes-driver", NO_IMAGE))],
            CauseKind.IMAGE,
        ),
        (
            found("RUNNING"),
            [pod("job-driver", labels=DRIVER),
             pod("job-exec-1", "Pending", labels=EXECUTOR, containerStatuses=container("spark-kubernetes-executor", NO_IMAGE))],
            CauseKind.IMAGE,
        ),
    ],
    ids=["driver-oom", "executor-oom", "executor-stopped", "quota", "no-driver", "deadline", "preempted", "image",
         "executor-image"],
)  # fmt: skip
def test_the_cause_comes_along(object_: dict[str, Any], pods: list[dict[str, Any]], kind: CauseKind) -> None:
    seen = adapters.spark().observe(object_, pods, [])
    assert seen.cause is not None and seen.cause.kind is kind


def test_one_executor_that_waits_is_no_cause_while_another_works() -> None:
    waiting = pod(
        "job-exec-1", "Pending", labels=EXECUTOR, containerStatuses=container("spark-kubernetes-executor", NO_IMAGE)
    )
    seen = adapters.spark().observe(
        found("RUNNING"), [pod("job-driver", labels=DRIVER), waiting, pod("e", labels=EXECUTOR)], []
    )
    assert (seen.phase, seen.cause) == (Phase.RUNNING, None)


def test_logs_come_from_the_driver_first() -> None:
    pods = [pod("job-exec-1", labels=EXECUTOR), pod("job-driver", labels=DRIVER)]
    assert adapters.spark().log_sources(pods) == [
        ("uid-job-driver", "spark-kubernetes-driver"), ("uid-job-exec-1", "spark-kubernetes-executor"),
    ]  # fmt: skip


NO_NODE = condition("PodScheduled", "False", "Unschedulable", "0/3 nodes are available: 3 Insufficient cpu.")


def executor(name: str, phase: str = "Pending", **status: Any) -> dict[str, Any]:
    return pod(name, phase, labels=EXECUTOR, **status)


def test_executors_that_have_never_started_are_waited_for_by_the_start_clock() -> None:
    driver, waiting = pod("job-driver", labels=DRIVER), executor("job-exec-1", conditions=[NO_NODE])
    seen = adapters.spark().observe(found("RUNNING"), [driver, waiting, executor("job-exec-2")], [])
    assert (seen.phase, seen.reason) == (Phase.PENDING, "ExecutorsPending")
    assert "none of its 2 executors" in seen.message and "Insufficient cpu" in seen.message


@pytest.mark.parametrize("phase", ["Running", "Succeeded", "Failed"])
def test_an_executor_that_has_run_ends_the_start(phase: str) -> None:
    pods = [pod("job-driver", labels=DRIVER), executor("job-exec-1", conditions=[NO_NODE]), executor("e", phase)]
    assert adapters.spark().observe(found("RUNNING"), pods, []).phase is Phase.RUNNING


def test_an_executor_that_ran_and_is_gone_ended_the_start_too() -> None:
    application = found("RUNNING")
    application["status"]["executorState"] = {"job-exec-1": "FAILED", "job-exec-2": "PENDING"}
    pods = [pod("job-driver", labels=DRIVER), executor("job-exec-2", conditions=[NO_NODE])]
    assert adapters.spark().observe(application, pods, []).phase is Phase.RUNNING


@pytest.mark.parametrize("state", ["SUCCEEDING", "FAILING", "UNKNOWN"])
def test_a_driver_that_ends_waits_for_no_executor(state: str) -> None:
    pods = [pod("job-driver", labels=DRIVER), executor("job-exec-1", conditions=[NO_NODE])]
    assert adapters.spark().observe(found(state), pods, []).phase is Phase.RUNNING
    assert adapters.spark().observe(found("RUNNING"), pods[:1], []).phase is Phase.RUNNING, "it has asked for none yet"


def test_executors_that_its_end_stopped_do_not_speak_for_the_driver() -> None:
    pods = [ended("job-exec-1", EXECUTOR, 143), ended("job-driver", DRIVER, 1)]
    seen = adapters.spark().observe(
        found("FAILED", "driver container failed with ExitCode: 1, Reason: Error"), pods, []
    )
    assert seen.cause is not None and "job-driver" in seen.cause.message
