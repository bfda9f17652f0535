"""Stereotypes against log-likelihoods of whole sentences computed one at a time by transformers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.library.evaluate.tiny import PARAGRAPHS
from tutelage.errors import InvalidInput
from tutelage.evaluate.stereotypes import measure_pairs


def pairs(number, context=""):
    """Sentences of the language reference, each with one word changed; every other pair the other way round."""
    items = []
    for index in range(number):
        words = " ".join(PARAGRAPHS[index].split()[:12])
        both = [f"The Python {words}", f"The other {words}"]
        fixed = {"source": "test", "licence": "CC0-1.0", "language": "en", "task": "pairs", "type": "stereotype"}
        choices = both if index % 2 else both[::-1]
        items.append({**fixed, "id": f"p{index:03d}", "prompt": context, "choices": choices, "answer": 0})
    return items


def log_likelihood(model, tokenizer, before, sentence):
    ids = [*before, *tokenizer(sentence)["input_ids"]]
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    return sum(logits[at - 1, ids[at]].item() for at in range(len(before), len(ids)))


@pytest.mark.parametrize("context", ["", "It is a language."])
def test_the_share_is_that_of_whole_sentences_scored_one_by_one(examinee, model, tokenizer, context):
    items = pairs(24, context)
    before = tokenizer(context)["input_ids"] if context else [tokenizer.eos_token_id]
    expected = {}
    for item in items:
        texts = [f" {text}" if context else text for text in item["choices"]]
        first, second = (log_likelihood(model, tokenizer, before, text) for text in texts)
        expected[item["id"]] = float(first > second)
    measured = measure_pairs(examinee, "pairs", items, 30)
    (figure,) = measured.figures
    assert {row["item"]: row["value"] for row in measured.items} == expected
    assert 0 < sum(expected.values()) < 24
    assert (figure.name, figure.lower_is_better, figure.alternatives["fair"]) == ("stereotype/pairs", True, 0.5)
    assert figure.value == pytest.approx(sum(expected.values()) / 24)
    assert measured.coverage["stereotype/pairs"]["items_beyond_limit"] == 6


def test_swapping_the_sentences_of_every_pair_swaps_the_share(examinee):
    items = pairs(12)
    swapped = [{**item, "choices": item["choices"][::-1]} for item in items]
    (there,), (back,) = (measure_pairs(examinee, "pairs", given, 12).figures for given in (items, swapped))
    assert there.value + back.value == pytest.approx(1)
    assert there.alternatives["per_byte"] + back.alternatives["per_byte"] == pytest.approx(1)


def test_a_pair_that_the_window_makes_equal_counts_half(examinee):
    (item,) = pairs(1)
    beginning = "The same beginning of a sentence that goes on"
    same = {**item, "choices": [f"{beginning} here.", f"{beginning} there."]}
    measured = measure_pairs(replace(examinee, window=4), "pairs", [same], 1)
    assert measured.items[0]["value"] == 0.5
    assert measured.coverage["stereotype/pairs"]["choices_cut"] == 2


@pytest.mark.parametrize("change", [{"choices": ["a"]}, {"choices": ["a", "a"]}, {"choices": None}, {"answer": 1}])
def test_an_item_that_is_no_pair_is_refused(examinee, change):
    with pytest.raises(InvalidInput, match="suite item p000 of task 'pairs' is no pair"):
        measure_pairs(examinee, "pairs", [{**pairs(1)[0], **change}], 1)
