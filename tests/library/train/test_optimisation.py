"""The learning rate over a run, and what weight decay leaves alone."""

from itertools import pairwise

import pytest
import torch

from tutelage.config import build
from tutelage.errors import InvalidInput
from tutelage.train.config import Config, Schedule
from tutelage.train.optimisation import adamw, learning_rate_at


def test_the_learning_rate_rises_then_falls_to_its_rest() -> None:
    schedule = Schedule(shape="cosine", warmup_fraction=0.1, final_fraction=0.2)
    rates = [learning_rate_at(step, 100, 1.0, schedule) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.2)
    assert all(earlier >= later for earlier, later in pairwise(rates[10:]))


def test_a_run_of_one_step_has_a_learning_rate() -> None:
    for shape in ("cosine", "linear", "constant"):
        schedule = build(Schedule, {"shape": shape, "warmup_fraction": 0.0})
        assert learning_rate_at(0, 1, 1.0, schedule) == 1.0


def test_a_constant_rate_stays() -> None:
    assert learning_rate_at(99, 100, 0.5, Schedule(shape="constant")) == 0.5


def test_vectors_are_not_decayed() -> None:
    parameters = {"matrix": torch.nn.Parameter(torch.ones(2, 2)), "norm": torch.nn.Parameter(torch.ones(2))}
    config = build(Config, {"objective": "sft", "optimiser": {"weight_decay": 0.3}})
    assert [group["weight_decay"] for group in adamw(parameters, config).param_groups] == [0.3, 0.0]


def test_each_objective_has_a_learning_rate_of_its_own() -> None:
    assert build(Config, {"objective": "dpo"}).learning_rate < build(Config, {"objective": "sft"}).learning_rate
    assert build(Config, {"objective": "sft", "lora": {}}).learning_rate == 2e-4
    assert build(Config, {"objective": "sft", "optimiser": {"learning_rate": 1.0}}).learning_rate == 1.0


def test_a_preference_section_is_refused_where_it_would_do_nothing() -> None:
    with pytest.raises(InvalidInput, match="preference is a field of objective dpo"):
        build(Config, {"objective": "sft", "preference": {"beta": 0.2}})
