"""Compiled files are the same bytes whoever compiles them: GitOps compares nothing else."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tutelage.plan.recipe import PIPELINES
from tutelage.step import describe

ROOT = Path(__file__).parents[2]
PROGRAM = """
import hashlib
from tutelage.orchestrate.compile import compile_pipeline, pipeline_names
for name in pipeline_names():
    print(name, hashlib.sha256(compile_pipeline(name).encode()).hexdigest())
"""


@pytest.mark.parametrize("seed", ["1", "2"])
def test_whoever_compiles_gets_the_bytes_of_the_golden_files(seed: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC+{seed}", "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    golden = {file.stem: hashlib.sha256(file.read_bytes()).hexdigest() for file in (ROOT / "compiled").glob("*.yaml")}
    assert dict(line.split() for line in done.stdout.splitlines()) == golden


def test_compiled_files_name_no_machine() -> None:
    for file in (ROOT / "compiled").glob("*.yaml"):
        text = file.read_text()
        assert str(ROOT) not in text
        assert str(Path.home()) + "/" not in text


def test_no_task_of_a_compiled_pipeline_may_be_taken_from_kfps_cache() -> None:
    for file in sorted((ROOT / "compiled").glob("*.yaml")):
        assert "enableCache: true" not in file.read_text(), file


@pytest.mark.parametrize("pipeline", sorted(PIPELINES))
def test_every_process_task_asks_for_what_its_component_yaml_says(pipeline: str) -> None:
    ir = next(yaml.safe_load_all((ROOT / "compiled" / f"{pipeline}.yaml").read_text()))
    executors = ir["deploymentSpec"]["executors"]
    assert (
        executors["exec-ingest"]["container"]["resources"]["resourceMemoryLimit"]
        == (describe("data/ingest").resources["limits"]["memory"])
    )
    assert all("resources" in executor["container"] for executor in executors.values())
