"""PyTorchJobs: what the operator is given, and every state that training-operator 1.9 reports."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster import adapters, valid
from tests.cluster.adapters import condition, container, pod
from tutelage.runtimes.kubernetes.causes import CauseKind
from tutelage.runtimes.kubernetes.jobs import Phase
from tutelage.runtimes.kubernetes.names import HASH_ANNOTATION

CREATED = condition("Created", reason="PyTorchJobCreated", message="PyTorchJob job is created.")
RUNNING = condition("Running", reason="PyTorchJobRunning", message="PyTorchJob team/job is running.")
STOPPED = condition("Running", "False", "PyTorchJobRunning", "PyTorchJob team/job is running.")
SUCCEEDED = condition("Succeeded", reason="PyTorchJobSucceeded", message="PyTorchJob team/job successfully completed.")
FAILED = condition(
    "Failed", reason="PyTorchJobFailed", message="PyTorchJob job is failed because 1 Worker replica(s) failed."
)
TOO_LATE = condition(
    "Failed",
    reason="PyTorchJobFailed",
    message="Job job has failed because it was active longer than specified deadline",
)
SUSPENDED = condition("Suspended", reason="PyTorchJobSuspended", message="PyTorchJob job is suspended.")
RESUMED = condition("Suspended", "False", "PyTorchJobResumed", "PyTorchJob job is resumed.")
ENDED_BADLY = container("pytorch", {"terminated": {"exitCode": 1, "reason": "Error"}})
OUT_OF_MEMORY = container("pytorch", {"terminated": {"exitCode": 137, "reason": "OOMKilled"}})
NO_IMAGE = container("pytorch", {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}})
UNSCHEDULABLE = condition(
    "PodScheduled", "False", "Unschedulable", "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
)
QUOTA = {
    "type": "Warning", "reason": "FailedCreatePod",
    "message": 'Error creating: pods "job-worker-0" is forbidden: exceeded quota: team, requested: requests.cpu=8',
}  # fmt: skip


def body(**more: Any) -> dict[str, Any]:
    return adapters.training(**more).body


def found(*conditions: dict[str, str], suspend: bool = False) -> dict[str, Any]:
    return {
        "metadata": {"name": "job"},
        "spec": {"runPolicy": {"suspend": suspend}},
        "status": {"conditions": [*conditions]},
    }


@pytest.mark.parametrize("settings", [adapters.SETTINGS, adapters.MANY_SETTINGS], ids=["plain", "full"])
@pytest.mark.parametrize("needs", [adapters.NEEDS, adapters.MANY_NEEDS], ids=["plain", "full"])
def test_the_api_server_takes_it(needs: dict[str, Any], settings: dict[str, Any]) -> None:
    assert valid.refused(body(needs=needs, settings=settings)) == []


def test_the_schema_refuses_what_it_does_not_know() -> None:
    wrong = body()
    wrong["spec"]["runPolicy"]["cleanPods"] = "None"
    wrong["spec"]["elasticPolicy"]["maxRestarts"] = "0"
    assert [line.split(":")[0] for line in valid.refused(wrong)] == [
        "spec.runPolicy.cleanPods", "spec.elasticPolicy.maxRestarts",
    ]  # fmt: skip


def test_the_operators_own_models_lose_nothing_of_it() -> None:
    whole = body(needs=adapters.MANY_NEEDS, settings=adapters.MANY_SETTINGS)
    assert valid.lost(whole, valid.through_models(whole, "kubeflow.training", "KubeflowOrgV1PyTorchJob")) == []


def test_workers_alone_meet_at_the_first_of_them_and_never_restart() -> None:
    spec = body(needs=adapters.MANY_NEEDS)["spec"]
    assert list(spec["pytorchReplicaSpecs"]) == ["Worker"]
    worker = spec["pytorchReplicaSpecs"]["Worker"]
    assert worker["replicas"] == 3 and worker["restartPolicy"] == "Never"
    assert "restartPolicy" not in worker["template"]["spec"]
    assert spec["elasticPolicy"] == {
        "rdzvBackend": "c10d", "rdzvPort": 23456, "rdzvId": adapters.training().name, "minReplicas": 3, "maxReplicas": 3,
        "maxRestarts": 0,
    }  # fmt: skip
    assert spec["nprocPerNode"] == "2", "a rank for each accelerator, none for the fabric"
    (only,) = worker["template"]["spec"]["containers"]
    assert only["name"] == "pytorch"
    assert only["ports"] == [{"name": "pytorchjob-port", "containerPort": 23456}]


def test_ranks_read_the_request_from_the_store() -> None:
    job = adapters.training(adapters.MANY_NEEDS)
    (only,) = job.body["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    command = only["command"]
    assert command[:3] == ["python", "-m", "torch.distributed.run"]
    assert command[-3:] == ["-m", "tutelage.step.cluster", f"{adapters.REQUESTS}/{job.name}.request.json"]
    flags = dict(zip(command[3:-3:2], command[4:-3:2], strict=True))
    assert flags == {
        "--nnodes": "3", "--nproc-per-node": "2", "--rdzv-backend": "c10d", "--rdzv-id": job.name,
        "--rdzv-conf": "join_timeout=900", "--max-restarts": "0",
    }  # fmt: skip
    assert "PYTHONUNBUFFERED" not in {entry["name"] for entry in only["env"]}, "the operator adds it"


def test_torchrun_itself_takes_the_flags() -> None:
    from torch.distributed.run import config_from_args, get_args_parser

    (only,) = body(needs=adapters.MANY_NEEDS)["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"]
    config, command, arguments = config_from_args(get_args_parser().parse_args(only["command"][3:]))
    assert (config.min_nodes, config.max_nodes, config.nproc_per_node, config.max_restarts) == (3, 3, 2, 0)
    assert config.rdzv_configs["join_timeout"] == "900"
    assert (str(command).rpartition("/")[2].startswith("python"), arguments[-3:-1]) == (
        True,
        ["-m", "tutelage.step.cluster"],
    )


def test_the_object_ends_by_itself_and_its_pods_stay_for_their_logs() -> None:
    policy = body(needs=adapters.MANY_NEEDS)["spec"]["runPolicy"]
    assert policy["cleanPodPolicy"] == "None"
    assert policy["activeDeadlineSeconds"] == 900 + 7200
    assert policy["ttlSecondsAfterFinished"] > 0
    assert body()["spec"]["runPolicy"]["activeDeadlineSeconds"] == 1800 + 86400, "the installation's clocks"


def test_a_queue_starts_it_suspended() -> None:
    queued, free = body(settings=adapters.MANY_SETTINGS), body()
    assert queued["spec"]["runPolicy"]["suspend"] is True
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-queue"
    assert free["spec"]["runPolicy"]["suspend"] is False
    assert "kueue.x-k8s.io/queue-name" not in free["metadata"]["labels"]


def test_it_belongs_to_its_workflow_without_holding_it() -> None:
    (owner,) = body()["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("Workflow", adapters.OWNER.name)
    assert owner["controller"] is False and owner["blockOwnerDeletion"] is False


def test_a_relaunch_is_the_same_work_under_another_name() -> None:
    first = adapters.training()
    second = first.relaunched(1)
    assert second.name == f"{first.name}-r1" and second.request != first.request
    assert second.body["metadata"]["labels"]["tutelage.dev/relaunch"] == "1"
    assert second.world_size == first.world_size
    assert first.body == adapters.training().body, "rendering is pure: a retried launcher finds the same spec hash"
    assert (
        first.body["metadata"]["annotations"][HASH_ANNOTATION]
        != second.body["metadata"]["annotations"][HASH_ANNOTATION]
    )


@pytest.mark.parametrize(
    ("needs", "processes", "size"),
    [
        ({}, 1, 1),
        ({}, 2, 2),
        ({"replicas": 2}, 2, 4),
        ({"accelerators": {"nvidia.com/gpu": 4}}, 2, 4),
        ({"accelerators": {"nvidia.com/gpu": 0}}, 2, 2),
        ({"accelerators": {"nvidia.com/gpu": 4}, "processes": 1, "replicas": 2}, 2, 2),
    ],
)
def test_the_world_is_pods_times_ranks(needs: dict[str, Any], processes: int, size: int) -> None:
    job = adapters.training(adapters.NEEDS | needs, processes=processes)
    assert job.world_size == size
    spec = job.body["spec"]
    assert spec["pytorchReplicaSpecs"]["Worker"]["replicas"] * int(spec["nprocPerNode"]) == size


@pytest.mark.parametrize(
    ("object_", "pods", "phase", "reason"),
    [
        (None, [], Phase.GONE, "NotFound"),
        ({"metadata": {"name": "job"}, "spec": {}}, [], Phase.PENDING, "NoPods"),
        (found(CREATED), [], Phase.PENDING, "NoPods"),
        (found(CREATED), [pod("job-worker-0", "Pending", conditions=[UNSCHEDULABLE])], Phase.PENDING, "Unschedulable"),
        (found(CREATED), [pod("job-worker-0", "Running")], Phase.RUNNING, "Running"),
        (found(CREATED, RUNNING), [pod("job-worker-0"), pod("job-worker-1")], Phase.RUNNING, "PyTorchJobRunning"),
        (
            found(CREATED, RUNNING),
            [pod("job-worker-0"), pod("job-worker-1", "Pending")],
            Phase.RUNNING,
            "PyTorchJobRunning",
        ),
        (found(CREATED, SUSPENDED, suspend=True), [], Phase.QUEUED, "PyTorchJobSuspended"),
        (found(suspend=True), [], Phase.QUEUED, "Suspended"),
        (found(CREATED, STOPPED, SUSPENDED, suspend=True), [pod("job-worker-0")], Phase.QUEUED, "PyTorchJobSuspended"),
        (found(CREATED, STOPPED, SUSPENDED), [], Phase.PENDING, "NoPods"),
        (found(CREATED, STOPPED, RESUMED), [], Phase.PENDING, "NoPods"),
        (
            found(CREATED, condition("Restarting", reason="PyTorchJobRestarting")),
            [],
            Phase.RESTARTING,
            "PyTorchJobRestarting",
        ),
        (
            found(CREATED, STOPPED, SUCCEEDED),
            [pod("job-worker-0", "Succeeded")],
            Phase.SUCCEEDED,
            "PyTorchJobSucceeded",
        ),
        (found(CREATED, STOPPED, SUCCEEDED), [], Phase.SUCCEEDED, "PyTorchJobSucceeded"),
        (found(CREATED, STOPPED, FAILED), [pod("job-worker-0", "Failed")], Phase.FAILED, "PyTorchJobFailed"),
        (found(CREATED, STOPPED, SUCCEEDED, FAILED), [pod("job-worker-0", "Failed")], Phase.FAILED, "PyTorchJobFailed"),
    ],
)
def test_every_state_of_the_operator_is_a_phase(
    object_: dict[str, Any] | None, pods: list[dict[str, Any]], phase: Phase, reason: str
) -> None:
    seen = adapters.training().observe(object_, pods, [])
    assert (seen.phase, seen.reason) == (phase, reason)
    assert seen.suspended is (phase is Phase.QUEUED)
    assert (seen.cause is not None) is (phase is Phase.FAILED)


def test_a_job_is_not_over_while_a_worker_may_still_write() -> None:
    workers = [pod("job-worker-0", "Running"), pod("job-worker-1", "Succeeded")]
    seen = adapters.training().observe(found(CREATED, STOPPED, SUCCEEDED), workers, [])
    assert seen.phase is Phase.RUNNING and "job-worker-0" in seen.message
    leaving = workers[0] | {"metadata": workers[0]["metadata"] | {"deletionTimestamp": "2026-03-01T12:00:00Z"}}
    seen = adapters.training().observe(found(CREATED, STOPPED, SUCCEEDED), [leaving, workers[1]], [])
    assert seen.phase is Phase.SUCCEEDED


@pytest.mark.parametrize(
    ("object_", "pods", "events", "kind"),
    [
        (found(CREATED, FAILED), [pod("w", "Failed", containerStatuses=ENDED_BADLY)], [], CauseKind.UNKNOWN),
        (
            found(CREATED, FAILED),
            [pod("w", "Failed", containerStatuses=OUT_OF_MEMORY)],
            [], CauseKind.OUT_OF_MEMORY,
        ),
        (found(CREATED, FAILED), [pod("w", "Failed", reason="Evicted", message="low on memory")], [], CauseKind.EVICTED),
        (found(CREATED, TOO_LATE), [], [], CauseKind.DEADLINE),
        (found(CREATED), [pod("w", "Pending", containerStatuses=NO_IMAGE)], [], CauseKind.IMAGE),
        (found(CREATED, RUNNING), [pod("v"), pod("w", "Pending", containerStatuses=NO_IMAGE)], [], CauseKind.IMAGE),
        (found(CREATED), [], [QUOTA], CauseKind.QUOTA),
    ],
    ids=["exit-1", "oom", "evicted", "deadline", "image", "image-of-one-worker", "quota"],
)  # fmt: skip
def test_the_cause_comes_along(
    object_: dict[str, Any], pods: list[dict[str, Any]], events: list[dict[str, Any]], kind: CauseKind
) -> None:
    seen = adapters.training().observe(object_, pods, events)
    assert seen.cause is not None and seen.cause.kind is kind


def test_logs_come_from_every_worker_in_order() -> None:
    job = adapters.training()
    workers = [pod(f"{job.name}-worker-{index}") for index in (10, 2, 0)]
    assert job.log_sources(workers) == [(f"uid-{job.name}-worker-{index}", "pytorch") for index in (0, 2, 10)]
    assert job.pod_selector() == f"training.kubeflow.org/job-name={job.name}"
