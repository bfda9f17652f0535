"""A scorecard's figures follow from its items, and its digest from both."""

from __future__ import annotations

import math

import pytest

from tests.library.evaluate.tiny import finished
from tutelage.contracts import RowsDigest, tables
from tutelage.contracts.manifest import read_json
from tutelage.contracts.scorecards import scorecard_digest
from tutelage.errors import CorruptPayload, StepFailed
from tutelage.evaluate import scorecard
from tutelage.evaluate.scorecard import EXPONENTIAL, Item, Measured, weighted_mean

ABOUT = {"model": "m", "splits": "s", "suite": "t", "protocol": {"seed": 0}}


def measured_of(value=1.0):
    measured = Measured()
    items = [Item("b", value, 3), Item("a", 2.0, 1)]
    measured.add_figure("perplexity/sft", items, lower_is_better=True, unit="perplexity", statistic=EXPONENTIAL)
    measured.add_figure("accuracy/x", [Item("q", 1.0)], lower_is_better=False, unit="share")
    return measured


def test_figures_are_found_again_in_the_items_that_were_written(tmp_path):
    digest, metrics, rows = scorecard.write(measured_of(), str(tmp_path), ABOUT)
    body, items = scorecard.read(finished("scorecard", tmp_path, digest))
    assert rows == 3
    assert list(metrics) == ["accuracy_x", "perplexity_sft"]
    assert metrics["perplexity_sft"] == math.exp(weighted_mean(items["perplexity/sft"].values())) == math.exp(1.25)
    assert [figure["name"] for figure in body["figures"]] == ["accuracy/x", "perplexity/sft"]


def test_the_digest_follows_figures_items_and_what_was_measured_on(tmp_path):
    first = scorecard.write(measured_of(), str(tmp_path / "a"), ABOUT)[0]
    assert scorecard.write(measured_of(), str(tmp_path / "b"), ABOUT)[0] == first
    assert scorecard.write(measured_of(1.1), str(tmp_path / "c"), ABOUT)[0] != first
    assert scorecard.write(measured_of(), str(tmp_path / "d"), {**ABOUT, "suite": "other"})[0] != first


@pytest.mark.parametrize("value", [math.nan, math.inf, 2000.0])
def test_a_figure_that_is_no_finite_number_is_an_error(value):
    with pytest.raises(StepFailed, match="perplexity/sft is not a finite number"):
        measured_of(value)


def test_an_item_that_stands_twice_is_refused(tmp_path):
    measured = measured_of()
    measured.items.append(measured.items[0])
    digest, _, _ = scorecard.write(measured, str(tmp_path), ABOUT)
    with pytest.raises(CorruptPayload, match="stands twice"):
        scorecard.read(finished("scorecard", tmp_path, digest))


def test_sums_do_not_depend_on_the_order_of_items():
    items = [Item(str(index), 1 / (index + 1), index + 0.5) for index in range(1000)]
    assert weighted_mean(items) == weighted_mean(items[::-1])


def test_the_digest_is_found_again_in_what_was_written_although_weights_were_whole_numbers(tmp_path):
    digest, _, _ = scorecard.write(measured_of(), str(tmp_path), ABOUT)
    made = finished("scorecard", tmp_path, digest)
    items = RowsDigest()
    items.update(tables.read(made, "items"))
    assert scorecard_digest(read_json(made, "scorecard.json"), items.hexdigest()) == digest
