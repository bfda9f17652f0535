"""A real API server takes what we send, keeps every field of it, and refuses in the words that our client understands.

KUBEBUILDER_ASSETS=$(setup-envtest use -p path) make test-control-plane
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.cluster import adapters
from tests.cluster.control_plane import ControlPlane, wait_for
from tests.cluster.real_site import RUN_ACCOUNT, RealSite, definition
from tests.cluster.valid import lost
from tutelage.runtimes.kubernetes.api import (
    EVENT,
    INFERENCESERVICE,
    POD,
    PYTORCHJOB,
    SPARKAPPLICATION,
    WORKFLOW,
    Api,
    ApiError,
    Resource,
)

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
NOBODY_SERVES = Resource("kubeflow.org", "v1", "xgboostjobs", "XGBoostJob")
RENDERED: list[Callable[..., Any]] = [adapters.training, adapters.spark, adapters.service]


def said(call: Callable[[], Any]) -> ApiError:
    """The ApiError that a call raises."""
    with pytest.raises(ApiError) as told:
        call()
    return told.value


def administrator(site: RealSite) -> Api:
    """A client of the site's namespace that may do everything."""
    site.token.write_text(site.plane.administrator.token)
    return site.connect()


def rendered(site: RealSite, adapter: Callable[..., Any], *, many: bool) -> dict[str, Any]:
    """What an adapter renders, for the site's namespace."""
    needs, settings = (adapters.MANY_NEEDS, adapters.MANY_SETTINGS) if many else (adapters.NEEDS, adapters.SETTINGS)
    body: dict[str, Any] = adapter(needs, settings).body
    body["metadata"]["namespace"] = site.namespace
    # An owner that does not exist would be taken for one that is gone, and the job collected.
    for reference in body["metadata"]["ownerReferences"]:
        reference.update(name="wf", uid=site.workflow["metadata"]["uid"])
    return body


def resource_of(body: dict[str, Any]) -> Resource:
    return {kind.kind: kind for kind in (PYTORCHJOB, SPARKAPPLICATION, INFERENCESERVICE)}[body["kind"]]


# --- what we send ---


@pytest.mark.parametrize("many", [False, True], ids=["plain", "everything set"])
@pytest.mark.parametrize("adapter", RENDERED, ids=lambda adapter: str(adapter.__name__))
def test_the_official_definitions_take_every_field_that_we_send(
    real_site: RealSite, adapter: Callable[..., Any], many: bool
) -> None:
    body = rendered(real_site, adapter, many=many)
    made = real_site.api.create(resource_of(body), body)
    assert lost(body, made) == []
    stored = real_site.api.get(resource_of(body), body["metadata"]["name"])
    assert stored is not None and lost(body, stored) == []
    added = {name: value for name, value in made["spec"].items() if name not in body["spec"]}
    assert added == {}


@pytest.mark.parametrize("adapter", RENDERED, ids=lambda adapter: str(adapter.__name__))
def test_status_is_a_subresource(real_site: RealSite, adapter: Callable[..., Any]) -> None:
    body = rendered(real_site, adapter, many=False)
    resource, name = resource_of(body), body["metadata"]["name"]
    status: dict[str, Any] = {"conditions": []}
    if resource is SPARKAPPLICATION:
        status = {"applicationState": {"state": "RUNNING"}, "driverInfo": {}}
    made = real_site.api.create(resource, body | {"status": status})
    assert "status" not in made
    assert "status" not in real_site.api.patch(resource, name, {"status": status})
    path = f"/apis/{resource.api_version}/namespaces/{real_site.namespace}/{resource.plural}/{name}/status"
    kind = "application/merge-patch+json"
    assert real_site.plane.client(real_site.token.read_text()).ask("PATCH", path, {"status": status}, kind)[0] == 403
    spec = {"spec": {"suspend": True}}
    changed = real_site.plane.administrator.must("PATCH", path, {"status": {"startTime": None, **status}} | spec, kind)
    assert changed["spec"] == made["spec"] and changed.get("status") is not None


def test_the_server_defaults_and_generations_are_those_of_the_fake(real_site: RealSite) -> None:
    made = real_site.api.create(PYTORCHJOB, real_site.job.body)
    assert made["metadata"]["generation"] == 1
    labelled = real_site.api.patch(PYTORCHJOB, real_site.job.name, {"metadata": {"labels": {"a": "b"}}})
    assert labelled["metadata"]["generation"] == 1
    policy = {"spec": {"runPolicy": {"suspend": True}}}
    assert real_site.api.patch(PYTORCHJOB, real_site.job.name, policy)["metadata"]["generation"] == 2


# --- refusals ---


def test_unknown_fields_are_refused_by_name(real_site: RealSite) -> None:
    body = real_site.job.body
    body["spec"]["runPolicy"]["cleanPodPolciy"] = "None"
    error = said(lambda: real_site.api.create(PYTORCHJOB, body))
    assert error.status == 400 and 'unknown field "spec.runPolicy.cleanPodPolciy"' in error.message


def test_a_wrong_type_is_invalid_with_its_path(real_site: RealSite) -> None:
    body = real_site.job.body
    body["spec"]["runPolicy"]["activeDeadlineSeconds"] = "soon"
    error = said(lambda: real_site.api.create(PYTORCHJOB, body))
    assert (error.status, error.reason) == (422, "Invalid") and "spec.runPolicy.activeDeadlineSeconds" in error.message


def test_a_name_is_taken_once(real_site: RealSite) -> None:
    real_site.api.create(PYTORCHJOB, real_site.job.body)
    error = said(lambda: real_site.api.create(PYTORCHJOB, real_site.job.body))
    assert (error.status, error.reason, error.retryable) == (409, "AlreadyExists", False)


def test_what_nobody_serves_is_told_from_what_is_not_there(real_site: RealSite) -> None:
    api = administrator(real_site)
    assert api.get(PYTORCHJOB, "none") is None
    assert api.delete(PYTORCHJOB, "none") is False
    for call in (
        lambda: api.get(NOBODY_SERVES, "none"),
        lambda: api.create(NOBODY_SERVES, {}),
        lambda: api.list(NOBODY_SERVES),
    ):
        error = said(call)
        assert (error.status, error.reason) == (404, "OperatorMissing")


def test_a_namespace_that_is_not_there_is_no_missing_operator(real_site: RealSite) -> None:
    api = administrator(real_site)
    api.namespace = "nowhere"
    body = real_site.job.body
    body["metadata"]["namespace"] = "nowhere"
    error = said(lambda: api.create(PYTORCHJOB, body))
    assert error.status == 404 and error.reason == "NotFound" and "nowhere" in error.message


def test_what_the_role_leaves_out_is_forbidden_with_the_verb(real_site: RealSite) -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": []}}
    error = said(lambda: real_site.api.create(POD, pod))
    assert error.status == 403 and "cannot create resource" in error.message and error.hint is not None
    assert f"system:serviceaccount:{real_site.namespace}:{RUN_ACCOUNT}" in error.message


def test_a_quota_is_told_in_words_that_are_known(real_site: RealSite) -> None:
    if not real_site.plane.has_controllers:
        pytest.skip("no kube-controller-manager: nobody counts quotas")
    limit(real_site, {"count/pytorchjobs.kubeflow.org": "1"})
    real_site.api.create(PYTORCHJOB, real_site.job.body)
    error = said(lambda: real_site.api.create(PYTORCHJOB, real_site.job.relaunched(1).body))
    assert error.status == 403 and "exceeded quota: tutelage" in error.message
    assert error.hint == "see the namespace's ResourceQuota"


def limit(site: RealSite, hard: dict[str, str]) -> None:
    """A quota in the site's namespace, counted."""
    path = f"/api/v1/namespaces/{site.namespace}/resourcequotas"
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "tutelage"}, "spec": {"hard": hard}}
    site.plane.administrator.must("POST", path, body)
    counted = lambda: (site.plane.administrator.must("GET", f"{path}/tutelage").get("status") or {}).get("used")
    # The controller learns of new kinds every 30 seconds, and counts them in its next round.
    wait_for("the quota is counted", counted, seconds=120)


def test_a_quota_that_nobody_has_counted_yet_is_a_quota_too(real_site: RealSite) -> None:
    from tutelage.runtimes.kubernetes import causes

    path = f"/api/v1/namespaces/{real_site.namespace}/resourcequotas"
    hard = {"count/pytorchjobs.kubeflow.org": "1"}
    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "tutelage"}, "spec": {"hard": hard}}
    real_site.plane.administrator.must("POST", path, body)
    # Counted within moments where a controller is, so nothing may be seen; what is seen must be known for what it is.
    refused: list[str] = []
    for ordinal in range(1, 6):
        try:
            real_site.api.create(PYTORCHJOB, real_site.job.relaunched(ordinal).body)
        except ApiError as error:
            refused.append(error.message)
    assert [message for message in refused if not causes.QUOTA.search(message)] == []
    assert refused


# --- tokens ---


def test_a_token_that_was_taken_back_is_read_again(real_site: RealSite) -> None:
    secrets = f"/api/v1/namespaces/{real_site.namespace}/secrets"
    holder = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "holder"}}
    uid = real_site.plane.administrator.must("POST", secrets, holder)["metadata"]["uid"]
    bound = {"apiVersion": "v1", "kind": "Secret", "name": "holder", "uid": uid}
    real_site.token.write_text(real_site.plane.token_of(real_site.namespace, RUN_ACCOUNT, bound))
    api = real_site.connect()
    assert api.get(PYTORCHJOB, "x") is None
    real_site.plane.administrator.must("DELETE", f"{secrets}/holder")
    # The server remembers for ten seconds whom it let in.
    stale = real_site.plane.client(real_site.token.read_text())
    path = f"/apis/kubeflow.org/v1/namespaces/{real_site.namespace}/pytorchjobs"
    wait_for("the token is refused", lambda: stale.ask("GET", path)[0] == 401)
    error = said(lambda: api.get(PYTORCHJOB, "x"))
    assert error.status == 401 and error.hint is not None
    real_site.token.write_text(real_site.plane.token_of(real_site.namespace, RUN_ACCOUNT))
    assert api.get(PYTORCHJOB, "x") is None


# --- objects ---


def test_deletion_spares_another_object_of_the_name(real_site: RealSite) -> None:
    made = real_site.api.create(PYTORCHJOB, real_site.job.body)
    assert real_site.api.delete(PYTORCHJOB, real_site.job.name, uid="another") is False
    assert real_site.api.get(PYTORCHJOB, real_site.job.name) is not None
    assert real_site.api.delete(PYTORCHJOB, real_site.job.name, uid=made["metadata"]["uid"]) is True
    assert real_site.api.get(PYTORCHJOB, real_site.job.name) is None


def test_lists_are_put_together_from_pages_also_when_one_has_expired(
    real_site: RealSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tutelage.runtimes.kubernetes.api.PAGE", 2)
    names = [real_site.job.relaunched(ordinal).name for ordinal in range(1, 6)]
    for ordinal in range(1, 6):
        real_site.api.create(PYTORCHJOB, real_site.job.relaunched(ordinal).body)
    labels = "tutelage.dev/run=run-1,app.kubernetes.io/managed-by=tutelage"
    assert [item["metadata"]["name"] for item in real_site.api.list(PYTORCHJOB, labels)] == names
    assert real_site.api.list(PYTORCHJOB, "tutelage.dev/run=other") == []
    send, pages = real_site.api._send, 0

    def compacted(*given: Any, **options: Any) -> Any:
        nonlocal pages
        answer, pages = send(*given, **options), pages + 1
        if pages == 1:
            real_site.api.patch(PYTORCHJOB, names[0], {"metadata": {"labels": {"a": "b"}}})
            real_site.plane.compact()
        return answer

    monkeypatch.setattr(real_site.api, "_send", compacted)
    assert [item["metadata"]["name"] for item in real_site.api.list(PYTORCHJOB, labels)] == names


def test_events_are_found_by_the_object_they_are_about(real_site: RealSite) -> None:
    made = real_site.api.create(PYTORCHJOB, real_site.job.body)
    real_site.cluster.event(real_site_kind(), made, "FailedCreatePod", "Error creating: exceeded quota", "Warning")
    (event,) = real_site.api.events("PyTorchJob", real_site.job.name, made["metadata"]["uid"])
    assert (event["reason"], event["type"]) == ("FailedCreatePod", "Warning")
    assert list(real_site.api.events("PyTorchJob", real_site.job.name, "another")) == []
    assert EVENT.plural == "events"


def real_site_kind() -> Any:
    from tests.cluster.objects import PYTORCHJOB as KIND

    return KIND


# --- watches ---


def test_a_watch_tells_changes_and_the_deletion(real_site: RealSite) -> None:
    made = real_site.api.create(PYTORCHJOB, real_site.job.body)
    changes = real_site.api.watch(PYTORCHJOB, real_site.job.name, made["metadata"]["resourceVersion"], 6)
    patch = {"metadata": {"labels": {"a": "b"}}}
    other = real_site.job.relaunched(1).body
    steps: list[Callable[[], Any]] = [
        lambda: administrator(real_site).create(PYTORCHJOB, other),
        lambda: administrator(real_site).patch(PYTORCHJOB, real_site.job.name, patch),
        lambda: administrator(real_site).delete(PYTORCHJOB, real_site.job.name),
    ]
    threading.Timer(0.5, lambda: [step() for step in steps]).start()
    seen = [(event.type, event.object["metadata"]["name"]) for event in changes if event.type != "BOOKMARK"]
    assert seen == [("MODIFIED", real_site.job.name), ("DELETED", real_site.job.name)]


def test_a_watch_ends_when_its_time_is_over(real_site: RealSite) -> None:
    made = real_site.api.create(PYTORCHJOB, real_site.job.body)
    events = list(real_site.api.watch(PYTORCHJOB, real_site.job.name, made["metadata"]["resourceVersion"], 2))
    assert {event.type for event in events} <= {"BOOKMARK"}


def test_a_watch_outlives_a_killed_server_and_an_old_version_is_expired(real_site: RealSite) -> None:
    made = real_site.api.create(PYTORCHJOB, real_site.job.body)
    since = made["metadata"]["resourceVersion"]
    threading.Timer(1.0, real_site.plane.kill_api_server).start()
    events = list(real_site.api.watch(PYTORCHJOB, real_site.job.name, since, 60))
    assert {event.type for event in events} <= {"BOOKMARK"}
    threading.Timer(2.0, real_site.plane.start_api_server).start()
    found = real_site.api.get(PYTORCHJOB, real_site.job.name)
    assert found is not None and found["metadata"]["uid"] == made["metadata"]["uid"]
    real_site.api.patch(PYTORCHJOB, real_site.job.name, {"metadata": {"labels": {"a": "b"}}})
    real_site.plane.compact()
    wait_for("the server is ready again", real_site.plane.ready)
    error = said(lambda: list(real_site.api.watch(PYTORCHJOB, real_site.job.name, since, 5)))
    assert (error.status, error.reason, error.retryable) == (410, "Expired", False)


# --- garbage ---


@pytest.fixture
def collecting(plane: ControlPlane) -> None:
    """Skips where nobody collects."""
    if not plane.has_controllers:
        pytest.skip("no kube-controller-manager: nobody collects garbage")


@pytest.mark.usefixtures("collecting")
@pytest.mark.parametrize("adapter", [adapters.training, adapters.spark], ids=["training", "spark"])
def test_a_job_goes_with_its_workflow(real_site: RealSite, adapter: Callable[..., Any]) -> None:
    body = rendered(real_site, adapter, many=False)
    real_site.api.create(resource_of(body), body)
    assert administrator(real_site).delete(WORKFLOW, "wf") is True
    gone = lambda: real_site.api.get(resource_of(body), body["metadata"]["name"]) is None
    wait_for("the job is collected", gone)


@pytest.mark.usefixtures("collecting")
def test_a_job_whose_workflow_never_was_is_collected(real_site: RealSite) -> None:
    body = real_site.job.body
    body["metadata"]["ownerReferences"][0]["uid"] = "0b3c1c3e-33f7-4c0a-9a54-5a8b7bb6f1d2"
    real_site.api.create(PYTORCHJOB, body)
    wait_for("the job is collected", lambda: real_site.api.get(PYTORCHJOB, real_site.job.name) is None)


def test_only_an_owner_that_is_blocked_needs_a_right_over_it(real_site: RealSite) -> None:
    body = real_site.job.body
    (reference,) = body["metadata"]["ownerReferences"]
    assert reference["blockOwnerDeletion"] is False
    reference["blockOwnerDeletion"] = True
    error = said(lambda: real_site.api.create(PYTORCHJOB, body))
    assert error.status == 403 and "blockOwnerDeletion" in error.message
    reference["blockOwnerDeletion"] = False
    assert real_site.api.create(PYTORCHJOB, body)["metadata"]["ownerReferences"] == [reference]


def test_the_definitions_are_the_official_ones_less_conversion(plane: ControlPlane) -> None:
    for kind in ("PyTorchJob", "SparkApplication", "InferenceService", "Workflow"):
        name = definition(kind)["metadata"]["name"]
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        conditions = {item["type"]: item for item in plane.administrator.must("GET", path)["status"]["conditions"]}
        assert conditions["Established"]["status"] == conditions["NamesAccepted"]["status"] == "True"
        assert conditions.get("NonStructuralSchema", {}).get("status") != "True", conditions
