"""What one section of a recipe asks of another: sources for every phase, figures for every rule, rows to hold out,
lengths that fit.

Nothing of the world is looked at here; that is `surroundings`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from tutelage.errors import Problem


def problems(values: Mapping[str, Any], objectives: Sequence[str]) -> list[Problem]:
    """What does not fit together in a run that trains `objectives`. `values`: step → what its Config is built from."""
    found = _phase_problems(values["data/ingest"], objectives)
    found += _heldout_problems(values)
    found += _rule_problems(values)
    return found + _length_problems(values)


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


def _heldout_problems(values: Mapping[str, Any]) -> list[Problem]:
    """Phases whose sources' limits leave fewer rows than must be held out; without limits only the run can know."""
    from tutelage.step import load

    fewest = mapping(values["data/split"]).get(
        "minimum_heldout", load("data/split").Config.model_fields["minimum_heldout"].default
    )
    limits: dict[str, list[Any]] = {}
    for entry in entries(values["data/ingest"]["sources"]):
        limits.setdefault(str(entry.get("phase")), []).append(entry.get("limit"))
    found = []
    for phase, given in sorted(limits.items()):
        known = [limit for limit in given if _is_count(limit)]
        # split holds out at most half of a phase's rows.
        if _is_count(fewest) and len(known) == len(given) and sum(known) < 2 * fewest:
            message = (
                f"phase {phase} has at most {sum(known)} rows by its sources' limits; at most half may be held out, "
            )
            message += f"and {fewest} must be"
            hint = (
                f"raise the limits of sources with phase: {phase}, or set minimum_heldout to {sum(known) // 2} or less"
            )
            found.append(Problem("policy.split.minimum_heldout", message, hint))
    return found


def _is_count(value: Any) -> bool:
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


def _length_problems(values: Mapping[str, Any]) -> list[Problem]:
    """Sequences longer than the context of the model that will be initialised."""
    from tutelage.plan.recipe import PHASES

    shape = mapping(mapping(values["plan/acquire"]["base_model"]).get("initialise"))
    context = shape.get("context_length", 512) if shape else None
    found = []
    for name, objective in PHASES.items():
        length = mapping(values["data/tokenize"][objective]).get("sequence_length")
        if isinstance(context, int) and isinstance(length, int) and length > context:
            place = f"{name}.tokens.sequence_length"
            found.append(
                Problem(place, f"{length} is more than the model's context of {context}", f"choose {context} or less")
            )
    return found
