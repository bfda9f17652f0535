"""KFP face of serve/deploy."""

from kfp import dsl
from kfp.dsl import Artifact, Dataset, Input, Model, Output

from tutelage.step import image_of


@dsl.component(base_image=image_of("serve/deploy"), install_kfp_package=False)
def deploy(
    verdict: Input[Artifact],
    model: Input[Model],
    splits: Input[Dataset],
    candidate: Input[Artifact],
    comparison: Input[Artifact],
    suite: Input[Dataset],
    registration: Input[Artifact],
    policy: dict,
    deployment: Output[Artifact],
) -> None:
    """Serve a released model, probe the endpoint and report.

    Args:
        verdict: What release/decide signed.
        model: The released model.
        splits: The data it was trained on.
        candidate: Its scorecard.
        comparison: Candidate against baseline.
        suite: Evaluation items; its harmful prompts are asked.
        registration: Where the model stands in the registry.
        policy: The run's policy; its sections `release` and `deployment` apply.
        deployment: Result of every probe.
    """
    from tutelage.runtimes import launch

    launch(
        "serve/deploy",
        inputs={
            "verdict": verdict,
            "model": model,
            "splits": splits,
            "candidate": candidate,
            "comparison": comparison,
            "suite": suite,
            "registration": registration,
        },
        outputs={"deployment": deployment},
        config={"release": policy.get("release", {}), "probes": policy.get("deployment", {})},
    )
