"""The four data steps through the real launcher: the same digests on one core and on two."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tutelage.contracts import manifest as manifests
from tutelage.contracts import store, tables
from tutelage.contracts.manifest import Manifest
from tutelage.runtimes import launch

pytestmark = [pytest.mark.java, pytest.mark.slow]

SOURCES = [
    {"phase": "pretrain", "format": "python_docstrings"},
    {"phase": "sft", "format": "python_functions", "maximum_characters": 3000},
]


def suite_at(folder: Path) -> Path:
    items = [
        {"id": function.__name__, "task": "test", "type": "harmful", "prompt": function.__doc__, "choices": None, "answer": None,
         "source": "test", "licence": "MIT", "language": "en"}
        for function in (json.dump, json.load, json.loads, json.JSONEncoder)
    ]  # fmt: skip
    digest = tables.write(items, str(folder), "items", tables.SUITE_ITEMS).hexdigest()
    manifest = Manifest(
        kind="suite", location=str(folder), content_digest=digest, files=store.payload_files(str(folder)), step="test/make",
        step_key="key", attempt="attempt", config={}, seed=None, code_version="test", inputs={}, input_manifests={}, run="test",
        output="suite", rows=len(items),
    )  # fmt: skip
    return Path(store.finish(manifest).uri)


def data_line(folder: Path, sources: list, cores: int, monkeypatch) -> dict[str, Manifest]:
    folder.mkdir()
    (folder / "tutelage.toml").write_text(f'runs = "{folder}/runs"\nspark_cores = {cores}\nspark_memory = "1g"\n')
    monkeypatch.setenv("TUTELAGE_SETTINGS", str(folder / "tutelage.toml"))
    monkeypatch.setenv("TUTELAGE_RUN_FOLDER", str(folder / "run"))
    names = ("documents", "curated", "unique", "splits")
    artifacts = {name: SimpleNamespace(path=str(folder / "artifacts" / name), metadata={}) for name in names}
    artifacts["suite"] = SimpleNamespace(path=str(suite_at(folder / "suite")), metadata={})
    steps = {
        "data/ingest": ((), "documents", {"sources": sources}),
        "data/curate": (("documents",), "curated", {}),
        "data/deduplicate": (("curated",), "unique", {}),
        "data/split": (("unique", "suite"), "splits", {"seed": 3}),
    }
    for step, (reads, writes, config) in steps.items():
        inputs = {name: artifacts[name] for name in reads}
        launch(step, inputs=inputs, outputs={writes: artifacts[writes]}, config=config)
    return {name: manifests.read(artifacts[name].path) for name in names}


def test_digests_are_equal_on_one_core_and_two_and_with_shuffled_sources(tmp_path, monkeypatch):
    libraries = [Path(json.__file__).parent, Path(json.__file__).parents[1] / "email"]
    sources = [
        {"name": f"{library.name}-{source['phase']}", "uri": str(library), "licence": "PSF-2.0", **source}
        for library in libraries
        for source in SOURCES
    ]
    one = data_line(tmp_path / "one", sources, 1, monkeypatch)
    two = data_line(tmp_path / "two", sources[::-1], 2, monkeypatch)
    assert {name: item.content_digest for name, item in one.items()} == {
        name: item.content_digest for name, item in two.items()
    }
    assert {name: item.dropped for name, item in one.items()} == {name: item.dropped for name, item in two.items()}
    assert one["documents"].rows > 150
    assert one["curated"].rows_in == one["documents"].rows
    assert one["splits"].rows_in == one["unique"].rows
    assert one["splits"].dropped["leak_suite"] >= 1
    assert "@" not in "".join((tmp_path / "one" / "run" / "events.jsonl").read_text())
