"""The line: how components are joined, for any choice of training phases. Every pipeline is this function with its phases.

    check ─┬─ acquire ──────────────┬────────────┬─ train pretrain ─ train sft ─ train dpo ─┬─ evaluate candidate ─┐
           └─ ingest ─ curate ─ deduplicate ─ split ─ tokenize ─┘                           evaluate baseline ─ compare
                                                                       decide ─ enforce ─ register ─ deploy

Which phases there are is fixed when the pipeline is compiled: no `dsl.If`, which evaluates to False in silence where it
cannot compare. `decide` always writes its verdict and page; `enforce` fails closed, and register and deploy verify again.
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
from tutelage.step import repository_root

#: What the run form shows before anything is typed: the tiny recipe.
DEFAULTS: Mapping[str, Any] = yaml.safe_load((repository_root() / "recipes" / "tiny.yaml").read_text())["parameters"]
#: Run parameter → training objective, in the order in which phases follow each other.
PHASES = {"pretraining": "pretrain", "finetuning": "sft", "alignment": "dpo"}


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
    with dsl.ExitHandler(clean(), name="line"):
        planned = check(
            pipeline=pipeline, sources=sources, base_model=base_model, evaluation=evaluation, policy=policy, seed=seed,
            **sections,
        )  # fmt: skip

        base = acquire(base_model=base_model, evaluation=evaluation, seed=seed).after(planned)
        documents = ingest(sources=sources).after(planned).outputs["documents"]
        curated = curate(documents=documents, policy=policy).outputs["curated"]
        unique = deduplicate(curated=curated, policy=policy).outputs["unique"]
        suite = base.outputs["suite"]
        splits = split(unique=unique, suite=suite, policy=policy, seed=seed).outputs["splits"]
        tokens = tokenize(splits=splits, model=base.outputs["model"], **sections).outputs["tokens"]

        model = base.outputs["model"]
        for parameter, section in training.items():
            model = train(tokens=tokens, base=model, objective=PHASES[parameter], training=section, seed=seed).outputs[
                "trained"
            ]

        scorecards = {
            role: evaluate(
                model=evaluated, splits=splits, suite=suite, role=role, evaluation=evaluation, seed=seed
            ).outputs["scorecard"]
            for role, evaluated in (("baseline", base.outputs["model"]), ("candidate", model))
        }
        comparison = compare(evaluation=evaluation, seed=seed, **scorecards).outputs["comparison"]

        verdict = decide(
            documents=documents, curated=curated, unique=unique, splits=splits, tokens=tokens, suite=suite, model=model,
            comparison=comparison, policy=policy, **scorecards,
        ).outputs["verdict"]  # fmt: skip
        decided = {
            "verdict": verdict, "model": model, "splits": splits, "candidate": scorecards["candidate"],
            "comparison": comparison, "policy": policy,
        }  # fmt: skip
        gate = enforce(**decided)
        registration = register(**decided).after(gate).outputs["registration"]
        deploy(suite=suite, registration=registration, **decided).after(gate)
