"""train as launch() runs it: TorchX, torchrun, two ranks, gloo."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.training import SENTENCES, FakeArtifact, build_tokenizer, put_model, put_splits, sample_rows, use_runs
from tutelage.contracts.models import load_model, load_tokenizer
from tutelage.errors import BudgetSpent, InvalidInput, StepFailed
from tutelage.runtimes import launch

SMALL = {"batch": {"sequences": 4, "micro_sequences": 2}, "precision": {"saved": "float32"}}
LONG = {"objective": "pretrain", "epochs": 20, "checkpoints": {"every_steps": 5}, **SMALL}
Inputs = Mapping[str, FakeArtifact]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """A base model and its tokens."""
    runs = tmp_path_factory.mktemp("inputs")
    base = put_model(runs, build_tokenizer(SENTENCES, 300))
    tokens = FakeArtifact(str(runs / "tokens.json"))
    with pytest.MonkeyPatch.context() as patch:
        use_runs(runs, patch)
        splits = put_splits(runs, sample_rows(12))
        config = {"pretrain": {"sequence_length": 64}}
        launch("data/tokenize", inputs={"splits": splits, "model": base}, outputs={"tokens": tokens}, config=config)
    return {"tokens": tokens, "base": base}


def train(runs: Path, inputs: Inputs, **config: Any) -> FakeArtifact:
    """Train in the installation at `runs`."""
    runs.mkdir(parents=True, exist_ok=True)
    made = FakeArtifact(str(runs / f"{config['objective']}.json"))
    with pytest.MonkeyPatch.context() as patch:
        use_runs(runs, patch)
        launch(
            "train/train", inputs=inputs, outputs={"trained": made}, config=config, label=f"train-{config['objective']}"
        )
    return made


def events(runs: Path, name: str) -> list[dict[str, Any]]:
    lines = (runs / "by-hand" / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == name]


@pytest.fixture(scope="module")
def undisturbed(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> FakeArtifact:
    """The long run, never stopped."""
    return train(tmp_path_factory.mktemp("undisturbed"), inputs, **LONG)


def test_a_chain_of_phases_gives_a_model_that_loads(inputs: Inputs, tmp_path: Path) -> None:
    first = train(tmp_path, inputs, objective="sft", **SMALL, epochs=2, optimiser={"learning_rate": 3e-3})
    second = train(tmp_path, {**inputs, "base": first}, objective="dpo", **SMALL, lora={"rank": 2})
    made, base = second.manifest, inputs["base"].manifest
    assert made.details["objective"] == "dpo"
    assert made.details["stopped"] is None
    assert made.details["base_digest"] == first.manifest.content_digest != base.content_digest
    assert made.details["ranks"] == 2
    assert made.details["chat_probe"] == inputs["tokens"].manifest.details["chat_probe"]
    assert made.licences == {"Apache-2.0": 1}
    assert made.details["tokens_trained"] == inputs["tokens"].manifest.details["phases"]["dpo"]["tokens"]
    assert made.details["loss"][0][1] == pytest.approx(0.6931, abs=1e-4)
    folder = Path(made.location)
    assert load_model(folder).num_parameters() == made.details["parameters"]
    assert load_tokenizer(folder).chat_template
    assert not list(folder.rglob("*.bin"))
    observed = json.loads((folder / "observations.json").read_text())
    assert observed["tokens_per_second"] > 0
    assert observed["peak_memory_bytes"] > 0
    progress = events(tmp_path, "progress")[-1]
    assert progress["done"] == progress["total"] == made.details["tokens_trained"]
    assert not (tmp_path / "store" / "scratch" / made.step_key).exists()


def test_two_launches_give_bit_equal_weights(inputs: Inputs, undisturbed: FakeArtifact, tmp_path: Path) -> None:
    again = train(tmp_path, inputs, **LONG)
    assert again.manifest.location != undisturbed.manifest.location
    assert again.manifest.content_digest == undisturbed.manifest.content_digest
    assert again.manifest.details == undisturbed.manifest.details


def test_a_run_whose_rank_was_killed_goes_on_to_the_same_weights(
    inputs: Inputs, undisturbed: FakeArtifact, tmp_path: Path
) -> None:
    killer = threading.Thread(target=kill_a_rank_after_a_checkpoint, args=(tmp_path,))
    killer.start()
    with pytest.raises(StepFailed, match=r"lost its peers|before it could say why"):
        train(tmp_path, inputs, **LONG)
    killer.join()
    resumed = train(tmp_path, inputs, **LONG)
    assert "resumed at step" in events(tmp_path, "warning")[0]["message"]
    assert resumed.manifest.content_digest == undisturbed.manifest.content_digest
    assert resumed.manifest.details == undisturbed.manifest.details


def kill_a_rank_after_a_checkpoint(runs: Path) -> None:
    """kill -9 the last rank as soon as a checkpoint is complete."""
    deadline = time.monotonic() + 60
    while not list(runs.glob("store/scratch/*/checkpoints/*/complete.json")):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    ranks = [child for child in psutil.Process().children(recursive=True) if is_rank(child)]
    os.kill(ranks[-1].pid, signal.SIGKILL)


def is_rank(process: psutil.Process) -> bool:
    try:
        return "RANK" in process.environ() or "agent.py" in " ".join((process.parent() or process).cmdline())
    except psutil.Error:
        return False


def test_a_loss_that_is_not_a_number_ends_the_step_with_a_hint(inputs: Inputs, tmp_path: Path) -> None:
    optimiser = {"learning_rate": 1e38, "gradient_norm": None}
    with pytest.raises(StepFailed, match=r"at step|after step") as caught:
        train(tmp_path, inputs, objective="sft", **SMALL, epochs=4, optimiser=optimiser)
    assert "lower optimiser.learning_rate" in str(caught.value.hint)
    assert not list(tmp_path.glob("store/model/*/*/manifest.json"))


def test_a_spent_budget_is_a_success_with_a_model_that_says_so(inputs: Inputs, tmp_path: Path) -> None:
    made = train(tmp_path, inputs, objective="pretrain", **SMALL, epochs=3, budget={"tokens": 600}).manifest
    assert made.details["stopped"] == "budget"
    assert made.details["tokens_trained"] <= 600
    assert load_model(Path(made.location)).num_parameters() == made.details["parameters"]
    assert events(tmp_path, "finished")[0]["stopped"] == "budget"


@pytest.mark.slow
def test_an_unusable_budget_or_phase_is_told_by_type(inputs: Inputs, tmp_path: Path) -> None:
    with pytest.raises(BudgetSpent, match=r"budget.tokens is 5"):
        train(tmp_path, inputs, objective="sft", **SMALL, budget={"tokens": 5})
    only_sft = put_splits(tmp_path, [row for row in sample_rows(3) if row["phase"] == "sft"])
    tokens = FakeArtifact(str(tmp_path / "tokens.json"))
    with pytest.MonkeyPatch.context() as patch:
        use_runs(tmp_path, patch)
        launch(
            "data/tokenize", inputs={"splits": only_sft, "model": inputs["base"]}, outputs={"tokens": tokens}, config={}
        )
    with pytest.raises(InvalidInput, match="no training rows for objective 'dpo'; the tokens hold phases: sft"):
        train(tmp_path, {**inputs, "tokens": tokens}, objective="dpo", **SMALL)


@pytest.mark.slow
def test_ranks_die_with_the_launcher(inputs: Inputs, tmp_path: Path) -> None:
    use = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(Path.cwd())!r})
from components.train.train.tests.test_train import FakeArtifact, LONG, train
inputs = {{name: FakeArtifact(path) for name, path in {[(name, made.path) for name, made in inputs.items()]!r}}}
train(Path({str(tmp_path)!r}), inputs, **{{**LONG, "epochs": 4000}})
"""
    launcher = subprocess.Popen([sys.executable, "-c", use], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob("store/scratch/*/checkpoints/*/complete.json")):
        assert time.monotonic() < deadline and launcher.poll() is None
        time.sleep(0.1)
    family = psutil.Process(launcher.pid).children(recursive=True)
    assert len(family) >= 3
    launcher.kill()
    launcher.wait()
    assert psutil.wait_procs(family, timeout=10)[1] == []
