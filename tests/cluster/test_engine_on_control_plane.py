"""The engine, from ensure to clean, on a real API server: what `test_engine_*.py` show on the fake one, in real time.

    KUBEBUILDER_ASSETS=$(setup-envtest use -p path) make test-control-plane

Operators are the simulators of the fake cluster; objects, pods, roles, watches, finalizers, quotas and logs are real.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.bench import prints
from tests.cluster.control_plane import ControlPlane, wait_for
from tests.cluster.kubelet import register
from tests.cluster.objects import PYTORCHJOB, WORKFLOW, Object
from tests.cluster.operators import Life, evict, finish, image_error, schedule, start
from tests.cluster.real_site import RealSite
from tutelage.runtimes.kubernetes.causes import CauseKind
from tutelage.runtimes.kubernetes.engine import NameTaken, cancel_run, reap
from tutelage.runtimes.kubernetes.jobs import Phase
from tutelage.runtimes.kubernetes.names import HASH_ANNOTATION
from tutelage.runtimes.kubernetes.sparkapplication import SparkApplication

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
RUNS = [(1.0, schedule), (2.0, start), (3.0, prints("step 0"))]


@dataclass(frozen=True)
class Altered:
    """A job with another body."""

    job: Any
    body: Object

    def __getattr__(self, name: str) -> Any:
        return getattr(self.job, name)


@pytest.fixture
def site(real_site: RealSite) -> RealSite:
    return real_site


@pytest.fixture
def queued_site(plane: ControlPlane, tmp_path: Path) -> Iterator[RealSite]:
    site = RealSite(plane, tmp_path, queue="team")
    yield site
    site.close()


def held(site: RealSite) -> Any:
    """The site's job with a finalizer that nobody serves."""
    body = site.job.body
    body["metadata"]["finalizers"] = ["example.com/hold"]
    return Altered(site.job, body)


def let_go(site: RealSite) -> None:
    site.cluster.update(PYTORCHJOB, site.job.name, site.namespace, lambda item: item["metadata"].update(finalizers=[]))


# --- ends well ---


def test_a_job_runs_to_its_end_and_nothing_is_left(site: RealSite) -> None:
    site.train(site.working)
    ended = site.run()
    site.check(ended, Phase.SUCCEEDED)
    assert site.prepared == [ended.job] and len(site.nodes.printed) == 20
    assert site.said("warning") == []


def test_a_spark_application_runs_to_its_end(site: RealSite) -> None:
    given = {name: getattr(site.job, name) for name in ("identity", "namespace", "settings", "needs", "requests")}
    site.job = SparkApplication(**given, image="tutelage/python-spark:1")

    def life(application: Object, role: str) -> Life:
        lines = [(3 + step, prints(f"step {step}")) for step in range(4)]
        end = [(12, site.leaves(job=application["metadata"]["name"])), (13, finish(0))] if role == "driver" else []
        return [(1, schedule), (2, start), *lines, *end]

    site.spark(life)
    site.check(site.run(), Phase.SUCCEEDED)
    assert len(site.nodes.printed) >= 8


def test_a_retried_launcher_adopts_the_running_job(site: RealSite) -> None:
    operator = site.train(site.working)
    made = site.connect().create(site.job.resource, site.job.body)
    wait_for("pods are there", lambda: operator.made == 2)
    site.time.sleep(6)
    ended = site.run()
    site.check(ended, Phase.SUCCEEDED)
    assert ended.job == made["metadata"]["name"] == site.job.name
    assert site.prepared == [] and operator.made == 2


def test_a_job_of_that_name_which_is_going_is_waited_for(site: RealSite) -> None:
    operator = site.train(site.working)
    site.api.create(site.job.resource, held(site).body)
    wait_for("pods are there", lambda: operator.made == 2)
    site.api.delete(site.job.resource, site.job.name)
    site.time.after(20, lambda: let_go(site))
    ended = site.run()
    assert (ended.phase, ended.attempts, operator.made) == (Phase.SUCCEEDED, 1, 4)
    site.check_left()


def test_a_restart_of_the_api_server_is_outlived(site: RealSite) -> None:
    operator = site.train(site.working)
    site.restart(after_seconds=1.5, outage_seconds=2)
    site.check(site.run(), Phase.SUCCEEDED)
    assert operator.made == 2


def test_a_restart_while_the_job_is_made_is_outlived(site: RealSite) -> None:
    site.train(site.working)
    site.restart(after_seconds=0, outage_seconds=2)
    time.sleep(0.5)
    site.check(site.run(), Phase.SUCCEEDED)
    assert len(site.prepared) == 1


def test_a_store_behind_the_server_that_stands_still_is_outlived(site: RealSite) -> None:
    site.train(site.working)
    etcd = site.plane.processes["etcd"]
    pauses = [
        threading.Timer(1.5, etcd.send_signal, [signal.SIGSTOP]),
        threading.Timer(7.5, etcd.send_signal, [signal.SIGCONT]),
    ]
    for pause in pauses:
        pause.start()
    try:
        site.check(site.run(), Phase.SUCCEEDED)
    finally:
        etcd.send_signal(signal.SIGCONT)


def test_a_watch_that_has_expired_is_begun_anew(site: RealSite, monkeypatch: pytest.MonkeyPatch) -> None:
    site.train(site.working)
    # The engine falls behind: what it asks to watch from is gone from a server that was started since, and from etcd.
    from tutelage.runtimes.kubernetes.api import Api, ApiError

    watch = Api.watch
    expired: list[tuple[int, str]] = []

    def behind(self: Api, resource: Any, name: str, since: str, timeout_seconds: int = 60) -> Any:
        try:
            yield from watch(self, resource, name, "1" if len(expired) < 2 else since, timeout_seconds)
        except ApiError as error:
            expired.append((error.status, error.reason))
            raise

    monkeypatch.setattr(Api, "watch", behind)
    site.plane.kill_api_server()
    site.plane.compact()
    site.plane.start_api_server()
    site.check(site.run(), Phase.SUCCEEDED)
    assert expired == [(410, "Expired")] * 2


def test_a_job_is_suspended_and_resumed(queued_site: RealSite) -> None:
    site = queued_site
    operator = site.train(site.working)
    site.time.after(15, lambda: site.kueue.admit(PYTORCHJOB, site.namespace))
    site.time.after(22, lambda: site.kueue.preempt(PYTORCHJOB, site.namespace))
    site.time.after(40, lambda: site.kueue.admit(PYTORCHJOB, site.namespace))
    ended = site.run()
    assert ended.phase is Phase.SUCCEEDED and operator.made == 4, ended
    assert [fields for fields in site.said("progress") if fields.get("suspended")]
    assert site.used.spent["queue"] > 10
    site.check_left()


# --- ends badly ---


def test_a_name_with_another_spec_is_refused_and_left_alone(site: RealSite) -> None:
    body = site.job.body
    body["metadata"]["annotations"][HASH_ANNOTATION] = "0" * 32
    site.api.create(site.job.resource, body)
    with pytest.raises(NameTaken, match=site.job.name):
        site.run()
    site.check_left(f"PyTorchJob/{site.job.name}")


def test_a_cancelled_run_leaves_nothing(site: RealSite) -> None:
    site.train(lambda job, index: RUNS)
    site.time.after(15, site.cancel_now)
    site.check(site.run(), Phase.FAILED, CauseKind.CANCELLED)


def test_a_job_that_somebody_else_deletes_is_gone_and_not_made_again(site: RealSite) -> None:
    operator = site.train(lambda job, index: RUNS)
    site.time.after(15, lambda: site.cluster.delete(PYTORCHJOB, site.job.name, site.namespace))
    site.check(site.run(), Phase.GONE, CauseKind.DELETED)
    assert operator.made == 2


def test_a_deleted_workflow_takes_the_job_with_it(site: RealSite) -> None:
    if not site.plane.has_controllers:
        pytest.skip("no kube-controller-manager: nobody collects garbage")
    site.train(lambda job, index: RUNS)
    site.time.after(15, lambda: site.cluster.delete(WORKFLOW, "wf", site.namespace))
    ended = site.run()
    assert (ended.phase, ended.cause and ended.cause.kind) == (Phase.GONE, CauseKind.DELETED)
    wait_for("nothing is left", lambda: site.cluster.everything(site.namespace) == [])


def test_what_a_finalizer_holds_is_reported_and_not_waited_for_without_end(site: RealSite) -> None:
    site.job = held(site)
    site.train(site.working)
    ended = site.run(clocks=site.clocks(delete_seconds=20.0))
    assert ended.phase is Phase.SUCCEEDED and site.job.name in ended.kept
    assert "a finalizer?" in str(site.said("warning"))
    let_go(site)
    site.check_left()


def test_a_worker_that_fails_is_told_from_its_container(site: RealSite) -> None:
    site.train(lambda job, index: [*RUNS, (6, finish(137, "OOMKilled"))] if index == 1 else [*RUNS, (7, finish(1))])
    site.check(site.run(), Phase.FAILED, CauseKind.OUT_OF_MEMORY)


def test_an_eviction_is_tried_again_under_another_name(site: RealSite) -> None:
    lives = iter([True, True])
    site.train(lambda job, index: [*RUNS, (6, evict)] if next(lives, False) else site.working(job, index))
    ended = site.run()
    site.check(ended, Phase.SUCCEEDED, attempts=2)
    assert ended.job == site.job.relaunched(1).name


def test_an_image_that_cannot_be_pulled_is_told(site: RealSite) -> None:
    site.train(lambda job, index: [(1, schedule), (2, image_error())])
    ended = site.run(clocks=site.clocks(grace_seconds=15.0))
    site.check(ended, Phase.FAILED, CauseKind.IMAGE)


def test_a_role_that_is_taken_away_is_told(site: RealSite) -> None:
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{site.namespace}/rolebindings/tutelage-run"
    site.plane.administrator.must("DELETE", path)
    refused = lambda: site.plane.client(site.token.read_text()).ask("GET", site.cluster.path(PYTORCHJOB))[0] == 403
    wait_for("the role is gone", refused)
    ended = site.run()
    assert (ended.phase, ended.cause and ended.cause.kind) == (Phase.FAILED, CauseKind.FORBIDDEN)
    assert ended.cause is not None and "Role tutelage-run" in str(ended.cause.hint)


@pytest.mark.parametrize("hard", ["pods", "count/pytorchjobs.kubeflow.org"])
def test_denied_quota_is_told(site: RealSite, hard: str) -> None:
    if not site.plane.has_controllers:
        pytest.skip("no kube-controller-manager: nobody counts quotas")
    from tests.cluster.test_control_plane import limit

    limit(site, {hard: "0"})
    site.train(site.working)
    ended = site.run(clocks=site.clocks(grace_seconds=20.0))
    site.check(ended, Phase.FAILED, CauseKind.QUOTA)
    assert ended.cause is not None and "exceeded quota" in ended.cause.message


@pytest.mark.parametrize(
    ("field", "value"), [("cleanPodPolciy", "None"), ("activeDeadlineSeconds", "soon")], ids=["unknown", "type"]
)
def test_a_body_that_breaks_the_schema_is_refused_with_the_field(site: RealSite, field: str, value: str) -> None:
    body = site.job.body
    body["spec"]["runPolicy"][field] = value
    site.job = Altered(site.job, body)
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.INVALID_SPEC)
    assert ended.cause is not None and field in ended.cause.message


def test_what_a_policy_denies_is_an_invalid_spec_and_no_missing_right(site: RealSite) -> None:
    rules = {
        "apiGroups": ["kubeflow.org"],
        "apiVersions": ["v1"],
        "operations": ["CREATE"],
        "resources": ["pytorchjobs"],
    }
    check = {"expression": "false", "message": "too many workers", "reason": "Forbidden"}
    policy: Object = {"matchConstraints": {"resourceRules": [rules]}, "validations": [check]}
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": site.namespace}}}
    bound = {"policyName": site.namespace, "validationActions": ["Deny"], "matchResources": here}
    group = "/apis/admissionregistration.k8s.io/v1"
    for plural, spec in (("validatingadmissionpolicies", policy), ("validatingadmissionpolicybindings", bound)):
        body = {"metadata": {"name": site.namespace}, "spec": spec}
        site.plane.administrator.must("POST", f"{group}/{plural}?fieldValidation=Strict", body)
    path = f"{site.cluster.path(PYTORCHJOB)}?dryRun=All"
    wait_for("the policy is in force", lambda: site.plane.administrator.ask("POST", path, site.job.body)[0] == 403)
    ended = site.run()
    site.check(ended, Phase.FAILED, CauseKind.INVALID_SPEC)
    assert ended.cause is not None and "too many workers" in ended.cause.message
    assert "Role" not in str(ended.cause.hint)


def test_pods_that_the_namespace_refuses_are_told(site: RealSite) -> None:
    body = site.job.body
    template = body["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]["spec"]
    template["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    site.job = Altered(site.job, body)
    site.train(site.working)
    ended = site.run(clocks=site.clocks(grace_seconds=20.0))
    site.check(ended, Phase.FAILED, CauseKind.INVALID_SPEC)
    assert ended.cause is not None and "violates PodSecurity" in ended.cause.message


# --- logs that cannot be had ---


def test_a_node_that_does_not_answer_for_logs_fails_no_run_and_is_told(site: RealSite) -> None:
    site.kubelet.stop()
    site.train(site.working)
    ended = site.run(clocks=site.clocks(settle_seconds=20.0))
    assert ended.phase is Phase.SUCCEEDED
    assert "could not be read" in str(site.said("warning"))
    site.check_left()


def test_a_node_that_is_gone_fails_no_run_and_is_told(site: RealSite) -> None:
    site.plane.administrator.must("DELETE", "/api/v1/nodes/node-1")
    try:
        site.train(site.working)
        ended = site.run(clocks=site.clocks(settle_seconds=20.0))
        assert ended.phase is Phase.SUCCEEDED
        assert "could not be read" in str(site.said("warning"))
        site.check_left()
    finally:
        register(site.plane, 1)


# --- sweeping up ---


def test_a_run_is_cancelled_by_label_and_orphans_are_reaped(site: RealSite) -> None:
    site.api.create(site.job.resource, site.job.body)
    assert reap(site.api, clocks=site.clocks()) == ([], [])
    assert cancel_run(site.api, "run-1", clocks=site.clocks()) == ([site.job.name], [])
    site.check_left()
    # Its Workflow is another of the same name: garbage collection would see it too, were there time.
    orphan = site.job.body
    orphan["metadata"]["ownerReferences"][0]["uid"] = "0b3c1c3e-33f7-4c0a-9a54-5a8b7bb6f1d2"
    orphan["metadata"]["finalizers"] = ["example.com/hold"]
    site.api.create(site.job.resource, orphan)
    site.time.after(5, lambda: let_go(site))
    assert reap(site.api, clocks=site.clocks()) == ([site.job.name], [])
    site.check_left()
