"""Log-likelihood of token sequences, batched, with results that do not depend on the batch.

Rows are padded on the right: a causal model never looks there, so no mask is needed and padding cannot change a number
beyond the last bits of a float32 sum. Logits are made only where a token is predicted (a hook on the output embeddings
drops the other positions), in float32 whatever the model's dtype, and added up in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.errors import StepFailed

#: Logits of one batch stay below this many bytes (a vocabulary of 49k takes 200 KB a position).
LOGITS_BYTES = 256 * 1024 * 1024
Numbers = NDArray[np.float64]
Integers = NDArray[np.int64]
Progress = Callable[[float, float, str], None]


@dataclass(frozen=True)
class Examinee:
    """A model under examination and how it is run."""

    model: Any
    tokenizer: Any
    window: int
    """Longest sequence, in tokens, given to the model."""
    batch_tokens: int
    """Tokens of one batch, padding included."""
    progress: Progress = lambda done, total, unit: None

    @property
    def device(self) -> Any:
        """Where the model's weights are."""
        return next(self.model.parameters()).device


@dataclass(frozen=True)
class Passage:
    """A token sequence, and which of its tokens are to be predicted. The first has no context and never is."""

    ids: Sequence[int]
    predicted: Sequence[bool]

    @property
    def targets(self) -> int:
        """How many tokens are predicted."""
        return sum(self.predicted[1:])


@dataclass(frozen=True)
class Likelihood:
    """Sum of log-probabilities (natural logarithm) of a passage's predicted tokens, and their number."""

    log_probability: float
    tokens: int

    @property
    def mean(self) -> float:
        """Log-probability per token."""
        return self.log_probability / self.tokens

    def __add__(self, other: Likelihood) -> Likelihood:
        return Likelihood(self.log_probability + other.log_probability, self.tokens + other.tokens)


def likelihoods(examinee: Examinee, passages: Sequence[Passage]) -> list[Likelihood]:
    """The Likelihood of each passage, in their order. Raises StepFailed when the model gives NaN or infinities."""
    found = [Likelihood(0.0, 0)] * len(passages)
    vocabulary = int(examinee.model.config.get_text_config().vocab_size)
    wanted = [index for index, passage in enumerate(passages) if passage.targets]
    lengths = [len(passages[index].ids) for index in wanted]
    costs = [passages[index].targets * vocabulary * 4 for index in wanted]
    done = 0
    for batch in batches_by_length(lengths, examinee.batch_tokens, costs, LOGITS_BYTES):
        indices = [wanted[position] for position in batch]
        for index, value in zip(indices, _score(examinee, [passages[index] for index in indices]), strict=True):
            found[index] = value
        done += len(batch)
        examinee.progress(done, len(wanted), "sequences")
    return found


def batches_by_length(
    lengths: Sequence[int], batch_tokens: int, costs: Sequence[int] = (), maximum_cost: int = 0
) -> list[list[int]]:
    """Positions in `lengths` grouped from long to short so that each group, padded, holds at most `batch_tokens`.

    With `costs`, a group's costs also add up to `maximum_cost` at most. What is too large alone is a group alone.
    """
    groups: list[list[int]] = []
    longest = cost = 0
    for position in sorted(range(len(lengths)), key=lambda position: (-lengths[position], position)):
        own = costs[position] if costs else 0
        fits = groups and (len(groups[-1]) + 1) * longest <= batch_tokens and cost + own <= maximum_cost
        if fits:
            groups[-1].append(position)
            cost += own
        else:
            groups.append([position])
            longest, cost = lengths[position], own
    return groups


@torch.inference_mode()
def _score(examinee: Examinee, passages: Sequence[Passage]) -> list[Likelihood]:
    longest = max(len(passage.ids) for passage in passages)
    ids = np.zeros((len(passages), longest), dtype=np.int64)
    select = np.zeros((len(passages), longest), dtype=bool)
    for row, passage in enumerate(passages):
        ids[row, : len(passage.ids)] = passage.ids
        # The output at a position predicts the token after it.
        select[row, : len(passage.ids) - 1] = passage.predicted[1:]
    logits, _ = logits_at(
        examinee.model, torch.from_numpy(select).to(examinee.device), use_cache=False,
        input_ids=torch.from_numpy(ids).to(examinee.device),
    )  # fmt: skip
    targets = ids[:, 1:][select[:, :-1]]
    return sums_of(log_probabilities(logits, np.arange(len(targets)), targets), select.sum(axis=1).tolist())


def log_probabilities(logits: Any, rows: Integers, targets: Integers, block: int = 256) -> Numbers:
    """Log-probability of token `targets[i]` by `logits[rows[i]]`; a block at a time, to keep float32 copies small."""
    parts = []
    for start in range(0, len(targets), block):
        wanted = torch.from_numpy(targets[start : start + block, None]).to(logits.device)
        scores = logits[torch.from_numpy(rows[start : start + block]).to(logits.device)].float()
        parts.append((scores.gather(1, wanted).squeeze(1) - scores.logsumexp(dim=1)).double().cpu().numpy())
    return np.concatenate(parts)


def sums_of(log_probability: Numbers, counts: Sequence[int]) -> list[Likelihood]:
    """Likelihoods of sequences of `counts` tokens each (none of them zero), which stand one after the other."""
    sums = np.add.reduceat(log_probability, np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64))
    if not np.isfinite(sums).all():
        raise StepFailed(
            f"the model gives NaN or infinite log-probabilities for {int((~np.isfinite(sums)).sum())} of "
            f"{len(counts)} sequences in a batch",
            hint="its weights hold NaN or infinities; look at the loss of its training",
        )
    return [Likelihood(float(total), int(count)) for total, count in zip(sums, counts, strict=True)]


def logits_at(model: Any, select: Any, **arguments: Any) -> tuple[Any, Any]:
    """Logits (n, vocabulary) at the positions where `select` (batch, length) is true, row by row, and the cache."""
    with _head_sees(model, select) as hooked:
        output = model(**arguments)
    return (output.logits[0] if hooked else output.logits[select]), output.get("past_key_values")


@contextmanager
def _head_sees(model: Any, select: Any) -> Iterator[bool]:
    """Give the output embeddings only the selected positions, as a batch of one. False: this model has none to hook."""
    head = model.get_output_embeddings()
    if head is None:
        yield False
        return
    handle = head.register_forward_pre_hook(lambda _, arguments: (arguments[0][select].unsqueeze(0),))
    try:
        yield True
    finally:
        handle.remove()


def window_of(model: Any, maximum_tokens: int) -> int:
    """The longest sequence to give to `model`: `maximum_tokens`, or its positions where it has fewer."""
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return int(min(maximum_tokens, positions or math.inf))
