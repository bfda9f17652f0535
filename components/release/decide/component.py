"""KFP face of release/decide."""

from kfp import dsl
from kfp.dsl import HTML, Artifact, Dataset, Input, Model, Output

from tutelage.step import image_of


@dsl.component(base_image=image_of("release/decide"), install_kfp_package=False)
def decide(
    documents: Input[Dataset],
    curated: Input[Dataset],
    unique: Input[Dataset],
    splits: Input[Dataset],
    tokens: Input[Dataset],
    suite: Input[Dataset],
    model: Input[Model],
    baseline: Input[Artifact],
    candidate: Input[Artifact],
    comparison: Input[Artifact],
    policy: dict,
    verdict: Output[Artifact],
    page: Output[HTML],
) -> None:
    """Weigh everything on record against the release policy; always write a verdict and the release page.

    Args:
        documents: Rows as read from the sources.
        curated: Rows after licence, quality and personal-data policy.
        unique: Rows after removal of duplicates.
        splits: Training and held-out rows.
        tokens: What the model was trained on.
        suite: Evaluation items.
        model: The candidate for release.
        baseline: Scorecard of the model that training began with.
        candidate: Scorecard of the candidate.
        comparison: Candidate against baseline, with intervals.
        policy: The run's policy; its section `release` applies.
        verdict: The signed verdict, PASS or FAIL.
        page: The release page.
    """
    from tutelage.runtimes import launch

    launch(
        "release/decide",
        inputs={
            "documents": documents,
            "curated": curated,
            "unique": unique,
            "splits": splits,
            "tokens": tokens,
            "suite": suite,
            "model": model,
            "baseline": baseline,
            "candidate": candidate,
            "comparison": comparison,
        },
        outputs={"verdict": verdict, "page": page},
        config=policy.get("release", {}),
    )
