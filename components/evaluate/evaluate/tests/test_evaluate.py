"""evaluate as a step: a real model, real rows, a finished scorecard."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from tests.library.evaluate.tiny import (
    heldout_rows_of,
    save_model,
    save_table,
    suite_items,
    tiny_model,
    tiny_tokenizer,
)
from tutelage.config import problems_of
from tutelage.contracts import locations, manifest, tables
from tutelage.step import Request, execute, load, repository_root

STEP = load("evaluate/evaluate")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("inputs")
    tokenizer = tiny_tokenizer()
    # Rows of phase dpo are there, but none of them is held out.
    rows = [row if row["phase"] != "dpo" else {**row, "split": "train"} for row in heldout_rows_of(12)]
    return {
        "model": save_model(root / "model", tiny_model(len(tokenizer)), tokenizer).uri,
        "splits": save_table(root / "splits", "splits", "rows", rows, tables.SPLIT_ROWS).uri,
        "suite": save_table(root / "suite", "suite", "items", suite_items(8, 6), tables.SUITE_ITEMS).uri,
    }


def evaluate(inputs, folder, **config):
    folder.mkdir(exist_ok=True)
    request = Request(
        step="evaluate/evaluate", config={"threads": 1, "maximum_new_tokens": 6, **config}, inputs=inputs,
        outputs={"scorecard": str(folder / "scorecard")}, scratch=str(folder / "scratch"), cache=str(folder / "cache"),
        outcome=str(folder / "outcome.json"), step_key="k" * 32, attempt="a", code_version="test", run="test",
        label="evaluate-baseline", events=str(folder / "events.jsonl"),
    )  # fmt: skip
    return execute(STEP.run, STEP.Config, request)["scorecard"]


@pytest.fixture(scope="module")
def made(inputs, tmp_path_factory):
    return evaluate(inputs, tmp_path_factory.mktemp("made"))


def test_progress_says_which_phase_or_task_it_measures(inputs, tmp_path):
    evaluate(inputs, tmp_path)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    units = [event["unit"] for event in events if event["event"] == "progress"]
    assert "sequences of held-out pretrain" in units and "sequences of held-out sft" in units
    assert any(unit.startswith("items of ") for unit in units) and all(" of " in unit for unit in units)
    assert {unit for unit in units if unit.startswith("prompts")} == {
        "prompts of refusal/harmful", "prompts of refusal/harmless",
    }  # fmt: skip


def scorecard_of(made):
    return json.loads(locations.read_bytes(made.file("scorecard.json")))


def test_every_figure_that_can_be_measured_is_there_and_the_rest_is_named(made):
    body = scorecard_of(made)
    assert [figure["name"] for figure in body["figures"]] == [
        "accuracy/topics", "bits_per_byte/pretrain", "bits_per_byte/sft", "perplexity/pretrain", "perplexity/sft",
        "refusal/harmful", "refusal/harmless",
    ]  # fmt: skip
    assert [entry["name"] for entry in body["not_measured"]] == [
        "bits_per_byte/dpo", "perplexity/dpo", "preference_accuracy/dpo",
    ]  # fmt: skip
    assert set(made.metrics) == {figure["name"].replace("/", "_") for figure in body["figures"]}


def test_figures_of_a_phase_that_the_data_does_not_have_are_neither_measured_nor_missed(inputs, tmp_path):
    rows = [row for row in heldout_rows_of(3) if row["phase"] == "sft"]
    splits = save_table(tmp_path / "splits", "splits", "rows", rows, tables.SPLIT_ROWS).uri
    body = scorecard_of(evaluate({**inputs, "splits": splits}, tmp_path / "alone"))
    assert body["not_measured"] == []
    assert [name for name in body["coverage"] if name.startswith("perplexity/")] == ["perplexity/sft"]


def test_figures_follow_from_the_items_table(made):
    rows = list(tables.read(made, "items"))
    assert made.rows == len(rows)
    for figure in scorecard_of(made)["figures"]:
        own = [row for row in rows if row["name"] == figure["name"]]
        mean = sum(row["value"] * row["weight"] for row in own) / sum(row["weight"] for row in own)
        expected = math.exp(mean) if figure["name"].startswith("perplexity/") else mean
        assert figure["value"] == pytest.approx(expected, rel=1e-12)
        assert figure["items"] == len(own)


def test_the_scorecard_says_what_it_was_measured_on_and_how(made, inputs):
    body = scorecard_of(made)
    for name in ("model", "splits", "suite"):
        assert body[name] == made.details[name] == manifest.read(inputs[name]).content_digest
    assert body["protocol"]["maximum_new_tokens"] == 6
    assert body["coverage"]["perplexity/sft"]["rows_scored"] == 12
    assert len(body["examples"]) == 4


def test_seconds_are_observations_and_no_part_of_the_scorecard(made):
    observations = json.loads(locations.read_bytes(locations.join(made.location, "observations.json")))
    assert {"heldout_tokens_per_second", "peak_memory_bytes", "refusal_seconds", "seconds"} <= observations.keys()
    assert "seconds" not in locations.read_bytes(made.file("scorecard.json")).decode()


def test_the_same_model_gives_the_same_digest_and_another_model_another(made, inputs, tmp_path):
    assert evaluate(inputs, tmp_path / "again").content_digest == made.content_digest
    tokenizer = tiny_tokenizer()
    other = save_model(tmp_path / "model", tiny_model(len(tokenizer), seed=1), tokenizer).uri
    assert evaluate({**inputs, "model": other}, tmp_path / "other").content_digest != made.content_digest


def test_limits_leave_rows_and_items_out_and_count_them(inputs, tmp_path):
    body = scorecard_of(evaluate(inputs, tmp_path, maximum_heldout_rows=5, maximum_suite_items=3))
    assert body["coverage"]["perplexity/pretrain"]["rows_scored"] == 5
    assert body["coverage"]["perplexity/pretrain"]["rows_beyond_limit"] == 7
    assert body["coverage"]["accuracy/topics"]["items_beyond_limit"] == 5
    assert body["coverage"]["refusal/harmful"]["items_beyond_limit"] == 3


def test_pairs_of_sentences_become_a_figure_beside_the_others(inputs, tmp_path):
    items = suite_items(2, 1)
    for index in range(4):
        pair = {**items[0], "id": f"pair{index}", "task": "pairs", "type": "stereotype", "prompt": "", "answer": 0}
        items.append({**pair, "choices": [f"All of them are number {index}.", f"None of them are number {index}."]})
    suite = save_table(tmp_path / "suite", "suite", "items", items, tables.SUITE_ITEMS).uri
    body = scorecard_of(evaluate({**inputs, "suite": suite}, tmp_path / "out", maximum_suite_items=3))
    (figure,) = [figure for figure in body["figures"] if figure["name"] == "stereotype/pairs"]
    assert (figure["items"], figure["lower_is_better"], figure["alternatives"]["fair"]) == (3, True, 0.5)
    assert body["coverage"]["stereotype/pairs"]["items_beyond_limit"] == 1
    assert {"accuracy/topics", "refusal/harmful"} <= {figure["name"] for figure in body["figures"]}


def test_a_figure_that_is_not_measured_is_a_warning_in_the_events(inputs, tmp_path):
    evaluate(inputs, tmp_path)
    events = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    warnings = [event["message"] for event in events if event["event"] == "warning"]
    assert "not measured: perplexity/dpo: no held-out rows of phase dpo" in warnings


def test_no_text_of_the_rows_stands_in_manifest_scorecard_or_events(inputs, tmp_path):
    made = evaluate(inputs, tmp_path)
    written = [locations.read_bytes(made.uri), locations.read_bytes(made.file("scorecard.json"))]
    written.append((tmp_path / "events.jsonl").read_bytes())
    for row in tables.read(manifest.read(inputs["splits"]), "rows"):
        for text in [row["text"], *(turn["content"] for turn in row["messages"] or ())]:
            assert not text or all(text[:60].encode() not in data for data in written)


@pytest.mark.parametrize(
    "values", [{"maximum_heldout_rows": 0}, {"dtype": "float16"}, {"examples": 9}, {"suite": []}, {"threads": 0.5}]
)
def test_wrong_settings_are_found_before_anything_starts(values):
    assert problems_of(STEP.Config, values)


def test_the_step_is_light_to_import():
    imports = "import sys; from tutelage.step import load; "
    code = imports + "load('evaluate/evaluate'); load('evaluate/compare'); print([*sys.modules])"
    shown = subprocess.run(
        [sys.executable, "-c", code], cwd=repository_root(), capture_output=True, text=True, check=True
    )
    loaded = set(shown.stdout.replace("'", " ").replace(",", " ").split())
    assert not loaded & {"torch", "transformers", "kfp", "scipy", "pyspark"}


@pytest.mark.parametrize("change", [{"threads": 2}, {"batch_tokens": 256}])
def test_threads_and_batches_change_no_figure_beyond_the_last_digits(inputs, tmp_path, change):
    little = {"maximum_heldout_rows": 4, "maximum_suite_items": 3, "maximum_new_tokens": 2, "maximum_row_tokens": 128}
    here = scorecard_of(evaluate(inputs, tmp_path / "here", **little))
    there = scorecard_of(evaluate(inputs, tmp_path / "there", **little, **change))
    assert here["protocol"] == there["protocol"]
    for first, second in zip(here["figures"], there["figures"], strict=True):
        assert second["value"] == pytest.approx(first["value"], rel=1e-5)
