"""Several continuations of one prompt in one pass: the prompt is read once, not once for each.

A row holds the prompt and all its continuations one after the other. A mask lets each continuation see the prompt and itself
but not its siblings, and each continues the prompt's positions, so the model computes what it would compute for prompt and
continuation alone. With four choices behind a long prompt that is up to four times less work.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tutelage.evaluate.likelihood import (
    LOGITS_BYTES,
    Examinee,
    Integers,
    Likelihood,
    batches_by_length,
    log_probabilities,
    logits_at,
    sums_of,
)

#: Architectures of which a test shows that they follow such a mask and such positions in every layer.
ARCHITECTURES = frozenset({"llama", "mistral", "qwen2", "qwen3", "smollm3"})


@dataclass(frozen=True)
class Branching:
    """The token ids of a prompt and of what may follow it. Neither is empty."""

    prompt: Sequence[int]
    branches: Sequence[Sequence[int]]

    @property
    def length(self) -> int:
        """Tokens of prompt and branches together."""
        return len(self.prompt) + sum(len(branch) for branch in self.branches)


def shareable(model: Any) -> bool:
    """Whether `model` computes the same when its prompts are shared: plain full attention, in a known architecture."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    return (
        config.model_type in ARCHITECTURES
        and not getattr(config, "sliding_window", None)
        and all(layer == "full_attention" for layer in layers)
        and config._attn_implementation in ("sdpa", "eager")
    )


def branch_likelihoods(examinee: Examinee, trees: Sequence[Branching]) -> list[list[Likelihood]]:
    """The Likelihood of each branch after its prompt, tree by tree. Raises StepFailed for NaN or infinities."""
    found: list[list[Likelihood]] = [[] for _ in trees]
    vocabulary = int(examinee.model.config.get_text_config().vocab_size)
    lengths = [tree.length for tree in trees]
    costs = [(tree.length - len(tree.prompt)) * vocabulary * 4 for tree in trees]
    done = 0
    for batch in batches_by_length(lengths, examinee.batch_tokens, costs, LOGITS_BYTES):
        for index, values in zip(batch, _score(examinee, [trees[index] for index in batch]), strict=True):
            found[index] = values
        done += len(batch)
        examinee.progress(done, len(trees), "items")
    return found


@torch.inference_mode()
def _score(examinee: Examinee, trees: Sequence[Branching]) -> list[list[Likelihood]]:
    longest = max(tree.length for tree in trees)
    shape = (len(trees), longest)
    ids, positions = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    # Which branch a token belongs to: 0 the prompt, -1 padding.
    member = np.full(shape, -1, dtype=np.int64)
    select = np.zeros(shape, dtype=bool)
    predicting: list[Integers] = []
    targets: list[int] = []
    counts: list[int] = []
    for row, tree in enumerate(trees):
        before = end = len(tree.prompt)
        ids[row, :before], positions[row, :before], member[row, :before] = tree.prompt, np.arange(before), 0
        for number, branch in enumerate(tree.branches, start=1):
            start, end = end, end + len(branch)
            ids[row, start:end] = branch
            positions[row, start:end] = np.arange(before, before + len(branch))
            member[row, start:end] = number
            # The prompt's last token predicts the first of every branch.
            at = np.array([before - 1, *range(start, end - 1)])
            select[row, at] = True
            predicting.append(row * longest + at)
            targets.extend(branch)
            counts.append(len(branch))
    logits, _ = logits_at(
        examinee.model, torch.from_numpy(select).to(examinee.device), use_cache=False,
        input_ids=torch.from_numpy(ids).to(examinee.device), position_ids=torch.from_numpy(positions).to(examinee.device),
        attention_mask=_mask(member, examinee),
    )  # fmt: skip
    rows = (np.cumsum(select.ravel()) - 1)[np.concatenate(predicting)]
    found = iter(sums_of(log_probabilities(logits, rows, np.array(targets)), counts))
    return [[next(found) for _ in tree.branches] for tree in trees]


def _mask(member: Integers, examinee: Examinee) -> torch.Tensor:
    """What is added to attention scores (batch, 1, length, length): nothing where a token may look, else very little."""
    branch = torch.from_numpy(member).to(examinee.device)
    earlier = torch.ones(branch.shape[1], branch.shape[1], dtype=torch.bool, device=branch.device).tril()
    seen = earlier & ((branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None]))
    dtype = examinee.model.dtype
    mask = torch.zeros(seen.shape, dtype=dtype, device=branch.device).masked_fill_(~seen, torch.finfo(dtype).min)
    return mask[:, None]
