"""KFP face of plan/clean."""

from kfp import dsl

from tutelage.step import image_of


@dsl.component(base_image=image_of("plan/clean"), install_kfp_package=False)
def clean() -> None:
    """Stop what a run left running. The exit handler of every pipeline."""
    from tutelage.runtimes import launch

    launch("plan/clean", inputs={}, outputs={}, config={})
