"""The line: how components are joined, for any choice of training phases. Every pipeline is this function with its phases.

    check ─┬─ acquire ──────────────┬────────────┬─ train pretrain ─ train sft ─ train dpo ─┬─ evaluate candidate ─┐
           └─ ingest ─ curate ─ deduplicate ─ split ─ tokenize ─┘                           evaluate baseline ─ compare
                                                                       decide ─ enforce ─ register ─ deploy

Which phases there are is fixed when the pipeline is compiled: no `dsl.If`, which evaluates to False in silence where it
cannot compare. `decide` always writes its verdict and page; `enforce` fails closed, and register and deploy verify again.
KFP's cache is off for every task: finished work is found by step key, and a gate is never skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from kfp import dsl

from components.data.curate.component import curate
from components.data.deduplicate.component import deduplicate
from components.data.ingest.component import ingest
from components.data.split.component import split
from components.data.tokenize.component import tokenize
from components.evaluate.compare.component import compare
from components.evaluate.evaluate.component import evaluate
from components.plan.acquire.component import acquire
from components.plan.check.component import check
from components.plan.clean.component import clean
from components.release.decide.component import decide
from components.release.enforce.component import enforce
from components.release.register.component import register
from components.serve.deploy.component import deploy
from components.train.train.component import train
from pipelines.platform import dress
from tutelage.step import describe, repository_root, step_names


def defaults(recipe: str) -> Mapping[str, Any]:
    """The values of `recipe`: what the run form shows before anything is typed, so that a first run works as it stands."""
    file = repository_root() / "recipes" / f"{recipe}.yaml"
    return dict(yaml.safe_load(file.read_text(encoding="utf-8"))["parameters"])


#: What a pod needs that only starts a job and follows it; the job's own pods get what component.yaml says.
LAUNCHER = {"requests": {"cpu": "250m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}}

#: Run parameter → training objective, in the order in which phases follow each other; plan.recipe holds the same.
PHASES = {"pretraining": "pretrain", "finetuning": "sft", "alignment": "dpo"}


def task(component: Any, **arguments: Any) -> Any:
    """A task of `component` with KFP's cache off, and in its pod what its component.yaml and manifests/mounts.yaml say."""
    made = component(**arguments).set_caching_options(False)
    step = next(name for name in step_names() if name.endswith(f"/{component.name}"))
    description = describe(step)
    resources = description.resources if description.runtime == "process" else LAUNCHER
    for kind, set_cpu, set_memory in (
        ("requests", made.set_cpu_request, made.set_memory_request),
        ("limits", made.set_cpu_limit, made.set_memory_limit),
    ):
        set_cpu(resources[kind]["cpu"])
        set_memory(resources[kind]["memory"])
    return dress(made, description)


def line(
    pipeline: str,
    sources: Any,
    base_model: Any,
    training: Mapping[str, Any],
    evaluation: Any,
    policy: Any,
    seed: Any,
) -> None:
    """Wire the whole line. `training` maps the run parameters of the chosen phases to their values."""
    sections: dict[str, Any] = {name: training.get(name, {}) for name in PHASES}
    with dsl.ExitHandler(task(clean), name="line"):
        planned = task(
            check, pipeline=pipeline, sources=sources, base_model=base_model, evaluation=evaluation, policy=policy,
            seed=seed, **sections,
        )  # fmt: skip

        base = task(acquire, base_model=base_model, evaluation=evaluation, seed=seed).after(planned)
        documents = task(ingest, sources=sources).after(planned).outputs["documents"]
        curated = task(curate, documents=documents, policy=policy).outputs["curated"]
        unique = task(deduplicate, curated=curated, policy=policy).outputs["unique"]
        suite = base.outputs["suite"]
        splits = task(split, unique=unique, suite=suite, policy=policy, seed=seed).outputs["splits"]
        tokens = task(tokenize, splits=splits, model=base.outputs["model"], **sections).outputs["tokens"]

        model = base.outputs["model"]
        for parameter, section in training.items():
            model = task(
                train, tokens=tokens, base=model, objective=PHASES[parameter], training=section, seed=seed
            ).outputs["trained"]

        scorecards = {
            role: task(
                evaluate, model=evaluated, splits=splits, suite=suite, role=role, evaluation=evaluation, seed=seed
            ).outputs["scorecard"]
            for role, evaluated in (("baseline", base.outputs["model"]), ("candidate", model))
        }
        comparison = task(compare, evaluation=evaluation, seed=seed, **scorecards).outputs["comparison"]

        verdict = task(
            decide, documents=documents, curated=curated, unique=unique, splits=splits, tokens=tokens, suite=suite,
            model=model, comparison=comparison, policy=policy, **scorecards,
        ).outputs["verdict"]  # fmt: skip
        decided = {
            "verdict": verdict, "model": model, "splits": splits, "candidate": scorecards["candidate"],
            "comparison": comparison, "policy": policy,
        }  # fmt: skip
        gate = task(enforce, **decided)
        registration = task(register, **decided).after(gate).outputs["registration"]
        task(deploy, suite=suite, registration=registration, **decided).after(gate)
