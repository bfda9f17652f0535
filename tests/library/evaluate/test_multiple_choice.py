"""Multiple choice against log-likelihoods computed one choice at a time by transformers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.library.evaluate.tiny import suite_items
from tutelage.errors import InvalidInput
from tutelage.evaluate.multiple_choice import branchings, choice_likelihoods, measure_task, per_byte, spoken_choice


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


def test_a_choice_follows_the_white_space_of_its_prompt_and_keeps_its_own():
    assert spoken_choice("Answer:", "yes") == " yes"
    assert spoken_choice("Answer:\n", "yes") == "\nyes"
    assert spoken_choice("def f():\n", "    return 1\n") == "\n    return 1\n"
    assert spoken_choice("def f():", "\n    return 1") == "\n    return 1"
    assert spoken_choice("", "A sentence.") == "A sentence."


PROMPT = 'def total(numbers):\n    """Return the sum of the numbers."""\n'
BODIES = ["    return sum(numbers)\n", "    return max(numbers)\n", "    # A comment.\n    return 0\n"]
#: Its line feed joins the prompt's, and with it the quotes.
ODD = "\n    return 0\n"


def joining_tokenizer():
    """A byte-level BPE that joins line feeds with the marks before them, as Llama 3 and Qwen do."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    pattern = r" ?[^\s\p{L}\p{N}]+[\r\n]*| ?\p{L}+| ?\p{N}+|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, show_progress=False, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([PROMPT + body for body in (*BODIES, ODD)] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def test_code_is_read_as_the_tokens_of_the_whole_text(examinee, tokenizer):
    item = {"id": "c", "task": "code", "prompt": PROMPT, "choices": BODIES, "answer": 0}
    for reader, read in ((tokenizer, PROMPT.rstrip()), (joining_tokenizer(), PROMPT)):
        (tree,), _ = branchings(replace(examinee, tokenizer=reader), [item])
        assert list(tree.prompt) == reader(read)["input_ids"]
        for branch, body in zip(tree.branches, BODIES, strict=True):
            assert [*tree.prompt, *branch] == reader(PROMPT + body)["input_ids"]


def test_a_choice_that_no_border_suits_does_not_move_it_for_the_others(examinee):
    reader = joining_tokenizer()
    item = {"id": "c", "task": "code", "prompt": PROMPT, "choices": [*BODIES, ODD], "answer": 0}
    (tree,), _ = branchings(replace(examinee, tokenizer=reader), [item])
    wholes = [reader(PROMPT + body)["input_ids"] for body in item["choices"]]
    kept = [[*tree.prompt, *branch] == whole for branch, whole in zip(tree.branches, wholes, strict=True)]
    assert kept == [True, True, True, False] and reader.decode([*tree.prompt, *tree.branches[3]]) == PROMPT + ODD


def test_code_is_scored_as_one_text_with_its_indentation(examinee, model, tokenizer):
    item = {"id": "c", "task": "code", "prompt": PROMPT, "choices": BODIES, "answer": 0}
    before = len(tokenizer(PROMPT.rstrip())["input_ids"])
    sums = []
    for body in BODIES:
        ids = tokenizer(PROMPT + body)["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        sums.append(sum(logits[at - 1, ids[at]].item() for at in range(before, len(ids))) / len(body))
    measured = measure_task(examinee, "code", [item], 1)
    assert measured.items[0]["value"] == float(sums.index(max(sums)) == 0)
    trees, _ = branchings(examinee, [item])
    (scores,) = choice_likelihoods(examinee, trees)
    assert per_byte(item, scores) == pytest.approx(sums, rel=1e-5)


@pytest.mark.parametrize("change", [{"answer": 4}, {"answer": None}, {"choices": ["one"]}, {"choices": None}])
def test_an_item_that_cannot_be_answered_is_refused(examinee, items, change):
    with pytest.raises(InvalidInput, match="suite item q000"):
        measure_task(examinee, "topics", [{**items[0], **change}], 1)


def test_an_empty_prompt_compares_the_choices_alone(examinee, items):
    measured = measure_task(examinee, "pairs", [{**items[0], "prompt": ""}], 1)
    assert measured.figures[0].items == 1
