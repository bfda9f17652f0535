"""serve/deploy and plan/clean on a cluster: InferenceServices around the step's own probes, of a server that really answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import rollouts
from tests.cluster.api_server import Fault
from tests.cluster.bench import NAMESPACE, Site
from tests.cluster.objects import INFERENCESERVICE, Object, Refused
from tests.cluster.promotions import NEW, OLD, Stage, written
from tests.library.release.line import RULES, Line, make_line
from tests.library.serve.tiny_model import write_tiny_model
from tutelage.contracts.store import Store
from tutelage.errors import GateRefused, StepFailed
from tutelage.runtimes import cluster, launch
from tutelage.runtimes.kubernetes import readiness
from tutelage.runtimes.kubernetes.api import Api
from tutelage.runtimes.kubernetes.readiness import Patience
from tutelage.runtimes.settings import Settings
from tutelage.serve.smoke import served
from tutelage.step import Request, describe, load

STABLE = "InferenceService/tutelage-model"


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Line:
    line = make_line(tmp_path_factory.mktemp("line"), write_tiny_model)
    line.run("release/decide", {"rules": RULES})
    line.run("release/register", {"rules": RULES})
    return line


@pytest.fixture(scope="module")
def endpoint(released: Line) -> Iterator[str]:
    """A model server as the cluster's pods would be one."""
    folder = Path(released.manifests["model"].location)
    name = load("serve/deploy").Config().release.name
    with served(folder, name, threads=1, timeout_seconds=60) as server:
        yield f"http://127.0.0.1:{server.port}"


class Task:
    """A deploy task in its pod, on a fake cluster whose endpoints are all the one server."""

    def __init__(self, site: Site, line: Line, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site, self.line = site, line
        self.asked: list[str] = []
        rollouts.StandardMode(site.nodes, INFERENCESERVICE)
        self.settings = Settings(
            runs=str(site.folder / "runs"), store=str(site.folder / "store"), cluster=site.settings
        )

        def address_of(found: Object, namespace: str) -> str:
            self.asked.append(found["metadata"]["name"])
            return endpoint

        monkeypatch.setattr(readiness, "address_of", address_of)
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    def run(self, **config: Any) -> tuple[int, str]:
        settings = self.settings.for_step(("registry",)) | {"public_keys": self.line.settings["public_keys"]}
        request = Request(
            step="serve/deploy", config={"release": {"rules": RULES}, "probes": {"requests": 2}} | config,
            inputs={name: self.line.manifests[name].uri for name in describe("serve/deploy").reads},
            outputs={"deployment": "set by each round"}, scratch="", cache=str(self.site.folder / "cache"),
            outcome=str(self.site.folder / "outcome.json"), step_key="k" * 32, attempt="of-the-launcher", code_version="c",
            run="run-1", label="deploy", events=str(self.site.folder / "events.jsonl"), settings=settings,
        )  # fmt: skip
        patience = Patience(now=self.site.time.now, sleep=self.site.time.sleep)
        assert self.settings.cluster is not None
        return cluster.deploy(
            request, self.site.folder / "deploy.log", self.site.folder / "lock", self.settings, self.settings.cluster,
            api=self.site.api, patience=patience,
        )  # fmt: skip

    def left(self) -> list[str]:
        self.site.time.sleep(60)
        return [name for name in self.site.cluster.everything(NAMESPACE) if name.startswith("InferenceService/")]


@pytest.fixture
def task(site: Site, released: Line, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Task:
    return Task(site, released, endpoint, monkeypatch)


def test_the_release_is_probed_as_smoke_and_again_as_what_users_talk_to(task: Task) -> None:
    code, attempt = task.run()
    assert code == 0 and len(task.asked) == 2 and task.asked[1] == "tutelage-model"
    assert task.asked[0].startswith("deploy-run-1")
    manifest = Store(task.settings.store_root).read("deployment", "k" * 32, attempt)
    report = json.loads(Path(manifest.file("deployment.json")).read_text())
    assert {probe["name"] for probe in report["probes"] if not probe["passed"]} == {"refusal"}
    assert report["model"] == task.line.manifests["model"].content_digest
    assert task.left() == [STABLE]
    args = task.site.cluster.get(INFERENCESERVICE, "tutelage-model", NAMESPACE)["spec"]["predictor"]["containers"][0][
        "args"
    ]
    assert task.line.manifests["model"].uri in args and report["model"] in args


def test_without_a_signed_pass_nothing_is_made(task: Task) -> None:
    with pytest.raises(GateRefused, match="policy"):
        task.run(release={"rules": RULES[:1]})
    assert task.site.server.count("create", "inferenceservices") == 0


def test_a_probe_that_does_not_pass_leaves_neither_smoke_nor_promotion(task: Task) -> None:
    strict = {"requests": 1, "required": ["server_ready", "refusal"]}
    with pytest.raises(StepFailed, match="refusal") as caught:
        task.run(probes=strict)
    assert "policy.deployment.required" in str(caught.value.hint)
    assert task.left() == [] and task.asked != [] and "tutelage-model" not in task.asked


def test_the_exit_handler_deletes_jobs_and_smoke_deployments_of_its_run_and_never_what_users_talk_to(
    task: Task, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    site = task.site
    task.run()
    site.api.create(site.job.resource, site.job.body)
    stable = site.cluster.get(INFERENCESERVICE, "tutelage-model", NAMESPACE)
    labels = {**stable["metadata"]["labels"]}
    smoke = {"apiVersion": stable["apiVersion"], "kind": stable["kind"], "spec": stable["spec"],
             "metadata": {"name": "deploy-run-1-0123456789", "labels": labels}}  # fmt: skip
    other = {**smoke, "metadata": {"name": "deploy-run-2-0123456789", "labels": labels | {"tutelage.dev/run": "run-2"}}}
    for body in (smoke, other):
        site.cluster.create(INFERENCESERVICE, body, NAMESPACE)
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"runs": str(tmp_path / "runs"), "store": str(tmp_path / "store"), "cluster": {}}))
    monkeypatch.setenv("TUTELAGE_SETTINGS", str(settings))
    monkeypatch.setenv("TUTELAGE_RUN", "run-1")
    monkeypatch.delenv("TUTELAGE_RUN_FOLDER", raising=False)
    monkeypatch.setattr(Api, "connect", lambda namespace=None, **options: site.api)
    launch("plan/clean", inputs={}, outputs={}, config={})
    left = [name for name in site.cluster.everything(NAMESPACE) if not name.startswith("Pod/")]
    assert left == ["InferenceService/deploy-run-2-0123456789", STABLE, "Workflow/wf"]
    events = (tmp_path / "runs" / "run-1" / "events.jsonl").read_text()
    assert "deploy-run-1-0123456789" in events and site.job.name in events


class Exit:
    """The exit handler of run-1 in its pod, on a cluster where that run's deploy task was killed in mid-promotion."""

    def __init__(self, site: Site) -> None:
        self.site, self.stage = site, Stage(site, site.folder)
        self.settings = Settings(
            runs=str(site.folder / "runs"), store=str(site.folder / "store"), cluster=site.settings
        )
        assert self.settings.cluster is not None
        self.stage.records = cluster._records(self.settings, self.settings.cluster, site.api)
        self.before = self.stage.serve(OLD)
        self.smoke = self.stage.service(NEW)
        site.api.create(self.smoke.resource, self.smoke.body)
        site.api.create(site.job.resource, site.job.body)
        self.stage.half(NEW)

    def run(self) -> list[str]:
        """Gives the warnings of the run's events."""
        events = self.site.folder / "clean.jsonl"
        request = Request(
            step="plan/clean", config={}, inputs={}, outputs={}, scratch="", cache=str(self.site.folder / "cache"),
            outcome=str(self.site.folder / "outcome.json"), step_key="k" * 32, attempt="a", code_version="c", run="run-1",
            label="clean", events=str(events), settings={"locks": str(self.site.folder / "locks")},
        )  # fmt: skip
        assert self.settings.cluster is not None
        code, _ = cluster.clean(
            request, self.site.folder / "clean.log", self.site.folder / "lock", self.settings, self.settings.cluster,
            api=self.site.api, patience=self.stage.patience,
        )  # fmt: skip
        assert code == 0
        said = [json.loads(line) for line in events.read_text().splitlines()]
        return [event["message"] for event in said if event["event"] == "warning"]

    def left(self) -> list[str]:
        return [name for name in self.site.cluster.everything(NAMESPACE) if not name.startswith("Pod/")]


def test_the_exit_handler_gives_back_what_its_killed_deploy_task_left_half_promoted(site: Site) -> None:
    ended = Exit(site)
    assert ended.run() == [
        "tutelage-model has its earlier spec again (run run-1 left its promotion unfinished)",
        f"deleted, left by this run: {', '.join(sorted([ended.smoke.name, site.job.name]))}",
        "tutelage-model serves its earlier spec again",
    ]
    assert written(ended.stage.stable()) == written(ended.before) and ended.stage.behind("tutelage-model") == ["a"]
    assert ended.left() == [STABLE, "Workflow/wf"] and ended.stage.recorded() == []


@pytest.mark.parametrize("what", ["store", "API server"])
def test_the_exit_handler_does_the_rest_where_a_promotion_cannot_be_given_back(site: Site, what: str) -> None:
    ended = Exit(site)
    if what == "store":
        ended.settings = ended.settings.model_copy(update={"store": "nowhere://bucket"})
    else:
        refused = Refused(403, "Forbidden", "inferenceservices is forbidden")
        site.server.faults.append(Fault("refuse", verb="patch", answer=refused))
    first, second = ended.run()
    assert ("nowhere://bucket" if what == "store" else "is not given back: inferenceservices is forbidden") in first
    assert second.startswith("deleted, left by this run: ")
    assert ended.left() == [STABLE, "Workflow/wf"] and len(ended.stage.recorded()) == 1


def test_settings_without_a_lasting_store_or_registry_are_refused_before_the_start() -> None:
    from tutelage.orchestrate.check import settings_problems

    wrong = Settings(registry="/tmp/registry.sqlite", cluster={})  # type: ignore[arg-type]
    assert [problem.where for problem in settings_problems(wrong)] == ["settings.store", "settings.registry"]
    right = Settings(store="minio://mlpipeline/store", cluster={})  # type: ignore[arg-type]
    assert settings_problems(right) == [] and settings_problems(Settings()) == []
    assert right.for_step(("registry",)) == {"registry": "minio://mlpipeline/store/registry"}
