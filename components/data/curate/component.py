"""KFP face of data/curate."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from tutelage.step import image_of


@dsl.component(base_image=image_of("data/curate"), install_kfp_package=False)
def curate(documents: Input[Dataset], policy: dict, curated: Output[Dataset]) -> None:
    """Apply the licence, quality and personal-data policy to documents.

    Args:
        documents: Rows of all phases.
        policy: Its section `curation` is read here.
        curated: Rows that may be trained on, personal data masked.
    """
    from tutelage.runtimes import launch

    launch(
        "data/curate",
        inputs={"documents": documents},
        outputs={"curated": curated},
        config=policy.get("curation", {}),
    )
