"""Continued pretraining alone: a model that is there already reads on, in the language of a domain.

    tutelage run recipes/domain_language.yaml

The defaults of the run form are that recipe. Everything around training is as in every other pipeline: `pipelines/line.py`.
"""

from kfp import dsl

from pipelines.line import defaults, line

DOMAIN_LANGUAGE = defaults("domain_language")


@dsl.pipeline(
    name="continued-pretraining",
    description="From licensed texts to a probed endpoint: continued pretraining, evaluation, release gate.",
)
def continued_pretraining(
    sources: list = DOMAIN_LANGUAGE["sources"],
    base_model: dict = DOMAIN_LANGUAGE["base_model"],
    pretraining: dict = DOMAIN_LANGUAGE["pretraining"],
    evaluation: dict = DOMAIN_LANGUAGE["evaluation"],
    policy: dict = DOMAIN_LANGUAGE["policy"],
    seed: int = DOMAIN_LANGUAGE["seed"],
) -> None:
    """Wire continued pretraining alone."""
    line("continued_pretraining", sources, base_model, {"pretraining": pretraining}, evaluation, policy, seed)
