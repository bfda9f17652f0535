"""The three objectives behind one face: how long rows are, what a step's loss is divided by, the loss of some rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.contracts.tokens import TokenTable
from tutelage.train import losses
from tutelage.train.config import Preference
from tutelage.train.order import Rows, shares
from tutelage.train.ranks import Ranks


class Objective(Protocol):
    """What the loop needs of an objective."""

    tokens: NDArray[np.int64]
    """How many tokens each row puts through the model."""

    def divisor(self, rows: Rows) -> int:
        """What the summed loss of a step's rows is divided by."""

    def loss(self, model: Any, rows: Rows) -> torch.Tensor:
        """The summed loss of rows."""

    def state(self) -> Mapping[str, torch.Tensor]:
        """Tensors that a checkpoint must keep."""

    def prepare(self, model: Any, state: Mapping[str, torch.Tensor], ranks: Ranks, micro_rows: int) -> None:
        """What has to be known before the first step; taken from `state` when a checkpoint has it."""


class NextToken:
    """pretrain and sft: the mean loss of a learned token."""

    def __init__(self, table: TokenTable, device: torch.device) -> None:
        self._table, self._device = table, device
        self.tokens = table.sizes("input_ids")

    def divisor(self, rows: Rows) -> int:
        """Learned tokens, at least 1."""
        return max(1, losses.target_counts(self._table, rows.tolist()))

    def loss(self, model: Any, rows: Rows) -> torch.Tensor:
        """Sum over learned tokens."""
        return losses.token_loss(model, losses.sequences(self._table, rows.tolist(), self._device))

    def state(self) -> Mapping[str, torch.Tensor]:
        """Nothing."""
        return {}

    def prepare(self, model: Any, state: Mapping[str, torch.Tensor], ranks: Ranks, micro_rows: int) -> None:
        """Nothing."""


class PreferencePairs:
    """dpo: the mean loss of a pair, against log-probabilities of the starting weights that are computed once."""

    def __init__(self, table: TokenTable, device: torch.device, config: Preference) -> None:
        self._table, self._device, self._config = table, device, config
        chosen, rejected = table.sizes("chosen_ids"), table.sizes("rejected_ids")
        self.tokens = 2 * table.sizes("prompt_ids") + chosen + rejected
        self._chosen_tokens = torch.from_numpy(chosen).to(device)
        self._reference = torch.zeros((2, len(table)), dtype=torch.float32, device=device)

    def divisor(self, rows: Rows) -> int:
        """Pairs."""
        return len(rows)

    def loss(self, model: Any, rows: Rows) -> torch.Tensor:
        """Sum over pairs."""
        chosen = torch.from_numpy(rows).to(self._device)
        policy = self._log_probabilities(model, rows)
        return losses.preference_loss(
            policy, self._reference[:, chosen], self._chosen_tokens[chosen], self._config.beta, self._config.nll_weight
        )

    def _log_probabilities(self, model: Any, rows: Rows) -> torch.Tensor:
        tokens = losses.answers(self._table, rows.tolist(), self._device)
        return losses.answer_log_probabilities(model, tokens).view(2, len(rows))

    def state(self) -> Mapping[str, torch.Tensor]:
        """The starting weights' log-probabilities."""
        return {"reference": self._reference}

    def prepare(self, model: Any, state: Mapping[str, torch.Tensor], ranks: Ranks, micro_rows: int) -> None:
        """Compute the starting weights' log-probabilities, each rank a share, or take them from `state`."""
        if "reference" in state:
            self._reference = state["reference"].to(self._device)
            return
        by_length = np.argsort(-self.tokens, kind="stable")
        model.eval()
        with torch.no_grad():
            for rows in shares(by_length, ranks.rank, ranks.size, micro_rows):
                self._reference[:, torch.from_numpy(rows).to(self._device)] = self._log_probabilities(model, rows)
        ranks.sum(self._reference)


def objective_of(name: str, table: TokenTable, device: torch.device, preference: Preference | None) -> Objective:
    """The objective called `name` over `table`."""
    make: dict[str, Callable[[], Objective]] = {
        "pretrain": lambda: NextToken(table, device),
        "sft": lambda: NextToken(table, device),
        "dpo": lambda: PreferencePairs(table, device, preference or Preference()),
    }
    return make[name]()
