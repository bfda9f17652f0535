"""Which rows are trained when: every row once an epoch, in an order that the seed alone decides.

A step's rows are the same on any number of ranks; the last step of an epoch takes what is left, nothing is repeated and nothing
left out. Position in the data is the step number, so a resumed run needs no more than that.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import ceil

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class Order:
    """Rows of every step of a run over `len(tokens)` rows, where `tokens` says how long each row is."""

    def __init__(self, tokens: NDArray[np.int64], batch_rows: int, epochs: int, seed: int) -> None:
        self._tokens, self._batch_rows, self._seed = tokens, batch_rows, seed
        self.steps_per_epoch = ceil(len(tokens) / batch_rows)
        self.steps = self.steps_per_epoch * epochs

    def rows(self, step: int) -> Rows:
        """The rows of step `step` (from 0), longest first so that ranks get alike shares."""
        epoch, position = divmod(step, self.steps_per_epoch)
        rows = _permutation(len(self._tokens), self._seed, epoch)[position * self._batch_rows :][: self._batch_rows]
        return rows[np.argsort(-self._tokens[rows], kind="stable")]

    def tokens(self, step: int) -> int:
        """Tokens of step `step`."""
        return int(self._tokens[self.rows(step)].sum())

    def steps_within(self, budget_tokens: int | None) -> int:
        """How many steps can be made without spending more than `budget_tokens`."""
        spent = 0
        for step in range(self.steps if budget_tokens is not None else 0):
            spent += self.tokens(step)
            if spent > budget_tokens:  # type: ignore[operator]
                return step
        return self.steps

    def total_tokens(self, steps: int) -> int:
        """Tokens of the first `steps` steps."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        first = epochs * self.steps_per_epoch
        return epochs * int(self._tokens.sum()) + sum(self.tokens(step) for step in range(first, first + rest))


@lru_cache(maxsize=2)
def _permutation(rows: int, seed: int, epoch: int) -> Rows:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(rows).astype(np.int64)


def shares(rows: Rows, rank: int, ranks: int, micro_rows: int) -> Iterator[Rows]:
    """What rank `rank` computes of a step's rows, at most `micro_rows` at once; may be nothing."""
    share = rows[rank::ranks]
    for start in range(0, len(share), micro_rows):
        yield share[start : start + micro_rows]
