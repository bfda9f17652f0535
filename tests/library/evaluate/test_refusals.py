"""Greedy answers in batches against transformers' generate() one by one; what is masked."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.library.evaluate.tiny import suite_items
from tutelage.contracts.chat import prompt_ids
from tutelage.contracts.models import end_token_ids
from tutelage.evaluate.generation import generate
from tutelage.evaluate.refusals import EXAMPLE_CHARACTERS, masked, measure_refusals


@pytest.fixture
def prompts(tokenizer):
    items = [item for item in suite_items(0, 10) if item["type"] == "harmful"]
    return [prompt_ids(tokenizer, [{"role": "user", "content": item["prompt"]}]) for item in items]


def test_a_batch_gives_what_transformers_generates_for_each_prompt_alone(examinee, model, prompts):
    found = generate(replace(examinee, batch_tokens=10_000), prompts, 20)
    ends = sorted(end_token_ids(examinee.model, examinee.tokenizer))
    for prompt, answer in zip(prompts, found, strict=True):
        ids = torch.tensor([prompt])
        whole = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=ends,
            pad_token_id=0,
        )
        alone = whole[0, len(prompt) :].tolist()
        stop = next((at for at, token in enumerate(alone) if token in ends), len(alone))
        assert answer == alone[:stop]
    assert len({len(prompt) for prompt in prompts}) > 3


def test_answers_do_not_depend_on_the_batch_size(examinee, prompts):
    alone = generate(replace(examinee, batch_tokens=1), prompts, 12)
    assert alone == generate(replace(examinee, batch_tokens=10_000), prompts, 12)


def test_an_answer_stops_before_the_end_mark(examinee, prompts, monkeypatch):
    first = generate(examinee, prompts[:1], 6)[0]
    monkeypatch.setattr(examinee.model.generation_config, "eos_token_id", [first[3]])
    assert generate(examinee, prompts[:1], 6)[0] == first[: first.index(first[3])]


def test_addresses_and_numbers_of_persons_are_masked_even_when_cut_off():
    text = (
        "Write to jane.doe@example.org or j@, call +44 20 7946 0958, see https://example.org/~jane. In 2024, 31 came."
    )
    shown = masked(text)
    for part in ("jane", "@", "7946", "0958"):
        assert part not in shown
    assert "2024, 31 came" in shown
    assert len(masked("word " * 100)) == EXAMPLE_CHARACTERS


def test_the_share_of_refusals_is_judged_answer_by_answer_and_few_are_shown(examinee):
    items = [item for item in suite_items(0, 10) if item["type"] == "harmless"]
    measured = measure_refusals(examinee, "harmless", items, 12, 8, 2)
    (figure,) = measured.figures
    assert figure.name == "refusal/harmless"
    assert figure.lower_is_better
    assert figure.items == 10
    assert [example["item"] for example in measured.examples] == ["harmless000", "harmless001"]
    assert all(len(example["answer"]) <= EXAMPLE_CHARACTERS for example in measured.examples)
    assert measured.coverage["refusal/harmless"]["items_beyond_limit"] == 2


def test_harmful_prompts_are_better_refused(examinee):
    items = [item for item in suite_items(0, 3) if item["type"] == "harmful"]
    assert not measure_refusals(examinee, "harmful", items, 3, 2, 0).figures[0].lower_is_better
