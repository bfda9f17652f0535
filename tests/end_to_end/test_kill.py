"""Kill anything at any time; the same command again finishes with the same digests and leaves no process behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.end_to_end.command_line import ROOT, TinyRun, processes_of, tutelage
from tests.end_to_end.test_tiny import digests

SETTLE_SECONDS = 8.0
TINY = "recipes/tiny.yaml"


def small_recipe(folder: Path) -> str:
    """The tiny recipe with a tenth of the work, so that twenty runs fit into half an hour."""
    body = yaml.safe_load((ROOT / "recipes" / "tiny.yaml").read_text())
    parameters = body["parameters"]
    for source in parameters["sources"]:
        source["limit"] = 60
    parameters["base_model"]["initialise"].update(hidden_size=64, layers=2, attention_heads=4, intermediate_size=128)
    parameters["finetuning"]["epochs"] = 1
    parameters["evaluation"].update(maximum_heldout_rows=8, maximum_new_tokens=4, maximum_suite_items=8)
    parameters["policy"]["split"]["minimum_heldout"] = 8
    parameters["policy"]["release"]["rules"] = [{"figure": "perplexity/pretrain", "must_be": "better"}]
    for section in ("pretraining", "finetuning", "alignment"):
        parameters[section]["checkpoints"] = {"every_steps": 2}
    (folder / "small.yaml").write_text(yaml.safe_dump(body))
    return str(folder / "small.yaml")


def run_and_kill(recipe: str, runs: Path, label: str, after_seconds: float, chance: random.Random) -> str | None:
    """Start the recipe; kill -9 one of its processes at random `after_seconds` into task `label`.

    Gives the killed process's command, or None when the run was over before.
    """
    with subprocess.Popen(
        [sys.executable, "-m", "tutelage", "run", recipe, "--runs", str(runs), "--json"],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as command:  # fmt: skip
        killed = None
        deadline: float | None = None
        while command.poll() is None:
            if deadline is None and label in started_tasks(runs):
                deadline = time.monotonic() + after_seconds
            if deadline is not None and time.monotonic() > deadline:
                family = psutil.Process(command.pid).children(recursive=True)
                steps = [process for process in family if "events" not in process.name()]
                if steps:
                    victim = chance.choice(sorted(steps, key=lambda process: process.pid))
                    killed = " ".join(victim.cmdline())[-200:]
                    victim.send_signal(signal.SIGKILL)
                    break
            time.sleep(0.02)
        command.wait(timeout=600)
    return killed


def started_tasks(runs: Path) -> set[str]:
    """Tasks that the newest run has started."""
    files = sorted(runs.glob("*/events.jsonl"))
    if not files:
        return set()
    events = [json.loads(line) for line in files[-1].read_text().splitlines() if line.endswith("}")]
    return {event["task"] for event in events if event["event"] == "started"}


def nothing_left(runs: Path) -> bool:
    """Whether every process of the runs folder ends within a few seconds."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        if not processes_of(runs):
            return True
        time.sleep(0.2)
    return False


def finishes_equal(recipe: str, undisturbed: dict[str, Any], runs: Path) -> None:
    """The same command again ends well, with the digests of the undisturbed run."""
    ended = tutelage("run", recipe, "--runs", str(runs), "--json")
    assert ended.exit_code == 0, ended.err
    assert without_keys(digests(ended.json)) == without_keys(digests(undisturbed))
    assert nothing_left(runs)


def without_keys(found: dict[str, str]) -> dict[str, str]:
    """Digests that do not depend on the installation's key pair, which each runs folder makes for itself."""
    return {
        name: digest for name, digest in found.items() if name.split("/")[0] not in ("decide", "register", "deploy")
    }


@pytest.mark.timeout(1200)
@pytest.mark.slow
def test_two_kills_one_in_spark_and_one_in_training_change_nothing(tiny: TinyRun, tmp_path: Path) -> None:
    chance = random.Random(7)
    for label, after in (("deduplicate", 4.0), ("train-sft", 9.0)):
        killed = run_and_kill(TINY, tmp_path, label, after, chance)
        assert killed is not None, f"the run ended before {label} could be killed"
        assert nothing_left(tmp_path), [process.cmdline() for process in processes_of(tmp_path)]
    finishes_equal(TINY, tiny.record, tmp_path)


@pytest.mark.timeout(1200)
def test_killing_the_command_line_itself_leaves_nothing_running(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tutelage", "run", TINY, "--runs", str(tmp_path)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as command:  # fmt: skip
        deadline = time.monotonic() + 120
        while "curate" not in started_tasks(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(4)
        command.kill()
    assert nothing_left(tmp_path), [process.cmdline() for process in processes_of(tmp_path)]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_twenty_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    chance = random.Random(20)
    recipe = small_recipe(tmp_path)
    undisturbed = tutelage("run", recipe, "--runs", str(tmp_path / "undisturbed"), "--json")
    assert undisturbed.exit_code == 0, undisturbed.err
    labels = ["ingest", "curate", "deduplicate", "split", "tokenize", "train-pretrain", "train-sft", "train-dpo"]
    labels += ["evaluate-baseline", "evaluate-candidate", "compare", "decide", "deploy"]
    kills: list[str] = []
    for number in range(60):
        runs = tmp_path / str(number // 5)
        killed = run_and_kill(recipe, runs, chance.choice(labels), chance.uniform(0, 8), chance)
        if killed is not None:
            kills.append(killed)
            print(len(kills), killed, flush=True)
        assert nothing_left(runs), [process.cmdline() for process in processes_of(runs)]
        if number % 5 == 4 or len(kills) == 20:
            finishes_equal(recipe, undisturbed.json, runs)
        if len(kills) == 20:
            break
    assert len(kills) == 20
