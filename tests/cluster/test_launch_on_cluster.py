"""launch() with a section [cluster]: real steps as jobs of the fake cluster, their pods real processes at the same store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.bench import NAMESPACE, Site
from tests.cluster.local_pods import ROOT, LocalPods
from tests.cluster.objects import Object
from tests.cluster.operators import Life, evict, schedule, start
from tests.training import SENTENCES, FakeArtifact, build_tokenizer, put_model, put_splits, sample_rows
from tutelage.contracts import tables
from tutelage.contracts.store import Result
from tutelage.errors import InvalidInput, StepFailed
from tutelage.runtimes import launch, task_ends
from tutelage.runtimes.kubernetes import launching
from tutelage.runtimes.settings import read_settings

pytestmark = pytest.mark.timeout(600)
SMALL = {"objective": "pretrain", "batch": {"sequences": 4, "micro_sequences": 2}, "precision": {"saved": "float32"}}


class Place:
    """An installation: a fake cluster, settings that name it, and pods that work."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.site = folder, Site(folder / "site", workers=1)
        self.pods = LocalPods(self.site.nodes, folder / "pods")
        # launch() waits in real time, in which the cluster's passes too, twenty times as fast.
        threading.Thread(target=self._tick, name="tick", daemon=True).start()
        config = folder / "kubeconfig"
        config.write_text(yaml.safe_dump(kubeconfig(self.site.server.url)))
        settings = {
            "runs": str(folder / "runs"), "store": str(folder / "runs" / "store"), "processes": 2,
            "cluster": {"namespace": NAMESPACE, "training_workers": 1, "spark_executors": 1, "clocks": {"run_seconds": 10**9}},
        }  # fmt: skip
        (folder / "settings.json").write_text(json.dumps(settings))
        self.environment = {
            "KUBECONFIG": str(config), "TUTELAGE_SETTINGS": str(folder / "settings.json"), "TUTELAGE_RUN": "0b1c-run",
        }  # fmt: skip
        for name in ("KUBERNETES_SERVICE_HOST", "TUTELAGE_RUN_FOLDER", "TUTELAGE_SUPERVISOR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)

    def _tick(self) -> None:
        while not self.site.time.closed:
            self.site.time.sleep(1.0)
            time.sleep(0.05)

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = (self.runs / "0b1c-run" / "events.jsonl").read_text().splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def created(self, plural: str) -> list[str]:
        calls = [call for call in self.site.server.calls if call.verb == "create" and call.kind.plural == plural]
        return [call.body["metadata"]["name"] for call in calls]


def kubeconfig(url: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "fake",
        "clusters": [{"name": "fake", "cluster": {"server": url}}],
        "users": [{"name": "me", "user": {"token": "first"}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me", "namespace": NAMESPACE}}],
    }  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    (tmp_path / "place" / "site").mkdir(parents=True)
    place = Place(tmp_path / "place", monkeypatch)
    yield place
    place.site.close()


def documents(runs: Path) -> FakeArtifact:
    """A few rows as ingest leaves them, in the store of `runs`."""
    from tests.training import put

    texts = [
        f"{sentence} It is written down {number} times in this manual." for number in range(4) for sentence in SENTENCES
    ]
    rows = []
    for index, text in enumerate(texts):
        row = {
            "phase": "pretrain", "text": text, "source": "file.txt", "licence": "MIT", "language": "en", "metadata": "{}",
            "group": f"g{index}",
        }  # fmt: skip
        from tutelage.data.rows import complete

        row = complete(row)
        rows.append(row | {"id": tables.row_id(row)})
    digest = tables.RowsDigest()
    digest.update(rows)
    result = Result(content_digest=digest.hexdigest(), rows=len(rows), licences={"MIT": len(rows)})
    return put(
        runs, "documents", "documents", result, lambda folder: [tables.write(rows, str(folder), "rows", tables.ROWS)]
    )


@pytest.mark.slow
@pytest.mark.java
def test_a_data_step_gives_the_rows_of_the_laptop_and_a_killed_launchers_job_is_adopted(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, made = documents(place.runs), FakeArtifact(str(tmp_path / "curated.json"))
    config = {"languages": ["en"]}
    place.site.spark(place.pods.spark_life)
    code = (
        "import sys; from types import SimpleNamespace as A; from tutelage.runtimes import launch\n"
        "launch('data/curate', inputs={'documents': A(path=sys.argv[1], metadata={})}, "
        "outputs={'curated': A(path=sys.argv[2], metadata={})}, config={'languages': ['en']})"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, given.path, made.path], cwd=ROOT,
        env={**os.environ, **place.environment, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not place.pods.started:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    # A retry of the task's pod: the same run, the same task, another process.
    launch("data/curate", inputs={"documents": given}, outputs={"curated": made}, config=config)
    assert len(place.created("sparkapplications")) == len(place.pods.started) == 1
    assert [event["phase"] for event in place.events("progress") if event.get("phase") in ("created", "adopted")] == [
        "created", "adopted",
    ]  # fmt: skip
    assert place.site.cluster.everything(NAMESPACE) == ["Workflow/wf"]
    assert made.metadata["digest"] == made.manifest.content_digest
    (told,) = task_ends.read_all(str(place.runs / "store"), "0b1c-run")
    assert (told["event"], told["outputs"]) == ("finished", {"curated": made.manifest.uri})

    laptop = tmp_path / "laptop"
    laptop.mkdir()
    (laptop / "settings.json").write_text(
        json.dumps({"runs": str(laptop / "runs"), "spark_cores": 1, "spark_memory": "1g"})
    )
    monkeypatch.setenv("TUTELAGE_SETTINGS", str(laptop / "settings.json"))
    here = FakeArtifact(str(laptop / "curated.json"))
    launch("data/curate", inputs={"documents": given}, outputs={"curated": here}, config=config)
    assert here.manifest.location != made.manifest.location
    assert here.manifest.content_digest == made.manifest.content_digest
    assert here.manifest.rows == made.manifest.rows and here.manifest.dropped == made.manifest.dropped
    assert here.manifest.step_key == made.manifest.step_key, "work done on a laptop is found by a cluster"


@pytest.mark.slow
def test_training_whose_pod_was_evicted_is_launched_again_and_the_attempt_that_is_complete_is_read(
    place: Place, tmp_path: Path
) -> None:
    base = put_model(place.runs, build_tokenizer(SENTENCES, 300))
    splits, tokens = put_splits(place.runs, sample_rows(12)), FakeArtifact(str(tmp_path / "tokens.json"))
    launch(
        "data/tokenize", inputs={"splits": splits, "model": base}, outputs={"tokens": tokens},
        config={"pretrain": {"sequence_length": 64}},
    )  # fmt: skip
    assert place.created("pytorchjobs") == [], "a step of runtime process stays in the task's own pod"

    def life(job: Object, index: int) -> Life:
        if job["metadata"]["labels"]["tutelage.dev/relaunch"] == "0":
            return [(1, schedule), (2, start), (9, evict)]
        return place.pods.life(index)

    place.site.train(life)
    trained = FakeArtifact(str(tmp_path / "trained.json"))
    launch(
        "train/train", inputs={"tokens": tokens, "base": base}, outputs={"trained": trained}, label="train-pretrain",
        config={**SMALL, "resources": {"limits": {"memory": "80Gi"}}},
    )  # fmt: skip
    names = place.created("pytorchjobs")
    assert len(names) == 2 and names[1] == f"{names[0]}-r1"
    assert [event["reason"] for event in place.events("relaunched")] == ["evicted"]
    manifest = trained.manifest
    assert manifest.details["ranks"] == 2
    assert len(list((place.runs / "store" / "model" / manifest.step_key).iterdir())) == 1
    settings = read_settings()
    assert (
        settings.cluster is not None and launching.world_size("train/train", settings.cluster, settings.processes) == 2
    )
    said = [event for event in place.events("progress") if event.get("unit") == "tokens"]
    assert said and said[-1]["done"] == said[-1]["total"] == manifest.details["tokens_trained"]
    assert place.site.cluster.everything(NAMESPACE) == ["Workflow/wf"]
    # The log of the task holds what the ranks printed.
    assert (place.runs / "0b1c-run" / "logs" / "train-pretrain.log").stat().st_size > 0


def test_what_a_step_refuses_in_its_pod_keeps_its_cause_and_hint(place: Place, tmp_path: Path) -> None:
    base = put_model(place.runs, build_tokenizer(SENTENCES, 300))
    splits = put_splits(place.runs, [item for item in sample_rows(12) if item["phase"] == "pretrain"])
    tokens = FakeArtifact(str(tmp_path / "tokens.json"))
    launch(
        "data/tokenize", inputs={"splits": splits, "model": base}, outputs={"tokens": tokens},
        config={"pretrain": {"sequence_length": 64}},
    )  # fmt: skip
    place.site.train(lambda job, index: place.pods.life(index))
    with pytest.raises(InvalidInput, match="sft") as caught:
        launch(
            "train/train", inputs={"tokens": tokens, "base": base}, outputs={"trained": FakeArtifact(str(tmp_path / "m"))},
            config={**SMALL, "objective": "sft"}, label="train-sft",
        )  # fmt: skip
    assert caught.value.hint
    assert len(place.created("pytorchjobs")) == 1, "wrong input is not tried again"
    assert place.site.cluster.everything(NAMESPACE) == ["Workflow/wf"]
    ends = {end["task"]: end for end in task_ends.read_all(str(place.runs / "store"), "0b1c-run")}
    assert (ends["train-sft"]["outcome"], ends["train-sft"]["hint"]) == ("invalid", caught.value.hint)


def test_what_the_cluster_did_keeps_its_cause_and_hint(place: Place, tmp_path: Path) -> None:
    from tests.cluster.operators import finish

    base = put_model(place.runs, build_tokenizer(SENTENCES, 300))
    tokens = FakeArtifact(str(tmp_path / "tokens.json"))
    launch(
        "data/tokenize", inputs={"splits": put_splits(place.runs, sample_rows(12)), "model": base},
        outputs={"tokens": tokens}, config={"pretrain": {"sequence_length": 64}},
    )  # fmt: skip
    place.site.train(lambda job, index: [(1, schedule), (2, start), (5, finish(137, "OOMKilled"))])
    with pytest.raises(StepFailed, match="out_of_memory") as caught:
        launch(
            "train/train", inputs={"tokens": tokens, "base": base}, outputs={"trained": FakeArtifact(str(tmp_path / "m"))},
            config=SMALL, label="train-pretrain",
        )  # fmt: skip
    assert "memory" in str(caught.value.hint)
    assert not list((place.runs / "store").glob("model/*/*/manifest.json"))[1:], "only the base model is there"
