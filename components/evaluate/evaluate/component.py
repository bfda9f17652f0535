"""KFP face of evaluate/evaluate."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Metrics, Model, Output

from tutelage.step import image_of


@dsl.component(base_image=image_of("evaluate/evaluate"), install_kfp_package=False)
def evaluate(
    model: Input[Model],
    splits: Input[Dataset],
    suite: Input[Dataset],
    role: str,
    evaluation: dict,
    seed: int,
    scorecard: Output[Artifact],
    metrics: Output[Metrics],
) -> None:
    """Measure a model on held-out rows and on the suite.

    Args:
        model: The model to measure.
        splits: Rows of all phases; the held-out ones are measured.
        suite: Frozen evaluation items.
        role: baseline or candidate; names the task, changes nothing.
        evaluation: How much is measured (its keys suite and comparison are for acquire and compare).
        seed: Decides which rows are measured where a limit leaves some out.
        scorecard: Figures, and the per-item values beneath them.
        metrics: The figures, for the run's page.
    """
    from tutelage.runtimes import launch

    launch(
        "evaluate/evaluate",
        inputs={"model": model, "splits": splits, "suite": suite},
        outputs={"scorecard": scorecard},
        config={key: value for key, value in evaluation.items() if key not in ("suite", "comparison")} | {"seed": seed},
        label=f"evaluate-{role}",
        metrics=metrics,
    )
