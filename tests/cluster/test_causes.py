"""Causes read from what pods, jobs and events look like when it happens on a cluster."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tutelage.runtimes.kubernetes import causes
from tutelage.runtimes.kubernetes.causes import CauseKind

NODE_LOW = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 73Mi."
OVER_SHARED_MEMORY = 'Usage of EmptyDir volume "shared-memory" exceeds the limit "8Gi". '
OVER_VOLUME = 'Usage of EmptyDir volume "work" exceeds the limit "1Gi". '
OVER_STORAGE = "Pod ephemeral local storage usage exceeds the total limit of containers 10Gi. "
QUOTA = 'pods "train-worker-1" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, used: …, limited: …'


def pod(name: str = "train-worker-0", **status: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}"}, "status": {"phase": "Failed", **status}}


def ended(code: int, reason: str = "Error", message: str = "", where: str = "state") -> dict[str, Any]:
    terminated = {"exitCode": code, "reason": reason, "message": message}
    return {"containerStatuses": [{"name": "pytorch", "image": "i", where: {"terminated": terminated}}]}


def waits(reason: str) -> dict[str, Any]:
    return {
        "phase": "Pending",
        "containerStatuses": [{"name": "pytorch", "image": "registry/x:1", "state": {"waiting": {"reason": reason}}}],
    }


def disrupted(reason: str, message: str = "by force") -> dict[str, Any]:
    return {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}]}


def left(kind: str | None, cause: str = "why", outcome: str = "failed") -> str:
    return json.dumps({"schema": "tutelage.outcome/1", "outcome": outcome, "cause": cause, "hint": None, "kind": kind})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (ended(137, "OOMKilled"), CauseKind.OUT_OF_MEMORY),
        (ended(137, "OOMKilled", where="lastState"), CauseKind.OUT_OF_MEMORY),
        (ended(1), CauseKind.UNKNOWN),
        (ended(1, message=left("nan")), CauseKind.NAN),
        (ended(2, message=left(None, outcome="invalid")), CauseKind.DATA),
        (ended(3, message=left(None, outcome="refused")), CauseKind.DATA),
        (ended(4, message=left(None, outcome="budget")), CauseKind.BUDGET),
        (ended(1, message=left(None)), CauseKind.UNKNOWN),
        (ended(128, "StartError", "exec: python: not found"), CauseKind.IMAGE),
        (ended(137, "ContainerStatusUnknown"), CauseKind.EVICTED),
        ({"reason": "Evicted", "message": NODE_LOW}, CauseKind.EVICTED),
        ({"reason": "DeadlineExceeded"}, CauseKind.DEADLINE),
        ({"reason": "Preempting"}, CauseKind.PREEMPTED),
        ({"reason": "Evicted", "message": OVER_SHARED_MEMORY}, CauseKind.OUT_OF_MEMORY),
        ({"reason": "Evicted", "message": OVER_VOLUME}, CauseKind.INVALID_SPEC),
        ({"reason": "Evicted", "message": OVER_STORAGE}, CauseKind.INVALID_SPEC),
        (disrupted("TerminationByKubelet", OVER_STORAGE), CauseKind.INVALID_SPEC),
        (disrupted("PreemptionByScheduler"), CauseKind.PREEMPTED),
        (disrupted("EvictionByEvictionAPI"), CauseKind.EVICTED),
        (disrupted("DeletionByTaintManager") | ended(143), CauseKind.EVICTED),
        (disrupted("PreemptionByScheduler") | ended(143, message=left(None, "SystemExit: 143")), CauseKind.PREEMPTED),
    ],
)
def test_a_pods_status_tells_its_cause(status: dict[str, Any], kind: CauseKind) -> None:
    found = causes.of_pods([pod(**status)])
    assert found is not None and found.kind is kind
    assert "\n" not in found.message
    assert found.retryable == (kind in (CauseKind.PREEMPTED, CauseKind.EVICTED))


def test_pods_that_ended_well_or_only_lost_their_peers_tell_nothing() -> None:
    lost = left(None, "rank 1 lost its peers: Connection closed by peer [10.0.0.7]:4711")
    assert causes.of_pods([pod(**ended(0, "Completed", left(None, outcome="done")))]) is None
    assert causes.of_pods([pod(**ended(1, message=lost))]) is None


def test_of_many_pods_the_one_that_the_others_follow_from_is_told() -> None:
    follower = pod("train-worker-0", **ended(1, message="torch.distributed.elastic … ChildFailedError"))
    killed = pod("train-worker-1", **ended(137, "OOMKilled"))
    found = causes.of_pods([follower, killed])
    assert found is not None and found.kind is CauseKind.OUT_OF_MEMORY and "train-worker-1" in found.message


@pytest.mark.parametrize("reason", ["ErrImagePull", "ImagePullBackOff", "InvalidImageName"])
def test_images_that_cannot_be_pulled_are_named(reason: str) -> None:
    found = causes.of_waiting([pod(**waits(reason))])
    assert found is not None and found.kind is CauseKind.IMAGE and "registry/x:1" in found.message


def test_a_missing_secret_is_a_matter_of_the_spec_and_creating_is_none() -> None:
    missing = causes.of_waiting([pod(**waits("CreateContainerConfigError"))])
    assert missing is not None and missing.kind is CauseKind.INVALID_SPEC
    assert causes.of_waiting([pod(**waits("ContainerCreating"))]) is None


def test_events_tell_of_pods_that_were_never_made() -> None:
    denied = {"type": "Warning", "reason": "FailedCreatePod", "message": f"Error creating: {QUOTA}"}
    normal = {
        "type": "Normal",
        "reason": "SuccessfulCreatePod",
        "message": "Created pod: exceeded quota is only its name",
    }
    refused = {"type": "Warning", "reason": "FailedCreate", "message": 'violates PodSecurity "restricted:latest"'}
    assert causes.of_events([normal]) is None
    quota, security = causes.of_events([normal, denied]), causes.of_events([refused])
    assert quota is not None and quota.kind is CauseKind.QUOTA
    assert security is not None and security.kind is CauseKind.INVALID_SPEC


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Job train has failed because it was active longer than specified deadline", CauseKind.DEADLINE),
        (f"failed to run spark-submit: {QUOTA}", CauseKind.QUOTA),
        ("PyTorchJob train is not valid because field is wrong", CauseKind.INVALID_SPEC),
        ("driver container failed with ExitCode: 137, Reason: OutOfMemoryError", CauseKind.OUT_OF_MEMORY),
        ("driver pod was Evicted", CauseKind.EVICTED),
        ("PyTorchJob train is failed because 1 Worker replica(s) failed.", CauseKind.UNKNOWN),
        ("driver container failed with ExitCode: 137, Reason: OOMKilled", CauseKind.OUT_OF_MEMORY),
        ('rpc error: code = NotFound desc = failed to pull and unpack image "registry/x:1"', CauseKind.IMAGE),
        ("manifest for registry/x:1 not found: manifest unknown: manifest unknown", CauseKind.IMAGE),
        ("row 7: image manifest unknown to the parser", CauseKind.UNKNOWN),
        ("user message: exceeded quota of words per document", CauseKind.UNKNOWN),
        ("the shop is out of memory, said OutOfMemoryError", CauseKind.UNKNOWN),
    ],
)
def test_an_operators_words_tell_what_they_can(message: str, kind: CauseKind) -> None:
    condition = {"type": "Failed", "status": "True", "reason": "PyTorchJobFailed", "message": message}
    found = causes.of_conditions([{"type": "Running", "status": "False"}, condition])
    assert found is not None and found.kind is kind


def test_a_step_that_only_followed_others_does_not_hide_why_they_died() -> None:
    vague = causes.of_outcome({"outcome": "failed", "cause": "RuntimeError: something broke", "hint": None})
    evicted = causes.of_pods([pod(reason="Evicted", message=NODE_LOW)])
    assert vague is not None and causes.best([vague, None, evicted]) is evicted
    typed = causes.of_outcome(
        {"outcome": "failed", "kind": "nan", "cause": "loss is nan at step 3", "hint": "lower it"}
    )
    assert typed is not None and causes.best([typed, evicted]) is typed and typed.hint == "lower it"
    assert causes.best([vague, None]) is vague and causes.best([None]) is None


def test_a_step_that_ended_well_or_was_told_to_end_gives_no_cause() -> None:
    assert causes.of_outcome(None) is None
    assert causes.of_outcome({"outcome": "done", "cause": None}) is None
    assert causes.of_outcome({"outcome": "failed", "cause": "SystemExit: 143", "hint": None}) is None


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        ({"outcome": "invalid", "kind": "data", "cause": "source https://x: Connection reset by peer"}, CauseKind.DATA),
        ({"outcome": "invalid", "cause": "rank 1 lost its peers: so the document says"}, CauseKind.DATA),
        ({"outcome": "failed", "kind": "nan", "cause": "SystemExit: 1"}, CauseKind.NAN),
        ({"outcome": "failed", "cause": "s3://x cannot be read: Connection refused"}, CauseKind.UNKNOWN),
        ({"outcome": "failed", "cause": "row 3 holds 'rank 1 lost its peers'"}, CauseKind.UNKNOWN),
        ({"outcome": "failed", "cause": "ValueError: 'we ran out of memory'"}, CauseKind.UNKNOWN),
        ({"outcome": "failed", "cause": ["odd"], "hint": {"odd": 1}, "kind": {"odd": 1}}, CauseKind.UNKNOWN),
    ],
)
def test_what_a_step_typed_or_began_otherwise_is_no_consequence(outcome: dict[str, Any], kind: CauseKind) -> None:
    found = causes.of_outcome(outcome)
    assert found is not None and found.kind is kind
    assert found.hint is None or isinstance(found.hint, str)


@pytest.mark.parametrize(
    "words",
    [
        "rank 1 lost its peers: Connection closed by peer", "SystemExit: 143", "DistBackendError: NCCL error in: x.cpp",
        "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.7]:471",
        "RendezvousClosedError: ", "DistNetworkError: The client socket has failed to connect",
    ],
)  # fmt: skip
def test_what_ranks_say_that_only_followed_others_is_a_consequence(words: str) -> None:
    assert causes.of_outcome({"outcome": "failed", "cause": words, "hint": None, "kind": None}) is None


def with_sidecar(main: dict[str, Any], sidecar: dict[str, Any], **status: Any) -> dict[str, Any]:
    return pod(containerStatuses=[{"name": "istio-proxy", **sidecar}, {"name": "pytorch", **main}], **status)


KILLED = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
FAILED = {"state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
ENDED = {"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}


def test_the_container_that_does_the_work_is_asked_before_its_sidecars() -> None:
    survived = {"state": {"running": {}}, "lastState": KILLED}
    found = causes.of_pods([with_sidecar(FAILED, survived)])
    assert found is not None and (found.kind, "pytorch: exit code 1" in found.message) == (CauseKind.UNKNOWN, True)
    drained = causes.of_pods([with_sidecar(FAILED, {"state": KILLED}, **disrupted("EvictionByEvictionAPI"))])
    assert drained is not None and drained.kind is CauseKind.EVICTED
    alone = causes.of_pods([with_sidecar(ENDED, {"state": KILLED})])
    assert alone is not None and (alone.kind, "istio-proxy" in alone.message) == (CauseKind.OUT_OF_MEMORY, True)
    assert causes.of_pods([with_sidecar(ENDED, survived)]) is None


def test_an_executor_whose_heap_is_full_ends_with_sparks_own_exit_code() -> None:
    status = {"name": "spark-kubernetes-executor", "state": {"terminated": {"exitCode": 52, "reason": "Error"}}}
    found = causes.of_pods([pod(containerStatuses=[status])])
    assert found is not None and found.kind is CauseKind.OUT_OF_MEMORY


def test_events_of_an_eviction_tell_what_it_was_for() -> None:
    event = {"reason": "Evicted", "message": OVER_STORAGE, "involvedObject": {"name": "train-worker-1"}}
    found = causes.of_disruptions([event])
    assert found is not None and (found.kind, found.retryable) == (CauseKind.INVALID_SPEC, False)
    assert "ephemeral-storage" in str(found.hint)


def stuck(**metadata: Any) -> dict[str, Any]:
    words = {"reason": "Unschedulable", "message": "0/3 nodes are available"}
    made = pod("train-worker-1", phase="Pending", conditions=[{"type": "PodScheduled", "status": "False", **words}])
    return made | {"metadata": made["metadata"] | metadata}


def test_a_pod_that_no_node_takes_explains_what_is_late_or_failed_without_a_word() -> None:
    late, vague = causes.cause(CauseKind.DEADLINE, "still running"), causes.cause(CauseKind.UNKNOWN, "exit code 1")
    nan, taken = causes.cause(CauseKind.NAN, "nan"), causes.cause(CauseKind.PREEMPTED, "preempted")
    for ended in (late, vague):
        found = causes.waited_for(ended, None, [stuck()])
        assert found.kind is CauseKind.UNSCHEDULABLE
        assert ended.message in found.message and "0/3 nodes are available" in found.message
        assert causes.waited_for(ended, None, [stuck(deletionTimestamp="2026-03-01T12:00:00Z")]) is ended
        assert causes.waited_for(ended, None, []) is ended
    for ended in (nan, taken):
        assert causes.waited_for(ended, None, [stuck()]) is ended
    assert causes.waited_for(vague, {"outcome": "failed"}, [stuck()]) is vague


def test_what_a_pod_waits_for_is_said_in_the_schedulers_words() -> None:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/3 nodes are available",
    }
    stuck = pod(phase="Pending", conditions=[condition])
    assert causes.pending_reason([stuck], []) == ("Unschedulable", "0/3 nodes are available")
    found = causes.unschedulable([stuck])
    assert found is not None and found.kind is CauseKind.UNSCHEDULABLE and not found.retryable
    assert causes.pending_reason([pod(**waits("ContainerCreating"))], [])[0] == "ContainerCreating"
