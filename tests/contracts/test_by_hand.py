"""A step by hand: exits with its outcome's code, takes nothing for its own that it did not make, and tidies up."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.workspace import Workspace
from tutelage.contracts.manifest import read

TYPED = ("InvalidInput", "MissingTool", "GateRefused", "BudgetSpent", "StepFailed", "CorruptPayload")
OUTCOMES = {"InvalidInput": "invalid", "MissingTool": "invalid", "GateRefused": "refused", "BudgetSpent": "budget"}
EXIT_CODES = {"InvalidInput": 2, "MissingTool": 2, "GateRefused": 3, "BudgetSpent": 4}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return Workspace(folder)


def by_hand(workspace: Workspace, step: str, *flags: str) -> subprocess.CompletedProcess[str]:
    """`python components/demo/<step>/step.py FLAGS`."""
    file = workspace.folder / "components" / "demo" / step / "step.py"
    command = [sys.executable, str(file), *flags]
    return subprocess.run(command, env=workspace.variables(), capture_output=True, text=True, cwd=workspace.folder)


@pytest.mark.parametrize("name", [*TYPED, "crash", None])
def test_a_step_by_hand_exits_with_the_code_of_its_outcome(workspace, name):
    file = workspace.folder / "components" / "demo" / "make" / "step.py"
    out = workspace.folder / "by-hand"
    flags = ["--out", f"made={out}", *(["--set", f"fail={name}"] if name else [])]
    done = subprocess.run(
        [sys.executable, str(file), *flags],
        env=workspace.variables(),
        capture_output=True,
        text=True,
        cwd=workspace.folder,
    )
    assert done.returncode == (0 if name is None else EXIT_CODES.get(name, 1)), done.stderr
    assert done.stdout == "", "data to stdout, logs to stderr"
    if name in TYPED:
        assert f"error: cause of {name}\n\nhint: hint for {name}" in done.stderr
    assert json.loads((out / "outcome.json").read_text())["outcome"] == (
        "done" if name is None else OUTCOMES.get(name, "failed")
    )
    assert (out / "manifest.json").exists() == (name is None)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "takes --out made; got nothing"),
        (["--out", "made=x", "--out", "more=y"], "got made, more"),
        (["--out", "made"], "not NAME=VALUE"),
        (["--out", "made=x", "--in", "left=y"], "takes --in nothing"),
        (["--out", "made=x", "--set", "txt=1"], "did you mean 'text'?"),
        (["--out", "made=x", "--set", "text"], "not an assignment"),
    ],
)
def test_wrong_flags_by_hand_are_explained(workspace, flags, message):
    file = workspace.folder / "components" / "demo" / "make" / "step.py"
    done = subprocess.run(
        [sys.executable, str(file), *flags],
        env=workspace.variables(),
        capture_output=True,
        text=True,
        cwd=workspace.folder,
    )
    assert done.returncode == 2
    assert message in done.stderr
    assert "hint:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_second_run_to_the_same_place_is_refused_before_work(workspace):
    diary = workspace.folder / "diary"
    flags = ("--out", "made=out", "--set", f"diary={diary}")
    assert by_hand(workspace, "make", *flags).returncode == 0
    again = by_hand(workspace, "make", *flags)
    assert again.returncode == 2
    assert "output location is not empty: out holds" in again.stderr and "hint: name another place" in again.stderr
    assert len(workspace.diary()) == 1
    assert json.loads((workspace.folder / "out" / "outcome.json").read_text())["outcome"] == "done"


def test_what_a_failed_run_left_is_not_taken_for_the_next_ones(workspace):
    assert by_hand(workspace, "make", "--out", "made=out", "--set", "fail=crash").returncode == 1
    again = by_hand(workspace, "make", "--out", "made=out")
    assert again.returncode == 2 and "not empty" in again.stderr
    (workspace.folder / "bare").mkdir()
    (workspace.folder / "bare" / "outcome.json").write_text("{}")
    assert by_hand(workspace, "make", "--out", "made=bare").returncode == 0, "an outcome alone is in nobody's way"


def test_inputs_by_hand_must_be_there_and_of_the_kind_that_is_read(workspace):
    assert by_hand(workspace, "make", "--out", "made=made").returncode == 0
    outputs = ("--out", "verdict=verdict", "--out", "page=page")
    joined = by_hand(workspace, "join", "--in", "left=made", *outputs)
    assert joined.returncode == 0, joined.stderr
    kind = by_hand(workspace, "join", "--in", "left=verdict", "--out", "verdict=v", "--out", "page=p")
    assert kind.returncode == 2 and "input 'left' is a verdict, accepted: documents" in kind.stderr
    missing = by_hand(workspace, "join", "--in", "left=nowhere", "--out", "verdict=v", "--out", "page=p")
    assert missing.returncode == 2 and "no manifest at nowhere/manifest.json" in missing.stderr
    assert "Traceback" not in kind.stderr + missing.stderr


def test_other_inputs_under_the_same_name_and_other_code_are_other_work(workspace):
    def key_of_join() -> str:
        for name in ("verdict", "page"):
            subprocess.run(["rm", "-rf", str(workspace.folder / name)], check=True)
        done = by_hand(workspace, "join", "--in", "left=made", "--out", "verdict=verdict", "--out", "page=page")
        assert done.returncode == 0, done.stderr
        return read(str(workspace.folder / "verdict" / "manifest.json")).step_key

    by_hand(workspace, "make", "--out", "made=made")
    first = key_of_join()
    assert key_of_join() == first
    subprocess.run(["rm", "-rf", str(workspace.folder / "made")], check=True)
    by_hand(workspace, "make", "--out", "made=made", "--set", "text=other")
    second = key_of_join()
    assert second != first
    step = workspace.folder / "components" / "demo" / "join" / "step.py"
    step.write_text(step.read_text() + "\n# changed\n")
    assert key_of_join() not in (first, second)


def test_scratch_stands_beside_its_output_and_goes_with_success(workspace):
    step = workspace.folder / "components" / "demo" / "make" / "step.py"
    keep = "Path(context.scratch).mkdir(exist_ok=True)\n    context.progress("
    step.write_text(step.read_text().replace("context.progress(", keep, 1))
    other = workspace.folder / "other.scratch"
    other.mkdir()
    assert by_hand(workspace, "make", "--out", "made=out", "--set", "fail=crash").returncode == 1
    assert (workspace.folder / "out.scratch").is_dir(), "the next try resumes there"
    subprocess.run(["rm", "-rf", str(workspace.folder / "out")], check=True)
    assert by_hand(workspace, "make", "--out", "made=out").returncode == 0
    assert not (workspace.folder / "out.scratch").exists()
    assert other.is_dir(), "another output's is left alone"
