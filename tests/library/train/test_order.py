"""Every row once an epoch, the same rows a step on any number of ranks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tutelage.train.order import Order, shares


@given(
    rows=st.integers(1, 60),
    batch=st.integers(1, 20),
    ranks=st.integers(1, 5),
    micro=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_every_row_is_trained_exactly_once_an_epoch(rows: int, batch: int, ranks: int, micro: int, seed: int) -> None:
    order = Order(np.arange(rows, dtype=np.int64) + 1, batch, 3, seed)
    for epoch in range(3):
        steps = range(epoch * order.steps_per_epoch, (epoch + 1) * order.steps_per_epoch)
        seen = [
            int(row) for step in steps for rank in range(ranks) for share in shares(order.rows(step), rank, ranks, micro)
            for row in share
        ]  # fmt: skip
        assert sorted(seen) == list(range(rows))


def test_epochs_differ_and_seeds_differ() -> None:
    order, other = (Order(np.ones(50, dtype=np.int64), 50, 2, seed) for seed in (0, 1))
    assert order.rows(0).tolist() != order.rows(1).tolist()
    assert order.rows(0).tolist() != other.rows(0).tolist()


def test_a_token_budget_is_never_exceeded() -> None:
    order = Order(np.array([10, 20, 30, 40], dtype=np.int64), 1, 2, 0)
    for budget in range(1, 210, 7):
        steps = order.steps_within(budget)
        assert order.total_tokens(steps) <= budget
        assert steps == order.steps or order.total_tokens(steps + 1) > budget
    assert order.steps_within(None) == 8
    assert order.total_tokens(8) == 200
