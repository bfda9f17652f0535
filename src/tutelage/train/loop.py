"""The training loop: from a step's rows to a step of AdamW, the same on one rank and on many.

    for each step: rows by the seed → shares of ranks → loss / everybody's targets → gradients summed → clipped → AdamW

Nothing that happened before a step is needed but weights, optimiser and step number: data order and dropout are drawn from
(seed, step), so a resumed run is bit-equal to one that was never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from tutelage.errors import BudgetSpent, NotFinite
from tutelage.train import checkpoints
from tutelage.train.budget import Clock
from tutelage.train.checkpoints import Progress
from tutelage.train.config import Config
from tutelage.train.objectives import Objective
from tutelage.train.optimisation import (
    adamw,
    learning_rate_at,
    load_optimiser,
    optimiser_tensors,
    set_learning_rate,
)
from tutelage.train.order import Order, Rows, shares
from tutelage.train.ranks import Ranks, Replicated

Report = Callable[[Progress, int, float], None]


class Trainer:
    """One run over one table of tokens."""

    def __init__(
        self, config: Config, model: Any, objective: Objective, ranks: Ranks, scratch: str, step_key: str
    ) -> None:
        self.config, self.model, self.objective, self.ranks = config, model, objective, ranks
        self.scratch = scratch
        self.progress = Progress(step_key)
        self.order = Order(objective.tokens, config.batch.sequences, config.epochs, config.seed)
        self.steps = self.order.steps_within(config.budget.tokens)
        self.parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        self.optimiser = adamw(self.parameters, config)
        self.spread = Replicated(ranks, list(self.parameters.values()))
        self.resumed_at: int | None = None
        self._saved_step, self._saved_time = 0, time.monotonic()
        if self.steps == 0:
            raise BudgetSpent(
                f"budget.tokens is {config.budget.tokens}, the first step alone takes {self.order.tokens(0)}",
                hint="raise it, or make batch.sequences smaller",
            )

    def resume(self) -> None:
        """Take up the newest checkpoint of this step key, if there is one, and what the objective needs beforehand."""
        found = checkpoints.newest(self.scratch, self.progress.step_key) if self.ranks.rank == 0 else None
        step = self.ranks.from_first(found if found is not None else -1)
        tensors: dict[str, torch.Tensor] = {}
        if step >= 0:
            self.progress, tensors = checkpoints.load(self.scratch, step, self.ranks.device)
            self.resumed_at = self._saved_step = step
        with self._autocast():
            self.objective.prepare(self.model, tensors, self.ranks, self.config.batch.micro_sequences)
        if step > 0:
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(tensors[f"weight:{name}"])
            load_optimiser(self.optimiser, self.parameters, tensors)

    def run(self, clock: Clock, report: Report) -> str | None:
        """Train to the end, or to where the budget is spent. Gives "budget" in that case, else None.

        Raises NotFinite when a loss, gradient or weight is, BudgetSpent when no step could be made.
        """
        self.model.train()
        stop = self._time_is_up(clock)
        while self.progress.step < self.steps and not stop:
            stop, save = self._step(clock)
            if save and self.progress.step < self.steps:
                self._checkpoint()
            report(self.progress, self.steps, self._learning_rate())
        self.spread.require_sound(self.progress.step)
        return "budget" if self.progress.step < self.order.steps else None

    def _time_is_up(self, clock: Clock) -> bool:
        """Whether no step may be made any more, as rank 0's clock says. Raises BudgetSpent when none was made before."""
        if self.ranks.from_first(int(clock.has_room_for(self.progress.longest_step_seconds))):
            return False
        if self.progress.step == 0:
            raise BudgetSpent(
                f"the time budget was spent before the first step, {clock.seconds():.0f} s after the start",
                hint="raise budget.seconds or budget.device_hours",
            )
        return True

    def _step(self, clock: Clock) -> tuple[bool, bool]:
        """One optimiser step. Gives whether to stop after it and whether to keep its state, the same on all ranks."""
        started = time.monotonic()
        step = self.progress.step
        rows = self.order.rows(step)
        torch.manual_seed(_step_seed(self.config.seed, step, self.ranks.rank))
        self.optimiser.zero_grad(set_to_none=True)
        loss = self._backward(rows)
        norm = self.spread.sum_gradients()
        figures = torch.stack([loss, *torch.tensor(self._wishes(clock), dtype=torch.float64, device=loss.device)])
        loss_value, stop, save = self.ranks.sum(figures).tolist()
        self._require_finite(loss_value, norm)
        limit = self.config.optimiser.gradient_norm
        if limit is not None and norm > limit:
            self.spread.scale_gradients(limit / norm)
        set_learning_rate(self.optimiser, self._learning_rate())
        self.optimiser.step()
        self.progress.step, self.progress.tokens = step + 1, self.progress.tokens + self.order.tokens(step)
        self.progress.loss.append((self.progress.tokens, loss_value))
        self.progress.seconds = clock.seconds()
        self.progress.longest_step_seconds = max(self.progress.longest_step_seconds, time.monotonic() - started)
        return stop > 0, save > 0

    def _backward(self, rows: Rows) -> torch.Tensor:
        """Gradients of this rank's share of the step's mean loss, and that share."""
        divisor = self.objective.divisor(rows)
        total = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        for share in shares(rows, self.ranks.rank, self.ranks.size, self.config.batch.micro_sequences):
            with self._autocast():
                loss = self.objective.loss(self.model, share) / divisor
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach().double()
        return total

    def _wishes(self, clock: Clock) -> tuple[float, float]:
        """Whether rank 0's clock asks to stop after this step, and to save after it; other ranks ask for nothing."""
        if self.ranks.rank != 0:
            return 0.0, 0.0
        # This step is nearly done; after it, there must be time for one more as long as the longest.
        stop = not clock.has_room_for(self.progress.longest_step_seconds)
        every = self.config.checkpoints
        waited = time.monotonic() - self._saved_time
        by_steps = every.every_steps is not None and self.progress.step + 1 - self._saved_step >= every.every_steps
        by_time = every.every_seconds is not None and waited >= every.every_seconds
        return float(stop), float(by_steps or by_time)

    def _require_finite(self, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        what, value = ("loss", loss) if not math.isfinite(loss) else ("gradient norm", norm)
        raise NotFinite(
            f"{what} is {value} at step {self.progress.step + 1} of {self.steps}; nothing was saved after it",
            hint="lower optimiser.learning_rate or lengthen schedule.warmup_fraction; at step 1 the base model itself is broken",
        )

    def _learning_rate(self) -> float:
        return learning_rate_at(self.progress.step, self.steps, self.config.learning_rate, self.config.schedule)

    def _autocast(self) -> AbstractContextManager[Any]:
        low = self.config.precision.compute == "bfloat16"
        return torch.autocast(self.ranks.device.type, dtype=torch.bfloat16, enabled=low)

    def _checkpoint(self) -> None:
        self.spread.require_sound(self.progress.step)
        if self.ranks.rank == 0:
            tensors = {f"weight:{name}": parameter for name, parameter in self.parameters.items()}
            tensors |= optimiser_tensors(self.optimiser, self.parameters) | dict(self.objective.state())
            checkpoints.save(self.scratch, self.progress, tensors)
        self._saved_step, self._saved_time = self.progress.step, time.monotonic()


def _step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of one rank's dropout in one step."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


def thinned(loss: list[tuple[int, float]], points: int = 200) -> list[tuple[int, float]]:
    """At most `points` means of equally many neighbouring steps, rounded: what a page draws."""
    width = max(1, math.ceil(len(loss) / points))
    groups = [loss[start : start + width] for start in range(0, len(loss), width)]
    return [(group[-1][0], round(sum(value for _, value in group) / len(group), 6)) for group in groups]
