"""What a run is told before it starts: every mistake at once, in the words of the recipe, and exactly what steps will get."""

from __future__ import annotations

import copy
import datetime as dt
import hashlib
import importlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tutelage.orchestrate.tasks import tasks_of
from tutelage.plan import surroundings
from tutelage.plan.recipe import PIPELINES, planned, problems
from tutelage.plan.surroundings import Surroundings
from tutelage.step import repository_root

Parameters = dict[str, Any]
Told = dict[str, str]


@pytest.fixture
def parameters(tmp_path: Path) -> Parameters:
    """A run that can start: small local sources of every phase."""
    (tmp_path / "text.txt").write_text("Some text.\n")
    for name in ("documents.jsonl", "chats.jsonl"):
        (tmp_path / name).write_text("{}\n")
    (tmp_path / "sums.jsonl").write_text('{"prompt": "2 + 2?", "choices": ["3", "4"], "answer": 1}\n')
    formats = {
        "pretrain": ("documents.jsonl", "jsonl"),
        "sft": ("chats.jsonl", "jsonl"),
        "dpo": ("chats.jsonl", "jsonl"),
    }
    return {
        "sources": [
            {"name": phase, "uri": str(tmp_path / name), "phase": phase, "format": kind, "licence": "MIT"}
            for phase, (name, kind) in formats.items()
        ],
        "base_model": {
            "licence": "MIT",
            "initialise": {"tokenizer_corpus": [{"uri": str(tmp_path / "text.txt"), "licence": "MIT"}]},
        },
        "pretraining": {"tokens": {"sequence_length": 128}, "budget": {"tokens": 1000}},
        "finetuning": {},
        "alignment": {},
        "evaluation": {
            "suite": [
                {
                    "task": "sums",
                    "type": "multiple_choice",
                    "uri": str(tmp_path / "sums.jsonl"),
                    "format": "jsonl",
                    "licence": "MIT",
                }
            ]
        },
        "policy": {"release": {"rules": [{"figure": "perplexity/pretrain", "must_be": "better"}]}},
        "seed": 7,
    }


def told(parameters: Parameters, pipeline: str = "llm_training", **around: Any) -> Told:
    """Place → what is told of it, hint included."""
    found = problems(pipeline, parameters, surroundings=Surroundings(**around))
    return {problem.where: f"{problem.message} [{problem.hint}]" for problem in found}


def test_a_run_that_can_start_has_no_problems(parameters: Parameters, tmp_path: Path) -> None:
    assert told(parameters, cache=tmp_path / "cache", runs=tmp_path / "runs") == {}


def test_all_mistakes_are_told_at_once_in_the_words_of_the_recipe(parameters: Parameters) -> None:
    parameters["seed"] = 2**53
    parameters["polcy"] = {}
    parameters["sources"][0]["licence"] = "Free as in beer"
    del parameters["sources"][1]["licence"]
    parameters["pretraining"]["learning_rat"] = 1
    parameters["finetuning"]["optimiser"] = {"learning_rate": "fast"}
    parameters["evaluation"]["suit"] = []
    parameters["policy"]["curatio"] = {}
    parameters["policy"]["split"] = {"heldout_fraction": 1.5}
    found = told(parameters)
    assert set(found) == {
        "seed",
        "polcy",
        "sources[0].licence",
        "sources[1].licence",
        "pretraining.learning_rat",
        "finetuning.optimiser.learning_rate",
        "evaluation.suit",
        "policy.curatio",
        "policy.split.heldout_fraction",
    }
    assert "did you mean 'policy'" in found["polcy"]
    assert "did you mean 'suite'" in found["evaluation.suit"]
    assert "did you mean 'curation'" in found["policy.curatio"]
    assert "tokens" in found["pretraining.learning_rat"] and "objective" not in found["pretraining.learning_rat"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("sources", {}, "takes a list, got dict"),
        ("policy", [], "takes a mapping, got list"),
        ("seed", True, "takes a whole number, got bool"),
        ("seed", 1.5, "takes a whole number, got float"),
    ],
)
def test_a_parameter_of_a_wrong_type_is_told_once(parameters: Parameters, name: str, value: Any, message: str) -> None:
    parameters["policy"] = {}
    parameters[name] = value
    found = [problem for problem in problems("llm_training", parameters) if problem.where == name]
    assert [problem.message for problem in found] == [message]


def test_numbers_that_kubeflow_made_floats_are_accepted(parameters: Parameters) -> None:
    parameters["seed"] = 7.0
    parameters["pretraining"]["tokens"]["sequence_length"] = 128.0
    assert told(parameters) == {}


def test_an_unknown_pipeline_is_told_with_the_nearest_one(parameters: Parameters) -> None:
    assert "did you mean 'llm_training'" in told(parameters, "llm-training")["pipeline"]


def test_a_pipeline_takes_no_section_of_a_phase_it_lacks_unless_it_is_empty(parameters: Parameters) -> None:
    assert told(parameters, "continued_pretraining") == {}
    parameters |= {"finetuning": {"epochs": 2}, "alignment": {"epochs": 2}}
    assert set(told(parameters, "continued_pretraining")) == {"finetuning", "alignment"}


def test_a_missing_source_suite_or_corpus_is_told(parameters: Parameters, tmp_path: Path) -> None:
    for name in ("documents.jsonl", "text.txt", "sums.jsonl"):
        (tmp_path / name).unlink()
    assert set(told(parameters)) == {
        "sources[0].uri",
        "evaluation.suite[0].uri",
        "base_model.initialise.tokenizer_corpus[0].uri",
    }


def test_a_phase_without_a_source_is_told(parameters: Parameters) -> None:
    parameters["sources"].pop()
    assert "no source for phase 'dpo'" in told(parameters)["sources"]


def test_a_suite_without_a_readable_item_is_told(parameters: Parameters, tmp_path: Path) -> None:
    (tmp_path / "sums.jsonl").write_text('{"question": "2 + 2?"}\n')
    assert "gives no item: no_prompt" in told(parameters)["evaluation.suite[0]"]


def test_a_rule_on_a_figure_that_nothing_measures_is_told(parameters: Parameters) -> None:
    parameters["policy"]["release"]["rules"].append({"figure": "accuracy/sum", "minimum": 0.5})
    assert "did you mean 'accuracy/sums'" in told(parameters)["policy.release.rules[1].figure"]


@pytest.mark.parametrize("release", [{"rules": []}, {}])
def test_a_policy_without_a_rule_is_told_since_it_could_never_pass(parameters: Parameters, release: Any) -> None:
    parameters["policy"]["release"] = release
    assert "can never give a PASS" in told(parameters)["policy.release.rules"]


def test_a_folder_of_which_nothing_is_taken_is_told(parameters: Parameters, tmp_path: Path) -> None:
    folder = tmp_path / "folder" / "deeper"
    folder.mkdir(parents=True)
    (folder / "notes.txt").write_text("Some text.\n")
    source = parameters["sources"][0] | {"uri": str(tmp_path / "folder"), "format": "text"}
    parameters["sources"].append(parameters["sources"][0] | {"name": "more"})
    corpus = parameters["base_model"]["initialise"]["tokenizer_corpus"][0]
    for fields in ({"include": ["nothing/*"]}, {"exclude": ["*"]}, {"format": "markdown"}):
        parameters["sources"][0] = source | fields
        found = told(parameters)
        assert (
            list(found) == ["sources[0]"] and "none of its 1 files, deeper/notes.txt among them" in found["sources[0]"]
        )
    parameters["sources"][0] = source | {"include": ["deeper/*"]}
    assert told(parameters) == {}
    corpus |= {"uri": str(tmp_path / "folder"), "suffixes": [".py"]}
    assert "check suffixes" in told(parameters)["base_model.initialise.tokenizer_corpus[0]"]
    corpus["suffixes"] = [".txt"]
    assert told(parameters) == {}


def sums(number: int) -> str:
    return "".join(f'{{"prompt": "{n} + 0?", "choices": ["{n}", "none"], "answer": 0}}\n' for n in range(number))


@pytest.mark.parametrize(
    ("items", "limit", "maximum", "confidence", "enough"),
    [
        (20, 5, None, None, False),
        (20, 6, None, None, True),
        (20, None, 5, None, False),
        (5, None, None, None, False),
        (6, None, None, None, True),
        (6, 20, None, 0.99, False),
        (8, None, None, 0.99, True),
        (3, None, None, 0.5, True),
    ],
)
def test_a_rule_that_asks_for_proof_of_too_few_items_is_told(
    parameters: Parameters, tmp_path: Path, items: int, limit: int | None, maximum: int | None,
    confidence: float | None, enough: bool,
) -> None:  # fmt: skip
    (tmp_path / "sums.jsonl").write_text(sums(items))
    parameters["evaluation"]["suite"][0] |= {"limit": limit} if limit else {}
    parameters["evaluation"] |= {"maximum_suite_items": maximum} if maximum else {}
    parameters["evaluation"] |= {"comparison": {"confidence": confidence}} if confidence else {}
    parameters["policy"]["release"]["rules"] = [{"figure": "accuracy/sums", "must_be": "better"}]
    found = told(parameters)
    assert list(found) == ([] if enough else ["policy.release.rules[0].must_be"])
    parameters["policy"]["release"]["rules"] = [{"figure": "accuracy/sums", "must_be": "not_worse"}]
    assert told(parameters) == {}


def test_items_of_all_tasks_of_a_figure_count_together_and_rows_by_their_maximum(
    parameters: Parameters, tmp_path: Path
) -> None:
    (tmp_path / "harm.txt").write_text("one\ntwo\nthree\n")
    (tmp_path / "more.txt").write_text("four\nfive\nsix\n")
    parameters["evaluation"]["suite"] += [
        {"task": name, "type": "harmful", "uri": str(tmp_path / f"{name}.txt"), "format": "text", "licence": "MIT"}
        for name in ("harm", "more")
    ]
    parameters["policy"]["release"]["rules"] = [
        {"figure": name, "must_be": "better"} for name in ("refusal/harmful", "perplexity/sft")
    ]
    assert told(parameters) == {}
    parameters["evaluation"] |= {"maximum_heldout_rows": 5}
    assert list(told(parameters)) == ["policy.release.rules[1].must_be"]
    (tmp_path / "more.txt").write_text("four\nfive\n")
    assert "refusal/harmful is measured on 5 items at most" in told(parameters)["policy.release.rules[0].must_be"]


def test_bounds_that_no_model_can_keep_are_told(parameters: Parameters) -> None:
    parameters["policy"]["release"]["rules"] = [
        {"figure": "accuracy/sums", "minimum": 1.5},
        {"figure": "perplexity/sft", "maximum": 0.5},
        {"figure": "preference_accuracy/dpo", "minimum": 0.6, "maximum": 0.4},
        {"figure": "perplexity/dpo", "minimum": 20},
        {"figure": "bits_per_byte/sft", "maximum": 2, "minimum": 1.5},
        {"figure": "perplexity/dpo", "maximum": 10},
    ]
    found = told(parameters)
    assert set(found) == {f"policy.release.rules[{place}]" for place in ("2", "5")} | {
        "policy.release.rules[0].minimum", "policy.release.rules[1].maximum",
    }  # fmt: skip
    assert "is 1 at most, and never 1.5" in found["policy.release.rules[0].minimum"]
    assert "may be 10 at most and must be 20 at least" in found["policy.release.rules[5]"]


def test_what_the_base_model_does_not_have_is_told(parameters: Parameters, tmp_path: Path) -> None:
    parameters["alignment"] = {"lora": {"last_layers": 5}}
    assert "more than the model's 4 layers" in told(parameters)["alignment.lora.last_layers"]
    model = tmp_path / "model"
    model.mkdir()
    parameters["base_model"] = {"licence": "MIT", "uri": str(model)}
    (model / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    for shape, expected in (
        (
            {"num_hidden_layers": 4, "max_position_embeddings": 64},
            {"alignment.lora.last_layers", "pretraining.tokens.sequence_length"},
        ),
        (
            {"text_config": {"num_hidden_layers": 5, "max_position_embeddings": 64}},
            {"pretraining.tokens.sequence_length"},
        ),
        ({"num_hidden_layers": 5, "max_position_embeddings": 128}, set()),
        ({}, set()),
    ):
        (model / "config.json").write_text(json.dumps({"model_type": "llama", **shape}))
        assert set(told(parameters)) == expected


def test_a_source_with_nothing_to_read_is_told_and_not_waited_for(parameters: Parameters, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder" / "deeper").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    cases = {"empty.txt": "an empty file", "folder": "without any file", "pipe": "neither a file nor a folder"}
    source = parameters["sources"][0]
    for name, message in cases.items():
        for pin in ("", f"#sha256={hashlib.sha256(b'').hexdigest()}"):
            parameters["sources"][0] = source | {"uri": f"{tmp_path / name}{pin}"}
            found = told(parameters, cache=tmp_path / "cache")
            assert list(found) == ["sources[0].uri"]
            assert message in found["sources[0].uri"] or "pinned is" in found["sources[0].uri"]


def test_a_phase_whose_limits_leave_too_few_rows_to_hold_out_is_told(parameters: Parameters) -> None:
    parameters["policy"]["split"] = {"minimum_heldout": 10}
    parameters["sources"][0]["limit"] = 19
    parameters["sources"].append(parameters["sources"][1] | {"name": "more", "limit": 5})
    found = told(parameters)["policy.split.minimum_heldout"]
    assert "phase pretrain has at most 19 rows" in found and "9 or less" in found and "sft" not in found
    parameters["sources"][0]["limit"] = 20
    assert told(parameters) == {}


def test_a_phase_whose_files_are_too_few_rows_to_hold_out_is_told(parameters: Parameters, tmp_path: Path) -> None:
    for number in range(15):
        (tmp_path / f"manual-{number}.txt").write_text("Some text.\n")
    parameters["sources"][0] |= {"uri": str(tmp_path), "format": "text", "include": ["manual-*"]}
    found = told(parameters)["policy.split.minimum_heldout"]
    assert "phase pretrain has at most 15 rows" in found and "bring more files" in found and "7 or less" in found
    (tmp_path / "manual-15.txt").write_text("Some text.\n")
    assert told(parameters) == {}
    parameters["sources"][0] |= {"uri": str(tmp_path / "text.txt"), "include": []}
    assert "at most 1 rows" in told(parameters)["policy.split.minimum_heldout"]
    # Nobody knows how many rows a JSONL file of the same phase adds.
    parameters["sources"].append(parameters["sources"][0] | {"name": "more", "uri": str(tmp_path / "documents.jsonl")})
    parameters["sources"][-1]["format"] = "jsonl"
    assert told(parameters) == {}


def test_the_default_of_minimum_heldout_counts_too(parameters: Parameters) -> None:
    parameters["sources"][2]["limit"] = 15
    assert "phase dpo has at most 15 rows" in told(parameters)["policy.split.minimum_heldout"]


def test_dates_and_sets_hide_no_other_mistake_of_their_section(parameters: Parameters) -> None:
    parameters["sources"][0] |= {"name": dt.date(2024, 1, 1), "licence": "Free as in beer"}
    parameters["finetuning"] = {"optimiser": {1, 2}, "epoch": 3}
    found = told(parameters)
    assert {"sources[0].name", "sources[0].licence", "finetuning.optimiser", "finetuning.epoch"} <= set(found)
    assert "got 2024-01-01, which YAML read as a date" in found["sources[0].name"]


def test_sequences_longer_than_the_models_context_are_told(parameters: Parameters) -> None:
    parameters["pretraining"]["tokens"]["sequence_length"] = 1024
    assert "more than the model's context of 512" in told(parameters)["pretraining.tokens.sequence_length"]


def test_a_local_base_model_with_pickle_weights_is_told(parameters: Parameters, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.safetensors").write_bytes(b"\x80\x04.")
    parameters["base_model"] = {"licence": "MIT", "uri": str(tmp_path / "model")}
    assert "pickle weights" in told(parameters)["base_model.uri"]


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a wheel with this METADATA to a package index of its own; gives its sha256."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))

    def write(metadata: str) -> str:
        path = folder / "shelf-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("shelf/book.txt", "text")
            archive.writestr(
                "shelf-1.0.dist-info/METADATA", f"Metadata-Version: 2.4\nName: shelf\nVersion: 1.0\n{metadata}"
            )
            archive.writestr(
                "shelf-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
        return hashlib.sha256(path.read_bytes()).hexdigest()

    return write


def test_wheels_are_fetched_and_what_is_wrong_with_them_is_told(
    parameters: Parameters, tmp_path: Path, wheel: Callable[[str], str]
) -> None:
    pin = f"#sha256={wheel('License: BSD')}"
    parameters["sources"].append(parameters["sources"][0] | {"name": "more"})
    source = parameters["sources"][0] | {"format": "text"}
    cases = {
        f"wheel://shelf==1.0/shelf{pin}": ("licence", "no clear licence"),
        f"wheel://shelf==1.0/film{pin}": ("uri", "holds no 'film'"),
        f"wheel://shelf==1.0/shelf#sha256={'0' * 64}": ("uri", "pinned is 000000000000"),
        "wheel://shelf==1.0/shelf": ("uri", "no sha256"),
    }
    for uri, (key, message) in cases.items():
        parameters["sources"][0] = source | {"uri": uri, "licence": "metadata"}
        found = told(parameters, cache=tmp_path / "cache")
        assert list(found) == [f"sources[0].{key}"] and message in found[f"sources[0].{key}"]
    parameters["sources"][0] = source | {"uri": f"wheel://shelf==1.0/shelf{pin}", "licence": "BSD-3-Clause"}
    assert told(parameters, cache=tmp_path / "cache") == {}


def test_what_the_machine_lacks_is_told(
    parameters: Parameters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "no-java"))
    monkeypatch.setattr(surroundings, "COPIES_OF_ROWS", 10**18)
    found = problems(
        "llm_training",
        parameters,
        surroundings=Surroundings(
            runs=tmp_path / "runs", java=True, signing_key=str(tmp_path / "key.pem"), public_keys=str(tmp_path / "keys")
        ),
    )
    assert [problem.where for problem in found] == [
        "machine",
        "settings.signing_key",
        "settings.public_keys",
        "machine",
    ]
    assert "Java 17" in found[0].message and "free at" in found[3].message


#: The plan itself, and the exit handler.
WITHOUT_A_CONFIG = {"check", "clean"}


class Fake:
    """Stands for any artifact of a component's body."""


def handed_over(pipeline: str, parameters: Parameters, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Label → config that the bodies of all component.py files hand to launch(), as pipelines/line.py calls them."""
    taken: dict[str, Any] = {}

    def launch(step: str, *, config: Any, label: str | None = None, **_: Any) -> None:
        taken[label or step.split("/")[1]] = config

    monkeypatch.setattr("tutelage.runtimes.launch", launch)
    known = {name: parameters.get(name, {}) for name in ("pretraining", "finetuning", "alignment")}
    known |= {name: parameters[name] for name in ("sources", "base_model", "evaluation", "policy", "seed")}

    def call(step: str, **more: Any) -> None:
        module = importlib.import_module("components." + step.replace("/", ".") + ".component")
        body = getattr(module, step.split("/")[1]).python_func
        names = body.__code__.co_varnames[: body.__code__.co_argcount]
        body(**{name: (known | more).get(name, Fake()) for name in names})

    for task in tasks(pipeline):
        verb, _, rest = task.partition("-")
        (folder,) = (repository_root() / "components").glob(f"*/{verb}")
        step = f"{folder.parent.name}/{verb}"
        if verb == "train":
            section = {"pretrain": "pretraining", "sft": "finetuning", "dpo": "alignment"}[rest]
            call(step, objective=rest, training=known[section])
        elif verb == "evaluate":
            call(step, role=rest)
        else:
            call(step)
    return taken


def tasks(pipeline: str) -> list[str]:
    """Labels of the tasks whose Configs a recipe decides: of the compiled pipeline, or planned where there is none yet."""
    compiled = repository_root() / "compiled" / f"{pipeline}.yaml"
    if not compiled.is_file():
        return [task.label for task in planned(pipeline, {})]
    return [task.label for task in tasks_of(compiled) if task.label not in WITHOUT_A_CONFIG]


@pytest.mark.parametrize("pipeline", sorted(path.stem for path in (repository_root() / "compiled").glob("*.yaml")))
def test_every_task_of_a_compiled_pipeline_is_planned_in_its_order(pipeline: str) -> None:
    wired = {task.label: task for task in tasks_of(repository_root() / "compiled" / f"{pipeline}.yaml")}
    plan = [task.label for task in planned(pipeline, {})]
    assert sorted(plan) == sorted(set(wired) - WITHOUT_A_CONFIG)
    for place, label in enumerate(plan):
        assert set(wired[label].after) - WITHOUT_A_CONFIG <= set(plan[:place])


@pytest.mark.parametrize("pipeline", sorted(PIPELINES))
def test_the_plan_holds_what_component_bodies_hand_to_their_steps(
    parameters: Parameters, pipeline: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(repository_root()))
    parameters["evaluation"] |= {"comparison": {"confidence": 0.9}, "maximum_new_tokens": 8}
    parameters["policy"] |= {"curation": {"languages": ["en"]}, "split": {"heldout_fraction": 0.2}, "deployment": {}}
    for section in ("pretraining", "finetuning", "alignment"):
        if section not in PIPELINES[pipeline]:
            del parameters[section]
    given = copy.deepcopy(parameters)
    expected = {task.label: task.values for task in planned(pipeline, parameters)}
    assert handed_over(pipeline, given, monkeypatch) == expected


def test_resources_stand_beside_the_settings_of_steps_that_run_as_jobs(parameters: Parameters) -> None:
    before = problems("llm_training", parameters)
    parameters["finetuning"] |= {"resources": {"replicas": 2, "accelerators": {"nvidia.com/gpu": 4}}}
    parameters["policy"] |= {"curation": {"resources": {"limits": {"memory": "64Gi"}}}}
    assert problems("llm_training", parameters) == before
    parameters["finetuning"]["resources"] = {"replicas": 0, "gpus": 4}
    parameters["evaluation"] |= {"resources": {"replicas": 2}}
    told = {problem.where: str(problem) for problem in problems("llm_training", parameters) if problem not in before}
    assert "replicas" in told["finetuning.resources"] and "gpus" in told["finetuning.resources"]
    assert "fixed when the pipeline is compiled" in told["evaluation.resources"]
