"""Which held-out rows are measured."""

from __future__ import annotations

import random

from tests.library.evaluate.tiny import heldout_row, heldout_rows_of, save_table
from tutelage.contracts import tables
from tutelage.evaluate.heldout import chosen_ids, heldout_rows


def test_training_rows_are_never_measured_and_heldout_rows_are_counted(tmp_path):
    rows = [*heldout_rows_of(5), {**heldout_row("pretrain", "t1", text="seen in training"), "split": "train"}]
    splits = save_table(tmp_path / "splits", "splits", "rows", rows, tables.SPLIT_ROWS)
    found, counts = heldout_rows(splits, 100, seed=0)
    assert counts == {"pretrain": 5, "sft": 5, "dpo": 5}
    assert [row["id"] for row in found["pretrain"]] == [f"p{index:04d}" for index in range(5)]


def test_the_choice_depends_on_ids_and_seed_and_not_on_order_or_files(tmp_path):
    rows = heldout_rows_of(40)
    shuffled = random.Random(0).sample(rows, len(rows))
    first = save_table(tmp_path / "a", "splits", "rows", rows, tables.SPLIT_ROWS)
    second = save_table(tmp_path / "b", "splits", "rows", shuffled, tables.SPLIT_ROWS)
    assert heldout_rows(first, 7, seed=1) == heldout_rows(second, 7, seed=1)
    found, counts = heldout_rows(first, 7, seed=1)
    assert counts["sft"] == 40
    assert len(found["sft"]) == 7
    assert found != heldout_rows(first, 7, seed=2)[0]


def test_a_larger_limit_keeps_what_a_smaller_one_chose():
    ids = [f"row{index}" for index in range(100)]
    assert set(chosen_ids(ids, 10, 3)) < set(chosen_ids(ids, 20, 3))
    assert chosen_ids(ids, None, 3) == sorted(ids)
