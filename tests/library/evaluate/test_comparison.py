"""Paired bootstrap: against scipy, against the truth in simulations, and what it refuses to conclude."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tutelage.errors import InvalidInput, StepFailed
from tutelage.evaluate.comparison import (
    Interval,
    Paired,
    bootstrap,
    compare_figure,
    mcnemar,
    minimum_detectable,
    pair,
    refuse_unlike,
    verdict,
)
from tutelage.evaluate.scorecard import EXPONENTIAL, WEIGHTED_MEAN, Item


def paired(baseline, candidate, weights=None):
    baseline, candidate = np.asarray(baseline, dtype=float), np.asarray(candidate, dtype=float)
    weights = np.ones(len(baseline)) if weights is None else np.asarray(weights, dtype=float)
    return Paired(baseline, weights, candidate, weights)


def figure(name="accuracy/x", statistic=WEIGHTED_MEAN, lower_is_better=False, value=0.5):
    return {"name": name, "statistic": statistic, "lower_is_better": lower_is_better, "value": value, "unit": "share"}


def test_the_interval_is_scipys_bca_interval():
    from scipy import stats

    random = np.random.default_rng(1)
    differences = random.exponential(1.0, 60) - 0.5
    ours = bootstrap(paired(np.zeros(60), differences), 0.95, 20_000, seed=3)
    theirs = stats.bootstrap(
        (differences,), np.mean, confidence_level=0.95, n_resamples=20_000, method="BCa", rng=np.random.default_rng(4)
    )
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.015)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.015)
    assert ours.standard_error == pytest.approx(theirs.standard_error, rel=0.05)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    random = np.random.default_rng(0)
    hits = 0
    for trial in range(400):
        weights = random.integers(20, 200, 50)
        baseline = random.gamma(4.0, 0.5, 50)
        candidate = baseline - 0.1 + random.normal(0, 0.3, 50)
        interval = bootstrap(paired(baseline, candidate, weights), 0.95, 400, seed=trial)
        hits += interval.low <= -0.1 <= interval.high
    assert 0.91 <= hits / 400 <= 0.98


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [(0.9, 0.6, "better"), (0.6, 0.9, "worse"), (0.9, 0.4, "better"), (0.4, 0.1, "cannot_be_told"), (0.1, 0.4, "cannot_be_told")],
)  # fmt: skip
def test_lower_is_better_only_where_it_is_nearer_to_what_is_fair(before, after, expected):
    sides = [np.arange(200) < 200 * share for share in (before, after)]
    figures = [
        {**figure("stereotype/x", lower_is_better=True, value=share), "alternatives": {"fair": 0.5}}
        for share in (before, after)
    ]
    found = compare_figure(*figures, paired(*sides), 0.95, 500, seed=0)
    assert found["verdict"] == expected
    assert any("fair is 0.5" in note for note in found["notes"]) == (expected == "cannot_be_told")


def test_two_equal_models_are_rarely_told_apart():
    random = np.random.default_rng(5)
    told = 0
    for trial in range(300):
        both = (random.random((2, 40)) < 0.6).astype(float)
        body = compare_figure(figure(), figure(), paired(*both), 0.95, 400, seed=trial)
        told += body["verdict"] != "cannot_be_told"
    assert told / 300 <= 0.09


def test_pairing_finds_what_unpaired_spread_would_hide():
    random = np.random.default_rng(2)
    baseline = random.normal(3.0, 1.0, 100)
    candidate = baseline - 0.05 + random.normal(0, 0.05, 100)
    body = compare_figure(
        figure("perplexity/pretrain", EXPONENTIAL, True), figure("perplexity/pretrain", EXPONENTIAL, True),
        paired(baseline, candidate), 0.95, 1000, seed=0,
    )  # fmt: skip
    assert body["verdict"] == "better"
    assert body["ratio"] == pytest.approx(math.exp(body["difference"]))
    assert body["ratio_low"] < body["ratio"] < body["ratio_high"] < 1
    assert 0 < body["minimum_detectable"] < 0.05


def test_a_weighted_difference_is_that_of_weighted_means():
    sides = paired([1.0, 2.0], [1.0, 1.0], weights=[1, 3])
    assert sides.difference() == pytest.approx(-0.75)


def test_the_seed_decides_the_interval_and_other_figures_do_not():
    random = np.random.default_rng(7)
    sides = paired(random.random(50), random.random(50))
    first = compare_figure(figure("accuracy/a"), figure("accuracy/a"), sides, 0.95, 500, seed=1)
    again = compare_figure(figure("accuracy/a"), figure("accuracy/a"), sides, 0.95, 500, seed=1)
    other_seed = compare_figure(figure("accuracy/a"), figure("accuracy/a"), sides, 0.95, 500, seed=2)
    other_name = compare_figure(figure("accuracy/b"), figure("accuracy/b"), sides, 0.95, 500, seed=1)
    assert first == again
    assert first["low"] != other_seed["low"]
    assert first["low"] != other_name["low"]


@pytest.mark.parametrize(
    ("low", "high", "lower_is_better", "expected"),
    [
        (0.1, 0.2, False, "better"),
        (0.1, 0.2, True, "worse"),
        (-0.2, -0.1, True, "better"),
        (-0.2, -0.1, False, "worse"),
        (-0.1, 0.1, False, "cannot_be_told"),
        (0.0, 0.1, False, "cannot_be_told"),
    ],
)
def test_verdicts_follow_the_interval_and_the_direction(low, high, lower_is_better, expected):
    assert verdict(Interval(low, high, 0.1), lower_is_better) == expected


def test_equal_sides_cannot_be_told_apart():
    body = compare_figure(figure(), figure(), paired([1, 0, 1], [1, 0, 1]), 0.95, 200, seed=0)
    assert (body["difference"], body["low"], body["high"], body["verdict"]) == (0, 0, 0, "cannot_be_told")


def test_five_items_in_one_direction_prove_nothing_and_six_do():
    few = compare_figure(figure(), figure(), paired([0] * 5, [1] * 5), 0.95, 200, seed=0)
    assert few["verdict"] == "cannot_be_told"
    assert any("only 5 items differ" in note for note in few["notes"])
    six = compare_figure(figure(), figure(), paired([0] * 6, [1] * 6), 0.95, 200, seed=0)
    assert six["verdict"] == "better"
    assert any("small sample: 6 items" in note for note in six["notes"])


@pytest.mark.parametrize(
    ("up", "down", "items", "expected"),
    [
        (6, 1, 30, "cannot_be_told"),
        (1, 6, 30, "cannot_be_told"),
        (8, 1, 30, "better"),
        (1, 8, 30, "worse"),
        (6, 0, 16, "better"),
        (8, 0, 16, "better"),
    ],
)
def test_what_is_right_or_wrong_is_better_only_where_the_exact_test_says_so_too(up, down, items, expected):
    before = np.r_[np.zeros(up), np.ones(down), np.zeros(items - up - down)]
    after = np.r_[np.ones(up), np.zeros(down), np.zeros(items - up - down)]
    found = compare_figure(figure(), figure(), paired(before, after), 0.95, 2000, seed=7)
    assert not found["low"] <= 0 <= found["high"]
    assert found["verdict"] == expected
    said = [note for note in found["notes"] if "McNemar" in note]
    assert bool(said) == (expected == "cannot_be_told") and said == found["doubts"]
    if said:
        assert f"of 7 items that differ {up} went up and {down} down" in said[0] and "12.5% of cases" in said[0]
    assert found["comparable"] is True


def test_the_exact_test_is_scipys_and_does_not_fail_for_many_items():
    from scipy import stats

    for up, down in ((6, 1), (8, 1), (5, 5), (0, 8), (30, 12), (1500, 900)):
        expected = stats.binomtest(up, up + down, 0.5).pvalue
        assert mcnemar(up, down) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert mcnemar(0, 0) == 1.0


def test_a_share_that_clearly_goes_to_the_other_side_of_fair_does_not_compare():
    def to(candidate, baseline=31 / 60):
        sides = [np.arange(60) < round(60 * share) for share in (baseline, candidate)]
        both = [{**figure("stereotype/x", lower_is_better=True, value=share), "alternatives": {"fair": 0.5}}
                for share in (baseline, candidate)]  # fmt: skip
        return compare_figure(*both, paired(*sides), 0.95, 500, seed=0)

    assert to(0.0)["comparable"] is False and "fair is 0.5" in to(0.0)["doubts"][0] and to(0.0)["fair"] == 0.5
    slight = to(0.5, 29 / 60)
    assert slight["comparable"] is True and slight["verdict"] == "cannot_be_told"
    assert compare_figure(figure(), figure(), paired([0, 1], [1, 1]), 0.95, 200, seed=0)["fair"] is None


def test_perplexities_of_different_tokenizers_are_not_compared():
    values = np.linspace(1, 2, 40)
    sides = Paired(values, np.full(40, 100.0), values - 0.5, np.full(40, 120.0))
    name = "perplexity/sft"
    body = compare_figure(figure(name, EXPONENTIAL, True), figure(name, EXPONENTIAL, True), sides, 0.95, 200, seed=0)
    assert body["verdict"] == "cannot_be_told"
    assert any("bits_per_byte" in note for note in body["notes"])
    assert body["comparable"] is False and "bits_per_byte" in body["doubts"][0]


def test_items_on_one_side_only_are_an_error_that_counts_them():
    both = {"a": Item("a", 1.0), "b": Item("b", 0.0)}
    with pytest.raises(StepFailed, match=r"accuracy/x: 1 items only in the baseline's scorecard, 0 only .* 1 in both"):
        pair("accuracy/x", both, {"a": Item("a", 1.0)})


@pytest.mark.parametrize("name", ["suite", "splits", "protocol"])
def test_scorecards_of_other_data_or_another_protocol_are_refused(name):
    about = {"suite": "s" * 64, "splits": "t" * 64, "protocol": {"seed": 1}}
    refuse_unlike(about, about)
    with pytest.raises(InvalidInput, match=f"differ in {name}"):
        refuse_unlike(about, {**about, name: "other"})
    with pytest.raises(InvalidInput, match=f"differ in {name}"):
        refuse_unlike({**about, name: None}, {**about, name: None})


def test_the_minimum_detectable_difference_is_2_8_standard_errors():
    assert minimum_detectable(1.0, 0.95) == pytest.approx(1.96 + 0.8416, abs=1e-3)


def test_resampling_in_blocks_draws_every_resample(monkeypatch):
    from tutelage.evaluate import comparison

    monkeypatch.setattr(comparison, "BLOCK_NUMBERS", 1000)
    random = np.random.default_rng(7)
    sides = paired(random.random(64), random.random(64))
    assert len(comparison._draws(sides, 250, seed=1)) == 250
