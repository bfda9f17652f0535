"""Bad input: a clear message with a hint, exit code 2, nothing started, nothing lost. All mistakes in one answer."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.end_to_end.command_line import ROOT, Ended, tutelage

TINY: dict[str, Any] = yaml.safe_load((ROOT / "recipes" / "tiny.yaml").read_text())


def recipe(folder: Path, **changes: Any) -> str:
    """A copy of the tiny recipe with some parameters replaced."""
    body = {**TINY, "parameters": {**TINY["parameters"], **changes}}
    file = folder / "changed.yaml"
    file.write_text(yaml.safe_dump(body))
    return str(file)


def refused(ended: Ended, runs: Path) -> str:
    """The message of a run that was refused before anything started."""
    assert ended.exit_code == 2, ended.err
    assert "hint:" in ended.err
    assert not list(runs.glob("*/run.json"))
    assert not (runs / "store").exists()
    return ended.err


def test_every_mistake_of_a_recipe_is_told_in_one_answer_and_nothing_starts(tmp_path: Path) -> None:
    sources = [dict(source) for source in TINY["parameters"]["sources"]]
    del sources[0]["licence"]
    sources[1]["uri"] = str(tmp_path / "nowhere")
    policy = {**TINY["parameters"]["policy"], "split": {"heldout_fraction": 1.5}}
    finetuning = {**TINY["parameters"]["finetuning"], "epochs": 3.5}
    path = recipe(tmp_path, sources=sources, policy=policy, finetuning=finetuning, sead=3, seed="seven")
    message = refused(tutelage("run", path, "--runs", str(tmp_path / "runs")), tmp_path / "runs")
    for words in (
        "sources[0].licence: is missing", "sources[1].uri", "policy.split.heldout_fraction", "finetuning.epochs",
        "got 3.5", "unknown key 'sead'", "did you mean 'seed'", "seed",
    ):  # fmt: skip
        assert words in message


def test_a_wheel_whose_hash_differs_is_refused_before_anything_starts(tmp_path: Path) -> None:
    sources = [dict(source) for source in TINY["parameters"]["sources"]]
    pinned, _, _ = sources[0]["uri"].partition("#")
    sources[0]["uri"] = f"{pinned}#sha256={'0' * 64}"
    message = refused(
        tutelage("run", recipe(tmp_path, sources=sources), "--runs", str(tmp_path / "runs")), tmp_path / "runs"
    )
    assert "sources[0].uri" in message
    assert "000000000000" in message


class Payload:
    """What an attacker puts in a pickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("/tmp/tutelage-was-here").touch, ())


@pytest.mark.parametrize("name", ["pytorch_model.bin", "innocent.txt"])
def test_a_base_model_with_pickle_weights_is_refused_whatever_the_file_is_called(tmp_path: Path, name: str) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (model / name).write_bytes(pickle.dumps(Payload()))
    path = recipe(tmp_path, base_model={"uri": str(model), "licence": "Apache-2.0"})
    message = refused(tutelage("run", path, "--runs", str(tmp_path / "runs")), tmp_path / "runs")
    assert "pickle" in message
    assert name in message
    assert not Path("/tmp/tutelage-was-here").exists()


def test_without_java_the_message_says_how_to_get_it(tmp_path: Path) -> None:
    ended = tutelage("check", "recipes/tiny.yaml", environment={"JAVA_HOME": str(tmp_path), "PATH": "/nonexistent"})
    assert ended.exit_code == 2
    assert "Java 17" in ended.err
    assert "openjdk-17" in ended.err


def test_an_unknown_recipe_names_the_nearest_known_one() -> None:
    ended = tutelage("run", "tinny")
    assert (ended.exit_code, "did you mean 'tiny'?" in ended.err) == (2, True)


def test_errors_come_as_json_too(tmp_path: Path) -> None:
    ended = tutelage("check", recipe(tmp_path, seed=1.5), "--json")
    assert (ended.exit_code, ended.json["outcome"]) == (2, "invalid")
    assert "seed" in ended.json["cause"]


def test_help_answers_within_a_second_and_names_every_command() -> None:
    ended = tutelage("--help", timeout=5)
    assert ended.exit_code == 0
    for command in ("run", "check", "step", "compile", "runs", "report", "lineage"):
        assert command in ended.out
