"""KFP face of release/enforce."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model

from tutelage.step import image_of


@dsl.component(base_image=image_of("release/enforce"), install_kfp_package=False)
def enforce(
    verdict: Input[Artifact],
    model: Input[Model],
    splits: Input[Dataset],
    candidate: Input[Artifact],
    comparison: Input[Artifact],
    policy: dict,
) -> None:
    """Fail unless the verdict is a trusted PASS for exactly these inputs.

    Args:
        verdict: What release/decide signed.
        model: The candidate for release.
        splits: The data it was trained on.
        candidate: Its scorecard.
        comparison: Candidate against baseline.
        policy: The run's policy; its section `release` applies.
    """
    from tutelage.runtimes import launch

    launch(
        "release/enforce",
        inputs={
            "verdict": verdict,
            "model": model,
            "splits": splits,
            "candidate": candidate,
            "comparison": comparison,
        },
        outputs={},
        config=policy.get("release", {}),
    )
