"""KFP face of plan/check."""

from kfp import dsl
from kfp.dsl import HTML, Output

from tutelage.step import image_of


@dsl.component(base_image=image_of("plan/check"), install_kfp_package=False)
def check(
    pipeline: str,
    sources: list,
    base_model: dict,
    pretraining: dict,
    finetuning: dict,
    alignment: dict,
    evaluation: dict,
    policy: dict,
    seed: int,
    plan: Output[HTML],
) -> None:
    """Check every config, source, licence, policy and budget of the run; show the effective plan as a page.

    Args:
        pipeline: Name of the pipeline.
        sources: Sources of all phases.
        base_model: Where the model comes from.
        pretraining: Section of continued pretraining; empty where the pipeline has none.
        finetuning: Section of supervised finetuning; empty where the pipeline has none.
        alignment: Section of preference alignment; empty where the pipeline has none.
        evaluation: Suite, limits and comparison.
        policy: Curation, deduplication, split, release and deployment.
        seed: Of everything drawn at random.
        plan: The effective plan.
    """
    from tutelage.runtimes import launch

    launch(
        "plan/check",
        inputs={},
        outputs={"plan": plan},
        config={
            "pipeline": pipeline,
            "parameters": {
                "sources": sources,
                "base_model": base_model,
                "pretraining": pretraining,
                "finetuning": finetuning,
                "alignment": alignment,
                "evaluation": evaluation,
                "policy": policy,
                "seed": seed,
            },
        },
    )
