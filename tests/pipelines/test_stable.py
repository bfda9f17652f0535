"""Compiled files are the same bytes whoever compiles them: GitOps compares nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from tutelage.step import describe

ROOT = Path(__file__).parents[2]
PROGRAM = """
import hashlib
from tutelage.orchestrate.compile import compile_pipeline, pipeline_names
for name in pipeline_names():
    print(name, hashlib.sha256(compile_pipeline(name).encode()).hexdigest())
"""


def test_compiling_twice_gives_the_same_bytes(tmp_path):
    outputs = set()
    for seed in ("0", "1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC+{seed}", "HOME": str(tmp_path / seed)}
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=environment, cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert "llm_training " in outputs.pop()


def test_compiled_files_name_no_machine():
    for file in (ROOT / "compiled").glob("*.yaml"):
        text = file.read_text()
        assert str(ROOT) not in text
        assert str(Path.home()) + "/" not in text


def test_no_task_of_a_compiled_pipeline_may_be_taken_from_kfps_cache() -> None:
    for file in sorted((ROOT / "compiled").glob("*.yaml")):
        assert "enableCache: true" not in file.read_text(), file


def test_every_process_task_asks_for_what_its_component_yaml_says() -> None:
    ir = yaml.safe_load((ROOT / "compiled" / "llm_training.yaml").read_text())
    executors = ir["deploymentSpec"]["executors"]
    assert (
        executors["exec-ingest"]["container"]["resources"]["resourceMemoryLimit"]
        == (describe("data/ingest").resources["limits"]["memory"])
    )
    assert all("resources" in executor["container"] for executor in executors.values())
