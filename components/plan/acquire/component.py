"""KFP face of plan/acquire."""

from kfp import dsl
from kfp.dsl import Dataset, Model, Output

from tutelage.step import image_of


@dsl.component(base_image=image_of("plan/acquire"), install_kfp_package=False)
def acquire(base_model: dict, evaluation: dict, seed: int, model: Output[Model], suite: Output[Dataset]) -> None:
    """Bring in the base Model (safetensors, pickle refused) and the evaluation Suite (frozen items).

    Args:
        base_model: Where the model comes from: a pinned uri, or a shape to initialise.
        evaluation: Its section `suite` lists the evaluation tasks.
        seed: Of the first weights, where the model is initialised.
        model: Hugging Face folder with tokenizer and chat template.
        suite: Table of evaluation items.
    """
    from tutelage.runtimes import launch

    launch(
        "plan/acquire",
        inputs={},
        outputs={"model": model, "suite": suite},
        config={"base_model": base_model, "suite": evaluation.get("suite", []), "seed": seed},
    )
