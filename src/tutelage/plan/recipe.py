"""What a run will ask of every step, and everything that is wrong with it, known before anything starts.

    python -c "from tutelage.plan.recipe import problems; print(*problems('llm_training', {'seed': 7}), sep='\\n')"

`planned` mirrors the bodies of the component.py files: which part of which run parameter becomes which step's Config. Mistakes
are told in the words of the recipe (`policy.split.heldout_fraction`), not of the step that would trip over them.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tutelage.config import integral_floats_to_ints, problems_of
from tutelage.errors import InvalidInput, Problem
from tutelage.plan.surroundings import Surroundings, is_within
from tutelage.step import describe, load
from tutelage.step.resources import KEY, changed, without_resources

#: Training section of a run → objective, in the order in which phases follow each other.
PHASES = {"pretraining": "pretrain", "finetuning": "sft", "alignment": "dpo"}
#: Pipeline → its training sections: what each would train. Which of them can be run, the files in pipelines/ say; a recipe that
#: names one without a file is refused when it is read (`orchestrate.recipes`).
PIPELINES: Mapping[str, tuple[str, ...]] = {
    "llm_training": tuple(PHASES),
    "continued_pretraining": ("pretraining",),
    "supervised_finetuning": ("finetuning",),
    "preference_alignment": ("alignment",),
}
#: Run parameter that every pipeline takes → what it must be.
COMMON: Mapping[str, type] = {"sources": list, "base_model": dict, "evaluation": dict, "policy": dict, "seed": int}
POLICY_SECTIONS = ("curation", "deduplication", "split", "release", "deployment")
TOO_FEW = re.compile(r"\w+ should have at least \d+ items? after validation")
TYPE_NAMES = {list: "a list", dict: "a mapping", int: "a whole number"}


@dataclass(frozen=True)
class Planned:
    """One task of a pipeline and the values its Config will be built from."""

    label: str
    """What the task is called: train-sft."""
    step: str
    """stage/verb."""
    values: Any
    """What component.py hands to launch() as config; a mapping, unless the recipe is wrong."""
    places: Mapping[str, str] = field(default_factory=dict)
    """Field of the Config → where it stands in the recipe; "" for all others."""
    siblings: tuple[str, ...] = ()
    """Keys that the recipe's section takes besides, for other steps."""

    def place(self, path: str) -> str:
        """Where a path in the Config (`suite[0].uri`) stands in the recipe (`evaluation.suite[0].uri`)."""
        first = re.split(r"[.\[]", path, maxsplit=1)[0]
        if first in self.places and first:
            return self.places[first] + path[len(first) :]
        section = self.places.get("", "")
        return f"{section}.{path}" if section and path else section or path


def planned(pipeline: str, parameters: Mapping[str, Any]) -> list[Planned]:
    """Every task of `pipeline` in running order, but for `check` itself. Parts of a wrong type count as absent."""
    given = {name: parameters[name] for name in parameters if isinstance(parameters[name], COMMON.get(name, dict))}
    seed = parameters.get("seed", 0)
    evaluation, policy = given.get("evaluation", {}), given.get("policy", {})
    sections = {name: given.get(name, {}) if name in PIPELINES[pipeline] else {} for name in PHASES}
    return [
        Planned(
            "acquire",
            "plan/acquire",
            {"base_model": given.get("base_model", {}), "suite": evaluation.get("suite", []), "seed": seed},
            {"suite": "evaluation.suite"},
        ),
        Planned("ingest", "data/ingest", {"sources": given.get("sources", [])}),
        Planned("curate", "data/curate", policy.get("curation", {}), {"": "policy.curation"}),
        Planned("deduplicate", "data/deduplicate", policy.get("deduplication", {}), {"": "policy.deduplication"}),
        Planned("split", "data/split", _with(policy.get("split", {}), seed=seed), _seeded("policy.split")),
        Planned(
            "tokenize",
            "data/tokenize",
            {PHASES[name]: section.get("tokens", {}) for name, section in sections.items()},
            {objective: f"{name}.tokens" for name, objective in PHASES.items()},
        ),
        *(_train(name, sections[name], seed) for name in PIPELINES[pipeline]),
        *(_evaluate(role, evaluation, seed) for role in ("baseline", "candidate")),
        Planned(
            "compare",
            "evaluate/compare",
            _with(evaluation.get("comparison", {}), seed=seed),
            _seeded("evaluation.comparison"),
        ),
        *(
            Planned(verb, f"release/{verb}", policy.get("release", {}), {"": "policy.release"})
            for verb in ("decide", "enforce", "register")
        ),
        Planned(
            "deploy",
            "serve/deploy",
            {"release": policy.get("release", {}), "probes": policy.get("deployment", {})},
            {"release": "policy.release", "probes": "policy.deployment"},
        ),
    ]


def _with(section: Any, **more: Any) -> Any:
    return {**section, **more} if isinstance(section, Mapping) else section


def _seeded(section: str) -> dict[str, str]:
    return {"": section, "seed": "seed"}


def _train(name: str, section: Mapping[str, Any], seed: Any) -> Planned:
    values = {key: value for key, value in section.items() if key != "tokens"}
    return Planned(
        f"train-{PHASES[name]}",
        "train/train",
        values | {"objective": PHASES[name], "seed": seed},
        _seeded(name) | {"objective": f"{name}.objective"},
        ("tokens",),
    )


def _evaluate(role: str, evaluation: Mapping[str, Any], seed: Any) -> Planned:
    values = {key: value for key, value in evaluation.items() if key not in ("suite", "comparison")}
    return Planned(
        f"evaluate-{role}",
        "evaluate/evaluate",
        values | {"seed": seed},
        _seeded("evaluation"),
        ("suite", "comparison"),
    )


def problems(
    pipeline: str, parameters: Mapping[str, Any], *, surroundings: Surroundings | None = None
) -> list[Problem]:
    """Everything that is wrong with a run, each with a hint where there is something to do; empty when it can start.

    Looks at every Config, at what sources, model and suite really are (wheels are fetched into the cache, since the run
    needs them anyway; hf:// is believed until the run), and at whatever of the machine `surroundings` names.
    """
    from tutelage.plan import surroundings as around

    if pipeline not in PIPELINES:
        near = difflib.get_close_matches(pipeline, PIPELINES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"accepted: {', '.join(PIPELINES)}"
        return [Problem("pipeline", f"unknown pipeline {pipeline!r}", hint)]
    parameters = integral_floats_to_ints(parameters)
    found = _shape_problems(pipeline, parameters)
    misshapen = [problem.where for problem in found]
    tasks = planned(pipeline, parameters)
    for task in tasks:
        found += [
            item for item in config_problems(task) if not any(is_within(item.where, place) for place in misshapen)
        ]
    wrong = [problem.where for problem in found]
    found += around.problems(
        tasks, [PHASES[name] for name in PIPELINES[pipeline]], wrong, surroundings or Surroundings()
    )
    return list(dict.fromkeys(found))


def _shape_problems(pipeline: str, parameters: Mapping[str, Any]) -> list[Problem]:
    """Unknown parameters, unknown policy sections, and parameters of a wrong type."""
    known: dict[str, type] = {**COMMON, **dict.fromkeys(PIPELINES[pipeline], dict)}
    # The component hands over every training section, empty where the pipeline has none of the kind.
    given = [name for name in parameters if not (name in PHASES and parameters[name] == {})]
    found = [_unknown(name, name, list(known)) for name in given if name not in known]
    for name, expected in known.items():
        value = parameters.get(name)
        if name in parameters and (not isinstance(value, expected) or isinstance(value, bool)):
            found.append(Problem(name, f"takes {TYPE_NAMES[expected]}, got {type(value).__name__}"))
    policy = parameters.get("policy")
    if isinstance(policy, Mapping):
        found += [_unknown(f"policy.{name}", name, POLICY_SECTIONS) for name in policy if name not in POLICY_SECTIONS]
    return found


def _unknown(where: str, key: str, known: Sequence[str]) -> Problem:
    near = difflib.get_close_matches(str(key), known, n=1)
    return Problem(
        where, f"unknown key {key!r}", f"did you mean {near[0]!r}?" if near else f"accepted: {', '.join(known)}"
    )


def _without_resources(task: Planned) -> tuple[Any, list[Problem]]:
    """The values for the Config, and what is wrong with a run's `resources`, which steps that run as jobs take beside them."""
    description = describe(task.step)
    if not isinstance(task.values, Mapping):
        return task.values, []
    if description.runtime == "process":
        if KEY not in task.values or KEY in load(task.step).Config.model_fields:
            return task.values, []
        kept = {name: value for name, value in task.values.items() if name != KEY}
        message = f"{task.step} runs in Kubeflow's own pod, whose resources are fixed when the pipeline is compiled"
        hint = f"change them in components/{task.step}/component.yaml, then `tutelage compile`"
        return kept, [Problem(task.place(KEY), message, hint)]
    values, changes = without_resources(task.values)
    try:
        if changes:
            needs = changed(description.needs, changes, where=task.place(KEY))
            if description.runtime == "torch":
                needs.training_shape(workers=1, processes=1)
    except InvalidInput as error:
        return values, [Problem(task.place(KEY), error.message, error.hint)]
    return values, []


def config_problems(task: Planned) -> list[Problem]:
    """Every mistake in one task's Config, in the words of the recipe."""
    config = load(task.step).Config
    values, found = _without_resources(task)
    told = problems_of(config, values)
    for problem in told:
        where = task.place(problem.where)
        if TOO_FEW.match(problem.message) and any(item.where.startswith(f"{problem.where}[") for item in told):
            continue  # pydantic counts the entries that are right, and all others are told of one by one
        if problem.message.startswith("unknown key") and not re.search(r"[.\[]", problem.where):
            # The section is shared: its other keys are accepted too, those that the pipeline itself fills in are not.
            accepted = [name for name in config.model_fields if name not in task.places] + list(task.siblings)
            found.append(_unknown(where, problem.where, accepted))
        else:
            found.append(Problem(where, problem.message, problem.hint))
    return found
