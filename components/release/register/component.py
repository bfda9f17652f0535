"""KFP face of release/register."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from tutelage.step import image_of


@dsl.component(base_image=image_of("release/register"), install_kfp_package=False)
def register(
    verdict: Input[Artifact],
    model: Input[Model],
    splits: Input[Dataset],
    candidate: Input[Artifact],
    comparison: Input[Artifact],
    policy: dict,
    registration: Output[Artifact],
) -> None:
    """Register a released model, with model card and checksums.

    Args:
        verdict: What release/decide signed.
        model: The released model.
        splits: The data it was trained on.
        candidate: Its scorecard.
        comparison: Candidate against baseline.
        policy: The run's policy; its section `release` applies.
        registration: Version in the registry, model card, SHA256SUMS.
    """
    from tutelage.runtimes import launch

    launch(
        "release/register",
        inputs={
            "verdict": verdict,
            "model": model,
            "splits": splits,
            "candidate": candidate,
            "comparison": comparison,
        },
        outputs={"registration": registration},
        config=policy.get("release", {}),
    )
