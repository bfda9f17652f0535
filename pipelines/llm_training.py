"""All phases: continued pretraining, supervised finetuning, preference alignment, each starting from the one before.

    tutelage run recipes/tiny.yaml

The defaults of the run form are the tiny recipe, so that a first run works with nothing typed.
"""

from kfp import dsl

from pipelines.line import defaults, line

TINY = defaults("tiny")


@dsl.pipeline(
    name="llm-training",
    description="From licensed sources to a probed endpoint: pretraining, finetuning, alignment, evaluation, release gate.",
)
def llm_training(
    sources: list = TINY["sources"],
    base_model: dict = TINY["base_model"],
    pretraining: dict = TINY["pretraining"],
    finetuning: dict = TINY["finetuning"],
    alignment: dict = TINY["alignment"],
    evaluation: dict = TINY["evaluation"],
    policy: dict = TINY["policy"],
    seed: int = TINY["seed"],
) -> None:
    """Wire every phase."""
    phases = {"pretraining": pretraining, "finetuning": finetuning, "alignment": alignment}
    line("llm_training", sources, base_model, phases, evaluation, policy, seed)
