"""The engine on jobs that end badly: the phase, the cause by name, what is left, and never a success without a manifest."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.cluster import schemas
from tests.cluster.access import RUN_RULES
from tests.cluster.api_server import Fault
from tests.cluster.bench import NAMESPACE, Site, prints
from tests.cluster.objects import POD, PYTORCHJOB, SPARKAPPLICATION, WORKFLOW, Object, Refused
from tests.cluster.operators import Action, evict, finish, image_error, preempt, schedule, start, unschedulable
from tests.contracts import payloads
from tutelage.contracts import locations
from tutelage.runtimes.kubernetes.causes import CauseKind
from tutelage.runtimes.kubernetes.engine import cancel_run, reap
from tutelage.runtimes.kubernetes.jobs import Phase

RUNS = [(1.0, schedule), (2.0, start), (3.0, prints("step 0"))]
needs_schemas = pytest.mark.skipif(
    schemas.folder() is None, reason=f"no official schemas: set {schemas.VARIABLE} to their folder"
)


def typed(kind: str, cause: str) -> str:
    """A termination message as a step leaves it."""
    return json.dumps({"schema": "tutelage.outcome/1", "outcome": "failed", "kind": kind, "cause": cause, "hint": None})


@dataclass(frozen=True)
class Altered:
    """A job with another body: what an adapter with a bug would send."""

    job: Any
    body: Object

    def __getattr__(self, name: str) -> Any:
        return getattr(self.job, name)


# --- no success without a manifest ---


def test_a_job_that_ends_well_without_a_manifest_has_failed(site: Site) -> None:
    site.train(lambda job, index: [*RUNS, (5, finish(0))])
    ended = site.run()
    site.check(ended, Phase.FAILED, ended.cause and ended.cause.kind)
    assert ended.cause is not None and "outcome.json" in f"{ended.cause.message} {ended.cause.hint}"


def test_a_job_whose_manifest_is_missing_has_failed_whatever_its_outcome_says(site: Site) -> None:
    site.train(lambda job, index: [*RUNS, (4, site.leaves(manifest=False)), (5, finish(0))])
    ended = site.run()
    site.check(ended, Phase.FAILED, ended.cause and ended.cause.kind)
    assert ended.cause is not None and "manifest" in ended.cause.message


def test_a_payload_that_was_altered_is_no_success(site: Site) -> None:
    def torn(nodes: Any, pod: Object) -> None:
        site.leaves()(nodes, pod)
        manifest = site.store.find({"documents": "documents"}, payloads.KEY)
        assert manifest is not None
        locations.write_bytes(manifest["documents"].file("rows-00000.parquet"), b"other" * 32)

    site.train(lambda job, index: [*RUNS, (4, torn), (5, finish(0))] if index == 0 else [*RUNS, (5, finish(0))])
    ended = site.run()
    site.check(ended, Phase.FAILED, ended.cause and ended.cause.kind)


def test_one_worker_that_succeeds_hides_no_other_that_died(site: Site) -> None:
    site.train(lambda job, index: [*RUNS, (5, finish(0))] if index == 1 else [*RUNS, (9, finish(1))])
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.UNKNOWN)
    assert ended.cause is not None and f"{site.job.name}-worker-0" in ended.cause.message


# --- what the step itself says ---


def test_nan_is_told_from_outcome_json(site: Site) -> None:
    nan = site.leaves("failed", kind="nan", cause="loss is nan at step 12", hint="lower learning_rate")
    site.train(lambda job, index: [*RUNS, (4, nan), (5, finish(1))] if index == 0 else [*RUNS, (5, finish(1))])
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.NAN)
    assert ended.cause is not None and ended.cause.hint == "lower learning_rate"
    assert ended.outcome is not None and ended.outcome["cause"] == "loss is nan at step 12"


def test_nan_is_told_from_the_termination_message_alone(site: Site) -> None:
    end = finish(1, message=typed("nan", "loss is nan at step 12"))
    site.train(lambda job, index: [*RUNS, (5, end if index == 1 else finish(1))])
    site.check(site.run(), Phase.FAILED, CauseKind.NAN)


@pytest.mark.parametrize(("outcome", "kind"), [("invalid", CauseKind.DATA), ("budget", CauseKind.BUDGET)])
def test_what_a_step_refuses_is_never_tried_again(site: Site, outcome: str, kind: CauseKind) -> None:
    site.train(lambda job, index: [*RUNS, (4, site.leaves(outcome, cause="no")), (5, finish(2))])
    site.check(site.run(), Phase.FAILED, kind)


def test_out_of_memory_is_told_from_the_container_and_not_tried_again(site: Site) -> None:
    site.train(lambda job, index: [*RUNS, (5, finish(137, "OOMKilled"))] if index == 1 else [*RUNS, (6, finish(1))])
    site.check(site.run(), Phase.FAILED, CauseKind.OUT_OF_MEMORY)


def test_a_spark_driver_that_runs_out_of_memory_is_told(site: Site) -> None:
    from tutelage.runtimes.kubernetes.sparkapplication import SparkApplication

    given = {name: getattr(site.job, name) for name in ("identity", "namespace", "settings", "needs", "requests")}
    site.job = SparkApplication(**given, image="tutelage/python-spark:1")
    site.spark(lambda item, role: [*RUNS, *([(8, finish(137, "OOMKilled"))] if role == "driver" else [])])
    site.check(site.run(), Phase.FAILED, CauseKind.OUT_OF_MEMORY)


# --- what the cluster does ---


@pytest.mark.parametrize(("what", "kind"), [(evict, CauseKind.EVICTED), (preempt, CauseKind.PREEMPTED)])
def test_relaunches_end(site: Site, what: Action, kind: CauseKind) -> None:
    site.train(lambda job, index: [*RUNS, (5, what)])
    ended = site.run(relaunches=2)
    site.check(ended, Phase.FAILED, kind, attempts=3)
    assert ended.job == site.job.relaunched(2).name and len(site.prepared) == 3


@pytest.mark.parametrize(("reason", "kind"), [("Evicted", CauseKind.EVICTED), ("Preempted", CauseKind.PREEMPTED)])
def test_a_pod_that_went_before_anybody_looked_is_told_from_its_events(
    site: Site, reason: str, kind: CauseKind
) -> None:
    def vanish(nodes: Any, pod: Object) -> None:
        nodes.cluster.event(POD, pod, reason, "its place was needed", "Normal", "default-scheduler")
        nodes.remove(pod)

    # Worker 0 loses its peer and ends before the next look: its exit code tells nothing.
    site.train(lambda job, index: [*RUNS, (20, finish(1))] if index == 0 else [*RUNS, (19.9, vanish)])
    ended = site.run(relaunches=1)
    site.check(ended, Phase.FAILED, kind, attempts=2)
    assert ended.cause is not None and f"{site.job.relaunched(1).name}-worker-1" in ended.cause.message


def test_the_log_of_a_node_that_does_not_answer_is_not_waited_for_long(site: Site) -> None:
    site.train(site.working)
    message = 'Get "https://10.0.0.7:10250/containerLogs/team/x/pytorch": dial tcp 10.0.0.7:10250: i/o timeout'
    away = Refused(500, "InternalError", message)
    site.server.faults.append(Fault("refuse", "get", "pods", "log", times=10_000, answer=away))
    ended = site.run()
    assert ended.phase is Phase.SUCCEEDED and site.time.seconds < 150
    assert "could not be read" in str(site.said("warning"))
    site.check_left()


def test_pods_that_no_node_takes_end_with_the_start_clock(site: Site) -> None:
    site.train(lambda job, index: [(1, unschedulable)])
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.UNSCHEDULABLE)
    assert ended.cause is not None and "Insufficient nvidia.com/gpu" in ended.cause.message
    assert 600 <= site.time.seconds < 800
    assert any("Insufficient nvidia.com/gpu" in str(fields) for fields in site.said("progress"))


def test_an_image_that_cannot_be_pulled_ends_long_before_the_start_clock(site: Site) -> None:
    site.train(lambda job, index: [(1, schedule), (2, image_error("ErrImagePull")), (20, image_error())])
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.IMAGE)
    assert ended.cause is not None and "tutelage/python-torch:1" in ended.cause.message
    assert site.time.seconds < 300


def test_an_image_that_is_pulled_at_the_third_try_is_no_failure(site: Site) -> None:
    late = lambda job, index: [(seconds + 40, action) for seconds, action in site.working(job, index)]
    site.train(lambda job, index: [(1, schedule), (2, image_error()), *late(job, index)])
    site.check(site.run(), Phase.SUCCEEDED)


@pytest.mark.parametrize("resource", ["pods", "count/pytorchjobs.kubeflow.org"])
def test_denied_quota_is_told(site: Site, resource: str) -> None:
    site.train(site.working)
    site.cluster.quotas[NAMESPACE] = {resource: 0}
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.QUOTA)
    assert ended.cause is not None and "exceeded quota" in ended.cause.message


def test_quota_that_another_job_gives_back_is_no_failure(site: Site) -> None:
    site.train(site.working)
    site.cluster.quotas[NAMESPACE] = {"pods": 0}
    site.time.after(30, site.cluster.quotas.clear)
    site.check(site.run(), Phase.SUCCEEDED)


@needs_schemas
def test_a_body_that_breaks_the_schema_is_refused_with_the_field(site: Site) -> None:
    body = site.job.body
    body["spec"]["runPolicy"]["activeDeadlineSeconds"] = "soon"
    site.job = Altered(site.job, body)
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.INVALID_SPEC)
    assert ended.cause is not None and "activeDeadlineSeconds" in ended.cause.message


@needs_schemas
def test_an_unknown_field_is_refused_with_the_field(site: Site) -> None:
    body = site.job.body
    body["spec"]["runPolicy"]["cleanPodPolciy"] = "None"
    site.job = Altered(site.job, body)
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.INVALID_SPEC)
    assert ended.cause is not None and "cleanPodPolciy" in ended.cause.message


def test_what_an_operators_webhook_denies_is_an_invalid_spec(site: Site) -> None:
    site.train(site.working)
    body = site.job.body
    body["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]["containers"][0]["name"] = "torch"
    site.job = Altered(site.job, body)
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.INVALID_SPEC)
    assert ended.cause is not None and 'container with name "pytorch"' in ended.cause.message


def test_what_a_policy_denies_is_an_invalid_spec_and_no_missing_right(site: Site) -> None:
    text = "ValidatingAdmissionPolicy 'sizes' with binding 'sizes' denied request: too many workers"
    denied = Refused(403, "Forbidden", f'pytorchjobs.kubeflow.org "{site.job.name}" is forbidden: {text}')
    site.server.faults.append(Fault("refuse", "create", times=100, answer=denied))
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.INVALID_SPEC)
    assert ended.cause is not None and "too many workers" in ended.cause.message
    assert "Role" not in str(ended.cause.hint) and site.server.count("create", "pytorchjobs") == 1


def test_a_role_that_may_not_create_is_told_with_the_reason(site: Site) -> None:
    site.accounts.add("first", [rule for rule in RUN_RULES if "pytorchjobs" not in rule.resources])
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.FORBIDDEN)
    assert ended.cause is not None
    assert "cannot get resource" in ended.cause.message and "Role tutelage-run" in str(ended.cause.hint)


def test_a_role_that_may_look_but_not_create_is_told_with_the_reason(site: Site) -> None:
    looks = [replace(rule, verbs=tuple(verb for verb in rule.verbs if verb != "create")) for rule in RUN_RULES]
    site.accounts.add("first", looks)
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.FORBIDDEN)
    assert ended.cause is not None and "cannot create resource" in ended.cause.message
    assert "Role tutelage-run" in str(ended.cause.hint)


def test_a_kind_that_nobody_serves_is_told_at_once(site: Site) -> None:
    site.cluster.kinds.remove(PYTORCHJOB)
    site.cluster.kinds.remove(SPARKAPPLICATION)
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.OPERATOR_MISSING)
    assert site.time.seconds < 60


def test_an_operator_that_does_not_run_is_told_when_the_start_clock_ends(site: Site) -> None:
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.OPERATOR_MISSING)
    assert 600 <= site.time.seconds < 800


# --- clocks ---


def test_a_job_that_runs_too_long_is_ended(site: Site) -> None:
    site.train(lambda job, index: [*RUNS, *((60.0 * minute, prints(f"step {minute}")) for minute in range(1, 60))])
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.DEADLINE)
    assert ended.cause is not None and "run_seconds" in f"{ended.cause.message} {ended.cause.hint}"
    assert 1800 <= site.time.seconds < 2100
    running = [fields for fields in site.said("progress") if fields.get("phase") == "running"]
    assert 27 <= len(running) <= 45


def test_the_objects_own_deadline_is_told_apart_from_failure(site: Site) -> None:
    body = site.job.body
    body["spec"]["runPolicy"]["activeDeadlineSeconds"] = 100
    site.job = Altered(site.job, body)
    site.train(lambda job, index: RUNS)
    site.check(site.run(), Phase.FAILED, CauseKind.DEADLINE)
    assert site.time.seconds < 300


def test_a_queue_that_admits_nobody_ends_with_the_queue_clock(queued_site: Site) -> None:
    site = queued_site
    site.train(site.working)
    ended = site.run(clocks=site.clocks(queue_seconds=3600))
    site.check(ended, Phase.FAILED, CauseKind.DEADLINE)
    assert ended.cause is not None and "queue" in ended.cause.message
    assert 3600 <= site.time.seconds < 3900


# --- people ---


def test_a_cancelled_run_leaves_nothing(site: Site) -> None:
    site.train(lambda job, index: RUNS)
    site.time.after(30, site.cancel_now)
    site.check(site.run(), Phase.FAILED, CauseKind.CANCELLED)
    assert site.time.seconds < 300


def test_a_run_that_is_cancelled_in_its_queue_leaves_nothing(queued_site: Site) -> None:
    site = queued_site
    site.train(site.working)
    site.time.after(1000, site.cancel_now)
    site.check(site.run(), Phase.FAILED, CauseKind.CANCELLED)


def test_a_job_that_somebody_else_deletes_is_gone_and_not_made_again(site: Site) -> None:
    operator = site.train(lambda job, index: RUNS)
    site.time.after(20, lambda: site.cluster.delete(PYTORCHJOB, site.job.name, NAMESPACE))
    ended = site.run()
    site.check(ended, Phase.GONE, CauseKind.DELETED)
    assert operator.made == 2


def test_a_job_that_is_deleted_while_the_watch_is_down_is_gone(site: Site) -> None:
    site.train(lambda job, index: RUNS)
    site.time.after(19, lambda: site.server.restart(outage_seconds=30))
    site.time.after(25, lambda: site.cluster.delete(PYTORCHJOB, site.job.name, NAMESPACE))
    site.check(site.run(), Phase.GONE, CauseKind.DELETED)


def test_a_deleted_workflow_takes_the_job_with_it(site: Site) -> None:
    site.train(lambda job, index: RUNS)
    site.time.after(20, lambda: site.cluster.delete(WORKFLOW, "wf", NAMESPACE))
    ended = site.run()
    assert (ended.phase, ended.cause and ended.cause.kind) == (Phase.GONE, CauseKind.DELETED)
    site.time.sleep(40)
    assert site.cluster.everything(NAMESPACE) == []


def test_a_failed_job_may_be_kept_for_a_look(site: Site) -> None:
    site.train(lambda job, index: [*RUNS, (5, finish(1))])
    ended = site.run(keep_failed=True)
    pods = [f"Pod/{site.job.name}-worker-{index}" for index in range(2)]
    site.check(ended, Phase.FAILED, CauseKind.UNKNOWN, left=(f"PyTorchJob/{site.job.name}", *pods))
    assert any(site.job.name in name for name in ended.kept)


def test_a_kept_job_outlives_the_exit_handler_of_its_run_and_goes_with_its_workflow(site: Site) -> None:
    site.train(lambda job, index: [*RUNS, (5, finish(1))])
    ended = site.run(keep_failed=True)
    assert ended.kept == (site.job.name,)
    # plan/clean: while the run's Workflow is there, neither it nor the reaper takes what is kept; anything else goes.
    again = site.job.relaunched(1)
    site.api.create(again.resource, again.body)
    assert cancel_run(site.api, "run-1", clocks=site.clocks()) == ([again.name], [])
    assert reap(site.api, clocks=site.clocks()) == ([], [])
    pods = [f"Pod/{site.job.name}-worker-{index}" for index in range(2)]
    site.check_left(f"PyTorchJob/{site.job.name}", *pods)
    with site.time.lock:
        site.cluster.delete(WORKFLOW, "wf", NAMESPACE)
    assert reap(site.api, clocks=site.clocks()) == ([site.job.name], [])
    site.time.sleep(40)
    assert site.cluster.everything(NAMESPACE) == []


def test_a_job_that_cannot_be_marked_as_kept_is_not_said_to_be(site: Site) -> None:
    site.train(lambda job, index: [*RUNS, (5, finish(1))])
    denied = Refused(403, "Forbidden", 'pytorchjobs is forbidden: User "run" cannot patch resource "pytorchjobs"')
    site.server.faults.append(Fault("refuse", "patch", "pytorchjobs", times=100, answer=denied))
    ended = site.run(keep_failed=True)
    site.check(ended, Phase.FAILED, CauseKind.UNKNOWN)
    assert ended.kept == () and "not kept" in str(site.said("warning"))


def test_an_api_server_that_stays_away_ends_the_task_with_what_it_was(site: Site) -> None:
    site.train(lambda job, index: RUNS)
    away = Refused(503, "ServiceUnavailable", "etcd is gone")
    site.time.after(10, lambda: site.server.faults.append(Fault("refuse", times=100_000, answer=away)))
    with pytest.raises(Exception, match="etcd is gone"):
        site.run()
