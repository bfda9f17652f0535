"""KFP face of data/deduplicate."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from tutelage.step import image_of


@dsl.component(base_image=image_of("data/deduplicate"), install_kfp_package=False)
def deduplicate(curated: Input[Dataset], policy: dict, unique: Output[Dataset]) -> None:
    """Remove exact copies and near-duplicates.

    Args:
        curated: Rows that may be trained on.
        policy: Its section `deduplication` is read here.
        unique: One row of each group of copies.
    """
    from tutelage.runtimes import launch

    launch(
        "data/deduplicate",
        inputs={"curated": curated},
        outputs={"unique": unique},
        config=policy.get("deduplication", {}),
    )
