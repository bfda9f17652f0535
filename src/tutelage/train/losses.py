"""Losses of the three objectives, as sums over rows; the loop divides by what all ranks together have.

Packed rows are told apart by their positions: with `use_cache=False` and no attention mask, transformers lets a token attend to
its own document only. Logits are cast to float32 before any logarithm: in bfloat16 a sum over 512 tokens is off by several nats.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from tutelage.contracts.tokens import TokenTable

#: Label of a position whose next token is not to be learned.
IGNORED = -100
#: Architectures whose logits are the output embedding times the last hidden state, and nothing else.
PLAIN_HEADS = frozenset({"llama", "mistral", "qwen2", "qwen3"})


@dataclass(frozen=True)
class Tokens:
    """A rectangle of token ids; `labels[i, t]` is the token that position t is to predict."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor


def sequences(table: TokenTable, rows: Iterable[int], device: torch.device) -> Tokens:
    """Packed rows of a pretrain or sft table."""
    parts = []
    for row in rows:
        ids, lengths = table.column("input_ids", row), table.column("lengths", row)
        targets = table.column("targets", row) if table.phase == "sft" else np.ones(len(ids), dtype=np.int8)
        parts.append((ids, lengths, targets))
    return rectangle(parts, device)


def answers(table: TokenTable, rows: Iterable[int], device: torch.device) -> Tokens:
    """Chosen answers of a dpo table behind their prompts, then the rejected ones in the same order."""
    rows = list(rows)
    parts = []
    for column in ("chosen_ids", "rejected_ids"):
        for row in rows:
            prompt, answer = table.column("prompt_ids", row), table.column(column, row)
            ids = np.concatenate([prompt, answer])
            targets = np.repeat(np.array([0, 1], dtype=np.int8), [len(prompt), len(answer)])
            parts.append((ids, np.array([len(ids)], dtype=np.int32), targets))
    return rectangle(parts, device)


def rectangle(parts: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]], device: torch.device) -> Tokens:
    """Rows of (ids, lengths of documents, targets) side by side; what fills up short rows is a document without targets."""
    width = max(len(ids) for ids, _, _ in parts)
    input_ids = np.zeros((len(parts), width), dtype=np.int64)
    position_ids = np.zeros_like(input_ids)
    labels = np.full_like(input_ids, IGNORED)
    for row, (ids, lengths, targets) in enumerate(parts):
        lengths = np.append(lengths, width - len(ids)).astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        position_ids[row] = np.arange(width) - np.repeat(starts, lengths)
        input_ids[row, : len(ids)] = ids
        # A document's first token is nobody's to predict: what stands before it is another document.
        learned = (targets[1:] != 0) & (position_ids[row, 1 : len(ids)] != 0)
        labels[row, : len(ids) - 1][learned] = ids[1:][learned]
    return Tokens(*(torch.from_numpy(array).to(device) for array in (input_ids, position_ids, labels)))


def target_counts(table: TokenTable, rows: Iterable[int]) -> int:
    """How many tokens of `rows` are learned: the number that the loss of a step is divided by."""
    count = 0
    for row in rows:
        lengths = table.column("lengths", row)
        if table.phase == "pretrain":
            count += int(lengths.sum()) - len(lengths)
        else:
            learned = table.column("targets", row) != 0
            starts = np.cumsum(lengths) - lengths
            count += int(learned.sum()) - int(learned[starts].sum())
    return count


def token_loss(model: Any, tokens: Tokens) -> torch.Tensor:
    """Sum of -log p over all learned tokens, in float32."""
    kept, labels = _learned_logits(model, tokens)
    return functional.cross_entropy(kept, labels, reduction="sum")


def answer_log_probabilities(model: Any, tokens: Tokens) -> torch.Tensor:
    """log p of each row's learned tokens together, in float32."""
    kept, labels = _learned_logits(model, tokens)
    by_token = torch.zeros(tokens.labels.shape, dtype=torch.float32, device=kept.device)
    by_token[tokens.labels != IGNORED] = -functional.cross_entropy(kept, labels, reduction="none")
    return by_token.sum(dim=1)


def _learned_logits(model: Any, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (float32) at positions that have a label, and their labels."""
    learned = tokens.labels != IGNORED
    inputs = {"input_ids": tokens.input_ids, "position_ids": tokens.position_ids, "use_cache": False}
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    if plain.config.model_type in PLAIN_HEADS:
        # Logits of prompts are not needed: in a small model with a large vocabulary they are a third of the work.
        logits = plain.get_output_embeddings()(plain.get_decoder()(**inputs).last_hidden_state[learned])
    else:
        logits = model(**inputs).logits[learned]
    return logits.float(), tokens.labels[learned]


def preference_loss(
    policy: torch.Tensor, reference: torch.Tensor, chosen_tokens: torch.Tensor, beta: float, nll_weight: float
) -> torch.Tensor:
    """Sum over pairs of -log sigmoid(beta · (margin - reference margin)), plus `nll_weight` times the chosen's loss a token.

    `policy` and `reference` hold log p of the answers, shape (2, pairs): chosen, rejected. Rafailov et al. 2023, equation 7;
    the second term is that of Pang et al. 2024, equation 2, over the answer's tokens.
    """
    margin = (policy[0] - policy[1]) - (reference[0] - reference[1])
    loss = -functional.logsigmoid(beta * margin)
    if nll_weight:
        loss = loss - nll_weight * policy[0] / chosen_tokens
    return loss.sum()
