"""Preference alignment alone: a model that is there already learns which of two answers is preferred.

    tutelage run recipes/preference_alignment.yaml

The defaults of the run form are that recipe. Everything around training is as in every other pipeline: `pipelines/line.py`.
"""

from kfp import dsl

from pipelines.line import defaults, line

PREFERENCES = defaults("preference_alignment")


@dsl.pipeline(
    name="preference-alignment",
    description="From licensed pairs of answers to a probed endpoint: preference alignment, evaluation, release gate.",
)
def preference_alignment(
    sources: list = PREFERENCES["sources"],
    base_model: dict = PREFERENCES["base_model"],
    alignment: dict = PREFERENCES["alignment"],
    evaluation: dict = PREFERENCES["evaluation"],
    policy: dict = PREFERENCES["policy"],
    seed: int = PREFERENCES["seed"],
) -> None:
    """Wire preference alignment alone."""
    line("preference_alignment", sources, base_model, {"alignment": alignment}, evaluation, policy, seed)
