"""Greedy generation in batches with a key-value cache; what a prompt gets does not depend on its neighbours.

Prompts are padded on the left, masked, and given the positions they would have alone, so a row of a batch sees exactly what
it would see unbatched.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch

from tutelage.contracts.models import end_token_ids
from tutelage.evaluate.likelihood import Examinee, batches_by_length, logits_at


def generate(examinee: Examinee, prompts: Sequence[Sequence[int]], maximum_new_tokens: int) -> list[list[int]]:
    """The model's greedy continuation of each prompt: at most `maximum_new_tokens` ids, without the end mark."""
    stops = end_token_ids(examinee.model, examinee.tokenizer)
    found: list[list[int]] = [[] for _ in prompts]
    lengths = [len(prompt) + maximum_new_tokens for prompt in prompts]
    done = 0
    for batch in batches_by_length(lengths, examinee.batch_tokens):
        texts = _continue(examinee, [prompts[index] for index in batch], maximum_new_tokens, stops)
        for index, text in zip(batch, texts, strict=True):
            found[index] = text
        done += len(batch)
        examinee.progress(done, len(prompts), "prompts")
    return found


@torch.inference_mode()
def _continue(
    examinee: Examinee, prompts: Sequence[Sequence[int]], maximum_new_tokens: int, stops: Collection[int]
) -> list[list[int]]:
    longest = max(len(prompt) for prompt in prompts)
    device = examinee.device
    ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    ends = torch.tensor(sorted(stops), dtype=torch.long, device=device)
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    cache: Any = None
    produced = []
    for _ in range(maximum_new_tokens):
        last = torch.zeros(ids.shape, dtype=torch.bool, device=device)
        last[:, -1] = True
        logits, cache = logits_at(
            examinee.model, last, input_ids=ids, attention_mask=mask, position_ids=positions,
            past_key_values=cache, use_cache=True,
        )  # fmt: skip
        token = logits.argmax(dim=1)
        ended |= torch.isin(token, ends)
        produced.append(torch.where(ended, -1, token))
        if bool(ended.all()):
            break
        ids, positions = token[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
    return [[token for token in row if token >= 0] for row in torch.stack(produced, dim=1).tolist()]
