"""LoRA by peft: put in before training, merged into full weights after it."""

from __future__ import annotations

import re
from typing import Any

from tutelage.errors import InvalidInput
from tutelage.train.config import Lora


def add_adapters(model: Any, lora: Lora) -> Any:
    """The model with adapters on every linear map of its (last) layers; they alone are trainable."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=_linear_maps(model, lora.last_layers),
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def merge_adapters(model: Any) -> Any:
    """The plain model with adapters added to its weights."""
    return model.merge_and_unload(safe_merge=True)


def _linear_maps(model: Any, last_layers: int | None) -> list[str]:
    """Names of the linear maps inside numbered layers, of the last `last_layers` or of all."""
    import torch

    found: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        layer = re.search(r"\.(\d+)\.", name)
        if layer and isinstance(module, torch.nn.Linear):
            found.setdefault(int(layer[1]), []).append(name)
    if not found:
        raise InvalidInput("the model has no layers that adapters could be put on", hint="train without lora")
    if last_layers is not None and last_layers > len(found):
        raise InvalidInput(f"lora.last_layers is {last_layers}, the model has {len(found)} layers")
    chosen = sorted(found)[-last_layers:] if last_layers is not None else sorted(found)
    return [name for layer in chosen for name in found[layer]]
