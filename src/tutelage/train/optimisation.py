"""AdamW, its learning rate over the run, and its state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from tutelage.train.config import Config, Schedule

NamedParameters = Mapping[str, torch.nn.Parameter]
#: AdamW's state of one weight.
SLOTS = ("exp_avg", "exp_avg_sq", "step")


def adamw(parameters: NamedParameters, config: Config) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices alone."""
    decayed = [parameter for parameter in parameters.values() if parameter.ndim >= 2]
    others = [parameter for parameter in parameters.values() if parameter.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": config.optimiser.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    betas = (config.optimiser.beta1, config.optimiser.beta2)
    return torch.optim.AdamW(
        [group for group in groups if group["params"]], lr=config.learning_rate, betas=betas, fused=True
    )


def learning_rate_at(step: int, steps: int, peak: float, schedule: Schedule) -> float:
    """The learning rate of step `step` (from 0) of `steps`."""
    warmup = math.ceil(schedule.warmup_fraction * steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    left = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[schedule.shape]
    if schedule.shape == "constant":
        return peak
    return peak * (schedule.final_fraction + (1 - schedule.final_fraction) * left)


def set_learning_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Use `rate` from now on."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def optimiser_tensors(optimiser: torch.optim.Optimizer, parameters: NamedParameters) -> dict[str, torch.Tensor]:
    """The optimiser's state: `<slot>:<weight>` → tensor."""
    return {
        f"{slot}:{name}": optimiser.state[parameter][slot]
        for name, parameter in parameters.items()
        for slot in SLOTS
        if parameter in optimiser.state
    }


def load_optimiser(
    optimiser: torch.optim.Optimizer, parameters: NamedParameters, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Put back what `optimiser_tensors` gave."""
    for name, parameter in parameters.items():
        # The step count stays on the weight's device: the fused kernel wants it there.
        optimiser.state[parameter] = {slot: tensors[f"{slot}:{name}"].to(parameter.device) for slot in SLOTS}
