"""Models in and out: loaded for training, written as a Hugging Face directory with tokenizer and chat template."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tutelage.contracts.models import TOKENIZER_FILES, load_model
from tutelage.train.config import Config
from tutelage.train.ranks import Ranks

#: Besides TOKENIZER_FILES, what older tokenizers are made of.
OLDER_TOKENIZER_FILES = ("added_tokens.json", "merges.txt", "tokenizer.model", "vocab.json", "vocab.txt")


def prepare_model(folder: Path, config: Config, ranks: Ranks) -> Any:
    """The model in float32 on this rank's device, with adapters where asked for; equal on all ranks."""
    import torch

    model = load_model(folder, "float32")
    torch.manual_seed(config.seed)
    if config.recompute_activations:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if config.lora is not None:
        from tutelage.train.adapters import add_adapters

        model = add_adapters(model, config.lora)
    return model.to(ranks.device)


def write_model(model: Any, base: Path, folder: Path, config: Config) -> int:
    """Write the trained model, adapters merged, with the base's tokenizer. Gives the number of its weights."""
    import torch

    if config.lora is not None:
        from tutelage.train.adapters import merge_adapters

        model = merge_adapters(model)
    model = model.to(device="cpu", dtype=getattr(torch, config.precision.saved))
    model.save_pretrained(folder)
    for name in (*TOKENIZER_FILES, *OLDER_TOKENIZER_FILES):
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    return sum(parameter.numel() for parameter in model.parameters())
