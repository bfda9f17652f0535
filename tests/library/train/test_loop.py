"""The loop on one rank: what resuming, budgets, adapters and broken numbers do."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training import SENTENCES, build_model, build_tokenizer, sample_rows
from tutelage.config import build
from tutelage.contracts import RowsDigest
from tutelage.contracts import tokens as token_tables
from tutelage.contracts.models import load_model, model_digest
from tutelage.contracts.tokens import TokenTable
from tutelage.data import tokens
from tutelage.errors import BudgetSpent, InvalidInput, StepFailed
from tutelage.train import checkpoints
from tutelage.train import model as models
from tutelage.train.budget import Clock, estimate
from tutelage.train.config import Config
from tutelage.train.loop import Trainer, thinned
from tutelage.train.objectives import objective_of
from tutelage.train.ranks import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL = {"batch": {"sequences": 4, "micro_sequences": 2}, "precision": {"saved": "float32"}}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model and tokens of all phases."""
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = build_tokenizer(SENTENCES, 300)
    build_model(folder / "base", tokenizer)
    rows = {phase: [row for row in sample_rows(10) if row["phase"] == phase] for phase in ("pretrain", "sft", "dpo")}
    drops, digest = tokens.Drops(), RowsDigest()
    packed = tokens.split_and_pack(tokens.documents(rows["pretrain"], tokenizer, drops), 64)
    conversations = tokens.pack_whole(tokens.conversations(rows["sft"], tokenizer, 128, drops), 128)
    token_tables.write(tokens.sequence_rows(packed, with_targets=False), folder, "pretrain", digest)
    token_tables.write(tokens.sequence_rows(conversations, with_targets=True), folder, "sft", digest)
    token_tables.write(tokens.pairs(rows["dpo"], tokenizer, 256, drops), folder, "dpo", digest)
    return folder


@pytest.fixture
def trainer(inputs: Path, tmp_path: Path) -> Callable[..., Trainer]:
    def make(scratch: str = "scratch", change: Callable[[Any], None] | None = None, **values: Any) -> Trainer:
        config = build(Config, {"objective": "pretrain", **SMALL, **values})
        model = models.prepare_model(inputs / "base", config, ALONE)
        if change is not None:
            change(model)
        objective = objective_of(
            config.objective, TokenTable(inputs, config.objective), ALONE.device, config.preference
        )
        made = Trainer(config, model, objective, ALONE, str(tmp_path / scratch), "key")
        made.resume()
        return made

    return make


def run(trainer: Trainer, after_step: Callable[[Any], None] = lambda progress: None) -> str | None:
    clock = Clock(trainer.config.budget, 1, trainer.progress.seconds, time.monotonic())
    return trainer.run(clock, lambda progress, steps, rate: after_step(progress))


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("objective", ["pretrain", "sft", "dpo"])
def test_the_loss_falls(trainer: Callable[..., Trainer], objective: str) -> None:
    made = trainer(objective=objective, epochs=12, optimiser={"learning_rate": 3e-3})
    assert run(made) is None
    history = [loss for _, loss in made.progress.loss]
    assert history[-1] < history[0] * 0.8
    assert made.progress.tokens == 12 * int(made.objective.tokens.sum())


def test_the_first_preference_loss_is_that_of_no_preference(trainer: Callable[..., Trainer]) -> None:
    made = trainer(objective="dpo")
    run(made)
    assert made.progress.loss[0][1] == pytest.approx(0.693147, abs=1e-5)


@pytest.mark.parametrize("objective", ["pretrain", "dpo"])
def test_a_resumed_run_ends_bit_equal_to_an_undisturbed_one(trainer: Callable[..., Trainer], objective: str) -> None:
    values = {"objective": objective, "epochs": 3, "checkpoints": {"every_steps": 3}, "lora": None}
    undisturbed = trainer("undisturbed", **values)
    run(undisturbed)

    class Killed(Exception):
        pass

    def die(progress: Any) -> None:
        if progress.step == 5:
            raise Killed

    with pytest.raises(Killed):
        run(trainer("killed", **values), die)
    resumed = trainer("killed", **values)
    assert resumed.resumed_at == 3
    run(resumed)
    assert same(weights(resumed), weights(undisturbed))
    assert resumed.progress.loss == undisturbed.progress.loss


def test_dropout_is_drawn_anew_each_step_and_alike_after_a_resume(trainer: Callable[..., Trainer]) -> None:
    values = {"epochs": 2, "checkpoints": {"every_steps": 3}, "lora": {"rank": 2, "dropout": 0.3}}
    first, second = trainer("first", **values), trainer("first-again", **values)
    run(first)
    run(second)
    assert same(weights(first), weights(second))
    resumed = trainer("first", **values)
    assert resumed.resumed_at == 6
    run(resumed)
    assert same(weights(resumed), weights(first))


def test_a_loss_that_is_not_a_number_fails_and_saves_nothing(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    def poison(model: Any) -> None:
        with torch.no_grad():
            model.model.norm.weight[0] = float("nan")

    with pytest.raises(StepFailed, match="loss is nan at step 1") as caught:
        run(trainer(change=poison, checkpoints={"every_steps": 1}))
    assert "learning_rate" in str(caught.value.hint)
    assert checkpoints.newest(str(tmp_path / "scratch"), "key") is None


def test_weights_that_run_away_are_never_saved(trainer: Callable[..., Trainer], tmp_path: Path) -> None:
    values = {"optimiser": {"learning_rate": 1e38, "gradient_norm": None}, "schedule": {"warmup_fraction": 0.0}}
    with pytest.raises(StepFailed, match=r"finite|is nan|is inf"):
        run(trainer(epochs=4, checkpoints={"every_steps": 1}, **values))
    found = checkpoints.newest(str(tmp_path / "scratch"), "key")
    if found is not None:
        _, tensors = checkpoints.load(str(tmp_path / "scratch"), found, ALONE.device)
        assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())


def test_a_token_budget_stops_before_it_is_exceeded(trainer: Callable[..., Trainer]) -> None:
    made = trainer(epochs=4, budget={"tokens": 1000})
    assert run(made) == "budget"
    assert 700 < made.progress.tokens <= 1000


def test_a_budget_too_small_for_one_step_is_an_error(trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(BudgetSpent, match=r"budget.tokens is 10, the first step alone takes 2"):
        trainer(budget={"tokens": 10})


def test_a_time_budget_counts_earlier_attempts(trainer: Callable[..., Trainer]) -> None:
    made = trainer(epochs=500, budget={"seconds": 1.0})
    started = time.monotonic()
    assert run(made) == "budget"
    assert time.monotonic() - started < 2
    assert 0 < made.progress.seconds <= 1.5
    late = trainer("late", epochs=500, budget={"seconds": 1.0})
    late.progress.seconds = 2.0
    with pytest.raises(BudgetSpent, match="before the first step"):
        run(late)


def test_device_hours_are_shared_by_ranks() -> None:
    budget = build(Config, {"objective": "sft", "budget": {"device_hours": 0.01}}).budget
    assert Clock(budget, 1, 17.0, time.monotonic()).has_room_for(15)
    assert not Clock(budget, 2, 17.0, time.monotonic()).has_room_for(15)


def test_an_epoch_is_the_same_whatever_the_micro_batches(trainer: Callable[..., Trainer]) -> None:
    one = trainer("one", batch={"sequences": 6, "micro_sequences": 1})
    many = trainer("many", batch={"sequences": 6, "micro_sequences": 6})
    run(one)
    run(many)
    assert [loss for _, loss in one.progress.loss] == pytest.approx([loss for _, loss in many.progress.loss], rel=1e-5)


def test_adapters_are_merged_into_a_plain_model(trainer: Callable[..., Trainer], inputs: Path, tmp_path: Path) -> None:
    made = trainer(lora={"rank": 2, "alpha": 4, "last_layers": 1}, epochs=2, optimiser={"learning_rate": 1e-2})
    assert all(".layers.1." in name for name in made.parameters)
    run(made)
    models.write_model(made.model, inputs / "base", tmp_path / "out", made.config)
    merged, base = load_model(tmp_path / "out").state_dict(), load_model(inputs / "base").state_dict()
    assert merged.keys() == base.keys()
    changed = {name for name in base if not torch.equal(base[name], merged[name])}
    assert changed and all(".layers.1." in name for name in changed)
    assert not list((tmp_path / "out").glob("adapter*"))


def test_more_adapter_layers_than_layers_are_refused(trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(InvalidInput, match=r"lora.last_layers is 3, the model has 2 layers"):
        trainer(lora={"last_layers": 3})


def test_a_written_model_has_its_tokenizer_and_the_asked_number_format(
    trainer: Callable[..., Trainer], inputs: Path, tmp_path: Path
) -> None:
    made = trainer(precision={"saved": "bfloat16"}, recompute_activations=True)
    run(made)
    models.write_model(made.model, inputs / "base", tmp_path / "out", made.config)
    assert load_model(tmp_path / "out", "bfloat16").lm_head.weight.dtype == torch.bfloat16
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "out" / name).read_bytes() == (inputs / "base" / name).read_bytes()
    assert model_digest(tmp_path / "out") != model_digest(inputs / "base")


def test_history_is_thinned_to_means() -> None:
    loss = [(10 * step, float(step)) for step in range(1, 1001)]
    points = thinned(loss)
    assert len(points) == 200
    assert points[0] == (50, 3.0)
    assert points[-1][0] == 10_000


def test_an_estimate_is_six_operations_a_weight_and_token() -> None:
    taken = estimate(1_000_000, 2_000, 5)
    assert taken.floating_point_operations == 1.2e10
    assert taken.seconds(1.2e9) == 10
