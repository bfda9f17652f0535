"""All phases: continued pretraining, supervised finetuning, preference alignment, each starting from the one before.

    tutelage run recipes/tiny.yaml

The defaults of the run form are the tiny recipe, so that a first run works with nothing typed.
"""

from kfp import dsl

from pipelines.line import DEFAULTS, line


@dsl.pipeline(
    name="llm-training",
    description="From licensed sources to a probed endpoint: pretraining, finetuning, alignment, evaluation, release gate.",
)
def llm_training(
    sources: list = DEFAULTS["sources"],
    base_model: dict = DEFAULTS["base_model"],
    pretraining: dict = DEFAULTS["pretraining"],
    finetuning: dict = DEFAULTS["finetuning"],
    alignment: dict = DEFAULTS["alignment"],
    evaluation: dict = DEFAULTS["evaluation"],
    policy: dict = DEFAULTS["policy"],
    seed: int = DEFAULTS["seed"],
) -> None:
    """Wire every phase."""
    phases = {"pretraining": pretraining, "finetuning": finetuning, "alignment": alignment}
    line("llm_training", sources, base_model, phases, evaluation, policy, seed)
