"""compare as a step: two scorecards in, verdicts out."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from tests.library.evaluate.tiny import finished
from tutelage.config import problems_of
from tutelage.contracts import locations
from tutelage.errors import InvalidInput, StepFailed
from tutelage.evaluate import scorecard
from tutelage.evaluate.scorecard import EXPONENTIAL, Item, Measured
from tutelage.step import Request, execute, load

STEP = load("evaluate/compare")
ABOUT = {"model": "m" * 64, "splits": "s" * 64, "suite": "t" * 64, "protocol": {"seed": 0}}


def save_scorecard(folder, better_by=0.0, items=200, figures=2, **about):
    """A scorecard of `figures` perplexities and one accuracy; `better_by` lowers every row's loss."""
    random = np.random.default_rng(0)
    losses, weights = random.gamma(4, 0.5, items), random.integers(10, 300, items)
    noise = np.random.default_rng(round(better_by * 1000) + 1).normal(0, 0.05, items)
    measured = Measured()
    for index in range(figures):
        rows = [
            Item(f"r{row:04d}", float(losses[row] - better_by + noise[row]), float(weights[row]))
            for row in range(items)
        ]
        measured.add_figure(
            f"perplexity/p{index}", rows, lower_is_better=True, unit="perplexity per token", statistic=EXPONENTIAL
        )
    hits = [Item(f"q{row:04d}", float(row % 3 == 0)) for row in range(items)]
    measured.add_figure("accuracy/topics", hits, lower_is_better=False, unit="share of items")
    measured.leave_out("perplexity/dpo", "no held-out rows of phase dpo")
    digest, _, _ = scorecard.write(measured, str(folder), {**ABOUT, **about})
    return finished("scorecard", folder, digest).uri


def compare(folder, baseline, candidate, **config):
    request = Request(
        step="evaluate/compare", config=config, inputs={"baseline": baseline, "candidate": candidate},
        outputs={"comparison": str(folder / "comparison")}, scratch=str(folder / "scratch"), cache=str(folder / "cache"),
        outcome=str(folder / "outcome.json"), step_key="k" * 32, attempt="a", code_version="test", run="test",
        label="compare",
    )  # fmt: skip
    return execute(STEP.run, STEP.Config, request)["comparison"]


def comparison_of(made):
    return json.loads(locations.read_bytes(made.file("comparison.json")))


def test_a_better_candidate_is_better_where_it_differs(tmp_path):
    made = compare(tmp_path, save_scorecard(tmp_path / "a"), save_scorecard(tmp_path / "b", 0.1, model="n" * 64))
    body = comparison_of(made)
    found = {figure["name"]: figure for figure in body["figures"]}
    assert {name: figure["verdict"] for name, figure in found.items()} == {
        "accuracy/topics": "cannot_be_told", "perplexity/p0": "better", "perplexity/p1": "better",
    }  # fmt: skip
    first = found["perplexity/p0"]
    assert first["low"] < first["difference"] < first["high"] < 0
    assert first["ratio"] == pytest.approx(first["candidate"] / first["baseline"])
    assert first["items"] == 200
    assert (body["baseline_model"], body["candidate_model"]) == ("m" * 64, "n" * 64)
    assert body["not_measured"] == [{"name": "perplexity/dpo", "why": "no held-out rows of phase dpo"}]
    assert made.metrics["better"] == 2
    assert made.metrics["perplexity_p0_difference"] == first["difference"]
    assert made.details["verdicts"]["accuracy/topics"] == "cannot_be_told"


def test_swapping_the_sides_turns_better_into_worse(tmp_path):
    made = compare(tmp_path, save_scorecard(tmp_path / "a", 0.1), save_scorecard(tmp_path / "b"))
    assert made.details["verdicts"]["perplexity/p0"] == "worse"


def test_the_digest_depends_on_seed_and_scorecards_alone(tmp_path):
    sides = save_scorecard(tmp_path / "a"), save_scorecard(tmp_path / "b", 0.1)
    first = compare(tmp_path / "1", *sides, seed=5).content_digest
    assert compare(tmp_path / "2", *sides, seed=5).content_digest == first
    assert compare(tmp_path / "3", *sides, seed=6).content_digest != first


def test_a_scorecard_of_another_suite_is_refused(tmp_path):
    other = save_scorecard(tmp_path / "b", suite="u" * 64)
    with pytest.raises(InvalidInput, match="differ in suite: baseline tttttttttttt, candidate uuuuuuuuuuuu"):
        compare(tmp_path, save_scorecard(tmp_path / "a"), other)


def test_a_missing_item_is_an_error_with_its_count(tmp_path):
    with pytest.raises(StepFailed, match="accuracy/topics: 1 items only in the baseline's scorecard"):
        compare(tmp_path, save_scorecard(tmp_path / "a"), save_scorecard(tmp_path / "b", items=199))


def test_a_figure_on_one_side_only_is_an_error(tmp_path):
    with pytest.raises(StepFailed, match="figures on one side only: perplexity/p1"):
        compare(tmp_path, save_scorecard(tmp_path / "a"), save_scorecard(tmp_path / "b", figures=1))


def test_ten_figures_over_five_hundred_items_take_less_than_two_seconds(tmp_path):
    sides = [save_scorecard(tmp_path / name, step, 500, 9) for name, step in (("a", 0.0), ("b", 0.1))]
    started = time.process_time()
    compare(tmp_path, *sides)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("values", [{"confidence": 1.0}, {"confidence": 95}, {"resamples": 10}, {"method": "t"}])
def test_wrong_settings_are_found_before_anything_starts(values):
    assert problems_of(STEP.Config, values)
