"""KFP face of data/tokenize."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Model, Output

from tutelage.step import image_of


@dsl.component(base_image=image_of("data/tokenize"), install_kfp_package=False)
def tokenize(
    splits: Input[Dataset],
    model: Input[Model],
    pretraining: dict,
    finetuning: dict,
    alignment: dict,
    tokens: Output[Dataset],
) -> None:
    """Turn the training rows of all phases into packed token ids.

    Args:
        splits: Leak-free rows, each in train or heldout.
        model: The base model; its tokenizer and chat template are used.
        pretraining: Section of continued pretraining; its `tokens` are read here.
        finetuning: Section of supervised fine-tuning; its `tokens` are read here.
        alignment: Section of preference alignment; its `tokens` are read here.
        tokens: Token ids by phase.
    """
    from tutelage.runtimes import launch

    launch(
        "data/tokenize",
        inputs={"splits": splits, "model": model},
        outputs={"tokens": tokens},
        config={
            "pretrain": pretraining.get("tokens", {}),
            "sft": finetuning.get("tokens", {}),
            "dpo": alignment.get("tokens", {}),
        },
    )
