"""The pieces of e2e.py against the fake servers: what it compares, what it calls a leftover, how it follows and cancels.

The whole of it runs in test_e2e.py against a Kubeflow of this machine, and by `make e2e` against a real one.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import e2e
from tests.cluster.bench import NAMESPACE, Site
from tests.cluster.kfp_server import KfpServer
from tests.cluster.objects import INFERENCESERVICE, POD
from tests.contracts import payloads
from tutelage.contracts import store
from tutelage.orchestrate.upload import compiled_text

SETUP = {
    "KUBECONFIG": "config", "KF_PIPELINES_ENDPOINT": "http://kfp", "TUTELAGE_E2E_NAMESPACE": "team",
    "TUTELAGE_E2E_REGISTRY": "registry.example.com/tutelage", "TUTELAGE_E2E_STORE": "s3://bucket/store",
}  # fmt: skip


def test_what_is_not_set_is_named_all_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        e2e.setup_from({"KUBECONFIG": "config"})
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert all(name in said for name in list(SETUP)[1:]) and "KUBECONFIG" not in said.split("hint")[0]
    assert e2e.setup_from(SETUP).namespace == "team"


def test_compiled_files_of_another_registry_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    text = compiled_text("llm_training")
    with pytest.raises(SystemExit):
        e2e.require_registry(text, "registry.example.com/tutelage")
    assert "tutelage compile --registry registry.example.com/tutelage" in capsys.readouterr().err
    e2e.require_registry(text, "tutelage")


def artifacts(root: Path) -> dict[str, dict[str, str]]:
    """A line of two artifacts in a store."""
    made = payloads.finished(str(root))
    place = store.Store(str(root)).attempt("splits", payloads.KEY, "a")
    payloads.write_files(place)
    next_one = payloads.manifest_for(
        place,
        payloads.KEY,
        "a",
        kind="splits",
        output="splits",
        step="data/split",
        input_manifests={"unique": made.uri},
    )
    store.finish(next_one)
    return {
        name: {"kind": item.kind, "digest": item.content_digest, "manifest": item.uri}
        for name, item in (("ingest/documents", made), ("split/splits", next_one))
    }


def test_equal_runs_in_two_stores_have_equal_data_and_lineage_and_others_have_not(tmp_path: Path) -> None:
    here, there = artifacts(tmp_path / "here"), artifacts(tmp_path / "there")
    assert e2e.different_datasets(here, there) == []
    assert e2e.lineage(here) == e2e.lineage(there)
    assert e2e.lineage(here)["split/splits"] == ("data/split", {"unique": "ingest/documents"})
    there["split/splits"] = {**there["split/splits"], "digest": "0" * 64}
    assert e2e.different_datasets(here, there) == ["split/splits"]
    lost = {name: item for name, item in there.items() if name != "ingest/documents"}
    assert e2e.different_datasets(here, lost) == ["ingest/documents", "split/splits"]
    assert e2e.lineage(lost) != e2e.lineage(here)


def test_a_deployment_counts_only_when_its_required_probes_passed_at_the_clusters_endpoint(tmp_path: Path) -> None:
    def deployment(name: str, **changes: Any) -> dict[str, dict[str, str]]:
        report = {
            "model": "m",
            "address": "tutelage-model.team.svc",
            "probes": [{"name": "x", "required": True, "passed": True}],
        }
        root = tmp_path / name
        place = store.Store(str(root)).attempt("deployment", payloads.KEY, "a")
        payloads.write_files(place, {"deployment.json": json.dumps(report | changes).encode()})
        made = store.finish(payloads.manifest_for(place, payloads.KEY, "a", kind="deployment", output="deployment"))
        return {
            "deploy/deployment": {"kind": "deployment", "digest": "d", "manifest": made.uri},
            "train-dpo/trained": {"kind": "model", "digest": "m", "manifest": ""},
        }

    e2e.require_probed(deployment("good"))
    failed = [{"name": "x", "required": True, "passed": False}]
    for name, change in (("failed", {"probes": failed}), ("none", {"probes": []}), ("other", {"model": "n"}),
                         ("laptop", {"address": "127.0.0.1"})):  # fmt: skip
        with pytest.raises(AssertionError):
            e2e.require_probed(deployment(name, **change))


def test_jobs_smoke_deployments_and_pods_of_a_run_are_leftovers_and_the_stable_service_is_none(site: Site) -> None:
    assert e2e.left_behind(site.api, "run-1", "tutelage-model") == []
    site.api.create(site.job.resource, site.job.body)
    labels = site.job.body["metadata"]["labels"]
    for name in ("tutelage-model", "deploy-run-1-0123456789"):
        body = {"apiVersion": "serving.kserve.io/v1beta1", "kind": "InferenceService", "spec": {"predictor": {}},
                "metadata": {"name": name, "labels": labels}}  # fmt: skip
        site.cluster.create(INFERENCESERVICE, body, NAMESPACE)
        pod_labels = labels | {"serving.kserve.io/inferenceservice": name}
        pod = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "c", "image": "i"}]},
               "metadata": {"name": f"{name}-pod", "labels": pod_labels}}  # fmt: skip
        site.cluster.create(POD, pod, NAMESPACE)
    assert e2e.left_behind(site.api, "run-1", "tutelage-model") == [
        "InferenceService/deploy-run-1-0123456789", "Pod/deploy-run-1-0123456789-pod", f"PyTorchJob/{site.job.name}",
    ]  # fmt: skip
    assert e2e.left_behind(site.api, "run-2", "tutelage-model") == []


def test_waiting_ends_with_what_was_waited_for() -> None:
    with pytest.raises(AssertionError, match="a job: not within 60 s"):
        e2e.wait_for("a job", lambda: None, 60, sleep=lambda seconds: None)


def told(server: KfpServer) -> int:
    """How often the server was told to end a run."""
    return sum(request.startswith("POST") and ":terminate" in request for request in server.requests)


@pytest.mark.slow
def test_a_run_is_submitted_followed_and_cancelled_half_way(
    site: Site, tmp_path: Path, s3_location: str, monkeypatch: Any
) -> None:
    for name in ("KF_PIPELINES_ENDPOINT", "KF_PIPELINES_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with KfpServer(script=[{"state": "RUNNING", "tasks": {"check": "RUNNING"}}]) as server:
        setup = replace(e2e.setup_from(SETUP), host=server.url, store=s3_location)
        settings = e2e.settings_file(setup, tmp_path)
        monkeypatch.setattr(e2e, "POLL_SECONDS", 0.05)
        looked: list[str] = []

        def left(api: Any, run_id: str, stable: str) -> list[str]:
            # The run's job is there until the server was told to end the run.
            looked.append(run_id)
            return [] if told(server) else ["PyTorchJob/train"]

        monkeypatch.setattr(e2e, "left_behind", left)
        e2e.a_cancelled_run(setup, settings, site.api, seed=8)
        assert set(looked) == set(server.runs) and told(server) == 1
