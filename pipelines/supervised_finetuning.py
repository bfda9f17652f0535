"""Supervised finetuning alone: a model that is there already learns from examples how a task is done.

    tutelage run recipes/code_assistant.yaml

The defaults of the run form are that recipe. Everything around training is as in every other pipeline: `pipelines/line.py`.
"""

from kfp import dsl

from pipelines.line import defaults, line

CODE_ASSISTANT = defaults("code_assistant")


@dsl.pipeline(
    name="supervised-finetuning",
    description="From licensed examples to a probed endpoint: supervised finetuning, evaluation, release gate.",
)
def supervised_finetuning(
    sources: list = CODE_ASSISTANT["sources"],
    base_model: dict = CODE_ASSISTANT["base_model"],
    finetuning: dict = CODE_ASSISTANT["finetuning"],
    evaluation: dict = CODE_ASSISTANT["evaluation"],
    policy: dict = CODE_ASSISTANT["policy"],
    seed: int = CODE_ASSISTANT["seed"],
) -> None:
    """Wire supervised finetuning alone."""
    line("supervised_finetuning", sources, base_model, {"finetuning": finetuning}, evaluation, policy, seed)
