"""Multiple choice against log-likelihoods computed one choice at a time by transformers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.library.evaluate.tiny import suite_items
from tutelage.errors import InvalidInput
from tutelage.evaluate.multiple_choice import measure_task, spoken_choice


@pytest.fixture
def items():
    return [item for item in suite_items(24, 0) if item["type"] == "multiple_choice"]


def one_by_one(model, tokenizer, item):
    """Log-likelihood of each choice, unbatched."""
    prompt = tokenizer(item["prompt"])["input_ids"]
    sums = []
    for choice in item["choices"]:
        ids = prompt + tokenizer(" " + choice)["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        sums.append(sum(logits[at - 1, ids[at]].item() for at in range(len(prompt), len(ids))))
    return sums


def test_accuracy_is_that_of_choices_scored_one_by_one(examinee, model, tokenizer, items):
    right, raw = {}, []
    for item in items:
        sums = one_by_one(model, tokenizer, item)
        by_length = [total / len(choice.encode()) for total, choice in zip(sums, item["choices"], strict=True)]
        right[item["id"]] = float(by_length.index(max(by_length)) == item["answer"])
        raw.append(sums.index(max(sums)) == item["answer"])
    measured = measure_task(examinee, "topics", items, 30)
    (figure,) = measured.figures
    assert figure.name == "accuracy/topics"
    assert {row["item"]: row["value"] for row in measured.items} == right
    assert figure.value == pytest.approx(sum(right.values()) / len(items))
    assert figure.alternatives == {"raw": sum(raw) / len(raw), "chance": 0.25}
    assert measured.coverage["accuracy/topics"] == {
        "items": 30, "items_scored": 24, "items_beyond_limit": 6, "choices_with_prompt_cut": 0, "choices_cut": 0,
    }  # fmt: skip


def test_accuracy_does_not_depend_on_the_batch_size(examinee, items):
    small = measure_task(replace(examinee, batch_tokens=1), "topics", items, 24)
    large = measure_task(replace(examinee, batch_tokens=50_000), "topics", items, 24)
    assert small.items == large.items


def test_a_prompt_that_does_not_fit_loses_its_beginning_and_is_counted(examinee, items):
    measured = measure_task(replace(examinee, window=40), "topics", items, 24)
    assert measured.coverage["accuracy/topics"]["choices_with_prompt_cut"] == 96
    coverage = measure_task(replace(examinee, window=16), "topics", items, 24).coverage["accuracy/topics"]
    assert coverage["choices_cut"] > 0


def test_a_choice_follows_the_white_space_of_its_prompt():
    assert spoken_choice("Answer:", "yes") == " yes"
    assert spoken_choice("Answer:\n", " yes") == "\nyes"


@pytest.mark.parametrize("change", [{"answer": 4}, {"answer": None}, {"choices": ["one"]}, {"choices": None}])
def test_an_item_that_cannot_be_answered_is_refused(examinee, items, change):
    with pytest.raises(InvalidInput, match="suite item q000"):
        measure_task(examinee, "topics", [{**items[0], **change}], 1)


def test_an_empty_prompt_compares_the_choices_alone(examinee, items):
    measured = measure_task(examinee, "pairs", [{**items[0], "prompt": ""}], 1)
    assert measured.figures[0].items == 1
