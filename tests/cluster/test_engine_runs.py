"""The engine on jobs that end well, whatever the cluster does meanwhile: queues, restarts, expiry, storms, skewed clocks."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.api_server import Fault
from tests.cluster.bench import NAMESPACE, Site, prints
from tests.cluster.objects import PYTORCHJOB, Object, Refused
from tests.cluster.operators import Life, evict, finish, preempt, schedule, start
from tutelage.runtimes.kubernetes.causes import CauseKind
from tutelage.runtimes.kubernetes.engine import NameTaken, cancel_run, reap
from tutelage.runtimes.kubernetes.jobs import Phase
from tutelage.runtimes.kubernetes.names import HASH_ANNOTATION

HOURS = 3600.0


def test_a_job_runs_to_its_end_and_nothing_is_left(site: Site) -> None:
    site.train(site.working)
    ended = site.run()
    site.check(ended, Phase.SUCCEEDED)
    assert site.prepared == [ended.job] and len(site.nodes.printed) == 20
    assert site.server.count("create", "pytorchjobs") == 1


def test_a_spark_application_runs_to_its_end(site: Site) -> None:
    from tutelage.runtimes.kubernetes.sparkapplication import SparkApplication

    given = {name: getattr(site.job, name) for name in ("identity", "namespace", "settings", "needs", "requests")}
    site.job = SparkApplication(**given, image="tutelage/python-spark:1")

    def life(application: Object, role: str) -> Life:
        lines = [(3 + step, prints(f"step {step}")) for step in range(4)]
        end = [(8, site.leaves(job=application["metadata"]["name"])), (9, finish(0))] if role == "driver" else []
        return [(1, schedule), (2, start), *lines, *end]

    site.spark(life)
    site.check(site.run(), Phase.SUCCEEDED)
    assert len(site.nodes.printed) >= 8


def test_a_retried_launcher_adopts_the_running_job(site: Site) -> None:
    operator = site.train(site.working)
    made = site.connect().create(site.job.resource, site.job.body)
    site.time.sleep(9)
    ended = site.run()
    site.check(ended, Phase.SUCCEEDED)
    assert ended.job == made["metadata"]["name"] == site.job.name
    assert site.prepared == [] and operator.made == 2


def test_a_retried_launcher_adopts_a_job_that_has_ended(site: Site) -> None:
    site.train(site.working)
    site.connect().create(site.job.resource, site.job.body)
    site.time.sleep(60)
    site.check(site.run(), Phase.SUCCEEDED)
    assert site.prepared == []


def test_a_name_with_another_spec_is_refused_and_left_alone(site: Site) -> None:
    site.train(lambda job, index: [(1, schedule), (2, start)])
    body = site.job.body
    body["metadata"]["annotations"][HASH_ANNOTATION] = "0" * 32
    site.connect().create(site.job.resource, body)
    with pytest.raises(NameTaken, match=site.job.name):
        site.run()
    names = [f"Pod/{site.job.name}-worker-{index}" for index in range(2)]
    site.check_left(f"PyTorchJob/{site.job.name}", *names)


def test_a_job_of_that_name_which_is_going_is_waited_for(site: Site) -> None:
    operator = site.train(site.working)
    body = site.job.body
    body["metadata"]["finalizers"] = ["example.com/slow"]
    site.cluster.create(PYTORCHJOB, body, NAMESPACE)
    site.time.sleep(5)
    site.cluster.delete(PYTORCHJOB, site.job.name, NAMESPACE)
    free = lambda item: item["metadata"].update(finalizers=[])
    site.time.after(30, lambda: site.cluster.update(PYTORCHJOB, site.job.name, NAMESPACE, free))
    ended = site.run()
    assert (ended.phase, ended.attempts) == (Phase.SUCCEEDED, 1)
    assert operator.made == 4
    site.check_left()


def test_a_restart_of_the_api_server_is_outlived(site: Site) -> None:
    site.train(site.working)
    site.time.after(6, lambda: site.server.restart(outage_seconds=20))
    site.check(site.run(), Phase.SUCCEEDED)


def test_a_restart_while_the_job_is_made_is_outlived(site: Site) -> None:
    site.train(site.working)
    site.server.restart(outage_seconds=45)
    site.check(site.run(), Phase.SUCCEEDED)
    assert len(site.prepared) == 1


def test_a_server_that_comes_up_without_its_roles_fails_no_run_and_loses_no_line(site: Site) -> None:
    site.train(site.working)
    site.time.after(6, lambda: site.server.restart(outage_seconds=20))
    since_start = lambda: 26 <= site.time.seconds < 33
    denied = Refused(403, "Forbidden", 'pods is forbidden: User "run" cannot list resource "pods" in API group ""')
    site.server.faults.append(Fault("refuse", times=10_000, answer=denied, when=since_start))
    site.check(site.run(), Phase.SUCCEEDED)
    assert site.server.faults[0].seen > 1 and site.said("warning") == []


def test_a_watch_may_expire_twice(site: Site) -> None:
    site.train(site.working)
    for seconds in (5, 9):
        site.time.after(seconds, site.server.expire_watches)
    gone = site.cluster.expired()
    site.server.faults += [Fault("refuse", "watch", answer=gone), Fault("cut", "watch", after=1, times=2)]
    site.check(site.run(), Phase.SUCCEEDED)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_storms_of_429_5xx_and_resets_are_outlived(site: Site, seed: int) -> None:
    operator = site.train(site.working)
    site.server.storm(90, seed=seed)
    site.check(site.run(), Phase.SUCCEEDED)
    assert operator.made == 2 and len(set(site.server.statuses)) >= 4


def test_a_log_that_is_refused_for_longer_than_logs_settle_is_waited_for(site: Site) -> None:
    site.train(site.working)
    away = Refused(503, "ServiceUnavailable", "overloaded")
    until = lambda: site.time.seconds < 250
    site.server.faults.append(Fault("refuse", "get", "pods", "log", times=10_000, answer=away, when=until))
    site.check(site.run(), Phase.SUCCEEDED)
    assert site.time.seconds > 250 and site.said("warning") == []


def test_a_log_of_an_ended_container_that_is_cut_is_read_again(site: Site) -> None:
    site.train(site.working)
    site.connect().create(site.job.resource, site.job.body)
    site.time.sleep(60)
    site.server.faults.append(Fault("cut", "get", "pods", "log", times=5, after=3))
    site.check(site.run(), Phase.SUCCEEDED)
    assert [fault.seen for fault in site.server.faults] == [5]


def test_retry_after_is_kept_to(site: Site) -> None:
    site.train(site.working)
    busy = Refused(429, "TooManyRequests", "slow down", retry_after=25)
    site.server.faults.append(Fault("refuse", "create", answer=busy))
    site.check(site.run(), Phase.SUCCEEDED)
    job_made = site.time.seconds
    assert job_made >= 25


@pytest.mark.parametrize("what", ["lose", "reset"])
def test_a_lost_reply_to_create_makes_one_job(site: Site, what: str) -> None:
    operator = site.train(site.working)
    site.server.faults.append(Fault(what, "create"))
    site.check(site.run(), Phase.SUCCEEDED)
    assert operator.made == 2 and set(site.prepared) == {site.job.name}
    assert len([name for name in site.cluster.everything(NAMESPACE) if "Job" in name]) == 0


def test_cut_log_streams_lose_and_double_nothing(site: Site) -> None:
    site.train(site.working)
    site.server.faults += [
        Fault("cut", "get", "pods", "log", times=8, after=2),
        Fault("reset", "get", "pods", "log", times=4),
    ]
    site.check(site.run(), Phase.SUCCEEDED)
    assert all(fault.seen == fault.times for fault in site.server.faults)


def test_a_container_that_is_started_again_keeps_both_logs(site: Site) -> None:
    def life(job: Object, index: int) -> Life:
        again = lambda nodes, pod: nodes.restart_container(pod, 1)
        end = [(11, site.leaves()), (12, finish(0))]
        return [(1, schedule), (2, start), (3, prints("before")), (5, again), (9, prints("after")), *end]

    site.train(life)
    site.check(site.run(), Phase.SUCCEEDED)


def test_hours_in_a_queue_count_for_no_other_clock(queued_site: Site) -> None:
    site = queued_site
    site.train(site.working)
    site.time.after(3 * HOURS, lambda: site.kueue.admit(PYTORCHJOB, NAMESPACE))
    site.check(site.run(), Phase.SUCCEEDED)
    assert site.used.spent["queue"] >= 3 * HOURS - 60 and site.used.spent["run"] < 60
    queued = [fields for fields in site.said("progress") if fields.get("phase") == "queued"]
    assert 3 * 60 * 0.9 <= len(queued) <= 3 * 60 * 1.5


def test_a_preempted_job_waits_again_and_runs_again(queued_site: Site) -> None:
    site = queued_site
    operator = site.train(site.working)
    for seconds, step in ((60, site.kueue.admit), (70, site.kueue.preempt), (2 * HOURS, site.kueue.admit)):
        site.time.after(seconds, lambda step=step: step(PYTORCHJOB, NAMESPACE))
    site.check(site.run(), Phase.SUCCEEDED)
    assert operator.made == 4 and site.used.spent["queue"] >= 1.9 * HOURS


@pytest.mark.parametrize(("what", "kind"), [(evict, CauseKind.EVICTED), (preempt, CauseKind.PREEMPTED)])
def test_what_the_cluster_ended_is_started_again_as_another_job(site: Site, what: Any, kind: CauseKind) -> None:
    first = site.job.name

    def life(job: Object, index: int) -> Life:
        if job["metadata"]["name"] == first and index == 1:
            return [(1, schedule), (2, start), (3, prints("step 0")), (5, what)]
        if job["metadata"]["name"] == first:
            return [(1, schedule), (2, start), (3, prints("step 0"))]
        return site.working(job, index)

    site.train(life)
    ended = site.run()
    site.check(ended, Phase.SUCCEEDED, attempts=2)
    assert ended.job == site.job.relaunched(1).name != first
    (relaunched,) = site.said("relaunched")
    assert kind.value in str(relaunched)


def test_a_rotated_token_is_read_again(site: Site) -> None:
    site.train(site.working)

    def rotate() -> None:
        site.accounts.rotate("first", "second")
        site.token.write_text("second")

    site.time.after(6, rotate)
    site.check(site.run(), Phase.SUCCEEDED)
    assert 401 in site.server.statuses


def test_ranks_that_hang_after_the_end_do_not_hold_the_task(site: Site) -> None:
    def life(job: Object, index: int) -> Life:
        return site.working(job, index) if index == 0 else [(1, schedule), (2, start), (3, prints("step 0"))]

    site.train(life)
    ended = site.run()
    site.check(ended, Phase.SUCCEEDED)
    assert site.time.seconds < 600


def test_a_job_that_hangs_entirely_after_its_manifest_counts_as_done(site: Site) -> None:
    def life(job: Object, index: int) -> Life:
        return [(1, schedule), (2, start), (3, prints("step 0"))] + ([(5, site.leaves())] if index == 0 else [])

    site.train(life)
    site.check(site.run(), Phase.SUCCEEDED)
    assert site.time.seconds < 600


@pytest.mark.parametrize("hours", [-30, 30])
def test_clocks_of_the_cluster_may_be_days_off(site: Site, hours: int) -> None:
    site.time.skew_seconds = hours * HOURS
    site.train(site.working)
    site.server.faults.append(Fault("cut", "get", "pods", "log", times=4, after=3))
    site.check(site.run(), Phase.SUCCEEDED)


def test_a_clock_that_jumps_backwards_loses_no_line(site: Site) -> None:
    site.train(site.working)
    site.server.faults.append(Fault("cut", "get", "pods", "log", times=2, after=6))

    def back() -> None:
        site.time.skew_seconds = -300.0

    site.time.after(8, back)
    site.check(site.run(), Phase.SUCCEEDED)


def test_a_stuck_finalizer_is_reported_and_not_waited_for(site: Site) -> None:
    site.train(site.working)
    hold = lambda item: item["metadata"].update(finalizers=["example.com/never"])
    site.time.after(5, lambda: site.cluster.update(PYTORCHJOB, site.job.name, NAMESPACE, hold))
    ended = site.run(clocks=site.clocks(delete_seconds=30))
    assert (ended.phase, ended.cause) == (Phase.SUCCEEDED, None)
    assert any(site.job.name in name for name in ended.kept), ended
    assert "finalizer" in str(site.said("warning"))
    assert site.time.seconds < 600
    site.check_log()
    assert f"PyTorchJob/{site.job.name}" in site.cluster.everything(NAMESPACE)


def test_cancelling_a_run_by_label_leaves_other_runs_alone(site: Site) -> None:
    site.train(lambda job, index: [(1, schedule), (2, start)])
    site.api.create(site.job.resource, site.job.body)
    body = site.job.body
    body["metadata"] |= {"name": "other", "labels": {**body["metadata"]["labels"], "tutelage.dev/run": "run-2"}}
    site.api.create(site.job.resource, body)
    site.time.sleep(5)
    assert cancel_run(site.api, "run-1", clocks=site.clocks()) == ([site.job.name], [])
    site.check_left("Pod/other-worker-0", "Pod/other-worker-1", "PyTorchJob/other")


def test_orphans_are_reaped_when_their_workflow_is_gone(site: Site) -> None:
    site.train(lambda job, index: [(1, schedule), (2, start)])
    site.api.create(site.job.resource, site.job.body)
    body = site.job.body
    lost = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "gone", "uid": "11111111-2222"}
    body["metadata"] |= {"name": "orphan", "ownerReferences": [lost]}
    site.api.create(site.job.resource, body)
    assert reap(site.api, clocks=site.clocks()) == (["orphan"], [])
    site.time.sleep(5)
    assert site.cluster.find(PYTORCHJOB, site.job.name, NAMESPACE) is not None
