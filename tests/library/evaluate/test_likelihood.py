"""Log-likelihoods against transformers' own loss, and that batches and padding change nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.library.evaluate.tiny import PARAGRAPHS, tiny_model
from tutelage.errors import StepFailed
from tutelage.evaluate.likelihood import Likelihood, Passage, batches_by_length, likelihoods, window_of


def whole(ids):
    return Passage(ids, [False] + [True] * (len(ids) - 1))


@pytest.fixture
def passages(tokenizer):
    texts = [text[: 30 + 23 * index] for index, text in enumerate(PARAGRAPHS[300:320])]
    return [whole(tokenizer(text)["input_ids"]) for text in texts]


def test_a_sum_is_the_loss_that_transformers_gives_with_labels(examinee, passages):
    for passage, found in zip(passages, likelihoods(examinee, passages), strict=True):
        ids = torch.tensor([passage.ids])
        with torch.inference_mode():
            loss = examinee.model(input_ids=ids, labels=ids).loss.item()
        assert found.tokens == len(passage.ids) - 1
        assert -found.mean == pytest.approx(loss, abs=2e-5)


def test_only_predicted_tokens_count(examinee, passages):
    passage = passages[5]
    half = len(passage.ids) // 2
    labels = torch.tensor([[-100] * half + list(passage.ids[half:])])
    with torch.inference_mode():
        loss = examinee.model(input_ids=torch.tensor([passage.ids]), labels=labels).loss.item()
    marked = Passage(passage.ids, [position >= half for position in range(len(passage.ids))])
    found = likelihoods(examinee, [marked, *passages])[0]
    assert found.tokens == len(passage.ids) - half
    assert -found.mean == pytest.approx(loss, abs=2e-5)


@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_results_do_not_depend_on_the_batch_size(examinee, passages, batch_tokens):
    here = likelihoods(replace(examinee, batch_tokens=batch_tokens), passages)
    there = likelihoods(examinee, passages)
    assert [value.tokens for value in here] == [value.tokens for value in there]
    np.testing.assert_allclose(
        [value.log_probability for value in here], [value.log_probability for value in there], rtol=2e-6
    )


def test_the_same_batches_give_the_same_bits(examinee, passages):
    assert likelihoods(examinee, passages) == likelihoods(examinee, passages)


def test_the_order_of_passages_does_not_matter(examinee, passages):
    forwards, backwards = likelihoods(examinee, passages), likelihoods(examinee, passages[::-1])[::-1]
    np.testing.assert_allclose([v.log_probability for v in forwards], [v.log_probability for v in backwards], rtol=2e-6)


def test_a_passage_without_targets_is_zero_over_no_tokens(examinee, passages):
    silent = Passage(passages[0].ids, [True] + [False] * (len(passages[0].ids) - 1))
    assert likelihoods(examinee, [silent])[0] == Likelihood(0.0, 0)
    assert likelihoods(examinee, []) == []


def test_a_model_with_nan_weights_is_an_error_and_no_figure(examinee, passages):
    broken = tiny_model(len(examinee.tokenizer))
    with torch.no_grad():
        broken.model.norm.weight.fill_(math.nan)
    with pytest.raises(StepFailed, match="NaN or infinite"):
        likelihoods(replace(examinee, model=broken), passages)


def test_batches_hold_what_was_allowed_and_everything_once():
    lengths = [3, 50, 7, 7, 20, 1, 90]
    groups = batches_by_length(lengths, 60)
    assert sorted(position for group in groups for position in group) == list(range(7))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[position] for position in group) <= 60


def test_batches_respect_costs_too():
    groups = batches_by_length([5] * 10, 1000, costs=[4] * 10, maximum_cost=9)
    assert [len(group) for group in groups] == [2] * 5


def test_the_window_is_the_models_positions_where_they_are_fewer(model):
    assert window_of(model, 2048) == 512
    assert window_of(model, 100) == 100
