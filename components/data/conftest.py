"""Data steps on real Spark: one context for all tests, steps run in this process, small real corpora."""

from __future__ import annotations

import pydoc_data.topics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tutelage.contracts import store, tables
from tutelage.contracts.manifest import Manifest
from tutelage.data.rows import complete
from tutelage.step import Request, execute, load


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """A local Spark context on one core; steps find it as theirs."""
    options = {
        "PYSPARK_SUBMIT_ARGS": "--master local[1] --driver-memory 1g --conf spark.ui.enabled=false "
        "--conf spark.driver.bindAddress=127.0.0.1 --conf spark.driver.host=127.0.0.1 "
        "--conf spark.ui.showConsoleProgress=false "
        "--conf spark.driver.extraJavaOptions=-XX:TieredStopAtLevel=1 pyspark-shell",
        "PYSPARK_PYTHON": sys.executable,
        "PYSPARK_DRIVER_PYTHON": sys.executable,
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    patch = pytest.MonkeyPatch()
    for name, value in options.items():
        patch.setenv(name, value)
    from tutelage.data.spark import session

    context = session("tests")
    yield context
    context.stop()
    patch.undo()


@pytest.fixture
def run_step(tmp_path: Path) -> Callable[..., Manifest]:
    """Run a step in this process: run_step("data/curate", {"documents": manifest}, minimum…=…) → its manifest."""
    count = 0

    def run(step: str, inputs: dict[str, Manifest], **config: Any) -> Manifest:
        nonlocal count
        count += 1
        folder = tmp_path / "steps" / f"{count}"
        folder.mkdir(parents=True)
        from tutelage.step import describe

        request = Request(
            step=step, config=config, inputs={name: item.uri for name, item in inputs.items()},
            outputs={name: str(folder / name) for name in describe(step).writes}, scratch=str(folder / "scratch"),
            cache=str(tmp_path / "cache"), outcome=str(folder / "outcome.json"), step_key=f"key{count}", attempt="attempt",
            code_version="test", run="test", label=step.split("/")[1], events=str(folder / "events.jsonl"),
        )  # fmt: skip
        module = load(step)
        (manifest,) = execute(module.run, module.Config, request).values()
        return manifest

    return run


@pytest.fixture
def payload(tmp_path: Path) -> Callable[..., Manifest]:
    """A finished payload of rows: payload("documents", rows) → manifest; `files` spreads them over several files."""
    count = 0

    def make(kind: str, rows: list[dict[str, Any]], files: int = 1) -> Manifest:
        nonlocal count
        count += 1
        location = str(tmp_path / "payloads" / f"{count}")
        Path(location).mkdir(parents=True)
        table, schema = ("items", tables.SUITE_ITEMS) if kind == "suite" else ("rows", tables.ROWS)
        for number in range(files):
            tables.write_part(rows[number::files], location, f"{table}-{number:05d}.parquet", schema)
        manifest = Manifest(
            kind=kind, location=location, content_digest=f"digest{count}", files=store.payload_files(location),
            step="test/make", step_key=f"made{count}", attempt="attempt", config={}, seed=None, code_version="test", inputs={},
            input_manifests={}, run="test", output=kind, rows=len(rows),
        )  # fmt: skip
        return store.finish(manifest)

    return make


@pytest.fixture
def document() -> Callable[..., dict[str, Any]]:
    """A complete row: document("text", group="g") or document(messages=[…], phase="sft")."""

    def make(text: str | None = None, **fields: Any) -> dict[str, Any]:
        row = {
            "phase": "pretrain",
            "text": text,
            "source": "file.txt",
            "licence": "MIT",
            "language": "en",
            "metadata": "{}",
        }
        row = complete(row | {"group": "group"} | fields)
        row["id"] = fields.get("id") or tables.row_id(row)
        return row

    return make


@pytest.fixture(scope="session")
def topics() -> list[str]:
    """The help topics of Python's own documentation: 79 real texts under PSF-2.0, sorted by name."""
    return [text.strip() for _, text in sorted(pydoc_data.topics.topics.items())]
