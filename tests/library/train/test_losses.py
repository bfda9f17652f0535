"""Losses against what they are defined to be: alone instead of packed, by hand instead of by code."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training import SENTENCES, build_model, build_tokenizer
from tutelage.contracts.models import load_model
from tutelage.train import losses

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("model")
    build_model(folder, build_tokenizer(SENTENCES, 300))
    return load_model(folder).eval()


def part(documents: list[list[int]], targets: list[int] | None = None) -> tuple[Any, Any, Any]:
    ids = np.array([token for document in documents for token in document], dtype=np.int32)
    lengths = np.array([len(document) for document in documents], dtype=np.int32)
    return ids, lengths, np.array(targets or [1] * len(ids), dtype=np.int8)


def test_a_packed_document_gets_the_logits_it_gets_alone(model: Any) -> None:
    documents = [[5, 6, 7, 8], [9, 10], [11, 12, 13, 14, 15]]
    packed = losses.rectangle([part(documents), part([[20, 21, 22]])], CPU)
    with torch.no_grad():
        logits = model(input_ids=packed.input_ids, position_ids=packed.position_ids, use_cache=False).logits
        start = 0
        for document in documents:
            alone = model(input_ids=torch.tensor([document]), use_cache=False).logits[0]
            torch.testing.assert_close(logits[0, start : start + len(document)], alone, atol=1e-5, rtol=0)
            start += len(document)
        filled_up = model(input_ids=torch.tensor([[20, 21, 22]]), use_cache=False).logits[0]
        torch.testing.assert_close(logits[1, :3], filled_up, atol=1e-5, rtol=0)


def test_no_document_is_asked_for_the_first_token_of_the_next() -> None:
    tokens = losses.rectangle([part([[5, 6], [7, 8, 9]]), part([[4, 3]])], CPU)
    ignored = losses.IGNORED
    assert tokens.labels.tolist() == [[6, ignored, 8, 9, ignored], [3, ignored, ignored, ignored, ignored]]
    assert tokens.position_ids.tolist() == [[0, 1, 0, 1, 2], [0, 1, 0, 1, 2]]


def test_the_prompt_has_no_part_in_the_loss(model: Any) -> None:
    tokens = losses.rectangle([part([[5, 6, 7, 8, 9, 10]], [0, 0, 0, 1, 1, 0])], CPU)
    with torch.no_grad():
        loss = losses.token_loss(model, tokens)
        logits = model(input_ids=torch.tensor([[5, 6, 7, 8, 9, 10]]), use_cache=False).logits[0].log_softmax(-1)
    assert float(loss) == pytest.approx(-float(logits[2, 8] + logits[3, 9]), abs=1e-5)


def test_the_loss_of_a_prompt_token_sends_no_gradient(model: Any) -> None:
    tokens = losses.rectangle([part([[5, 6, 7, 8]], [0, 0, 0, 0])], CPU)
    assert losses.token_loss(model, tokens).item() == 0


def test_the_divisor_counts_what_is_learned() -> None:
    class Table:
        phase = "sft"

        def column(self, name: str, row: int) -> Any:
            ids, lengths, targets = part([[5, 6, 7], [8, 9]], [1, 0, 1, 1, 1])
            return {"input_ids": ids, "lengths": lengths, "targets": targets}[name]

    learned = losses.sequences(Table(), [0, 1], CPU).labels != losses.IGNORED  # type: ignore[arg-type]
    assert losses.target_counts(Table(), [0, 1]) == int(learned.sum()) == 4  # type: ignore[arg-type]


def test_the_preference_loss_is_that_of_the_paper() -> None:
    policy = torch.tensor([[-10.0, -4.0], [-12.0, -3.0]])
    reference = torch.tensor([[-11.0, -4.5], [-11.5, -4.0]])
    # Pair 1: (−10 + 12) − (−11 + 11.5) = 1.5; pair 2: (−4 + 3) − (−4.5 + 4) = −0.5; β = 0.2.
    expected = np.log1p(np.exp(-0.2 * 1.5)) + np.log1p(np.exp(0.2 * 0.5))
    lengths = torch.tensor([5, 2])
    assert losses.preference_loss(policy, reference, lengths, 0.2, 0.0).item() == pytest.approx(expected, abs=1e-6)
    with_nll = losses.preference_loss(policy, reference, lengths, 0.2, 0.5).item()
    assert with_nll == pytest.approx(expected + 0.5 * (10 / 5 + 4 / 2), abs=1e-6)


def test_answer_log_probabilities_are_sums_over_the_answer(model: Any) -> None:
    class Table:
        def column(self, name: str, row: int) -> Any:
            columns = {"prompt_ids": [5, 6, 7], "chosen_ids": [8, 9], "rejected_ids": [10]}
            return np.array(columns[name], dtype=np.int32)

    with torch.no_grad():
        chosen, rejected = losses.answer_log_probabilities(model, losses.answers(Table(), [0], CPU)).tolist()  # type: ignore[arg-type]
        logits = model(input_ids=torch.tensor([[5, 6, 7, 8, 9]]), use_cache=False).logits[0].log_softmax(-1)
    assert chosen == pytest.approx(float(logits[2, 8] + logits[3, 9]), abs=1e-5)
    assert rejected == pytest.approx(float(logits[2, 10]), abs=1e-5)


def test_log_probabilities_are_summed_in_float32_under_bfloat16(model: Any, tmp_path: Path) -> None:
    ids = np.arange(200, dtype=np.int32) % 290
    tokens = losses.rectangle([(ids, np.array([200]), np.ones(200, dtype=np.int8))], CPU)
    with torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            low = losses.answer_log_probabilities(model, tokens)
        high = losses.answer_log_probabilities(model, tokens)
    assert low.dtype == torch.float32
    assert float(low) == pytest.approx(float(high), rel=1e-3)


def test_skipping_the_logits_of_prompts_changes_no_loss(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = losses.rectangle([part([[5, 6, 7, 8, 9, 10]], [0, 0, 0, 1, 1, 0]), part([[4, 3], [9, 8, 7]])], CPU)
    with torch.no_grad():
        short = losses.token_loss(model, tokens)
        monkeypatch.setattr(losses, "PLAIN_HEADS", frozenset())
        whole = losses.token_loss(model, tokens)
    assert float(short) == pytest.approx(float(whole), abs=1e-5)
