"""What one section of a recipe asks of another: sources for every phase, figures for every rule, rows to hold out,
figures that can be what is asked of them, lengths and layers that the model has.

Nothing of the world is looked at here; that is `surroundings`, which says what it saw as `Known`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from tutelage.errors import Problem

if TYPE_CHECKING:
    from tutelage.plan.recipe import Planned

#: Kind of figure → the least and the most it can be.
RANGES: Mapping[str, tuple[float, float]] = {
    "accuracy": (0, 1),
    "stereotype": (0, 1),
    "refusal": (0, 1),
    "preference_accuracy": (0, 1),
    "perplexity": (1, float("inf")),
    "bits_per_byte": (0, float("inf")),
}


@dataclass(frozen=True)
class Known:
    """What was seen of the world."""

    model: Path | None = None
    """Folder of the base model, where it is at hand and no GGUF file."""
    items: Mapping[int, int] = field(default_factory=dict)
    """Place of a task in the suite → the items its source gives."""
    rows: Mapping[int, int] = field(default_factory=dict)
    """Place of a source → the rows it can give at most, where its files tell: a text gives one row."""


def problems(
    tasks: Sequence[Planned], values: Mapping[str, Any], objectives: Sequence[str], known: Known
) -> list[Problem]:
    """What does not fit together in a run that trains `objectives`. `values`: step → what its Config is built from."""
    found = _phase_problems(values["data/ingest"], objectives)
    found += _heldout_problems(values, known.rows)
    found += _rule_problems(values)
    found += _range_problems(values)
    found += _sample_problems(values, known.items)
    layers, context = _shape_of(mapping(values["plan/acquire"]["base_model"]), known.model)
    return found + _length_problems(values, context) + _layer_problems(tasks, layers)


def mapping(value: Any) -> Mapping[str, Any]:
    """`value` where it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def entries(value: Any) -> list[Mapping[str, Any]]:
    """A list's entries, mappings or empty ones; no entries where there is no list."""
    return [mapping(entry) for entry in value] if isinstance(value, list) else []


def _phase_problems(ingest: Mapping[str, Any], objectives: Sequence[str]) -> list[Problem]:
    given = entries(ingest["sources"])
    phases = {entry.get("phase") for entry in given}
    return [
        Problem(
            "sources",
            f"no source for phase {objective!r}, which this pipeline trains",
            f"add one with phase: {objective}",
        )
        for objective in objectives
        if given and objective not in phases
    ]


def _heldout_problems(values: Mapping[str, Any], rows: Mapping[int, int]) -> list[Problem]:
    """Phases whose sources' limits and files give fewer rows than must be held out; where neither tells, the run knows."""
    from tutelage.step import load

    fewest = mapping(values["data/split"]).get(
        "minimum_heldout", load("data/split").Config.model_fields["minimum_heldout"].default
    )
    limits: dict[str, list[Any]] = {}
    for index, entry in enumerate(entries(values["data/ingest"]["sources"])):
        told = [count for count in (entry.get("limit"), rows.get(index)) if _is_count(count)]
        limits.setdefault(str(entry.get("phase")), []).append(min(told, default=None))
    found = []
    for phase, given in sorted(limits.items()):
        known = [limit for limit in given if _is_count(limit)]
        # split holds out at most half of a phase's rows.
        if _is_count(fewest) and len(known) == len(given) and sum(known) < 2 * fewest:
            message = (
                f"phase {phase} has at most {sum(known)} rows by its sources' limits and files; at most half may be "
            )
            message += f"held out, and {fewest} must be"
            hint = f"bring more files, or raise the limits, of sources with phase: {phase}"
            hint += f", or set minimum_heldout to {sum(known) // 2} or less" if sum(known) > 1 else ""
            found.append(Problem("policy.split.minimum_heldout", message, hint))
    return found


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _rule_problems(values: Mapping[str, Any]) -> list[Problem]:
    """No rules at all, and rules on figures that nothing will measure: such a gate could never pass."""
    phases = {entry.get("phase") for entry in entries(values["data/ingest"]["sources"])}
    tasks = entries(values["plan/acquire"]["suite"])
    measured = {f"{figure}/{phase}" for phase in phases for figure in ("perplexity", "bits_per_byte")}
    measured |= {"preference_accuracy/dpo" for phase in phases if phase == "dpo"}
    measured |= {f"accuracy/{task.get('task')}" for task in tasks if task.get("type") == "multiple_choice"}
    measured |= {f"stereotype/{task.get('task')}" for task in tasks if task.get("type") == "stereotype"}
    measured |= {f"refusal/{task.get('type')}" for task in tasks if task.get("type") in ("harmful", "harmless")}
    release = values["release/decide"]
    found = []
    if isinstance(release, Mapping) and release.get("rules", []) == []:
        message = "no rule on any figure: such a policy can never give a PASS"
        example = next((name for name in sorted(measured) if name.startswith("perplexity/")), "NAME")
        hint = f"add one, for example {{figure: {example}, must_be: not_worse}}"
        found.append(Problem("policy.release.rules", message, hint))
    for index, rule in enumerate(entries(mapping(release).get("rules"))):
        figure = rule.get("figure")
        if isinstance(figure, str) and figure not in measured:
            near = difflib.get_close_matches(figure, sorted(measured), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"measured: {', '.join(sorted(measured)) or 'nothing'}"
            found.append(Problem(f"policy.release.rules[{index}].figure", f"nothing will measure {figure!r}", hint))
    return found


def _rules(values: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(place, figure, rule) of every rule that names a figure."""
    listed = enumerate(entries(mapping(values["release/decide"]).get("rules")))
    return [
        (f"policy.release.rules[{index}]", str(rule["figure"]), rule)
        for index, rule in listed
        if isinstance(rule.get("figure"), str)
    ]


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _range_problems(values: Mapping[str, Any]) -> list[Problem]:
    """Bounds that no model can keep: outside of what the figure can be, or a maximum below a minimum."""
    found = []
    minima: dict[str, float] = {}
    maxima: dict[str, float] = {}
    for place, figure, rule in _rules(values):
        minimum, maximum = _number(rule.get("minimum")), _number(rule.get("maximum"))
        first, last = RANGES.get(figure.partition("/")[0], (float("-inf"), float("inf")))
        if minimum is not None and minimum > last:
            message = f"{figure} is {last:g} at most, and never {minimum:g}"
            found.append(Problem(f"{place}.minimum", message, f"choose {last:g} or less"))
        if maximum is not None and maximum < first:
            message = f"{figure} is {first:g} at least, and never {maximum:g}"
            found.append(Problem(f"{place}.maximum", message, f"choose {first:g} or more"))
        if minimum is not None:
            minima[figure] = max(minimum, minima.get(figure, minimum))
        if maximum is not None:
            maxima[figure] = min(maximum, maxima.get(figure, maximum))
        most, least = maxima.get(figure), minima.get(figure)
        if (minimum, maximum) != (None, None) and most is not None and least is not None and most < least:
            message = f"{figure} may be {most:g} at most and must be {least:g} at least: nothing can be both"
            found.append(Problem(place, message, "raise the maximum or lower the minimum"))
    return found


def _sample_problems(values: Mapping[str, Any], items: Mapping[int, int]) -> list[Problem]:
    """Rules that ask for proof of a figure with so few items that none could give it, whatever the models do."""
    from tutelage.step import load

    confidence = _number(
        mapping(values["evaluate/compare"]).get(
            "confidence", load("evaluate/compare").Config.model_fields["confidence"].default
        )
    )
    if confidence is None or not 0 < confidence < 1:
        return []
    # All of n items turn out the same way by chance with probability 2^(1-n): `compare` tells nothing above 1 - confidence.
    fewest = next(number for number in range(1, 64) if 2.0 ** (1 - number) <= 1 - confidence)
    found = []
    for place, figure, rule in _rules(values):
        most = _most_items(values, figure, items)
        if rule.get("must_be") == "better" and most is not None and most < fewest:
            message = f"{figure} is measured on {most} items at most; fewer than {fewest} never prove anything better "
            message += f"at confidence {confidence:g}"
            hint = "raise the limits of its tasks or evaluation's maximum, or ask for not_worse"
            found.append(Problem(f"{place}.must_be", message, hint))
    return found


def _most_items(values: Mapping[str, Any], figure: str, items: Mapping[int, int]) -> int | None:
    """How many items a figure can have, by limits and by what was read; None where nothing tells."""
    kind, _, name = figure.partition("/")
    about = mapping(values["evaluate/evaluate"])
    if kind in ("perplexity", "bits_per_byte", "preference_accuracy"):
        rows = about.get("maximum_heldout_rows")
        return rows if _is_count(rows) else None
    types = {"accuracy": "multiple_choice", "stereotype": "stereotype"}
    counts = []
    for index, task in enumerate(entries(values["plan/acquire"]["suite"])):
        if task.get("type") == types.get(kind, name) and (kind == "refusal" or task.get("task") == name):
            given = [count for count in (task.get("limit"), items.get(index)) if _is_count(count)]
            counts.append(min(given, default=None))
    total = sum(count for count in counts if count is not None) if counts and None not in counts else None
    cap = about.get("maximum_suite_items")
    known = [count for count in (total, cap) if _is_count(count)]
    return min(known, default=None) if counts else None


def _shape_of(base_model: Mapping[str, Any], folder: Path | None) -> tuple[int | None, int | None]:
    """(layers, longest sequence) of the base model, None where nobody says."""
    from tutelage.plan.base_model import Initialise

    if shape := mapping(base_model.get("initialise")):
        fields = Initialise.model_fields
        layers, context = (shape.get(name, fields[name].default) for name in ("layers", "context_length"))
    else:
        about = _config_of(folder)
        about = mapping(about.get("text_config")) or about
        layers, context = about.get("num_hidden_layers"), about.get("max_position_embeddings")
    return layers if _is_count(layers) else None, context if _is_count(context) else None


def _config_of(folder: Path | None) -> Mapping[str, Any]:
    """A model folder's config.json; empty where it has none that can be read, which the run refuses in better words."""
    try:
        return mapping(json.loads((folder / "config.json").read_text(encoding="utf-8"))) if folder else {}
    except (OSError, ValueError, RecursionError):
        return {}


def _length_problems(values: Mapping[str, Any], context: int | None) -> list[Problem]:
    """Sequences longer than the context of the model."""
    from tutelage.plan.recipe import PHASES

    found = []
    for name, objective in PHASES.items():
        length = mapping(values["data/tokenize"][objective]).get("sequence_length")
        if context is not None and isinstance(length, int) and length > context:
            place = f"{name}.tokens.sequence_length"
            found.append(
                Problem(place, f"{length} is more than the model's context of {context}", f"choose {context} or less")
            )
    return found


def _layer_problems(tasks: Sequence[Planned], layers: int | None) -> list[Problem]:
    """Adapters on more layers than the model has."""
    found = []
    for task in tasks:
        wanted = mapping(mapping(task.values).get("lora")).get("last_layers") if task.step == "train/train" else None
        if layers is not None and _is_count(wanted) and wanted > layers:
            place = task.place("lora.last_layers")
            found.append(
                Problem(place, f"{wanted} is more than the model's {layers} layers", f"choose {layers} or less")
            )
    return found
