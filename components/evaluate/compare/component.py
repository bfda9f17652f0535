"""KFP face of evaluate/compare."""

from kfp import dsl
from kfp.dsl import Artifact, Input, Metrics, Output

from tutelage.step import image_of


@dsl.component(base_image=image_of("evaluate/compare"), install_kfp_package=False)
def compare(
    baseline: Input[Artifact],
    candidate: Input[Artifact],
    evaluation: dict,
    seed: int,
    comparison: Output[Artifact],
    metrics: Output[Metrics],
) -> None:
    """Compare a candidate's scorecard with the baseline's, item by item.

    Args:
        baseline: Scorecard of the model that training started from.
        candidate: Scorecard of the trained model.
        evaluation: Its key comparison says how sure a verdict must be.
        seed: Seed of the resampling.
        comparison: Difference, interval and verdict of each figure.
        metrics: Differences and counts of verdicts, for the run's page.
    """
    from tutelage.runtimes import launch

    launch(
        "evaluate/compare",
        inputs={"baseline": baseline, "candidate": candidate},
        outputs={"comparison": comparison},
        config={**evaluation.get("comparison", {}), "seed": seed},
        metrics=metrics,
    )
