"""Budgets: what a run will take, what it has taken, and whether the next step still fits."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tutelage.train.config import Budget


@dataclass(frozen=True)
class Estimate:
    """What a run will take."""

    steps: int
    tokens: int
    floating_point_operations: float
    """6 a weight and token: forward and backward (Kaplan et al., 2020)."""

    def seconds(self, operations_per_second: float) -> float:
        """Wall time on machines that reach `operations_per_second` together."""
        return self.floating_point_operations / operations_per_second


def estimate(parameters: int, tokens: int, steps: int) -> Estimate:
    """What `steps` steps over `tokens` tokens take with a model of `parameters` weights."""
    return Estimate(steps, tokens, 6.0 * parameters * tokens)


class Clock:
    """Wall time of this step over all attempts, against its limit."""

    def __init__(self, budget: Budget, ranks: int, spent_seconds: float, started: float) -> None:
        """`spent_seconds` were used by earlier attempts; `started` is when this one began (time.monotonic)."""
        limits = [budget.seconds, budget.device_hours * 3600 / ranks if budget.device_hours is not None else None]
        self._limit = min((limit for limit in limits if limit is not None), default=None)
        self._before, self._started = spent_seconds, started

    def seconds(self) -> float:
        """Wall time spent, all attempts together."""
        return self._before + time.monotonic() - self._started

    def has_room_for(self, seconds: float) -> bool:
        """Whether `seconds` more stay within the limit."""
        return self._limit is None or self.seconds() + seconds <= self._limit
