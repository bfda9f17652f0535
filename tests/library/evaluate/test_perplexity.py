"""Perplexity, bits per byte and preference accuracy against one-by-one computations."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.library.evaluate.tiny import PARAGRAPHS, heldout_row, heldout_rows_of, turn
from tutelage.contracts.chat import conversation_ids, prompt_ids
from tutelage.evaluate.perplexity import measure_phase, read_conversation, read_text, score_readings


def rows_of(phase, number=12):
    return [row for row in heldout_rows_of(number) if row["phase"] == phase]


def figures(measured):
    return {figure.name: figure for figure in measured.figures}


def loss_of(model, ids, labels):
    """Sum of negative log-likelihoods, by transformers' loss, and the number of labels."""
    count = sum(label != -100 for label in labels[1:])
    with torch.inference_mode():
        loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
    return loss.item() * count, count


def test_pretraining_perplexity_is_the_exponential_of_the_mean_loss_over_all_tokens(examinee, model, tokenizer):
    rows = rows_of("pretrain")
    sums = [loss_of(model, ids, ids) for ids in (tokenizer(row["text"])["input_ids"] for row in rows)]
    nats, tokens = (sum(column) for column in zip(*sums, strict=True))
    found = figures(measure_phase(examinee, "pretrain", rows, len(rows), 2048))
    assert found["perplexity/pretrain"].value == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert found["perplexity/pretrain"].items == len(rows)
    first_tokens = [tokenizer.decode(tokenizer(row["text"])["input_ids"][:1]) for row in rows]
    size = sum(len(row["text"].encode()) - len(first.encode()) for row, first in zip(rows, first_tokens, strict=True))
    assert found["bits_per_byte/pretrain"].value == pytest.approx(nats / math.log(2) / size, rel=1e-5)


def test_finetuning_perplexity_counts_what_the_assistant_says_and_nothing_else(examinee, model, tokenizer):
    rows = rows_of("sft")
    sums = []
    for row in rows:
        ids, spoken = conversation_ids(tokenizer, row["messages"])
        sums.append(loss_of(model, ids, [token if said else -100 for token, said in zip(ids, spoken, strict=True)]))
    nats, tokens = (sum(column) for column in zip(*sums, strict=True))
    found = figures(measure_phase(examinee, "sft", rows, len(rows), 2048))
    assert found["perplexity/sft"].value == pytest.approx(math.exp(nats / tokens), rel=1e-4)


def test_preferences_compare_mean_log_probabilities_of_the_two_answers_alone(examinee, model, tokenizer):
    rows = rows_of("dpo")
    means, raw = [], []
    for row in rows:
        before = len(prompt_ids(tokenizer, row["prompt"]))
        sides = []
        for answer in (row["chosen"], row["rejected"]):
            ids, _ = conversation_ids(tokenizer, row["prompt"] + answer)
            sides.append(loss_of(model, ids, [-100] * before + ids[before:]))
        (chosen, chosen_tokens), (rejected, rejected_tokens) = sides
        means.append(-chosen / chosen_tokens > -rejected / rejected_tokens)
        raw.append(-chosen > -rejected)
    measured = measure_phase(examinee, "dpo", rows, len(rows), 2048)
    found = figures(measured)["preference_accuracy/dpo"]
    assert found.value == pytest.approx(sum(means) / len(means))
    assert found.alternatives["raw"] == pytest.approx(sum(raw) / len(raw))
    assert 0 < found.value < 1
    assert measured.coverage["preference_accuracy/dpo"]["pairs_scored"] == len(rows)


def test_an_earlier_answer_inside_a_preference_prompt_is_not_scored(examinee, tokenizer):
    prompt = [turn("user", "One?"), turn("assistant", "A long earlier answer."), turn("user", "Two?")]
    reading = read_conversation(examinee, prompt, [turn("assistant", "Yes.")])
    (passage,) = reading.passages
    said = [token for token, wanted in zip(passage.ids, passage.predicted, strict=True) if wanted]
    assert tokenizer.decode(said) == "Yes.<|im_end|>\n"


def test_a_text_longer_than_the_window_is_read_in_windows_that_predict_every_token_once(examinee, tokenizer):
    text = " ".join(PARAGRAPHS[:4])
    ids = tokenizer(text)["input_ids"]
    reading = read_text(replace(examinee, window=50), text, 10_000)
    predicted = [token for passage in reading.passages for token in passage.ids[1:]]
    assert predicted == ids[1:]
    assert max(len(passage.ids) for passage in reading.passages) == 50
    assert reading.size == len(text.encode()) - len(tokenizer.decode(ids[:1]).encode())
    assert score_readings(examinee, [reading])[0].tokens == len(ids) - 1


def test_what_is_cut_from_a_long_row_is_counted_in_tokens_and_not_in_bytes(examinee, tokenizer):
    text = " ".join(PARAGRAPHS[:4])
    reading = read_text(examinee, text, 40)
    ids = tokenizer(text)["input_ids"]
    assert reading.tokens_cut == len(ids) - 40
    assert reading.size == len(tokenizer.decode(ids[1:40]).encode())
    row = heldout_row("pretrain", "p", text=text)
    coverage = measure_phase(examinee, "pretrain", [row], 7, 40).coverage["perplexity/pretrain"]
    assert coverage == {
        "rows_heldout": 7, "rows_scored": 1, "rows_beyond_limit": 6, "rows_without_tokens_to_predict": 0,
        "tokens_scored": 39, "tokens_cut": len(ids) - 40,
    }  # fmt: skip


def test_a_conversation_longer_than_the_window_keeps_its_end(examinee, tokenizer):
    long = [turn("user", PARAGRAPHS[0] * 4), turn("assistant", "Right.")]
    reading = read_conversation(replace(examinee, window=30), (), long)
    ids, _ = conversation_ids(tokenizer, long)
    assert list(reading.passages[0].ids) == ids[-30:]
    assert reading.tokens_cut == len(ids) - 30
    assert reading.size == len("Right.")


def test_a_phase_without_rows_is_named_with_the_reason(examinee):
    measured = measure_phase(examinee, "dpo", [], 0, 2048)
    assert measured.figures == []
    assert [entry["name"] for entry in measured.not_measured] == [
        "perplexity/dpo", "bits_per_byte/dpo", "preference_accuracy/dpo",
    ]  # fmt: skip
    assert measured.not_measured[0]["why"] == "no held-out rows of phase dpo"


def test_a_model_without_chat_template_is_measured_on_plain_text_only(examinee, tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", None)
    assert measure_phase(examinee, "pretrain", rows_of("pretrain"), 12, 2048).figures
    measured = measure_phase(examinee, "sft", rows_of("sft"), 12, 2048)
    assert not measured.figures
    assert measured.not_measured[0]["why"] == "the model's tokenizer has no chat template"


def test_rows_with_nothing_to_predict_are_counted(examinee):
    rows = [heldout_row("pretrain", "empty", text=""), heldout_row("pretrain", "full", text=PARAGRAPHS[0])]
    measured = measure_phase(examinee, "pretrain", rows, 2, 2048)
    assert measured.coverage["perplexity/pretrain"]["rows_without_tokens_to_predict"] == 1
    assert [item["item"] for item in measured.items] == ["full", "full"]
