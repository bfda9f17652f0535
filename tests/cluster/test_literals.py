"""Allowed values in the IR: what the table declares, checked against the pipeline, and taken by kfp itself."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp import compiler, components, dsl, local
from kfp.pipeline_spec import pipeline_spec_pb2

from tutelage.errors import InvalidInput
from tutelage.orchestrate import image_block
from tutelage.orchestrate.compile import compile_pipeline, compiled_file
from tutelage.orchestrate.literals import declared_choices, inject


@dsl.component(base_image="python:3.11", install_kfp_package=False)
def choose(size: str, count: int) -> str:
    return f"{size} {count}"


@dsl.pipeline(name="form-with-choices")
def form_with_choices(size: str = "small", count: int = 1, sources: list = ["a"]) -> None:  # noqa: B006
    choose(size=size, count=count)
    choose(size="large", count=3)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("compiled") / "form.yaml"
    compiler.Compiler().compile(form_with_choices, str(file))
    return yaml.safe_load(file.read_text())


@pytest.fixture
def ir(compiled: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(compiled)


def test_a_parameter_of_the_run_form_gets_its_values(ir: dict[str, Any]) -> None:
    inject(ir, {"form_with_choices": {"size": ("small", "large"), "count": (1, 3)}})
    parameters = ir["root"]["inputDefinitions"]["parameters"]
    assert parameters["size"]["literals"] == ["small", "large"]
    assert parameters["count"]["literals"] == [1, 3]
    assert "literals" not in parameters["sources"]
    spec = json_format.ParseDict(ir, pipeline_spec_pb2.PipelineSpec())
    assert [value.string_value for value in spec.root.input_definitions.parameters["size"].literals] == [
        "small",
        "large",
    ]


def test_every_numbered_copy_of_a_component_gets_its_values(ir: dict[str, Any]) -> None:
    inject(ir, {"choose": {"size": ("small", "large")}})
    found = [body["inputDefinitions"]["parameters"]["size"]["literals"] for body in ir["components"].values()]
    assert found == [["small", "large"]] * len(ir["components"])
    assert len(found) == 2


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"choose": {"colour": ("red",)}}, "no parameter 'colour'"),
        ({"form_with_choices": {"sources": ("a",)}}, "is a LIST"),
        ({"form_with_choices": {"size": ("small", 2)}}, "2 is no STRING"),
        ({"form_with_choices": {"count": (True, 1)}}, "give each value once"),
        ({"form_with_choices": {"count": (True, 2)}}, "True is no NUMBER_INTEGER"),
        ({"form_with_choices": {"size": ()}}, "at least one"),
        ({"form_with_choices": {"size": ("medium", "large")}}, "is given 'small'"),
        ({"choose": {"size": ("small", "medium")}}, "is given 'large'"),
    ],
)
def test_a_table_that_does_not_fit_the_pipeline_is_refused(ir: dict[str, Any], table: Any, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        inject(ir, table)


def test_a_component_that_a_pipeline_lacks_is_passed_over(ir: dict[str, Any]) -> None:
    before = copy.deepcopy(ir)
    inject(ir, {"train": {"objective": ("sft",)}})
    assert ir == before


def test_kfp_runs_a_pipeline_with_values_declared(ir: dict[str, Any], tmp_path: Path) -> None:
    inject(ir, {"form_with_choices": {"size": ("small", "large")}, "choose": {"size": ("small", "large")}})
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path), raise_on_error=True)
    pipeline = components.load_component_from_text(yaml.safe_dump(ir))
    pipeline(size="large", count=2)


def test_every_declared_component_is_one_of_ours_and_is_compiled_in() -> None:
    text = compiled_file("llm_training").read_text()
    spec = yaml.safe_load(text.split("\n---\n")[0])
    for component, parameters in declared_choices().items():
        for parameter, values in parameters.items():
            definition = spec["components"][f"comp-{component}"]["inputDefinitions"]["parameters"][parameter]
            assert definition["literals"] == list(values)


def test_the_switch_for_older_servers_leaves_no_value_behind_and_is_remembered() -> None:
    text = compile_pipeline("llm_training", image_block.Choices(literals=False))
    assert "literals:" not in text.replace("#    literals: off", "")
    assert image_block.choices_in(text) == image_block.Choices(literals=False)
