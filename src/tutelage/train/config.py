"""What `train` can be asked: one Config for three objectives."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from tutelage.config import Config as BaseConfig
from tutelage.config import Seed

Objective = Literal["pretrain", "sft", "dpo"]

#: Objective → (learning rate for all weights, for LoRA). Llama 2 (pretraining and SFT), Zephyr and TRL (DPO); LoRA takes
#: about ten times more (Schulman et al., "LoRA Without Regret", 2025).
DEFAULT_LEARNING_RATES: dict[str, tuple[float, float]] = {
    "pretrain": (3e-4, 1e-3),
    "sft": (2e-5, 2e-4),
    "dpo": (5e-7, 5e-6),
}


class Batch(BaseConfig):
    """How many sequences (pretrain, sft) or pairs (dpo) go together. Sums are the same on any number of ranks."""

    sequences: int = Field(default=32, ge=1)
    """Sequences or pairs of one optimiser step, over all ranks together."""
    micro_sequences: int = Field(default=4, ge=1)
    """Sequences or pairs that one rank computes at once; what does not fit is accumulated."""


class Optimiser(BaseConfig):
    """AdamW (Loshchilov and Hutter, 2019)."""

    learning_rate: float | None = Field(default=None, gt=0)
    """Peak learning rate; chosen by objective when absent."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the mean of gradients."""
    beta2: float = Field(default=0.95, ge=0, lt=1)
    """Decay of the mean of squared gradients."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decay of matrices; vectors (norms, biases) are left alone."""
    gradient_norm: float | None = Field(default=1.0, gt=0)
    """Gradients are scaled down to this norm; not at all when null."""


class Schedule(BaseConfig):
    """The learning rate over the run."""

    shape: Literal["cosine", "linear", "constant"] = "cosine"
    """How it falls after warm-up."""
    warmup_fraction: float = Field(default=0.03, ge=0, le=1)
    """Part of all steps over which it rises from zero."""
    final_fraction: float = Field(default=0.1, ge=0, le=1)
    """What is left of it at the last step."""


class Lora(BaseConfig):
    """Low-rank adapters (Hu et al., 2021), merged into the weights at the end."""

    rank: int = Field(default=16, ge=1)
    """Rank of each update."""
    alpha: float = Field(default=32, gt=0)
    """Updates are scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before each adapter."""
    last_layers: int | None = Field(default=None, ge=1)
    """Only this many layers at the end get adapters; all when absent."""


class Preference(BaseConfig):
    """Direct preference optimisation (Rafailov et al., 2023)."""

    beta: float = Field(default=0.1, gt=0)
    """How strongly the model is held to its starting point."""
    nll_weight: float = Field(default=0.0, ge=0)
    """Weight of the chosen answer's own loss a token, as in RPO (Pang et al., 2024)."""


class Budget(BaseConfig):
    """What may be spent. Training stops before it would spend more, and keeps the model it has."""

    tokens: int | None = Field(default=None, ge=1)
    """Tokens that go through the model."""
    seconds: float | None = Field(default=None, gt=0)
    """Wall time of this step, of all its attempts up to the checkpoint that the next one took up."""
    device_hours: float | None = Field(default=None, gt=0)
    """The same wall time, times ranks."""


class Checkpoints(BaseConfig):
    """How often the state is put where the next attempt finds it; the last two are kept."""

    every_seconds: float | None = Field(default=300, gt=0)
    """Wall time between two; not by time when null."""
    every_steps: int | None = Field(default=None, ge=1)
    """Steps between two; not by steps when null."""


class Precision(BaseConfig):
    """Number formats. Weights and optimiser are float32 while training."""

    compute: Literal["float32", "bfloat16"] = "float32"
    """Of matrix products (autocast). bfloat16 pays on GPUs and on CPUs that have it."""
    saved: Literal["float32", "bfloat16"] = "bfloat16"
    """Of the weights in the trained Model."""


class Config(BaseConfig):
    """What train is asked to do."""

    objective: Objective
    """pretrain (every token), sft (the assistant's tokens alone) or dpo (chosen over rejected answers)."""
    seed: Seed = 0
    """Order of the data, dropout and adapters' first weights."""
    epochs: int = Field(default=1, ge=1)
    """Times that every row is seen."""
    batch: Batch = Batch()
    """Batch sizes."""
    optimiser: Optimiser = Optimiser()
    """AdamW."""
    schedule: Schedule = Schedule()
    """Learning rate over the run."""
    precision: Precision = Precision()
    """Number formats."""
    lora: Lora | None = None
    """Train adapters instead of all weights."""
    preference: Preference | None = None
    """Only with objective dpo."""
    budget: Budget = Budget()
    """Limits; none by default."""
    checkpoints: Checkpoints = Checkpoints()
    """How often state is kept."""
    recompute_activations: bool = False
    """Trade a third more compute for memory (gradient checkpointing)."""

    @model_validator(mode="after")
    def _preference_needs_dpo(self) -> Self:
        if self.preference is not None and self.objective != "dpo":
            raise ValueError(f"preference is a field of objective dpo, not of {self.objective}")
        return self

    @property
    def learning_rate(self) -> float:
        """The peak learning rate: as asked, or the objective's default."""
        everything, adapters = DEFAULT_LEARNING_RATES[self.objective]
        return self.optimiser.learning_rate or (everything if self.lora is None else adapters)
