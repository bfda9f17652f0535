"""Recipes: values laid over the pipeline's defaults, paths that mean the same from everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from tutelage.errors import InvalidInput
from tutelage.orchestrate.recipes import pipeline_names, read_recipe


def test_what_a_recipe_leaves_out_comes_from_the_compiled_pipeline(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("pipeline: llm_training\nparameters: {seed: 11}\n")
    recipe = read_recipe(str(file))
    assert recipe.parameters["seed"] == 11
    assert recipe.parameters["sources"]
    assert recipe.name == "mine"


def test_relative_paths_are_found_beside_the_recipe_and_stay_relative_inside_the_repository(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    file = tmp_path / "mine.yaml"
    source = "{name: n, uri: notes.txt, phase: pretrain, licence: CC0-1.0, format: text}"
    suite = "{task: t, type: harmless, uri: recipes/tiny/harmless.txt, format: text, licence: Apache-2.0}"
    file.write_text(f"pipeline: llm_training\nparameters:\n  sources: [{source}]\n  evaluation: {{suite: [{suite}]}}\n")
    recipe = read_recipe(str(file))
    assert recipe.parameters["sources"][0]["uri"] == str(tmp_path / "notes.txt")
    assert recipe.parameters["evaluation"]["suite"][0]["uri"] == "recipes/tiny/harmless.txt"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pipelin: llm_training", "did you mean 'pipeline'?"),
        ("pipeline: nope", "llm_training"),
        ("[1, 2]", "see recipes/tiny.yaml"),
        ("pipeline: [", "see recipes/tiny.yaml"),
    ],
)
def test_a_recipe_that_is_none_is_refused_with_a_hint(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(text)
    with pytest.raises(InvalidInput, match="hint") as caught:
        read_recipe(str(file))
    assert message in str(caught.value)


def test_the_wiring_module_is_no_pipeline() -> None:
    assert "llm_training" in pipeline_names()
    assert "line" not in pipeline_names()


def test_a_key_that_stands_twice_is_refused_since_the_last_would_win_in_silence(tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text("pipeline: llm_training\nparameters: {seed: 7, seed: 8}\n")
    with pytest.raises(InvalidInput, match="key 'seed' stands twice"):
        read_recipe(str(file))


def test_what_stands_beside_the_recipe_comes_before_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("recipe", "elsewhere"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "notes.txt").write_text(folder)
    monkeypatch.chdir(tmp_path / "elsewhere")
    file = tmp_path / "recipe" / "mine.yaml"
    file.write_text("pipeline: llm_training\nparameters: {sources: [{uri: notes.txt}, {uri: ''}]}\n")
    sources = read_recipe(str(file)).parameters["sources"]
    assert sources == [{"uri": str(tmp_path / "recipe" / "notes.txt")}, {"uri": ""}]
