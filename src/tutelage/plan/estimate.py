"""What can honestly be said of a run's size before it starts. What cannot be known is None, and shown as unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tutelage.contracts import sources

if TYPE_CHECKING:
    from tutelage.plan.recipe import Planned


@dataclass(frozen=True)
class Estimate:
    """One quantity: a value or None, and how it is known."""

    quantity: str
    value: float | None
    unit: str
    basis: str


def bytes_of(source: sources.Fetched) -> int:
    """Bytes of all files of a source."""
    return sum(path.stat().st_size for _, path in source.files())


def parameters_of(base_model: Any, fetched: sources.Fetched | None) -> int | None:
    """Parameters of the base model: exact for one to be initialised, about two bytes each for safetensors, else None."""
    shape = base_model.get("initialise") if isinstance(base_model, Mapping) else None
    if isinstance(shape, Mapping):
        return _initialised(shape)
    if fetched is not None and fetched.path.is_dir():
        weights = sum(path.stat().st_size for path in fetched.path.glob("*.safetensors"))
        return weights // 2 or None
    return None


def _initialised(values: Mapping[str, Any]) -> int | None:
    from tutelage.config import problems_of
    from tutelage.plan.base_model import Initialise

    if problems_of(Initialise, values):
        return None
    shape = Initialise.model_validate(values, strict=False)
    width, heads = shape.hidden_size, shape.attention_heads
    key_value = width // heads * (shape.key_value_heads or heads)
    block = 2 * width * width + 2 * width * key_value + 3 * width * shape.intermediate_size + 2 * width
    embeddings = shape.vocabulary_size * width * (1 if shape.tie_embeddings else 2)
    return embeddings + shape.layers * block + width


def estimates(tasks: Sequence[Planned], fetched: Mapping[str, sources.Fetched]) -> list[Estimate]:
    """Size of data, model and training, as far as they are known. `fetched`: place in the recipe → source at hand."""
    values = {task.step: task.values for task in tasks}
    entries = values["data/ingest"]["sources"]
    known = [fetched[f"sources[{index}]"] for index in range(len(entries)) if f"sources[{index}]" in fetched]
    complete = len(known) == len(entries)
    suite = [entry.get("limit") for entry in values["plan/acquire"]["suite"]]
    made = [
        Estimate(
            "data to read", sum(map(bytes_of, known)) if complete else None, "bytes",
            "all files of all sources, before selection" if complete else f"{len(entries) - len(known)} are known at run time",
        ),
        Estimate("rows", None, "rows", "known when the sources are read"),
        Estimate(
            "suite items, at most", sum(suite) if suite and all(suite) else None, "items",
            "limits of all tasks" if suite and all(suite) else "a task has no limit",
        ),
        Estimate(
            "parameters", parameters_of(values["plan/acquire"]["base_model"], fetched.get("base_model")), "",
            "shape and vocabulary_size, at most" if values["plan/acquire"]["base_model"].get("initialise")
            else "size of the safetensors, taken for 16-bit numbers",
        ),
    ]  # fmt: skip
    for task in tasks:
        if task.step == "train/train":
            budget = task.values.get("budget") or {}
            for quantity in ("tokens", "seconds"):
                limit = budget.get(quantity)
                basis = "budget" if limit else "no budget; known when the data is tokenised"
                made.append(Estimate(f"{task.label}, at most", limit, quantity, basis))
    return made
