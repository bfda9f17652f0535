"""KFP face of train/train."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from tutelage.step import image_of


@dsl.component(base_image=image_of("train/train"), install_kfp_package=False)
def train(
    tokens: Input[Dataset], base: Input[Model], objective: str, training: dict, seed: int, trained: Output[Model]
) -> None:
    """Train a model on one phase's tokens.

    Args:
        tokens: Token ids by phase.
        base: The model to start from.
        objective: pretrain, sft or dpo.
        training: Section of that phase: epochs, batch, optimiser, schedule, lora, budget and so on.
        seed: Order of the data, dropout and adapters' first weights.
        trained: The trained model, safetensors with tokenizer and chat template.
    """
    from tutelage.runtimes import launch

    section = {key: value for key, value in training.items() if key != "tokens"}
    launch(
        "train/train",
        inputs={"tokens": tokens, "base": base},
        outputs={"trained": trained},
        config={**section, "objective": objective, "seed": seed},
        label=f"train-{objective}",
    )
