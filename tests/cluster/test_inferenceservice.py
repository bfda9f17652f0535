"""InferenceServices: what KServe is given, what its status means, and promotion with its way back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import adapters, rollouts, valid
from tests.cluster.adapters import condition, container, pod
from tests.cluster.answers import merged
from tests.cluster.bench import NAMESPACE, Site
from tests.cluster.objects import INFERENCESERVICE, Object
from tests.cluster.promotions import NEW, OLD, SMOKE, STABLE, Stage, crashing, refuse, written
from tutelage.errors import StepFailed
from tutelage.runtimes.kubernetes import promotion
from tutelage.runtimes.kubernetes.causes import CauseKind
from tutelage.runtimes.kubernetes.ensure import NameTaken
from tutelage.runtimes.kubernetes.inferenceservice import RELEASE_LABEL, address_of
from tutelage.runtimes.kubernetes.jobs import INFERENCESERVICE as RESOURCE
from tutelage.runtimes.kubernetes.jobs import Phase
from tutelage.runtimes.kubernetes.readiness import Patience
from tutelage.runtimes.kubernetes.replacing import merge_patch, release_of


def body(**more: Any) -> dict[str, Any]:
    return adapters.service(**more).body


# What KServe is given.


@pytest.mark.parametrize("stable", [False, True], ids=["smoke", "stable"])
@pytest.mark.parametrize("settings", [adapters.SETTINGS, adapters.MANY_SETTINGS], ids=["plain", "full"])
@pytest.mark.parametrize("needs", [adapters.NEEDS, adapters.MANY_NEEDS], ids=["plain", "full"])
def test_the_api_server_takes_it(needs: dict[str, Any], settings: dict[str, Any], stable: bool) -> None:
    assert valid.refused(body(needs=needs, settings=settings, stable=stable)) == []


def test_the_schema_refuses_what_it_does_not_know() -> None:
    wrong = body()
    wrong["spec"]["predictor"]["minReplica"] = 1
    wrong["spec"]["predictor"]["containers"][0]["ports"][0]["containerPort"] = "8080"
    assert [line.split(":")[0] for line in valid.refused(wrong)] == [
        "spec.predictor.minReplica", "spec.predictor.containers[0].ports[0].containerPort",
    ]  # fmt: skip


def test_kserves_own_models_lose_nothing_of_it() -> None:
    whole = body(needs=adapters.MANY_NEEDS, settings=adapters.MANY_SETTINGS, stable=True)
    assert valid.lost(whole, valid.through_models(whole, "kserve", "V1beta1InferenceService")) == []


def test_our_image_serves_and_reads_the_store_itself() -> None:
    service = adapters.service()
    predictor = service.body["spec"]["predictor"]
    (only,) = predictor["containers"]
    assert only["name"] == "kserve-container" and only["image"].startswith("registry.example.com/tutelage/python-serve")
    assert only["command"] == ["python3", "-m", "tutelage.serve.server"]
    flags = dict(zip(only["args"][::2], only["args"][1::2], strict=True))
    assert flags["--manifest"] == service.model and flags["--digest"] == OLD
    assert (flags["--host"], flags["--port"], flags["--name"]) == ("0.0.0.0", "8080", "tiny")
    assert flags["--model"].startswith("/var/cache/tutelage/")
    assert not {"model", "storageUris", "pytorch"} & set(predictor)
    # KServe refuses this one, and STORAGE_URI would start its storage initializer.
    assert not {"PYTHONPATH", "STORAGE_URI"} & {entry["name"] for entry in only["env"]}


def test_probes_wait_for_the_model_as_long_as_the_start_clock() -> None:
    (only,) = body(needs=adapters.MANY_NEEDS)["spec"]["predictor"]["containers"]
    startup = only["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] == 900
    assert only["readinessProbe"]["httpGet"] == {"path": "/v2/health/ready", "port": 8080, "scheme": "HTTP"}
    assert only["livenessProbe"]["httpGet"]["path"] == "/v2/health/live"


def test_the_server_has_the_routes_that_probes_ask() -> None:
    # In a process of its own: kserve registers metrics once, and parses the command line when it is imported.
    import subprocess
    import sys

    program = (
        "from kserve import ModelRepository; from kserve.model_server import app; "
        "from kserve.protocol.dataplane import DataPlane; from kserve.protocol.rest.server import RESTServer; "
        "from kserve.protocol.model_repository_extension import ModelRepositoryExtension as Extension; "
        "m = ModelRepository(); RESTServer('x:y', DataPlane(m), Extension(m), 0).create_application(); "
        "print(sorted(app.openapi()['paths']))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "'/v2/health/ready'" in done.stdout and "'/v2/health/live'" in done.stdout


def test_smoke_and_stable_are_one_release_under_two_names() -> None:
    smoke, stable = body(), body(stable=True)
    assert smoke["metadata"]["name"] == adapters.service().identity.name
    assert stable["metadata"]["name"] == "tutelage-model"
    for each in (smoke, stable):
        assert each["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
        assert each["spec"]["predictor"]["labels"][RELEASE_LABEL] == release_of(each)
    assert smoke["metadata"]["labels"]["networking.kserve.io/visibility"] == "cluster-local"
    assert smoke["metadata"]["ownerReferences"][0]["kind"] == "Workflow"
    assert "ownerReferences" not in stable["metadata"], "Workflows are deleted, what users talk to stays"
    assert body(needs=adapters.MANY_NEEDS)["spec"]["predictor"]["minReplicas"] == 1
    assert body(needs=adapters.MANY_NEEDS, stable=True)["spec"]["predictor"]["minReplicas"] == 3


# What its status means.


def state(
    *conditions: dict[str, str], model: dict[str, Any] | None = None, replicas: int = 1, generation: int = 1
) -> dict[str, Any]:
    status = {
        "conditions": [*conditions],
        "modelStatus": model or {"transitionStatus": "InProgress"},
        "observedGeneration": generation,
    }
    return {"metadata": {"name": "s"}, "spec": {"predictor": {"minReplicas": replicas}}, "status": status}


def server(name: str, *, ready: bool = False, release: str | None = None, crashing: bool = False) -> dict[str, Any]:
    labels = {RELEASE_LABEL: release or adapters.service().release}
    crash = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    last = {"lastState": {"terminated": {"exitCode": 2, "reason": "Error", "message": ""}}}
    statuses = container("kserve-container", crash if crashing else {"running": {}})
    return pod(
        name, labels=labels, conditions=[condition("Ready", str(ready))],
        containerStatuses=[statuses[0] | (last if crashing else {})],
    )  # fmt: skip


READY = (condition("PredictorReady"), condition("IngressReady"), condition("Ready"))
LOOPS = CauseKind.UNKNOWN
BLOCKED = {"transitionStatus": "BlockedByFailedLoad", "lastFailureInfo": {"reason": "ModelLoadFailed", "message": "no"}}
UNAVAILABLE = condition(
    "PredictorReady", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."
)
LATE = condition(
    "PredictorReady", "False", "ProgressDeadlineExceeded", 'ReplicaSet "s-predictor-7" has timed out progressing.'
)
DENIED = condition("PredictorReady", "False", "FailedCreate", 'pods "s" is forbidden: exceeded quota: team')


@pytest.mark.parametrize(
    ("object_", "pods", "phase", "reason", "kind"),
    [
        (None, [], Phase.GONE, "NotFound", None),
        ({"metadata": {"name": "s"}, "spec": {"predictor": {}}}, [], Phase.PENDING, "NoPods", None),
        (state(UNAVAILABLE), [server("new")], Phase.PENDING, "Pending", None),
        (state(*READY), [server("new", ready=True)], Phase.SUCCEEDED, "Ready", None),
        # The Deployment's count of generations says nothing of the service's.
        (state(*READY, generation=7), [server("new", ready=True)], Phase.SUCCEEDED, "Ready", None),
        (state(*READY, replicas=2), [server("new", ready=True)], Phase.PENDING, "RollingOut", None),
        (state(*READY), [server("old", ready=True, release="old")], Phase.PENDING, "NoPods", None),
        (state(*READY), [server("old", ready=True, release="old"), server("new")], Phase.PENDING, "Pending", None),
        (state(*READY), [server("old", ready=True, release="old"), server("new", ready=True)], Phase.PENDING, "RollingOut", None),
        (state(UNAVAILABLE, model=BLOCKED), [server("new", crashing=True)], Phase.FAILED, "BlockedByFailedLoad", LOOPS),
        # Left over from the release before.
        (state(UNAVAILABLE, model=BLOCKED), [server("old", release="old", crashing=True)], Phase.PENDING, "NoPods", None),
        (state(*READY, model=BLOCKED), [server("new", ready=True)], Phase.SUCCEEDED, "Ready", None),
        (state(model={"transitionStatus": "InvalidSpec"}), [], Phase.FAILED, "InvalidSpec", CauseKind.INVALID_SPEC),
        (state(LATE), [server("new")], Phase.FAILED, "ProgressDeadlineExceeded", CauseKind.DEADLINE),
        (state(LATE), [server("old", release="old")], Phase.PENDING, "NoPods", CauseKind.UNKNOWN),
        (state(DENIED), [], Phase.PENDING, "NoPods", CauseKind.QUOTA),
    ],
)  # fmt: skip
def test_every_state_of_kserve_is_a_phase(
    object_: dict[str, Any] | None, pods: list[dict[str, Any]], phase: Phase, reason: str, kind: CauseKind | None
) -> None:
    seen = adapters.service().observe(object_, pods, [])
    assert (seen.phase, seen.reason) == (phase, reason)
    assert (seen.cause and seen.cause.kind) == kind


def test_the_address_is_kserves_or_else_the_services() -> None:
    assert address_of({"metadata": {"name": "s"}, "status": {"address": {"url": "http://x"}}}, "team") == "http://x"
    assert address_of({"metadata": {"name": "s"}}, "team") == "http://s-predictor.team.svc"


# Promotion, over HTTP against the fake API server.


@pytest.fixture
def stage(site: Site, tmp_path: Path) -> Stage:
    return Stage(site, tmp_path)


def test_the_first_release_is_probed_under_its_own_name_and_then_promoted(stage: Stage) -> None:
    address = stage.deploy(OLD)
    assert address == f"http://{STABLE}-predictor.{NAMESPACE}.svc.cluster.local"
    assert stage.asked == [(SMOKE, ["a"]), (STABLE, ["a"])]
    assert stage.left() == [f"InferenceService/{STABLE}"]
    assert "ownerReferences" not in stage.stable()["metadata"]
    assert stage.recorded() == []


def test_the_next_release_takes_over_when_its_own_pods_serve(stage: Stage) -> None:
    stage.deploy(OLD)
    stage.asked.clear()
    # Ready is True all the time, of pods of the release before: what is asked must be the new one nevertheless.
    stage.deploy(NEW)
    assert stage.asked == [(SMOKE, ["b"]), (STABLE, ["b"])]
    assert stage.behind(STABLE) == ["b"]
    assert stage.left() == [f"InferenceService/{STABLE}"]


def test_scale_and_what_others_wrote_on_the_service_stay(stage: Stage) -> None:
    stage.deploy(OLD)

    def change(item: Object) -> None:
        item["spec"]["predictor"] |= {"minReplicas": 2, "maxReplicas": 5, "scaleTarget": 8}
        item["metadata"]["annotations"]["example.com/owner"] = "language"

    stage.site.cluster.update(INFERENCESERVICE, STABLE, NAMESPACE, change)
    stage.deploy(NEW)
    predictor = stage.stable()["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"], predictor["scaleTarget"]) == (2, 5, 8)
    assert stage.stable()["metadata"]["annotations"]["example.com/owner"] == "language"
    assert stage.behind(STABLE) == ["b"]


def test_a_model_that_does_not_load_never_touches_the_stable_name(site: Site, tmp_path: Path) -> None:
    stage = Stage(site, tmp_path, crashing(NEW, SMOKE))
    stage.deploy(OLD)
    before = stage.stable()
    with pytest.raises(StepFailed, match=r"does not serve: BlockedByFailedLoad.*digest differs"):
        stage.deploy(NEW)
    assert stage.stable() == before
    assert stage.left() == [f"InferenceService/{STABLE}"]


def test_a_probe_that_fails_at_the_smoke_deployment_never_touches_the_stable_name(stage: Stage) -> None:
    stage.deploy(OLD)
    before = stage.stable()
    with pytest.raises(StepFailed, match="required probes failed"):
        stage.deploy(NEW, refuse(SMOKE))
    assert stage.stable() == before
    assert stage.left() == [f"InferenceService/{STABLE}"]


@pytest.mark.parametrize("how", ["crash", "probe"])
def test_what_does_not_serve_under_the_stable_name_gives_it_back(site: Site, tmp_path: Path, how: str) -> None:
    stage = Stage(site, tmp_path, crashing(NEW, STABLE) if how == "crash" else lambda service: rollouts.SERVES)
    stage.deploy(OLD)
    before = stage.stable()
    with pytest.raises(StepFailed):
        stage.deploy(NEW, refuse(STABLE))
    # Not only told to, it does: and so it was said.
    assert stage.behind(STABLE) == ["a"] and stage.told[-1] == f"{STABLE} serves its earlier spec again"
    assert written(stage.stable()) == written(before)
    assert stage.left() == [f"InferenceService/{STABLE}"]
    assert stage.recorded() == []


def test_the_earlier_release_serves_all_the_time_that_a_bad_one_fails(site: Site, tmp_path: Path) -> None:
    stage = Stage(site, tmp_path, crashing(NEW, STABLE))
    stage.deploy(OLD)
    behind: list[list[str]] = []
    stage.patience = Patience(
        now=site.time.now, sleep=lambda seconds: (site.time.sleep(seconds), behind.append(stage.behind(STABLE)))[0],
        start_seconds=900,
    )  # fmt: skip
    with pytest.raises(StepFailed):
        stage.deploy(NEW)
    assert behind and all(models == ["a"] for models in behind)


def test_where_nothing_was_before_nothing_is_left(stage: Stage) -> None:
    with pytest.raises(StepFailed, match="required probes failed"):
        stage.deploy(OLD, refuse(STABLE))
    assert stage.left() == []


def test_promoting_again_what_serves_already_changes_nothing(stage: Stage) -> None:
    stage.deploy(OLD)
    generation = stage.stable()["metadata"]["generation"]
    stage.deploy(OLD)
    assert stage.stable()["metadata"]["generation"] == generation
    with pytest.raises(StepFailed):
        stage.deploy(OLD, refuse(STABLE))
    assert stage.stable()["metadata"]["generation"] == generation, "no earlier spec is known; it stays"


def test_somebody_elses_change_in_between_is_not_overwritten(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.deploy(OLD)
    api, read = stage.site.api, stage.site.api.get

    def get(resource: Any, name: str) -> Object | None:
        found = read(resource, name)
        if name == STABLE and found is not None and "raced" not in found["metadata"]["annotations"]:
            race = lambda item: item["metadata"]["annotations"].update(raced="yes")
            stage.site.cluster.update(INFERENCESERVICE, STABLE, NAMESPACE, race)
        return found

    monkeypatch.setattr(api, "get", get)
    with pytest.raises(StepFailed, match="changed by somebody else"):
        stage.promote(NEW)
    assert release_of(stage.stable()) == stage.service(OLD).promoted().release
    assert stage.left() == [f"InferenceService/{STABLE}"]


def somebody_elses(stage: Stage, *labels: str) -> Object:
    """A service under the stable name with more to it than we know of."""
    its = {"team": "other"} | ({"app.kubernetes.io/managed-by": labels[0]} if labels else {})
    container = {"name": "t", "image": "registry.example.com/transformer:1"}
    spec = {
        "predictor": {"canaryTrafficPercent": 10, "minReplicas": 1, "containers": [{"name": "m", "image": "m:1"}]},
        "transformer": {"containers": [container]},
    }
    body = {
        "apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "spec": spec,
        "metadata": {"name": STABLE, "namespace": NAMESPACE, "labels": its},
    }  # fmt: skip
    return stage.site.cluster.create(INFERENCESERVICE, body, NAMESPACE)


@pytest.mark.parametrize("labels", [(), ("helm",)], ids=["unmanaged", "helm's"])
def test_a_service_of_somebody_else_is_refused_before_anything_is_made(stage: Stage, labels: tuple[str, ...]) -> None:
    before = written(somebody_elses(stage, *labels))
    for begin in (stage.deploy, stage.promote):
        with pytest.raises(NameTaken, match=f"{STABLE} was made by somebody else") as refused:
            begin(NEW)
        assert "take_over = true" in str(refused.value.hint)
    assert "helm" in str(refused.value) or not labels
    assert written(stage.stable()) == before
    assert (stage.asked, stage.recorded(), stage.left()) == ([], [], [f"InferenceService/{STABLE}"])


def test_a_service_of_somebody_else_is_taken_over_where_the_installation_says_so(stage: Stage) -> None:
    somebody_elses(stage, "helm")
    service = stage.service(NEW, take_over=True)
    assert promotion.deploy(stage.site.api, service, stage.ask, records=stage.records, patience=stage.patience)
    stable = stage.stable()
    assert release_of(stable) == service.promoted().release and "transformer" not in stable["spec"]
    # Ours from now on: the setting is needed once.
    assert stage.promote(OLD) and stage.behind(STABLE) == ["a"]


def test_what_lost_our_label_but_serves_a_release_of_ours_is_ours(stage: Stage) -> None:
    stage.serve(OLD, lambda body: body["metadata"]["labels"].pop("app.kubernetes.io/managed-by"))
    assert stage.promote(NEW) and stage.behind(STABLE) == ["b"]


def test_an_image_that_cannot_be_pulled_is_given_up_after_the_grace(site: Site, tmp_path: Path) -> None:
    from tests.cluster.operators import image_error, schedule

    stage = Stage(site, tmp_path, lambda service: [(1, schedule), (5, image_error())])
    began = site.time.seconds
    with pytest.raises(StepFailed, match="image"):
        stage.deploy(OLD)
    assert stage.patience.grace_seconds <= site.time.seconds - began < stage.patience.start_seconds
    assert stage.left() == []


def test_a_server_that_never_answers_is_given_up_when_the_start_clock_ends(site: Site, tmp_path: Path) -> None:
    stage = Stage(site, tmp_path, lambda service: rollouts.HANGS)
    with pytest.raises(StepFailed, match=r"ProgressDeadlineExceeded|not ready within"):
        stage.deploy(OLD)
    assert stage.left() == []


def test_a_smoke_deployment_that_an_earlier_launcher_left_is_adopted(stage: Stage) -> None:
    stage.site.api.create(RESOURCE, stage.service(OLD).body)
    assert stage.deploy(OLD)
    assert stage.left() == [f"InferenceService/{STABLE}"]


def test_a_merge_patch_makes_one_object_of_another() -> None:
    found = {"a": 1, "b": {"c": 2, "d": [1, 2]}, "e": {"f": 1}, "g": None}
    wanted = {"b": {"d": [2], "h": 3}, "e": {"f": 1}, "i": {"j": 1}}
    patch = merge_patch(found, wanted)
    assert patch == {"a": None, "g": None, "b": {"c": None, "d": [2], "h": 3}, "i": {"j": 1}}
    assert merged(copy.deepcopy(found), patch) == wanted
