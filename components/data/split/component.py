"""KFP face of data/split."""

from kfp import dsl
from kfp.dsl import Dataset, Input, Output

from tutelage.step import image_of


@dsl.component(base_image=image_of("data/split"), install_kfp_package=False)
def split(unique: Input[Dataset], suite: Input[Dataset], policy: dict, seed: int, splits: Output[Dataset]) -> None:
    """Hold out groups of rows and drop training rows that contain them or items of the Suite.

    Args:
        unique: Deduplicated rows of all phases.
        suite: Evaluation items; training must not contain them.
        policy: Its section `split` is read here.
        seed: Which groups are held out.
        splits: Rows, each in train or heldout.
    """
    from tutelage.runtimes import launch

    launch(
        "data/split",
        inputs={"unique": unique, "suite": suite},
        outputs={"splits": splits},
        config={**policy.get("split", {}), "seed": seed},
    )
