"""The code version changes when what a step does may change, and only then: otherwise work is done twice, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tutelage.step.code import _content

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json, sys
from pathlib import Path
from tutelage import step
from tutelage.step.code import code_version

def versions():
    for cached in (step.describe, code_version):
        cached.cache_clear()
    return {name: code_version(name) for name in step.step_names()}

root = Path(sys.argv[1])
assert step.repository_root() == root and Path(step.__file__).is_relative_to(root), "the copy is what is looked at"
before, changed = versions(), {}
for name, files in json.loads(sys.argv[2]).items():
    kept = {file: (root / file).read_bytes() if (root / file).exists() else None for file in files}
    for file, text in files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        with (root / file).open("a") as handle:
            handle.write(text)
    after = versions()
    changed[name] = sorted(step for step in before if before[step] != after[step])
    for file, data in kept.items():
        (root / file).write_bytes(data) if data is not None else (root / file).unlink()
assert versions() == before, "the same tree has the same versions"
json.dump({"all": sorted(before), "changed": changed}, sys.stdout)
"""
COMMENT = "\n# changed\n"
EDITS = {
    "readme": {"components/data/curate/README.md": "more"},
    "tests": {"components/data/curate/tests/test_more.py": COMMENT},
    "bytecode": {"components/data/curate/__pycache__/step.cpython-311.pyc": "x", "src/tutelage/data/__pycache__/a.pyc": "x"},
    "prose in the package": {"src/tutelage/data/NOTES.md": "x"},
    "pipelines": {"pipelines/line.py": COMMENT},
    "recipes": {"recipes/tiny.yaml": COMMENT},
    "runtimes": {"src/tutelage/runtimes/launch.py": COMMENT},
    "orchestrate": {"src/tutelage/orchestrate/compile.py": COMMENT},
    "command line": {"src/tutelage/cli.py": COMMENT},
    "step": {"components/data/curate/step.py": COMMENT},
    "description": {"components/data/curate/component.yaml": COMMENT},
    "another file of the component": {"components/data/curate/words.txt": "x"},
    "stage": {"src/tutelage/data/__init__.py": COMMENT},
    "a new file of the stage": {"src/tutelage/train/unheard_of.py": COMMENT},
    "errors": {"src/tutelage/errors.py": COMMENT},
    "config": {"src/tutelage/config.py": COMMENT},
    "what a step is": {"src/tutelage/step/running.py": COMMENT},
    "contracts": {"src/tutelage/contracts/digests.py": COMMENT},
    "spark image": {"images/python-spark/requirements.lock": "more==1\n"},
    "pushed image": {"images/digests.json": "\n"},
    "indirect": {"src/tutelage/train/indirect.py": "from tutelage.report import anything\n"},
    "behind indirect": {
        "src/tutelage/train/indirect.py": "from tutelage.report import anything\n", "src/tutelage/report/new.py": COMMENT,
    },
}  # fmt: skip
NONE = (
    "readme",
    "tests",
    "bytecode",
    "prose in the package",
    "pipelines",
    "recipes",
    "runtimes",
    "orchestrate",
    "command line",
    "pushed image",
    "description",
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository's code."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("src", "components", "pipelines", "recipes", "images"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return folder


@pytest.fixture(scope="module")
def report(copy: Path) -> dict[str, list[str]]:
    """Edit → the steps whose code version it changes; "all": every step."""
    environment = {**os.environ, "PYTHONPATH": f"{copy / 'src'}{os.pathsep}{copy}"}
    command = [sys.executable, "-c", PROGRAM, str(copy), json.dumps(EDITS)]
    done = subprocess.run(command, env=environment, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    return {"all": result["all"], **result["changed"]}


@pytest.mark.parametrize("edit", NONE)
def test_what_does_not_touch_the_work_changes_no_version(report, edit):
    assert report[edit] == []


@pytest.mark.parametrize("edit", ["step", "another file of the component"])
def test_a_component_s_own_files_change_that_component_alone(report, edit):
    assert report[edit] == ["data/curate"]


@pytest.mark.parametrize("edit", ["errors", "config", "what a step is", "contracts"])
def test_level_0_changes_every_step(report, edit):
    assert report[edit] == report["all"]


def test_a_stage_changes_its_own_steps_alone(report):
    assert "data/curate" in report["stage"]
    assert all(step.startswith("data/") for step in report["stage"])
    assert report["a new file of the stage"] == ["train/train"]


def test_an_image_changes_the_steps_that_run_in_it(report):
    assert report["spark image"] == ["data/curate", "data/deduplicate", "data/split"]


def test_packages_that_a_stage_imports_count_as_well(report):
    assert "train/train" in report["indirect"]
    assert "train/train" in report["behind indirect"]


def test_more_memory_is_no_other_version_but_another_input_is(tmp_path: Path) -> None:
    described = yaml.safe_load((ROOT / "components" / "data" / "curate" / "component.yaml").read_text())

    def content(**changes: object) -> str:
        (tmp_path / "component.yaml").write_text(yaml.safe_dump(described | changes))
        return _content(tmp_path / "component.yaml")

    assert content(resources={"limits": {"memory": "64Gi"}}, owners=["somebody else"]) == content()
    assert content(reads={"splits": "splits"}) != content()
