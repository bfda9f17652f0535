"""Four pipelines, one line: each complete from ingest to deploy, each with the phases of its name and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tutelage.orchestrate.compile import compiled_file
from tutelage.orchestrate.recipes import pipeline_names, read_recipe
from tutelage.orchestrate.tasks import tasks_of
from tutelage.plan.recipe import COMMON, PHASES, PIPELINES

ROOT = Path(__file__).parents[2]
#: Pipeline → the recipe that its run form shows before anything is typed.
DEFAULTS = {
    "llm_training": "tiny",
    "continued_pretraining": "domain_language",
    "supervised_finetuning": "code_assistant",
    "preference_alignment": "preference_alignment",
}
#: Every task but training.
AROUND = {
    "check", "acquire", "ingest", "curate", "deduplicate", "split", "tokenize", "evaluate-baseline", "evaluate-candidate",
    "compare", "decide", "enforce", "register", "deploy", "clean",
}  # fmt: skip


def compiled(pipeline: str) -> dict[str, Any]:
    return dict(next(yaml.safe_load_all(compiled_file(pipeline).read_text())))


def test_every_pipeline_that_check_knows_has_a_file_and_a_golden_file_and_there_are_no_others() -> None:
    assert set(pipeline_names()) == set(PIPELINES) == set(DEFAULTS)
    assert {file.stem for file in (ROOT / "compiled").glob("*.yaml")} == set(PIPELINES)


@pytest.mark.parametrize("pipeline", sorted(PIPELINES))
def test_the_form_asks_for_the_phases_of_the_pipeline_and_no_others_and_all_have_defaults(pipeline: str) -> None:
    parameters = compiled(pipeline)["root"]["inputDefinitions"]["parameters"]
    assert set(parameters) == {*COMMON, *PIPELINES[pipeline]}
    assert all("defaultValue" in parameter for parameter in parameters.values())


@pytest.mark.parametrize("pipeline", sorted(PIPELINES))
def test_every_pipeline_is_complete_and_trains_its_phases_in_order(pipeline: str) -> None:
    labels = [task.label for task in tasks_of(compiled_file(pipeline))]
    assert {label for label in labels if not label.startswith("train-")} == AROUND
    trained = [label for label in labels if label.startswith("train-")]
    assert trained == [f"train-{PHASES[name]}" for name in PIPELINES[pipeline]]


@pytest.mark.parametrize("pipeline", sorted(PIPELINES))
def test_the_gate_stands_before_register_and_deploy_and_judges_the_last_phase(pipeline: str) -> None:
    after = {task.label: set(task.after) for task in tasks_of(compiled_file(pipeline))}
    last = f"train-{PHASES[PIPELINES[pipeline][-1]]}"
    assert "enforce" in after["register"] and "enforce" in after["deploy"]
    assert last in after["evaluate-candidate"] & after["decide"] & after["enforce"] & after["register"]
    assert last not in after["evaluate-baseline"]


@pytest.mark.parametrize("pipeline", sorted(PIPELINES))
def test_sections_of_phases_that_a_pipeline_lacks_are_handed_over_empty(pipeline: str) -> None:
    (tasks,) = (part["dag"]["tasks"] for part in compiled(pipeline)["components"].values() if "dag" in part)
    for task in ("check", "tokenize"):
        given = tasks[task]["inputs"]["parameters"]
        empty = {name for name in PHASES if given[name].get("runtimeValue") == {"constant": {}}}
        assert empty == set(PHASES) - set(PIPELINES[pipeline])


@pytest.mark.parametrize(("pipeline", "recipe"), sorted(DEFAULTS.items()))
def test_with_nothing_typed_a_pipeline_runs_its_own_recipe(pipeline: str, recipe: str, tmp_path: Path) -> None:
    (tmp_path / "nothing.yaml").write_text(f"pipeline: {pipeline}\n")
    shown, written = read_recipe(str(tmp_path / "nothing.yaml")), read_recipe(recipe)
    assert written.pipeline == pipeline
    assert shown.parameters == written.parameters
    (phases,) = {frozenset(source["phase"] for source in shown.parameters["sources"])}
    assert phases == {PHASES[name] for name in PIPELINES[pipeline]}
